//! Backfills on the wire.

use matins_core::id::BackfillId;
use matins_core::state::{BackfillRow, BackfillState, Reprocess};
use matins_proto::v1::create_backfill_request::Reprocess as WireReprocess;
use matins_proto::v1::{Backfill, BackfillCounts, backfill};

use super::reason::reason;
use super::task::json;
use super::wire_time;

/// A backfill. The state of one that is over says how its runs ended.
pub(crate) fn backfill(id: BackfillId, row: &BackfillRow) -> Backfill {
    let counts = &row.counts;
    let total = counts.waiting + counts.active + counts.success + counts.failed + counts.cancelled;
    Backfill {
        id: id.to_string(),
        workflow: row.schedule.workflow.to_string(),
        schedule: row.schedule.schedule.to_string(),
        from: Some(wire_time(row.from)),
        to: Some(wire_time(row.to)),
        reprocess: reprocess(row.reprocess).into(),
        max_active: row.active_max,
        newest_first: row.newest_first,
        params: Some(json(&row.params)),
        state: state(row.state).into(),
        reason: (row.state == BackfillState::Failed)
            .then(|| reason("runs", format!("{} of {total} runs failed", counts.failed))),
        created_at: Some(wire_time(row.created_at)),
        finished_at: row.ended_at.map(wire_time),
        counts: Some(BackfillCounts {
            total,
            waiting: counts.waiting,
            active: counts.active,
            success: counts.success,
            failed: counts.failed,
            cancelled: counts.cancelled,
            left_out: counts.left_out,
            left_alone: counts.left_alone,
            counted: row.cursor.is_none(),
        }),
        changed_index: row.changed.0,
    }
}

/// The state that the wire has for a backfill's state.
pub(crate) const fn state(state: BackfillState) -> backfill::State {
    match state {
        BackfillState::Running => backfill::State::Running,
        BackfillState::Paused => backfill::State::Paused,
        BackfillState::Stopping => backfill::State::Stopping,
        BackfillState::Success => backfill::State::Success,
        BackfillState::Failed => backfill::State::Failed,
        BackfillState::Cancelled => backfill::State::Cancelled,
    }
}

/// Which ticks run again, on the wire.
pub(crate) const fn reprocess(reprocess: Reprocess) -> WireReprocess {
    match reprocess {
        Reprocess::Missing => WireReprocess::Missing,
        Reprocess::Failed => WireReprocess::Failed,
        Reprocess::All => WireReprocess::All,
    }
}
