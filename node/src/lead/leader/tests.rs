//! PROTOCOL 5 and 3.5 as stories: a leader, executors that say things, and a cluster that applies what is proposed.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Command as Line, Context};
use matins_core::command::{Start, StopHow, Tick};
use matins_core::id::{NodeId, RunId};
use matins_core::state::{RunOrigin, RunState};

use super::*;
use crate::lead::testing::{Cluster, Echo, instant, readings, task, workflow};

struct NoRuns;

impl History for NoRuns {
    fn runs_at(&self, _: &ScheduleId, _: Timestamp) -> Result<Vec<(RunId, RunState)>, NoHistory> {
        Ok(Vec::new())
    }

    fn past_at(
        &self,
        _: &ScheduleId,
        _: Timestamp,
    ) -> Result<Option<matins_core::state::PastRow>, NoHistory> {
        Ok(None)
    }
}

struct Script {
    cluster: Cluster,
    leader: Leader,
    boot: BootTime,
    /// The last quorum round; `None`: it is now, all the time.
    quorum: Option<BootTime>,
    /// Proposals are not answered, as if the majority were gone.
    is_cut_off: bool,
    /// Entries are applied and nobody tells the leader what they did, as if it were too slow to listen.
    misses_effects: bool,
    /// Keys whose proposals are held back.
    held_back: Vec<(Key, Command)>,
}

impl Script {
    fn new() -> Self {
        let mut cluster = Cluster::new(instant("2026-01-01").expect("a time"));
        let mut definition = workflow("load");
        let mut bad = workflow("bad");
        bad.tasks[0].with = Some(r#"{"a":"{{ params.nothing }}"}"#.into());
        let mut chain = workflow("chain");
        chain.tasks.push(task("after", &[0]));
        chain.tasks[1].when = Some("tasks.load.outputs.rows > 10".into());
        let mut fan = workflow("fan");
        fan.tasks[0].for_each = Some("[1,2]".into());
        definition.tasks[0].env.push(("DAY".into(), "{{ logical_time | date }}".into()));
        let mut patient = workflow("patient");
        patient.tasks[0].on_disconnect = Millis::from_secs(60);
        for definition in [definition, bad, chain, fan, patient] {
            cluster.define(definition).expect("a workflow");
        }
        let boot = BootTime(1_000_000_000_000);
        let leader = Leader::new(Arc::new(cluster.state.clone()), boot);
        Self {
            cluster,
            leader,
            boot,
            quorum: None,
            is_cut_off: false,
            misses_effects: false,
            held_back: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now { at: self.cluster.at, boot: self.boot }
    }

    /// Runs the leader until it has nothing to do, and tells what it did.
    fn settle(&mut self) -> String {
        let mut out = String::new();
        for _ in 0..100 {
            let outside = Outside {
                history: &NoRuns,
                resolve: &Echo,
                durable_block: 100,
                log_bytes: 0,
                readings: Some(readings(self.cluster.at)),
                quorum: Some(self.quorum.unwrap_or(self.boot)),
                disks: Disks::default(),
            };
            let now = self.now();
            let actions = self.leader.run(now, &outside);
            if actions.is_empty() {
                return out;
            }
            for action in actions {
                self.act(action, &mut out);
            }
        }
        out + "it never comes to rest\n"
    }

    fn act(&mut self, action: Action, out: &mut String) {
        let now = self.now();
        match action {
            Action::Propose(key, command) if self.is_cut_off => self.held_back.push((key, command)),
            Action::Propose(key, command) => self.propose(key, command, out),
            Action::Send(conn, message) => {
                writeln!(out, "{} <- {}", conn.0, shown(message)).expect("text grows");
            }
            Action::Close(conn) => writeln!(out, "{} closed", conn.0).expect("text grows"),
            Action::Read(digest) => {
                writeln!(out, "read {digest:?}").expect("text grows");
                let text = Fetched::Text(r#"{"rows":50}"#.into());
                self.leader.event(Event::Read(digest, text), now);
            }
            Action::Publish(fence, digest) => {
                writeln!(out, "publish {digest:?} of {fence}").expect("text grows");
                self.leader.event(Event::Published(fence, true), now);
            }
        }
    }

    fn propose(&mut self, key: Key, command: Command, out: &mut String) {
        let now = self.now();
        let answer = self.cluster.ask(command);
        // Housekeeping is not what these stories tell.
        if !matches!(key, Key::Recalculate | Key::Time | Key::Checkpoint | Key::Timers) {
            let said = match &answer {
                Ok(Answer::Session { bound, .. }) => format!("bound {bound:?}"),
                Ok(_) => "ok".into(),
                Err(refusal) => format!("refused: {refusal}"),
            };
            writeln!(out, "{key:?}: {said}").expect("text grows");
        }
        self.catch_up();
        self.leader.event(Event::Answered(key, Some(answer)), now);
    }

    fn catch_up(&mut self) {
        let effects = std::mem::take(&mut self.cluster.effects);
        let (now, state) = (self.now(), Arc::new(self.cluster.state.clone()));
        if self.misses_effects {
            self.leader.set_state(state, now.boot);
        } else {
            self.leader.applied(state, &effects, now);
        }
    }

    fn client(&mut self, command: Command) -> String {
        let text = match self.cluster.ask(command) {
            Ok(Answer::Run(run)) => format!("{run}\n"),
            Ok(_) => String::new(),
            Err(refusal) => format!("refused: {refusal}\n"),
        };
        self.catch_up();
        text
    }

    fn start(&mut self, name: &str) -> String {
        let name: matins_core::id::WorkflowName = format!("etl/{name}").parse().expect("a name");
        let number =
            self.cluster.state.workflows.get(&name).and_then(|row| row.current).expect("it is defined");
        let definition =
            self.cluster.state.versions.get(&(name.clone(), number)).expect("a version").definition;
        let at = self.cluster.at;
        let tick = Tick { logical_time: at, interval_start: at, params: Ok("{}".into()) };
        self.client(Command::Start(Start {
            workflow: name,
            definition,
            origin: RunOrigin::Manual,
            schedule: None,
            tick,
        }))
    }

    fn say(&mut self, line: &Line) -> Result<(), Box<dyn Error>> {
        let mut args = line.consume_args();
        let conn = ConnId(args.next_pos().ok_or("which stream?")?.parse()?);
        let number = args.next_pos().map_or(Ok(0), str::parse::<u64>)?;
        let said = match line.name.as_str() {
            "hello" => {
                let held = args.take_key("held").map(|held| held.split('-').map(str::parse).collect());
                let held: Vec<u64> = held.unwrap_or(Ok(Vec::new()))?;
                let held = held.into_iter().map(|fence| v1::HeldFence { fence, state: 1 });
                Said::Hello(v1::Hello {
                    node: args.take_key("of").unwrap_or("1").parse()?,
                    session: number,
                    boot_id: args.take_key("boot").unwrap_or("boot").into(),
                    journal: 1,
                    held: held.collect(),
                    slots: 4,
                    ..Default::default()
                })
            }
            "renew" => Said::Renew(v1::Renew { sequence: number }),
            "confirm" => Said::StartConfirmed(v1::StartConfirmed { fence: number }),
            "dead" => Said::StopDead(v1::StopDead { fence: number }),
            "unkillable" => Said::Unkillable(v1::Unkillable { fence: number }),
            "report" => {
                let outputs = match (args.take_key("json"), args.take_key("blob")) {
                    (Some(json), _) => Some(v1::attempt_report::Outputs::OutputsJson(json.into())),
                    (None, Some(text)) => Some(v1::attempt_report::Outputs::OutputsBlob(v1::OutputBlob {
                        digest: Digest::of(text.as_bytes()).0.to_vec(),
                        size: 100_000,
                    })),
                    (None, None) => None,
                };
                let code = args.take_key("exit").unwrap_or("0").parse()?;
                let outcome = Some(v1::attempt_report::Outcome::ExitCode(code));
                Said::Report(v1::AttemptReport { fence: number, outcome, outputs, ..Default::default() })
            }
            name => return Err(format!("there is no command {name}").into()),
        };
        args.reject_next()?;
        let now = self.now();
        self.leader.event(Event::Said(conn, said), now);
        Ok(())
    }

    /// Time goes on; what is due on the way is done when it is due.
    fn wait(&mut self, seconds: &str) -> Result<String, Box<dyn Error>> {
        let end = self.boot + Millis((seconds.parse::<f64>()? * 1000.0) as u64);
        let mut out = String::new();
        while self.boot < end {
            let next = self.leader.next_run(self.now()).min(end);
            self.cluster.at = self.cluster.at + next.since(self.boot);
            let before = self.boot;
            self.boot = next;
            let done = self.settle();
            if !done.is_empty() {
                let passed = next.since(before);
                write!(out, "after {passed}:\n{done}")?;
            }
        }
        Ok(out)
    }

    /// An executor that lives renews each second; its grants are not told.
    fn alive(&mut self, conn: &str, seconds: u64) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        for sequence in 0..seconds {
            out += &self.wait("1")?;
            let renew = Said::Renew(v1::Renew { sequence });
            let now = self.now();
            self.leader.event(Event::Said(ConnId(conn.parse()?), renew), now);
            let done = self.settle();
            for line in done.lines().filter(|line| !line.contains("<- grant")) {
                writeln!(out, "{line}")?;
            }
        }
        Ok(out)
    }

    fn new_leader(&mut self) -> String {
        let ready = Command::LeaderReady { node: NodeId(2), nonce: 2, readings: readings(self.cluster.at) };
        self.cluster.ask(ready).expect("an election was won");
        self.cluster.effects.clear();
        self.held_back.clear();
        self.leader = Leader::new(Arc::new(self.cluster.state.clone()), self.boot);
        String::new()
    }

    fn show_task(&self, run: u64) -> String {
        let mut out = String::new();
        for (id, row) in self.cluster.state.tasks_of(RunId(run)) {
            let item = id.item.map_or(String::new(), |item| format!(".{item}"));
            let fence = row.state.fence().map_or(String::new(), |fence| format!(" {fence}"));
            let (word, attempts) = (row.state.as_str(), row.attempts);
            writeln!(out, "task {}{item}: {word}{fence}, {attempts} attempts", id.task).expect("text grows");
        }
        out
    }
}

fn shown(message: v1::LeaderMessage) -> String {
    match message.message.expect("a message") {
        Message::Opened(opened) => format!("opened session-{} bound {:?}", opened.session, opened.bound),
        Message::Refused(refused) => format!("refused, the last is session-{}", refused.last_session),
        Message::Grant(grant) => format!("grant {} for {}", grant.sequence, Millis(grant.length_ms)),
        Message::Start(start) => {
            let job = start.job.expect("a job");
            let env: Vec<_> = job.env.iter().map(|pair| format!(" {}={}", pair.name, pair.value)).collect();
            format!("start fence-{} session-{} {}{}", start.fence, start.session, job.label, env.concat())
        }
        Message::Stop(stop) => format!("stop fence-{}{}", stop.fence, if stop.now { " now" } else { "" }),
        Message::ReportAck(ack) => format!("ack fence-{}", ack.fence),
        Message::NotLeader(_) => "not leader".into(),
    }
}

impl goldenscript::Runner for Script {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = line.consume_args();
        let argument = args.next_pos();
        let text = match (line.name.as_str(), argument) {
            ("wait", Some(seconds)) => self.wait(seconds)?,
            ("alive", Some(conn)) => {
                let seconds = args.next_pos().ok_or("how long?")?.parse()?;
                self.alive(conn, seconds)?
            }
            ("start", Some(name)) => self.start(name),
            ("cancel", Some(run)) => {
                let how = if args.next_pos() == Some("now") { StopHow::Now } else { StopHow::Grace };
                self.client(Command::Cancel { run: run.parse()?, how })
            }
            ("close", Some(conn)) => {
                let now = self.now();
                self.leader.event(Event::Closed(ConnId(conn.parse()?)), now);
                String::new()
            }
            ("new-leader", None) => self.new_leader(),
            // From now on no quorum round succeeds, and no proposal is answered.
            ("cut-off", None) => {
                (self.quorum, self.is_cut_off) = (Some(self.boot), true);
                String::new()
            }
            // The same, but proposals still go through: only the anchor grows old.
            ("stale-quorum", None) => {
                self.quorum = Some(self.boot);
                String::new()
            }
            ("miss-effects", None) => {
                self.misses_effects = true;
                String::new()
            }
            // The leader is told that it missed some.
            ("told-of-misses", None) => {
                self.misses_effects = false;
                self.leader.find_all(self.boot);
                String::new()
            }
            ("show", Some(run)) => return Ok(self.show_task(run.parse()?)),
            _ => {
                self.say(line)?;
                String::new()
            }
        };
        Ok(text + &self.settle())
    }
}

#[test]
fn scripts() -> Result<(), Box<dyn Error>> {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lead/leader/scripts");
    for entry in std::fs::read_dir(scripts)? {
        goldenscript::run(&mut Script::new(), entry?.path())?;
    }
    Ok(())
}
