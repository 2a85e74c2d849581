//! Faults and commands of clients as an explicit list, drawn up front: what a failure is shrunk to.
//!
//! Each says what it does in words that still make sense when others are taken out: nodes by number, things by their
//! place among what there is at that moment.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::agenda::{HOUR, Instant, SEC};
use super::knobs::Knobs;

/// Something from outside, at an instant of true time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Happening {
    pub(super) at: Instant,
    pub(super) what: What,
}

/// How many kinds of faults there are.
pub(super) const KINDS: usize = 13;

/// Their names, in the order of the weights.
pub(super) const KIND_NAMES: [&str; KINDS] = [
    "server killed",
    "machine rebooted",
    "server frozen",
    "machine suspended",
    "journal wiped",
    "supervisor killed",
    "node cut off",
    "link cut",
    "link stalled",
    "lead moved",
    "wall clock set",
    "effects missed",
    "outage",
];

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    /// The server process dies and is started again. Supervisors and tasks live on.
    Kill { node: usize, down: u64 },
    /// The machine goes down with all its processes.
    Reboot { node: usize, down: u64, keeps_journal: bool },
    /// SIGSTOP of the server process alone.
    Freeze { node: usize, time: u64 },
    /// The whole machine sleeps; its boot-time clock goes on.
    Suspend { node: usize, time: u64 },
    /// The server process dies and its executor's folder is gone.
    Wipe { node: usize, down: u64 },
    /// The supervisor is killed, and its tasks' first processes with it.
    KillSupervisor { node: usize },
    /// Nothing comes to or goes from a node.
    CutOff { node: usize, time: u64 },
    /// Nothing goes from one node to another.
    Cut { from: usize, to: usize, time: u64 },
    /// What goes from one node to another arrives only afterwards; then, maybe, the other way is cut.
    Stall { from: usize, to: usize, time: u64, then_cut: u64 },
    /// Another node wins an election while nothing is wrong with the leader.
    Elect { node: usize },
    /// A wall clock is wrong for a time.
    SetWall { node: usize, by_ms: i64, time: u64 },
    /// The leader falls behind in what was applied and looks at the state instead.
    Lag,
    /// All server processes are gone for a time.
    Outage { time: u64 },
    /// A client wants something.
    Wish(Wish),
}

/// What clients want. Numbers choose among what there is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wish {
    Start(usize),
    Cancel(usize, bool),
    Retry(usize),
    RetryTask(usize),
    PauseSchedule(usize),
    ResumeSchedule(usize),
    PauseWorkflow(usize),
    ResumeWorkflow(usize),
    Change(usize, u64),
    Delete(usize),
    Backfill(usize, u64),
    PauseBackfill(usize),
    ResumeBackfill(usize),
    CancelBackfill(usize),
    SetPool(usize, u32),
    Drain(usize),
    Undrain(usize),
}

/// Draws the list of one seed.
pub(super) fn draw(knobs: &Knobs, random: &mut StdRng) -> Vec<Happening> {
    let mut list = Vec::new();
    let hours = knobs.faulty as f64 / HOUR as f64;
    let stretches = stretches(knobs, random);
    let faults = (knobs.faults_per_hour * hours).min(4_000.0) as usize;
    let has_faults = knobs.weights.iter().any(|weight| *weight > 0);
    for _ in 0..if has_faults { faults } else { 0 } {
        list.push(Happening { at: moment(&stretches, random), what: fault(knobs, random) });
    }
    for _ in 0..(knobs.wishes_per_hour * hours).min(4_000.0) as usize {
        let at = moment(&stretches, random);
        list.push(Happening { at, what: What::Wish(wish(random)) });
    }
    list.sort_by_key(|happening| happening.at);
    list
}

/// Where things happen: a few dense stretches with quiet between them.
fn stretches(knobs: &Knobs, random: &mut StdRng) -> Vec<(Instant, Instant)> {
    let count = random.random_range(1..6);
    let stretch = |random: &mut StdRng| {
        let from = random.random_range(10 * SEC..knobs.faulty);
        let length = (knobs.faulty as f64 * random.random_range(0.001..0.5)) as u64;
        (from, (from + length.max(10 * SEC)).min(knobs.faulty + SEC))
    };
    (0..count).map(|_| stretch(random)).collect()
}

fn moment(stretches: &[(Instant, Instant)], random: &mut StdRng) -> Instant {
    let (from, to) = stretches[random.random_range(0..stretches.len())];
    random.random_range(from..to.max(from + 1))
}

/// Short and long against a lease alike.
fn span(knobs: &Knobs, random: &mut StdRng) -> u64 {
    let lease = knobs.lease.length.0 as f64 * 1e6;
    (lease * 10f64.powf(random.random_range(-1.7..0.7))) as u64
}

fn fault(knobs: &Knobs, random: &mut StdRng) -> What {
    let total: u32 = knobs.weights.iter().sum();
    let mut drawn = random.random_range(0..total);
    let kind = knobs.weights.iter().position(|weight| {
        let is_it = drawn < *weight;
        drawn = drawn.saturating_sub(*weight);
        is_it
    });
    let node = random.random_range(0..knobs.nodes);
    let other = (node + random.random_range(0..knobs.nodes.max(2) - 1) + 1) % knobs.nodes;
    let time = span(knobs, random);
    match kind.unwrap_or(0) {
        0 => What::Kill { node, down: time / 4 },
        1 => What::Reboot { node, down: time, keeps_journal: random.random() },
        2 => What::Freeze { node, time },
        3 => What::Suspend { node, time },
        4 => What::Wipe { node, down: time / 4 },
        5 => What::KillSupervisor { node },
        6 => What::CutOff { node, time },
        7 => What::Cut { from: node, to: other, time },
        8 => {
            let then_cut = if random.random() { span(knobs, random) * 2 } else { 0 };
            What::Stall { from: node, to: other, time, then_cut }
        }
        9 => What::Elect { node },
        10 => What::SetWall { node, by_ms: wall_step(random), time: time * 3 },
        11 => What::Lag,
        _ => What::Outage { time: outage(random) },
    }
}

/// Short and long against the ten minutes after which ticks are missed (PROTOCOL 3.2).
fn outage(random: &mut StdRng) -> u64 {
    (600.0 * 10f64.powf(random.random_range(-0.5..1.2))) as u64 * SEC
}

fn wall_step(random: &mut StdRng) -> i64 {
    const TEN_YEARS: i64 = 10 * 365 * 86_400_000;
    let step = [500, 3_000, 90_000, 3_600_000, 40 * 86_400_000, TEN_YEARS][random.random_range(0..6)];
    if random.random() { step } else { -step }
}

fn wish(random: &mut StdRng) -> Wish {
    let number = random.random_range(0..1_000);
    match random.random_range(0..30) {
        0..7 => Wish::Start(number),
        7..10 => Wish::Cancel(number, random.random()),
        10..12 => Wish::Retry(number),
        12..15 => Wish::RetryTask(number),
        15 | 16 => Wish::PauseSchedule(number),
        17 | 18 => Wish::ResumeSchedule(number),
        19 => Wish::PauseWorkflow(number),
        20 => Wish::ResumeWorkflow(number),
        21 | 22 => Wish::Change(number, random.random()),
        23 => Wish::Delete(number),
        24 => Wish::Backfill(number, random.random()),
        25 => [Wish::PauseBackfill(number), Wish::ResumeBackfill(number)][number % 2].clone(),
        26 => Wish::CancelBackfill(number),
        27 => Wish::SetPool(number, random.random_range(2..6)),
        28 => Wish::Drain(number),
        _ => Wish::Undrain(number),
    }
}
