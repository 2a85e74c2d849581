//! The graph of a workflow's tasks: `needs` as indexes, rings, and who is upstream of whom.

use std::collections::BTreeMap;

use super::read;
use crate::diagnostic::{Reporter, Span, did_you_mean};
use crate::template::names::TaskEntry;
use crate::yaml::{Node, Value};

/// One edge of the graph: what is needed, and where the file says so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) task: usize,
    pub(crate) span: Span,
}

/// The tasks of a workflow before they are read in full.
pub(crate) struct Graph {
    /// By name.
    pub(crate) tasks: BTreeMap<String, TaskEntry>,
    /// By index, in the order of the file.
    pub(crate) names: Vec<String>,
    /// By index; sorted, without repetition.
    pub(crate) needs: Vec<Vec<Need>>,
    /// By index, a bit for each task upstream; with a ring all bits are set, so that one fault is said once.
    upstream: Vec<Vec<u64>>,
}

impl Graph {
    /// Reads the `needs` of every task. `tasks` are their names, in order, with the values of the map `tasks`.
    pub(crate) fn read(reporter: &mut Reporter<'_>, tasks: &[(String, &Node)]) -> Self {
        let names: Vec<_> = tasks.iter().map(|(name, _)| name.clone()).collect();
        let entry = |(index, (name, node)): (usize, &(String, &Node))| {
            (name.clone(), TaskEntry { index, is_fan_out: key_of(node, "for_each").is_some() })
        };
        let by_name: BTreeMap<_, _> = tasks.iter().enumerate().map(entry).collect();
        let mut needs = Vec::with_capacity(tasks.len());
        for (name, node) in tasks {
            let found = key_of(node, "needs").map(|node| needs_of(reporter, name, node, &by_name));
            needs.push(found.unwrap_or_default());
        }
        let mut graph = Self { tasks: by_name, names, needs, upstream: Vec::new() };
        let order = graph.order(reporter);
        graph.upstream = graph.upstream_of(order.as_deref());
        graph
    }

    /// Whether any task needs another.
    pub(crate) fn has_needs(&self) -> bool {
        self.needs.iter().any(|needs| !needs.is_empty())
    }

    pub(crate) fn is_upstream(&self, upstream: usize, of: usize) -> bool {
        is_set(&self.upstream[of], upstream)
    }

    /// The tasks in an order in which each follows what it needs; none if there is a ring, which is reported.
    fn order(&self, reporter: &mut Reporter<'_>) -> Option<Vec<usize>> {
        let mut waits_for: Vec<_> = self.needs.iter().map(Vec::len).collect();
        let mut followers = vec![Vec::new(); self.names.len()];
        for (task, needs) in self.needs.iter().enumerate() {
            for need in needs {
                followers[need.task].push(task);
            }
        }
        let mut order: Vec<_> = (0..self.names.len()).filter(|task| waits_for[*task] == 0).collect();
        let mut next = 0;
        while let Some(task) = order.get(next).copied() {
            next += 1;
            for follower in &followers[task] {
                waits_for[*follower] -= 1;
                if waits_for[*follower] == 0 {
                    order.push(*follower);
                }
            }
        }
        if order.len() == self.names.len() {
            return Some(order);
        }
        self.report_rings(reporter, &waits_for);
        None
    }

    /// Each ring once. Every task that still waits has a need that still waits: following these must come round.
    fn report_rings(&self, reporter: &mut Reporter<'_>, waits_for: &[usize]) {
        let mut seen = vec![false; self.names.len()];
        for start in (0..self.names.len()).filter(|task| waits_for[*task] > 0) {
            let (mut path, mut at) = (Vec::new(), start);
            while !seen[at] {
                seen[at] = true;
                let stuck = self.needs[at].iter().find(|need| waits_for[need.task] > 0);
                let Some(need) = stuck else { break };
                path.push((at, *need));
                at = need.task;
            }
            let Some(begin) = path.iter().position(|(task, _)| *task == at) else { continue };
            let ring = &path[begin..];
            let mut names: Vec<_> = ring.iter().map(|(task, _)| self.names[*task].as_str()).collect();
            names.push(&self.names[at]);
            let (last, closing) = ring[ring.len() - 1];
            let message = format!("these tasks wait for each other: {}", names.join(" needs "));
            reporter.error(closing.span, "needs-ring", message).hint(format!(
                "delete one of these `needs`, such as `{}` of task `{}`",
                self.names[closing.task], self.names[last]
            ));
        }
    }

    fn upstream_of(&self, order: Option<&[usize]>) -> Vec<Vec<u64>> {
        let words = self.names.len().div_ceil(64);
        let Some(order) = order else { return vec![vec![u64::MAX; words]; self.names.len()] };
        let mut upstream = vec![vec![0; words]; self.names.len()];
        for task in order {
            let mut bits = vec![0_u64; words];
            for need in &self.needs[*task] {
                bits[need.task / 64] |= 1 << (need.task % 64);
                bits.iter_mut().zip(&upstream[need.task]).for_each(|(bits, more)| *bits |= more);
            }
            upstream[*task] = bits;
        }
        upstream
    }
}

fn is_set(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64).is_some_and(|word| word & (1 << (at % 64)) != 0)
}

fn key_of<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
        Value::Scalar(_) | Value::List(_) => None,
    }
}

fn needs_of(
    reporter: &mut Reporter<'_>,
    task: &str,
    node: &Node,
    tasks: &BTreeMap<String, TaskEntry>,
) -> Vec<Need> {
    let mut needs: Vec<Need> = Vec::new();
    if node.is_null() {
        return needs; // Reported with the other keys.
    }
    for node in read::one_or_more(node) {
        let Some(name) = read::text(reporter, node, &format!("`needs` of task `{task}`")) else { continue };
        let Some(entry) = tasks.get(&name) else {
            let others = tasks.keys().map(String::as_str).filter(|other| *other != task);
            let mut hint = if reporter.is_full() { None } else { did_you_mean(&name, others) };
            if name.contains([',', ' ']) {
                hint = Some("several tasks are a list: `needs: [a, b]`".to_owned());
            }
            let message = format!("task `{task}` needs `{name}`, which is no task of this workflow");
            reporter.error(node.span, "unknown-need", message).maybe_hint(hint);
            continue;
        };
        if name == task {
            reporter.error(node.span, "needs-ring", format!("task `{task}` needs itself"));
        } else if needs.iter().any(|need| need.task == entry.index) {
            reporter.warning(node.span, "repeated-need", format!("`{name}` stands here twice"));
        } else {
            needs.push(Need { task: entry.index, span: node.span });
        }
    }
    needs.sort_by_key(|need| need.task);
    needs
}
