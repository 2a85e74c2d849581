//! How a cluster is born, and who belongs to it (PROTOCOL 2.7). How nodes come and go is in `change`.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use matins_core::id::ClusterId;
use matins_core::state::Settings;
use rand::Rng as _;

use super::consensus::Consensus;
use super::error::InitError;
use super::types::Members;
use crate::system;

/// How long a new cluster may take to be ready.
const INIT_WITHIN: Duration = Duration::from_secs(10);

impl Consensus {
    /// Makes a cluster of this node alone (PROTOCOL 2.7), and answers with its id when it is ready.
    pub async fn init(&self, settings: Settings) -> Result<u64, InitError> {
        let inner = self.inner();
        let failed = |error: &dyn std::fmt::Display| InitError::Failed(error.to_string());
        if let Some(cluster) = inner.dir.marker().cluster {
            return Err(InitError::Member { cluster: cluster.0 });
        }
        // Zero stands for no cluster on the wire.
        let cluster = system::random().random_range(1..=u64::MAX);
        *inner.init.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        inner.links.set_cluster(cluster);
        let alone = BTreeMap::from([(inner.node.0, inner.member.clone())]);
        inner.raft.initialize(alone).await.map_err(|error| failed(&error))?;
        inner.dir.join(ClusterId(cluster)).map_err(|error| failed(&error))?;
        inner.dir.raise_level(inner.level_max.into()).map_err(|error| failed(&error))?;
        let mut leader = self.leader();
        let ready = leader.wait_for(|view| view.leading.is_some());
        match tokio::time::timeout(INIT_WITHIN, ready).await {
            Ok(Ok(_)) => Ok(cluster),
            Ok(Err(_)) | Err(_) => Err(InitError::NotReady),
        }
    }

    /// Who belongs to the cluster, by the newest membership in this node's log.
    pub fn members(&self) -> Members {
        self.inner().members()
    }
}
