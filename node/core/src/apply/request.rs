//! Idempotency (PROTOCOL 4.6): the same request twice is done once, and answered twice alike.

use crate::answer::Refusal;
use crate::command::{Command, NOT_AFTER_MAX, Request};
use crate::id::Digest;
use crate::state::RequestRow;

use super::{Applied, Step};

/// Answers forgotten per entry: a bound on the work that a pause of traffic leaves behind.
const FORGET_MAX: usize = 1_000;

impl Step<'_> {
    /// Applies a command that may be a repeat.
    pub(super) fn once(&mut self, request: Request, command: Command) -> Applied {
        if request.not_after < self.now() {
            return Err(Refusal::Expired { not_after: request.not_after });
        }
        if request.not_after > self.now() + NOT_AFTER_MAX {
            return Err(Refusal::Limit {
                limit: "not_after of a request, in seconds ahead".into(),
                value: NOT_AFTER_MAX.0 / 1_000,
                asked: request.not_after.since(self.now()).0 / 1_000,
                hint: "send an earlier not_after".into(),
            });
        }
        let digest = digest_of(&command);
        if let Some(row) = self.state.requests.get(&request.id) {
            return if row.digest == digest {
                let answer = row.answer.clone();
                self.done_at = row.index;
                self.remember(&request, digest, answer.clone());
                answer
            } else {
                Err(Refusal::RequestReused)
            };
        }
        let is_full = self.requests_are_full();
        if is_full && !passes_without_a_row(&command) {
            return Err(self.no_room_for_requests());
        }
        let answer = self.command(command);
        if !is_full && is_kept(&answer) {
            self.remember(&request, digest, answer.clone());
        }
        answer
    }

    /// Forgets answers whose time is over: what is forgotten can no longer be accepted.
    pub(super) fn forget_requests(&mut self) {
        for _ in 0..FORGET_MAX {
            let Some(((not_after, id), ())) = self.state.requests_by_expiry.first() else { return };
            if *not_after >= self.state.now {
                return;
            }
            let key = (*not_after, id.clone());
            self.state.requests_by_expiry.remove(&key);
            self.state.requests.remove(&key.1);
        }
    }

    /// Keeps an answer until its `not_after`, a repeat with a later one that much longer.
    fn remember(&mut self, request: &Request, digest: Digest, answer: Applied) {
        let until = match self.state.requests.get(&request.id) {
            Some(row) => {
                let old = (row.not_after, request.id.clone());
                self.state.requests_by_expiry.remove(&old);
                old.0.max(request.not_after)
            }
            None => request.not_after,
        };
        self.state.requests_by_expiry.insert((until, request.id.clone()), ());
        self.state
            .requests
            .insert(request.id.clone(), RequestRow { digest, index: self.done_at, not_after: until, answer });
    }

    fn requests_bytes_max(&self) -> u64 {
        let settings = &self.state.cluster.settings;
        settings.state_bytes_max / 1_000 * u64::from(settings.requests_permille_max)
    }

    fn requests_are_full(&self) -> bool {
        self.state.requests.bytes() + self.state.requests_by_expiry.bytes() >= self.requests_bytes_max()
    }

    fn no_room_for_requests(&self) -> Refusal {
        Refusal::Limit {
            limit: "bytes of remembered answers".into(),
            value: self.requests_bytes_max(),
            asked: self.state.requests.bytes() + self.state.requests_by_expiry.bytes(),
            hint: "try again later; answers are forgotten when their requests' not_after has passed".into(),
        }
    }
}

/// The digest leaves `not_after` out, so that a repeat may carry a later one.
fn digest_of(command: &Command) -> Digest {
    let bytes = postcard::to_allocvec(command).expect("commands have no custom error");
    Digest::of(&bytes)
}

/// What makes things better under overload needs no row.
fn passes_without_a_row(command: &Command) -> bool {
    matches!(
        command,
        Command::Cancel { .. }
            | Command::PauseWorkflow(_)
            | Command::PauseSchedule(_)
            | Command::PauseBackfill(_)
            | Command::CancelBackfill(_)
            | Command::Drain(_)
            | Command::Dismiss(_)
    )
}

/// Refusals that another try may overcome are not kept.
fn is_kept(answer: &Applied) -> bool {
    match answer {
        Ok(_) => true,
        Err(refusal) => match refusal {
            Refusal::NotFound(_) | Refusal::Exists(_) | Refusal::Conflict { .. } | Refusal::Invalid(_) => {
                true
            }
            Refusal::Stale(_)
            | Refusal::Limit { .. }
            | Refusal::FullDisk(_)
            | Refusal::TimeAhead { .. }
            | Refusal::Expired { .. }
            | Refusal::RequestReused
            | Refusal::NotInitialised
            | Refusal::TicksDue(_)
            | Refusal::AboveLevel { .. } => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::String;
    use alloc::vec;

    use super::*;
    use crate::command::{Entry, Proposal};
    use crate::id::LogIndex;
    use crate::state::State;
    use crate::{apply, time::Timestamp};

    /// A client takes the index for the place of its command in the log: a write that was repeated through a change of
    /// leader would else stand behind writes that overtook it. The proof found it (`jepsen cluster --workload linear`).
    #[test]
    fn a_repeat_names_the_entry_that_did_it() {
        let mut state = State::default();
        state.cluster.id = Some(7);
        state.cluster.level = 1;
        let set = |request: &str| Entry {
            level: 1,
            at: Timestamp::from_millis(1_000),
            proposals: vec![Proposal {
                request: Some(Request {
                    id: request.parse().expect("it is short"),
                    not_after: Timestamp::from_millis(60_000),
                }),
                leadership: None,
                command: Command::SetPool {
                    pool: "gpu".parse().expect("it is a name"),
                    slots: 3,
                    description: String::new(),
                },
            }],
        };
        let mut indexes = |index, request| apply(&mut state, LogIndex(index), set(request)).indexes;
        assert_eq!(indexes(4, "one"), [LogIndex(4)]);
        assert_eq!(indexes(5, "two"), [LogIndex(5)]);
        assert_eq!(indexes(6, "one"), [LogIndex(4)]);
        assert_eq!(indexes(7, "one"), [LogIndex(4)]);
    }
}
