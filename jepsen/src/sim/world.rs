//! The cluster of one seed: its state, and the processes that really run.

use std::collections::BTreeMap;

use matins_core::command::{
    Apply, ApplyWorkflow, Command, Decide, DecideOutcome, Decision, Entry, Finish, Fire, OpenSession,
    Proposal, Readings, Start, StopHow, Tick,
};
use matins_core::id::{
    ExecutorId, Fence, JournalId, LogIndex, NodeId, RunId, ScheduleId, SessionNumber, TaskId,
};
use matins_core::state::{AttemptOutcome, AttemptState, LogPlace, Next, RunOrigin, Settings, TaskState};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Effect, Outcome, State, apply};
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};
use rand::Rng as _;
use rand::rngs::StdRng;

use super::Counts;

/// Workflows that between them use every rule of the core.
const WORKFLOWS: &str = r#"
workflow: chain
tasks:
  a: { run: [x], retry: { limit: 2, delay: 1s } }
  b: { run: [x], needs: a, pool: db, timeout: 30s }
  c: { run: [x], needs: b, when: params.x, allow_failure: true }
  d: { run: [x], needs: [a, c], trigger_rule: all_done }
params: { x: { type: bool, default: true } }
---
workflow: fan
schedules: { tick: { cron: "* * * * *" } }
concurrency: { max_active_runs: 2 }
tasks:
  list: { run: [x] }
  item: { run: [x], needs: list, for_each: "{{ range(4) }}", max_parallel: 2, retry: 1 }
  after: { run: [x], needs: item, trigger_rule: none_failed, priority: 5 }
---
workflow: past
schedules: { tick: { cron: "* * * * *" } }
tasks:
  load: { run: [x], depends_on_past: true, pool: { db: 2 }, retry: { limit: 3, delay: 1s } }
---
workflow: skip
schedules: { tick: { cron: "* * * * *" } }
concurrency: { max_active_runs: 1, on_full: skip }
tasks: { a: { run: [x], on_disconnect: 30s } }
---
pool: db
slots: 3
"#;

/// A machine that runs tasks.
#[derive(Default)]
struct Machine {
    session: u64,
    boots: u64,
    is_connected: bool,
    /// Processes that really run, by fence.
    processes: BTreeMap<Fence, TaskId>,
}

pub(super) struct World {
    state: State,
    at: Timestamp,
    machines: BTreeMap<ExecutorId, Machine>,
    counts: Counts,
}

type Held<T = ()> = Result<T, String>;

impl World {
    /// A cluster with its workflows and three machines.
    pub(super) fn founded() -> Held<Self> {
        let at = Timestamp::from_millis(1_700_000_000_000);
        let mut world =
            Self { state: State::default(), at, machines: BTreeMap::new(), counts: Counts::default() };
        world.change_leader()?;
        world.enter(Command::Init { cluster: 1, settings: Settings::default() })?;
        world.register()?;
        for node in 1..=3 {
            world.machines.insert(NodeId(node), Machine::default());
            world.connect(NodeId(node))?;
        }
        Ok(world)
    }

    fn register(&mut self) -> Held {
        let source = SourceFile { name: "sim.yaml".into(), text: WORKFLOWS.into() };
        let compiled = compile(&[source], &NoFiles, &Options::default());
        if compiled.has_errors() {
            return Err(format!("the workflows of the simulation are wrong: {:?}", compiled.diagnostics));
        }
        let mut apply = Apply::default();
        apply.pools.extend(compiled.pools.iter().map(|pool| (pool.name.clone(), pool.slots, String::new())));
        for workflow in compiled.workflows {
            let (name, definition) = (workflow.ir.name.clone(), workflow.digest());
            self.enter(Command::StoreDefinition { definition: Box::new(workflow.ir), source: None })?;
            apply.workflows.push(ApplyWorkflow { name, definition, start: None });
        }
        match self.enter(Command::Apply(apply))?.answers.first() {
            Some(Ok(Answer::Applied(_))) => Ok(()),
            other => Err(format!("the workflows of the simulation were not taken: {other:?}")),
        }
    }

    /// One entry, and everything that must hold after it.
    fn enter(&mut self, command: Command) -> Held<Outcome> {
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        let entry =
            Entry { level: 1, at: self.at, proposals: vec![Proposal { request: None, leadership, command }] };
        let told = format!("{entry:?}");
        let before = self.state.now;
        let index = LogIndex(self.state.index.0 + 1);
        let outcome = apply(&mut self.state, index, entry);
        self.counts.entries += 1;
        self.counts.refused += u64::from(outcome.answers.iter().any(Result::is_err));
        let faults = self.state.check();
        if !faults.is_empty() || self.state.now < before {
            return Err(format!("after {told}: {faults:#?}"));
        }
        for effect in &outcome.effects {
            self.follow(effect).map_err(|fault| format!("after {told}: {fault}"))?;
        }
        Ok(outcome)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other effects are no business of a machine")]
    fn follow(&mut self, effect: &Effect) -> Held {
        match effect {
            Effect::Granted { task, fence, executor, session, .. } => {
                self.counts.attempts += 1;
                let others = self.machines.values().flat_map(|machine| machine.processes.values());
                if others.into_iter().any(|running| running == task) {
                    return Err(format!("I6: {task:?} was granted while a process of it lives"));
                }
                let machine = self.machines.get_mut(executor).ok_or("a grant to nobody")?;
                // A start reaches only the session that it was sent in (PROTOCOL 5.5).
                if machine.is_connected && machine.session == session.0 {
                    machine.processes.insert(*fence, *task);
                }
            }
            Effect::Ended { fence, executor } => {
                let machine = self.machines.get_mut(executor).ok_or("an end for nobody")?;
                machine.processes.remove(fence);
            }
            _ => {}
        }
        Ok(())
    }

    /// An executor opens its next session: its supervisor says what it holds, and ends what is not bound anew.
    fn connect(&mut self, executor: ExecutorId) -> Held {
        let Some(machine) = self.machines.get_mut(&executor) else { return Ok(()) };
        machine.session += 1;
        machine.is_connected = true;
        let held: Vec<Fence> = machine.processes.keys().copied().collect();
        let open = OpenSession {
            executor,
            session: SessionNumber(machine.session),
            boot: machine.boots.to_string(),
            journal: JournalId(1),
            held: held.clone(),
            name: executor.to_string(),
            slots: 3,
            labels: BTreeMap::new(),
        };
        let outcome = self.enter(Command::OpenSession(open))?;
        if let (Some(Ok(Answer::Session { bound, .. })), Some(machine)) =
            (outcome.answers.first(), self.machines.get_mut(&executor))
        {
            // What this very entry granted comes later, by a start of its own.
            machine.processes.retain(|fence, _| bound.contains(fence) || !held.contains(fence));
        }
        Ok(())
    }

    fn change_leader(&mut self) -> Held {
        self.counts.leaders += 1;
        let readings = Readings { majority: self.at, by_node: Vec::new() };
        self.enter(Command::LeaderReady {
            node: NodeId(1 + self.counts.leaders % 3),
            nonce: self.counts.leaders,
            readings,
        })?;
        // Each executor that is not cut off comes to the new leader.
        let connected = self.machines.iter().filter(|(_, machine)| machine.is_connected);
        let connected: Vec<ExecutorId> = connected.map(|(id, _)| *id).collect();
        connected.into_iter().try_for_each(|executor| self.connect(executor))
    }

    /// Something goes wrong, or comes back.
    pub(super) fn fault(&mut self, random: &mut StdRng) -> Held {
        let executor = NodeId(random.random_range(1..=3));
        match random.random_range(0..5) {
            0 => self.change_leader(),
            1 => self.lose(executor, random),
            2 => {
                // The machine goes down with all its processes, and comes back under another boot id.
                let Some(machine) = self.machines.get_mut(&executor) else { return Ok(()) };
                machine.processes.clear();
                machine.boots += 1;
                self.connect(executor)
            }
            3 => self.connect(executor),
            _ => {
                self.at = self.at + Millis::from_mins(random.random_range(1..30));
                let readings = Readings { majority: self.at, by_node: Vec::new() };
                self.enter(Command::Time(readings)).map(drop)
            }
        }
    }

    /// An executor is cut off: its supervisor ends what has no longer leave to go on, then the leader says so.
    fn lose(&mut self, executor: ExecutorId, random: &mut StdRng) -> Held {
        let Some(machine) = self.machines.get_mut(&executor) else { return Ok(()) };
        machine.is_connected = false;
        let session = SessionNumber(machine.session);
        let dead_for = Millis::from_secs(random.random_range(0..60));
        let may_go_on = |fence: &Fence| {
            let attempt = self.state.live.get(fence).and_then(|key| self.state.attempts.get(key));
            attempt.is_some_and(|attempt| attempt.on_disconnect > dead_for)
        };
        let before = machine.processes.len();
        machine.processes.retain(|fence, _| may_go_on(fence));
        self.counts.lost += (before - machine.processes.len()) as u64;
        self.enter(Command::Cordon { executor, session })?;
        self.enter(Command::ExpireSession { executor, session, dead_for })?;
        Ok(())
    }

    /// Something that is to be done anyway, or that somebody asks for.
    pub(super) fn work(&mut self, random: &mut StdRng) -> Held {
        self.at = self.at + Millis(random.random_range(0..20_000));
        match random.random_range(0..10) {
            0 => self.start(random),
            1 => {
                let how = if random.random() { StopHow::Grace } else { StopHow::Now };
                let run = RunId(random.random_range(0..=self.state.cluster.counters.run));
                self.enter(Command::Cancel { run, how }).map(drop)
            }
            2 => {
                let run = RunId(random.random_range(0..=self.state.cluster.counters.run));
                let scope = matins_core::command::RetryScope::Failed;
                let retry = matins_core::command::Retry { run, scope, definition: None, retired: None };
                self.enter(Command::Retry(retry)).map(drop)
            }
            3 => {
                let pool = "db".parse().expect("a name");
                let slots = random.random_range(1..5);
                self.enter(Command::SetPool { pool, slots, description: String::new() }).map(drop)
            }
            _ => self.end(random),
        }
    }

    fn start(&mut self, random: &mut StdRng) -> Held {
        let name = ["chain", "fan", "past", "skip"][random.random_range(0..4)];
        let found = self.state.definitions.iter().find(|(_, row)| row.workflow.name.name.as_str() == name);
        let Some((definition, row)) = found else { return Ok(()) };
        let tick = Tick { logical_time: self.at, interval_start: self.at, params: Ok("{}".into()) };
        let (workflow, definition) = (row.workflow.name.clone(), *definition);
        self.enter(Command::Start(Start {
            workflow,
            definition,
            origin: RunOrigin::Manual,
            schedule: None,
            tick,
        }))
        .map(drop)
    }

    /// What leader and executors do of themselves: one thing, whichever is drawn of those that are there.
    pub(super) fn end(&mut self, random: &mut StdRng) -> Held {
        self.at = self.at + Millis(random.random_range(0..5_000));
        let live: Vec<Fence> =
            self.machines.values().flat_map(|machine| machine.processes.keys().copied()).collect();
        match random.random_range(0..8) {
            0 => self.fire(random),
            1 => self.decide(random),
            2 => {
                let due = self
                    .state
                    .timers
                    .iter()
                    .map(|(key, ())| key.clone())
                    .take_while(|(at, _)| *at <= self.at);
                let due = due.collect();
                self.enter(Command::FireTimers(due)).map(drop)
            }
            3 => self.enter(Command::Continue).map(drop),
            4 => self.settle_logs(random),
            _ if live.is_empty() => Ok(()),
            _ => self.finish(live[random.random_range(0..live.len())], random),
        }
    }

    fn finish(&mut self, fence: Fence, random: &mut StdRng) -> Held {
        let outcome = match random.random_range(0..10) {
            0 => AttemptOutcome::Exit(1),
            1 => AttemptOutcome::Signal(9),
            _ => AttemptOutcome::Success,
        };
        let log_bytes = random.random_range(0..2);
        self.enter(Command::Finish(Finish { fence, outcome, output: None, started_at: None, log_bytes }))
            .map(drop)
    }

    fn fire(&mut self, random: &mut StdRng) -> Held {
        let due: Vec<ScheduleId> = self.state.schedules.iter().map(|(id, _)| id.clone()).collect();
        let id = due[random.random_range(0..due.len())].clone();
        let Some(row) = self.state.schedules.get(&id) else { return Ok(()) };
        let (version, from_mark, minute) = (row.version, row.mark, 60_000);
        let to_mark = self.state.now;
        let mut decisions = Vec::new();
        let mut next = Timestamp::from_millis((from_mark.as_millis() / minute + 1) * minute);
        // During the last phase the calendar stands still: new runs would never let it end.
        while row.next != Next::Unknown && next <= to_mark {
            if decisions.len() < 3 {
                let interval_start = next - Millis(minute as u64);
                decisions.push(Decision::Run(Tick {
                    logical_time: next,
                    interval_start,
                    params: Ok("{}".into()),
                }));
            }
            next = next + Millis(minute as u64);
        }
        let next = Some(next.max(Timestamp::from_millis((to_mark.as_millis() / minute + 1) * minute)));
        let fire = Fire { schedule: id, version, from_mark, to_mark, decisions, next };
        self.enter(Command::Fire(fire)).map(drop)
    }

    fn decide(&mut self, random: &mut StdRng) -> Held {
        let Some(task) = self.state.deciding.first().map(|(task, ())| *task) else { return Ok(()) };
        let is_fan_out = self.state.spec_of(task).is_some_and(|spec| spec.for_each.is_some());
        let outcome = match (random.random_range(0..8), is_fan_out) {
            (0, _) => DecideOutcome::Failed("drawn".into()),
            (_, true) => DecideOutcome::Items(
                (0..random.random_range(0..6)).map(|item: u32| item.to_string()).collect(),
            ),
            (1, false) => DecideOutcome::Skip,
            (_, false) => DecideOutcome::Run,
        };
        let inputs = self.state.inputs_of(task);
        self.enter(Command::Decide(Decide { task, inputs, outcome })).map(drop)
    }

    fn settle_logs(&mut self, random: &mut StdRng) -> Held {
        if random.random() {
            let open = self.state.logs_open.iter().map(|(fence, _)| (*fence, LogPlace::Lost));
            let open = open.take(20).collect();
            return self.enter(Command::AttachLogs(open)).map(drop);
        }
        let mut runs: Vec<RunId> = self.state.finished.iter().map(|((_, run), ())| *run).take(10).collect();
        runs.retain(|run| !self.state.retries.contains(run));
        runs.sort_unstable();
        self.counts.retired += runs.len() as u64;
        if runs.is_empty() { Ok(()) } else { self.enter(Command::RetireRuns { runs }).map(drop) }
    }

    /// No more faults: everybody is connected, no more ticks, and what waits for a person is cancelled.
    pub(super) fn heal(&mut self) -> Held {
        self.change_leader()?;
        let all: Vec<ExecutorId> = self.machines.keys().copied().collect();
        for executor in all {
            self.connect(executor)?;
            let old = self
                .state
                .sessions
                .iter()
                .filter(|((id, _), _)| *id == executor)
                .map(|((_, session), _)| *session);
            let newest = self.machines.get(&executor).map_or(0, |machine| machine.session);
            let old: Vec<SessionNumber> = old.filter(|session| session.0 < newest).collect();
            for session in old {
                let dead_for = Millis::from_hours(24);
                self.enter(Command::ExpireSession { executor, session, dead_for })?;
            }
        }
        let schedules: Vec<ScheduleId> = self.state.schedules.iter().map(|(id, _)| id.clone()).collect();
        for schedule in schedules {
            let version = self.state.schedules.get(&schedule).map_or(0, |row| row.version);
            self.enter(Command::Quarantine { schedule, version, reason: "the simulation ends".into() })?;
        }
        let pool = "db".parse().expect("a name");
        self.enter(Command::SetPool { pool, slots: 4, description: String::new() }).map(drop)
    }

    /// Whether every run has ended, but for those that wait for a person to repair the past (I15).
    pub(super) fn is_done(&mut self) -> bool {
        self.counts.runs = self.state.cluster.counters.run;
        self.state.runs.iter().all(|(run, row)| !row.is_active() || self.waits_for_repair(*run))
    }

    fn waits_for_repair(&self, run: RunId) -> bool {
        let mut open = self.state.tasks_of(run).filter(|(_, row)| !row.state.has_ended()).peekable();
        open.peek().is_some() && open.all(|(_, row)| matches!(row.state, TaskState::WaitingForPast { .. }))
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// What has not ended, for a person who has to find out why.
    pub(super) fn open(&self) -> String {
        let runs =
            self.state.runs.iter().filter(|(run, row)| row.is_active() && !self.waits_for_repair(**run));
        let told = runs.take(3).map(|(run, row)| {
            let tasks = self.state.tasks_of(*run).filter(|(_, task)| !task.state.has_ended());
            let tasks: Vec<String> = tasks
                .map(|(task, row)| {
                    let stopping = self.state.last_attempt(*task).map(|attempt| match &attempt.state {
                        AttemptState::Stopping { .. } => "stopping",
                        AttemptState::Running | AttemptState::Publishing => "live",
                        AttemptState::Ended { .. } => "ended",
                    });
                    format!("{task:?} {:?} {stopping:?} {:?}", row.state, self.state.held_back_by(*task))
                })
                .collect();
            format!("{run} {:?} {tasks:?}", row.state)
        });
        told.collect::<Vec<_>>().join("; ")
    }
}
