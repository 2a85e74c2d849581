//! Nemeses that act, and some that do not.

use std::sync::Arc;

use super::*;
use crate::cluster::faults::Faults;
use crate::cluster::nodes::Nodes;
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
    let (_folder, nodes) = Nodes::scripted(number, 3, "exec sleep 60");
    let nodes = Arc::new(nodes);
    nodes.start().unwrap();
    let observer = runtime.block_on(async { Observer::start(&nodes) }).unwrap();
    let field = Field {
        nodes,
        observer: Arc::new(observer),
        faults: Faults::default(),
        runtime: runtime.handle().clone(),
        failures: std::sync::Mutex::default(),
        counts: std::sync::Mutex::default(),
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
    let drawn = |seed| -> Vec<Kind> {
        let order = mixed(crate::cluster::machine::mixed(), seed, (0, 8));
        let mut random = StdRng::seed_from_u64(seed);
        let mut drawing = Drawing::new(&order);
        (0..100).flat_map(|_| drawing.next(Snapshots::Everywhere, &mut random)).collect()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    let all = crate::cluster::machine::mixed();
    let mut kinds = drawn(7);
    kinds.truncate(all.len());
    kinds.sort_unstable();
    assert_eq!(kinds, all, "none comes twice before each came once");
}

#[test]
fn an_operator_never_works_in_peace() {
    let mut met = 0;
    for seed in 0..50 {
        let order = mixed(crate::cluster::machine::mixed(), seed, (0, 8));
        let mut random = StdRng::seed_from_u64(seed);
        let mut drawing = Drawing::new(&order);
        for kinds in (0..60).map(|_| drawing.next(Snapshots::Missing, &mut random)) {
            assert!(kinds.iter().skip(1).all(|kind| kind.scope() == Scope::OneNode), "{kinds:?}");
            if kinds[0].scope() == Scope::Work {
                met += 1;
                assert_eq!(kinds.len(), 2, "{kinds:?}");
            }
        }
    }
    assert!(met > 50, "{met}");
}

#[test]
fn what_is_named_behind_work_is_done_meanwhile() {
    let order =
        Order::Named(vec![Kind::TransferLeader, Kind::Resize, Kind::Kill, Kind::KillLeader, Kind::Pause]);
    let mut random = StdRng::seed_from_u64(1);
    let mut drawing = Drawing::new(&order);
    let drawn: Vec<Vec<Kind>> = (0..5).map(|_| drawing.next(Snapshots::Missing, &mut random)).collect();
    let expected = [
        vec![Kind::TransferLeader],
        vec![Kind::Resize, Kind::Kill],
        vec![Kind::KillLeader],
        vec![Kind::Pause],
    ];
    assert_eq!(drawn[..4], expected);
    assert_eq!(drawn[4], drawn[0]);
}

#[test]
fn short_runs_of_one_seed_together_meet_every_kind() {
    let all = crate::cluster::machine::mixed();
    let first = |place| -> Vec<Kind> {
        let order = mixed(all.clone(), 1, (place, 8));
        let mut random = StdRng::seed_from_u64(1);
        let mut drawing = Drawing::new(&order);
        // What acts at the same time takes no more time.
        let turns = (0..4).map(|_| drawing.next(Snapshots::Everywhere, &mut random));
        turns.flatten().collect()
    };
    let mut met: Vec<Kind> = (0..8).flat_map(first).collect();
    met.sort_unstable();
    met.dedup();
    assert_eq!(met, all);
}
