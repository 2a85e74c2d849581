//! How an entry lies in the log: level and time, then kind and length of each command (PROTOCOL 6.1).
//!
//! The frame is ours, so that it outlives serde formats and versions of the consensus library; inside it the commands
//! are postcard. An entry is decoded whole before any of it is applied (PROTOCOL 6.2).

use alloc::vec::Vec;
use core::fmt;

use crate::command::{Entry, Proposal};
use crate::time::Timestamp;

/// Bytes that are no entry this release knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Cut short, or with something behind its end.
    Length,
    /// A command of a kind that this release does not know, or in a form it does not know.
    Command {
        /// Its number.
        kind: u16,
        /// The level that the entry was written at.
        level: u16,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => write!(f, "an entry of the log is not as long as it says"),
            Self::Command { kind, level } => {
                write!(
                    f,
                    "an entry of feature level {level} holds a command of kind {kind} that this release cannot read"
                )
            }
        }
    }
}

impl core::error::Error for Unreadable {}

impl Entry {
    /// The bytes for the log.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 * self.proposals.len() + 16);
        bytes.extend(self.level.to_le_bytes());
        bytes.extend(self.at.as_millis().to_le_bytes());
        bytes.extend((self.proposals.len() as u32).to_le_bytes());
        for proposal in &self.proposals {
            encode_proposal(proposal, &mut bytes);
        }
        bytes
    }

    /// Reads back what `encode` wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut rest = bytes;
        let level = u16::from_le_bytes(take(&mut rest)?);
        let at = Timestamp::from_millis(i64::from_le_bytes(take(&mut rest)?));
        let count = u32::from_le_bytes(take(&mut rest)?);
        // A proposal takes six bytes at least: a count beyond that must not reserve memory.
        let mut proposals = Vec::with_capacity((count as usize).min(rest.len() / 6));
        for _ in 0..count {
            proposals.push(decode_proposal(&mut rest, level)?);
        }
        if rest.is_empty() { Ok(Self { level, at, proposals }) } else { Err(Unreadable::Length) }
    }
}

fn encode_proposal(proposal: &Proposal, bytes: &mut Vec<u8>) {
    // The command comes first in `body`, so that its first byte is the number of its variant.
    let body = postcard::to_allocvec(&(&proposal.command, &proposal.request, &proposal.leadership))
        .expect("commands have no sequence of unknown length and no custom error");
    let kind = u16::from(body[0]);
    bytes.extend(kind.to_le_bytes());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
}

fn decode_proposal(rest: &mut &[u8], level: u16) -> Result<Proposal, Unreadable> {
    let kind = u16::from_le_bytes(take(rest)?);
    let length = u32::from_le_bytes(take(rest)?) as usize;
    let (body, behind) = rest.split_at_checked(length).ok_or(Unreadable::Length)?;
    *rest = behind;
    match postcard::take_from_bytes(body) {
        Ok(((command, request, leadership), [])) => Ok(Proposal { request, leadership, command }),
        Ok(_) | Err(_) => Err(Unreadable::Command { kind, level }),
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Unreadable> {
    let (head, behind) = rest.split_first_chunk().ok_or(Unreadable::Length)?;
    *rest = behind;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;
    use crate::command::{Command, Request};
    use crate::id::{Fence, Leadership};

    fn entry() -> Entry {
        let request = Request { id: "abc".parse().expect("an id"), not_after: Timestamp::from_millis(9) };
        let publishing = Command::Publishing { fence: Fence(7) };
        Entry {
            level: 1,
            at: Timestamp::from_millis(5),
            proposals: vec![
                Proposal { request: Some(request), leadership: None, command: Command::Continue },
                Proposal { request: None, leadership: Some(Leadership(3)), command: publishing },
            ],
        }
    }

    #[test]
    fn an_entry_reads_back() {
        assert_eq!(Entry::decode(&entry().encode()), Ok(entry()));
    }

    #[test]
    fn an_entry_cut_short_is_refused_whole() {
        let bytes = entry().encode();
        for length in 0..bytes.len() {
            assert!(Entry::decode(&bytes[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn a_command_from_a_later_release_is_named() {
        let mut bytes = entry().encode();
        let first_body = 2 + 8 + 4 + 6;
        bytes[first_body] = 120;
        assert!(matches!(Entry::decode(&bytes), Err(Unreadable::Command { .. })));
    }
}
