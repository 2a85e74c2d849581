//! The order of faults: drawn by the seed, one or two at a time, each proved and healed, with pauses in which work goes on.
//! Start at [`act`].

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use matins_core::time::BootTime;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{Field, Kind, Scope, make};
use crate::cluster::faults::{FaultAt, boot_time};
use crate::cluster::workload::Trouble;

/// A fault is seen within this, or it does not act.
const PROOF_MAX: Duration = Duration::from_secs(12);
/// A cluster without faults is whole within this (I15).
const WHOLE_MAX: Duration = Duration::from_secs(60);
/// No fault begins so shortly before the end.
const LAST: Duration = Duration::from_secs(6);
/// In a mixed run a disk may be lost when no more than this is left.
const LOSS: Duration = Duration::from_secs(25);

/// Which faults, and in which order.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    /// These, in turn.
    Named(Vec<Kind>),
    /// Drawn from these, one or two at a time.
    Mixed(Vec<Kind>),
}

/// Acts until then. When it comes back every fault is healed, and the cluster is whole unless a failure says otherwise.
pub(crate) fn act(field: &Field, order: &Order, seed: u64, until: Instant) -> Result<(), Trouble> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut turn = 0;
    let is_time = || Instant::now() + LAST < until && !field.is_over.load(Ordering::Acquire);
    while is_time() {
        field.sleep(Duration::from_millis(random.random_range(1_000..4_000)));
        if !is_time() {
            break;
        }
        let nodes = field.nodes.all.len();
        let target = random.random_range(0..nodes);
        let kinds = draw(order, turn, until, &mut random);
        turn += 1;
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
        let is_loss = kinds.contains(&Kind::ReplaceNode) && matches!(order, Order::Mixed(_));
        if !until_whole(field, &struck) || is_loss {
            return Ok(());
        }
    }
    Ok(())
}

/// What to do next.
fn draw(order: &Order, turn: usize, until: Instant, random: &mut StdRng) -> Vec<Kind> {
    let kinds = match order {
        Order::Named(kinds) => return kinds.get(turn % kinds.len().max(1)).copied().into_iter().collect(),
        Order::Mixed(kinds) => kinds,
    };
    if until.saturating_duration_since(Instant::now()) < LOSS && random.random_bool(0.3) {
        return vec![Kind::ReplaceNode];
    }
    let Some(first) = kinds.choose(random).copied() else { return Vec::new() };
    let others: Vec<Kind> = kinds.iter().copied().filter(|kind| kind.scope() == Scope::OneNode).collect();
    let second = others.choose(random).copied().filter(|_| random.random_bool(0.3));
    match first.scope() {
        Scope::OneNode => [first].into_iter().chain(second).collect(),
        Scope::Cluster => vec![first],
    }
}

/// One fault from its beginning to its heal.
fn strike(
    field: &Field,
    kind: Kind,
    target: usize,
    until: Instant,
    random: &mut StdRng,
) -> Result<(FaultAt, BootTime), Trouble> {
    let mut nemesis = make(kind, target, random, field)?;
    let hold = kind.hold();
    let left = until.saturating_duration_since(Instant::now()).as_millis() as u64;
    let hold = Duration::from_millis(random.random_range(hold.clone()).min(left.max(*hold.start())));
    let at = field.faults.begin(kind, nemesis.nodes());
    let began = Instant::now();
    let acted = nemesis.inject(field).and_then(|()| field.until(PROOF_MAX, || nemesis.look(field)));
    let proof = match acted {
        Ok(Some(proof)) => {
            field.sleep(hold.saturating_sub(began.elapsed()));
            // What was there at the beginning and is there at the end was there between.
            field.until(PROOF_MAX, || nemesis.look(field)).map(|last| last.map(|_| proof))
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
