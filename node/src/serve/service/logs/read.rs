//! Reading logs attempt by attempt, and following those that come (PROTOCOL 6.7).
//!
//! A reader's stream pulls: the next message is made when it is asked for. Attempts are taken in order of task and number; a
//! follower stays with one attempt until its log has ended and then looks for the next.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use matins_core::history::RetiredRun;
use matins_core::id::{RunId, TaskId};
use matins_core::state::{AttemptRow, AttemptState, LogPlace, LogState, TaskState};
use matins_core::time::Timestamp;
use matins_proto::v1::error::Reason;
use matins_proto::v1::log_notice::Kind;
use matins_proto::v1::{LogLine, LogNotice, ReadLogsRequest, ReadLogsResponse, log_line};
use tokio_stream::Stream;
use tonic::Status;

use super::lines::Lines;
use crate::serve::api::{Api, core_time};
use crate::serve::cluster::{LogPieces, LogStream, TailAsk};
use crate::serve::error::ApiError;
use crate::serve::pulse::Pulse;
use crate::serve::view::task::TaskViews;

/// A follower hears something at least so often.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// Lines in one message.
const LINES_MAX: usize = 500;
/// Bytes of lines in one message, about.
const BYTES_MAX: usize = 1 << 20;

type Messages = Pin<Box<dyn Stream<Item = Result<ReadLogsResponse, Status>> + Send>>;

/// An attempt, as the order of reading has it.
type Key = (TaskId, u32);

struct Reader {
    api: Api,
    pulse: Pulse,
    ask: ReadLogsRequest,
    run: RunId,
    /// What was heard already, by address and number.
    after: BTreeMap<(String, u32), u64>,
    /// The attempts that are read through.
    done: BTreeSet<Key>,
    current: Option<Current>,
    is_first: bool,
    /// There was nothing to read, or it could not be reached: a change is waited for.
    is_idle: bool,
    is_over: bool,
}

/// The attempt that is being read.
struct Current {
    key: Key,
    address: String,
    pieces: LogPieces,
    lines: Lines,
    /// What the log is when its pieces end.
    at_end: Kind,
    after: Option<u64>,
    /// Complete lines that wait, where only the last ones are wanted.
    tail: Option<(usize, Vec<LogLine>)>,
    is_dropped: bool,
}

pub(super) async fn read(api: Api, ask: ReadLogsRequest) -> Result<Messages, ApiError> {
    let read = api.read(false).await?;
    let found = api.find_run(&read.state, &ask.run).await?;
    let run = found.id();
    let rows =
        found.rows(&read.state).ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &ask.run))?;
    let views = TaskViews::new(&rows, &read.state);
    if !ask.task.is_empty() {
        let id = views.find(&ask.task).ok_or_else(|| {
            ApiError::not_found(Reason::TaskNotFound, "task", &ask.task).with("run", run.to_string())
        })?;
        let has = |number: u32| number >= 1 && number as usize <= views.attempts(id).len();
        if let Some(number) = ask.attempt.filter(|number| !has(*number) && !ask.follow && id.item.is_some()) {
            return Err(ApiError::not_found(Reason::AttemptNotFound, "attempt", &number.to_string())
                .with("run", run.to_string())
                .with("task", ask.task.clone()));
        }
    }
    let after = ask.after.iter().map(|at| ((at.task.clone(), at.attempt), at.position)).collect();
    let pulse = Pulse::new(api.clone());
    let reader = Reader {
        api,
        pulse,
        ask,
        run,
        after,
        done: BTreeSet::new(),
        current: None,
        is_first: true,
        is_idle: false,
        is_over: false,
    };
    Ok(Box::pin(stream::unfold(reader, |mut reader| async move {
        if reader.is_over {
            return None;
        }
        let message = reader.next().await.transpose()?;
        reader.is_over = message.is_err();
        Some((message.map_err(Status::from), reader))
    })))
}

impl Reader {
    /// The next message; `None` ends the stream.
    async fn next(&mut self) -> Result<Option<ReadLogsResponse>, ApiError> {
        if std::mem::take(&mut self.is_first) {
            return Ok(Some(ReadLogsResponse { run_id: self.run.to_string(), ..Default::default() }));
        }
        loop {
            if let Some(current) = &mut self.current {
                let message = current.next(&self.ask).await;
                if message.notice.as_ref().is_some_and(|notice| notice.kind() != Kind::Dropped) {
                    let is_unreachable =
                        message.notice.as_ref().is_some_and(|it| it.kind() == Kind::Unreachable);
                    self.is_idle = is_unreachable && self.ask.follow;
                    if !self.is_idle {
                        self.done.insert(current.key);
                    }
                    if let Some(last) = message.lines.last() {
                        self.after.insert((current.address.clone(), current.key.1), last.position);
                    }
                    self.current = None;
                } else if let Some(last) = message.lines.last() {
                    self.after.insert((current.address.clone(), current.key.1), last.position);
                }
                return Ok(Some(message));
            }
            // The rows tell which attempts there are by now; without any left, a follower waits for a change.
            let state =
                if std::mem::take(&mut self.is_idle) { self.pulse.next().await? } else { self.api.state() };
            let found = self.api.found_run(&state, self.run).await?;
            let rows = found
                .rows(&state)
                .ok_or_else(|| ApiError::not_found(Reason::RunNotFound, "run", &self.run.to_string()))?;
            let views = TaskViews::new(&rows, &state);
            match self.next_attempt(&rows, &views) {
                Some((key, address, row)) => {
                    self.current = Some(self.open(key, address, &row).await);
                }
                None if !self.ask.follow || self.is_settled(&rows, &views) => return Ok(None),
                // A sign of life.
                None => {
                    self.is_idle = true;
                    return Ok(Some(ReadLogsResponse::default()));
                }
            }
        }
    }

    /// The first attempt that is wanted and not read through.
    fn next_attempt(&self, rows: &RetiredRun, views: &TaskViews<'_>) -> Option<(Key, String, AttemptRow)> {
        let wanted = self.wanted(views);
        let address = |id: TaskId| match id.item {
            Some(item) => format!("{}.{item}", views.name(id.task)),
            None => views.name(id.task),
        };
        let asked = |id: TaskId, number: u32| match self.ask.attempt {
            Some(asked) => number == asked,
            // While following, later attempts are read too.
            None => number as usize == views.attempts(id).len() || self.done.contains(&(id, number - 1)),
        };
        rows.attempts
            .iter()
            .filter(|((id, number), _)| {
                wanted.is_none_or(|wanted| is_within(wanted, *id))
                    && asked(*id, *number)
                    && !self.done.contains(&(*id, *number))
                    && (!self.ask.failed || has_failed(views, *id))
            })
            .map(|((id, number), row)| ((*id, *number), address(*id), row.clone()))
            .next()
    }

    fn wanted(&self, views: &TaskViews<'_>) -> Option<TaskId> {
        (!self.ask.task.is_empty()).then(|| views.find(&self.ask.task)).flatten()
    }

    /// Whether nothing can come any more of what was asked for.
    fn is_settled(&self, rows: &RetiredRun, views: &TaskViews<'_>) -> bool {
        let task = self.wanted(views).and_then(|id| views.row(id));
        !rows.run.is_active() || task.is_some_and(|row| row.state.has_ended())
    }

    // `&mut`, since a stream of pieces can be sent between threads but not shared.
    async fn open(&mut self, (id, number): Key, address: String, row: &AttemptRow) -> Current {
        let after = self.after.get(&(address.clone(), number)).copied();
        let is_over = matches!(row.state, AttemptState::Ended { .. });
        let tail = self.ask.tail.filter(|_| after.is_none() && (is_over || !self.ask.follow));
        let (pieces, at_end) = self.pieces(row, after).await;
        Current {
            key: (id, number),
            address,
            pieces,
            lines: Lines::default(),
            at_end,
            after,
            tail: tail.map(|count| (count as usize, Vec::new())),
            is_dropped: false,
        }
    }

    async fn pieces(&mut self, row: &AttemptRow, after: Option<u64>) -> (LogPieces, Kind) {
        let is_over = matches!(row.state, AttemptState::Ended { .. });
        match &row.log {
            LogState::At(executor) => {
                let lines = self.ask.tail.filter(|_| after.is_none());
                // Lines may begin before the position that was heard: pieces are read from their beginning.
                let ask =
                    TailAsk { fence: row.fence, lines, after: None, follow: self.ask.follow && !is_over };
                match self.api.logs.tail(*executor, ask).await {
                    Ok(pieces) => {
                        (pieces, if is_over || self.ask.follow { Kind::End } else { Kind::Unspecified })
                    }
                    Err(error) => (stream::iter([Err(error)]).boxed(), Kind::Unreachable),
                }
            }
            LogState::Attached(LogPlace::Pack { digest, offset, bytes }) => {
                match self.api.logs.packed(*digest, *offset, *bytes).await {
                    Ok(pieces) => (stream::iter(pieces.into_iter().map(Ok)).boxed(), Kind::End),
                    Err(error) => (stream::iter([Err(error)]).boxed(), Kind::Unreachable),
                }
            }
            LogState::Empty => (stream::empty().boxed(), Kind::End),
            LogState::Attached(LogPlace::Lost) | LogState::Lost => (stream::empty().boxed(), Kind::Lost),
            LogState::Expired => (stream::empty().boxed(), Kind::LogExpired),
        }
    }
}

fn is_within(wanted: TaskId, id: TaskId) -> bool {
    // A fan-out means all its items.
    id.task == wanted.task && (wanted.item.is_none() || wanted.item == id.item)
}

fn has_failed(views: &TaskViews<'_>, id: TaskId) -> bool {
    let has_task_failed = views.row(id).is_some_and(|row| matches!(row.state, TaskState::Failed(_)));
    let last = views.attempts(id).last();
    let is_bad = |row: &&AttemptRow| match &row.state {
        AttemptState::Ended { outcome, .. } => *outcome != matins_core::state::AttemptOutcome::Success,
        AttemptState::Running | AttemptState::Publishing | AttemptState::Stopping { .. } => false,
    };
    has_task_failed || last.is_some_and(is_bad)
}

impl Current {
    /// The next lines, or what there is to say at the end.
    async fn next(&mut self, ask: &ReadLogsRequest) -> ReadLogsResponse {
        let since = ask.since.map(core_time).filter(|_| self.after.is_none());
        let mut lines = Vec::new();
        let mut bytes = 0;
        while lines.len() < LINES_MAX && bytes < BYTES_MAX {
            // What is at hand goes together; a quiet log is waited for only when there is nothing to tell.
            let wait = if lines.is_empty() { QUIET_MAX } else { Duration::from_millis(20) };
            let piece = match tokio::time::timeout(wait, self.pieces.next()).await {
                Err(_) => break,
                // That the rest was dropped stands at the very end of a log: it is told before the end is.
                Ok(None) if self.is_dropped => {
                    self.pieces = stream::empty().boxed();
                    break;
                }
                Ok(None) => {
                    let rest = self.lines.finish();
                    self.take(rest, (ask, since), &mut lines);
                    return self.last(lines, None);
                }
                Ok(Some(Err(error))) => return self.last(lines, Some(error.0)),
                Ok(Some(Ok(piece))) => piece,
            };
            self.is_dropped |= piece.stream == LogStream::Note;
            bytes += piece.text.len();
            let new = self.lines.add(&piece);
            self.take(new, (ask, since), &mut lines);
        }
        let notice = std::mem::take(&mut self.is_dropped).then(|| notice(Kind::Dropped, DROPPED));
        self.message(lines, notice)
    }

    fn take(
        &mut self,
        new: Vec<LogLine>,
        (ask, since): (&ReadLogsRequest, Option<Timestamp>),
        lines: &mut Vec<LogLine>,
    ) {
        let is_wanted = |line: &LogLine| {
            let stream = ask.streams.is_empty()
                || ask.streams().any(|stream: log_line::Stream| stream == line.stream());
            let is_new = self.after.is_none_or(|after| line.position > after);
            let is_late = since.is_none_or(|since| line.time.is_some_and(|at| core_time(at) >= since));
            stream && is_new && is_late
        };
        let wanted = new.into_iter().filter(is_wanted);
        match &mut self.tail {
            Some((count, kept)) => {
                kept.extend(wanted);
                let extra = kept.len().saturating_sub(*count);
                kept.drain(..extra);
            }
            None => lines.extend(wanted),
        }
    }

    fn last(&mut self, mut lines: Vec<LogLine>, fault: Option<String>) -> ReadLogsResponse {
        if let Some((_, kept)) = self.tail.take() {
            lines.extend(kept);
        }
        let notice = match (fault, self.at_end) {
            (Some(fault), _) => notice(Kind::Unreachable, &fault),
            (None, Kind::Lost) => notice(Kind::Lost, LOST),
            (None, Kind::LogExpired) => notice(Kind::LogExpired, EXPIRED),
            (None, Kind::End) => notice(Kind::End, "the log is complete"),
            (None, Kind::Unspecified | Kind::Dropped | Kind::Unreachable | Kind::Started) => {
                LogNotice { kind: Kind::Unspecified.into(), text: String::new() }
            }
        };
        self.message(lines, Some(notice))
    }

    fn message(&self, lines: Vec<LogLine>, notice: Option<LogNotice>) -> ReadLogsResponse {
        ReadLogsResponse {
            task: self.address.clone(),
            attempt: self.key.1,
            lines,
            notice,
            run_id: String::new(),
        }
    }
}

const DROPPED: &str = "the attempt printed more than 256 MiB; the rest was dropped";
const EXPIRED: &str =
    "the log is gone: retention took it (`matins cluster settings` says how long logs are kept)";
const LOST: &str = "log lost: its executor died before the log could be copied";

fn notice(kind: Kind, text: &str) -> LogNotice {
    LogNotice { kind: kind.into(), text: text.to_owned() }
}
