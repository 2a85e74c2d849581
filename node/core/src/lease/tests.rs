//! PROTOCOL 5.3: no two executors run one task at one real time, tried with seeded random clocks, delays and deaths.

use super::*;

const EXECUTOR: ExecutorId = crate::id::NodeId(1);
const SESSION: SessionNumber = SessionNumber(1);
/// Real time is in nanoseconds, like clocks.
const MILLI: u64 = 1_000_000;

/// What a trial gets wrong on purpose, to prove that the simulation can see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Nothing,
    /// The leader anchors its grants at the present.
    AnchoredAtNow,
    /// The executor counts from the instant at which the answer came.
    CountedFromArrival,
}

/// A generator of random numbers small enough to read: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Milliseconds, as real nanoseconds.
    fn millis(&mut self, from: u64, to: u64) -> u64 {
        from * MILLI + self.below((to - from) * MILLI + 1)
    }

    /// A delay of the network: mostly short, at times as long as a session and more.
    fn delay(&mut self) -> u64 {
        if self.below(4) == 0 { self.millis(0, 14_000) } else { self.millis(0, 50) }
    }
}

/// A clock with an offset and a rate that is off by rho at most.
struct Clock {
    offset: u64,
    rate_ppm: u64,
}

impl Clock {
    fn draw(random: &mut Random, rho_ppm: u64) -> Self {
        // The ends of the range are where it breaks, so half of the clocks run there.
        let off = match random.below(4) {
            0 => 0,
            1 => 2 * rho_ppm,
            _ => random.below(2 * rho_ppm + 1),
        };
        Self { offset: random.millis(0, 1_000_000), rate_ppm: MILLION - rho_ppm + off }
    }

    fn read(&self, real: u64) -> BootTime {
        BootTime(self.offset + (u128::from(real) * u128::from(self.rate_ppm) / 1_000_000) as u64)
    }

    /// The first real instant at which the clock shows `at`.
    fn real(&self, at: BootTime) -> u64 {
        let shown = u128::from(at.0.saturating_sub(self.offset));
        (shown * 1_000_000).div_ceil(u128::from(self.rate_ppm)) as u64
    }
}

/// One story: an executor renews with a leader that is cut off from its peers (or lives on), and falls silent; then
/// its session is called dead, by the same leader or by a new one. Gives what the first executor's last process
/// died at, and when the task is started elsewhere, both in real time.
fn trial(seed: u64, flaw: Flaw) -> (u64, u64) {
    let mut random = Random(seed);
    let params = LeaseTerms::default();
    let rho = u64::from(params.rho_ppm);
    let (executor, old, new) =
        (Clock::draw(&mut random, rho), Clock::draw(&mut random, rho), Clock::draw(&mut random, rho));

    // Quorum rounds of the old leader: each reaches its majority at some instant between asking and answer. After
    // the cut none does, and only then can a new leader be elected.
    let cut = random.millis(5_000, 30_000);
    let mut rounds = Vec::new();
    let (mut at, mut last_touch) = (0, 0);
    while at < cut {
        let touch = at + random.millis(0, 300);
        let answer = touch + random.millis(0, 300);
        if touch <= cut {
            rounds.push((answer, at));
            last_touch = last_touch.max(touch);
        }
        at = answer + random.millis(1, 1_000);
    }
    let takes_over = random.below(2) == 0;
    let ready = last_touch + random.millis(0, 3_000);

    // Renewals, one at a time as they leave; the link to the executor lasts longer than the leader's quorum.
    let silent = cut + random.millis(0, 20_000);
    let mut heard: Vec<(u64, u64)> = Vec::new();
    let mut sent = random.millis(0, 1_000);
    while sent < silent {
        heard.push((sent + random.delay(), sent));
        sent += random.millis(900, 1_100);
    }
    heard.sort_unstable();

    let mut keeper = SessionKeeper::new(old.read(0));
    keeper.open(EXECUTOR, SESSION, params, old.read(0));
    let mut rounds = rounds.into_iter().peekable();
    let mut valid_until = executor.read(0);
    for (arrived, sent) in heard {
        // The leader alone stays in office: then it expires the session, and hears nothing after that.
        if !takes_over && keeper.dead(old.read(arrived)).contains(&(EXECUTOR, SESSION)) {
            keeper.expiring(EXECUTOR, SESSION);
        }
        while let Some((_, began)) = rounds.next_if(|&(answer, _)| answer <= arrived) {
            keeper.quorum(old.read(began));
        }
        if flaw == Flaw::AnchoredAtNow {
            keeper.quorum(old.read(arrived));
        }
        let Some(granted) = keeper.renew(EXECUTOR, SESSION, old.read(arrived)) else { continue };
        let answered = arrived + random.delay();
        let counted = if flaw == Flaw::CountedFromArrival { answered } else { sent };
        // An answer that finds the lease lost already takes no stop back.
        if executor.read(answered) < valid_until || valid_until == executor.read(0) {
            valid_until = valid_until.max(params.valid_until(executor.read(counted), granted));
        }
    }
    let gone = executor.real(valid_until + params.kill_budget);
    let dead = if takes_over {
        let mut next = SessionKeeper::new(new.read(ready));
        next.take_over(EXECUTOR, SESSION, params);
        new.real(next.next_death().expect("one session is kept"))
    } else {
        old.real(keeper.next_death().expect("one session is kept"))
    };
    (gone, dead)
}

fn overlaps(flaw: Flaw, trials: u64) -> u64 {
    let is_overlap = |seed: &u64| {
        let (gone, dead) = trial(*seed, flaw);
        gone > dead
    };
    (0..trials).filter(is_overlap).count() as u64
}

#[test]
fn no_two_executors_overlap_in_40_000_random_trials() {
    for seed in 0..40_000 {
        let (gone, dead) = trial(seed, Flaw::Nothing);
        assert!(gone <= dead, "seed {seed}: gone at {gone}, started elsewhere at {dead}");
    }
}

#[test]
fn the_trials_see_what_a_wrong_anchor_does() {
    let (anchored, counted) =
        (overlaps(Flaw::AnchoredAtNow, 2_000), overlaps(Flaw::CountedFromArrival, 2_000));
    // Half of the stories have no new leader; a wrong anchor harms the others.
    assert!(anchored > 500, "anchored at now: {anchored} of 2,000");
    assert!(counted > 500, "counted from the answer: {counted} of 2,000");
}

#[test]
fn the_numbers_are_those_of_the_protocol() {
    let params = LeaseTerms::default();
    assert_eq!(params.dead_after(), Millis(15_010));
    assert_eq!(params.valid_until(BootTime(0), params.length), BootTime(9_980 * MILLI));
    // PROTOCOL 5.3: the oldest renewal has 8.83 of 0.9 L left when giving up, electing and reconnecting are done.
    let failover = params.give_up_after() + Millis(5_000) + Millis(500);
    assert!(failover < Millis(params.length.0 * 9 / 10), "{failover}");
}

#[test]
fn an_old_leader_without_a_quorum_grants_no_more_than_its_anchor_allows() {
    let mut keeper = SessionKeeper::new(BootTime(0));
    let at = |millis| BootTime(0) + Millis(millis);
    keeper.open(EXECUTOR, SESSION, LeaseTerms::default(), at(0));
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(10)), None, "no quorum yet");
    keeper.quorum(at(1_000));
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(1_000)), Some(Millis(10_000)));
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(4_000)), Some(Millis(7_000)));
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(11_000)), None);
    keeper.quorum(at(500));
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(4_000)), Some(Millis(7_000)), "an anchor never falls");
}

#[test]
fn from_the_proposal_of_an_expiry_nothing_is_granted() {
    let mut keeper = SessionKeeper::new(BootTime(0));
    let at = |millis| BootTime(0) + Millis(millis);
    keeper.take_over(EXECUTOR, SESSION, LeaseTerms::default());
    keeper.quorum(at(15_000));
    assert_eq!(keeper.dead(at(15_009)), []);
    assert_eq!(keeper.dead(at(15_010)), [(EXECUTOR, SESSION)]);
    keeper.expiring(EXECUTOR, SESSION);
    assert_eq!(keeper.renew(EXECUTOR, SESSION, at(15_011)), None);
    assert_eq!(keeper.dead(at(15_012)), [(EXECUTOR, SESSION)], "proposed again while something is bound");
    assert_eq!(keeper.dies_at(EXECUTOR, SESSION, Millis::from_mins(30)), Some(at(1_815_010)));
    keeper.close(EXECUTOR, SESSION);
    assert_eq!(keeper.next_death(), None);
}
