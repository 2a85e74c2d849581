//! The bytes of a backup: one stream of frames, so that it can be piped, cut frames are told, and nothing is read twice
//! (PROTOCOL 6.10).
//!
//! A head, the state in chunks, each blob as a name and chunks, an end with the totals and the SHA-256 of all before it. Each
//! frame has a checksum besides. Of a state no more is known here than what its head says. Start reading at [`Writer`], then [`Scan`].

use std::io;

use matins_core::State;
use matins_core::id::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::frame::{self, Format, HEAD_BYTES, NotAFrame, pack, unpack};

const VERSION: u8 = 1;
const FORMAT: Format = Format { mark: *b"MB", version: VERSION, frame_bytes_max: 2 * CHUNK_BYTES };

/// The most bytes of a chunk before it is compressed.
pub const CHUNK_BYTES: usize = frame::CHUNK_BYTES;

/// What a backup is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of Matins that made it.
    pub version: String,
    /// The cluster.
    pub cluster: u64,
    /// The feature level in force.
    pub level: u32,
    /// The last entry that is in it.
    pub index: u64,
    /// Leader time there, in milliseconds since 1970.
    pub now: i64,
    /// Bytes of the state.
    pub state_bytes: u64,
    /// Its hash.
    pub state_hash: Digest,
    /// How many blobs it names, those that no node has included.
    pub blobs: u64,
}

impl Head {
    /// The head of a backup of a state, which takes these bytes, and of so many blobs.
    pub fn of(state: &State, bytes: &[u8], blobs: usize) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: state.cluster.id.unwrap_or(0),
            level: state.cluster.level.into(),
            index: state.index.0,
            now: state.now.as_millis(),
            state_bytes: bytes.len() as u64,
            state_hash: Digest::of(bytes),
            blobs: blobs as u64,
        }
    }
}

/// A frame, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Comes first.
    Head(Head),
    /// The next bytes of the state.
    State(Vec<u8>),
    /// A blob begins.
    Blob {
        /// Its name.
        digest: Digest,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The next bytes of that blob.
    Chunk(Vec<u8>),
    /// A blob that no node had when the backup was made.
    Missing(Digest),
    /// All of it was there.
    End {
        /// What that is.
        totals: Totals,
        /// The SHA-256 of all frames before.
        sum: Digest,
    },
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Frames before the end.
    pub frames: u64,
    /// Blobs that are in it.
    pub blobs: u64,
    /// Bytes of them.
    pub blob_bytes: u64,
    /// Blobs that no node had.
    pub missing: u64,
}

/// Why bytes are not a whole backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file cannot be read.
    #[error("the backup cannot be read")]
    Io(#[from] io::Error),
    /// It ends too early.
    #[error("the backup was cut: it ends after {frames} frames and {bytes} bytes, before its end")]
    Cut {
        /// Whole frames that are there.
        frames: u64,
        /// Bytes of them.
        bytes: u64,
    },
    /// It is not what was written.
    #[error("the backup is damaged at byte {at}: {why}")]
    Damaged {
        /// Where.
        at: u64,
        /// What is wrong.
        why: String,
    },
    /// A later release made it.
    #[error("the backup has format {found}, this release reads up to {VERSION}")]
    Newer {
        /// The format it has.
        found: u8,
    },
}

impl BackupError {
    /// Says what to do next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io(_) => "look at the path and at the disk",
            Self::Cut { .. } | Self::Damaged { .. } => {
                "take another copy of it, or another backup; `matins cluster backup --verify FILE` tells which are whole"
            }
            Self::Newer { .. } => "use the release that made it, or a later one",
        }
    }
}

/// Makes the frames of a backup, in order.
#[derive(Default)]
pub struct Writer {
    hasher: Sha256,
    totals: Totals,
}

impl Writer {
    /// The last frame.
    pub fn end(&mut self) -> Vec<u8> {
        let sum = Digest(self.hasher.clone().finalize().into());
        self.frame(&Part::End { totals: self.totals, sum })
    }

    /// The next frame.
    pub fn frame(&mut self, part: &Part) -> Vec<u8> {
        let (kind, payload) = match part {
            Part::Head(head) => (0, encode(head)),
            Part::State(bytes) => (1, pack(bytes)),
            Part::Blob { digest, bytes } => {
                self.totals.blobs += 1;
                self.totals.blob_bytes += bytes;
                (2, encode(&(*digest, *bytes)))
            }
            Part::Chunk(bytes) => (3, pack(bytes)),
            Part::Missing(digest) => {
                self.totals.missing += 1;
                (4, encode(digest))
            }
            Part::End { totals, sum } => (5, encode(&(*totals, *sum))),
        };
        let frame = FORMAT.frame(kind, &payload);
        self.hasher.update(&frame);
        self.totals.frames += 1;
        frame
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("plain fields always encode")
}

/// The blob or the state that is being read.
struct Body {
    name: Digest,
    left: u64,
    hasher: Sha256,
}

/// Reads frames in order and holds each to what was said before it.
#[derive(Default)]
pub struct Scan {
    at: u64,
    totals: Totals,
    hasher: Sha256,
    head: Option<Head>,
    body: Option<Body>,
    is_complete: bool,
}

impl Scan {
    /// Checks the next frame and gives what is in it.
    pub fn add(&mut self, frame: &[u8]) -> Result<Part, BackupError> {
        let part = decode(frame).map_err(|why| match why {
            NotAFrame::Newer(found) => BackupError::Newer { found },
            NotAFrame::Damaged(why) => self.damaged(why),
        })?;
        self.check(&part)?;
        self.hasher.update(frame);
        self.totals.frames += u64::from(!self.is_complete);
        self.at += frame.len() as u64;
        Ok(part)
    }

    /// What it is of, once the head was read.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// How many bytes were read.
    pub fn bytes(&self) -> u64 {
        self.at
    }

    /// Whether the body that was begun is whole.
    pub fn is_between(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.left == 0)
    }

    /// What was read, if it was all of it.
    pub fn finish(self) -> Result<(Head, Totals), BackupError> {
        match self.head {
            Some(head) if self.is_complete => Ok((head, self.totals)),
            Some(_) | None => Err(BackupError::Cut { frames: self.totals.frames, bytes: self.at }),
        }
    }

    fn damaged(&self, why: impl Into<String>) -> BackupError {
        BackupError::Damaged { at: self.at, why: why.into() }
    }

    fn check(&mut self, part: &Part) -> Result<(), BackupError> {
        if self.is_complete {
            return Err(self.damaged("something stands behind its end"));
        }
        match part {
            Part::Head(head) if self.head.is_none() => {
                self.body =
                    Some(Body { name: head.state_hash, left: head.state_bytes, hasher: Sha256::new() });
                self.head = Some(head.clone());
            }
            Part::Head(_) => return Err(self.damaged("a second head")),
            _ if self.head.is_none() => return Err(self.damaged("it does not begin with its head")),
            Part::State(bytes) | Part::Chunk(bytes) => self.take(bytes)?,
            Part::Blob { digest, bytes } => {
                self.end_body()?;
                self.totals.blobs += 1;
                self.totals.blob_bytes += bytes;
                self.body = Some(Body { name: *digest, left: *bytes, hasher: Sha256::new() });
            }
            Part::Missing(_) => {
                self.end_body()?;
                self.totals.missing += 1;
            }
            Part::End { totals, sum } => {
                self.end_body()?;
                let is_sum = *sum == Digest(self.hasher.clone().finalize().into());
                if *totals != self.totals || !is_sum {
                    return Err(self.damaged("its totals are not those of its frames"));
                }
                self.is_complete = true;
            }
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let at = self.at;
        let body = self.body.as_mut();
        let body = body.filter(|body| body.left >= bytes.len() as u64);
        let body = body.ok_or_else(|| BackupError::Damaged { at, why: "a chunk of nothing".into() })?;
        body.hasher.update(bytes);
        body.left -= bytes.len() as u64;
        Ok(())
    }

    fn end_body(&mut self) -> Result<(), BackupError> {
        let Some(body) = self.body.take() else { return Ok(()) };
        if body.left == 0 && Digest(body.hasher.finalize().into()) == body.name {
            return Ok(());
        }
        Err(self.damaged(format!("the content before it is not that of {}", body.name)))
    }
}

fn decode(frame: &[u8]) -> Result<Part, NotAFrame> {
    let damaged = |_| NotAFrame::Damaged("a frame that this release does not know");
    let (kind, payload) = FORMAT.open(frame)?;
    Ok(match kind {
        0 => Part::Head(postcard::from_bytes(payload).map_err(damaged)?),
        1 => Part::State(unpack(payload)?),
        2 => {
            let (digest, bytes) = postcard::from_bytes(payload).map_err(damaged)?;
            Part::Blob { digest, bytes }
        }
        3 => Part::Chunk(unpack(payload)?),
        4 => Part::Missing(postcard::from_bytes(payload).map_err(damaged)?),
        5 => {
            let (totals, sum) = postcard::from_bytes(payload).map_err(damaged)?;
            Part::End { totals, sum }
        }
        _ => return Err(NotAFrame::Damaged("a frame that this release does not know")),
    })
}

/// The next frame of a stream; `None` at its end. A frame that is cut is [`BackupError::Cut`].
pub fn read_frame(reader: &mut impl io::Read, scan: &Scan) -> Result<Option<Vec<u8>>, BackupError> {
    let cut = || BackupError::Cut { frames: scan.totals.frames, bytes: scan.at };
    let mut frame = vec![0; HEAD_BYTES];
    let read = fill(reader, &mut frame)?;
    if read == 0 {
        return Ok(None);
    }
    if read < HEAD_BYTES {
        return Err(cut());
    }
    let len = FORMAT.length(&frame).map_err(|why| match why {
        NotAFrame::Newer(found) => BackupError::Newer { found },
        NotAFrame::Damaged(why) => scan.damaged(why),
    })?;
    frame.resize(len, 0);
    let read = fill(reader, &mut frame[HEAD_BYTES..])?;
    if read < len - HEAD_BYTES { Err(cut()) } else { Ok(Some(frame)) }
}

fn fill(reader: &mut impl io::Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match reader.read(&mut bytes[done..]) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole() -> Vec<Vec<u8>> {
        let (state, blob) = (b"the state".repeat(20), b"a blob".repeat(50));
        let head = Head {
            version: "0.1.0".into(),
            cluster: 7,
            level: 1,
            index: 42,
            now: 1_000,
            state_bytes: state.len() as u64,
            state_hash: Digest::of(&state),
            blobs: 2,
        };
        let mut writer = Writer::default();
        let parts = [
            Part::Head(head),
            Part::State(state[..50].to_vec()),
            Part::State(state[50..].to_vec()),
            Part::Blob { digest: Digest::of(&blob), bytes: blob.len() as u64 },
            Part::Chunk(blob),
            Part::Missing(Digest::of(b"lost")),
        ];
        let mut frames: Vec<_> = parts.iter().map(|part| writer.frame(part)).collect();
        frames.push(writer.end());
        frames
    }

    fn read(bytes: &[u8]) -> Result<(Head, Totals), BackupError> {
        let (mut scan, mut reader) = (Scan::default(), bytes);
        while let Some(frame) = read_frame(&mut reader, &scan)? {
            scan.add(&frame)?;
        }
        scan.finish()
    }

    #[test]
    fn a_backup_reads_back_and_says_what_is_in_it() {
        let (head, totals) = read(&whole().concat()).unwrap();
        assert_eq!((head.cluster, head.index), (7, 42));
        assert_eq!(totals, Totals { frames: 6, blobs: 1, blob_bytes: 300, missing: 1 });
    }

    #[test]
    fn a_backup_that_was_cut_is_told_wherever_it_was() {
        let bytes = whole().concat();
        for len in 0..bytes.len() {
            assert!(matches!(read(&bytes[..len]), Err(BackupError::Cut { .. })), "{len}");
        }
    }

    #[test]
    fn frames_that_were_left_out_or_swapped_are_told() {
        for gone in 0..6 {
            let mut frames = whole();
            frames.remove(gone);
            assert!(matches!(read(&frames.concat()), Err(BackupError::Damaged { .. })), "{gone}");
        }
        let mut frames = whole();
        frames.swap(1, 2);
        assert!(matches!(read(&frames.concat()), Err(BackupError::Damaged { .. })));
        let mut frames = whole();
        frames.push(frames[5].clone());
        assert!(matches!(read(&frames.concat()), Err(BackupError::Damaged { .. })));
    }

    proptest! {
        #[test]
        fn a_damaged_backup_is_never_taken_for_a_whole_one(at: prop::sample::Index, flip in 1_u8..) {
            let mut bytes = whole().concat();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(read(&bytes).is_err());
        }
    }
}
