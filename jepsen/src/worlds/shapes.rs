//! The worlds there are: how large each is, what may go wrong in it, and how often.

use matins_core::state::settings::LeaseTerms;
use matins_core::time::Millis;

use super::About;
use super::host::LocalLink;
use super::ticks::TicksBudget;

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
    /// A task was granted, its executor has not heard of it.
    Granted,
    /// A task runs, and nothing is under way.
    Running,
}

/// When a cordon or its end is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cordons {
    /// As soon as it is proposed.
    AtOnce,
    /// At any time, as all proposals.
    AtAnyTime,
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
    pub(crate) cordons: Cordons,
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
    cordons: Cordons::AtOnce,
    streams_max: 3,
    terms: TERMS,
    // Less than L/5, so that an executor that renews at each step is not cordoned.
    step: Millis(1_900),
    host_ppm: 0,
    lead_ppm: 0,
    budget: Budget::NONE,
    share: 10,
};

/// L is ten minutes and rho a twentieth: the largest there may be. An executor's clock is as slow and a leader's as fast
/// as rho allows, so that a session dies almost when its lease ends.
const LONG_TERMS: LeaseTerms =
    LeaseTerms { length: Millis::from_mins(10), kill_budget: Millis(100), rho_ppm: 50_000 };

/// All worlds of sessions.
pub(crate) fn all() -> Vec<Shape> {
    let mut shapes = Vec::new();
    shapes.extend(of_leaders());
    shapes.extend(of_machines());
    shapes.extend(of_tasks());
    shapes
}

/// Streams, sessions, elections and clocks.
fn of_leaders() -> [Shape; 5] {
    [
        Shape {
            name: "leaders",
            what: "two leaders, the first of which does not know that it is none any more",
            budget: Budget { time: 8, elections: 1, ..Budget::NONE },
            share: 15,
            ..PLAIN
        },
        Shape {
            name: "sessions",
            what: "streams that break, and proposals without an answer",
            budget: Budget { time: 8, cuts: 1, unanswered: 1, ..Budget::NONE },
            share: 15,
            ..PLAIN
        },
        Shape {
            name: "hellos",
            what: "an executor that connects twice, and hellos out of order",
            streams_max: 4,
            budget: Budget { time: 2, cuts: 2, elections: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "cordons",
            what: "cordons and their ends at any time, with two leaders",
            cordons: Cordons::AtAnyTime,
            budget: Budget { time: 6, elections: 1, ..Budget::NONE },
            share: 5,
            ..PLAIN
        },
        Shape {
            name: "clocks",
            what: "an executor's clock as slow and a leader's as fast as rho allows",
            terms: LONG_TERMS,
            step: Millis::from_secs(100),
            host_ppm: -50_000,
            lead_ppm: 50_000,
            budget: Budget { time: 8, cuts: 1, ..Budget::NONE },
            share: 5,
            ..PLAIN
        },
    ]
}

/// What may happen to a machine.
fn of_machines() -> [Shape; 4] {
    [
        Shape {
            name: "crashes",
            what: "an executor that dies between any two messages to its supervisor",
            link: LocalLink::Slow,
            budget: Budget { time: 7, crashes: 1, exits: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "wipes",
            what: "a data directory that is lost while a task runs",
            budget: Budget { time: 7, crashes: 1, wipes: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "sockets",
            what: "a supervisor that lives and cannot be reached",
            budget: Budget { time: 7, crashes: 1, lost_sockets: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "reboots",
            what: "a machine that comes back under another boot id, with two executors",
            hosts: 2,
            streams_max: 4,
            budget: Budget { time: 7, reboots: 1, ..Budget::NONE },
            share: 5,
            ..PLAIN
        },
    ]
}

/// Starts, stops, ends, and limits.
fn of_tasks() -> [Shape; 4] {
    [
        Shape {
            name: "starts",
            what: "starts and stops that are late, overtaken or doubled, and executors that die over them",
            link: LocalLink::Slow,
            begins: Begins::Granted,
            budget: Budget { time: 2, cuts: 1, late: 1, twice: 1, crashes: 1, cancels: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "children",
            what: "a first process that exits and leaves a child behind",
            link: LocalLink::Slow,
            budget: Budget { time: 3, children: 1, crashes: 1, cuts: 1, ..Budget::NONE },
            share: 5,
            ..PLAIN
        },
        Shape {
            name: "limits",
            what: "two executors, two tasks and a pool of one, a cancel, streams that break",
            hosts: 2,
            tasks: 2,
            has_pool: true,
            streams_max: 4,
            budget: Budget { time: 7, cuts: 1, exits: 1, cancels: 1, ..Budget::NONE },
            ..PLAIN
        },
        Shape {
            name: "slots",
            what: "two tasks on one executor of one slot, a cancel, two leaders",
            tasks: 2,
            budget: Budget { time: 3, elections: 1, exits: 2, cancels: 1, ..Budget::NONE },
            share: 5,
            ..PLAIN
        },
    ]
}

/// All worlds of schedules.
pub(crate) fn of_ticks() -> [(About, TicksBudget); 2] {
    let plain = TicksBudget { minutes: 4, outages: 0, elections: 1, changes: 3, twice: 1 };
    [
        (
            About {
                name: "schedules",
                what: "ticks, pauses, new specs and deletes with stale proposals",
                share: 10,
            },
            plain,
        ),
        (
            About {
                name: "outages",
                what: "ticks that an outage left behind, and those of a failover",
                share: 5,
            },
            TicksBudget { minutes: 4, outages: 1, elections: 2, changes: 1, twice: 1 },
        ),
    ]
}
