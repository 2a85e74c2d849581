//! What an executor's machine is told, and what it says.

use alloc::vec::Vec;

use crate::id::{Fence, SessionNumber};
use crate::state::settings::LeaseTerms;
use crate::supervisor::Held;
use crate::time::{BootTime, Millis};

/// Names one supervisor of this executor, in the order in which they were started; the newest takes new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SupervisorId(pub u32);

/// What a supervisor said of a fence besides its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpawnAnswer {
    /// The first process was made.
    Started,
    /// The spawn was not taken: nothing of it will run.
    Refused,
    /// KILL did not help for the whole kill budget.
    Unkillable,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A stream to a leader is open.
    StreamOpened,
    /// The stream is gone.
    StreamClosed,
    /// A supervisor has heard an equal or higher number before.
    Outnumbered {
        /// The highest it has heard.
        highest: SessionNumber,
    },
    /// A supervisor has taken the session's number, and lists what it holds.
    Listed {
        /// Which.
        supervisor: SupervisorId,
        /// The number it has taken.
        number: SessionNumber,
        /// What it holds.
        held: Vec<(Fence, Held)>,
    },
    /// The leader applied the `OpenSession`.
    Opened {
        /// Its number.
        number: SessionNumber,
        /// What the session keeps.
        params: LeaseTerms,
        /// Fences bound to it; all others must stop.
        bound: Vec<Fence>,
    },
    /// The leader refused the number.
    Refused {
        /// The last one it knows.
        last: SessionNumber,
    },
    /// The leader granted a renewal.
    Granted {
        /// Which.
        sequence: u64,
        /// How long.
        length: Millis,
    },
    /// The leader wants an attempt started.
    Start {
        /// Under which session.
        session: SessionNumber,
        /// Which.
        fence: Fence,
    },
    /// The leader wants an attempt stopped.
    Stop {
        /// Which.
        fence: Fence,
        /// TERM first, or KILL at once.
        how: StopHow,
    },
    /// A supervisor speaks of a spawn.
    Answered {
        /// Of which.
        fence: Fence,
        /// What.
        answer: SpawnAnswer,
    },
    /// A supervisor says that the group is gone and how its first process ended.
    Ended {
        /// Which.
        fence: Fence,
    },
    /// The report of this attempt is in the outbox.
    Reported {
        /// Which.
        fence: Fence,
    },
    /// The leader has recorded the report.
    Acknowledged {
        /// Which.
        fence: Fence,
    },
    /// Time has passed, no more.
    Tick,
}

/// How an attempt is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopHow {
    /// TERM, then KILL after the grace of its job: cancel and timeout.
    Graceful,
    /// KILL at once: `cancel --now`.
    Now,
    /// TERM, then KILL when half of the kill budget has passed: its lease is lost.
    Lost,
}

/// Why a start is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartRefusal {
    /// It came under another session than the one that is open.
    OtherSession,
    /// A stop for it was answered `dead` before.
    Dead,
    /// The supervisor did not take it: its session is over.
    SessionOver,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Give the number to all supervisors, and ask them what they hold.
    Announce(SessionNumber),
    /// Send `Hello` with the fences held: running, or ended and not acknowledged.
    Hello(SessionNumber, Vec<(Fence, HeldAs)>),
    /// Send a renewal.
    Renew(u64),
    /// Give a deadline to all supervisors.
    PassDeadline {
        /// Under this session.
        session: SessionNumber,
        /// The instant at which the stop begins.
        at: BootTime,
        /// From TERM to KILL then.
        kill_after: Millis,
    },
    /// Write the start beside the journal under its fence, unless it is there.
    Journal(Fence),
    /// Tell the leader that the start is journaled.
    Confirm(Fence),
    /// Have the newest supervisor run it.
    Spawn(SessionNumber, Fence),
    /// Have its supervisor stop it.
    StopGroup(SessionNumber, Fence, StopHow),
    /// Tell the leader that the first process was made.
    Started(Fence),
    /// Tell the leader that the start is not taken.
    RefuseStart(Fence, StartRefusal),
    /// Tell the leader that nothing of this fence runs or will run.
    SendDead(Fence),
    /// Tell the leader that KILL does not help.
    Unkillable(Fence),
    /// Read status and outputs, and write the report into the outbox; then say `Reported`.
    MakeReport(Fence),
    /// Kill what may be left of it by cgroup and by fence, and report it lost; then say `Reported`.
    MakeLost(Fence),
    /// Send the report from the outbox.
    SendReport(Fence),
    /// Delete its files but the log, and tell its supervisor that the status is acknowledged.
    Forget(SessionNumber, Fence),
    /// Close the stream and open another.
    CloseStream,
}

/// How a fence is held, as `Hello` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldAs {
    /// Processes of it may be alive.
    Running,
    /// All are gone, the report is not acknowledged.
    Ended,
}
