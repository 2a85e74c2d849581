//! How scripts write what came of an entry, and what the state is.

use super::*;

/// Answers and effects, a line each.
pub(super) fn outcome(state: &State, outcome: &Outcome) -> String {
    let mut text = String::new();
    for answer in &outcome.answers {
        match answer {
            Ok(Answer::Done) => text.push_str("done\n"),
            Ok(Answer::Definition(_)) => text.push_str("stored\n"),
            Ok(Answer::Session { bound, .. }) => {
                writeln!(text, "session open, bound {}", fences(bound)).expect("text");
            }
            Ok(Answer::Run(run)) => writeln!(text, "{run}").expect("text"),
            Ok(Answer::Fired(runs)) => writeln!(text, "fired {}", list(runs)).expect("text"),
            Ok(Answer::Ready(leadership)) => writeln!(text, "{leadership}").expect("text"),
            Ok(Answer::Backfill(id)) => writeln!(text, "{id}").expect("text"),
            Ok(Answer::Applied(applied)) => {
                for (name, before, now) in &applied.workflows {
                    let before = before.map_or("-".into(), |number| number.to_string());
                    writeln!(text, "{name}: version {before} -> {now}").expect("text");
                }
                applied.pruned.iter().for_each(|name| writeln!(text, "{name}: deleted").expect("text"));
            }
            Err(refusal) => writeln!(text, "refused: {}", refused(state, refusal)).expect("text"),
        }
    }
    let mut last = String::new();
    for effect in &outcome.effects {
        let line = self::effect(state, effect);
        if !line.is_empty() && line != last {
            text.push_str(&line);
            text.push('\n');
            last = line;
        }
    }
    text
}

fn refused(state: &State, refusal: &Refusal) -> String {
    match refusal {
        Refusal::Conflict { thing: Thing::Task(task), why, .. } => {
            format!("{}: {why}", address(state, *task))
        }
        Refusal::Stale(matins_core::Stale::Inputs(task)) => format!("{} has moved on", address(state, *task)),
        Refusal::TicksDue(due) => format!("ticks due of {}", list(due)),
        other => other.to_string(),
    }
}

fn effect(state: &State, effect: &Effect) -> String {
    match effect {
        Effect::Granted { task, attempt, fence, executor, .. } => {
            format!("grant {fence} of {} attempt {attempt} to {executor}", address(state, *task))
        }
        Effect::Stop { fence, executor, how } => format!("stop {fence} on {executor} {how:?}"),
        Effect::Ended { fence, .. } => format!("{fence} is over"),
        Effect::Deciding(task) => format!("decide {}", address(state, *task)),
        Effect::Block { .. } => "block".into(),
        Effect::Checkpoint => "checkpoint".into(),
        Effect::Agreed { index, .. } => format!("agreed on the state at {index}"),
        Effect::LogsSettled(executor, settled) => {
            format!("{executor} forgets the log of {}", fences(settled))
        }
        // Hints to look again; what there is to see, `show` shows.
        Effect::Schedule(_)
        | Effect::Timer
        | Effect::Backfill(_)
        | Effect::Run(_)
        | Effect::Executor(_)
        | Effect::Definitions => String::new(),
    }
}

/// `show RUN`, `show schedules`, `show executors`, `show backfills`, `show limits`, `show timers`
#[expect(clippy::too_many_lines, reason = "one arm a thing that can be shown")]
pub(super) fn show(state: &State, args: &mut Args) -> Result<String, Fault> {
    let mut text = String::new();
    match args.need()?.as_str() {
        "schedules" => {
            for (id, row) in state.schedules.iter() {
                let skips = row.counts.skips;
                let (mark, next, runs) = (secs(row.mark), &row.next, row.counts.runs);
                let next = match next {
                    matins_core::state::Next::At(at) => secs(*at),
                    other => format!("{other:?}"),
                };
                let version = row.version;
                writeln!(text, "{id} version {version} mark {mark} next {next} runs {runs} skips {skips:?}")?;
            }
        }
        "skips" => show_skips(state, &mut text)?,
        "executors" => show_executors(state, &mut text)?,
        "backfills" => {
            for (id, row) in state.backfills.iter() {
                writeln!(text, "{id} {:?} {:?}", row.state, row.counts)?;
            }
        }
        "limits" => {
            for (limit, used) in state.limits.iter() {
                writeln!(text, "{limit:?} {used}")?;
            }
        }
        "timers" => {
            for ((at, timer), ()) in state.timers.iter() {
                writeln!(text, "{} {timer:?}", secs(*at))?;
            }
        }
        "history" => {
            for (number, row) in state.blocks.iter() {
                let (stay, logs) = (row.runs_stay, row.logs_stay);
                writeln!(
                    text,
                    "block {number} runs {} stay {stay:?} logs {logs:?} bytes {}",
                    row.runs, row.log_bytes
                )?;
            }
            let forgotten = state.cluster.forgotten.map_or("nothing".into(), secs);
            writeln!(text, "forgotten {forgotten} runs {}", state.cluster.counters.forgotten_runs)?;
        }
        "origin" => {
            let counters = &state.cluster.counters;
            let (run, backfill, fence) = (counters.run, counters.backfill, counters.fence);
            writeln!(text, "{:?} from {:?}", state.cluster.id, state.cluster.refounded)?;
            writeln!(text, "last run {run} backfill {backfill} fence {fence}")?;
            for (name, row) in state.workflows.iter() {
                writeln!(text, "{name} paused {:?}", row.paused_at.map(secs))?;
            }
        }
        "cluster" => {
            let outage = state.cluster.outage_end.map_or("never".into(), secs);
            writeln!(
                text,
                "now {} outage ended {outage} requests {}",
                secs(state.now),
                state.requests.len()
            )?;
            writeln!(text, "blocks {} retired {:?}", state.blocks.len(), state.retired_runs)?;
        }
        "level" => {
            writeln!(text, "{} under the members of entry {}", state.cluster.level, state.cluster.members.0)?;
        }
        run => show_run(state, run.parse()?, &mut text)?,
    }
    Ok(text)
}

fn show_executors(state: &State, text: &mut String) -> Result<(), Fault> {
    for (id, row) in state.executors.iter() {
        let mut switches = format!("cordoned {} drained {}", row.is_cordoned(), row.is_drained);
        if row.is_leaving {
            switches.push_str(" leaving");
        }
        writeln!(text, "{id} {} used {}/{} {switches}", row.session, row.used, row.slots)?;
    }
    for ((id, session), row) in state.sessions.iter() {
        let bound: Vec<Fence> = state
            .bound
            .iter()
            .map(|(key, ())| *key)
            .filter(|key| (key.0, key.1) == (*id, *session))
            .map(|key| key.2)
            .collect();
        writeln!(text, "{id} {session} expired {} bound {}", row.is_expired, fences(&bound))?;
    }
    Ok(())
}

fn show_skips(state: &State, text: &mut String) -> Result<(), Fault> {
    for ((id, to), row) in state.skips.iter() {
        let (from, to, at) = (secs(row.from), secs(*to), secs(row.at));
        let leader = state.leader_at(row.index).map_or("-".into(), |node| node.to_string());
        let (count, reason) = (row.count, row.reason.as_str());
        writeln!(text, "{id} {from} to {to}: {count} {reason}, decided at {at} by {leader}")?;
    }
    Ok(())
}

fn show_run(state: &State, run: RunId, text: &mut String) -> Result<(), Fault> {
    let row = state.runs.get(&run).ok_or("no such run")?;
    writeln!(text, "{run} {} at {}", row.state.as_str(), secs(row.logical_time))?;
    for (task, row) in state.tasks_of(run) {
        let held = state.held_back_by(*task).filter(|_| row.state == TaskState::Queued);
        let held = held.map_or(String::new(), |limit| format!(" for {limit:?}"));
        let taken = row.taken_from.map_or(String::new(), |from| format!(" taken from {from}"));
        let attempts = row.attempts;
        writeln!(text, "  {} {:?}{held} attempts {attempts}{taken}", address(state, *task), row.state)?;
    }
    Ok(())
}

pub(crate) fn address(state: &State, task: TaskId) -> String {
    let spec = state.spec_of(task).map_or_else(|| task.task.to_string(), |spec| spec.name.to_string());
    let item = task.item.map_or(String::new(), |item| format!(".{item}"));
    format!("{}/{spec}{item}", task.run)
}

/// The answer to `why`: state, time and reason; then what would help.
pub(super) fn why(why: &matins_core::why::Why) -> String {
    let since = why.since.map_or(String::new(), |at| format!(" since {}", secs(at)));
    let until = why.reason.until.map_or(String::new(), |at| format!(" at {}", secs(at)));
    let mut text = format!("{} is {}{since} [{}]\n", why.subject, why.state, why.reason.code);
    writeln!(text, "  {}{until}", why.reason.text).expect("text");
    if !why.remedy.is_empty() {
        writeln!(text, "  {}", why.remedy).expect("text");
    }
    why.commands.iter().for_each(|command| writeln!(text, "  > {command}").expect("text"));
    text
}

fn secs(at: Timestamp) -> String {
    format!("{}s", at.as_millis() as f64 / 1000.0)
}

fn list<T: std::fmt::Display>(things: &[T]) -> String {
    let things: Vec<String> = things.iter().map(ToString::to_string).collect();
    if things.is_empty() { "nothing".into() } else { things.join(" ") }
}

fn fences(fences: &[Fence]) -> String {
    list(fences)
}
