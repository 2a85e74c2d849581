//! The bytes of a snapshot: a head, chunks, an end, each with a crc32; the end has the SHA-256 of all before it.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::files::File;
use super::super::{Result, StoreError};
use super::SnapshotMeta;

/// The uncompressed size of a chunk; the last one may be smaller.
pub(super) const CHUNK_BYTES: usize = 1 << 20;
/// More than any piece can have: a damaged length is not believed.
const PIECE_BYTES_MAX: usize = 64 << 20;
/// Mark, version and kind, payload length, crc32 of kind and payload.
const FRAME_BYTES: usize = 12;
const MARK: &[u8; 2] = b"MS";
const VERSION: u8 = 1;

/// A piece, decoded.
pub(super) enum Piece {
    Head(SnapshotMeta),
    Chunk(Vec<u8>),
    End { pieces: u64, digest: [u8; 32] },
}

/// Why bytes are not a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAPiece {
    Newer(u8),
    Damaged,
}

pub(super) fn encode_head(meta: &SnapshotMeta) -> Vec<u8> {
    frame(0, &postcard::to_allocvec(meta).expect("plain fields always encode"))
}

pub(super) fn encode_chunk(body: &[u8]) -> Vec<u8> {
    frame(1, &lz4_flex::block::compress_prepend_size(body))
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME_BYTES + payload.len());
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&[VERSION, kind]);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&checksum(kind, payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn checksum(kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

/// How long the piece is whose first `FRAME_BYTES` are given.
fn length(head: &[u8]) -> Result<usize, NotAPiece> {
    if head.len() < FRAME_BYTES || !head.starts_with(MARK) {
        return Err(NotAPiece::Damaged);
    }
    if head[2] > VERSION {
        return Err(NotAPiece::Newer(head[2]));
    }
    let len = FRAME_BYTES + u32::from_le_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
    if len <= PIECE_BYTES_MAX { Ok(len) } else { Err(NotAPiece::Damaged) }
}

/// The piece at the start of `bytes`, and its length.
pub(super) fn decode(bytes: &[u8]) -> Result<(Piece, usize), NotAPiece> {
    let len = length(bytes)?;
    let payload = bytes.get(FRAME_BYTES..len).ok_or(NotAPiece::Damaged)?;
    if checksum(bytes[3], payload) != u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes")) {
        return Err(NotAPiece::Damaged);
    }
    let piece = match bytes[3] {
        0 => Piece::Head(postcard::from_bytes(payload).map_err(|_| NotAPiece::Damaged)?),
        1 => {
            // The size in front is what will be allocated.
            let size = payload.get(..4).map(|size| u32::from_le_bytes(size.try_into().expect("4 bytes")));
            if size.is_none_or(|size| size as usize > CHUNK_BYTES) {
                return Err(NotAPiece::Damaged);
            }
            Piece::Chunk(lz4_flex::block::decompress_size_prepended(payload).map_err(|_| NotAPiece::Damaged)?)
        }
        2 if payload.len() == 40 => Piece::End {
            pieces: u64::from_le_bytes(payload[..8].try_into().expect("8 bytes")),
            digest: payload[8..].try_into().expect("32 bytes"),
        },
        _ => return Err(NotAPiece::Damaged),
    };
    Ok((piece, len))
}

/// What is known of a snapshot after its first pieces.
#[derive(Default)]
pub(super) struct Scan {
    pub(super) meta: Option<SnapshotMeta>,
    /// Where each piece ends.
    pub(super) ends: Vec<u64>,
    pub(super) is_complete: bool,
    hasher: Sha256,
}

impl Scan {
    /// The valid pieces at the start of a file.
    pub(super) fn of_file(file: &dyn File, path: &Path) -> Result<Self> {
        let mut scan = Self::default();
        let mut buffer = vec![0; FRAME_BYTES];
        loop {
            buffer.truncate(FRAME_BYTES);
            let read = file.read_at(&mut buffer, scan.end()).map_err(StoreError::io("read", path))?;
            let added = match length(&buffer[..read]) {
                Ok(len) => {
                    buffer.resize(len, 0);
                    let read = file.read_at(&mut buffer, scan.end()).map_err(StoreError::io("read", path))?;
                    scan.add(&buffer[..read])
                }
                Err(not_a_piece) => Err(not_a_piece),
            };
            match added {
                Ok(()) => {}
                Err(NotAPiece::Damaged) => return Ok(scan),
                Err(NotAPiece::Newer(found)) => {
                    let (found, known) = (u32::from(found), u32::from(VERSION));
                    return Err(StoreError::Newer { path: path.into(), found, known });
                }
            }
        }
    }

    /// Checks the next piece and counts it.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), NotAPiece> {
        let (decoded, len) = decode(piece)?;
        if len != piece.len() || self.is_complete {
            return Err(NotAPiece::Damaged);
        }
        match (decoded, &self.meta) {
            (Piece::Head(meta), None) => self.meta = Some(meta),
            (Piece::Chunk(_), Some(_)) => {}
            (Piece::End { pieces, digest }, Some(_)) => {
                let found: [u8; 32] = self.hasher.clone().finalize().into();
                if pieces != self.ends.len() as u64 || digest != found {
                    return Err(NotAPiece::Damaged);
                }
                self.is_complete = true;
            }
            (Piece::Head(_), Some(_)) | (Piece::Chunk(_) | Piece::End { .. }, None) => {
                return Err(NotAPiece::Damaged);
            }
        }
        self.hasher.update(piece);
        self.ends.push(self.end() + len as u64);
        Ok(())
    }

    /// Where the last piece ends.
    pub(super) fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The piece that ends what was scanned.
    pub(super) fn encode_end(&self) -> Vec<u8> {
        let mut payload = (self.ends.len() as u64).to_le_bytes().to_vec();
        payload.extend_from_slice(&self.hasher.clone().finalize());
        frame(2, &payload)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_of_any_bytes_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..4) {
            prop_assert!(decode(&bytes).is_err());
            // With the right sum too: what is inside may be anything, and unpacks to a chunk at most.
            if let Ok((Piece::Chunk(body), _)) = decode(&frame(kind, &bytes)) {
                prop_assert!(body.len() <= CHUNK_BYTES);
            }
        }

        #[test]
        fn a_piece_reads_back_and_a_damaged_one_is_refused(
            body in prop::collection::vec(any::<u8>(), 0..500), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let piece = encode_chunk(&body);
            let back = decode(&piece);
            prop_assert!(matches!(back, Ok((Piece::Chunk(read), len)) if read == body && len == piece.len()));
            let mut damaged = piece.clone();
            damaged[at.index(piece.len())] ^= flip;
            // A version is no part of what is summed: an older one is as good.
            if damaged[2] == VERSION {
                prop_assert!(decode(&damaged).is_err());
            }
            prop_assert!(decode(&piece[..at.index(piece.len())]).is_err());
        }
    }
}
