//! Before the feature level is raised (PROTOCOL 6.9): what all members support, and under which membership they were asked.
//!
//! Nothing is raised by itself: until a person does it, every node can go back to the release that it had.

use matins_core::id::LogIndex;

use super::consensus::Consensus;
use super::error::LevelError;
use super::lead;

/// A level that all members support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportedLevel {
    /// The level.
    pub level: u16,
    /// The log index of the membership under which they said so.
    pub members: LogIndex,
}

impl Consensus {
    /// Asks all members, learners too, whether they support `level`; without one, how far they all do. Works on any node.
    pub async fn supported_level(&self, level: Option<u16>) -> Result<SupportedLevel, LevelError> {
        let inner = self.inner();
        // First the membership, then its members: whoever comes later changes its index.
        let members =
            inner.raft.server_metrics().borrow().membership_config.log_id().map_or(0, |id| id.index);
        let mut lowest = inner.level_max;
        let mut lowest_of = inner.node;
        for (node, member) in self.members().nodes {
            if node == inner.node {
                continue;
            }
            let told = lead::ask(inner, &member.cluster_address, 0).await.map(|heard| heard.status);
            let told = told
                .filter(|told| told.node == node)
                .ok_or(LevelError::Silent { node, name: member.name })?;
            if told.level_max < lowest {
                (lowest, lowest_of) = (told.level_max, node);
            }
        }
        let level = level.unwrap_or(lowest);
        if level > lowest {
            return Err(LevelError::NotSupported { node: lowest_of, level, max: lowest });
        }
        Ok(SupportedLevel { level, members: LogIndex(members) })
    }
}
