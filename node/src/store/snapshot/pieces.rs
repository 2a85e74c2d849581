//! The bytes of a snapshot: a head, chunks, an end, each with a crc32; the end has the SHA-256 of all before it.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::super::files::File;
pub(super) use super::super::frame::{CHUNK_BYTES, NotAFrame};
use super::super::frame::{Format, HEAD_BYTES, pack, unpack};
use super::super::{Result, StoreError};
use super::SnapshotMeta;

const VERSION: u8 = 1;
// A head may be long: it names all blobs that the snapshot needs.
const FORMAT: Format = Format { mark: *b"MS", version: VERSION, frame_bytes_max: 64 << 20 };

/// A piece, decoded.
pub(super) enum Piece {
    Head(SnapshotMeta),
    Chunk(Vec<u8>),
    End { pieces: u64, digest: [u8; 32] },
}

pub(super) fn encode_head(meta: &SnapshotMeta) -> Vec<u8> {
    FORMAT.frame(0, &postcard::to_allocvec(meta).expect("plain fields always encode"))
}

pub(super) fn encode_chunk(body: &[u8]) -> Vec<u8> {
    FORMAT.frame(1, &pack(body))
}

/// The piece that is all of `bytes`.
pub(super) fn decode(bytes: &[u8]) -> Result<Piece, NotAFrame> {
    let damaged = NotAFrame::Damaged("a piece that this release does not know");
    let (kind, payload) = FORMAT.open(bytes)?;
    Ok(match kind {
        0 => Piece::Head(postcard::from_bytes(payload).map_err(|_| damaged)?),
        1 => Piece::Chunk(unpack(payload)?),
        2 if payload.len() == 40 => Piece::End {
            pieces: u64::from_le_bytes(payload[..8].try_into().expect("8 bytes")),
            digest: payload[8..].try_into().expect("32 bytes"),
        },
        _ => return Err(damaged),
    })
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
        let mut buffer = vec![0; HEAD_BYTES];
        loop {
            buffer.truncate(HEAD_BYTES);
            let read = file.read_at(&mut buffer, scan.end()).map_err(StoreError::io("read", path))?;
            let added = match FORMAT.length(&buffer[..read]) {
                Ok(len) => {
                    buffer.resize(len, 0);
                    let read = file.read_at(&mut buffer, scan.end()).map_err(StoreError::io("read", path))?;
                    scan.add(&buffer[..read])
                }
                Err(not_a_piece) => Err(not_a_piece),
            };
            match added {
                Ok(()) => {}
                Err(NotAFrame::Damaged(_)) => return Ok(scan),
                Err(NotAFrame::Newer(found)) => {
                    let (found, known) = (u32::from(found), u32::from(VERSION));
                    return Err(StoreError::Newer { path: path.into(), found, known });
                }
            }
        }
    }

    /// Checks the next piece and counts it.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), NotAFrame> {
        let decoded = decode(piece)?;
        if self.is_complete {
            return Err(NotAFrame::Damaged("something stands behind its end"));
        }
        match (decoded, &self.meta) {
            (Piece::Head(meta), None) => self.meta = Some(meta),
            (Piece::Chunk(_), Some(_)) => {}
            (Piece::End { pieces, digest }, Some(_)) => {
                let found: [u8; 32] = self.hasher.clone().finalize().into();
                if pieces != self.ends.len() as u64 || digest != found {
                    return Err(NotAFrame::Damaged("its totals are not those of its pieces"));
                }
                self.is_complete = true;
            }
            (Piece::Head(_), Some(_)) | (Piece::Chunk(_) | Piece::End { .. }, None) => {
                return Err(NotAFrame::Damaged("its pieces are not in order"));
            }
        }
        self.hasher.update(piece);
        self.ends.push(self.end() + piece.len() as u64);
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
        FORMAT.frame(2, &payload)
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
            if let Ok(Piece::Chunk(body)) = decode(&FORMAT.frame(kind, &bytes)) {
                prop_assert!(body.len() <= CHUNK_BYTES);
            }
        }

        #[test]
        fn a_piece_reads_back_and_a_damaged_one_is_refused(
            body in prop::collection::vec(any::<u8>(), 0..500), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let piece = encode_chunk(&body);
            let back = decode(&piece);
            prop_assert!(matches!(back, Ok(Piece::Chunk(read)) if read == body));
            let mut damaged = piece.clone();
            damaged[at.index(piece.len())] ^= flip;
            prop_assert!(decode(&damaged).is_err());
            prop_assert!(decode(&piece[..at.index(piece.len())]).is_err());
        }
    }
}
