//! The frames of files that are streamed, snapshots and backups: a mark, a version, a kind, a length, a checksum, a payload.
//!
//! What a kind means is not known here. The log has frames of its own, made for appending. Start reading at [`Format`].

/// Mark, version and kind, payload length, crc32 of version, kind and payload.
pub(super) const HEAD_BYTES: usize = 12;
/// The most bytes of a chunk before it is compressed.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// What is the same in all frames of one kind of file.
pub(super) struct Format {
    /// Begins each.
    pub(super) mark: [u8; 2],
    /// What this release writes, and the newest that it reads.
    pub(super) version: u8,
    /// More than any frame can have: a damaged length is not believed.
    pub(super) frame_bytes_max: usize,
}

/// Why bytes are not a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotAFrame {
    /// A later release made it, with this version.
    Newer(u8),
    /// It is not what was written; the text says how that shows.
    Damaged(&'static str),
}

impl Format {
    /// A frame of this kind.
    pub(super) fn frame(&self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
        bytes.extend_from_slice(&self.mark);
        bytes.extend_from_slice(&[self.version, kind]);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&checksum([self.version, kind], payload).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// How long the frame is whose first [`HEAD_BYTES`] are given.
    pub(super) fn length(&self, head: &[u8]) -> Result<usize, NotAFrame> {
        if head.len() < HEAD_BYTES || !head.starts_with(&self.mark) {
            return Err(NotAFrame::Damaged("no frame begins there"));
        }
        if head[2] > self.version {
            return Err(NotAFrame::Newer(head[2]));
        }
        let len = HEAD_BYTES + u32::from_le_bytes(head[4..8].try_into().expect("4 bytes")) as usize;
        if len <= self.frame_bytes_max { Ok(len) } else { Err(NotAFrame::Damaged("a frame is too long")) }
    }

    /// Kind and payload of a frame, which is all of `bytes`.
    pub(super) fn open<'b>(&self, bytes: &'b [u8]) -> Result<(u8, &'b [u8]), NotAFrame> {
        let len = self.length(bytes)?;
        if bytes.len() != len {
            return Err(NotAFrame::Damaged("a frame is not as long as it says"));
        }
        let payload = &bytes[HEAD_BYTES..];
        let sum = u32::from_le_bytes(bytes[8..HEAD_BYTES].try_into().expect("4 bytes"));
        if checksum([bytes[2], bytes[3]], payload) != sum {
            return Err(NotAFrame::Damaged("a frame does not match its checksum"));
        }
        Ok((bytes[3], payload))
    }
}

fn checksum(head: [u8; 2], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head);
    hasher.update(payload);
    hasher.finalize()
}

/// The payload of a chunk.
pub(super) fn pack(chunk: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress_prepend_size(chunk)
}

/// The chunk in a payload.
pub(super) fn unpack(payload: &[u8]) -> Result<Vec<u8>, NotAFrame> {
    // The size in front is what will be allocated.
    let size = payload.get(..4).map(|size| u32::from_le_bytes(size.try_into().expect("4 bytes")));
    if size.is_none_or(|size| size as usize > CHUNK_BYTES) {
        return Err(NotAFrame::Damaged("a chunk is larger than any can be"));
    }
    lz4_flex::block::decompress_size_prepended(payload)
        .map_err(|_| NotAFrame::Damaged("a chunk cannot be unpacked"))
}
