//! The order of faults: drawn by the seed, one or two at a time, each proved and healed, with pauses in which work goes on.
//! Start at [`act`].

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use matins_core::time::BootTime;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};

use super::{Field, Kind, Nemesis, Scope, make, newest_snapshot};
use crate::cluster::faults::{FaultAt, boot_time};
use crate::cluster::workload::Trouble;

/// A cluster without faults is whole within this (I15).
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// No fault begins so shortly before the end.
const LAST: Duration = Duration::from_secs(6);

/// Which faults, and in which order.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// These, in turn.
    Named(Vec<Kind>),
    /// These, one or two at a time; anew in another order once each was there.
    Mixed(Vec<Kind>),
}

/// All of these, in an order that the seed draws. Runs of one seed that differ in their place begin at different points of it, so
/// that short ones together meet every kind.
pub(crate) fn mixed(mut kinds: Vec<Kind>, seed: u64, (place, places): (usize, usize)) -> Order {
    kinds.sort_unstable();
    kinds.shuffle(&mut StdRng::seed_from_u64(seed));
    let first = place * kinds.len() / places.max(1);
    kinds.rotate_left(first);
    Order::Mixed(kinds)
}

/// Acts until then. When it comes back every fault is healed, and the cluster is whole unless a failure says otherwise.
pub(crate) fn act(field: &Field, order: &Order, seed: u64, until: Instant) -> Result<(), Trouble> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut drawing = Drawing::new(order);
    let is_time = || Instant::now() + LAST < until && !field.is_over.load(Ordering::Acquire);
    while is_time() {
        field.sleep(Duration::from_millis(random.random_range(1_000..4_000)));
        if !is_time() {
            break;
        }
        let nodes = field.nodes.members().len();
        let target = random.random_range(0..nodes);
        let kinds = drawing.next(snapshots(field), &mut random);
        let mut struck = Vec::new();
        std::thread::scope(|scope| {
            let strikes: Vec<_> = kinds
                .iter()
                .enumerate()
                .map(|(place, kind)| {
                    let mut random = StdRng::seed_from_u64(random.random());
                    let target = (target + place) % nodes;
                    scope.spawn(move || strike(field, *kind, target, until, &mut random))
                })
                .collect();
            for strike in strikes {
                struck.push(strike.join().map_err(|_| Trouble("a nemesis panicked".into()))??);
            }
            Ok(())
        })?;
        if !until_whole(field, &struck) {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a snapshot can be damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshots {
    /// Every node has one.
    Everywhere,
    /// Some node has none yet.
    Missing,
}

fn snapshots(field: &Field) -> Snapshots {
    let are_there = field.nodes.members().iter().all(|node| newest_snapshot(&node.data_dir).is_ok());
    if are_there { Snapshots::Everywhere } else { Snapshots::Missing }
}

/// What is still to be done of an order.
struct Drawing<'a> {
    order: &'a Order,
    turn: usize,
    /// Drawn without putting back, so that a short run meets as many kinds as it can.
    left: Vec<Kind>,
}

impl<'a> Drawing<'a> {
    fn new(order: &'a Order) -> Self {
        let left = match order {
            Order::Named(_) => Vec::new(),
            // They are taken from its end.
            Order::Mixed(kinds) => kinds.iter().rev().copied().collect(),
        };
        Self { order, turn: 0, left }
    }

    /// What to do next.
    fn next(&mut self, snapshots: Snapshots, random: &mut StdRng) -> Vec<Kind> {
        let kinds = match self.order {
            Order::Named(kinds) => self.named(kinds),
            Order::Mixed(kinds) => self.mix(kinds, snapshots, random),
        };
        self.turn += 1;
        kinds
    }

    /// The next one; with whoever works goes what is named behind it, if that strikes one node.
    fn named(&mut self, kinds: &[Kind]) -> Vec<Kind> {
        let at = |turn: usize| kinds.get(turn % kinds.len().max(1)).copied();
        let first = at(self.turn);
        let is_work = first.is_some_and(|kind| kind.scope() == Scope::Work);
        let second = at(self.turn + 1).filter(|kind| is_work && kind.scope() == Scope::OneNode);
        self.turn += usize::from(second.is_some());
        first.into_iter().chain(second).collect()
    }

    fn mix(&mut self, kinds: &[Kind], snapshots: Snapshots, random: &mut StdRng) -> Vec<Kind> {
        let is_there = |kind: &Kind| *kind != Kind::CorruptSnapshot || snapshots == Snapshots::Everywhere;
        if !self.left.iter().any(is_there) {
            self.left = kinds.to_vec();
            self.left.shuffle(random);
        }
        let Some(place) = self.left.iter().rposition(is_there) else { return Vec::new() };
        let first = self.left.remove(place);
        let is_alone = match first.scope() {
            Scope::Cluster => true,
            Scope::OneNode => random.random_bool(0.7),
            Scope::Work => false,
        };
        if is_alone {
            return vec![first];
        }
        let second = self.left.iter().rposition(|kind| kind.scope() == Scope::OneNode);
        let second = match second.map(|place| self.left.remove(place)) {
            // Whoever works is not left alone: one comes twice then.
            None if first.scope() == Scope::Work => {
                let others = kinds.iter().filter(|kind| kind.scope() == Scope::OneNode);
                others.copied().collect::<Vec<_>>().choose(random).copied()
            }
            second => second,
        };
        [first].into_iter().chain(second).collect()
    }
}

/// One fault, which acts for a time that the seed draws, and no longer than there is if that is long enough.
fn strike(
    field: &Field,
    kind: Kind,
    target: usize,
    until: Instant,
    random: &mut StdRng,
) -> Result<(FaultAt, BootTime), Trouble> {
    let nemesis = make(kind, target, random, field)?;
    let hold = kind.hold();
    let left = until.saturating_duration_since(Instant::now()).as_millis() as u64;
    let hold = random.random_range(hold.clone()).min(left.max(*hold.start()));
    go_through(field, kind, nemesis, Duration::from_millis(hold))
}

/// One fault from its beginning to its heal. One that is not seen to act has no proof in the log of faults.
fn go_through(
    field: &Field,
    kind: Kind,
    mut nemesis: Box<dyn Nemesis>,
    hold: Duration,
) -> Result<(FaultAt, BootTime), Trouble> {
    let at = field.faults.begin(kind, nemesis.nodes());
    let began = Instant::now();
    let acted = nemesis.inject(field).and_then(|()| field.until(field.patience, || nemesis.look(field)));
    let proof = match acted {
        Ok(Some(_)) => {
            field.sleep(hold.saturating_sub(began.elapsed()));
            // What was there at the beginning and is there at the end was there between.
            field.until(field.patience, || nemesis.look(field))
        }
        other @ (Ok(None) | Err(_)) => other,
    };
    let healed = boot_time();
    nemesis.heal(field)?;
    field.faults.healed(at);
    if let Some(proof) = proof? {
        field.faults.proved(at, proof);
    }
    Ok((at, healed))
}

/// Waits until the cluster is whole again and takes commands. `false`: it never was, which is a failure.
fn until_whole(field: &Field, struck: &[(FaultAt, BootTime)]) -> bool {
    let Some(last) = struck.iter().map(|(_, healed)| *healed).max() else { return true };
    let deadline = Instant::now() + WHOLE_MAX;
    loop {
        let missing = match field.observer.first_after(last) {
            None => Some("no command was acknowledged".to_owned()),
            Some(_) => field.runtime.block_on(field.observer.what_is_missing()),
        };
        let Some(missing) = missing else { break };
        if field.is_over.load(Ordering::Acquire) {
            return false;
        }
        if Instant::now() > deadline {
            let faults = field.faults.all();
            let kinds: Vec<String> = struck.iter().map(|(at, _)| at.of(&faults).to_string()).collect();
            field.fail(format!("I15: not whole {WHOLE_MAX:?} after {}: {missing}", kinds.join(" and ")));
            return false;
        }
        field.sleep(Duration::from_millis(50));
    }
    for (at, _) in struck {
        field.faults.recovered(*at, Duration::from_nanos(boot_time().0.saturating_sub(last.0)));
    }
    true
}

#[cfg(test)]
mod tests;
