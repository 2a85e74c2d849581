//! Connections to the other nodes: four each, so that a heartbeat or a read round never waits behind bulk data or
//! what clients ask (PROTOCOL 2.6).
//!
//! A connection is made when it is first used and again when it broke; nothing here retries a call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matins_core::id::NodeId;
use matins_proto::v1;
use matins_proto::v1::peer_client::PeerClient;
use tokio::runtime::Handle;
use tonic::transport::{Channel, Endpoint};

use crate::system::connect_lazy;

/// The largest message between nodes: an entry of 1 MiB and its frame fit many times.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// Blobs and snapshots go in parts of this size.
pub(crate) const PART_BYTES: usize = 256 << 10;

/// The connections to one node. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Votes, heartbeats, read rounds and status.
    pub(crate) control: PeerClient<Channel>,
    /// Commands for the leader, as many and as large as clients ask.
    pub(crate) commands: PeerClient<Channel>,
    /// Records.
    pub(crate) append: PeerClient<Channel>,
    /// Snapshots and blobs.
    pub(crate) bulk: PeerClient<Channel>,
}

impl Link {
    /// `address` is host and port.
    pub(crate) fn new(address: &str, connect: Duration) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(connect)
            .tcp_nodelay(true)
            // A peer whose machine is gone sends no RST: without these a call would hang until TCP gives up.
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true);
        let client = || {
            PeerClient::new(connect_lazy(&endpoint))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX)
        };
        Ok(Self { control: client(), commands: client(), append: client(), bulk: client() })
    }
}

/// All connections of this node. Cheap to clone; all clones are the same connections.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The cluster that this node belongs to; 0 before it belongs to one.
    cluster: AtomicU64,
    connect: Duration,
    /// Where connections live, whoever uses them first: threads that clients press on are no place for a heartbeat.
    runtime: Handle,
    by_address: Mutex<HashMap<String, Link>>,
}

impl Links {
    /// Connections that live in the runtime that this is called in.
    pub(crate) fn new(connect: Duration) -> Self {
        let (by_address, runtime) = (Mutex::new(HashMap::new()), Handle::current());
        Self { inner: Arc::new(Inner { cluster: AtomicU64::new(0), connect, runtime, by_address }) }
    }

    /// The cluster that this node belongs to.
    pub(crate) fn cluster(&self) -> Option<u64> {
        Some(self.inner.cluster.load(Ordering::Acquire)).filter(|cluster| *cluster != 0)
    }

    pub(crate) fn set_cluster(&self, cluster: u64) {
        self.inner.cluster.store(cluster, Ordering::Release);
    }

    /// Who is meant by a message to `node`.
    pub(crate) fn address_to(&self, node: NodeId) -> v1::PeerTo {
        v1::PeerTo { cluster: self.cluster().unwrap_or(0), node: node.0 }
    }

    /// The connections to whoever listens at `address`.
    pub(crate) fn at(&self, address: &str) -> Result<Link, tonic::transport::Error> {
        let mut links = self.inner.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(address) {
            return Ok(link.clone());
        }
        let _inside = self.inner.runtime.enter();
        let link = Link::new(address, self.inner.connect)?;
        links.insert(address.to_owned(), link.clone());
        Ok(link)
    }
}
