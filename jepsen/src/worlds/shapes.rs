//! The worlds there are: how large each is, what may go wrong in it, and how often.

use matins_core::state::settings::LeaseTerms;
use matins_core::time::Millis;

use super::host::LocalLink;

/// How often each thing may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Steps of time.
    pub(crate) time: u8,
    /// Elections.
    pub(crate) elections: u8,
    /// Streams that break.
    pub(crate) cuts: u8,
    /// Proposals that get no answer.
    pub(crate) unanswered: u8,
    /// Messages that are overtaken.
    pub(crate) late: u8,
    /// Messages that come twice.
    pub(crate) twice: u8,
    /// Tasks that exit by themselves.
    pub(crate) exits: u8,
    /// Tasks that exit and leave a child behind.
    pub(crate) children: u8,
    /// Deaths of an executor's process.
    pub(crate) crashes: u8,
    /// Reboots of a machine.
    pub(crate) reboots: u8,
    /// Data directories lost.
    pub(crate) wipes: u8,
    /// Supervisors that cannot be reached any more.
    pub(crate) lost_sockets: u8,
    /// Cancels by a person.
    pub(crate) cancels: u8,
}

impl Budget {
    /// Nothing goes wrong.
    pub(crate) const NONE: Self = Self {
        time: 0,
        elections: 0,
        cuts: 0,
        unanswered: 0,
        late: 0,
        twice: 0,
        exits: 0,
        children: 0,
        crashes: 0,
        reboots: 0,
        wipes: 0,
        lost_sockets: 0,
        cancels: 0,
    };
}

/// How far a run has come when a world begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    /// No executor has a stream yet.
    Apart,
    /// A task was granted, its executor has not heard of it.
    Granted,
    /// A task runs, and nothing is under way.
    Running,
}

/// One world.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// What it is about, for people.
    pub(crate) what: &'static str,
    pub(crate) hosts: usize,
    /// Of each executor.
    pub(crate) slots: u32,
    /// Of the run.
    pub(crate) tasks: usize,
    /// All tasks share a pool of one slot.
    pub(crate) has_pool: bool,
    /// How many attempts of a task may be lost and made again.
    pub(crate) lost_max: u32,
    pub(crate) link: LocalLink,
    pub(crate) begins: Begins,
    /// Streams in all.
    pub(crate) streams_max: u8,
    pub(crate) terms: LeaseTerms,
    /// By how much time goes on.
    pub(crate) step: Millis,
    /// By how much the clocks of the executors' machines go too fast, in parts per million.
    pub(crate) host_ppm: i64,
    /// The same of the leaders' clocks.
    pub(crate) lead_ppm: i64,
    pub(crate) budget: Budget,
    /// The share of all states that this world may have, in hundredths.
    pub(crate) share: u64,
}

/// A short kill budget, so that a session dies in as few steps of time as may be.
const TERMS: LeaseTerms = LeaseTerms { length: Millis(10_000), kill_budget: Millis(100), rho_ppm: 1_000 };

/// One executor, one task that runs, and nothing that goes wrong.
const PLAIN: Shape = Shape {
    name: "",
    what: "",
    hosts: 1,
    slots: 1,
    tasks: 1,
    has_pool: false,
    lost_max: 1,
    link: LocalLink::Immediate,
    begins: Begins::Running,
    streams_max: 4,
    terms: TERMS,
    // Less than L/5, so that an executor that renews at each step is not cordoned.
    step: Millis(1_900),
    host_ppm: 0,
    lead_ppm: 0,
    budget: Budget::NONE,
    share: 10,
};

/// All worlds of sessions.
pub(crate) fn all() -> Vec<Shape> {
    vec![Shape {
        name: "leaders",
        what: "two leaders, streams that break, proposals without an answer",
        budget: Budget { time: 8, elections: 1, cuts: 1, unanswered: 1, ..Budget::NONE },
        ..PLAIN
    }]
}
