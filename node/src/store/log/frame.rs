//! The bytes of a record in a segment file.
//!
//! A frame is checked by a crc32 that also covers the segment's random salt and the frame's own offset, so that
//! neither a stale block of the disk nor a body made to look like a frame is ever taken for one.

use bytes::Bytes;

use super::super::Position;
use super::{Kind, Record};

/// crc, body length, index, term, leader, committed, back, kind and three zeros.
pub(super) const HEAD_BYTES: usize = 48;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) crc: u32,
    pub(super) body_bytes: u32,
    /// Of a seal: of the last record.
    pub(super) position: Position,
    /// The newest index known as committed when it was written, plus 1; 0 for none.
    pub(super) committed: u64,
    /// How many bytes before this frame its append began.
    pub(super) back: u32,
    pub(super) tag: Tag,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Record(Kind),
    /// Ends a segment: the body lists the offsets of its records.
    Seal,
}

impl Tag {
    fn to_byte(self) -> u8 {
        match self {
            Self::Record(Kind::Blank) => 0,
            Self::Record(Kind::Membership) => 1,
            Self::Record(Kind::Entry) => 2,
            Self::Seal => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Record(Kind::Blank),
            1 => Self::Record(Kind::Membership),
            2 => Self::Record(Kind::Entry),
            3 => Self::Seal,
            _ => return None,
        })
    }
}

/// Appends a frame to `out`, which will be written at `base` of the file.
pub(super) fn encode(out: &mut Vec<u8>, base: u64, salt: u64, head: Head, body: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    for number in [head.position.index, head.position.term, head.position.leader, head.committed] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&head.back.to_le_bytes());
    out.extend_from_slice(&[head.tag.to_byte(), 0, 0, 0]);
    out.extend_from_slice(body);
    let crc = checksum(salt, base + start as u64, &out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The head at the start of `bytes`, unchecked. `None` if it cannot be one.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let bytes = bytes.get(..HEAD_BYTES)?;
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    let short = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
    Some(Head {
        crc: short(0),
        body_bytes: short(4),
        position: Position { index: long(8), term: long(16), leader: long(24) },
        committed: long(32),
        back: short(40),
        tag: Tag::from_byte(bytes[44])?,
    })
}

/// The frame at `offset` of the file, which is at the start of `bytes`, if all of it is there and its checksum holds.
pub(super) fn decode(bytes: &[u8], offset: u64, salt: u64) -> Option<(Head, &[u8])> {
    let head = head(bytes)?;
    let frame = bytes.get(..HEAD_BYTES + head.body_bytes as usize)?;
    (checksum(salt, offset, &frame[4..]) == head.crc).then(|| (head, &frame[HEAD_BYTES..]))
}

/// The record at the start of `bytes`; its body shares their memory.
pub(super) fn record(bytes: &Bytes, offset: u64, salt: u64) -> Option<(Record, usize)> {
    let (head, body) = decode(bytes, offset, salt)?;
    let Tag::Record(kind) = head.tag else { return None };
    let Position { index, term, leader } = head.position;
    let len = HEAD_BYTES + body.len();
    Some((Record { index, term, leader, kind, body: bytes.slice(HEAD_BYTES..len) }, len))
}

fn checksum(salt: u64, offset: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&offset.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}
