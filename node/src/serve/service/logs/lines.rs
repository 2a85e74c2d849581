//! Pieces of a log, cut anywhere, made into lines: one stream must not tear the lines of the other.

use bytes::Bytes;
use matins_core::time::Timestamp;
use matins_proto::v1::{LogLine, log_line};

use crate::serve::api::wire_time;
use crate::serve::cluster::{LogPiece, LogStream};

/// A longer line is told in pieces.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Makes lines of the pieces of one log.
///
/// A line is named by the position of the piece in which it begins, plus how far in it: pieces are farther apart than
/// they are long, so positions rise from line to line and are the same on every node.
#[derive(Debug, Default)]
pub(super) struct Lines {
    stdout: Open,
    stderr: Open,
}

/// A line that has not ended.
#[derive(Debug, Default)]
struct Open {
    text: Vec<u8>,
    begins: Option<(u64, Timestamp)>,
}

impl Lines {
    /// The lines that end in this piece. A note of Matins is none.
    pub(super) fn add(&mut self, piece: &LogPiece) -> Vec<LogLine> {
        let (open, stream) = match piece.stream {
            LogStream::Stdout => (&mut self.stdout, log_line::Stream::Stdout),
            LogStream::Stderr => (&mut self.stderr, log_line::Stream::Stderr),
            LogStream::Note => return Vec::new(),
        };
        let mut lines = Vec::new();
        let mut at = 0;
        while at < piece.text.len() {
            let rest = &piece.text[at..];
            let room = LINE_BYTES_MAX - open.text.len();
            let end = rest.iter().take(room + 1).position(|byte| *byte == b'\n');
            open.begins.get_or_insert((piece.position + at as u64, piece.at));
            if let Some(end) = end {
                open.text.extend_from_slice(&rest[..end]);
                lines.extend(open.take(stream, Whole::Yes));
                at += end + 1;
                continue;
            }
            let taken = rest.len().min(room);
            open.text.extend_from_slice(&rest[..taken]);
            at += taken;
            if open.text.len() == LINE_BYTES_MAX {
                lines.extend(open.take(stream, Whole::No));
            }
        }
        lines
    }

    /// What is left when the log has ended: lines without an end.
    pub(super) fn finish(&mut self) -> Vec<LogLine> {
        let stdout = self.stdout.take(log_line::Stream::Stdout, Whole::No);
        let stderr = self.stderr.take(log_line::Stream::Stderr, Whole::No);
        let mut lines: Vec<LogLine> = stdout.into_iter().chain(stderr).collect();
        lines.sort_by_key(|line| line.position);
        lines
    }
}

/// Whether a line ends with a line end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

impl Open {
    fn take(&mut self, stream: log_line::Stream, whole: Whole) -> Option<LogLine> {
        let (position, at) = self.begins.take()?;
        let text = Bytes::from(std::mem::take(&mut self.text));
        let complete = whole == Whole::Yes;
        Some(LogLine { position, time: Some(wire_time(at)), stream: stream.into(), text, complete })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(position: u64, stream: LogStream, text: &str) -> LogPiece {
        LogPiece { position, at: Timestamp::from_millis(5), stream, text: text.into() }
    }

    fn told(lines: &[LogLine]) -> Vec<(u64, &str, bool)> {
        let text = |line: &LogLine| (line.position, line.complete);
        lines
            .iter()
            .map(|line| (text(line).0, std::str::from_utf8(&line.text).unwrap(), text(line).1))
            .collect()
    }

    #[test]
    fn streams_do_not_tear_each_other() {
        let mut lines = Lines::default();
        assert_eq!(told(&lines.add(&piece(8, LogStream::Stdout, "one\ntw"))), [(8, "one", true)]);
        assert_eq!(told(&lines.add(&piece(40, LogStream::Stderr, "bad\n"))), [(40, "bad", true)]);
        assert_eq!(
            told(&lines.add(&piece(70, LogStream::Stdout, "o\n\nend"))),
            [(12, "two", true), (72, "", true)]
        );
        assert_eq!(told(&lines.finish()), [(73, "end", false)]);
        assert!(lines.finish().is_empty());
    }

    #[test]
    fn a_long_line_is_told_in_pieces() {
        let mut lines = Lines::default();
        let text = "x".repeat(LINE_BYTES_MAX + 3) + "\n";
        let cut = lines.add(&piece(8, LogStream::Stdout, &text));
        let lengths: Vec<_> = cut.iter().map(|line| (line.text.len(), line.complete)).collect();
        assert_eq!(lengths, [(LINE_BYTES_MAX, false), (3, true)]);
    }
}
