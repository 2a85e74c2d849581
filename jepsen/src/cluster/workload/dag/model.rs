//! Random graphs, and what must come of them: written from the language's own text, without a call of the product.
//!
//! A graph fixes the exit code of every attempt in advance. What is not fixed is which attempts are lost to faults: they
//! are taken as observed and use up no retries (LANGUAGE 1.17). Start at [`Graph`] and [`Graph::expected`].

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::super::call::Call;
use super::super::task::code_of;
use super::super::{Site, Trouble};

/// When a task may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    AllSuccess,
    AllDone,
    NoneFailed,
    OneFailed,
    OneSuccess,
}

/// The condition of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    Never,
    /// The task in this place ended in this state.
    Ended(usize, State),
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Success,
    Failed,
    UpstreamFailed,
    Skipped,
}

impl State {
    /// The language's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One task. It only needs tasks in places before its own.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) needs: Vec<usize>,
    pub(crate) rule: Rule,
    pub(crate) when: When,
    /// Exit codes of the attempts, for each item; one list if it is no fan-out.
    pub(crate) codes: Vec<Vec<i32>>,
    pub(crate) is_fan_out: bool,
    pub(crate) retries: u32,
    pub(crate) allow_failure: bool,
}

/// A workflow's tasks. The one in place 3 is called `t3`.
#[derive(Clone, Debug)]
pub(crate) struct Graph {
    pub(crate) nodes: Vec<Node>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    /// With its executor: it does not use up a retry.
    Lost,
    /// As nothing in a graph asks for, and why.
    Other(String),
}

/// What no model can know in advance: which attempts were lost, and what ended first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    pub(crate) ends: BTreeMap<String, Vec<End>>,
    /// When each task ended, in leader time.
    pub(crate) finished: BTreeMap<String, i64>,
    /// The words of the states of tasks and items.
    pub(crate) states: BTreeMap<String, String>,
}

impl Observed {
    /// A task with `all_success` takes the first reason not to run that it hears of, and does not wait for another.
    /// At one and the same instant either is right.
    fn first_reason(&self, graph: &Graph, place: usize, states: &[State]) -> State {
        let first = |is: &dyn Fn(usize) -> bool| {
            let needs = graph.nodes[place].needs.iter().filter(|need| is(**need));
            needs.filter_map(|need| self.finished.get(&format!("t{need}"))).min()
        };
        let skipped = first(&|need| states[need] == State::Skipped);
        let failed = first(&|need| match states[need] {
            State::Failed => !graph.nodes[need].allow_failure,
            State::UpstreamFailed => true,
            State::Success | State::Skipped => false,
        });
        let found = self.states.get(&format!("t{place}")).map(String::as_str);
        match skipped.cmp(&failed) {
            Ordering::Less => State::Skipped,
            Ordering::Equal if found == Some(State::Skipped.word()) => State::Skipped,
            Ordering::Equal | Ordering::Greater => State::UpstreamFailed,
        }
    }
}

/// What must come of a task or an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) state: State,
    pub(crate) attempts: Vec<End>,
}

impl Graph {
    /// Draws one.
    pub(crate) fn random(random: &mut StdRng) -> Self {
        let count = random.random_range(4..9);
        let mut nodes: Vec<Node> = Vec::new();
        for place in 0..count {
            let mut needs: Vec<usize> = (0..place).filter(|_| random.random_bool(0.35)).collect();
            needs.truncate(3);
            let rule = if needs.is_empty() {
                Rule::AllSuccess
            } else {
                let rules =
                    [Rule::AllSuccess, Rule::AllDone, Rule::NoneFailed, Rule::OneFailed, Rule::OneSuccess];
                rules[random.random_range(0..rules.len())]
            };
            // With the other rules a need may still be at work when the condition is evaluated.
            let is_settled = matches!(rule, Rule::AllSuccess | Rule::AllDone | Rule::NoneFailed);
            let when = match random.random_range(0..8) {
                0 => When::Never,
                1 | 2 if is_settled && !needs.is_empty() => {
                    let state = if random.random_bool(0.6) { State::Success } else { State::Failed };
                    When::Ended(needs[random.random_range(0..needs.len())], state)
                }
                _ => When::Always,
            };
            let is_fan_out = random.random_bool(0.25);
            let items = if is_fan_out { random.random_range(0..4) } else { 1 };
            let codes = (0..items).map(|_| codes(random)).collect();
            let (retries, allow_failure) = (random.random_range(0..3), random.random_bool(0.2));
            nodes.push(Node { needs, rule, when, codes, is_fan_out, retries, allow_failure });
        }
        Self { nodes }
    }

    /// As a workflow.
    pub(crate) fn yaml(&self, site: &Site, workload: &str, name: &str) -> Result<String, Trouble> {
        let mut text = format!("workflow: {name}\ntasks:\n");
        for (place, node) in self.nodes.iter().enumerate() {
            let needs: Vec<String> = node.needs.iter().map(|need| format!("t{need}")).collect();
            let rule = match node.rule {
                Rule::AllSuccess => "all_success",
                Rule::AllDone => "all_done",
                Rule::NoneFailed => "none_failed",
                Rule::OneFailed => "one_failed",
                Rule::OneSuccess => "one_success",
            };
            let when = match node.when {
                When::Always => String::new(),
                When::Never => ", when: 'false'".to_owned(),
                When::Ended(need, state) => format!(", when: \"tasks.t{need}.state == '{}'\"", state.word()),
            };
            let texts: Vec<String> = node
                .codes
                .iter()
                .map(|codes| codes.iter().map(i32::to_string).collect::<Vec<_>>().join(","))
                .collect();
            let (codes, for_each) = if !node.is_fan_out {
                (texts[0].clone(), String::new())
            } else if texts.is_empty() {
                ("0".to_owned(), ", for_each: '{{ range(0) }}'".to_owned())
            } else {
                ("{{ item }}".to_owned(), format!(", for_each: {texts:?}"))
            };
            let run = Call { codes: Some(codes), ..Call::hold(60 + 40 * (place as u64 % 4)) }
                .run(site, workload)?;
            let _ = writeln!(
                text,
                "  t{place}: {{ needs: [{}], trigger_rule: {rule}{when}{for_each}, allow_failure: {}, \
                 retry: {{ limit: {}, delay: 100ms, jitter: 0, lost_limit: 50 }}, run: {run} }}",
                needs.join(", "),
                node.allow_failure,
                node.retries,
            );
        }
        Ok(text)
    }

    /// What must come of each task and item, by address, given which attempts were lost.
    pub(crate) fn expected(&self, seen: &Observed) -> BTreeMap<String, Expected> {
        let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
        let mut states: Vec<State> = Vec::new();
        for (place, node) in self.nodes.iter().enumerate() {
            let name = format!("t{place}");
            let none = Vec::new();
            let state = match self.fate(place, &states, seen) {
                Some(state) => {
                    expected.insert(name, Expected { state, attempts: none });
                    state
                }
                None if node.is_fan_out => {
                    let mut is_failed = false;
                    for (item, codes) in node.codes.iter().enumerate() {
                        let address = format!("{name}.{item}");
                        let seen = seen.ends.get(&address).map_or(&[][..], Vec::as_slice);
                        let outcome = attempts(codes, node.retries, seen);
                        is_failed |= outcome.state == State::Failed;
                        expected.insert(address, outcome);
                    }
                    let state = if is_failed { State::Failed } else { State::Success };
                    expected.insert(name, Expected { state, attempts: none });
                    state
                }
                None => {
                    let seen = seen.ends.get(&name).map_or(&[][..], Vec::as_slice);
                    let outcome = attempts(&node.codes[0], node.retries, seen);
                    let state = outcome.state;
                    expected.insert(name, outcome);
                    state
                }
            };
            states.push(state);
        }
        expected
    }

    /// Whether the run has failed: any task that is not `allow_failure` did (LANGUAGE 1.11).
    pub(crate) fn has_failed(&self, expected: &BTreeMap<String, Expected>) -> bool {
        let failed = |(place, node): (usize, &Node)| {
            !node.allow_failure && expected[&format!("t{place}")].state == State::Failed
        };
        self.nodes.iter().enumerate().any(failed)
    }

    /// The state of a task that does not run; `None`: it runs. First the rule, then `when`, then `for_each`.
    fn fate(&self, place: usize, states: &[State], seen: &Observed) -> Option<State> {
        let node = &self.nodes[place];
        let as_seen = |need: &usize| match states[*need] {
            // For trigger rules a failure that is allowed is a success.
            State::Failed if self.nodes[*need].allow_failure => State::Success,
            state @ (State::Success | State::Failed | State::UpstreamFailed | State::Skipped) => state,
        };
        let needs: Vec<State> = node.needs.iter().map(as_seen).collect();
        let failed = needs.iter().any(|state| matches!(state, State::Failed | State::UpstreamFailed));
        let skipped = needs.contains(&State::Skipped);
        let success = needs.contains(&State::Success);
        let by_rule = match node.rule {
            _ if needs.is_empty() => None,
            Rule::AllSuccess if failed && skipped => Some(seen.first_reason(self, place, states)),
            Rule::AllSuccess | Rule::NoneFailed if failed => Some(State::UpstreamFailed),
            Rule::AllSuccess if skipped => Some(State::Skipped),
            Rule::OneFailed if !failed => Some(State::Skipped),
            Rule::OneSuccess if !success && failed => Some(State::UpstreamFailed),
            Rule::OneSuccess if !success => Some(State::Skipped),
            Rule::AllSuccess | Rule::AllDone | Rule::NoneFailed | Rule::OneFailed | Rule::OneSuccess => None,
        };
        let is_true = match node.when {
            When::Always => true,
            When::Never => false,
            When::Ended(need, state) => states[need] == state,
        };
        by_rule.or((!is_true || node.codes.is_empty()).then_some(State::Skipped))
    }
}

/// Codes of one task: it succeeds at once, after some failures, or never.
fn codes(random: &mut StdRng) -> Vec<i32> {
    match random.random_range(0..10) {
        0..5 => vec![0],
        5 | 6 => vec![1, 0],
        7 => vec![2, 3, 0],
        _ => vec![1],
    }
}

/// The attempts there must be: until one succeeds or the retries are used up. A lost one uses up none.
fn attempts(codes: &[i32], retries: u32, seen: &[End]) -> Expected {
    let (mut attempts, mut failures) = (Vec::new(), 0);
    loop {
        if seen.get(attempts.len()) == Some(&End::Lost) {
            attempts.push(End::Lost);
            continue;
        }
        let code = code_of(codes, attempts.len() as u32 + 1);
        attempts.push(End::Exited(code));
        if code == 0 {
            return Expected { state: State::Success, attempts };
        }
        failures += 1;
        if failures > retries {
            return Expected { state: State::Failed, attempts };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(needs: &[usize], rule: Rule, code: i32) -> Node {
        Node {
            needs: needs.to_vec(),
            rule,
            when: When::Always,
            codes: vec![vec![code]],
            is_fan_out: false,
            retries: 0,
            allow_failure: false,
        }
    }

    /// The state of a task with this rule behind one task that succeeds, fails, is skipped, and never ran.
    fn behind(rule: Rule) -> Vec<State> {
        let skipped = Node { when: When::Never, ..node(&[], Rule::AllSuccess, 0) };
        let first = [node(&[], Rule::AllSuccess, 0), node(&[], Rule::AllSuccess, 1), skipped];
        let upstream_failed = node(&[1], Rule::AllSuccess, 0);
        let mut nodes: Vec<Node> = first.into_iter().chain([upstream_failed]).collect();
        nodes.extend((0..4).map(|need| node(&[need], rule, 0)));
        let expected = Graph { nodes }.expected(&Observed::default());
        (4..8).map(|place| expected[&format!("t{place}")].state).collect()
    }

    #[test]
    fn the_rules_are_those_of_airflow() {
        use State::{Skipped, Success, UpstreamFailed};
        assert_eq!(behind(Rule::AllSuccess), [Success, UpstreamFailed, Skipped, UpstreamFailed]);
        assert_eq!(behind(Rule::AllDone), [Success; 4]);
        assert_eq!(behind(Rule::NoneFailed), [Success, UpstreamFailed, Success, UpstreamFailed]);
        assert_eq!(behind(Rule::OneFailed), [Skipped, Success, Skipped, Success]);
        assert_eq!(behind(Rule::OneSuccess), [Success, UpstreamFailed, Skipped, UpstreamFailed]);
    }

    #[test]
    fn the_first_reason_not_to_run_counts() {
        let skipped = Node { when: When::Never, ..node(&[], Rule::AllSuccess, 0) };
        let nodes = vec![skipped, node(&[], Rule::AllSuccess, 1), node(&[0, 1], Rule::AllSuccess, 0)];
        let graph = Graph { nodes };
        let state = |first, second, found: &str| {
            let finished = [("t0".to_owned(), first), ("t1".to_owned(), second)].into();
            let states = [("t2".to_owned(), found.to_owned())].into();
            let observed = Observed { ends: BTreeMap::new(), finished, states };
            graph.expected(&observed)["t2"].state
        };
        assert_eq!(state(1, 2, "upstream_failed"), State::Skipped);
        assert_eq!(state(2, 1, "skipped"), State::UpstreamFailed);
        assert_eq!(state(1, 1, "skipped"), State::Skipped);
        assert_eq!(state(1, 1, "success"), State::UpstreamFailed);
    }

    #[test]
    fn lost_attempts_use_up_no_retries() {
        let exited = |codes: &[i32]| codes.iter().map(|code| End::Exited(*code)).collect::<Vec<_>>();
        assert_eq!(attempts(&[1], 2, &[]), Expected { state: State::Failed, attempts: exited(&[1, 1, 1]) });
        let lost = [End::Lost, End::Exited(1), End::Lost];
        let expected = vec![End::Lost, End::Exited(1), End::Lost, End::Exited(1)];
        assert_eq!(attempts(&[1], 1, &lost), Expected { state: State::Failed, attempts: expected });
        assert_eq!(attempts(&[1, 0], 1, &[]), Expected { state: State::Success, attempts: exited(&[1, 0]) });
    }

    #[test]
    fn a_failure_that_is_allowed_fails_no_run() {
        let allowed = Node { allow_failure: true, ..node(&[], Rule::AllSuccess, 1) };
        let graph = Graph { nodes: vec![allowed, node(&[0], Rule::AllSuccess, 0)] };
        let expected = graph.expected(&Observed::default());
        assert_eq!(expected["t0"].state, State::Failed);
        assert_eq!(expected["t1"].state, State::Success);
        assert!(!graph.has_failed(&expected));
    }

    #[test]
    fn a_fan_out_fails_with_an_item_and_is_skipped_without_any() {
        let fan = |codes: Vec<Vec<i32>>| Node { codes, is_fan_out: true, ..node(&[], Rule::AllSuccess, 0) };
        let graph = Graph { nodes: vec![fan(vec![vec![0], vec![1]]), fan(Vec::new())] };
        let expected = graph.expected(&Observed::default());
        assert_eq!(expected["t0"].state, State::Failed);
        assert_eq!(expected["t0.0"].state, State::Success);
        assert_eq!(expected["t1"].state, State::Skipped);
    }
}
