//! What is drawn once per seed (swarm testing): how long, how many, how likely. Everything else is drawn by these.

use matins_core::state::settings::LeaseTerms;
use matins_core::time::Millis;
use rand::Rng as _;
use rand::rngs::StdRng;

use super::agenda::{HOUR, MS, SEC};

/// The character of one seed.
#[derive(Clone, Debug)]
pub(super) struct Knobs {
    pub(super) nodes: usize,
    pub(super) lease: LeaseTerms,
    pub(super) slots: u32,
    /// True time under faults.
    pub(super) faulty: u64,
    /// When it begins, in milliseconds since 1970.
    pub(super) starts_at: i64,
    /// Whether boot-time clocks keep to rho. Where they do not, overlaps are counted and told apart.
    pub(super) keeps_rho: bool,
    /// A message takes so long at least; at most eight times that.
    pub(super) latency: u64,
    /// Of a million messages so many take up to `tail`.
    pub(super) tail_ppm: u32,
    pub(super) tail: u64,
    /// A connection without an answer is given up after so long.
    pub(super) keepalive: u64,
    /// Between losing a leader and electing another.
    pub(super) election: u64,
    /// Of a million proposals of a leader so many are delayed inside its node.
    pub(super) late_proposal_ppm: u32,
    /// How long a caller waits for the answer to a proposal.
    pub(super) answer_within: u64,
    /// Of a hundred answers to clients so many are lost.
    pub(super) lost_answers: u32,
    /// The length of tasks: between a second and this.
    pub(super) task_max: u64,
    /// Of a hundred tasks so many fail.
    pub(super) failing: u32,
    /// Of a hundred tasks so many ignore TERM.
    pub(super) stubborn: u32,
    /// Of a hundred tasks so many leave children behind.
    pub(super) littering: u32,
    /// Faults and commands of clients per simulated hour.
    pub(super) faults_per_hour: f64,
    pub(super) wishes_per_hour: f64,
    /// Weights of the kinds of faults.
    pub(super) weights: [u32; super::happening::KINDS],
    /// Of a thousand entries so many are followed by a comparison of replicas.
    pub(super) compare_permille: u32,
}

impl Knobs {
    pub(super) fn draw(random: &mut StdRng) -> Self {
        let nodes = [3, 3, 3, 3, 3, 1, 5][random.random_range(0..7)];
        let length = Millis([2, 5, 10, 10, 20, 60, 120, 300, 600, 600][random.random_range(0..10)] * 1_000);
        let rho_ppm = [1_000, 1_000, 1_000, 10_000, 50_000][random.random_range(0..5)];
        let kill_budget = Millis([400, 1_000, 4_000, 4_000, 10_000][random.random_range(0..5)]);
        let lease = LeaseTerms { length, kill_budget, rho_ppm };
        // A seed with short leases has many events an hour: it gets fewer hours.
        let hours = (length.0 as f64 / 10_000.0).clamp(0.3, 48.0) * random.random_range(0.1..1.0);
        let length_ns = length.0 * MS;
        let faulty = (hours * HOUR as f64) as u64;
        let calm = random.random_range(0..4) == 0;
        let faults_per_hour = 10f64.powf(random.random_range(-0.5..2.0)) * 10_000.0 / length.0 as f64;
        let mut weights = [0; super::happening::KINDS];
        for weight in &mut weights {
            *weight = if random.random_range(0..3) == 0 { 0 } else { random.random_range(1..10) };
        }
        Self {
            nodes,
            lease,
            slots: random.random_range(1..6),
            faulty,
            starts_at: starts_at(random),
            keeps_rho: random.random_range(0..8) != 0,
            latency: random.random_range(MS / 5..(length_ns / 200).clamp(MS, 50 * MS)),
            tail_ppm: [0, 0, 100, 10_000][random.random_range(0..4)],
            tail: random.random_range(MS..length_ns / 3),
            keepalive: random.random_range(length_ns / 10..length_ns),
            election: random.random_range(length_ns / 40..length_ns / 2),
            late_proposal_ppm: [0, 0, 1_000, 50_000][random.random_range(0..4)],
            answer_within: random.random_range(length_ns / 10..length_ns / 2),
            lost_answers: [0, 5, 50][random.random_range(0..3)],
            task_max: [2 * SEC, 20 * SEC, 120 * SEC, 3 * length_ns][random.random_range(0..4)],
            failing: [0, 5, 30][random.random_range(0..3)],
            stubborn: [0, 5, 50][random.random_range(0..3)],
            littering: [0, 5, 50][random.random_range(0..3)],
            faults_per_hour: if calm { 0.3 } else { faults_per_hour.min(600.0) },
            wishes_per_hour: 10f64.powf(random.random_range(-0.5..2.0)).min(2_000.0 / hours),
            weights,
            compare_permille: [2, 20, 200][random.random_range(0..3)],
        }
    }
}

/// Nights on which clocks change are as good as certain to be looked for, so half of all seeds are near one.
fn starts_at(random: &mut StdRng) -> i64 {
    /// The midnight (UTC) before a change: New York, Berlin, Lord Howe, and their ways back.
    const NIGHTS: [i64; 6] = [
        1_772_928_000_000,
        1_774_742_400_000,
        1_775_260_800_000,
        1_793_491_200_000,
        1_792_886_400_000,
        1_790_985_600_000,
    ];
    let day = 86_400_000;
    if random.random() {
        NIGHTS[random.random_range(0..NIGHTS.len())] - random.random_range(0..day / 2)
    } else {
        1_700_000_000_000 + random.random_range(0..2 * 365) * day + random.random_range(0..day)
    }
}
