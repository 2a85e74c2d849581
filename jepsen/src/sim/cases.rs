//! Stories that chance tells too seldom: what the check of the leadership alone prevents, what rho is for, and why a session
//! whose expiry is under way gets no answer.

use std::sync::{Arc, LazyLock};

use matins_core::command::{Apply, ApplyWorkflow, Command, Entry, Proposal, Readings};
use matins_core::id::{Leadership, LogIndex, NodeId, SessionNumber};
use matins_core::lease::SessionKeeper;
use matins_core::state::Settings;
use matins_core::state::settings::LeaseTerms;
use matins_core::time::{BootTime, Millis, Timestamp};
use matins_core::{Answer, LEVEL, Refusal, Stale, State, apply};
use matins_node::lead::calendars::Calendars;
use matins_node::lead::leader::{Action, Disks, Event as Told, Leader, Now, Outside};
use matins_node::lead::queue::ConnId;
use matins_node::lead::scope::Params;
use matins_node::lead::ticks::{TickTools, decide_due};
use matins_proto::v1;
use matins_proto::v1::executor_message::Message as Said;
use matins_proto::v1::leader_message::Message;
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};

use super::agenda::{MS, SEC};
use super::clocks::Clocks;
use super::leading::Past;

/// A case: its name, and the story that must hold.
pub(super) type Case = (&'static str, fn() -> Result<(), String>);

/// All cases of their own.
pub(super) const CASES: [Case; 3] = [
    ("a Fire of an older leadership after an outage", a_fire_of_an_older_leadership),
    ("leases under clocks at the bound of their rates", leases_at_the_bound),
    ("a renewal after the expiry was proposed", a_renewal_after_the_expiry),
];

const WORKFLOW: &str = "workflow: w\ntasks: { only: { run: [x] } }\n\
    schedules: { tick: { cron: \"* * * * *\", catchup: { policy: none } } }\n";

/// The state, and the time at which entries are written.
struct Log {
    state: State,
    at: Timestamp,
}

impl Log {
    fn write(&mut self, leadership: Option<Leadership>, command: Command) -> Result<Answer, Refusal> {
        let proposal = Proposal { request: None, leadership, command };
        let entry = Entry { level: LEVEL, at: self.at, proposals: vec![proposal] };
        let index = LogIndex(self.state.index.0 + 1);
        let mut answers = apply(&mut self.state, index, entry).answers;
        answers.pop().expect("one command has one answer")
    }

    fn lead(&mut self, node: u64) -> Result<Leadership, String> {
        let readings = Readings { majority: self.at, by_node: Vec::new() };
        match self.write(None, Command::LeaderReady { node: NodeId(node), nonce: node, readings }) {
            Ok(Answer::Ready(leadership)) => Ok(leadership),
            other => Err(format!("the harness: nobody leads: {other:?}")),
        }
    }

    /// What a leader computes for the one schedule now.
    fn compute(&self) -> Option<Command> {
        let id = self.state.schedules.first().map(|(id, _)| id.clone())?;
        let mut tools = TickTools { calendars: &mut Calendars::default(), resolve: &Params };
        decide_due(&self.state, self.at, &id, &mut tools)
    }
}

/// A leader computes a Fire, which stays in the queue of its node. For an hour nobody leads; another leader notes the
/// outage; then the first node leads again, in the same process, and the Fire gets in. Mark and version are still
/// those it was computed under, so nothing but its leadership tells that by now its tick is missed (PROTOCOL 2.1, 3.2).
///
/// The other commands of a leader name what protects them too (a session number, a fence, inputs, a cursor): a session
/// cannot be renewed by another leader without a higher number, so a delayed `ExpireSession` finds nothing bound.
fn a_fire_of_an_older_leadership() -> Result<(), String> {
    let mut log = Log { state: State::default(), at: Timestamp::from_millis(1_700_000_000_000) };
    let first = log.lead(1)?;
    let settled = log.write(None, Command::Init { cluster: 1, settings: Settings::default() });
    let source = SourceFile { name: "case.yaml".into(), text: WORKFLOW.into() };
    let compiled = compile(&[source], &NoFiles, &Options::default());
    let workflow = compiled.workflows.into_iter().next().ok_or("the harness: no workflow")?;
    let (name, definition) = (workflow.ir.name.clone(), workflow.digest());
    let stored =
        log.write(None, Command::StoreDefinition { definition: Box::new(workflow.ir), source: None });
    let apply =
        Apply { workflows: vec![ApplyWorkflow { name, definition, start: None }], ..Apply::default() };
    let taken = log.write(None, Command::Apply(apply));
    for answer in [settled, stored, taken] {
        answer.map_err(|refusal| format!("the harness: {refusal}"))?;
    }
    let sets_next = log.compute().ok_or("the harness: no next tick")?;
    log.write(Some(first), sets_next).map_err(|refusal| format!("the harness: {refusal}"))?;
    log.at = log.at + Millis::from_mins(1);
    let delayed = log.compute().ok_or("the harness: no tick is due")?;
    log.at = log.at + Millis::from_hours(1);
    log.lead(2)?;
    log.lead(1)?;
    match log.write(Some(first), delayed) {
        Err(Refusal::Stale(Stale::Leadership(_))) => {}
        other => {
            return Err(format!(
                "2.1: a tick that an outage left behind was decided by a leadership from before it: {other:?}"
            ));
        }
    }
    match log.state.runs.len() {
        0 => Ok(()),
        runs => Err(format!("2.1: {runs} missed ticks of a schedule without catch-up became runs")),
    }
}

/// A session is silent until its expiry is proposed, and the proposal stays in the queue of its node. Then a renewal comes
/// that was long under way. Were it granted, the executor would take new tasks under a session that is about to end.
fn a_renewal_after_the_expiry() -> Result<(), String> {
    let mut log = Log { state: State::default(), at: Timestamp::from_millis(1_700_000_000_000) };
    let leadership = log.lead(1)?;
    let settled = log.write(None, Command::Init { cluster: 1, settings: Settings::default() });
    settled.map_err(|refusal| format!("the harness: {refusal}"))?;
    let mut boot = BootTime(1_000_000_000_000);
    let mut leader = Leader::new(Arc::new(log.state.clone()), boot);
    let says = |leader: &mut Leader, log: &mut Log, boot, said: Option<Said>| {
        let now = Now { at: log.at, boot };
        if let Some(said) = said {
            leader.event(Told::Said(ConnId(1), said), now);
        }
        let (mut is_granted, mut is_expiring) = (false, false);
        for _ in 0..20 {
            for action in leader.run(now, &outside(boot)) {
                match action {
                    Action::Propose(_, Command::ExpireSession { .. }) => is_expiring = true,
                    Action::Propose(key, command) => {
                        let answer = log.write(Some(leadership), command);
                        leader.set_state(Arc::new(log.state.clone()), boot);
                        leader.event(Told::Answered(key, Some(answer)), now);
                    }
                    Action::Send(_, message) => {
                        is_granted |= matches!(message.message, Some(Message::Grant(_)));
                    }
                    Action::Close(_) | Action::Read(_) | Action::Publish(..) => {}
                }
            }
        }
        (is_granted, is_expiring)
    };
    let hello = v1::Hello { node: 1, session: 1, boot_id: "boot".into(), journal: 1, ..v1::Hello::default() };
    says(&mut leader, &mut log, boot, Some(Said::Hello(hello)));
    let renew = |sequence| Some(Said::Renew(v1::Renew { sequence }));
    if says(&mut leader, &mut log, boot, renew(1)) != (true, false) {
        return Err("the harness: an open session is not renewed, so this case shows nothing".into());
    }
    let silence = LeaseTerms::default().dead_after() + Millis::from_secs(1);
    (boot, log.at) = (boot + silence, log.at + silence);
    if says(&mut leader, &mut log, boot, None) != (false, true) {
        return Err("the harness: a silent session does not expire, so this case shows nothing".into());
    }
    match says(&mut leader, &mut log, boot, renew(2)) {
        (false, _) => Ok(()),
        (true, _) => Err("5.4: a session was granted a renewal after its expiry was proposed".into()),
    }
}

/// Nothing around a leader but quorum rounds that always succeed.
fn outside(boot: BootTime) -> Outside<'static> {
    static NO_PAST: LazyLock<Past> = LazyLock::new(Past::default);
    Outside {
        history: &*NO_PAST,
        resolve: &Params,
        durable_block: u64::MAX,
        log_bytes: 0,
        readings: None,
        quorum: Some(boot),
        disks: Disks::default(),
    }
}

/// The executor's clock is slow and the leader's fast, both by as much as rho allows: the last process is gone before the
/// session is called dead, however long the lease. Where rates are off by more, the two overlap, which is told apart.
fn leases_at_the_bound() -> Result<(), String> {
    for (length, rho_ppm) in [(10, 1_000), (600, 1_000), (600, 10_000), (60, 50_000), (600, 50_000)] {
        let terms = LeaseTerms { length: Millis::from_secs(length), rho_ppm, ..LeaseTerms::default() };
        let margin = gap(terms, i64::from(rho_ppm));
        if margin < 0 {
            return Err(format!(
                "I6: with a lease of {length} s and clocks within {rho_ppm} ppm a task may run twice for {} ms",
                -margin / MS as i64
            ));
        }
    }
    let terms = LeaseTerms { length: Millis::from_secs(600), ..LeaseTerms::default() };
    if gap(terms, 10 * i64::from(terms.rho_ppm)) >= 0 {
        return Err("the harness: clocks far beyond rho make no overlap, so this case shows nothing".into());
    }
    Ok(())
}

/// How long before the death of its session the last process of an executor is gone, in nanoseconds of true time, if it
/// takes the whole kill budget; negative: how long after.
fn gap(terms: LeaseTerms, ppm: i64) -> i64 {
    let clocks =
        |boot_ppm| Clocks { booted_at: 0, boot_base: 0, boot_ppm, wall_base: 0, wall_ppm: 0, wall_step: 0 };
    let (executor, leader) = (clocks(-ppm), clocks(ppm));
    let (node, session) = (NodeId(1), SessionNumber(1));
    let mut keeper = SessionKeeper::new(BootTime(0));
    keeper.open(node, session, terms, leader.boot(SEC));
    // The renewal takes no time at all, and a quorum round ends with it: this is the last that is heard.
    let sent = 100 * SEC;
    keeper.quorum(leader.boot(sent));
    let granted = keeper.renew(node, session, leader.boot(sent)).unwrap_or_default();
    let stops_at = executor.when(terms.valid_until(executor.boot(sent), granted));
    // What stops within K by its own clock is no matter of leases: K is counted in true time here.
    let gone_at = stops_at + terms.kill_budget.0 * MS;
    let dead_at = keeper.dies_at(node, session, Millis::ZERO).map_or(0, |at| leader.when(at));
    dead_at.cast_signed() - gone_at.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cases_hold() {
        for (name, case) in CASES {
            assert_eq!(case(), Ok(()), "{name}");
        }
    }
}
