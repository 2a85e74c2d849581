//! Why a workflow makes no runs, and why a backfill does not go on.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use super::{Help, Reason, Why, nothing, reason, run, several};
use crate::State;
use crate::id::{BackfillId, ScheduleId, WorkflowName};
use crate::state::{BackfillRow, BackfillState, Next, RunOrigin, ScheduleRow};

/// Why a backfill is in its state; `None` if there is no such backfill.
pub fn of_backfill(id: BackfillId, state: &State) -> Option<Why> {
    let row = state.backfills.get(&id)?;
    let subject = id.to_string();
    let (word, (reason, help)) = match row.state {
        BackfillState::Running => ("running", backfill_running(id, row, state)),
        BackfillState::Paused => {
            let text = format!("somebody paused it; {} of its ticks wait", row.counts.waiting);
            (
                "paused",
                (reason("paused", text), Help::new("resume it", format!("matins backfill resume {id}"))),
            )
        }
        BackfillState::Stopping => {
            let text = format!("it was cancelled, and {} of its runs are being ended", row.counts.active);
            ("stopping", (reason("cancelled", text), runs_of(id, state, nothing())))
        }
        BackfillState::Success => ("success", (reason("done", "all its runs succeeded"), Help::default())),
        BackfillState::Failed => {
            let text = format!("{} of its runs failed", row.counts.failed);
            let workflow = &row.schedule.workflow;
            let list = format!("matins run list {workflow} --filter 'backfill = {id} and state = failed'");
            ("failed", (reason("runs", text), Help::new("look at them and retry them", list)))
        }
        BackfillState::Cancelled => {
            ("cancelled", (reason("cancelled", "somebody cancelled it"), Help::default()))
        }
    };
    let Help { remedy, commands } = help;
    let since = row.ended_at.or(Some(row.created_at).filter(|_| row.state == BackfillState::Running));
    Some(Why { subject, state: word, since, reason, remedy, commands })
}

fn backfill_running(id: BackfillId, row: &BackfillRow, state: &State) -> (Reason, Help) {
    let counts = &row.counts;
    let text = format!(
        "{} of at most {} runs are active, and {} ticks wait",
        counts.active, row.active_max, counts.waiting
    );
    let help = Help::words("it goes on by itself, one run after the other");
    (reason("running", text), runs_of(id, state, help))
}

fn runs_of(id: BackfillId, state: &State, help: Help) -> Help {
    let of_it = |origin: RunOrigin| origin == RunOrigin::Backfill(id);
    let active = state.runs.iter().find(|(_, row)| of_it(row.origin) && row.is_active());
    active.map(|(run, _)| format!("matins why {run}")).into_iter().fold(help, Help::and)
}

/// Why a workflow makes no runs now: its schedules, and its newest run; `None` if it is not registered.
pub fn of_workflow(name: &WorkflowName, state: &State) -> Option<Why> {
    let row = state.workflows.get(name).filter(|row| row.current.is_some())?;
    let subject = name.to_string();
    let newest = row.latest_run.and_then(|run| state.retired(run));
    if let Some(newest) = newest.filter(|newest| newest.run.is_active()) {
        let why = run::of_run(&newest, state);
        let text = format!("its newest run is {}, which is {}: {}", why.subject, why.state, why.reason.text);
        let reason = Reason { text, ..why.reason };
        return Some(Why { subject, state: "active", since: None, reason, ..why });
    }
    let schedules: Vec<_> = state.schedules_of(name).collect();
    let held = row.paused_at.map(|since| {
        let help = Help::new(
            "resume it; the ticks until then are skipped",
            format!("matins workflow resume {name}"),
        );
        ("paused", Some(since), reason("paused", "somebody paused it"), help)
    });
    let (word, since, reason, Help { remedy, commands }) =
        held_as_a_whole(state).or(held).unwrap_or_else(|| of_schedules(&schedules, state));
    Some(Why { subject, state: word, since, reason, remedy, commands })
}

/// All schedules are held after a restore, until a person lets them go on.
fn held_as_a_whole(state: &State) -> Option<Held> {
    let origin = state.cluster.refounded.as_ref().filter(|origin| origin.is_held)?;
    let reason = reason("restored", "the cluster was restored, and all its schedules are held");
    let help = Help::new("let them go on; the ticks until then are skipped", "matins cluster resume");
    Some(("paused", Some(origin.at), reason, help))
}

type Held = (&'static str, Option<crate::time::Timestamp>, Reason, Help);

fn of_schedules(schedules: &[(&ScheduleId, &ScheduleRow)], state: &State) -> Held {
    let Some((first, _)) = schedules.first() else {
        let help = Help::words("start it by hand, or give it a schedule");
        return (
            "active",
            None,
            reason("no_schedule", "it has no schedule, and no run of it is active"),
            help,
        );
    };
    let stuck = schedules.iter().find_map(|(id, row)| schedule_held(id, row, state));
    stuck.unwrap_or_else(|| {
        let next = schedules.iter().filter_map(|(id, row)| match row.next {
            Next::At(at) => Some((at, id)),
            Next::Unknown | Next::Never => None,
        });
        let record = format!("matins schedule decisions {} {}", first.workflow, first.schedule);
        if let Some((at, id)) = next.min() {
            let reason =
                reason("tick", format!("no run of it is active; `{}` is due", id.schedule)).until(at);
            return ("active", None, reason, Help::new("nothing has to be done", record));
        }
        let names: Vec<String> = schedules.iter().map(|(id, _)| format!("`{}`", id.schedule)).collect();
        let text = format!("{} will not be due again", several(&names));
        ("active", None, reason("tick", text), Help::new("see what became of its ticks", record))
    })
}

/// What keeps a schedule from making runs.
fn schedule_held(id: &ScheduleId, row: &ScheduleRow, state: &State) -> Option<Held> {
    let name = &id.schedule;
    if let Some(why) = &row.quarantine {
        let text = format!("schedule `{name}` is in quarantine: {why}");
        let help = Help::words("change the schedule and apply its workflow");
        return Some(("quarantined", Some(row.mark), reason("quarantine", text), help));
    }
    if let Some(since) = row.paused_at {
        let help = Help::new(
            "resume it; the ticks until then are skipped",
            format!("matins schedule resume {} {name}", id.workflow),
        );
        return Some((
            "paused",
            Some(since),
            reason("paused", format!("somebody paused schedule `{name}`")),
            help,
        ));
    }
    if !row.spec.is_enabled {
        let text = format!("schedule `{name}` is switched off in its file");
        let help = Help::words("take `enabled: false` out and apply the file");
        return Some(("disabled", None, reason("disabled", text), help));
    }
    row.next.due_at().filter(|due| *due <= state.now)?;
    let late = match row.next {
        Next::At(due) => Some(due),
        Next::Unknown | Next::Never => None,
    };
    let full = state.bytes() > state.cluster.settings.state_bytes_max / 100 * 80;
    let why: String = if full {
        "and the state is too full for new runs".into()
    } else {
        "and the leader is about to decide it".into()
    };
    let text = format!("a tick of schedule `{name}` is due, {why}");
    let code = if full { "limit" } else { "tick" };
    let help = Help::new("no tick is lost: it is decided when that is over", "matins cluster status");
    Some(("active", late, reason(code, text), help))
}
