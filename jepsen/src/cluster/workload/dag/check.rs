//! The checker of graphs: pure, over what the cluster says of one run and what its tasks wrote down.
//!
//! Start at [`broken`].

use std::collections::BTreeMap;

use super::super::spans::Span;
use super::model::{End, Expected, Graph, Observed, Rule, State};

/// One run as it ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) run: String,
    /// The word of its state.
    pub(crate) state: String,
    pub(crate) observed: Observed,
    /// Lives of its attempts, by address.
    pub(crate) lives: BTreeMap<String, Vec<Span>>,
}

/// States, attempts and order are exactly as the model says.
pub(crate) fn broken(graph: &Graph, seen: &Seen) -> Vec<String> {
    let expected = graph.expected(&seen.observed);
    let mut broken = Vec::new();
    let state = if graph.has_failed(&expected) { "failed" } else { "success" };
    if seen.state != state {
        broken.push(format!("it ended {}, and must be {state}", seen.state));
    }
    for (address, Expected { state, attempts }) in &expected {
        let found = seen.observed.states.get(address).map_or("not there", String::as_str);
        if found != state.word() {
            broken.push(format!("{address} ended {found}, and must be {}", state.word()));
        }
        let ends = seen.observed.ends.get(address).map_or(&[][..], Vec::as_slice);
        if ends != attempts {
            broken.push(format!("{address} had attempts {ends:?}, and must have {attempts:?}"));
        }
        broken.extend(lives(address, ends, seen.lives.get(address).map_or(&[][..], Vec::as_slice)));
    }
    for address in seen.observed.states.keys().filter(|address| !expected.contains_key(*address)) {
        broken.push(format!("{address} is there, and must not be"));
    }
    broken.extend(order(graph, &expected, seen));
    broken.into_iter().map(|what| format!("{}: {what}", seen.run)).collect()
}

/// Each attempt that ended by itself lived once, and wrote down the code that the cluster recorded.
fn lives(address: &str, ends: &[End], lives: &[Span]) -> Vec<String> {
    let mut broken = Vec::new();
    for (at, end) in ends.iter().enumerate() {
        let number = at as u32 + 1;
        let life = lives.iter().find(|life| life.attempt == number);
        match (end, life) {
            (End::Exited(code), Some(life)) if life.code == Some(*code) => {}
            (End::Exited(code), life) => {
                let wrote = life.map(|life| life.code);
                broken.push(format!(
                    "5.10: {address}, attempt {number} exited {code}, and wrote down {wrote:?}"
                ));
            }
            (End::Lost | End::Other(_), _) => {}
        }
    }
    for life in lives.iter().filter(|life| life.attempt == 0 || life.attempt as usize > ends.len()) {
        broken.push(format!("I7: {address} ran as attempt {}, which is not recorded", life.attempt));
    }
    broken
}

/// I8: nothing starts before its trigger rule is met.
fn order(graph: &Graph, expected: &BTreeMap<String, Expected>, seen: &Seen) -> Vec<String> {
    let of = |place: usize| {
        let (name, items) = (format!("t{place}"), format!("t{place}."));
        seen.lives.iter().filter(move |(address, _)| **address == name || address.starts_with(&items))
    };
    let first = |place: usize| of(place).flat_map(|(_, lives)| lives).map(|life| life.start).min();
    let last = |place: usize| of(place).flat_map(|(_, lives)| lives).map(|life| life.end).max();
    let mut broken = Vec::new();
    for (place, node) in graph.nodes.iter().enumerate() {
        let Some(start) = first(place) else { continue };
        // A need that never ran ended when those before it did, which are looked at for themselves.
        let ends = node.needs.iter().filter_map(|need| last(*need).map(|end| (*need, end)));
        let late: Vec<(usize, u64)> = ends.filter(|(_, end)| *end >= start).collect();
        let is_early = match node.rule {
            Rule::AllSuccess | Rule::AllDone | Rule::NoneFailed => !late.is_empty(),
            // One need that fits is enough. What has the state without having run has had it from its own needs.
            Rule::OneFailed | Rule::OneSuccess => !node.needs.iter().any(|need| {
                let (as_success, as_failure) = match expected[&format!("t{need}")].state {
                    State::Success => (true, false),
                    State::Failed => (graph.nodes[*need].allow_failure, !graph.nodes[*need].allow_failure),
                    State::UpstreamFailed => (false, true),
                    State::Skipped => (false, false),
                };
                let fits = if node.rule == Rule::OneSuccess { as_success } else { as_failure };
                fits && last(*need).is_none_or(|end| end < start)
            }),
        };
        if is_early && !node.needs.is_empty() {
            broken.push(format!("I8: t{place} began at {start}, before its rule was met: {late:?}"));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::super::super::excuse::tests::frozen;
    use super::super::model::{Node, When};
    use super::*;

    fn graph(rule: Rule) -> Graph {
        let node = |needs: &[usize], rule, codes: &[i32], retries| Node {
            needs: needs.to_vec(),
            rule,
            when: When::Always,
            codes: vec![codes.to_vec()],
            is_fan_out: false,
            retries,
            allow_failure: false,
        };
        let first = [node(&[], Rule::AllSuccess, &[1, 0], 1), node(&[], Rule::AllSuccess, &[0], 0)];
        Graph { nodes: first.into_iter().chain([node(&[0, 1], rule, &[0], 0)]).collect() }
    }

    fn life(attempt: u32, start: u64, code: i32) -> Span {
        let (fence, end) = (start, start + 5);
        let (workflow, run, task) = Default::default();
        Span { fence, workflow, run, task, attempt, start, end, code: Some(code) }
    }

    /// The first is tried twice, the second once, the third begins behind both.
    fn good() -> Seen {
        let ends = [
            ("t0", vec![End::Exited(1), End::Exited(0)]),
            ("t1", vec![End::Exited(0)]),
            ("t2", vec![End::Exited(0)]),
        ];
        let lives = [
            ("t0", vec![life(1, 0, 1), life(2, 10, 0)]),
            ("t1", vec![life(1, 0, 0)]),
            ("t2", vec![life(1, 20, 0)]),
        ];
        Seen {
            run: "run-1".into(),
            state: "success".into(),
            observed: Observed {
                ends: ends.map(|(name, ends)| (name.to_owned(), ends)).into(),
                finished: BTreeMap::new(),
                states: ["t0", "t1", "t2"].map(|name| (name.to_owned(), "success".to_owned())).into(),
            },
            lives: lives.map(|(name, lives)| (name.to_owned(), lives)).into(),
        }
    }

    fn change(change: impl FnOnce(&mut Seen)) -> Vec<String> {
        let mut seen = good();
        change(&mut seen);
        broken(&graph(Rule::AllSuccess), &seen)
    }

    #[test]
    fn what_the_model_says_is_right() {
        assert_eq!(change(|_| {}), Vec::<String>::new());
        // A lost attempt moves the others on and uses up no retry; it may have lived or not.
        let lost = |seen: &mut Seen| {
            seen.observed.ends.insert("t1".into(), vec![End::Lost, End::Exited(0)]);
            seen.lives.insert("t1".into(), vec![life(2, 10, 0)]);
        };
        assert_eq!(change(lost), Vec::<String>::new());
    }

    #[test]
    fn an_extra_and_a_missing_attempt_are_found() {
        let extra = |seen: &mut Seen| {
            seen.observed.ends.insert("t1".into(), vec![End::Exited(0), End::Exited(0)]);
            seen.lives.insert("t1".into(), vec![life(1, 0, 0), life(2, 6, 0)]);
        };
        assert_eq!(change(extra).len(), 1);
        let missing = |seen: &mut Seen| {
            seen.observed.ends.insert("t0".into(), vec![End::Exited(1)]);
        };
        assert!(!change(missing).is_empty());
        let unrecorded = |seen: &mut Seen| seen.lives.get_mut("t1").unwrap().push(life(2, 6, 0));
        assert_eq!(change(unrecorded).len(), 1);
    }

    #[test]
    fn a_wrong_order_is_found() {
        let early = |seen: &mut Seen| {
            seen.lives.insert("t2".into(), vec![life(1, 15, 0)]);
        };
        assert_eq!(change(early).len(), 1);
        // One success was there by then.
        let mut seen = good();
        early(&mut seen);
        assert_eq!(broken(&graph(Rule::OneSuccess), &seen), Vec::<String>::new());
        seen.lives.insert("t2".into(), vec![life(1, 5, 0)]);
        assert_eq!(broken(&graph(Rule::OneSuccess), &seen).len(), 1);
    }

    #[test]
    fn a_life_that_nobody_could_end_is_no_wrong_order() {
        let mut seen = good();
        seen.observed.ends.insert("t1".into(), vec![End::Lost, End::Exited(0)]);
        // The first attempt of `t1` lives on beside the second one, and beyond the start of `t2`.
        let left_over = Span { fence: 7, code: None, ..life(1, 50, 0) };
        let left_over = Span { end: 250, ..left_over };
        let excuses = frozen(&[7]);
        let lives = |left_over: Vec<Span>| [left_over, vec![life(2, 150, 0)]].concat();
        seen.lives.insert("t1".into(), lives(vec![left_over.clone()]));
        seen.lives.insert("t2".into(), vec![life(1, 160, 0)]);
        assert_eq!(broken(&graph(Rule::AllSuccess), &seen).len(), 1);
        seen.lives.insert("t1".into(), lives(excuses.counted(vec![left_over])));
        assert_eq!(broken(&graph(Rule::AllSuccess), &seen), Vec::<String>::new());
    }

    #[test]
    fn wrong_states_are_found() {
        assert_eq!(change(|seen| seen.state = "failed".into()).len(), 1);
        let wrong = |seen: &mut Seen| seen.observed.states.insert("t1".into(), "skipped".into());
        assert_eq!(change(|seen| drop(wrong(seen))).len(), 1);
        let extra = |seen: &mut Seen| seen.observed.states.insert("t9".into(), "success".into());
        assert_eq!(change(|seen| drop(extra(seen))).len(), 1);
    }

    #[test]
    fn a_code_that_nobody_wrote_down_is_found() {
        assert_eq!(change(|seen| drop(seen.lives.remove("t1"))).len(), 1);
        let other = |seen: &mut Seen| seen.lives.get_mut("t1").unwrap()[0].code = Some(7);
        assert_eq!(change(other).len(), 1);
    }

    #[test]
    fn an_end_that_nothing_asked_for_is_found() {
        let other =
            |seen: &mut Seen| seen.observed.ends.insert("t1".into(), vec![End::Other("timeout".into())]);
        assert_eq!(change(|seen| drop(other(seen))).len(), 1);
    }
}
