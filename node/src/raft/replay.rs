//! What a directory's snapshot and log come to, worked out offline: nothing runs, and nothing is written.
//!
//! Every record of the log counts. Which of the last ones were committed cannot be known from one directory; whoever asks
//! has no other, or only looks. Start reading at [`replay`].

use std::sync::Arc;

use matins_core::command::Entry;
use matins_core::id::LogIndex;
use matins_core::{Effect, State, apply, members_changed};

use super::record;
use super::snapshot::{self, Held};
use super::types::Members;
use crate::store::log::{Kind, Log, Record};
use crate::store::snapshot::Snapshot;
use crate::store::{Position, StoreError};

/// Bytes of the log that are read at once.
const READ_BYTES: u64 = 16 << 20;

/// What a directory comes to.
pub(crate) struct Replayed {
    /// The state behind the last record.
    pub(crate) state: State,
    /// That record; `None`: the directory holds nothing yet.
    pub(crate) last: Option<Position>,
    /// The members by the newest membership.
    pub(crate) members: Members,
    /// How many records were read.
    pub(crate) records: u64,
}

/// Applies the records behind the newest snapshot. `on_effect` hears of each effect, with the state behind its entry.
pub(crate) fn replay(
    newest: Option<&Arc<Snapshot>>,
    log: &Log,
    on_effect: &mut dyn FnMut(&State, &Effect),
) -> Result<Replayed, StoreError> {
    let mut replayed =
        Replayed { state: State::default(), last: None, members: Members::default(), records: 0 };
    if let Some(snapshot) = newest {
        let Held { state, last, members } = snapshot::held(snapshot)?;
        replayed = Replayed { state, last: Some(last), members, records: 0 };
    }
    let last = log.last().map_or(0, |last| last.index + 1);
    let mut at = log.first().unwrap_or(last);
    while at < last {
        let records = log.read(at..last, READ_BYTES)?;
        let Some(read) = records.last() else { break };
        at = read.index + 1;
        for record in &records {
            replayed.add(record, on_effect)?;
        }
    }
    Ok(replayed)
}

impl Replayed {
    fn add(&mut self, record: &Record, on_effect: &mut dyn FnMut(&State, &Effect)) -> Result<(), StoreError> {
        self.records += 1;
        let unreadable = |why: String| StoreError::Corrupt { path: "the log".into(), at: record.index, why };
        // Older ones are read too, so that damage in them is found; what they did is in the snapshot.
        let is_new = self.last.is_none_or(|last| record.index > last.index);
        match record.kind {
            Kind::Blank => {}
            Kind::Membership => {
                let membership =
                    record::decode_membership(&record.body).map_err(|error| unreadable(error.to_string()))?;
                if is_new {
                    self.members = Members::from(&membership);
                    members_changed(&mut self.state, LogIndex(record.index));
                }
            }
            Kind::Entry => {
                let entry = Entry::decode(&record.body).map_err(|error| unreadable(error.to_string()))?;
                if is_new {
                    let outcome = apply(&mut self.state, LogIndex(record.index), entry);
                    outcome.effects.iter().for_each(|effect| on_effect(&self.state, effect));
                }
            }
        }
        if is_new {
            self.last = Some(record.position());
        }
        Ok(())
    }
}
