//! Between openraft's records and those of the store (PROTOCOL 6.1).
//!
//! Openraft's types change in its next version, so none of them is written: the store frames kind, place and body, and a
//! body is an entry of `matins_core` or a membership in a form of our own. The same bytes go over the wire.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::types::{EntryBytes, LogId, Member, Membership, Record};
use crate::store::Position;
use crate::store::log::{Kind, Record as Stored};

/// The first byte of a membership.
const FORMAT: u8 = 1;

/// Bytes that are no membership this release knows.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "a membership in the log has format {format:?}, which this release cannot read: a later version is needed"
)]
pub(crate) struct NotAMembership {
    /// The format it says it has.
    format: Option<u8>,
}

/// A membership as it is written.
#[derive(Serialize, Deserialize)]
struct StoredMembers {
    voter_sets: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Member>,
}

/// A record for the store.
pub(crate) fn to_stored(record: &Record) -> Stored {
    let (kind, body) = match &record.payload {
        EntryPayload::Blank => (Kind::Blank, Bytes::new()),
        EntryPayload::Normal(EntryBytes(bytes)) => (Kind::Entry, bytes.clone()),
        EntryPayload::Membership(membership) => (Kind::Membership, encode_membership(membership)),
    };
    let Position { index, term, leader } = to_position(record.log_id);
    Stored { index, term, leader, kind, body }
}

/// A record for openraft. Shares the bytes.
pub(crate) fn from_stored(stored: &Stored) -> Result<Record, NotAMembership> {
    let payload = match stored.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Entry => EntryPayload::Normal(EntryBytes(stored.body.clone())),
        Kind::Membership => EntryPayload::Membership(decode_membership(&stored.body)?),
    };
    Ok(Record { log_id: to_log_id(stored.position()), payload })
}

pub(crate) fn to_position(log_id: LogId) -> Position {
    Position { index: log_id.index, term: log_id.leader_id.term, leader: log_id.leader_id.node_id }
}

pub(crate) fn to_log_id(position: Position) -> LogId {
    LogId::new(CommittedLeaderId::new(position.term, position.leader), position.index)
}

/// The bytes of a membership, in a record and in the head of a snapshot.
pub(crate) fn encode_membership(membership: &Membership) -> Bytes {
    let stored = StoredMembers {
        voter_sets: membership.get_joint_config().clone(),
        nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
    };
    let bytes = postcard::to_extend(&stored, vec![FORMAT]);
    bytes.expect("maps and sets have a known length").into()
}

/// Reads back what `encode_membership` wrote.
pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, NotAMembership> {
    let unreadable = NotAMembership { format: bytes.first().copied() };
    let body = bytes.strip_prefix(&[FORMAT]).ok_or_else(|| unreadable.clone())?;
    let stored: StoredMembers = postcard::from_bytes(body).map_err(|_| unreadable)?;
    Ok(Membership::new(stored.voter_sets, stored.nodes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn membership() -> Membership {
        let member = Member { name: "a".into(), cluster_address: "h:1".into(), public_address: "h:2".into() };
        let nodes = BTreeMap::from([(1, member.clone()), (2, member.clone()), (9, member)]);
        Membership::new(vec![BTreeSet::from([1, 2])], nodes)
    }

    #[test]
    fn records_read_back() {
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(EntryBytes(Bytes::from_static(b"entry"))),
            EntryPayload::Membership(membership()),
        ];
        for payload in payloads {
            let log_id = LogId::new(CommittedLeaderId::new(3, 7), 42);
            let record = Record { log_id, payload };
            assert_eq!(from_stored(&to_stored(&record)), Ok(record));
        }
    }

    /// STYLE 40: bytes on disk are fixed. A change here needs a new format.
    #[test]
    fn the_bytes_of_a_membership_are_fixed() {
        let mut expected = vec![1, 1, 2, 1, 2, 3];
        for node in [1, 2, 9] {
            expected.push(node);
            expected.extend(b"\x01a\x03h:1\x03h:2");
        }
        assert_eq!(encode_membership(&membership()), expected);
    }

    #[test]
    fn a_membership_of_a_later_release_is_named() {
        assert_eq!(decode_membership(&[9, 0]), Err(NotAMembership { format: Some(9) }));
        assert_eq!(decode_membership(&[]), Err(NotAMembership { format: None }));
        assert_eq!(decode_membership(&[FORMAT, 200]), Err(NotAMembership { format: Some(FORMAT) }));
    }

    proptest! {
        #[test]
        fn a_membership_of_any_bytes_is_refused_or_reads_back(
            bytes in prop::collection::vec(any::<u8>(), 0..80), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let mut damaged = encode_membership(&membership()).to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            for bytes in [bytes.clone(), [&[FORMAT][..], &bytes].concat(), damaged] {
                if let Ok(read) = decode_membership(&bytes) {
                    prop_assert_eq!(decode_membership(&encode_membership(&read)), Ok(read));
                }
            }
        }
    }
}
