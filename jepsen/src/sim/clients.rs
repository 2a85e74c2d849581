//! Clients: what people ask for, through whichever node answers, again and again under one request id until they hear.

use matins_core::command::{
    Apply, ApplyWorkflow, Command, CreateBackfill, Proposal, Request, Retry, RetryScope, Start, StopHow, Tick,
};
use matins_core::id::{BackfillId, RequestId, RunId, ScheduleId, TaskId, WorkflowName};
use matins_core::state::{BackfillState, LogPlace, Reprocess, RunOrigin, RunState, TaskState};
use matins_core::time::{Millis, Timestamp};
use matins_core::{Answer, Refusal};
use matins_node::lead::leader::{Disks, Outside};
use matins_node::lead::scope::Params;
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::agenda::{MS, SEC};
use super::consensus::{Caller, Waiting};
use super::happening::Wish;
use super::stories::{POOL, Story, pool_text};
use super::world::{Event, Proc, World};

/// One command of one client.
struct Asked {
    /// Stands before it, without a request id: definitions.
    before: Vec<Command>,
    command: Command,
    /// Schedules whose due ticks have to be decided before it (PROTOCOL 3.5).
    changes: Vec<ScheduleId>,
    request: Option<Request>,
    answer: Option<Result<Answer, Refusal>>,
    is_done: bool,
    tries: u32,
}

/// All commands of clients, in the order of asking.
#[derive(Default)]
pub(super) struct Clients {
    asked: Vec<Asked>,
}

/// The number of the command that registers the workflows. Without it nothing would happen at all, so it is asked for under
/// a new id when an outage at the very beginning outlasts the first one; registering the same again changes nothing.
const FOUNDING: usize = 0;

/// How long an answer is remembered.
const NOT_AFTER: Millis = Millis::from_mins(10);

impl World {
    /// The workflows of this seed, to be registered as soon as somebody leads.
    pub(super) fn prepare_founding(&mut self) {
        let all: Vec<usize> = (0..6).collect();
        let mut numbers: Vec<usize> =
            all.into_iter().filter(|_| self.random.random_range(0..2) == 0).collect();
        if numbers.is_empty() {
            numbers.push(self.random.random_range(0..5));
        }
        let (mut before, mut apply) = (Vec::new(), Apply::default());
        for number in numbers {
            let story = Story::draw(number, &mut self.random);
            self.define(&story, &mut before, &mut apply);
        }
        apply.pools.push((POOL.parse().expect("a name"), super::stories::POOL_SLOTS, String::new()));
        self.ask(3 * SEC, before, Command::Apply(apply), Vec::new());
    }

    /// Compiles a text and puts it into one change.
    fn define(&mut self, story: &Story, before: &mut Vec<Command>, apply: &mut Apply) {
        let text = format!("{}---\n{}", story.text, pool_text());
        let source = SourceFile { name: "sim.yaml".into(), text: text.into_bytes() };
        let compiled = compile(&[source], &NoFiles, &Options::default());
        if compiled.has_errors() {
            self.breaks(format!(
                "the harness: a workflow is wrong: {:?} in {}",
                compiled.diagnostics, story.text
            ));
        }
        for workflow in compiled.workflows {
            let (name, definition) = (workflow.ir.name.clone(), workflow.digest());
            before.push(Command::StoreDefinition { definition: Box::new(workflow.ir), source: None });
            apply.workflows.push(ApplyWorkflow { name, definition, start: None });
            self.stories.insert(definition, story.clone());
        }
    }

    /// A client begins to ask, `after` from now.
    fn ask(&mut self, after: u64, before: Vec<Command>, command: Command, changes: Vec<ScheduleId>) {
        let asked = Asked { before, command, changes, request: None, answer: None, is_done: false, tries: 0 };
        self.clients.asked.push(asked);
        let number = self.clients.asked.len() - 1;
        self.counts.commands += 1;
        self.agenda.at(self.agenda.now() + after, Event::Try(number));
    }

    fn ask_now(&mut self, command: Command) {
        self.ask(0, Vec::new(), command, Vec::new());
    }

    pub(super) fn client_tries(&mut self, number: usize) {
        let elapsed = i64::try_from(self.agenda.now() / MS).unwrap_or(i64::MAX);
        let about_now = self.consensus.state.now.max(Timestamp::from_millis(self.knobs.starts_at + elapsed));
        let again = self.knobs.answer_within * 2 + self.draw(self.knobs.answer_within);
        let asked = &mut self.clients.asked[number];
        if asked.is_done {
            return;
        }
        let has_expired =
            asked.request.as_ref().is_some_and(|request| request.not_after < self.consensus.state.now);
        if has_expired && number == FOUNDING {
            asked.request = None;
        }
        let is_over = has_expired && number != FOUNDING;
        if asked.request.is_none() {
            let id: RequestId = format!("request-{number}-{}", asked.tries).parse().expect("a request id");
            asked.request = Some(Request { id, not_after: about_now + NOT_AFTER });
        } else {
            self.counts.repeats += 1;
        }
        asked.tries += 1;
        if is_over || asked.tries > 400 {
            asked.is_done = true;
            self.counts.maybe += 1;
            return;
        }
        let (now, delay) = (self.agenda.now(), self.delay());
        self.agenda.at(now + again, Event::Try(number));
        // Any node takes it and hands it to the one that it believes to lead.
        let via = self.draw(self.nodes.len() as u64) as usize;
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(|node| self.is_ready(*node)).collect();
        if leaders.is_empty() || !self.is_awake(via) {
            return;
        }
        let leader = leaders[self.draw(leaders.len() as u64) as usize];
        if via == leader || self.is_open(via, leader) {
            self.agenda.at(now + 2 * delay, Event::ArrivesAt(self.proc(leader), number));
        }
    }

    pub(super) fn client_arrives(&mut self, proc: Proc, number: usize) {
        let node = proc.node;
        if !self.lives(proc) || !self.is_ready(node) {
            return;
        }
        let (state, now) = (self.state(), self.now_of(node));
        let changes = self.clients.asked[number].changes.clone();
        let outside = Outside {
            history: &self.past,
            resolve: &Params,
            durable_block: u64::MAX,
            log_bytes: 0,
            readings: None,
            quorum: None,
            disks: Disks::default(),
        };
        let Some(reign) = self.nodes[node].lead.as_mut().and_then(|lead| lead.reign.as_mut()) else { return };
        reign.leader.set_state(state, now.boot);
        let leadership = Some(reign.leadership);
        let fires = reign.leader.before_change(&changes, now, &outside);
        let of_leader = |command| Proposal { request: None, leadership, command };
        let mut proposals: Vec<Proposal> = fires.into_iter().map(of_leader).collect();
        let asked = &self.clients.asked[number];
        let plain =
            |command: &Command| Proposal { request: None, leadership: None, command: command.clone() };
        proposals.extend(asked.before.iter().map(plain));
        proposals.push(Proposal { request: asked.request.clone(), ..plain(&asked.command) });
        self.propose(node, Waiting { proposals, caller: Caller::Client(number) });
    }

    /// The command was applied; whether its client hears of it is another matter.
    pub(super) fn client_answered(&mut self, number: usize, answer: Result<Answer, Refusal>) {
        self.clients.asked[number].answer = Some(answer);
        let is_lost = !self.is_calm && self.happens(self.knobs.lost_answers);
        if !is_lost {
            let at = self.agenda.now() + self.delay();
            self.agenda.at(at, Event::Hears(number));
        }
    }

    pub(super) fn client_hears(&mut self, number: usize) {
        let asked = &mut self.clients.asked[number];
        let is_tried_again = match asked.answer {
            Some(Err(Refusal::TicksDue(_) | Refusal::Limit { .. } | Refusal::FullDisk(_))) => true,
            Some(Err(Refusal::Expired { .. })) => number == FOUNDING,
            Some(Ok(_) | Err(_)) | None => false,
        };
        if !is_tried_again {
            asked.is_done = true;
        }
        if number == FOUNDING && matches!(asked.answer, Some(Err(_))) && !is_tried_again {
            let told = format!("the harness: the workflows were not taken: {:?}", asked.answer);
            self.breaks(told);
        }
    }

    /// Once a minute the logs of ended attempts are attached, or said to be lost.
    pub(super) fn packs(&mut self) {
        let state = self.state();
        let mut logs = Vec::new();
        for (fence, (executor, _, _)) in state.logs_open.iter().take(200) {
            let node = self.node_of(*executor);
            if node.is_some_and(|node| self.is_awake(node)) && fence.0 % 7 != 0 {
                let place =
                    LogPlace::Pack { digest: matins_core::id::Digest([1; 32]), offset: 0, bytes: 100 };
                logs.push((*fence, if fence.0 % 5 == 0 { LogPlace::Lost } else { place }));
            }
        }
        if !logs.is_empty() {
            self.ask_now(Command::AttachLogs(logs));
        }
        self.agenda.at(self.agenda.now() + 60 * SEC, Event::Packs);
    }

    /// A person wants something of what there is.
    pub(super) fn wish(&mut self, wish: &Wish) {
        match *wish {
            Wish::Start(number) => self.wish_start(number),
            Wish::Cancel(number, now) => {
                let how = if now { StopHow::Now } else { StopHow::Grace };
                if let Some(run) = self.some_run(number, |state| state == RunState::Running) {
                    self.ask_now(Command::Cancel { run, how });
                }
            }
            Wish::Retry(number) => {
                if let Some(run) = self.some_run(number, |state| state == RunState::Failed) {
                    let scope = if number % 2 == 0 { RetryScope::Failed } else { RetryScope::All };
                    let retry = Retry { run, scope, definition: None, retired: None };
                    self.ask_now(Command::Retry(retry));
                }
            }
            Wish::RetryTask(number) => self.wish_retry_task(number),
            Wish::PauseSchedule(number) => self.of_schedule(number, Command::PauseSchedule),
            Wish::ResumeSchedule(number) => self.change_schedule(number, Command::ResumeSchedule),
            Wish::PauseWorkflow(number) => self.of_schedule(number, |id| Command::PauseWorkflow(id.workflow)),
            Wish::ResumeWorkflow(number) => {
                self.change_schedule(number, |id| Command::ResumeWorkflow(id.workflow));
            }
            Wish::Change(number, seed) => self.wish_change(number, seed),
            Wish::Delete(number) => self.change_schedule(number, |id| Command::DeleteWorkflow(id.workflow)),
            Wish::Backfill(number, seed) => self.wish_backfill(number, seed),
            Wish::PauseBackfill(number) => self.of_backfill(number, Command::PauseBackfill),
            Wish::ResumeBackfill(number) => self.of_backfill(number, Command::ResumeBackfill),
            Wish::CancelBackfill(number) => self.of_backfill(number, Command::CancelBackfill),
            Wish::SetPool(_, slots) => {
                let pool = POOL.parse().expect("a name");
                self.ask_now(Command::SetPool { pool, slots, description: String::new() });
            }
            Wish::Drain(number) => {
                let node = self.nodes[number % self.nodes.len()].id;
                self.ask_now(Command::Drain(node));
            }
            Wish::Undrain(number) => {
                let node = self.nodes[number % self.nodes.len()].id;
                self.ask_now(Command::Undrain(node));
            }
        }
    }

    fn some_schedule(&self, number: usize) -> Option<ScheduleId> {
        let schedules: Vec<_> = self.consensus.state.schedules.iter().map(|(id, _)| id.clone()).collect();
        (!schedules.is_empty()).then(|| schedules[number % schedules.len()].clone())
    }

    fn of_schedule(&mut self, number: usize, command: impl FnOnce(ScheduleId) -> Command) {
        if let Some(id) = self.some_schedule(number) {
            self.ask_now(command(id));
        }
    }

    fn change_schedule(&mut self, number: usize, command: impl FnOnce(ScheduleId) -> Command) {
        if let Some(id) = self.some_schedule(number) {
            self.ask(0, Vec::new(), command(id.clone()), vec![id]);
        }
    }

    fn some_run(&self, number: usize, is_wanted: impl Fn(RunState) -> bool) -> Option<RunId> {
        let runs = self.consensus.state.runs.iter().filter(|(_, row)| is_wanted(row.state));
        let runs: Vec<RunId> = runs.map(|(run, _)| *run).collect();
        (!runs.is_empty()).then(|| runs[number % runs.len()])
    }

    fn of_backfill(&mut self, number: usize, command: impl FnOnce(BackfillId) -> Command) {
        let open = |state| matches!(state, BackfillState::Running | BackfillState::Paused);
        let all = self.consensus.state.backfills.iter().filter(|(_, row)| open(row.state));
        let all: Vec<BackfillId> = all.map(|(id, _)| *id).collect();
        if !all.is_empty() {
            self.ask_now(command(all[number % all.len()]));
        }
    }

    fn wish_start(&mut self, number: usize) {
        let state = self.state();
        let workflows: Vec<&WorkflowName> =
            state.workflows.iter().filter(|(_, row)| row.current.is_some()).map(|(name, _)| name).collect();
        if workflows.is_empty() {
            return;
        }
        let name = workflows[number % workflows.len()].clone();
        let version = state.workflows.get(&name).and_then(|row| row.current);
        let version = version.and_then(|version| state.versions.get(&(name.clone(), version)));
        let Some(definition) = version.map(|row| row.definition) else { return };
        let tick =
            Tick { logical_time: state.now, interval_start: state.now, params: Ok("{\"x\":true}".into()) };
        let start = Start { workflow: name, definition, origin: RunOrigin::Manual, schedule: None, tick };
        self.ask_now(Command::Start(start));
    }

    fn wish_retry_task(&mut self, number: usize) {
        let state = self.state();
        let failed = state.tasks.iter().filter(|(task, row)| {
            matches!(row.state, TaskState::Failed(_))
                && state.runs.get(&task.run).is_some_and(|run| run.state == RunState::Running)
        });
        let failed: Vec<TaskId> = failed.map(|(task, _)| *task).collect();
        if !failed.is_empty() {
            self.ask_now(Command::RetryTask(failed[number % failed.len()]));
        }
    }

    fn wish_change(&mut self, number: usize, seed: u64) {
        let state = self.state();
        let names: Vec<&WorkflowName> = state.workflows.iter().map(|(name, _)| name).collect();
        if names.is_empty() {
            return;
        }
        let name = names[number % names.len()];
        let number = name.name.as_str().trim_start_matches('w').parse().unwrap_or(0);
        let story = Story::draw(number, &mut StdRng::seed_from_u64(seed));
        let (mut before, mut apply) = (Vec::new(), Apply::default());
        self.define(&story, &mut before, &mut apply);
        let changes =
            state.schedules.iter().map(|(id, _)| id.clone()).filter(|id| id.workflow == *name).collect();
        self.ask(0, before, Command::Apply(apply), changes);
    }

    fn wish_backfill(&mut self, number: usize, seed: u64) {
        let Some(schedule) = self.some_schedule(number) else { return };
        let Some(mark) = self.consensus.state.schedules.get(&schedule).map(|row| row.mark) else { return };
        let mut random = StdRng::seed_from_u64(seed);
        let create = CreateBackfill {
            schedule,
            from: mark - Millis::from_mins(random.random_range(1..3_000)),
            to: mark,
            reprocess: [Reprocess::Missing, Reprocess::Failed, Reprocess::All][random.random_range(0..3)],
            active_max: random.random_range(1..4),
            newest_first: false,
            params: "{}".into(),
        };
        self.ask_now(Command::CreateBackfill(create));
    }

    /// Before the end persons take back what would keep work from going on.
    pub(super) fn take_back(&mut self) {
        for node in 0..self.nodes.len() {
            let id = self.nodes[node].id;
            if self.consensus.state.executors.get(&id).is_some_and(|row| row.is_drained) {
                self.ask_now(Command::Undrain(id));
            }
        }
        let state = self.state();
        for (id, row) in state.backfills.iter() {
            if row.state == BackfillState::Paused {
                self.ask_now(Command::ResumeBackfill(*id));
            }
        }
    }
}
