//! Executors and pools on the wire.

use matins_core::State;
use matins_core::id::{ExecutorId, PoolName};
use matins_core::state::{ExecutorRow, LimitId, PoolRow};
use matins_proto::v1::{Executor, Pool, executor};

use super::wire_time;

/// An executor.
pub(crate) fn executor(id: ExecutorId, row: &ExecutorRow, state: &State) -> Executor {
    let session = state.sessions.get(&(id, row.session));
    let holds = session.is_some_and(|session| !session.is_expired);
    let wire = if !holds {
        executor::State::Gone
    } else if row.is_leaving {
        executor::State::Leaving
    } else if row.is_cordoned() {
        executor::State::Cordoned
    } else if row.is_drained {
        executor::State::Draining
    } else {
        executor::State::Ready
    };
    Executor {
        id: id.to_string(),
        name: row.name.clone(),
        state: wire.into(),
        slots: row.slots,
        used: row.used,
        labels: row.labels.clone(),
        session: row.session.0,
        drained: row.is_drained,
        session_since: session.map(|session| wire_time(session.opened_at)),
    }
}

/// A pool, and how much of it is used.
pub(crate) fn pool(name: &PoolName, row: &PoolRow, state: &State) -> Pool {
    let limit = LimitId::Pool(name.clone());
    // Ready tasks of a class wait at the first of its limits that has no room; those of this pool are meant.
    let classes = state.classes.iter().filter(|(_, (at, _))| *at == limit).map(|(class, _)| class);
    let first = |class: &matins_core::state::Class| {
        let from = state.queue.range((class.clone(), LOWEST)..);
        from.take_while(|((other, _), ())| other == class).count() as u32
    };
    Pool {
        name: name.to_string(),
        slots: row.slots,
        used: state.limits.get(&limit).copied().unwrap_or(0),
        waiting: classes.map(first).sum(),
        description: row.description.clone(),
    }
}

/// Before every place in a queue.
const LOWEST: matins_core::state::QueuePlace = matins_core::state::QueuePlace {
    priority: std::cmp::Reverse(i32::MAX),
    is_backfill: false,
    logical_time: matins_core::time::Timestamp::from_millis(i64::MIN),
    task: matins_core::id::TaskId { run: matins_core::id::RunId(0), task: 0, item: None },
};
