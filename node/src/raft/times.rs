//! The times of consensus, configurable and validated together (PROTOCOL 2.5, 5.3).

use std::time::Duration;

use thiserror::Error;

/// Every time that consensus waits for something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftTimes {
    /// Between heartbeats; also the deadline of each append and of each read-index round, so 100 ms at least.
    pub heartbeat: Duration,
    /// Without a heartbeat for a time drawn between this ...
    pub election_min: Duration,
    /// ... and this, a voter asks for pre-votes.
    pub election_max: Duration,
    /// How long a voter waits for answers to its pre-vote, and openraft for votes.
    pub vote: Duration,
    /// L: the length of a lease, of which a leader that cannot lead may use a third (PROTOCOL 2.3).
    pub lease: Duration,
    /// How long a proposal may take if its caller does not say.
    pub propose: Duration,
    /// How long a node that was cut off takes to connect again, at most.
    pub reconnect: Duration,
    /// How long a part of a snapshot may take on its way.
    pub snapshot_part: Duration,
}

impl Default for RaftTimes {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(500),
            election_max: Duration::from_millis(900),
            vote: Duration::from_millis(300),
            lease: Duration::from_secs(10),
            propose: Duration::from_secs(5),
            reconnect: Duration::from_millis(500),
            snapshot_part: Duration::from_secs(10),
        }
    }
}

/// The faults of a set of times, all at once.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{}", .0.join("; "))]
pub struct TimesError(pub Vec<String>);

/// An election takes this long at worst (PROTOCOL 2.5).
const ELECTION_WORST: Duration = Duration::from_secs(5);

impl RaftTimes {
    /// A third of the lease: for longer than that a leader does not hold on to a lead it cannot use (PROTOCOL 2.3).
    pub fn give_up(&self) -> Duration {
        self.lease / 3
    }

    /// A voter that has heard a leader so lately votes for nobody else. openraft counts it from when it has handled the
    /// message, so it is shorter than `miss`: a pre-vote that was granted is followed by a vote.
    pub(crate) fn hold_on(&self) -> Duration {
        self.election_min.saturating_sub(self.heartbeat * 3 / 2)
    }

    /// A voter that has heard a leader so lately grants no pre-vote.
    pub(crate) fn miss(&self) -> Duration {
        self.election_min.saturating_sub(self.heartbeat)
    }

    /// Names all that is wrong with these times.
    pub fn validate(&self) -> Result<(), TimesError> {
        let mut faults = Vec::new();
        let mut need = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        need(self.heartbeat >= Duration::from_millis(100), "heartbeat: 100ms at least");
        need(self.election_min >= self.heartbeat * 4, "election_min: four heartbeats at least");
        need(self.election_max > self.election_min, "election_max: more than election_min");
        need(self.election_max <= Duration::from_secs(2), "election_max: 2s at most");
        need(
            self.heartbeat < self.vote && self.vote + self.heartbeat * 3 / 2 < self.election_min,
            "vote: more than a heartbeat, and less than election_min by one and a half of them",
        );
        need(self.propose >= self.heartbeat * 4, "propose: four heartbeats at least");
        need(self.give_up() >= self.election_max, "lease: three times election_max at least");
        let change_of_leader = self.give_up() + ELECTION_WORST + self.reconnect;
        need(
            change_of_leader < self.lease * 9 / 10,
            "lease: a third of it, 5s for an election and reconnect together stay below 0.9 of it",
        );
        if faults.is_empty() { Ok(()) } else { Err(TimesError(faults)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_each_other() {
        assert_eq!(RaftTimes::default().validate(), Ok(()));
    }

    #[test]
    fn a_change_of_leader_costs_no_task() {
        // PROTOCOL 5.3: L/3 + 5 s + 0.5 s < 0.9 L.
        let short = RaftTimes { lease: Duration::from_secs(9), ..RaftTimes::default() };
        assert!(short.validate().is_err());
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let times = RaftTimes {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(100),
            ..RaftTimes::default()
        };
        let TimesError(faults) = times.validate().unwrap_err();
        assert_eq!(faults.len(), 4, "{faults:?}");
    }
}
