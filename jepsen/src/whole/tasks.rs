//! A supervisor and its tasks, which are no more than instants at which they end: the decisions are those of
//! `matins_core::supervisor`, and what really "runs" at one instant is known exactly (I6).
//!
//! It outlives the executor beside it and ends with its machine. It is no host of the simulated network, since it speaks to
//! its executor only: whoever plays fate lets it look at its tasks.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use matins_core::executor::{Event as ExecutorEvent, SpawnAnswer};
use matins_core::id::Fence;
use matins_core::supervisor::{Action, Event, Exit, Held, Machine as Rules};
use matins_node::system::simulated::Machine;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::observer::{Observer, Phase};

/// How often it looks whether a task has ended.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(25);

/// A process.
struct Process {
    ends_at: Duration,
    exit: Exit,
}

/// A supervisor; clones are the same one.
#[derive(Clone)]
pub(super) struct Supervisor(Rc<RefCell<Inner>>);

struct Inner {
    machine: Machine,
    /// The simulated time of what happens now.
    now: Duration,
    rules: Rules,
    random: StdRng,
    processes: BTreeMap<Fence, Process>,
    /// Which task each fence is for, as its job says.
    labels: BTreeMap<Fence, String>,
    exits: BTreeMap<Fence, Exit>,
    /// What the executor has not heard yet.
    news: VecDeque<ExecutorEvent>,
    observer: Observer,
    has_executor: bool,
}

impl Supervisor {
    /// One that holds nothing.
    pub(super) fn new(machine: &Machine, seed: u64, observer: &Observer) -> Self {
        Self(Rc::new(RefCell::new(Inner {
            machine: machine.clone(),
            now: Duration::ZERO,
            rules: Rules::default(),
            random: StdRng::seed_from_u64(seed),
            processes: BTreeMap::new(),
            labels: BTreeMap::new(),
            exits: BTreeMap::new(),
            news: VecDeque::new(),
            observer: observer.clone(),
            has_executor: false,
        })))
    }

    /// The machine lost its power: everything that ran is gone, and nobody remembers it.
    pub(super) fn lose_power(&self, now: Duration) {
        let mut inner = self.0.borrow_mut();
        inner.now = now;
        let labels: Vec<(Fence, String)> =
            inner.processes.keys().map(|fence| (*fence, inner.label(*fence))).collect();
        for (fence, label) in labels {
            inner.observer.task_ended(now, &label, fence);
        }
        inner.rules = Rules::default();
        inner.processes.clear();
        inner.exits.clear();
        inner.news.clear();
        inner.has_executor = false;
    }

    /// Looks which tasks have ended, and which deadlines have passed.
    pub(super) fn look(&self, now: Duration) {
        let mut inner = self.0.borrow_mut();
        inner.now = now;
        inner.pass_time();
    }

    /// An executor connects, or lets go.
    pub(super) fn connect(&self, has_executor: bool) {
        let mut inner = self.0.borrow_mut();
        inner.has_executor = has_executor;
        inner.news.clear();
    }

    /// The executor says something. `label`: the task of a fence that is to be spawned.
    pub(super) fn hear(&self, event: Event, label: Option<&str>) {
        let mut inner = self.0.borrow_mut();
        inner.now = turmoil::sim_elapsed().expect("executors live under turmoil only");
        if let (Event::Spawn { fence, .. }, Some(label)) = (&event, label) {
            inner.labels.insert(*fence, label.to_owned());
        }
        inner.happened(event);
    }

    /// What the executor has not heard yet.
    pub(super) fn news(&self) -> Option<ExecutorEvent> {
        self.0.borrow_mut().news.pop_front()
    }

    /// The highest session it has heard.
    pub(super) fn highest(&self) -> matins_core::id::SessionNumber {
        self.0.borrow().rules.highest()
    }

    /// What it holds.
    pub(super) fn held(&self) -> Vec<(Fence, Held)> {
        self.0.borrow().rules.held()
    }

    /// How one ended.
    pub(super) fn exit(&self, fence: Fence) -> Option<Exit> {
        self.0.borrow().exits.get(&fence).cloned()
    }
}

impl Inner {
    fn label(&self, fence: Fence) -> String {
        self.labels.get(&fence).cloned().unwrap_or_default()
    }

    fn pass_time(&mut self) {
        let has_ended = |process: &Process| process.ends_at <= self.now;
        let processes = self.processes.iter();
        let ended: Vec<Fence> =
            processes.filter(|(_, process)| has_ended(process)).map(|(fence, _)| *fence).collect();
        for fence in ended {
            let Some(process) = self.processes.remove(&fence) else { continue };
            self.observer.task_ended(self.now, &self.label(fence), fence);
            self.happened(Event::Exited { fence, exit: process.exit });
            self.happened(Event::Gone { fence });
        }
        self.happened(Event::Tick);
    }

    fn happened(&mut self, event: Event) {
        let boot = self.machine.clocks().boot_time(self.now);
        for action in self.rules.handle(boot, event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Spawn(fence) => self.spawn(fence),
            Action::Refuse(fence, _) => {
                self.tell(ExecutorEvent::Answered { fence, answer: SpawnAnswer::Refused });
            }
            // Some tasks take their time to end, and some do not hear.
            Action::Term(fence) => self.end_within(fence, 6_000, 15),
            Action::Kill(fence) => self.end_within(fence, 200, 9),
            Action::Ended(fence, exit) => {
                self.exits.insert(fence, exit);
                self.tell(ExecutorEvent::Ended { fence });
            }
            Action::Unkillable(fence) => {
                self.tell(ExecutorEvent::Answered { fence, answer: SpawnAnswer::Unkillable });
            }
        }
    }

    fn spawn(&mut self, fence: Fence) {
        let is_healed = self.observer.phase() != Phase::Faults;
        let millis = match self.random.random_range(0..20) {
            0 if !is_healed => self.random.random_range(5_000..40_000),
            _ => self.random.random_range(30..1_500),
        };
        let code = i32::from(!is_healed && self.random.random_ratio(1, 10));
        let ends_at = self.now + Duration::from_millis(millis);
        self.processes.insert(fence, Process { ends_at, exit: Exit::Code(code) });
        self.observer.task_started(self.now, &self.label(fence), fence);
        self.tell(ExecutorEvent::Answered { fence, answer: SpawnAnswer::Started });
    }

    fn end_within(&mut self, fence: Fence, millis_max: u64, signal: i32) {
        let by = self.now + Duration::from_millis(self.random.random_range(0..millis_max));
        match self.processes.get_mut(&fence) {
            Some(process) if by < process.ends_at => {
                *process = Process { ends_at: by, exit: Exit::Signal(signal) };
            }
            Some(_) => {}
            None => self.happened(Event::Gone { fence }),
        }
    }

    fn tell(&mut self, event: ExecutorEvent) {
        if self.has_executor {
            self.news.push_back(event);
        }
    }
}
