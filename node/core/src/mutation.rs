//! Deliberate bugs that the proof plants in this very code, to show that it would catch them (`jepsen mutations`).
//!
//! Only a build with the feature `mutations` can plant one, and only `jepsen` has it; in every other build [`planted`]
//! is `false` at compile time and nothing of it is left. A place that asks looks like this, and says nothing more:
//! `if planted(Mutation::FenceNotChecked) { .. }`.

use core::fmt;
use core::str::FromStr;

/// One name per deliberate bug, with the text that tells what it does.
macro_rules! mutations {
    ($($(#[doc = $what:literal])+ $variant:ident = $name:literal,)+) => {
        /// A deliberate bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutation {
            $($(#[doc = $what])+ $variant,)+
        }

        impl Mutation {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it does, in one sentence.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => concat!($($what),+).trim_ascii(),)+ }
            }
        }
    };
}

mutations! {
    /// A lease is counted from the present instead of from before the last quorum round (PROTOCOL 5.3).
    LeaseAnchoredAtNow = "lease-anchored-at-now",
    /// An executor counts a renewal from the arrival of its answer, not from when it was sent (PROTOCOL 5.3).
    RenewalCountedFromAnswer = "renewal-counted-from-answer",
    /// A Fire moves the mark and leaves out the decisions (PROTOCOL 3.1).
    MarkMovedWithoutDecisions = "mark-moved-without-decisions",
    /// A Fire is accepted whatever mark it was computed under (PROTOCOL 3.1).
    FireMarkNotChecked = "fire-mark-not-checked",
    /// A report counts under any fence (PROTOCOL 5.8).
    FenceNotChecked = "fence-not-checked",
    /// What was answered to a request id is forgotten when the leader changes (PROTOCOL 4.6).
    IdempotencyInTheHandler = "idempotency-in-the-handler",
    /// The end of an attempt gives its pool slot back twice (I9).
    PoolSlotFreedTwice = "pool-slot-freed-twice",
    /// A new leader does not look for timers that its predecessor knew (PROTOCOL 1.5).
    TimerLostAtLeaderChange = "timer-lost-at-leader-change",
    /// Entries follow the foremost wall clock instead of a majority's (PROTOCOL 1.1).
    WallClockInEntries = "wall-clock-in-entries",
    /// The order in which ready tasks are looked at differs between replicas (DESIGN 3.1, I11).
    UnorderedMapInApply = "unordered-map-in-apply",
    /// An attempt that is told to stop gives its slots back before it has ended (PROTOCOL 5.7).
    StoppingFreesItsSlot = "stopping-frees-its-slot",
    /// A session whose expiry was proposed is answered again (PROTOCOL 5.4).
    SessionRevivedAfterExpiry = "session-revived-after-expiry",
    /// `OpenSession` is accepted under a number that is not higher than the last (PROTOCOL 5.4).
    SessionNumberNotChecked = "session-number-not-checked",
    /// A Start is sent before the session it belongs to is applied (PROTOCOL 5.4).
    StartBeforeSessionIsOpen = "start-before-session-is-open",
    /// A new session number makes a supervisor forget the deadline of the last (PROTOCOL 5.1).
    DeadlineForgottenAtNewSession = "deadline-forgotten-at-new-session",
    /// An executor passes the first deadline of a session on before it has stopped what is not bound to it (PROTOCOL 5.4).
    DeadlineBeforeStops = "deadline-before-stops",
    /// A Stop for a fence that is not held is not remembered (PROTOCOL 5.7).
    StopOfUnheldForgotten = "stop-of-unheld-forgotten",
    /// A task's end is reported while the rest of its group still runs (PROTOCOL 5.1).
    ReportBeforeGroupIsGone = "report-before-group-is-gone",
    /// Attempts under another journal end as lost as soon as a changed id is heard (PROTOCOL 5.4).
    ChangedIdIsProofOfDeath = "changed-id-is-proof-of-death",
    /// A new leader counts the silence of executors from before it was elected (PROTOCOL 5.3).
    SilenceCountedFromOldLeader = "silence-counted-from-old-leader",
    /// The bound on clock rates is left out of a lease's end (PROTOCOL 5.3).
    ClockRateIgnored = "clock-rate-ignored",
    /// A command computed under an older leadership is accepted (PROTOCOL 2.1).
    LeadershipNotChecked = "leadership-not-checked",
    /// A decision is accepted whatever inputs it was computed from (PROTOCOL 4.2).
    DecideWithStaleInputs = "decide-with-stale-inputs",
    /// A pause leaves the version as it is (PROTOCOL 3.5).
    PauseKeepsVersion = "pause-keeps-version",
    /// A schedule may be changed while ticks are due (PROTOCOL 3.5).
    ChangeWhileDue = "change-while-due",
    /// An outage is seen at every change of leader, so that ticks due in a failover count as missed (PROTOCOL 3.2).
    FailoverMissesTicks = "failover-misses-ticks",
    /// An executor whose renewals are heard again stays cordoned (PROTOCOL 5.6).
    CordonedForEver = "cordoned-for-ever",
    /// A restarted leader leads on without an election (PROTOCOL 2.2).
    RestartedLeaderSkipsElection = "restarted-leader-skips-election",
    /// The log is acknowledged before it is synced (PROTOCOL 6.1).
    LogAcknowledgedBeforeSync = "log-acknowledged-before-sync",
    /// A new file's directory is not synced (PROTOCOL 6.1).
    DirectoryNotSynced = "directory-not-synced",
    /// A torn record at the end of the log is kept and written on from (PROTOCOL 6.1).
    TornTailKept = "torn-tail-kept",
    /// The vote is written over in place (PROTOCOL 6.1).
    VoteWrittenInPlace = "vote-written-in-place",
    /// A snapshot says that it holds one entry more than it does (PROTOCOL 6.8).
    SnapshotOffByOne = "snapshot-off-by-one",
    /// A snapshot is published before the blocks that it names are durable (PROTOCOL 6.8).
    SnapshotBeforeItsBlocks = "snapshot-before-its-blocks",
    /// The log is purged before the snapshot that replaces it is durable (PROTOCOL 6.8).
    PurgeBeforeSnapshotIsDurable = "purge-before-snapshot-is-durable",
    /// A failed sync is taken for a success (PROTOCOL 6.1).
    SyncErrorIgnored = "sync-error-ignored",
    /// A command is answered as done when it is proposed, not when it is applied (I10).
    AnsweredBeforeApplied = "answered-before-applied",
    /// A linearizable read is answered from the state at hand (PROTOCOL 7).
    ReadWithoutReadIndex = "read-without-read-index",
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No deliberate bug has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAMutation;

impl fmt::Display for NotAMutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no mutation has this name; `matins-jepsen mutations --list` names them all")
    }
}

impl core::error::Error for NotAMutation {}

impl FromStr for Mutation {
    type Err = NotAMutation;

    fn from_str(text: &str) -> Result<Self, NotAMutation> {
        Self::ALL.iter().copied().find(|mutation| mutation.name() == text).ok_or(NotAMutation)
    }
}

#[cfg(feature = "mutations")]
mod switch {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::Mutation;

    /// One more than the place in [`Mutation::ALL`]; zero: none.
    static PLANTED: AtomicUsize = AtomicUsize::new(0);

    /// Plants one deliberate bug in this process, for as long as it lives.
    pub fn plant(mutation: Mutation) {
        PLANTED.store(mutation as usize + 1, Ordering::Relaxed);
    }

    static TOSSED: AtomicUsize = AtomicUsize::new(0);

    /// A coin that no replica tosses alike: what an unordered map would bring into `apply`.
    pub fn toss() -> bool {
        TOSSED.fetch_add(1, Ordering::Relaxed).is_multiple_of(3)
    }

    /// The bug that is in the code now.
    pub fn now_planted() -> Option<Mutation> {
        Mutation::ALL.iter().copied().find(|mutation| planted(*mutation))
    }

    /// Whether this bug is in the code now.
    pub fn planted(mutation: Mutation) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutation as usize + 1
    }
}

#[cfg(feature = "mutations")]
pub use switch::{now_planted, plant, planted, toss};

/// A coin that is never tossed in this build.
#[cfg(not(feature = "mutations"))]
#[inline]
pub const fn toss() -> bool {
    false
}

/// Whether this bug is in the code now: never, in this build.
#[cfg(not(feature = "mutations"))]
#[inline]
pub const fn planted(_: Mutation) -> bool {
    false
}
