//! The world of schedules: ticks that come due, leaders that decide them, people who pause, change and delete.
//!
//! What a leader proposes is worked out by the planner of production and may be applied much later, twice, or never. An
//! oracle of its own counts: every tick up to a mark has exactly one decision. Start reading at [`Ticks::take`].

use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;

use matins_core::State;
use matins_core::command::{Apply, ApplyWorkflow, Command, Entry, Proposal, Readings, StopHow};
use matins_core::id::{LogIndex, NodeId, ScheduleId, WorkflowName};
use matins_core::state::{Next, Settings};
use matins_core::time::{BootTime, Millis, Timestamp};
use matins_core::{Answer, Refusal, apply};
use matins_node::lead::calendars::Calendars;
use matins_node::lead::scope::Params;
use matins_node::lead::ticks::{TickTools, decide_due};

use super::fingerprint::{self, Fingerprint};
use super::search::World;

mod oracle;

/// Half a minute past midnight, so that the ticks of each minute lie between two steps of time.
const FIRST: Timestamp = Timestamp::from_millis(1_767_225_630_000);
/// Proposals under way at once.
const PENDING_MAX: usize = 3;
/// Leader time so far beyond `state.now` is written down first (PROTOCOL 1.3).
const FAR: Millis = Millis::from_mins(5);

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TicksBudget {
    pub(crate) minutes: u8,
    pub(crate) outages: u8,
    pub(crate) elections: u8,
    /// Pauses, resumes, new specs, deletes.
    pub(crate) changes: u8,
    /// Proposals that are applied twice.
    pub(crate) twice: u8,
}

/// What a person does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    Pause,
    Resume,
    /// Every minute, or every other one.
    Spec(bool),
    Delete,
}

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TicksStep {
    /// A minute passes.
    Minute,
    /// Eleven minutes pass in which nobody leads.
    Outage,
    /// Another leader is ready.
    Elect,
    /// The leader writes the time.
    WriteTime,
    /// The leader decides what is due, and proposes it.
    Look,
    /// A person asks for a change; the leader puts before it what is due.
    Ask(Change),
    /// What is under way is applied.
    Enter(usize),
    /// The same, and it is still under way.
    EnterTwice(usize),
    /// It is lost.
    Lose(usize),
}

/// An entry that is under way.
#[derive(Clone)]
struct Pending {
    proposals: Arc<Vec<Proposal>>,
    print: u64,
    /// How many changes had been accepted when it was worked out.
    changes: u8,
    what: &'static str,
}

/// A schedule, its state, and what is under way about it.
#[derive(Clone)]
pub(crate) struct Ticks {
    state: Arc<State>,
    state_key: u64,
    at: Timestamp,
    calendars: Calendars,
    definitions: [ApplyWorkflow; 2],
    schedule: ScheduleId,
    pending: Vec<Pending>,
    /// Changes that were accepted.
    changes: u8,
    /// Leader time really jumped by more than the grace.
    had_outage: bool,
    /// Since when there is a pause, and those that are over.
    pauses: Vec<(Timestamp, Option<Timestamp>)>,
    left: TicksBudget,
    is_fair: bool,
}

impl Ticks {
    /// A registered workflow with one schedule, and no tick due yet.
    pub(crate) fn founded(left: TicksBudget) -> Result<Self, String> {
        let workflow: WorkflowName = "default/nightly".parse().map_err(|error| format!("{error:?}"))?;
        let schedule = "main".parse().map_err(|error| format!("{error:?}"))?;
        let none = ApplyWorkflow {
            name: workflow.clone(),
            definition: matins_core::id::Digest::default(),
            start: None,
        };
        let mut world = Self {
            state: Arc::new(State::default()),
            state_key: 0,
            at: FIRST,
            calendars: Calendars::default(),
            definitions: [none.clone(), none],
            schedule: ScheduleId { workflow, schedule },
            pending: Vec::new(),
            changes: 0,
            had_outage: false,
            pauses: Vec::new(),
            left,
            is_fair: false,
        };
        world.elect()?;
        world.ask_now(Command::Init { cluster: 1, settings: Settings::default() })?;
        for (place, cron) in ["* * * * *", "*/2 * * * *"].into_iter().enumerate() {
            world.definitions[place] = world.define(cron)?;
        }
        world.ask_now(world.spec(true))?;
        Ok(world)
    }

    fn define(&mut self, cron: &str) -> Result<ApplyWorkflow, String> {
        let compiled = oracle::compiled(cron)?;
        let (name, definition) = (compiled.ir.name.clone(), compiled.digest());
        self.schedule.workflow = name.clone();
        self.ask_now(Command::StoreDefinition { definition: Box::new(compiled.ir), source: None })?;
        Ok(ApplyWorkflow { name, definition, start: None })
    }

    fn spec(&self, every_minute: bool) -> Command {
        let definition = self.definitions[usize::from(!every_minute)].clone();
        Command::Apply(Apply { workflows: vec![definition], ..Apply::default() })
    }

    fn ask_now(&mut self, command: Command) -> Result<(), String> {
        let answer = self.enter(Proposal { request: None, leadership: None, command }, self.changes)?;
        answer.map(drop).map_err(|refusal| format!("the world cannot begin: {refusal}"))
    }

    /// Applies one entry, and lets the oracle look at it. Runs are cancelled at once: this world is about ticks alone.
    fn enter(&mut self, proposal: Proposal, changes: u8) -> Result<Result<Answer, Refusal>, String> {
        let before = Arc::clone(&self.state);
        let is_fire = matches!(proposal.command, Command::Fire(_));
        let command = proposal.command.clone();
        let answer = self.apply(proposal);
        oracle::check(&before, &self.state, self)?;
        if let Ok(answer) = &answer {
            if is_fire && changes != self.changes {
                return Err("3.5: a Fire that was worked out before a change was accepted after it".into());
            }
            if let Answer::Fired(runs) = answer {
                for run in runs {
                    let command = Command::Cancel { run: *run, how: StopHow::Grace };
                    let cancelled = self.apply(Proposal { request: None, leadership: None, command });
                    cancelled.map_err(|refusal| format!("a run cannot be cancelled: {refusal}"))?;
                }
            }
            self.note(&command, &before);
        }
        self.state_key = fingerprint::of_state(&self.state);
        Ok(answer)
    }

    fn apply(&mut self, proposal: Proposal) -> Result<Answer, Refusal> {
        let state = Arc::make_mut(&mut self.state);
        let index = LogIndex(state.index.0 + 1);
        apply(state, index, Entry { level: 1, at: self.at, proposals: vec![proposal] }).answers.remove(0)
    }

    /// Keeps for the oracle what the state does not say.
    fn note(&mut self, command: &Command, before: &State) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "only these are changes of a schedule")]
        match command {
            Command::PauseSchedule(_) if self.pauses.last().is_none_or(|(_, until)| until.is_some()) => {
                self.pauses.push((self.state.now, None));
                self.changes += 1;
            }
            Command::ResumeSchedule(_) | Command::Apply(_) | Command::DeleteWorkflow(_) => {
                if before.schedules != self.state.schedules {
                    self.changes += 1;
                }
                let is_paused = self.row().is_some_and(|row| row.paused_at.is_some());
                if let Some((_, until)) = self.pauses.last_mut().filter(|_| !is_paused) {
                    until.get_or_insert(self.state.now);
                }
            }
            _ => {}
        }
    }

    fn row(&self) -> Option<&matins_core::state::ScheduleRow> {
        self.state.schedules.get(&self.schedule)
    }

    fn elect(&mut self) -> Result<(), String> {
        let readings = Readings { majority: self.at, by_node: Vec::new() };
        let jumps = self.at.since(self.state.now) > self.state.cluster.settings.grace;
        self.had_outage |= jumps && self.state.now > Timestamp::ZERO;
        let nonce = self.state.index.0;
        let command = Command::LeaderReady { node: NodeId(1 + nonce % 2), nonce, readings };
        self.enter(Proposal { request: None, leadership: None, command }, self.changes).map(drop)
    }

    fn write_time(&mut self) -> Result<(), String> {
        let jumps = self.at.since(self.state.now) > self.state.cluster.settings.grace;
        self.had_outage |= jumps;
        let command = Command::Time(Readings { majority: self.at, by_node: Vec::new() });
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        self.enter(Proposal { request: None, leadership, command }, self.changes).map(drop)
    }

    /// What is due, as the leader would decide it now.
    fn due(&mut self) -> Option<Proposal> {
        let mut tools = TickTools { calendars: &mut self.calendars, resolve: &Params };
        let command = decide_due(&self.state, self.at, &self.schedule, &mut tools)?;
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        Some(Proposal { request: None, leadership, command })
    }

    fn propose(&mut self, proposals: Vec<Proposal>, what: &'static str) {
        let print = proposals
            .iter()
            .fold(0_u64, |print, proposal| print.rotate_left(7) ^ fingerprint::of_rows(&proposal.command));
        let pending = Pending { proposals: Arc::new(proposals), print, changes: self.changes, what };
        self.pending.push(pending);
        self.pending.sort_by_key(|pending| (pending.print, pending.changes));
    }

    fn ask(&mut self, change: Change) {
        let due = self.due();
        let schedule = self.schedule.clone();
        let (command, what) = match change {
            Change::Pause => (Command::PauseSchedule(schedule), "a pause"),
            Change::Resume => (Command::ResumeSchedule(schedule), "a resume"),
            Change::Spec(every_minute) => (self.spec(every_minute), "a spec"),
            Change::Delete => (Command::DeleteWorkflow(schedule.workflow), "a delete"),
        };
        // A pause works at once, without a Fire before it.
        let due = due.filter(|_| change != Change::Pause);
        let change = Proposal { request: None, leadership: None, command };
        self.propose(due.into_iter().chain([change]).collect(), what);
    }

    fn enter_pending(&mut self, place: usize) -> Result<(), String> {
        let Pending { proposals, changes, .. } = self.pending[place].clone();
        for proposal in proposals.iter() {
            // What one proposal of an entry changes, the next one sees: only what came before the entry counts.
            let _ = self.enter(proposal.clone(), changes)?;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        self.row().and_then(|row| row.next.due_at()).is_some_and(|due| due <= self.at)
    }

    fn can_ask(&self, change: Change) -> bool {
        let row = self.row();
        match change {
            Change::Pause => row.is_some_and(|row| row.paused_at.is_none()),
            Change::Resume => row.is_some_and(|row| row.paused_at.is_some()),
            Change::Spec(_) => true,
            Change::Delete => row.is_some(),
        }
    }
}

impl World for Ticks {
    type Step = TicksStep;

    fn steps(&self) -> Vec<TicksStep> {
        let mut steps = Vec::new();
        let has_room = self.pending.len() < PENDING_MAX;
        if has_room && self.is_due() {
            steps.push(TicksStep::Look);
        }
        for place in 0..self.pending.len() {
            steps.extend([TicksStep::Enter(place), TicksStep::Lose(place)]);
            steps.extend((self.left.twice > 0).then_some(TicksStep::EnterTwice(place)));
        }
        if has_room && self.left.changes > 0 {
            let all =
                [Change::Pause, Change::Resume, Change::Spec(true), Change::Spec(false), Change::Delete];
            steps.extend(all.into_iter().filter(|it| self.can_ask(*it)).map(TicksStep::Ask));
        }
        steps.extend((self.left.elections > 0).then_some(TicksStep::Elect));
        steps.extend((self.at.since(self.state.now) > FAR).then_some(TicksStep::WriteTime));
        steps.extend((self.left.minutes > 0).then_some(TicksStep::Minute));
        steps.extend((self.left.outages > 0).then_some(TicksStep::Outage));
        steps
    }

    fn take(&mut self, step: TicksStep) -> Result<(), String> {
        match step {
            TicksStep::Minute => {
                self.left.minutes = self.left.minutes.saturating_sub(1);
                self.at = self.at + Millis::from_mins(1);
                Ok(())
            }
            TicksStep::Outage => {
                self.left.outages -= 1;
                self.at = self.at + Millis::from_mins(11);
                Ok(())
            }
            TicksStep::Elect => {
                self.left.elections -= 1;
                self.elect()
            }
            TicksStep::WriteTime => self.write_time(),
            TicksStep::Look => {
                if let Some(fire) = self.due() {
                    self.propose(vec![fire], "ticks");
                }
                Ok(())
            }
            TicksStep::Ask(change) => {
                self.left.changes -= 1;
                self.ask(change);
                Ok(())
            }
            TicksStep::Enter(place) => {
                self.enter_pending(place)?;
                self.pending.remove(place);
                Ok(())
            }
            TicksStep::EnterTwice(place) => {
                self.left.twice -= 1;
                self.enter_pending(place)
            }
            TicksStep::Lose(place) => {
                self.pending.remove(place);
                Ok(())
            }
        }
    }

    fn key(&self) -> u64 {
        let mut hasher = Fingerprint::at(BootTime(0));
        hasher.write_u64(self.state_key);
        (self.at, self.left, self.had_outage, &self.pauses, self.is_fair).hash(&mut hasher);
        let newest = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        for pending in &self.pending {
            let is_new =
                pending.proposals.iter().all(|it| it.leadership.is_none() || it.leadership == newest);
            (pending.print, self.changes - pending.changes, is_new).hash(&mut hasher);
        }
        hasher.finish()
    }

    fn tell(&self, step: TicksStep) -> String {
        let what = |place: usize| self.pending.get(place).map_or("nothing", |pending| pending.what);
        match step {
            TicksStep::Minute => "a minute passes".into(),
            TicksStep::Outage => "eleven minutes pass without a leader".into(),
            TicksStep::Elect => "another leader is ready".into(),
            TicksStep::WriteTime => "the leader writes the time".into(),
            TicksStep::Look => "the leader proposes what is due".into(),
            TicksStep::Ask(change) => format!("a person asks for {change:?}"),
            TicksStep::Enter(place) => format!("{} ({}) applied", what(place), place + 1),
            TicksStep::EnterTwice(place) => {
                format!("{} ({}) applied, and will be once more", what(place), place + 1)
            }
            TicksStep::Lose(place) => format!("{} ({}) lost", what(place), place + 1),
        }
    }

    fn fair_step(&self) -> Option<TicksStep> {
        if self.at.since(self.state.now) > FAR {
            return Some(TicksStep::WriteTime);
        }
        if !self.pending.is_empty() {
            return Some(TicksStep::Enter(0));
        }
        let is_unknown = self.row().is_some_and(|row| row.next == Next::Unknown);
        (self.is_due() || is_unknown).then_some(TicksStep::Look)
    }

    fn without_faults(&self) -> Self {
        let left = TicksBudget { minutes: 0, outages: 0, elections: 0, changes: 0, twice: 0 };
        Self { left, is_fair: true, ..self.clone() }
    }
}
