//! A cluster for scripts: a state, and words for commands and effects.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::Command as Line;
use matins_core::command::{
    Apply, ApplyWorkflow, BackfillSlice, Command, Decide, DecideOutcome, Decision, Entry, Finish, Fire,
    Proposal, Readings, Request, Retry, RetryScope, Start, StopHow, Tick,
};
use matins_core::id::{Fence, Leadership, LogIndex, NodeId, RunId, ScheduleId, SessionNumber, TaskId};
use matins_core::state::{AttemptOutcome, RunOrigin, Settings, TaskState, TimerKey};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Effect, Outcome, Refusal, State, Thing, apply};

#[allow(dead_code, reason = "only the random sequences draw")]
pub(crate) mod arbitrary;
mod args;
mod definition;
mod runner;
mod words;

pub(crate) use args::Args;
use args::{
    change_settings, create_backfill, disks, logs, node, open_session, refound, retain, schedule, seconds,
    skip_decision,
};
pub(crate) use definition::workflow_of;

pub(crate) type Fault = Box<dyn Error>;

/// A cluster of one state, driven line by line.
pub(crate) struct Script {
    pub state: State,
    at: Timestamp,
    /// The feature level at which the next entries are written.
    level: u16,
    /// What the log holds, from the first entry on.
    #[allow(dead_code, reason = "only the random sequences look back")]
    pub log: Vec<Vec<u8>>,
}

/// Whether a command comes from the leader.
#[allow(dead_code, reason = "only the random sequences choose")]
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leads {
    Now,
    Never,
}

impl Script {
    /// A cluster that was founded at second 1000 under node-1.
    pub(crate) fn founded() -> Self {
        let at = Timestamp::from_millis(1_000_000);
        let mut script = Self { state: State::default(), at, level: 1, log: Vec::new() };
        let ready = script.ready(1);
        script.enter(ready, None).expect("the first leader is ready");
        script.enter(Command::Init { cluster: 7, settings: Settings::default() }, None).expect("founded");
        script
    }

    /// One line of a random script. A line that does not fit the state (no such task) is passed over; whatever was
    /// entered holds the state to its invariants.
    #[allow(dead_code, reason = "the golden scripts are read by their own parser")]
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Fault> {
        let words: Vec<String> = text.split(' ').map(|word| self.relative(word)).collect();
        let mut words = words.into_iter();
        let name = words.next().unwrap_or_default();
        if name == "time" {
            let at = words.next().unwrap_or_default();
            self.at = seconds(&at)?;
        }
        let mut args = Args::from_words(words);
        if name == "apply" {
            let Ok(definition) = workflow_of(&mut args) else { return Ok(()) };
            let name = definition.name.clone();
            let digest = matins_core::id::Digest::of(&postcard::to_allocvec(&definition)?);
            self.enter(Command::StoreDefinition { definition: Box::new(definition), source: None }, None)?;
            let workflows = vec![ApplyWorkflow { name, definition: digest, start: None }];
            self.enter(Command::Apply(Apply { workflows, ..Apply::default() }), None)?;
            return Ok(());
        }
        let request = args.key("request");
        let Ok(command) = self.parse(&name, &mut args) else { return Ok(()) };
        let request = request
            .map(|id| Request { id: id.parse().expect("an id"), not_after: self.at + Millis::from_mins(10) });
        self.enter(command, request)?;
        Ok(())
    }

    /// A command that nobody spelled out, at any time that it claims.
    #[allow(dead_code, reason = "only the random sequences ask for anything at all")]
    pub(crate) fn ask(
        &mut self,
        command: Command,
        at: Option<Timestamp>,
        leads: Leads,
    ) -> Result<Outcome, Fault> {
        let honest = self.at;
        self.at = at.unwrap_or(honest);
        let newest = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        let leadership = match leads {
            Leads::Now => newest,
            Leads::Never => None,
        };
        let done = self.enter_under(command, None, leadership);
        self.at = honest.max(self.state.now);
        done.map(|(outcome, _)| outcome)
    }

    /// What time it is for the next line.
    #[allow(dead_code, reason = "as above")]
    pub(crate) fn at(&self) -> Timestamp {
        self.at
    }

    /// `-30` and `+60` are seconds before and after now; `%fence3`, `%run3` and `%deciding3` the fourth of those there
    /// are, counted round; so that most random lines mean something.
    fn relative(&self, word: &str) -> String {
        if let Some(what) = word.strip_prefix('%') {
            return self.pick(what);
        }
        let now = self.at.as_millis() / 1000;
        let (key, value) = word.split_once('=').map_or(("", word), |(key, value)| (key, value));
        let key = if key.is_empty() { String::new() } else { format!("{key}=") };
        match (value.chars().next(), value.get(1..).and_then(|rest| rest.parse::<i64>().ok())) {
            (Some('-'), Some(back)) => format!("{key}{}", now - back),
            (Some('+'), Some(ahead)) => format!("{key}{}", now + ahead),
            _ => word.replace('"', ""),
        }
    }

    fn pick(&self, what: &str) -> String {
        let name = what.trim_end_matches(|digit: char| digit.is_ascii_digit());
        let number: usize = what[name.len()..].parse().unwrap_or_default();
        let all: Vec<String> = match name {
            "fence" => self.state.live.iter().map(|(fence, _)| fence.0.to_string()).collect(),
            "run" => self.state.runs.iter().map(|(run, _)| run.to_string()).collect(),
            "open" => self.state.logs_open.iter().map(|(fence, _)| fence.0.to_string()).collect(),
            "finished" => self.state.finished.iter().map(|((_, run), ())| run.to_string()).collect(),
            "deciding" => {
                self.state.deciding.iter().map(|(task, ())| words::address(&self.state, *task)).collect()
            }
            "failed" => {
                let failed =
                    self.state.tasks.iter().filter(|(_, row)| matches!(row.state, TaskState::Failed(_)));
                failed.map(|(task, _)| words::address(&self.state, *task)).collect()
            }
            _ => Vec::new(),
        };
        all.get(number % all.len().max(1)).cloned().unwrap_or_else(|| "none".into())
    }

    fn ready(&self, node: u64) -> Command {
        let readings = Readings { majority: self.at, by_node: Vec::new() };
        Command::LeaderReady { node: NodeId(node), nonce: node, readings }
    }

    /// Puts one command into an entry of its own, and holds the state to its invariants.
    fn enter(&mut self, command: Command, request: Option<Request>) -> Result<(Outcome, String), Fault> {
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        self.enter_under(command, request, leadership)
    }

    fn enter_under(
        &mut self,
        command: Command,
        request: Option<Request>,
        leadership: Option<Leadership>,
    ) -> Result<(Outcome, String), Fault> {
        let proposal = Proposal { request, leadership, command };
        let entry = Entry { level: self.level, at: self.at, proposals: vec![proposal] };
        let index = LogIndex(self.state.index.0 + 1);
        let before = self.state.clone();
        self.log.push(entry.encode());
        let outcome = apply(&mut self.state, index, entry.clone());
        self.hold_invariants(&before, &entry, &outcome)?;
        let text = words::outcome(&self.state, &outcome);
        Ok((outcome, text))
    }

    /// What must hold after every entry, whatever it was.
    fn hold_invariants(&self, before: &State, entry: &Entry, outcome: &Outcome) -> Result<(), Fault> {
        let faults = self.state.check();
        if !faults.is_empty() {
            return Err(format!("after {entry:?}: {faults:#?}").into());
        }
        if self.state.now < before.now {
            return Err("I13: time fell".into());
        }
        // Replicas agree: on the entry as it lies in the log, and on the state as a snapshot carries it.
        let mut replica = State::decode(&before.encode()).ok_or("the state does not read back")?;
        let same = apply(&mut replica, self.state.index, Entry::decode(&entry.encode())?);
        if same != *outcome || replica != self.state || replica.hash() != self.state.hash() {
            return Err("I11: a replica came to another state".into());
        }
        if outcome.answers.iter().all(Result::is_err) {
            let mut unchanged = before.clone();
            (unchanged.index, unchanged.now) = (self.state.index, self.state.now);
            let forgotten = before.requests.len() != self.state.requests.len();
            if unchanged != self.state
                && !forgotten
                && entry.proposals.iter().all(|one| one.request.is_none())
            {
                return Err(format!("a refusal left a trace: {:?}", outcome.answers).into());
            }
        }
        Ok(())
    }

    fn command(&mut self, line: &Line) -> Result<Command, Fault> {
        let mut args = Args::of(line);
        if let Some(at) = args.key("at") {
            self.at = seconds(&at)?;
        }
        let command = self.parse(&line.name, &mut args)?;
        args.end()?;
        Ok(command)
    }

    #[expect(clippy::too_many_lines, reason = "one arm a command")]
    fn parse(&self, name: &str, args: &mut Args) -> Result<Command, Fault> {
        Ok(match name {
            "ready" => self.ready(args.number("node")?.unwrap_or(1)),
            "time" => Command::Time(Readings { majority: self.at, by_node: Vec::new() }),
            "accept-time" => Command::AcceptTime { up_to: seconds(&args.need()?)? },
            "open" => open_session(args)?,
            "expire" => {
                let (executor, session) = (node(&args.need()?)?, SessionNumber(args.need()?.parse()?));
                let dead_for = Millis::from_secs(args.number("dead_for")?.unwrap_or(0));
                Command::ExpireSession { executor, session, dead_for }
            }
            "cordon" => Command::Cordon {
                executor: node(&args.need()?)?,
                session: SessionNumber(args.need()?.parse()?),
            },
            "uncordon" => Command::Uncordon {
                executor: node(&args.need()?)?,
                session: SessionNumber(args.need()?.parse()?),
            },
            "drain" => Command::Drain(node(&args.need()?)?),
            "undrain" => Command::Undrain(node(&args.need()?)?),
            "dismiss" => Command::Dismiss(node(&args.need()?)?),
            "store" => {
                let definition = Box::new(workflow_of(args)?);
                Command::StoreDefinition { definition, source: None }
            }
            "start" => self.start(args)?,
            "cancel" => {
                let run = args.need()?.parse()?;
                let how =
                    if args.key("how").as_deref() == Some("now") { StopHow::Now } else { StopHow::Grace };
                Command::Cancel { run, how }
            }
            "retry" => self.retry(args)?,
            "retry-task" => Command::RetryTask(self.task(&args.need()?)?),
            "abandon" => Command::Abandon(self.task(&args.need()?)?),
            "finish" => self.finish(args)?,
            "decide" => self.decide(args)?,
            "timers" => Command::FireTimers(self.due_timers(args)),
            "publishing" => Command::Publishing { fence: Fence(args.need()?.parse()?) },
            "unkillable" => Command::Unkillable { fence: Fence(args.need()?.parse()?) },
            "logs" => Command::AttachLogs(logs(args)?),
            "continue" => Command::Continue,
            "fire" => self.fire(args)?,
            "quarantine" => {
                let schedule = schedule(&args.need()?)?;
                let version = self.version_of(&schedule, args)?;
                Command::Quarantine { schedule, version, reason: "bad zone".into() }
            }
            "pause" => Command::PauseSchedule(schedule(&args.need()?)?),
            "resume" => Command::ResumeSchedule(schedule(&args.need()?)?),
            "pause-workflow" => Command::PauseWorkflow(format!("test/{}", args.need()?).parse()?),
            "resume-workflow" => Command::ResumeWorkflow(format!("test/{}", args.need()?).parse()?),
            "delete" => Command::DeleteWorkflow(format!("test/{}", args.need()?).parse()?),
            "pool" => Command::SetPool {
                pool: args.need()?.parse()?,
                slots: args.need()?.parse()?,
                description: String::new(),
            },
            "delete-pool" => Command::DeletePool(args.need()?.parse()?),
            "backfill" => create_backfill(args)?,
            "slice" => self.slice(args)?,
            "pause-backfill" => Command::PauseBackfill(args.need()?.parse()?),
            "resume-backfill" => Command::ResumeBackfill(args.need()?.parse()?),
            "cancel-backfill" => Command::CancelBackfill(args.need()?.parse()?),
            "retire" => Command::RetireRuns {
                runs: args.rest().iter().map(|run| run.parse()).collect::<Result<_, _>>()?,
            },
            "checkpoint" => Command::Checkpoint,
            "found" => Command::CheckpointReport {
                node: node(&args.need()?)?,
                index: args.need()?.parse()?,
                hash: matins_core::id::Digest::of(args.need()?.as_bytes()),
                voters: 3,
            },
            "goes" => Command::MemberGoes { node: node(&args.need()?)?, name: args.need()? },
            "raise-level" => Command::RaiseLevel {
                level: args.need()?.parse()?,
                members: LogIndex(args.number("members")?.unwrap_or(0)),
            },
            "settings" => Command::SetSettings(self.settings(args)?),
            "change" => change_settings(args)?,
            "refound" => refound(args)?,
            "retain" => retain(args)?,
            "disks" => disks(args)?,
            other => return Err(format!("no command `{other}`").into()),
        })
    }

    fn settings(&self, args: &mut Args) -> Result<Settings, Fault> {
        let mut settings = self.state.cluster.settings.clone();
        if let Some(rows) = args.number("rows")? {
            settings.rows_per_command_max = u32::try_from(rows)?;
        }
        if let Some(bytes) = args.number("bytes")? {
            settings.state_bytes_max = bytes;
        }
        if let Some(requests) = args.number("requests")? {
            settings.requests_permille_max = u32::try_from(requests)?;
        }
        Ok(settings)
    }

    /// `load`, `load.2` or `run-3/load.2`; without a run the newest is meant.
    fn task(&self, text: &str) -> Result<TaskId, Fault> {
        let (run, path) = match text.split_once('/') {
            Some((run, path)) => (run.parse()?, path),
            None => (RunId(self.state.cluster.counters.run), text),
        };
        let (name, item) = match path.split_once('.') {
            Some((name, item)) => (name, Some(item.parse()?)),
            None => (path, None),
        };
        let definition = self.state.definition_of(run).ok_or("no such run")?;
        let task = definition.workflow.tasks.iter().position(|task| task.name.as_str() == name);
        Ok(TaskId { run, task: u16::try_from(task.ok_or("no such task")?)?, item })
    }

    fn definition(&self, workflow: &str) -> Result<matins_core::id::Digest, Fault> {
        let stored =
            self.state.definitions.iter().filter(|(_, row)| row.workflow.name.name.as_str() == workflow);
        let newest = stored.max_by_key(|(_, row)| (row.stored_at, row.workflow.description.clone()));
        Ok(*newest.ok_or("no such definition")?.0)
    }

    fn start(&self, args: &mut Args) -> Result<Command, Fault> {
        let name = args.need()?;
        let logical_time = args.key("time").map_or(Ok(self.at), |time| seconds(&time))?;
        let interval_start = args.key("interval").map_or(Ok(logical_time), |time| seconds(&time))?;
        let origin = if args.key("submit").is_some() { RunOrigin::Submitted } else { RunOrigin::Manual };
        Ok(Command::Start(Start {
            workflow: format!("test/{name}").parse()?,
            definition: self.definition(&name)?,
            origin,
            schedule: args.key("schedule").map(|name| name.parse()).transpose()?,
            tick: Tick { logical_time, interval_start, params: Ok("{}".into()) },
        }))
    }

    fn retry(&self, args: &mut Args) -> Result<Command, Fault> {
        let run: RunId = args.need()?.parse()?;
        let scope = match args.key("from") {
            Some(task) => RetryScope::From(self.task(&format!("{run}/{task}"))?.task),
            None if args.key("all").is_some() => RetryScope::All,
            None => RetryScope::Failed,
        };
        Ok(Command::Retry(Retry { run, scope, definition: None, retired: None }))
    }

    fn finish(&self, args: &mut Args) -> Result<Command, Fault> {
        let what = args.need()?;
        let fence = match what.parse() {
            Ok(fence) => Fence(fence),
            Err(_) => self
                .state
                .tasks
                .get(&self.task(&what)?)
                .and_then(|row| row.state.fence())
                .ok_or("no fence")?,
        };
        let outcome = match args.key("exit").as_deref() {
            None | Some("0") => AttemptOutcome::Success,
            Some("broken") => AttemptOutcome::Broken("template".into()),
            Some(code) => AttemptOutcome::Exit(code.parse()?),
        };
        let log_bytes = args.number("log")?.unwrap_or(0);
        Ok(Command::Finish(Finish { fence, outcome, output: None, started_at: None, log_bytes }))
    }

    fn decide(&self, args: &mut Args) -> Result<Command, Fault> {
        let task = self.task(&args.need()?)?;
        let outcome = match args.need()?.as_str() {
            "run" => DecideOutcome::Run,
            "skip" => DecideOutcome::Skip,
            "fail" => DecideOutcome::Failed("bad condition".into()),
            items => DecideOutcome::Items((0..items.parse::<u32>()?).map(|item| item.to_string()).collect()),
        };
        let mut inputs = self.state.inputs_of(task);
        if args.key("stale").is_some() {
            for input in &mut inputs {
                input.1 += 1;
            }
        }
        Ok(Command::Decide(Decide { task, inputs, outcome }))
    }

    /// All timers that are due, and one that was never set: it must be passed over.
    fn due_timers(&self, args: &mut Args) -> Vec<(Timestamp, TimerKey)> {
        let mut due: Vec<_> =
            self.state.timers.range(..=(self.at, TimerKey::LAST)).map(|(key, ())| key.clone()).collect();
        if args.key("ahead").is_some() {
            due = self.state.timers.iter().map(|(key, ())| key.clone()).collect();
        }
        due.push((Timestamp::ZERO, TimerKey::Timeout(Fence(u64::MAX))));
        due
    }

    fn version_of(&self, schedule: &ScheduleId, args: &mut Args) -> Result<u64, Fault> {
        let version = self.state.schedules.get(schedule).map_or(0, |row| row.version);
        Ok(args.number("version")?.unwrap_or(version))
    }

    /// `fire w@s 1010 skip@1020-1040@paused to=1050 next=1060`
    fn fire(&self, args: &mut Args) -> Result<Command, Fault> {
        let schedule = schedule(&args.need()?)?;
        let version = self.version_of(&schedule, args)?;
        let mark = self.state.schedules.get(&schedule).map_or(Timestamp::ZERO, |row| row.mark);
        let from_mark = args.key("from").map_or(Ok(mark), |from| seconds(&from))?;
        let to_mark = args.key("to").map_or(Ok(self.at), |to| seconds(&to))?;
        let next = args.key("next").map(|next| seconds(&next)).transpose()?;
        let mut interval_start = from_mark;
        let mut decisions = Vec::new();
        for text in args.rest() {
            if let Some(skip) = text.strip_prefix("skip@") {
                decisions.push(skip_decision(skip)?);
                continue;
            }
            let logical_time = seconds(text.trim_start_matches("bad@"))?;
            let params = if text.starts_with("bad@") { Err("no such day".into()) } else { Ok("{}".into()) };
            decisions.push(Decision::Run(Tick { logical_time, interval_start, params }));
            interval_start = logical_time;
        }
        Ok(Command::Fire(Fire { schedule, version, from_mark, to_mark, decisions, next }))
    }

    fn slice(&self, args: &mut Args) -> Result<Command, Fault> {
        let backfill = args.need()?.parse()?;
        let row = self.state.backfills.get(&backfill).ok_or("no such backfill")?;
        let retired = self.state.retired_runs.get(&row.schedule.workflow).copied().unwrap_or(0);
        let retired_runs = args.number("retired")?.unwrap_or(retired);
        let cursor = args.key("cursor").map(|cursor| seconds(&cursor)).transpose()?;
        let ticks = args.rest().into_iter().map(|text| {
            let logical_time = seconds(&text)?;
            Ok(Tick {
                logical_time,
                interval_start: logical_time - Millis::from_secs(10),
                params: Ok("{}".into()),
            })
        });
        let ticks = ticks.collect::<Result<_, Fault>>()?;
        let from = row.cursor.unwrap_or_default();
        Ok(Command::BackfillSlice(BackfillSlice {
            backfill,
            from,
            cursor,
            ticks,
            left_out: 0,
            retired_runs,
            past: vec![],
        }))
    }
}
