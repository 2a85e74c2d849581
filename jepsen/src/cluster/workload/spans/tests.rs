//! Planted histories: good ones that pass, bad ones that do not.

use super::super::excuse::tests::frozen;
use super::*;

pub(crate) fn line(event: Event, at: u64, fence: u64, task: &str) -> Line {
    Line {
        event,
        at,
        fence,
        workflow: "default/one".into(),
        run: "run-1".into(),
        task: task.into(),
        attempt: fence as u32,
        logical_time: String::new(),
    }
}

fn life(task: &str, fence: u64, start: u64, end: u64) -> [Line; 2] {
    [line(Event::Start, start, fence, task), line(Event::End(0), end, fence, task)]
}

fn check(lines: &[Line]) -> Vec<String> {
    exclusive(lines, &Excuses::default(), |_, task| task.to_owned())
}

#[test]
fn one_after_the_other_is_right() {
    let lines = [life("a", 1, 10, 20), life("a", 5, 21, 30), life("b", 2, 15, 25)].concat();
    assert_eq!(check(&lines), Vec::<String>::new());
}

#[test]
fn a_killed_one_lived_until_its_last_word() {
    let mut lines = vec![line(Event::Start, 10, 1, "a"), line(Event::Alive, 20, 1, "a")];
    lines.extend(life("a", 2, 21, 30));
    assert_eq!(check(&lines), Vec::<String>::new());
    lines.push(line(Event::Alive, 21, 1, "a"));
    assert_eq!(check(&lines).len(), 1, "a word from the dead is an overlap");
}

#[test]
fn an_overlap_of_a_nanosecond_is_found() {
    let lines = [life("a", 1, 10, 20), life("a", 2, 19, 30)].concat();
    assert_eq!(check(&lines), ["I6: a: fence 2 began 1 ns before fence 1 had ended"]);
    // At the same instant both are alive.
    assert_eq!(check(&[life("a", 1, 10, 20), life("a", 2, 20, 30)].concat()).len(), 1);
}

#[test]
fn a_long_life_around_two_short_ones_overlaps_both() {
    let lines = [life("a", 1, 10, 100), life("a", 2, 20, 30), life("a", 3, 40, 50)].concat();
    assert_eq!(check(&lines).len(), 2);
}

#[test]
fn a_falling_fence_is_found() {
    let lines = [life("a", 5, 10, 20), life("a", 4, 21, 30)].concat();
    assert_eq!(check(&lines), ["I5: a: fence 4 began after fence 5"]);
}

#[test]
fn one_fence_starts_one_process_of_one_task() {
    let lines = [life("a", 1, 10, 20), life("a", 1, 21, 30)].concat();
    assert!(check(&lines)[0].contains("started twice"));
    let lines = [life("a", 1, 10, 20), life("b", 1, 21, 30)].concat();
    assert!(check(&lines)[0].contains("fence 1 is of"));
}

#[test]
fn a_held_lock_is_an_overlap() {
    let mut lines = life("a", 1, 10, 20).to_vec();
    lines.extend(life("a", 2, 25, 30));
    lines.push(line(Event::Held, 26, 2, "a"));
    assert_eq!(check(&lines).len(), 1);
}

#[test]
fn only_a_life_that_nobody_could_end_may_overlap() {
    // The supervisor was frozen at 100; the next attempt begins elsewhere while the first one lives on.
    let mut lines = [life("a", 1, 50, 250), life("a", 2, 150, 400)].concat();
    lines.push(line(Event::Held, 151, 2, "a"));
    let check = |given_up: &[u64]| exclusive(&lines, &frozen(given_up), |_, task| task.to_owned());
    assert_eq!(check(&[1]), Vec::<String>::new());
    // The other way round, and without an exception, both the overlap and the held lock are told.
    assert_eq!(check(&[2]).len(), 2);
    assert_eq!(check(&[]).len(), 2);
}

#[test]
fn an_overlap_before_the_fault_is_found() {
    let lines = [life("a", 1, 50, 250), life("a", 2, 99, 400)].concat();
    assert_eq!(exclusive(&lines, &frozen(&[1]), |_, task| task.to_owned()).len(), 1);
}

#[test]
fn a_falling_fence_is_found_under_a_fault_too() {
    let lines = [life("a", 5, 50, 250), life("a", 4, 150, 400)].concat();
    assert_eq!(exclusive(&lines, &frozen(&[5]), |_, task| task.to_owned()).len(), 1);
}

fn used(holder: &str, amount: u32, start: u64, end: u64) -> Use {
    Use { limit: "pool p".into(), holder: holder.into(), amount, start, end }
}

#[test]
fn a_limit_exceeded_for_an_instant_is_found() {
    let limits = BTreeMap::from([("pool p".to_owned(), 2)]);
    let good = [used("1", 1, 0, 10), used("2", 1, 5, 10), used("3", 2, 11, 20)];
    assert_eq!(within(&good, &limits), Vec::<String>::new());
    let bad = [used("1", 1, 0, 10), used("2", 1, 5, 10), used("3", 1, 10, 20)];
    assert_eq!(within(&bad, &limits), ["I9: pool p: 3 in use at one instant, 2 allowed"]);
    let heavy = [used("1", 1, 0, 10), used("2", 2, 9, 10)];
    assert_eq!(within(&heavy, &limits).len(), 1);
}

#[test]
fn one_holder_counts_once() {
    let limits = BTreeMap::from([("pool p".to_owned(), 1)]);
    let good = [used("run-1", 1, 0, 10), used("run-1", 1, 5, 15), used("run-2", 1, 16, 20)];
    assert_eq!(within(&good, &limits), Vec::<String>::new());
    assert_eq!(within(&[used("run-1", 1, 0, 10), used("run-2", 1, 5, 6)], &limits).len(), 1);
}

#[test]
fn a_limit_that_nobody_set_is_said() {
    assert_eq!(within(&[used("1", 1, 0, 10)], &BTreeMap::new()).len(), 1);
}
