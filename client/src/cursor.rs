//! What a stream has told so far: where to go on elsewhere, what was heard already, and the picture it gives.

use std::collections::BTreeSet;

use matins_proto::v1::{
    Backfill, LogPosition, ReadLogsRequest, ReadLogsResponse, Run, WatchBackfillRequest,
    WatchBackfillResponse, WatchRunRequest, WatchRunResponse, WatchRunsRequest, WatchRunsResponse,
    log_notice,
};
use prost::Message;

use crate::call::method_path;
use crate::follow::Follow;
use crate::view::{update_run, update_runs};

/// A place in a stream, from which any node can go on.
pub trait Cursor: Send {
    /// What opens the stream.
    type Ask: Message + Clone + Send + Sync + 'static;
    /// What it consists of.
    type Piece: Message + Default + Send + Sync + 'static;

    /// `/matins.v1.SERVICE/METHOD`.
    const PATH: &'static str;
    /// Whether a stream that a node closes has come to its end; if not, only a piece can say so.
    const ENDS_BY_CLOSING: bool;

    /// Asks for what comes after all that was heard.
    fn ask(&self) -> Self::Ask;

    /// Takes a piece in, and says what is new in it.
    fn hear(&mut self, piece: Self::Piece) -> Heard<Self::Piece>;
}

/// What a piece brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard<P> {
    /// Something new.
    News(P),
    /// Something new, and it is the end.
    Last(P),
    /// Nothing for the user: a sign of life, or what was heard before.
    Nothing,
}

/// Where the watch of one run is.
#[derive(Clone, Debug)]
pub struct RunCursor {
    ask: WatchRunRequest,
    run: Run,
}

impl RunCursor {
    pub(crate) fn new(ask: WatchRunRequest) -> Self {
        Self { ask, run: Run::default() }
    }
}

impl Cursor for RunCursor {
    type Ask = WatchRunRequest;
    type Piece = WatchRunResponse;

    const PATH: &'static str = method_path!(Runs.Watch);
    const ENDS_BY_CLOSING: bool = false;

    fn ask(&self) -> WatchRunRequest {
        self.ask.clone()
    }

    fn hear(&mut self, piece: WatchRunResponse) -> Heard<WatchRunResponse> {
        self.ask.after_index = piece.index;
        update_run(&mut self.run, &piece);
        if !self.run.id.is_empty() {
            self.ask.run.clone_from(&self.run.id);
        }
        if piece.ended {
            Heard::Last(piece)
        } else if piece.resync || piece.run.is_some() || !piece.tasks.is_empty() || !piece.items.is_empty() {
            Heard::News(piece)
        } else {
            Heard::Nothing
        }
    }
}

impl Follow<RunCursor> {
    /// The run as all that was heard so far makes it.
    pub fn run(&self) -> &Run {
        &self.cursor.run
    }
}

/// Where the watch of a list of runs is.
#[derive(Clone, Debug)]
pub struct RunsCursor {
    ask: WatchRunsRequest,
    runs: Vec<Run>,
}

impl RunsCursor {
    pub(crate) fn new(ask: WatchRunsRequest) -> Self {
        Self { ask, runs: Vec::new() }
    }
}

impl Cursor for RunsCursor {
    type Ask = WatchRunsRequest;
    type Piece = WatchRunsResponse;

    const PATH: &'static str = method_path!(Runs.WatchList);
    const ENDS_BY_CLOSING: bool = false;

    fn ask(&self) -> WatchRunsRequest {
        self.ask.clone()
    }

    fn hear(&mut self, piece: WatchRunsResponse) -> Heard<WatchRunsResponse> {
        self.ask.after_index = piece.index;
        update_runs(&mut self.runs, &piece);
        if piece.resync || !piece.runs.is_empty() || !piece.removed.is_empty() {
            Heard::News(piece)
        } else {
            Heard::Nothing
        }
    }
}

impl Follow<RunsCursor> {
    /// The list as all that was heard so far makes it, the newest run first.
    pub fn runs(&self) -> &[Run] {
        &self.cursor.runs
    }
}

/// Where the watch of a backfill is.
#[derive(Clone, Debug)]
pub struct BackfillCursor {
    ask: WatchBackfillRequest,
    backfill: Backfill,
}

impl BackfillCursor {
    pub(crate) fn new(ask: WatchBackfillRequest) -> Self {
        Self { ask, backfill: Backfill::default() }
    }
}

impl Cursor for BackfillCursor {
    type Ask = WatchBackfillRequest;
    type Piece = WatchBackfillResponse;

    const PATH: &'static str = method_path!(Backfills.Watch);
    const ENDS_BY_CLOSING: bool = false;

    fn ask(&self) -> WatchBackfillRequest {
        self.ask.clone()
    }

    fn hear(&mut self, piece: WatchBackfillResponse) -> Heard<WatchBackfillResponse> {
        self.ask.after_index = piece.index;
        if let Some(backfill) = &piece.backfill {
            self.backfill.clone_from(backfill);
        }
        if piece.ended {
            Heard::Last(piece)
        } else if piece.backfill.is_some() {
            Heard::News(piece)
        } else {
            Heard::Nothing
        }
    }
}

impl Follow<BackfillCursor> {
    /// The backfill as it was told last.
    pub fn backfill(&self) -> &Backfill {
        &self.cursor.backfill
    }
}

/// Where a reading of logs is.
#[derive(Clone, Debug)]
pub struct LogCursor {
    /// Its `after` is sorted by task and attempt.
    ask: ReadLogsRequest,
    /// Attempts whose end was told: task and number.
    ended: BTreeSet<(String, u32)>,
}

impl LogCursor {
    pub(crate) fn new(mut ask: ReadLogsRequest) -> Self {
        ask.after.sort_by(|a, b| (&a.task, a.attempt).cmp(&(&b.task, b.attempt)));
        Self { ask, ended: BTreeSet::new() }
    }

    /// How far the log of this attempt was read; makes a place for it.
    fn position(&mut self, task: &str, attempt: u32) -> &mut u64 {
        let found =
            self.ask.after.binary_search_by(|it| (it.task.as_str(), it.attempt).cmp(&(task, attempt)));
        let place = found.unwrap_or_else(|place| {
            let start = LogPosition { task: task.to_owned(), attempt, position: 0 };
            self.ask.after.insert(place, start);
            place
        });
        &mut self.ask.after[place].position
    }
}

impl Cursor for LogCursor {
    type Ask = ReadLogsRequest;
    type Piece = ReadLogsResponse;

    const PATH: &'static str = method_path!(Logs.Read);
    const ENDS_BY_CLOSING: bool = true;

    fn ask(&self) -> ReadLogsRequest {
        self.ask.clone()
    }

    fn hear(&mut self, mut piece: ReadLogsResponse) -> Heard<ReadLogsResponse> {
        if !piece.run_id.is_empty() {
            self.ask.run.clone_from(&piece.run_id);
        }
        if let Some(last) = piece.lines.last().map(|line| line.position) {
            let position = self.position(&piece.task, piece.attempt);
            piece.lines.retain(|line| line.position > *position);
            *position = last.max(*position);
        }
        if self.is_repeated(&piece) {
            piece.notice = None;
        }
        if piece.lines.is_empty() && piece.notice.is_none() { Heard::Nothing } else { Heard::News(piece) }
    }
}

impl LogCursor {
    /// Whether its notice tells an end that was told before.
    fn is_repeated(&mut self, piece: &ReadLogsResponse) -> bool {
        let Some(notice) = &piece.notice else { return false };
        match notice.kind() {
            log_notice::Kind::End | log_notice::Kind::Lost | log_notice::Kind::LogExpired => {
                !self.ended.insert((piece.task.clone(), piece.attempt))
            }
            log_notice::Kind::Started
            | log_notice::Kind::Dropped
            | log_notice::Kind::Unreachable
            | log_notice::Kind::Unspecified => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_moves_the_index_and_is_no_news() {
        let mut cursor = RunsCursor::new(WatchRunsRequest::default());
        let change = |index, removed: &[&str]| WatchRunsResponse {
            index,
            removed: removed.iter().map(|id| (*id).to_owned()).collect(),
            ..Default::default()
        };
        assert_eq!(cursor.hear(change(7, &[])), Heard::Nothing);
        assert_eq!(cursor.ask().after_index, 7);
        assert_eq!(cursor.hear(change(8, &["run-1"])), Heard::News(change(8, &["run-1"])));

        let mut cursor = BackfillCursor::new(WatchBackfillRequest::default());
        let change = |index, backfill: Option<Backfill>, ended| WatchBackfillResponse {
            index,
            resync: false,
            backfill,
            ended,
        };
        assert_eq!(cursor.hear(change(7, None, false)), Heard::Nothing);
        let last = change(9, Some(Backfill::default()), true);
        assert_eq!(cursor.hear(last.clone()), Heard::Last(last));
        assert_eq!(cursor.ask().after_index, 9);
    }
}
