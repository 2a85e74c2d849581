//! The workflows of one seed: texts that the real compiler reads, and what the oracle must know of them.

use rand::Rng as _;
use rand::rngs::StdRng;

use super::almanac::Almanac;

/// One schedule as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Due {
    pub(super) almanac: Almanac,
    pub(super) policy: Policy,
    pub(super) window_ms: i64,
    pub(super) limit: usize,
}

/// The catch-up policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    None,
    Latest,
    All,
}

/// One workflow as it was drawn.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) text: String,
    /// Its schedule `tick`, if it has one.
    pub(super) due: Option<Due>,
    pub(super) skips_when_full: bool,
    /// How many of its runs may be active at once.
    pub(super) active_max: Option<u32>,
}

/// The pool that some of them share.
pub(super) const POOL: &str = "db";
/// Its slots at the beginning.
pub(super) const POOL_SLOTS: u32 = 3;

/// The document of the pool.
pub(super) fn pool_text() -> String {
    format!("pool: {POOL}\nslots: {POOL_SLOTS}\n")
}

const BODIES: [&str; 6] = [
    "tasks: { only: { run: [x] } }",
    "tasks:
  a: { run: [x], retry: { limit: 2, delay: 1s } }
  b: { run: [x], needs: a, pool: db, timeout: 30s }
  c: { run: [x], needs: b, when: params.x, allow_failure: true }
  d: { run: [x], needs: [a, c], trigger_rule: all_done }
params: { x: { type: bool, default: true } }",
    "tasks:
  list: { run: [x], retry: 2 }
  item: { run: [x], needs: list, for_each: \"{{ range(tasks.list.outputs.n) }}\", max_parallel: 2, retry: 1 }
  after: { run: [x], needs: item, trigger_rule: none_failed, priority: 5 }",
    "tasks:
  load: { run: [x], depends_on_past: true, pool: { db: 2 }, retry: { limit: 3, delay: 1s } }",
    "tasks:
  a: { run: [x], on_disconnect: 30s }
  b: { run: [x], pool: db, retry: { limit: 1, delay: 5s } }
  late: { run: [x], needs: [a, b], trigger_rule: one_failed }
  good: { run: [x], needs: [a, b], trigger_rule: one_success, when: \"tasks.a.state == 'success'\" }",
    "tasks:
  extract: { run: [x], pool: db, retry: { limit: 5, delay: 2s } }
  load: { run: [x], needs: extract, pool: { db: 2 }, timeout: 60s, retry: 1 }",
];

impl Story {
    /// Draws a version of one workflow. Its number decides the shape; only the schedule and the gate are drawn, so that
    /// another version of it differs in them.
    pub(super) fn draw(number: usize, random: &mut StdRng) -> Self {
        let body = BODIES[number % BODIES.len()];
        let name = format!("w{number}");
        let is_scheduled = number != 5;
        let depends_on_past = body.contains("depends_on_past");
        let due = is_scheduled.then(|| Due {
            almanac: Almanac::draw(random),
            policy: [Policy::None, Policy::Latest, Policy::All][random.random_range(0..3)],
            window_ms: [3_600_000, 86_400_000, 7 * 86_400_000][random.random_range(0..3)],
            limit: [1, 3, 100, 500][random.random_range(0..4)],
        });
        let skips_when_full = !depends_on_past && random.random_range(0..3) == 0;
        let active_max = match random.random_range(0..4) {
            0 if is_scheduled => Some(1),
            0 => None,
            most => Some(most),
        };
        let schedules = due.as_ref().map(Due::text).unwrap_or_default();
        let on_full = if skips_when_full { "skip" } else { "queue" };
        let gate = active_max
            .map(|most| format!("concurrency: {{ max_active_runs: {most}, on_full: {on_full} }}\n"))
            .unwrap_or_default();
        let text = format!("workflow: {name}\n{body}\n{schedules}{gate}");
        Self { text, due, skips_when_full, active_max }
    }
}

impl Due {
    fn text(&self) -> String {
        let policy = match self.policy {
            Policy::None => "none",
            Policy::Latest => "latest",
            Policy::All => "all",
        };
        let window = self.window_ms / 3_600_000;
        let almanac = &self.almanac;
        let gap = if almanac.skips_gap { "skip" } else { "shift" };
        let fold = almanac.fold.map(|fold| format!(", fold: {fold}")).unwrap_or_default();
        format!(
            "schedules: {{ tick: {{ cron: \"{}\", timezone: {}, gap: {gap}{fold}, catchup: {{ policy: {policy}, window: {window}h, limit: {} }} }} }}\n",
            almanac.cron(),
            almanac.zone,
            self.limit
        )
    }
}
