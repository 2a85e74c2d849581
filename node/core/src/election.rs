//! When a voter asks to lead (PROTOCOL 2.5). A pure machine: it is told what happened and when, and says what to do.
//!
//! The consensus library draws its timeout once per process, starts its clock before a vote is on disk and asks nobody
//! before it stands. So its own elections are off, and this machine calls them: the time is drawn anew each time, counts
//! from the last heartbeat or from the moment the last vote was on disk, and the peers are asked first whether they miss
//! the leader too (a pre-vote), so that a node that was cut off does not depose a leader when it comes back.
//!
//! Start at [`Election::act`]; whoever drives it waits until [`Election::wake_at`] or for an event, whichever is first.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use crate::id::NodeId;
use crate::time::{BootTime, Millis};

/// The times of elections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElectionTimes {
    /// Without a heartbeat for a time drawn between this ...
    pub min: Millis,
    /// ... and this, a voter asks for pre-votes.
    pub max: Millis,
    /// How long it waits for their answers.
    pub pre_vote: Millis,
    /// A peer that has heard from a leader within this time refuses a pre-vote; less than `min`.
    pub miss: Millis,
}

/// A leader that was not heard for so long is none: in a cluster that can elect one, several elections are over by then.
const LOST_AFTER: Millis = Millis::from_secs(3);

/// What this node is to the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does not vote: an empty node or a learner.
    Bystander,
    /// It votes and does not lead.
    Voter,
    /// It leads.
    Leader,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask all other voters for a pre-vote; answers name this round.
    AskPreVotes {
        /// Which round.
        round: u64,
    },
    /// Stand for election.
    Elect,
}

/// What the machine waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The leader to fall silent for so long.
    Silence { until: BootTime },
    /// Answers to a pre-vote.
    PreVotes { granted: BTreeSet<NodeId>, refused: BTreeSet<NodeId>, until: BootTime },
}

/// Decides when to ask and when to stand.
#[derive(Clone, Debug)]
pub struct Election {
    node: NodeId,
    times: ElectionTimes,
    /// A seeded source: equal seeds, equal draws.
    random: u64,
    role: Role,
    /// Each set of voters; a majority of each is needed.
    voter_sets: Vec<BTreeSet<NodeId>>,
    phase: Phase,
    round: u64,
    /// When a leader was last heard, if one was since the start.
    heard: Option<BootTime>,
}

impl Election {
    /// A machine for a node that has just started: it gives the leader that may be there its time to be heard.
    pub fn new(node: NodeId, times: ElectionTimes, seed: u64, now: BootTime) -> Self {
        let mut election = Self {
            node,
            times,
            // Nodes draw differently even if they are given the same seed.
            random: seed ^ node.0.rotate_left(32),
            role: Role::Bystander,
            voter_sets: Vec::new(),
            phase: Phase::Silence { until: now },
            round: 0,
            heard: None,
        };
        election.wait(now, times.min, times.max);
        election
    }

    /// The role of this node, or who votes, may have changed.
    pub fn set_role(&mut self, role: Role, voter_sets: Vec<BTreeSet<NodeId>>, now: BootTime) {
        if role == self.role && voter_sets == self.voter_sets {
            return;
        }
        let was_leader = self.role == Role::Leader;
        self.role = role;
        self.voter_sets = voter_sets;
        // A leader that was deposed counts from now; a voter that has nobody to ask need not wait at all.
        if self.is_alone() {
            self.phase = Phase::Silence { until: now };
        } else if was_leader {
            self.wait(now, self.times.min, self.times.max);
        }
    }

    /// A message of a leader came: a heartbeat, records, or a part of a snapshot.
    pub fn heard_leader(&mut self, now: BootTime) {
        self.heard = Some(now);
        self.wait(now, self.times.min, self.times.max);
    }

    /// A vote, for itself or for another, is on disk: that candidate has its time to win.
    pub fn vote_saved(&mut self, now: BootTime) {
        self.wait(now, self.times.min, self.times.max);
    }

    /// A voter answered a pre-vote. Answers to an earlier round change nothing.
    pub fn answered(&mut self, round: u64, node: NodeId, is_granted: bool) {
        if round != self.round {
            return;
        }
        if let Phase::PreVotes { granted, refused, .. } = &mut self.phase {
            if is_granted {
                granted.insert(node);
            } else {
                refused.insert(node);
            }
        }
    }

    /// Whether this node misses its leader, so that it would grant a pre-vote as far as time goes.
    pub fn misses_leader(&self, now: BootTime) -> bool {
        match self.role {
            Role::Leader => false,
            Role::Bystander | Role::Voter => {
                self.heard.is_none_or(|heard| now.since(heard) >= self.times.miss)
            }
        }
    }

    /// Whether no leader was heard for so long that none is known any more: several elections would have been over.
    pub fn has_lost_leader(&self, now: BootTime) -> bool {
        match self.role {
            Role::Leader => false,
            Role::Bystander | Role::Voter => self.heard.is_none_or(|heard| now.since(heard) >= LOST_AFTER),
        }
    }

    /// What is to be done now, if anything. Call it again after each action and each event.
    pub fn act(&mut self, now: BootTime) -> Option<Action> {
        match self.role {
            Role::Bystander | Role::Leader => return None,
            Role::Voter => {}
        }
        match &self.phase {
            Phase::Silence { until } if now < *until => None,
            Phase::Silence { .. } if self.is_alone() => Some(self.elect(now)),
            Phase::Silence { .. } => {
                self.round += 1;
                let granted = BTreeSet::from([self.node]);
                let until = now + self.times.pre_vote;
                self.phase = Phase::PreVotes { granted, refused: BTreeSet::new(), until };
                Some(Action::AskPreVotes { round: self.round })
            }
            Phase::PreVotes { granted, .. } if self.is_majority(granted) => Some(self.elect(now)),
            Phase::PreVotes { refused, until, .. } => {
                // A refusal says that a leader is heard elsewhere, or that another node should lead: ask again soon, for a
                // peer may have heard the last heartbeat a moment later than we did.
                if now >= *until || self.blocks(refused) {
                    self.wait(now, Millis(self.times.min.0 / 4), Millis(self.times.max.0 / 2));
                }
                None
            }
        }
    }

    /// When `act` may have something to do without an event. `None`: only after one.
    pub fn wake_at(&self) -> Option<BootTime> {
        match self.role {
            Role::Bystander | Role::Leader => None,
            Role::Voter => match &self.phase {
                Phase::Silence { until } | Phase::PreVotes { until, .. } => Some(*until),
            },
        }
    }

    fn elect(&mut self, now: BootTime) -> Action {
        // Counted again from the moment this node's own vote is on disk.
        self.wait(now, self.times.min, self.times.max);
        Action::Elect
    }

    /// Draws anew how long to wait from `now`.
    fn wait(&mut self, now: BootTime, min: Millis, max: Millis) {
        let span = max.saturating_sub(min).0.max(1);
        let wait = min + Millis(self.draw() % span);
        self.phase = Phase::Silence { until: now + wait };
    }

    fn is_alone(&self) -> bool {
        self.role == Role::Voter && self.is_majority(&BTreeSet::from([self.node]))
    }

    fn is_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        !self.voter_sets.is_empty()
            && self.voter_sets.iter().all(|set| set.intersection(nodes).count() * 2 > set.len())
    }

    /// Whether those who refused leave no majority.
    fn blocks(&self, refused: &BTreeSet<NodeId>) -> bool {
        self.voter_sets.iter().any(|set| set.intersection(refused).count() * 2 >= set.len())
    }

    /// `SplitMix64`: small, seeded, and good enough to tell three timers apart.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const TIMES: ElectionTimes =
        ElectionTimes { min: Millis(500), max: Millis(900), pre_vote: Millis(250), miss: Millis(400) };

    fn at(millis: u64) -> BootTime {
        BootTime(millis * 1_000_000)
    }

    fn voters() -> Vec<BTreeSet<NodeId>> {
        vec![BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])]
    }

    fn voter(seed: u64) -> Election {
        let mut election = Election::new(NodeId(1), TIMES, seed, at(0));
        election.set_role(Role::Voter, voters(), at(0));
        election
    }

    #[test]
    fn a_voter_that_hears_its_leader_asks_nobody() {
        let mut election = voter(7);
        for beat in 1..1_000 {
            election.heard_leader(at(beat * 100));
            assert_eq!(election.act(at(beat * 100 + 99)), None);
        }
    }

    #[test]
    fn a_silent_leader_is_asked_about_within_bounds_drawn_anew() {
        let mut waits = BTreeSet::new();
        let mut election = voter(7);
        for _ in 0..200 {
            election.heard_leader(at(1_000));
            let wake = election.wake_at().unwrap();
            assert!(wake >= at(1_500) && wake < at(1_900), "{wake:?}");
            assert_eq!(election.act(BootTime(wake.0 - 1)), None);
            assert!(matches!(election.act(wake), Some(Action::AskPreVotes { .. })));
            waits.insert(wake);
        }
        assert!(waits.len() > 50, "drawn anew each time: {}", waits.len());
    }

    #[test]
    fn one_pre_vote_besides_its_own_makes_it_stand() {
        let mut election = voter(7);
        assert_eq!(election.act(at(900)), Some(Action::AskPreVotes { round: 1 }));
        assert_eq!(election.act(at(901)), None);
        election.answered(1, NodeId(2), false);
        assert_eq!(election.act(at(902)), None);
        election.answered(1, NodeId(3), true);
        assert_eq!(election.act(at(903)), Some(Action::Elect));
        // It does not stand again before a full time has passed.
        assert_eq!(election.act(at(1_402)), None);
    }

    #[test]
    fn a_node_that_was_cut_off_deposes_nobody() {
        let mut election = voter(7);
        let mut now = 900;
        for round in 1..50 {
            while election.act(at(now)).is_none() {
                now += 10;
            }
            election.answered(round, NodeId(2), false);
            election.answered(round, NodeId(3), false);
            assert_eq!(election.act(at(now)), None);
        }
    }

    #[test]
    fn answers_to_an_earlier_round_do_not_count() {
        let mut election = voter(7);
        assert_eq!(election.act(at(900)), Some(Action::AskPreVotes { round: 1 }));
        assert_eq!(election.act(at(1_150)), None);
        let wake = election.wake_at().unwrap();
        assert_eq!(election.act(wake), Some(Action::AskPreVotes { round: 2 }));
        election.answered(1, NodeId(2), true);
        assert_eq!(election.act(wake), None);
    }

    #[test]
    fn time_counts_from_the_vote_on_disk() {
        let mut election = voter(7);
        assert!(election.act(at(900)).is_some());
        election.answered(1, NodeId(2), true);
        assert_eq!(election.act(at(900)), Some(Action::Elect));
        // The disk took four seconds.
        election.vote_saved(at(4_900));
        assert_eq!(election.act(at(5_399)), None);
        assert!(election.act(at(5_800)).is_some());
    }

    #[test]
    fn a_pre_vote_is_granted_once_the_leader_is_missed() {
        let mut election = voter(7);
        assert!(election.misses_leader(at(0)), "none was heard since the start");
        election.heard_leader(at(1_000));
        assert!(!election.misses_leader(at(1_399)));
        assert!(election.misses_leader(at(1_400)));
        assert!(!election.has_lost_leader(at(3_999)));
        assert!(election.has_lost_leader(at(4_000)));
        election.set_role(Role::Leader, voters(), at(2_000));
        assert!(!election.misses_leader(at(9_000)) && !election.has_lost_leader(at(9_000)));
    }

    #[test]
    fn a_lone_voter_stands_at_once_and_a_bystander_never() {
        let mut election = Election::new(NodeId(1), TIMES, 7, at(0));
        assert_eq!(election.act(at(100_000)), None);
        election.set_role(Role::Voter, vec![BTreeSet::from([NodeId(1)])], at(100_000));
        assert_eq!(election.act(at(100_000)), Some(Action::Elect));
    }

    #[test]
    fn both_sets_of_a_joint_membership_must_agree() {
        let mut election = voter(7);
        let sets = vec![
            BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]),
            BTreeSet::from([NodeId(1), NodeId(4), NodeId(5)]),
        ];
        election.set_role(Role::Voter, sets, at(0));
        assert!(election.act(at(900)).is_some());
        election.answered(1, NodeId(2), true);
        assert_eq!(election.act(at(901)), None);
        election.answered(1, NodeId(4), true);
        assert_eq!(election.act(at(902)), Some(Action::Elect));
    }
}
