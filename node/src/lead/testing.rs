//! A cluster of one state without consensus: what the tests of planners stand on.

use std::collections::BTreeMap;
use std::error::Error;

use matins_core::command::{Apply, ApplyWorkflow, Command, Entry, Proposal, Readings};
use matins_core::id::{LogIndex, NodeId, ScheduleId};
use matins_core::ir;
use matins_core::state::Settings;
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Effect, Outcome, Refusal, State, apply};
use matins_workflow::calendar::{UserTime, Zone, moment};

use super::scope::{Fetched, Outputs, Resolve, TickTimes};

/// A founded cluster under a ready leader.
pub(crate) struct Cluster {
    pub(crate) state: State,
    pub(crate) at: Timestamp,
    pub(crate) effects: Vec<Effect>,
}

impl Cluster {
    pub(crate) fn new(at: Timestamp) -> Self {
        let mut cluster = Self { state: State::default(), at, effects: Vec::new() };
        let ready = |at| Command::LeaderReady { node: NodeId(1), nonce: 1, readings: readings(at) };
        cluster.ask(ready(at)).expect("the first leader");
        cluster.ask(Command::Init { cluster: 7, settings: Settings::default() }).expect("no cluster yet");
        cluster.ask(ready(at)).expect("a leader");
        cluster
    }

    /// One entry with one command, as a client or a leader would send it.
    pub(crate) fn ask(&mut self, command: Command) -> Result<Answer, Refusal> {
        let leadership = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        let proposal = Proposal { request: None, leadership, command };
        let entry = Entry { level: 1, at: self.at, proposals: vec![proposal] };
        let index = LogIndex(self.state.index.0 + 1);
        let Outcome { mut answers, effects, .. } = apply(&mut self.state, index, entry);
        self.effects.extend(effects);
        answers.remove(0)
    }

    /// Time goes on, and the leader says so.
    pub(crate) fn time(&mut self, at: Timestamp) {
        self.at = at;
        self.ask(Command::Time(readings(at))).expect("the leader is the last one");
    }

    /// Makes `workflow` the current version of its name.
    pub(crate) fn define(&mut self, workflow: ir::Workflow) -> Result<(), Refusal> {
        let name = workflow.name.clone();
        let stored = self.ask(Command::StoreDefinition { definition: Box::new(workflow), source: None })?;
        let Answer::Definition(definition) = stored else { panic!("a definition is stored") };
        let workflows = vec![ApplyWorkflow { name, definition, start: None }];
        self.ask(Command::Apply(Apply { workflows, ..Apply::default() })).map(|_| ())
    }
}

pub(crate) fn readings(majority: Timestamp) -> Readings {
    Readings { majority, by_node: vec![(NodeId(1), majority)] }
}

/// A workflow `etl/NAME` of one task without schedules.
pub(crate) fn workflow(name: &str) -> ir::Workflow {
    ir::Workflow {
        name: format!("etl/{name}").parse().expect("a name"),
        description: String::new(),
        labels: BTreeMap::new(),
        timezone: "UTC".into(),
        params: Vec::new(),
        schedules: Vec::new(),
        concurrency: ir::Concurrency::default(),
        priority: 0,
        tasks: vec![task("load", &[])],
        files: Vec::new(),
        retention: ir::Retention::default(),
    }
}

pub(crate) fn task(name: &str, needs: &[u16]) -> ir::Task {
    ir::Task {
        name: name.parse().expect("a name"),
        description: String::new(),
        needs: needs.to_vec(),
        trigger_rule: ir::TriggerRule::AllSuccess,
        when: None,
        for_each: None,
        parallel_max: None,
        retry: ir::Retry::default(),
        timeout: Millis::from_hours(24),
        depends_on_past: false,
        pools: Vec::new(),
        priority: 0,
        executor_labels: BTreeMap::new(),
        on_disconnect: Millis::ZERO,
        action: ir::Action::Argv(vec!["true".into()]),
        env: Vec::new(),
        with: None,
        allow_failure: false,
    }
}

pub(crate) fn schedule(cron: &str) -> ir::Schedule {
    ir::Schedule {
        name: "main".parse().expect("a name"),
        description: String::new(),
        cron: vec![cron.to_owned()],
        timezone: "UTC".into(),
        gap: ir::Gap::Shift,
        fold: None,
        catchup: ir::Catchup {
            policy: ir::CatchupPolicy::Latest,
            window: Millis::from_hours(7 * 24),
            limit: 100,
        },
        params: BTreeMap::new(),
        is_enabled: true,
    }
}

pub(crate) fn schedule_id(workflow: &str) -> ScheduleId {
    let workflow = format!("etl/{workflow}").parse().expect("a name");
    ScheduleId { workflow, schedule: "main".parse().expect("a name") }
}

/// Reads `2026-01-05` or `2026-01-05T10:00` in UTC.
pub(crate) fn instant(text: &str) -> Result<Timestamp, Box<dyn Error>> {
    Ok(UserTime::parse(text, &Zone::utc())?.first())
}

pub(crate) fn shown(at: Timestamp) -> String {
    moment::datetime(at, &Zone::utc())
}

/// Parameters that say for which time they were resolved; a schedule without a cron text has bad ones.
pub(crate) struct Echo;

impl Resolve for Echo {
    fn params(
        &self,
        _: &ir::Workflow,
        schedule: Option<&ir::Schedule>,
        given: &str,
        _: TickTimes,
    ) -> Result<String, String> {
        match schedule.filter(|schedule| !schedule.params.is_empty()) {
            Some(_) => Err("param `day`: it has no default".into()),
            None => Ok(given.to_owned()),
        }
    }
}

impl Outputs for BTreeMap<matins_core::id::Digest, Fetched> {
    fn output(&self, digest: &matins_core::id::Digest) -> Fetched {
        self.get(digest).cloned().unwrap_or(Fetched::NotYet)
    }
}
