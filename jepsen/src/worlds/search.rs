//! Breadth-first over hashed states: every state that can be reached is looked at once, the nearest ones first.
//!
//! A state is known by 64 bits: of ten million states, two share a hash with a probability of one in 370,000, and then
//! one of them is not looked at. What is kept of a state that was looked at is its hash and how it was reached, so that
//! a violation is told by its shortest story. Start reading at [`Search::run`].

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::{Duration, Instant};

/// What can be searched.
pub(crate) trait World: Clone + Send + Sync {
    /// Something that can happen next.
    type Step: Copy + Send;

    /// All that can happen next, always in the same order; 65,536 at most.
    fn steps(&self) -> Vec<Self::Step>;

    /// Lets it happen. An error is a broken promise, in words.
    fn take(&mut self, step: Self::Step) -> Result<(), String>;

    /// Equal for two states that go on alike.
    fn key(&self) -> u64;

    /// What would happen, in words.
    fn tell(&self, step: Self::Step) -> String;

    /// From here on no fault comes any more, and everything that can be done is done: what happens next then. `None`: all
    /// is as it should be in the end.
    fn fair_step(&self) -> Option<Self::Step>;

    /// The state without any faults to come.
    fn without_faults(&self) -> Self;
}

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// No more states than this are looked at.
    pub(crate) states: u64,
    /// From one in so many states it is tried whether everything ends once the faults are over.
    pub(crate) ends_of_one_in: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    /// Distinct states.
    pub(crate) states: u64,
    /// Steps that were taken.
    pub(crate) transitions: u64,
    /// Steps to the farthest state.
    pub(crate) depth: u64,
    /// Every state that can be reached was looked at.
    pub(crate) is_closed: bool,
    /// States from which a fair schedule was followed to its end, and the further states that it came through.
    pub(crate) ends_tried: u64,
    pub(crate) states_to_ends: u64,
    pub(crate) took: Duration,
    /// The first violation: what, and the story.
    pub(crate) violation: Option<Violation>,
}

/// A broken promise and how to come to it.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    pub(crate) story: Vec<String>,
}

/// A fair schedule that is longer than this leads nowhere.
const FAIR_STEPS_MAX: usize = 2_000;
/// States that the two threads take at once.
const CHUNK: usize = 2_048;
/// Threads that look at states.
const THREADS: usize = 2;

type Keys = HashSet<u64, BuildHasherDefault<AsItIs>>;

/// The keys are hashes already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// How a state was reached.
#[derive(Clone, Copy)]
struct Origin {
    parent: u32,
    step: u16,
}

/// A search in progress.
pub(crate) struct Search<W: World> {
    first: W,
    bounds: Bounds,
    seen: Keys,
    origins: Vec<Origin>,
    /// States without faults to come from which everything ends.
    ending: Keys,
    found: Found,
}

/// What a thread found at one state.
struct Looked<W> {
    next: Vec<(u64, u16, W)>,
    transitions: u64,
    broken: Option<(u16, String)>,
}

impl<W: World> Search<W> {
    /// A search that begins at `first`.
    pub(crate) fn new(first: W, bounds: Bounds) -> Self {
        let (seen, ending) = (Keys::default(), Keys::default());
        Self { first, bounds, seen, origins: Vec::new(), ending, found: Found::default() }
    }

    /// Looks at everything within the bounds, up to the first violation. The same search finds the same.
    pub(crate) fn run(mut self) -> Found {
        let began = Instant::now();
        let mut frontier = vec![(0, self.first.clone())];
        self.seen.insert(self.first.key());
        self.origins.push(Origin { parent: 0, step: 0 });
        while !frontier.is_empty() && self.found.violation.is_none() && !self.is_full() {
            frontier = self.level(&frontier);
            self.found.depth += u64::from(!frontier.is_empty());
        }
        self.found.is_closed = frontier.is_empty() && self.found.violation.is_none();
        self.found.states = self.seen.len() as u64;
        self.found.states_to_ends = self.ending.len() as u64;
        self.found.took = began.elapsed();
        self.found
    }

    fn is_full(&self) -> bool {
        self.seen.len() as u64 >= self.bounds.states
    }

    /// Looks at all states of one depth. Gives those of the next.
    fn level(&mut self, frontier: &[(u32, W)]) -> Vec<(u32, W)> {
        let mut next = Vec::new();
        for chunk in frontier.chunks(CHUNK) {
            if self.is_full() {
                break;
            }
            for ((index, world), looked) in chunk.iter().zip(self.look_at(chunk)) {
                self.found.transitions += looked.transitions;
                if let Some((step, what)) = looked.broken {
                    self.broken(*index, Some(step), what);
                    return next;
                }
                if world.key().is_multiple_of(self.bounds.ends_of_one_in)
                    && let Err(what) = self.try_to_end(world)
                {
                    self.broken(*index, None, what);
                    return next;
                }
                for (key, step, world) in looked.next {
                    if self.seen.insert(key) {
                        next.push((self.origins.len() as u32, world));
                        self.origins.push(Origin { parent: *index, step });
                    }
                }
            }
        }
        next
    }

    /// Takes every step from each of these states, on two threads.
    fn look_at(&self, chunk: &[(u32, W)]) -> Vec<Looked<W>> {
        let seen = &self.seen;
        let per_thread = chunk.len().div_ceil(THREADS).max(1);
        let look_at_part =
            |part: &[(u32, W)]| part.iter().map(|(_, world)| look(world, seen)).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let parts = chunk.chunks(per_thread).map(|part| scope.spawn(move || look_at_part(part)));
            let parts: Vec<_> = parts.collect();
            parts.into_iter().flat_map(|part| part.join().expect("a thread looks to its end")).collect()
        })
    }

    /// Follows the fair schedule from a state, up to its end or to a state from which the end is known.
    fn try_to_end(&mut self, world: &W) -> Result<(), String> {
        self.found.ends_tried += 1;
        let mut world = world.without_faults();
        let mut passed = Vec::new();
        let mut told = Vec::new();
        for _ in 0..FAIR_STEPS_MAX {
            let key = world.key();
            if self.ending.contains(&key) {
                break;
            }
            if passed.contains(&key) {
                return Err(format!("I15: it goes round and never ends: {}", last_of(&told)));
            }
            passed.push(key);
            let Some(step) = world.fair_step() else { break };
            told.push(world.tell(step));
            world.take(step).map_err(|what| format!("{what}, after {}", last_of(&told)))?;
        }
        if passed.len() == FAIR_STEPS_MAX {
            return Err(format!("I15: it never ends once the faults are over: {}", last_of(&told)));
        }
        self.ending.extend(passed);
        Ok(())
    }

    fn broken(&mut self, index: u32, step: Option<u16>, what: String) {
        let mut steps: Vec<u16> = step.into_iter().collect();
        let mut at = index;
        while at != 0 {
            let origin = self.origins[at as usize];
            steps.push(origin.step);
            at = origin.parent;
        }
        let mut world = self.first.clone();
        let mut story = Vec::new();
        for place in steps.into_iter().rev() {
            let step = world.steps()[usize::from(place)];
            story.push(world.tell(step));
            // The last one breaks something: that is the story.
            let _ = world.take(step);
        }
        self.found.violation = Some(Violation { what, story });
    }
}

fn last_of(told: &[String]) -> String {
    told[told.len().saturating_sub(40)..].join("; ")
}

fn look<W: World>(world: &W, seen: &Keys) -> Looked<W> {
    let mut looked = Looked { next: Vec::new(), transitions: 0, broken: None };
    for (place, step) in world.steps().into_iter().enumerate() {
        let mut next = world.clone();
        looked.transitions += 1;
        if let Err(what) = next.take(step) {
            looked.broken = Some((place as u16, what));
            return looked;
        }
        let key = next.key();
        if !seen.contains(&key) {
            looked.next.push((key, place as u16, next));
        }
    }
    looked
}
