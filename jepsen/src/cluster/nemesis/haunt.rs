//! The order of faults: drawn by the seed, one or two at a time, each proved and healed, with pauses in which work goes on.
//! Start at [`act`].

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use matins_core::time::BootTime;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{Field, Kind, Nemesis, Scope, make};
use crate::cluster::faults::{FaultAt, boot_time};
use crate::cluster::workload::Trouble;

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
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cluster::clean::Folder;
    use crate::cluster::faults::Faults;
    use crate::cluster::nodes::{Nodes, Plan};
    use crate::cluster::observer::Observer;

    /// Says that it does something.
    struct Idle;

    impl Nemesis for Idle {
        fn nodes(&self) -> Vec<String> {
            vec!["n1".into()]
        }

        fn inject(&mut self, _: &Field) -> Result<(), Trouble> {
            Ok(())
        }

        fn look(&mut self, _: &Field) -> Result<Option<String>, Trouble> {
            Ok(None)
        }

        fn heal(&mut self, _: &Field) -> Result<(), Trouble> {
            Ok(())
        }
    }

    /// Nodes that are no nodes: they do nothing at all.
    fn with_field(number: u32, act: impl FnOnce(&Field)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let folder = Folder::make(number).unwrap();
        let binary = folder.path().join("idle");
        std::fs::write(&binary, "#!/bin/sh\nexec sleep 60\n").unwrap();
        std::fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let plan = Plan { binary, folder: folder.path().into(), nodes: 3, number, with_disks: false };
        let nodes = Arc::new(Nodes::prepare(&plan, &mut Vec::new()).unwrap());
        nodes.start().unwrap();
        let observer = runtime.block_on(async { Observer::start(&nodes) }).unwrap();
        let field = Field {
            nodes,
            observer: Arc::new(observer),
            faults: Faults::default(),
            runtime: runtime.handle().clone(),
            failures: std::sync::Mutex::default(),
            is_over: Arc::default(),
            patience: Duration::from_millis(200),
        };
        act(&field);
    }

    #[test]
    fn a_nemesis_that_does_nothing_is_found_out() {
        with_field(61, |field| {
            go_through(field, Kind::Pause, Box::new(Idle), Duration::ZERO).unwrap();
            assert_eq!(field.faults.all()[0].proof, None);
        });
    }

    #[test]
    fn a_process_that_is_paused_or_killed_is_seen_to_be() {
        with_field(62, |field| {
            let mut random = StdRng::seed_from_u64(1);
            for kind in [Kind::Pause, Kind::Kill] {
                let nemesis = make(kind, 1, &mut random, field).unwrap();
                go_through(field, kind, nemesis, Duration::ZERO).unwrap();
            }
            assert!(field.faults.all().iter().all(|fault| fault.proof.is_some()));
            assert!(field.nodes.all[1].pid().is_some(), "both are healed");
        });
    }

    #[test]
    fn a_pause_that_somebody_ends_is_found_out() {
        with_field(63, |field| {
            let mut random = StdRng::seed_from_u64(1);
            let nemesis = make(Kind::Pause, 0, &mut random, field).unwrap();
            let pid = field.nodes.all[0].pid().unwrap();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(300));
                    crate::cluster::processes::send(pid, rustix::process::Signal::CONT);
                });
                go_through(field, Kind::Pause, nemesis, Duration::from_secs(1)).unwrap();
            });
            assert_eq!(field.faults.all()[0].proof, None);
        });
    }

    #[test]
    fn the_same_seed_draws_the_same_faults() {
        let order = Order::Mixed(crate::cluster::machine::mixed());
        let far = Instant::now() + Duration::from_secs(3_600);
        let drawn = |seed| -> Vec<Kind> {
            let mut random = StdRng::seed_from_u64(seed);
            (0..100).flat_map(|turn| draw(&order, turn, far, &mut random)).collect()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
        let mut kinds = drawn(7);
        kinds.sort_unstable();
        kinds.dedup();
        assert!(kinds.len() > 20, "{kinds:?}");
    }
}
