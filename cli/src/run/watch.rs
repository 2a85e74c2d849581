//! `watch` and `wait`: until runs have ended.

use std::time::Duration;

use clap::Args;
use matins_proto::v1::{Run, WaitRunsResponse, WatchRunRequest, WatchRunResponse, run::State};
use matins_workflow::calendar::parse_duration;
use tokio::time::{MissedTickBehavior, interval};

use super::get::run_text;
use crate::context::{Context, Format, Outcome, now, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::live::Live;
use crate::output::{as_json, as_jsonl, as_yaml};
use crate::refs::TaskRef;

/// Follow a run until it has ended, and leave with its exit code
///
/// Draws the run on a terminal, and writes a line per change elsewhere. Ctrl-C stops the watching, not the run.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins watch latest:nightly-flights

Exit codes: 0 the run succeeded, 1 it failed or was cancelled, 130 Ctrl-C (the run goes on).")]
pub(crate) struct WatchArgs {
    /// `run-42` or `latest:WORKFLOW`
    run: String,
}

/// Wait until runs have ended
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins wait run-42 run-43 --timeout 1h

Exit codes: 0 all succeeded, 1 one did not, 6 the time was up, 130 Ctrl-C (the runs go on).")]
pub(crate) struct WaitArgs {
    /// `run-42` or `latest:WORKFLOW`
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<String>,

    /// Wait no longer than this
    #[arg(long, value_name = "SPAN", value_parser = parse_span)]
    timeout: Option<Duration>,
}

/// Reads a span as the language writes it.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text).map_err(|error| format!("{error}; {}", error.hint))?;
    Ok(Duration::from_millis(span.0))
}

/// `matins wait`.
pub(super) async fn wait(args: WaitArgs, context: &Context) -> Outcome {
    let runs: Result<Vec<_>, _> = args.runs.iter().map(|run| TaskRef::parse_run(run, context)).collect();
    let answer = wait_for(runs?, args.timeout, context).await?;
    context.list(&answer.runs)?;
    if !answer.done {
        context.say("the time is up, the runs go on");
        return Ok(Exit::WaitEnded);
    }
    let all_well = answer.runs.iter().all(|run| run.state() == State::Success);
    Ok(if all_well { Exit::Done } else { Exit::NotSuccess })
}

/// Waits for runs to end; Ctrl-C ends the waiting and says that they go on.
pub(super) async fn wait_for(
    runs: Vec<String>,
    timeout: Option<Duration>,
    context: &Context,
) -> Result<WaitRunsResponse, Fault> {
    let client = context.client()?;
    let names = runs.join(" ");
    let waiting = async { Ok(client.wait(runs, timeout).await?) };
    until_interrupted(waiting, || goes_on(&names)).await
}

/// What Ctrl-C is answered.
fn goes_on(run: &str) -> String {
    format!("{run} goes on; `matins cancel {run}` would end it")
}

/// `matins watch`.
pub(super) async fn watch(args: WatchArgs, context: &Context) -> Outcome {
    let run = TaskRef::parse_run(&args.run, context)?;
    let name = run.clone();
    until_interrupted(follow(run, context), || goes_on(&name)).await
}

async fn follow(run: String, context: &Context) -> Outcome {
    let mut watch = context.client()?.watch_run(WatchRunRequest { run, after_index: 0 });
    let mut live = Live::new(context);
    let draws = live.redraws() && matches!(context.format(), Format::Table | Format::Wide);
    // Spans grow while nothing happens.
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut told = Told::default();
    loop {
        let change = tokio::select! {
            change = watch.next() => change?,
            _ = second.tick(), if draws => {
                if !watch.run().id.is_empty() {
                    live.draw(&run_text(watch.run(), &context.look()))?;
                }
                continue;
            }
        };
        let Some(change) = change else { break };
        match context.format() {
            Format::Table | Format::Wide if draws => live.draw(&run_text(watch.run(), &context.look()))?,
            Format::Table | Format::Wide => context.print(&told.lines(watch.run()))?,
            Format::Jsonl => context.print(&as_jsonl::<WatchRunResponse>(&change))?,
            Format::Json | Format::Yaml | Format::Name => {}
        }
    }
    let run = watch.run();
    match context.format() {
        Format::Json => context.print(&as_json(run))?,
        Format::Yaml => context.print(&as_yaml(run))?,
        Format::Name => context.print(&format!("{}\n", run.id))?,
        Format::Table | Format::Wide | Format::Jsonl => {}
    }
    Ok(Exit::of_run(run.state()))
}

/// What was written of a run so far, so that each line is something new.
#[derive(Default)]
struct Told {
    states: std::collections::BTreeMap<String, String>,
}

impl Told {
    /// A line for the run and for each task and item whose state is another than was told.
    fn lines(&mut self, run: &Run) -> String {
        let tasks = run.tasks.iter().flat_map(|task| std::iter::once(task).chain(&task.items));
        let tasks = tasks.map(|task| {
            let reason = task.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default();
            (format!("{}/{}", run.id, task.address), task.state().as_str_name(), reason, task.finished_at)
        });
        let reason = run.reason.as_ref().map(|reason| reason.text.as_str()).unwrap_or_default();
        let whole = (run.id.clone(), run.state().as_str_name(), reason, run.finished_at);
        let mut text = String::new();
        // The end of the run comes after that of its tasks.
        for (name, state, reason, finished) in tasks.chain(std::iter::once(whole)) {
            let told = format!("{state} {reason}");
            if self.states.get(&name) == Some(&told) {
                continue;
            }
            // Who begins to watch late reads when things ended, not when that was told.
            let line = format!("{} {name} {told}", finished.unwrap_or_else(now));
            text.push_str(line.trim_end());
            text.push('\n');
            self.states.insert(name, told);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use matins_proto::v1::{Task, task};

    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let load = Task { address: "load".into(), state: task::State::Running.into(), ..Task::default() };
        let mut run = Run { id: "run-1".into(), tasks: vec![load], ..Run::default() };
        run.set_state(State::Running);
        let mut told = Told::default();
        let lines = |text: &str| {
            text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines(&told.lines(&run)), ["run-1/load running", "run-1 running"]);
        assert_eq!(told.lines(&run), "");
        run.tasks[0].set_state(task::State::Success);
        run.set_state(State::Success);
        assert_eq!(lines(&told.lines(&run)), ["run-1/load success", "run-1 success"]);
    }
}
