//! Lease arithmetic (PROTOCOL 5.3): how long an executor may go on, and when a leader may call a session dead.
//!
//! Nothing here reads a clock: instants are readings of the boot-time clock of the machine that calls. Executor and
//! supervisor use [`LeaseTerms`] alone; a leader keeps a [`SessionKeeper`] from the moment it is ready. Whether the
//! two sides can ever overlap is tried 40,000 times in `lease/tests.rs`.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::id::{ExecutorId, SessionNumber};
use crate::mutation::{Mutation, planted};
use crate::state::settings::LeaseTerms;
use crate::time::{BootTime, Millis};

/// What a leader waits beyond all that can be computed, for clocks read a little late.
const MARGIN: Millis = Millis::from_secs(1);

const MILLION: u64 = 1_000_000;

impl LeaseTerms {
    /// How often an executor renews.
    pub const fn renew_every(&self) -> Millis {
        Millis(self.length.0 / 10)
    }

    /// The silence after which a leader cordons an executor (PROTOCOL 5.6).
    pub const fn cordon_after(&self) -> Millis {
        Millis(self.length.0 / 5)
    }

    /// The time without a quorum, or without progress, after which a leader gives up (PROTOCOL 2.3).
    pub const fn give_up_after(&self) -> Millis {
        Millis(self.length.0 / 3)
    }

    /// From TERM to KILL on a lost lease.
    pub const fn kill_after(&self) -> Millis {
        Millis(self.kill_budget.0 / 2)
    }

    /// Until when a lease holds whose renewal was sent at `sent` and granted `granted`: the stop begins then.
    ///
    /// It counts from the sending, never from the answer: the answer may have been under way for any time.
    pub fn valid_until(&self, sent: BootTime, granted: Millis) -> BootTime {
        let rho = self.rho();
        let kept = MILLION.saturating_sub(2 * rho);
        // Nanoseconds = milliseconds × 1e6, and the share is in millionths: the two cancel.
        BootTime(sent.0.saturating_add(granted.0.saturating_mul(kept)))
    }

    /// The greatest drift of a clock's rate, in parts per million.
    fn rho(&self) -> u64 {
        if planted(Mutation::ClockRateIgnored) { 0 } else { u64::from(self.rho_ppm) }
    }

    /// How long a session has been silent when it is dead: L·(1 + rho) + K + 1 s, rounded up.
    pub fn dead_after(&self) -> Millis {
        let rho = self.rho();
        let drift = self.length.0.saturating_mul(rho).div_ceil(MILLION);
        Millis(self.length.0 + drift + self.kill_budget.0 + MARGIN.0)
    }
}

/// One session as the leader times it.
#[derive(Clone, Copy, Debug, Hash)]
struct Kept {
    terms: LeaseTerms,
    /// The last renewal, the opening, or the instant this leader became ready.
    heard: BootTime,
    /// Since its expiry was proposed nothing is granted, whatever comes of the proposal (PROTOCOL 5.4).
    expiring: bool,
}

/// The leader's clockwork for sessions. Made anew by each leadership, lost with it.
#[derive(Clone, Debug, Hash)]
pub struct SessionKeeper {
    ready_at: BootTime,
    /// The instant before the newest successful quorum round began. Until one succeeds nothing is granted.
    anchor: Option<BootTime>,
    sessions: BTreeMap<(ExecutorId, SessionNumber), Kept>,
}

impl SessionKeeper {
    /// Starts with the instant at which this leader's own `LeaderReady` was applied.
    pub const fn new(ready_at: BootTime) -> Self {
        Self { ready_at, anchor: None, sessions: BTreeMap::new() }
    }

    /// Takes over a session found in `State`: its last renewal is unknown, so it counts from readiness.
    pub fn take_over(&mut self, executor: ExecutorId, number: SessionNumber, terms: LeaseTerms) {
        let missed = planted(Mutation::SilenceCountedFromOldLeader);
        let heard = if missed { self.ready_at - terms.length } else { self.ready_at };
        let kept = Kept { terms, heard, expiring: false };
        self.sessions.entry((executor, number)).or_insert(kept);
    }

    /// Notes a session whose `OpenSession` was applied at `now`.
    pub fn open(&mut self, executor: ExecutorId, number: SessionNumber, terms: LeaseTerms, now: BootTime) {
        self.sessions.insert((executor, number), Kept { terms, heard: now, expiring: false });
    }

    /// Notes a quorum round that succeeded. `began` is the instant *before* it was asked for, never the answer's.
    pub fn quorum(&mut self, began: BootTime) {
        self.anchor = self.anchor.max(Some(began));
    }

    /// Hears a renewal and says how much to grant: min(L, anchor + L - now).
    ///
    /// `None` is no grant: no quorum within L, a session that is unknown, or one whose expiry was proposed.
    pub fn renew(&mut self, executor: ExecutorId, number: SessionNumber, now: BootTime) -> Option<Millis> {
        let kept = self.sessions.get_mut(&(executor, number)).filter(|kept| !kept.expiring)?;
        // A renewal that gets nothing still puts the death off: that errs on the safe side.
        kept.heard = kept.heard.max(now);
        let length = kept.terms.length;
        let anchor = if planted(Mutation::LeaseAnchoredAtNow) { now } else { self.anchor? };
        let granted = length.min((anchor + length).since(now));
        (granted > Millis::ZERO).then_some(granted)
    }

    /// When the session is dead for an attempt whose `on_disconnect` is `extension` (zero for `kill`; PROTOCOL
    /// 5.9). `None`: not kept here, so it is dead or was never opened.
    pub fn dies_at(
        &self,
        executor: ExecutorId,
        number: SessionNumber,
        extension: Millis,
    ) -> Option<BootTime> {
        let kept = self.sessions.get(&(executor, number))?;
        Some(kept.heard + kept.terms.dead_after() + extension)
    }

    /// Sessions that are dead at `now` and whose expiry is to be proposed, again if need be, in order.
    pub fn dead(&self, now: BootTime) -> Vec<(ExecutorId, SessionNumber)> {
        let is_dead = |kept: &Kept| now >= kept.heard + kept.terms.dead_after();
        self.sessions.iter().filter(|(_, kept)| is_dead(kept)).map(|(&key, _)| key).collect()
    }

    /// The next instant at which a session dies. `None`: no session is kept.
    pub fn next_death(&self) -> Option<BootTime> {
        self.sessions.values().map(|kept| kept.heard + kept.terms.dead_after()).min()
    }

    /// Sessions not heard for L/5: their executors are to be cordoned (PROTOCOL 5.6).
    pub fn silent(&self, now: BootTime) -> Vec<(ExecutorId, SessionNumber)> {
        let is_silent = |kept: &Kept| now >= kept.heard + kept.terms.cordon_after();
        self.sessions.iter().filter(|(_, kept)| is_silent(kept)).map(|(&key, _)| key).collect()
    }

    /// Notes that the expiry of a session is being proposed: from now on it gets no grant, for good.
    pub fn expiring(&mut self, executor: ExecutorId, number: SessionNumber) {
        if let Some(kept) = self.sessions.get_mut(&(executor, number)) {
            kept.expiring = true;
        }
    }

    /// Whether the expiry of this session was proposed; its stream is to be closed then.
    pub fn is_expiring(&self, executor: ExecutorId, number: SessionNumber) -> bool {
        self.sessions.get(&(executor, number)).is_some_and(|kept| kept.expiring)
    }

    /// Forgets a session to which nothing is bound any more.
    pub fn close(&mut self, executor: ExecutorId, number: SessionNumber) {
        self.sessions.remove(&(executor, number));
    }
}

#[cfg(test)]
mod tests;
