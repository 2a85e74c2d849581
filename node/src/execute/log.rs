//! The log file of one attempt: what a task printed, each piece with its time and its stream.
//!
//! A supervisor writes it, anybody may read it meanwhile. After a header of eight bytes it is a row of frames:
//! time (i64, milliseconds since 1970), stream (u8), length (u32), bytes, length again (so that it can be read from its
//! end), all little-endian. A frame that is cut off at the end of the file is not there yet. The last frame is `End`.

use std::fs::File;
use std::io::{self, BufReader, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::Path;

use matins_core::time::Timestamp;

use crate::system::wall_time;

const MAGIC: &[u8; 8] = b"MATLOG1\n";
const HEAD_BYTES: u64 = 8 + 1 + 4;
const FRAME_BYTES: u64 = HEAD_BYTES + 4;

/// The most that one frame holds.
pub(crate) const CHUNK_BYTES_MAX: usize = 64 << 10;

/// Where a piece of log came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The task's standard output.
    Stdout,
    /// The task's standard error.
    Stderr,
    /// Said by Matins, not by the task.
    Note,
    /// The attempt has ended, nothing follows. Its bytes are empty.
    End,
}

impl Stream {
    const fn code(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Note => 3,
            Self::End => 4,
        }
    }

    fn from_code(code: u8) -> io::Result<Self> {
        [Self::Stdout, Self::Stderr, Self::Note, Self::End]
            .into_iter()
            .find(|stream| stream.code() == code)
            .ok_or_else(|| damaged("a stream without a name"))
    }
}

/// One piece of log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where it begins in the file: rises, and names the piece wherever the file is.
    pub position: u64,
    /// The wall clock when it was read from the task.
    pub at: Timestamp,
    /// Where it came from.
    pub stream: Stream,
    /// What was printed; lines may be cut anywhere.
    pub bytes: Vec<u8>,
}

/// Writes the log of one attempt, up to its limit. It never fails: a full disk drops what does not fit, and says so.
#[derive(Debug)]
pub(crate) struct LogWriter {
    /// `None`: the file could not be made.
    file: Option<File>,
    written: u64,
    bytes_max: u64,
    dropping: bool,
}

impl LogWriter {
    pub(crate) fn create(path: &Path, bytes_max: u64) -> Self {
        let file = File::create(path).and_then(|mut file| file.write_all(MAGIC).map(|()| file)).ok();
        Self { file, written: MAGIC.len() as u64, bytes_max, dropping: false }
    }

    /// Bytes of the file so far, frames included.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// Takes what a task printed: at most [`CHUNK_BYTES_MAX`].
    pub(crate) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if self.dropping {
            return;
        }
        if self.written + FRAME_BYTES + bytes.len() as u64 > self.bytes_max {
            let fits = self.bytes_max.saturating_sub(self.written + FRAME_BYTES) as usize;
            self.append(stream, &bytes[..fits.min(bytes.len())]);
            self.drop_rest(&format!("log limit of {} bytes reached: the rest was dropped", self.bytes_max));
        } else if !self.append(stream, bytes) {
            self.drop_rest("the log could not be written: the rest was dropped");
        }
    }

    /// Goes on with the log of a writer that has died, at its end: a frame that it left in pieces is cut off.
    pub(crate) fn resume(path: &Path) -> io::Result<Self> {
        let mut reader = LogReader::open(path)?;
        let written = reader.whole_end()?;
        let mut file = File::options().write(true).open(path)?;
        file.set_len(written)?;
        file.seek(SeekFrom::Start(written))?;
        Ok(Self { file: Some(file), written, bytes_max: u64::MAX, dropping: false })
    }

    /// Marks the end.
    pub(crate) fn end(&mut self) {
        self.append(Stream::End, &[]);
    }

    fn drop_rest(&mut self, why: &str) {
        self.dropping = true;
        self.append(Stream::Note, why.as_bytes());
    }

    /// Whether it was written whole; if not, no part of it stays.
    fn append(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let Some(file) = &mut self.file else { return false };
        let mut head = [0; HEAD_BYTES as usize];
        head[..8].copy_from_slice(&wall_time().as_millis().to_le_bytes());
        head[8] = stream.code();
        let length = (bytes.len() as u32).to_le_bytes();
        head[9..].copy_from_slice(&length);
        let total = FRAME_BYTES + bytes.len() as u64;
        let parts = [IoSlice::new(&head), IoSlice::new(bytes), IoSlice::new(&length)];
        if file.write_vectored(&parts).is_ok_and(|written| written as u64 == total) {
            self.written += total;
            return true;
        }
        // A frame in pieces would make all that follows unreadable.
        let cut = file.set_len(self.written).and_then(|()| file.seek(SeekFrom::Start(self.written)));
        if cut.is_err() {
            self.file = None;
        }
        false
    }
}

/// The frames of a whole log that lies in memory, as a pack holds it. What is cut off at its end is left out.
pub fn frames_of(log: &[u8]) -> io::Result<Vec<Frame>> {
    let mut rest = log.strip_prefix(MAGIC).ok_or_else(|| damaged("another file"))?;
    let mut frames = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk::<{ HEAD_BYTES as usize }>() {
        let (at, stream, length) = parse_head(head)?;
        let position = (log.len() - rest.len()) as u64;
        let Some((bytes, behind)) = behind.split_at_checked(length as usize) else { break };
        let Some((_length, behind)) = behind.split_first_chunk::<4>() else { break };
        frames.push(Frame { position, at, stream, bytes: bytes.to_vec() });
        rest = behind;
    }
    Ok(frames)
}

/// Reads the log of one attempt, also while it is being written.
#[derive(Debug)]
pub struct LogReader {
    file: BufReader<File>,
    position: u64,
    /// No frame crosses this: the length of the file when it was last looked at.
    known: u64,
}

impl LogReader {
    /// Opens a log at its first frame.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::with_capacity(CHUNK_BYTES_MAX, File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => {}
            Ok(()) => return Err(damaged("another file")),
            Err(error) => return Err(error),
        }
        Ok(Self { file, position: MAGIC.len() as u64, known: 0 })
    }

    /// The next frame; `None`: nothing more has been written yet.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some((at, stream, length)) = self.next_head()? else { return Ok(None) };
        let total = FRAME_BYTES + u64::from(length);
        if !self.is_written(total)? {
            self.file.seek_relative(-(HEAD_BYTES as i64))?;
            return Ok(None);
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        self.file.seek_relative(4)?;
        let frame = Frame { position: self.position, at, stream, bytes };
        self.position += total;
        Ok(Some(frame))
    }

    /// Goes to where the last `lines` lines begin, or to the first frame if there are fewer. The first frame that is
    /// read then may begin with the end of an earlier line: [`LogReader::tail`] gives the exact text.
    fn seek_back(&mut self, lines: u64) -> io::Result<u64> {
        let mut at = self.whole_end()?;
        let mut seen = 0;
        let mut is_last = true;
        while at > MAGIC.len() as u64 && seen <= lines {
            let (start, stream, bytes) = self.frame_before(at)?;
            if !matches!(stream, Stream::End) {
                let newlines = bytes.split(|byte| *byte == b'\n').count() as u64 - 1;
                // The newline at the very end ends the last line and begins none.
                seen += newlines - u64::from(is_last && bytes.ends_with(b"\n"));
                is_last = false;
            }
            at = start;
        }
        self.seek_to(at)?;
        Ok((seen + 1).saturating_sub(lines))
    }

    /// Goes to the last `lines` lines of all streams and gives what there is of them; further frames follow by
    /// [`LogReader::next_frame`].
    pub fn tail(&mut self, lines: u64) -> io::Result<Vec<Frame>> {
        let mut skip = self.seek_back(lines)?;
        let mut frames = Vec::new();
        while let Some(mut frame) = self.next_frame()? {
            while skip > 0 && !frame.bytes.is_empty() {
                let line_end = frame.bytes.iter().position(|byte| *byte == b'\n');
                frame.bytes.drain(..line_end.map_or(frame.bytes.len(), |end| end + 1));
                skip -= u64::from(line_end.is_some());
            }
            if !frame.bytes.is_empty() || frame.stream == Stream::End {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    fn next_head(&mut self) -> io::Result<Option<(Timestamp, Stream, u32)>> {
        if !self.is_written(HEAD_BYTES)? {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES as usize];
        self.file.read_exact(&mut head)?;
        parse_head(&head).map(Some)
    }

    fn is_written(&mut self, bytes: u64) -> io::Result<bool> {
        if self.position + bytes > self.known {
            self.known = self.file.get_ref().metadata()?.len();
        }
        Ok(self.position + bytes <= self.known)
    }

    /// Where the last whole frame ends. Found from the front only if the end is cut off.
    fn whole_end(&mut self) -> io::Result<u64> {
        let length = self.file.get_ref().metadata()?.len();
        if length == MAGIC.len() as u64 || self.frame_before(length).is_ok() {
            return Ok(length);
        }
        self.seek_to(MAGIC.len() as u64)?;
        while self.next_frame()?.is_some() {}
        Ok(self.position)
    }

    fn frame_before(&mut self, end: u64) -> io::Result<(u64, Stream, Vec<u8>)> {
        let mut length = [0; 4];
        self.seek_to(end.checked_sub(4).ok_or_else(|| damaged("a frame that is cut off"))?)?;
        self.file.read_exact(&mut length)?;
        let total = FRAME_BYTES + u64::from(u32::from_le_bytes(length));
        let start = end.checked_sub(total).filter(|start| *start >= MAGIC.len() as u64);
        let start = start.ok_or_else(|| damaged("a frame that is cut off"))?;
        self.seek_to(start)?;
        let mut head = [0; HEAD_BYTES as usize];
        self.file.read_exact(&mut head)?;
        if head[9..] != length {
            return Err(damaged("a frame that is cut off"));
        }
        let (_, stream, length) = parse_head(&head)?;
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        Ok((start, stream, bytes))
    }

    fn seek_to(&mut self, position: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(position))?;
        self.position = position;
        Ok(())
    }
}

fn parse_head(head: &[u8; HEAD_BYTES as usize]) -> io::Result<(Timestamp, Stream, u32)> {
    let (at, rest) = head.split_first_chunk::<8>().expect("the head is longer");
    let length = u32::from_le_bytes(*rest[1..].first_chunk().expect("four bytes are left"));
    if length as usize > CHUNK_BYTES_MAX {
        return Err(damaged("a frame above the limit"));
    }
    Ok((Timestamp::from_millis(i64::from_le_bytes(*at)), Stream::from_code(rest[0])?, length))
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a log of Matins: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(frames: &[Frame]) -> String {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes.clone()).collect();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn what_is_written_reads_back_while_it_grows() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = LogWriter::create(&path, 1 << 20);
        let mut reader = LogReader::open(&path).unwrap();
        assert_eq!(reader.next_frame().unwrap(), None);
        writer.write(Stream::Stdout, b"one\n");
        writer.write(Stream::Stderr, b"two\n");
        let (first, second) = (reader.next_frame().unwrap().unwrap(), reader.next_frame().unwrap().unwrap());
        assert_eq!((first.stream, first.bytes.as_slice()), (Stream::Stdout, &b"one\n"[..]));
        assert_eq!((second.stream, second.bytes.as_slice()), (Stream::Stderr, &b"two\n"[..]));
        assert!(first.position < second.position);
        // A frame that is half there is not there yet.
        let whole = std::fs::read(&path).unwrap();
        writer.end();
        let ended = std::fs::read(&path).unwrap();
        for cut in whole.len()..ended.len() {
            std::fs::write(&path, &ended[..cut]).unwrap();
            assert_eq!(reader.next_frame().unwrap(), None, "{cut}");
            assert_eq!(text(&LogReader::open(&path).unwrap().tail(1).unwrap()), "two\n", "{cut}");
        }
        std::fs::write(&path, &ended).unwrap();
        assert_eq!(reader.next_frame().unwrap().unwrap().stream, Stream::End);
    }

    #[test]
    fn a_tail_is_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = LogWriter::create(&path, 1 << 20);
        for piece in ["a\nb", "c\nd\n", "e\nf"] {
            writer.write(Stream::Stdout, piece.as_bytes());
        }
        let tail = |lines| text(&LogReader::open(&path).unwrap().tail(lines).unwrap());
        assert_eq!([tail(1), tail(2), tail(3)], ["f", "e\nf", "d\ne\nf"]);
        assert_eq!([tail(4), tail(5), tail(99)], ["bc\nd\ne\nf", "a\nbc\nd\ne\nf", "a\nbc\nd\ne\nf"]);
        writer.write(Stream::Stdout, b"\n");
        writer.end();
        assert_eq!([tail(0), tail(1), tail(2)], ["", "f\n", "e\nf\n"]);
    }

    #[test]
    fn the_limit_drops_the_rest_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut writer = LogWriter::create(&path, 1_000);
        for _ in 0..100 {
            writer.write(Stream::Stdout, &[b'x'; 100]);
        }
        writer.end();
        assert!(writer.written() < 1_200, "{}", writer.written());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), writer.written());
        let mut reader = LogReader::open(&path).unwrap();
        let frames: Vec<Frame> = std::iter::from_fn(|| reader.next_frame().unwrap()).collect();
        let note = &frames[frames.len() - 2];
        assert_eq!(note.stream, Stream::Note);
        assert!(String::from_utf8_lossy(&note.bytes).contains("1000 bytes reached"));
        let printed: usize =
            frames.iter().filter(|f| f.stream == Stream::Stdout).map(|f| f.bytes.len()).sum();
        assert!(printed > 800, "{printed}");
    }
}
