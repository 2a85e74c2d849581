use super::*;

const LEFT: TicksBudget = TicksBudget { minutes: 5, outages: 0, elections: 0, changes: 5, twice: 0 };

/// A schedule whose first tick is due.
fn due() -> Ticks {
    let mut world = Ticks::founded(LEFT).expect("a world");
    for step in [TicksStep::Look, TicksStep::Enter(0), TicksStep::Minute] {
        world.take(step).expect("nothing is wrong yet");
    }
    world
}

#[test]
fn the_oracle_sees_a_mark_that_moves_without_decisions() {
    let mut world = due();
    let mut fire = world.due().expect("a tick is due");
    if let Command::Fire(fire) = &mut fire.command {
        fire.decisions.clear();
    }
    let fault = world.enter(fire, 0).expect_err("one tick was passed and none decided");
    assert!(fault.starts_with("I1"), "{fault}");
}

#[test]
fn the_oracle_sees_a_fire_that_outlives_a_pause() {
    let mut world = due();
    let before = world.changes;
    for step in [TicksStep::Ask(Change::Pause), TicksStep::Enter(0)] {
        world.take(step).expect("a pause");
    }
    // What is worked out now, told as if it had been worked out before.
    let fire = world.due().expect("a tick before the pause is due");
    let fault = world.enter(fire, before).expect_err("it is accepted, and should not have been");
    assert!(fault.starts_with("3.5"), "{fault}");
}

#[test]
fn what_is_due_is_decided_and_the_oracle_agrees() {
    let mut world = due();
    for step in [TicksStep::Look, TicksStep::Enter(0)] {
        world.take(step).expect("a tick is decided");
    }
    assert_eq!(world.state.runs.len(), 1);
    assert_eq!(world.fair_step(), None);
}
