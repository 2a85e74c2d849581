//! Gives up a lead that cannot be used (PROTOCOL 2.3): a plain thread that needs nothing else ends the process.
//!
//! openraft 0.9 has no step-down and no check of its quorum, and a leader whose disk hangs keeps its followers quiet with
//! heartbeats. So when an entry is not applied, the loop does not come round, or no quorum round succeeds for L/3, the
//! process exits with the reason. It is started again and must be elected anew (2.2); its supervisor's tasks live on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use matins_core::time::{BootTime, Millis};

use crate::system::{self, boot_time};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a node ends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It led and could not (PROTOCOL 2.3). Start it again.
    GaveUpLead(String),
    /// Its disk or its log failed it. Look at what it says before starting it again.
    Fault(String),
    /// It was taken out of its cluster (PROTOCOL 2.7). It has no more to do.
    Removed(String),
}

impl Exit {
    /// The exit code of the process: 75 asks to be started again, 74 is a failure of input or output, 0 is the end of what
    /// it was told to do.
    pub fn code(&self) -> i32 {
        match self {
            Self::GaveUpLead(_) => 75,
            Self::Fault(_) => 74,
            Self::Removed(_) => 0,
        }
    }
}

/// What is done when a node must end. [`exit_process`] in a real node; tests note it instead.
pub type OnExit = Arc<dyn Fn(&Exit) + Send + Sync>;

/// Says why on stderr and ends the process, without waiting for anything.
pub fn exit_process(exit: &Exit) {
    let (Exit::GaveUpLead(reason) | Exit::Fault(reason) | Exit::Removed(reason)) = exit;
    system::exit(exit.code(), reason);
}

/// What the watchdog looks at. Written by the tasks of a leader, each without waiting.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// When this node began to lead; 0 while it does not.
    leading_since: AtomicU64,
    /// The instant before the last successful quorum round began.
    quorum_at: AtomicU64,
    /// When openraft's loop came round last.
    loop_at: AtomicU64,
    /// Entries that were proposed and not applied, oldest first.
    proposed: Mutex<VecDeque<(u64, BootTime)>>,
    number: AtomicU64,
    stopped: AtomicBool,
}

impl Watch {
    pub(crate) fn leads(&self, now: BootTime) {
        self.leading_since.store(now.0, Ordering::Release);
    }

    pub(crate) fn leads_no_more(&self) {
        self.leading_since.store(0, Ordering::Release);
        self.proposed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn quorum_round(&self, began: BootTime) {
        self.quorum_at.fetch_max(began.0, Ordering::AcqRel);
    }

    /// The instant before the last successful quorum round of this leadership began.
    pub(crate) fn last_quorum_round(&self) -> Option<BootTime> {
        let since = self.leading_since.load(Ordering::Acquire);
        let at = self.quorum_at.load(Ordering::Acquire);
        (since != 0 && at >= since).then_some(BootTime(at))
    }

    pub(crate) fn loop_came_round(&self, now: BootTime) {
        self.loop_at.fetch_max(now.0, Ordering::AcqRel);
    }

    /// An entry is on its way; the number names it for `applied`.
    pub(crate) fn proposed(&self, now: BootTime) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.proposed.lock().unwrap_or_else(PoisonError::into_inner).push_back((number, now));
        number
    }

    pub(crate) fn applied(&self, number: u64) {
        let mut proposed = self.proposed.lock().unwrap_or_else(PoisonError::into_inner);
        proposed.retain(|(waiting, _)| *waiting != number);
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Why the lead must be given up, if it must.
    pub(crate) fn verdict(&self, now: BootTime, patience: Millis) -> Option<String> {
        let since = BootTime(self.leading_since.load(Ordering::Acquire));
        if since.0 == 0 {
            return None;
        }
        let quorum = BootTime(self.quorum_at.load(Ordering::Acquire)).max(since);
        let came_round = BootTime(self.loop_at.load(Ordering::Acquire)).max(since);
        let oldest = self.proposed.lock().unwrap_or_else(PoisonError::into_inner).front().map(|(_, at)| *at);
        let overdue = |what: &str, at: BootTime| {
            let silence = now.since(at);
            (silence > patience).then(|| format!("it leads, and {what} for {silence}"))
        };
        overdue("no majority has answered it", quorum)
            .or_else(|| overdue("its consensus loop has not come round", came_round))
            .or_else(|| overdue("an entry has not been applied", oldest?))
    }
}

/// Starts the thread. It ends with `Watch::stop`, or after it has called `on_exit`.
pub(crate) fn start(watch: Arc<Watch>, patience: Duration, on_exit: OnExit) -> std::io::Result<()> {
    let patience = Millis(patience.as_millis() as u64);
    system::keep_watch("watchdog", LOOK_EVERY, move || {
        if watch.stopped.load(Ordering::Acquire) {
            return false;
        }
        let reason = watch.verdict(boot_time(), patience);
        if let Some(reason) = &reason {
            on_exit(&Exit::GaveUpLead(reason.clone()));
        }
        reason.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Millis = Millis(3_333);

    fn at(millis: u64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    fn healthy(now: u64) -> Watch {
        let watch = Watch::default();
        watch.leads(at(1));
        watch.quorum_round(at(now));
        watch.loop_came_round(at(now));
        watch
    }

    #[test]
    fn a_follower_is_never_ended() {
        let watch = Watch::default();
        watch.proposed(at(1));
        assert_eq!(watch.verdict(at(1_000_000), PATIENCE), None);
    }

    #[test]
    fn a_leader_without_a_majority_gives_up() {
        let watch = healthy(10_000);
        watch.loop_came_round(at(20_000));
        assert_eq!(watch.verdict(at(13_333), PATIENCE), None);
        let reason = watch.verdict(at(13_334), PATIENCE).unwrap();
        assert!(reason.contains("no majority"), "{reason}");
    }

    #[test]
    fn a_leader_whose_loop_hangs_gives_up() {
        let watch = healthy(10_000);
        watch.quorum_round(at(20_000));
        let reason = watch.verdict(at(13_334), PATIENCE).unwrap();
        assert!(reason.contains("loop"), "{reason}");
    }

    #[test]
    fn a_leader_whose_entry_is_not_applied_gives_up() {
        let watch = healthy(20_000);
        let first = watch.proposed(at(10_000));
        watch.proposed(at(18_000));
        let reason = watch.verdict(at(13_334), PATIENCE).unwrap();
        assert!(reason.contains("entry"), "{reason}");
        watch.applied(first);
        assert_eq!(watch.verdict(at(20_000), PATIENCE), None);
    }

    #[test]
    fn a_new_leader_has_its_full_time() {
        let watch = Watch::default();
        watch.leads(at(50_000));
        assert_eq!(watch.verdict(at(53_333), PATIENCE), None);
        assert_eq!(watch.last_quorum_round(), None, "a round of an earlier leadership is no anchor");
        watch.quorum_round(at(50_001));
        assert_eq!(watch.last_quorum_round(), Some(at(50_001)));
    }
}
