//! The one door: how an agreed entry changes the state.
//!
//! [`apply`] checks what is common to all commands (time, leadership, repeats), then hands each to the function of its
//! subject: one module per subject, one function per command. Every function checks first and changes
//! afterwards, so a refusal leaves no trace; tests hold it to that. What a command can cause is refused, never asserted.

#![expect(
    clippy::unnecessary_wraps,
    reason = "every command has an answer of one type, those that nothing refuses too"
)]
#![expect(clippy::needless_pass_by_value, reason = "a command is used up by being applied")]

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use crate::answer::{Answer, Refusal, Stale, Thing};
use crate::command::{Command, Entry, Proposal, Readings};
use crate::effect::Effect;
use crate::id::{BackfillId, ExecutorId, LogIndex, TaskId, WorkflowName};
use crate::mutation::{Mutation, planted};
use crate::state::{Class, LimitId, State};
use crate::time::{Millis, Timestamp};

mod attempt;
mod backfill;
mod cancel;
mod cluster;
mod definition;
mod dispatch;
mod fire;
mod history;
mod refound;
mod request;
mod retain;
mod retry;
mod run;
mod schedule;
mod session;
mod task;

/// No entry may be further ahead of the cluster's time and of the clocks it read (PROTOCOL 1.3).
const AHEAD_MAX: Millis = Millis::from_mins(10);

/// What came of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// One for each command, in order.
    pub answers: Vec<Result<Answer, Refusal>>,
    /// For each command the index of the entry that did it: of this one, or of an earlier one if it is a repeat.
    pub indexes: Vec<LogIndex>,
    /// What the shell may want to act on.
    pub effects: Vec<Effect>,
}

/// What every command answers.
type Applied = Result<Answer, Refusal>;

/// Applies a committed entry: equal inputs, equal results, on every replica.
///
/// Total: there is no state and no entry for which it panics.
pub fn apply(state: &mut State, index: LogIndex, entry: Entry) -> Outcome {
    state.index = index;
    if let Err(refusal) = check_level(state, &entry).and_then(|()| check_time(state, &entry)) {
        let answers = entry.proposals.iter().map(|_| Err(refusal.clone())).collect();
        let indexes = vec![index; entry.proposals.len()];
        return Outcome { answers, indexes, effects: Vec::new() };
    }
    let moved_by = entry.at.since(state.now);
    state.now = state.now.max(entry.at);
    let mut step = Step::new(state, moved_by);
    step.level = entry.level;
    step.forget_requests();
    let mut answers = Vec::with_capacity(entry.proposals.len());
    let mut indexes = Vec::with_capacity(entry.proposals.len());
    for proposal in entry.proposals {
        step.rows_left = step.state.cluster.settings.rows_per_command_max;
        step.done_at = index;
        let answer = step.proposal(proposal);
        step.settle();
        answers.push(answer);
        indexes.push(step.done_at);
    }
    Outcome { answers, indexes, effects: step.effects }
}

/// Notes that the members are others from here on (PROTOCOL 6.9): a level for which the former ones were asked is not theirs.
pub fn members_changed(state: &mut State, index: LogIndex) {
    (state.index, state.cluster.members) = (index, index);
}

/// I12. No leader writes such an entry: it knows the level in force.
fn check_level(state: &State, entry: &Entry) -> Result<(), Refusal> {
    let in_force = state.cluster.level;
    if state.cluster.id.is_some() && entry.level > in_force {
        return Err(Refusal::AboveLevel { level: entry.level, in_force });
    }
    Ok(())
}

/// PROTOCOL 1.3: one clock that reads 2036 must not take the cluster there.
fn check_time(state: &State, entry: &Entry) -> Result<(), Refusal> {
    let reading = entry.proposals.iter().find_map(|proposal| readings(&proposal.command));
    // A cluster without a time takes it from its first reading.
    let known = reading.map_or(state.now, |readings| state.now.max(readings.majority));
    if entry.at > known + AHEAD_MAX && entry.at > state.now {
        return Err(Refusal::TimeAhead { at: entry.at, now: known });
    }
    Ok(())
}

fn readings(command: &Command) -> Option<&Readings> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these two carry readings (PROTOCOL 1.3)")]
    match command {
        Command::LeaderReady { readings, .. } | Command::Time(readings) => Some(readings),
        _ => None,
    }
}

/// One command on its way through the state.
struct Step<'a> {
    state: &'a mut State,
    effects: Vec<Effect>,
    /// The entry that did this command: this one, unless it is a repeat.
    done_at: LogIndex,
    /// How far this entry moved leader time.
    moved_by: Millis,
    /// The level that this entry was written at.
    level: u16,
    /// Rows that this command may still touch (PROTOCOL 4.5).
    rows_left: u32,
    /// Tasks that ended, whose consequences are still to be drawn.
    ended: VecDeque<TaskId>,
    /// Workflows whose gate may have room.
    gates: BTreeSet<WorkflowName>,
    /// Backfills that may have room for a run, or be over.
    backfills: BTreeSet<BackfillId>,
    /// Classes whose queue changed.
    changed: BTreeSet<Class>,
    /// Limits that may have room again.
    freed: BTreeSet<LimitId>,
    /// Executors that may have room again.
    freed_executors: BTreeSet<ExecutorId>,
}

impl<'a> Step<'a> {
    fn new(state: &'a mut State, moved_by: Millis) -> Self {
        Self {
            done_at: state.index,
            state,
            effects: Vec::new(),
            moved_by,
            level: 0,
            rows_left: 0,
            ended: VecDeque::new(),
            gates: BTreeSet::new(),
            backfills: BTreeSet::new(),
            changed: BTreeSet::new(),
            freed: BTreeSet::new(),
            freed_executors: BTreeSet::new(),
        }
    }

    fn now(&self) -> Timestamp {
        self.state.now
    }

    /// Counts rows against the limit of this command.
    fn touch(&mut self, rows: u32) {
        self.rows_left = self.rows_left.saturating_sub(rows);
    }

    fn proposal(&mut self, proposal: Proposal) -> Applied {
        let Proposal { request, leadership, command } = proposal;
        self.check_founded(&command)?;
        if is_leaders(&command) && !planted(Mutation::LeadershipNotChecked) {
            let newest = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
            if leadership != newest || newest.is_none() {
                return Err(Refusal::Stale(Stale::Leadership(newest)));
            }
        }
        match request {
            Some(request) => self.once(request, command),
            None => self.command(command),
        }
    }

    fn check_founded(&self, command: &Command) -> Result<(), Refusal> {
        let comes_before =
            matches!(command, Command::LeaderReady { .. } | Command::Time(_) | Command::Init { .. });
        if self.state.cluster.id.is_some() || comes_before { Ok(()) } else { Err(Refusal::NotInitialised) }
    }

    fn command(&mut self, command: Command) -> Applied {
        match command {
            Command::LeaderReady { node, nonce, readings: _ } => self.leader_ready(node, nonce),
            Command::Time(_) => self.time(),
            Command::OpenSession(open) => self.open_session(open),
            Command::ExpireSession { executor, session, dead_for } => {
                self.expire_session(executor, session, dead_for)
            }
            Command::Cordon { executor, session } => self.cordon(executor, session),
            Command::Uncordon { executor, session } => self.uncordon(executor, session),
            Command::Fire(fire) => self.fire(fire),
            Command::Decide(decide) => self.decide(decide),
            Command::FireTimers(timers) => self.fire_timers(timers),
            Command::Finish(finish) => self.finish(finish),
            Command::Publishing { fence } => self.publishing(fence),
            Command::Unkillable { fence } => self.unkillable(fence),
            Command::AttachLogs(logs) => self.attach_logs(logs),
            Command::Continue => self.go_on(),
            Command::BackfillSlice(slice) => self.backfill_slice(slice),
            Command::RetireRuns { runs } => self.retire_runs(&runs),
            Command::Checkpoint => self.checkpoint(),
            Command::CheckpointReport { node, index, hash, voters } => {
                self.checkpoint_report(node, index, (hash, voters))
            }
            Command::Quarantine { schedule, version, reason } => self.quarantine(&schedule, version, reason),
            Command::Recalculate { schedules, tables } => self.recalculate(&schedules, tables),
            Command::Init { cluster, settings } => self.init(cluster, settings),
            Command::SetSettings(settings) => self.set_settings(settings),
            Command::AcceptTime { up_to } => self.accept_time(up_to),
            Command::StoreDefinition { definition, source } => self.store_definition(*definition, source),
            Command::Apply(apply) => self.apply(apply),
            Command::PauseWorkflow(workflow) => self.pause_workflow(&workflow),
            Command::ResumeWorkflow(workflow) => self.resume_workflow(&workflow),
            Command::PauseSchedule(schedule) => self.pause_schedule(&schedule),
            Command::ResumeSchedule(schedule) => self.resume_schedule(&schedule),
            Command::DeleteWorkflow(workflow) => self.delete_workflow(&workflow),
            Command::Start(start) => self.start(start),
            Command::Retry(retry) => self.retry(retry),
            Command::RetryTask(task) => self.retry_task(task),
            Command::Cancel { run, how } => self.cancel(run, how),
            Command::CreateBackfill(create) => self.create_backfill(create),
            Command::PauseBackfill(backfill) => self.pause_backfill(backfill),
            Command::ResumeBackfill(backfill) => self.resume_backfill(backfill),
            Command::CancelBackfill(backfill) => self.cancel_backfill(backfill),
            Command::SetPool { pool, slots, description } => self.set_pool(pool, slots, description),
            Command::DeletePool(pool) => self.delete_pool(&pool),
            Command::Drain(executor) => self.drain(executor),
            Command::Undrain(executor) => self.undrain(executor),
            Command::Abandon(task) => self.abandon(task),
            Command::RaiseLevel { level, members } => self.raise_level(level, members),
            Command::Dismiss(executor) => self.dismiss(executor),
            Command::Refound(refound) => self.refound(&refound),
            Command::Retain(retain) => self.retain(&retain),
            Command::ChangeSettings(changes) => self.change_settings(&changes),
            Command::Disks(full) => self.disks(full),
            Command::MemberGoes { node, name } => self.member_goes(node, name),
        }
    }

    /// Draws all consequences of a command: tasks that ended let others go on, runs that ended let others begin, and room
    /// that came free is given away. A loop over queues and not calls from one to the next, so that a long chain of
    /// consequences cannot use up the stack.
    fn settle(&mut self) {
        loop {
            if let Some(task) = self.ended.pop_front() {
                self.follow(task);
            } else if let Some(workflow) = self.gates.pop_first() {
                self.open_gate(&workflow);
            } else if let Some(backfill) = self.backfills.pop_first() {
                self.advance_backfill(backfill);
            } else {
                break;
            }
        }
        self.dispatch();
    }
}

/// Whether only a leader makes such a command: it is refused unless it was computed under the last leadership (2.1).
fn is_leaders(command: &Command) -> bool {
    match command {
        Command::Time(_)
        | Command::OpenSession(_)
        | Command::ExpireSession { .. }
        | Command::Cordon { .. }
        | Command::Uncordon { .. }
        | Command::Fire(_)
        | Command::Decide(_)
        | Command::FireTimers(_)
        | Command::Finish(_)
        | Command::Publishing { .. }
        | Command::Unkillable { .. }
        | Command::Continue
        | Command::BackfillSlice(_)
        | Command::RetireRuns { .. }
        | Command::Checkpoint
        | Command::Quarantine { .. }
        | Command::Recalculate { .. }
        | Command::Retain(_)
        | Command::Disks(_) => true,
        Command::LeaderReady { .. }
        | Command::AttachLogs(_)
        | Command::CheckpointReport { .. }
        | Command::Init { .. }
        | Command::SetSettings(_)
        | Command::AcceptTime { .. }
        | Command::StoreDefinition { .. }
        | Command::Apply(_)
        | Command::PauseWorkflow(_)
        | Command::ResumeWorkflow(_)
        | Command::PauseSchedule(_)
        | Command::ResumeSchedule(_)
        | Command::DeleteWorkflow(_)
        | Command::Start(_)
        | Command::Retry(_)
        | Command::RetryTask(_)
        | Command::Cancel { .. }
        | Command::CreateBackfill(_)
        | Command::PauseBackfill(_)
        | Command::ResumeBackfill(_)
        | Command::CancelBackfill(_)
        | Command::SetPool { .. }
        | Command::DeletePool(_)
        | Command::Drain(_)
        | Command::Undrain(_)
        | Command::Abandon(_)
        | Command::Refound(_)
        | Command::ChangeSettings(_)
        | Command::Dismiss(_)
        | Command::MemberGoes { .. }
        | Command::RaiseLevel { .. } => false,
    }
}

/// A refusal for something that is not in a state for this.
fn conflict(thing: Thing, why: impl Into<alloc::string::String>, hint: &str) -> Refusal {
    Refusal::Conflict { thing, why: why.into(), hint: hint.into() }
}
