//! Executors and their sessions (PROTOCOL 5.4, 5.6).

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::settings::LeaseTerms;
use crate::id::{JournalId, SessionNumber};
use crate::time::Timestamp;

/// An executor that has opened a session at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutorRow {
    /// For people.
    pub name: String,
    /// The newest session.
    pub session: SessionNumber,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// How many live attempts it has, those of older sessions too.
    pub used: u32,
    /// What tasks may ask for.
    pub labels: BTreeMap<String, String>,
    /// Host and port where its logs are read; empty: those of the node that it belongs to.
    pub address: String,
    /// Silent since then: no new attempts until it is heard again.
    pub cordoned_at: Option<Timestamp>,
    /// No new attempts until a person says so.
    pub is_drained: bool,
    /// It was dismissed: no new attempts, and the row goes when no session is left.
    pub is_leaving: bool,
    /// When the newest session was opened.
    pub seen_at: Timestamp,
}

impl ExecutorRow {
    /// Whether it is silent, so that it gets no new attempts until it is heard again.
    pub const fn is_cordoned(&self) -> bool {
        self.cordoned_at.is_some()
    }

    /// Whether it may be given an attempt now.
    pub fn has_room(&self) -> bool {
        !self.is_cordoned() && !self.is_drained && !self.is_leaving && self.used < self.slots
    }

    /// Whether it has every label that is asked for.
    pub fn matches(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// The bond between one incarnation of an executor and the leader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The machine's boot id.
    pub boot: String,
    /// The journal's id.
    pub journal: JournalId,
    /// What it is worth.
    pub terms: LeaseTerms,
    /// When it was opened.
    pub opened_at: Timestamp,
    /// An expiry was applied: it is never renewed again, and stays only for attempts that may go on without it.
    pub is_expired: bool,
}
