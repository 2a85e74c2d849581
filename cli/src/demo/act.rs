//! What is to be seen: the backfill of a month, and two kills of the leader in the middle of it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use matins_client::{Client, Limits};
use matins_proto::Json;
use matins_proto::v1::{
    Attempt, Backfill, ClusterStatusRequest, ClusterStatusResponse, CreateBackfillRequest,
    GetBackfillRequest, GetRunRequest, ListRunsRequest, PauseScheduleRequest, Run, Task, attempt, run::State,
};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::heartbeat;
use super::probe::Probe;
use super::report::{Found, Kill, Warehouse};
use super::stage::Stage;
use crate::context::Context;
use crate::exit::Exit;
use crate::fault::Fault;

/// Days that are loaded.
const DAYS: u32 = 31;

/// Days that are done when the leader is killed the first and the second time.
const KILLS_AT: [u32; 2] = [4, 14];

/// Everything that is waited for comes within this.
const STEP_MAX: Duration = Duration::from_secs(120);

/// An attempt is worth interrupting until it is this old.
const YOUNG_MAX: Duration = Duration::from_secs(2);

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(100);

/// An attempt that the killed executor held.
#[derive(Clone, Debug)]
struct Held {
    run: String,
    task: String,
    attempt: u32,
}

impl Held {
    fn name(&self) -> String {
        format!("{}/{} attempt {}", self.run, self.task, self.attempt)
    }
}

/// The play: who is asked, and what shows how far it is.
struct Play<'a> {
    client: Client,
    backfill: String,
    bar: ProgressBar,
    context: &'a Context,
    told: u32,
}

/// Does everything, and tells what was found.
pub(super) async fn perform(stage: &mut Stage, context: &Context) -> Result<Found, Fault> {
    let started = Instant::now();
    stage.open().await?;
    context.say(format!("three nodes are one cluster after {:.1?}", started.elapsed()));
    let client = stage.client(Limits::default())?;
    stage.apply(&client).await?;
    // Its real ticks would load days that are not asked for.
    let pause = PauseScheduleRequest {
        workflow: "default/nightly-flights".into(),
        schedule: "nightly".into(),
        ..PauseScheduleRequest::default()
    };
    client.call(pause).await?;
    let before = client.call(ClusterStatusRequest {}).await?.leaderships;
    let quick = Limits {
        connect_max: Duration::from_millis(250),
        attempt_max: Duration::from_secs(1),
        ..Limits::default()
    };
    let probe = Probe::start(stage.client(quick)?);
    let backfill = begin(stage, &client).await?;
    context.say(format!("{backfill}: {DAYS} days of flights, 4 at once, and a heartbeat every second"));
    let mut play = Play { client, backfill, bar: progress_bar(context)?, context, told: 0 };

    play.until(KILLS_AT[0]).await?;
    let back_in_time = play.kill_and_bring_back(stage).await?;
    play.until(KILLS_AT[1]).await?;
    let taken_over = play.kill_and_leave_down(stage).await?;
    let ended = play.until_ended().await?;
    play.bar.finish_and_clear();

    let ticks = heartbeat::count(&play.client).await?;
    let outage = probe.stop().await;
    let after = play.client.call(ClusterStatusRequest {}).await?.leaderships;
    let runs = play.runs().await?;
    let mut attempts = 0;
    for run in &runs {
        attempts += attempts_of(&play.run(&run.id).await?);
    }
    Ok(Found {
        runs: ended.counts.unwrap_or_default().total,
        runs_success: ended.counts.unwrap_or_default().success,
        attempts,
        leader_changes: after.saturating_sub(before),
        outage,
        back_in_time: play.judge_back_in_time(back_in_time).await?,
        taken_over: play.judge_taken_over(taken_over).await?,
        ticks,
        warehouse: judge_warehouse(stage).await?,
        took: started.elapsed(),
    })
}

async fn begin(stage: &Stage, client: &Client) -> Result<String, Fault> {
    let params = json!({
        "warehouse": stage.warehouse(),
        "staging": stage.staging(),
        // So that there is something to interrupt.
        "pace": "5s",
    });
    let ask = CreateBackfillRequest {
        workflow: "default/nightly-flights".into(),
        from: "2013-01-02".into(),
        to: "2013-02-01".into(),
        max_active: 4,
        params: Some(Json::from(params)),
        ..CreateBackfillRequest::default()
    };
    let answer = client.call(ask).await?;
    answer
        .backfill
        .map(|backfill| backfill.id)
        .ok_or_else(|| Fault::own(Exit::NotSuccess, "no backfill was made"))
}

fn progress_bar(context: &Context) -> Result<ProgressBar, Fault> {
    let target =
        if context.screen().err { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(DAYS.into()), target);
    let style = ProgressStyle::with_template("{elapsed:>4} {bar:31} {pos}/{len} days {msg}");
    bar.set_style(style.map_err(|error| Fault::machine("the progress bar cannot be drawn", error))?);
    Ok(bar)
}

fn tasks(count: usize) -> String {
    if count == 1 { "1 task".into() } else { format!("{count} tasks") }
}

/// How many tries a run took, items too.
fn attempts_of(run: &Run) -> u32 {
    let count = |task: &Task| {
        if task.items.is_empty() {
            task.attempt_count
        } else {
            task.items.iter().map(|item| item.attempt_count).sum()
        }
    };
    run.tasks.iter().map(count).sum()
}

impl Play<'_> {
    /// Says something beside the bar.
    fn say(&self, text: &str) {
        self.bar.suspend(|| self.context.say(text));
    }

    /// Where the backfill is; shows it.
    async fn look(&mut self) -> Result<Backfill, Fault> {
        let ask = GetBackfillRequest { stale: false, backfill: self.backfill.clone() };
        let found = self.client.call(ask).await?.backfill.unwrap_or_default();
        let counts = found.counts.unwrap_or_default();
        self.bar.set_position(counts.success.into());
        self.bar.set_message(format!("{} active", counts.active));
        if self.bar.is_hidden() && counts.success >= self.told + 5 {
            self.told = counts.success;
            self.say(&format!("{} of {DAYS} days done", counts.success));
        }
        Ok(found)
    }

    /// Waits until so many days are done.
    async fn until(&mut self, days: u32) -> Result<(), Fault> {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            let found = self.look().await?;
            if found.counts.unwrap_or_default().success >= days {
                return Ok(());
            }
            if found.finished_at.is_some() || Instant::now() > deadline {
                let state = found.state().as_str_name();
                let text = format!("{days} days were not done in time; the backfill is {state}");
                return Err(Fault::own(Exit::NotSuccess, text));
            }
            sleep(PAUSE).await;
        }
    }

    async fn until_ended(&mut self) -> Result<Backfill, Fault> {
        let deadline = Instant::now() + STEP_MAX * 2;
        loop {
            let found = self.look().await?;
            if found.finished_at.is_some() {
                return Ok(found);
            }
            if Instant::now() > deadline {
                return Err(Fault::own(Exit::NotSuccess, "the backfill did not end in time"));
            }
            sleep(PAUSE).await;
        }
    }

    /// First kill: the node is back within its lease, and its tasks have not noticed.
    async fn kill_and_bring_back(&mut self, stage: &mut Stage) -> Result<(Kill, Vec<Held>), Fault> {
        let (at, held) = self.leader_at_work(stage).await?;
        let killed = Instant::now();
        stage.kill(at).await?;
        self.say(&format!(
            "killed the leader {} while it ran {}; it starts again",
            stage.name(at),
            tasks(held.len())
        ));
        stage.start(at)?;
        let names = held.iter().map(Held::name).collect();
        let kill =
            Kill { node: stage.name(at).into(), held: names, settled: killed.elapsed(), unlike: Vec::new() };
        Ok((kill, held))
    }

    /// Second kill: the node stays down until others have taken its tasks over.
    async fn kill_and_leave_down(&mut self, stage: &mut Stage) -> Result<(Kill, Vec<Held>), Fault> {
        let (at, held) = self.leader_at_work(stage).await?;
        let killed = Instant::now();
        stage.kill(at).await?;
        self.say(&format!(
            "killed the leader {} while it ran {}; it stays down",
            stage.name(at),
            tasks(held.len())
        ));
        let held = self.until_taken_over(held, killed + STEP_MAX).await?;
        let settled = killed.elapsed();
        self.say(&format!("its tasks run elsewhere after {settled:.1?}; {} starts again", stage.name(at)));
        stage.start(at)?;
        let names = held.iter().map(Held::name).collect();
        let kill = Kill { node: stage.name(at).into(), held: names, settled, unlike: Vec::new() };
        Ok((kill, held))
    }

    /// Waits until each attempt has a successor. Gives those that do: one that ended in the very moment of the kill, and
    /// whose report was taken, has nothing to be taken over.
    async fn until_taken_over(&mut self, held: Vec<Held>, deadline: Instant) -> Result<Vec<Held>, Fault> {
        let mut taken_over = Vec::new();
        for one in held {
            loop {
                let attempts = self.attempts(&one).await?;
                let own = attempts.iter().find(|attempt| attempt.number == one.attempt);
                if own.is_some_and(|attempt| attempt.state() == attempt::State::Success) {
                    break;
                }
                if attempts.iter().any(|attempt| attempt.number > one.attempt) || Instant::now() > deadline {
                    taken_over.push(one);
                    break;
                }
                self.look().await?;
                sleep(PAUSE).await;
            }
        }
        if taken_over.is_empty() {
            return Err(Fault::own(
                Exit::NotSuccess,
                "every attempt ended as its node was killed: run the demo again",
            ));
        }
        Ok(taken_over)
    }

    /// Waits until the leader's own executor runs something that will take a while yet.
    async fn leader_at_work(&mut self, stage: &Stage) -> Result<(usize, Vec<Held>), Fault> {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            self.look().await?;
            let status = self.client.call(ClusterStatusRequest {}).await?;
            if let Some((id, at)) = leader_of(&status, stage) {
                let held = self.held_by(&id).await?;
                if !held.is_empty() {
                    return Ok((at, held));
                }
            }
            if Instant::now() > deadline {
                return Err(Fault::own(Exit::NotSuccess, "the leader's executor never ran a task"));
            }
            sleep(PAUSE).await;
        }
    }

    /// The attempts of `transform` that an executor runs: those take their time.
    async fn held_by(&self, executor: &str) -> Result<Vec<Held>, Fault> {
        let mut held = Vec::new();
        for run in self.runs().await?.iter().filter(|run| run.state() == State::Running) {
            let run = self.run(&run.id).await?;
            for task in run.tasks.iter().filter(|task| task.name == "transform").flat_map(|task| &task.items)
            {
                let live = |it: &&Attempt| {
                    it.state() == attempt::State::Running && it.executor == executor && is_young(it)
                };
                let started = task.attempts.last().filter(live);
                if let Some(attempt) = started {
                    let (run, task) = (run.id.clone(), task.address.clone());
                    held.push(Held { run, task, attempt: attempt.number });
                }
            }
        }
        Ok(held)
    }

    async fn runs(&self) -> Result<Vec<Run>, Fault> {
        let filter = format!("backfill={}", self.backfill);
        let ask = ListRunsRequest { filter, page_size: 100, ..ListRunsRequest::default() };
        Ok(self.client.call(ask).await?.runs)
    }

    async fn run(&self, id: &str) -> Result<Run, Fault> {
        let ask = GetRunRequest { run: id.into(), items_max: 100, ..GetRunRequest::default() };
        Ok(self.client.call(ask).await?.run.unwrap_or_default())
    }

    /// All attempts of a task that was held.
    async fn attempts(&self, held: &Held) -> Result<Vec<Attempt>, Fault> {
        let ask =
            GetRunRequest { run: held.run.clone(), task: held.task.clone(), ..GetRunRequest::default() };
        let run = self.client.call(ask).await?.run.unwrap_or_default();
        let tasks = run.tasks.into_iter().flat_map(|task| {
            let items = task.items.clone();
            std::iter::once(task).chain(items)
        });
        Ok(tasks
            .into_iter()
            .find(|task| task.address == held.task)
            .map(|task| task.attempts)
            .unwrap_or_default())
    }

    /// Each attempt that was held must have ended well itself.
    async fn judge_back_in_time(&self, (mut kill, held): (Kill, Vec<Held>)) -> Result<Kill, Fault> {
        for one in &held {
            let attempts = self.attempts(one).await?;
            let own = attempts.iter().find(|attempt| attempt.number == one.attempt);
            if own.is_none_or(|attempt| attempt.state() != attempt::State::Success) {
                kill.unlike.push(one.name());
            }
        }
        Ok(kill)
    }

    /// Each task that was held must have ended well by a later attempt, on another node.
    async fn judge_taken_over(&self, (mut kill, held): (Kill, Vec<Held>)) -> Result<Kill, Fault> {
        for one in &held {
            let attempts = self.attempts(one).await?;
            let own = attempts.iter().find(|attempt| attempt.number == one.attempt);
            let later = attempts.iter().find(|attempt| attempt.number == one.attempt + 1);
            let is_right = own.zip(later).is_some_and(|(own, later)| {
                own.state() == attempt::State::Lost && own.executor != later.executor
            });
            if !is_right {
                kill.unlike.push(one.name());
            }
        }
        Ok(kill)
    }
}

/// Whether an attempt has most of its five seconds before it, so that it is still there when its node is killed.
fn is_young(attempt: &Attempt) -> bool {
    let now = jiff::Timestamp::now().as_millisecond();
    attempt.granted_at.is_some_and(|granted| now - granted.as_millis() < YOUNG_MAX.as_millis() as i64)
}

/// The id and the place of the leader, if it is ready.
fn leader_of(status: &ClusterStatusResponse, stage: &Stage) -> Option<(String, usize)> {
    let id = status.leader.clone().filter(|_| status.ready)?;
    let node = status.nodes.iter().find(|node| node.id == id)?;
    Some((id, stage.at_address(&node.address)?))
}

/// The tasks of the example are Python scripts: without it nothing would run, and the reason would be far away.
pub(super) async fn find_python() -> Result<(), Fault> {
    let mut python = Command::new("python3");
    python.args(["-c", "import sqlite3, sys; sys.exit(sys.version_info < (3, 9))"]);
    let status = python.status().await.map_err(|error| {
        Fault::machine("the demo needs Python 3.9 or later as `python3`", error).hint("install Python 3")
    })?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::usage("the demo needs Python 3.9 or later with sqlite3 as `python3`")
        .hint("install a newer Python 3"))
}

/// Lets the example's own script count, which never asks the engine.
async fn judge_warehouse(stage: &Stage) -> Result<Warehouse, Fault> {
    let mut command = Command::new("python3");
    command.arg("-B").arg(stage.judge()).arg("--json");
    command.arg("--warehouse").arg(stage.warehouse()).arg("--staging").arg(stage.staging());
    let output = command.output().await.map_err(|error| Fault::machine("cannot run python3", error))?;
    serde_json::from_slice(&output.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Fault::machine(format!("the report of the warehouse cannot be read: {said}"), error)
    })
}
