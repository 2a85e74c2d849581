//! `cluster status`: how the cluster is, as the node that answers sees it.

use std::fmt::Write as _;

use clap::Args;
use matins_proto::v1::{
    Checkpoint, ClusterStatusRequest, ClusterStatusResponse, NodeStatus, Origin, node_status::Role,
};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row, fields, fold, plain_span, table};

/// Show how the cluster is, as the node that answers sees it
///
/// Works without a leader, and before there is a cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster status
  matins --endpoint 10.0.0.2:7070 cluster status -o json")]
pub(crate) struct StatusArgs {}

/// A node that is further behind, in entries, is told in words.
const LAG_TOLD: u64 = 1_000;
/// So is a clock that is further from the cluster's time.
const CLOCK_TOLD_MILLIS: i64 = 2_000;

impl Row for NodeStatus {
    const PLURAL: &'static str = "nodes";
    const COLUMNS: &'static [Column] = &[
        Column::new("NODE"),
        Column::new("NAME"),
        Column::new("ROLE"),
        Column::new("STATE"),
        Column::new("LAG"),
        Column::new("CLOCK"),
        Column::new("DISK"),
        Column::new("ADDRESS"),
        Column::wide("CLUSTER ADDRESS"),
        Column::wide("VERSION"),
        Column::wide("LEVEL UP TO"),
    ];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let role = match (self.leader, self.role()) {
            (true, _) => "leader",
            (false, Role::Voter) => "voter",
            (false, Role::Learner) => "learner",
            (false, Role::Unspecified) => "",
        };
        let clock = self.clock_offset.map(|offset| {
            let millis = offset.as_millis();
            format!("{}{}", if millis < 0 { "-" } else { "+" }, plain_span(millis.saturating_abs()))
        });
        vec![
            Cell::text(&self.id),
            Cell::text(&self.name),
            Cell::text(role),
            Cell::State(if self.reachable { "ready" } else { "unreachable" }.into()),
            Cell::text(self.lag.map(|lag| lag.to_string()).unwrap_or_default()),
            Cell::text(clock.unwrap_or_default()),
            Cell::text(
                self.disk
                    .as_ref()
                    .map(|disk| format!("{} %", disk.used_permille.div_ceil(10)))
                    .unwrap_or_default(),
            ),
            Cell::text(&self.address),
            Cell::text(&self.cluster_address),
            Cell::text(&self.version),
            Cell::text(self.level_max.map(|level| level.to_string()).unwrap_or_default()),
        ]
    }
}

/// Does it.
pub(crate) async fn status(context: &Context) -> Outcome {
    let answer = context.client()?.call(ClusterStatusRequest {}).await?;
    let name = answer.cluster_id.clone().unwrap_or_default();
    context.one(&answer, &name, |look| status_text(&answer, look))?;
    Ok(Exit::Done)
}

fn status_text(status: &ClusterStatusResponse, look: &Look) -> String {
    let mut text = in_words(status, look);
    text.push('\n');
    text.push_str(&facts(status, look));
    if !status.nodes.is_empty() {
        text.push('\n');
        text.push_str(&table(&status.nodes, look));
    }
    if !status.alarms.is_empty() {
        text.push('\n');
        for alarm in &status.alarms {
            // Writing to a string cannot fail.
            let line = format!("! {} {}: {}", alarm.code, alarm.subject, alarm.text);
            let _ = writeln!(text, "{}", fold(&line, look.columns, 2));
        }
    }
    text
}

/// What a person must know first, a sentence a line: who leads, what one more loss would mean, who is behind.
fn in_words(status: &ClusterStatusResponse, look: &Look) -> String {
    if status.cluster_id.is_none() {
        return format!("{} waits for `matins cluster init` or to be added.\n", status.node);
    }
    let mut lines = vec![leads(status, look), one_more(status)];
    let behind =
        status.nodes.iter().filter(|node| node.reachable && node.lag.is_some_and(|lag| lag > LAG_TOLD));
    for node in behind {
        let lag = node.lag.unwrap_or_default();
        lines.push(format!("{} is {lag} entries behind.", named(node)));
    }
    let apart = status.nodes.iter().filter_map(|node| {
        let millis = node.clock_offset?.as_millis();
        (node.reachable && millis.saturating_abs() > CLOCK_TOLD_MILLIS).then_some((node, millis))
    });
    for (node, millis) in apart {
        let way = if millis > 0 { "ahead of" } else { "behind" };
        let span = plain_span(millis.saturating_abs());
        lines.push(format!("The clock of {} is {span} {way} the cluster's time.", named(node)));
    }
    lines.push(match status.alarms.len() {
        0 => "Nothing needs a person.".to_owned(),
        1 => "1 thing needs a person: see below.".to_owned(),
        several => format!("{several} things need a person: see below."),
    });
    lines.iter().map(|line| fold(line, look.columns, 2) + "\n").collect()
}

/// Who leads, and for how long.
pub(crate) fn leads(status: &ClusterStatusResponse, look: &Look) -> String {
    let Some(leader) = &status.leader else {
        return format!("{} knows of no leader: nothing is decided until there is one.", status.node);
    };
    let node = status.nodes.iter().find(|node| node.id == *leader);
    let leader = node.map_or_else(|| leader.clone(), named);
    match (status.ready, status.leading_since) {
        (true, Some(since)) => match look.now {
            Some(now) => {
                let span = plain_span(now.as_millis().saturating_sub(since.as_millis()).max(0));
                format!("{leader} has led for {span}.")
            }
            None => format!("{leader} has led since {since}."),
        },
        (true, None) => format!("{leader} leads."),
        (false, _) => format!("{leader} was elected and is not ready yet."),
    }
}

/// What would happen if one more node died.
pub(crate) fn one_more(status: &ClusterStatusResponse) -> String {
    let voters: Vec<&NodeStatus> = status.nodes.iter().filter(|node| node.role() == Role::Voter).collect();
    let all = voters.len();
    let answer = voters.iter().filter(|node| node.reachable).count();
    let majority = all / 2 + 1;
    if (all, answer) == (1, 1) {
        return "The only voter answers: lost, nothing is decided; two more voters would let one be lost."
            .to_owned();
    }
    let lost = match answer.checked_sub(majority) {
        None => {
            return format!("{answer} of {all} voters answer, fewer than a majority: nothing is decided.");
        }
        Some(0) => "one more lost and nothing is decided".to_owned(),
        Some(1) => "one more may be lost".to_owned(),
        Some(spare) => format!("{spare} more may be lost"),
    };
    if answer == all {
        format!("All {all} voters answer: {lost}.")
    } else {
        format!("{answer} of {all} voters answer: {lost}.")
    }
}

/// `node-1 (a)`.
fn named(node: &NodeStatus) -> String {
    if node.name.is_empty() { node.id.clone() } else { format!("{} ({})", node.id, node.name) }
}

fn facts(status: &ClusterStatusResponse, look: &Look) -> String {
    let memory = status.state_budget.map(|budget| {
        let mib = |bytes: u64| bytes / (1 << 20);
        format!("{} of {} MiB", mib(budget.used), mib(budget.limit))
    });
    let time =
        |time: Option<matins_proto::Timestamp>| Cell::text(time.map(|it| it.to_string()).unwrap_or_default());
    fields(
        &[
            ("Cluster", Cell::text(status.cluster_id.clone().unwrap_or_default())),
            ("Answered by", Cell::text(format!("{} ({})", status.node, status.version))),
            ("Term", Cell::Number(status.term)),
            ("Feature level", Cell::Number(status.level.into())),
            ("Applied", Cell::text(format!("{} of {}", status.applied_index, status.committed_index))),
            ("Leader time", time(status.leader_time)),
            ("Time waiting", time(status.time_waiting)),
            ("Memory", Cell::text(memory.unwrap_or_default())),
            ("Runs", Cell::text(format!("{} live, {} finished", status.live_runs, status.finished_runs))),
            ("Leaderships", Cell::Number(status.leaderships)),
            ("Checkpoint", Cell::text(status.checkpoint.as_ref().map(checkpoint_text).unwrap_or_default())),
            ("Began from", Cell::text(status.origin.as_ref().map(origin_text).unwrap_or_default())),
        ],
        look,
    )
}

fn checkpoint_text(checkpoint: &Checkpoint) -> String {
    let Checkpoint { index, at, agreed, nodes, differing } = checkpoint;
    let at = at.map(|at| format!(", {at}")).unwrap_or_default();
    let agree =
        if agreed.is_empty() { "no majority yet".to_owned() } else { format!("{} agree", nodes.join(", ")) };
    let differ =
        if differing.is_empty() { String::new() } else { format!(", {} DIFFER", differing.join(", ")) };
    format!("index {index}{at}: {agree}{differ}")
}

fn origin_text(origin: &Origin) -> String {
    let held = if origin.held == 0 { String::new() } else { format!(", {} workflows held", origin.held) };
    format!("cluster {} at index {}{held}", origin.cluster_id, origin.index)
}

#[cfg(test)]
mod tests {
    use matins_proto::v1::{Alarm, Budget};

    use super::*;

    #[test]
    fn the_status_says_who_leads_and_what_to_look_at() {
        let node = |id: &str, leader: bool, reachable: bool| NodeStatus {
            id: id.into(),
            name: id.replace("node-", "n"),
            address: "127.0.0.1:7070".into(),
            role: Role::Voter.into(),
            leader,
            reachable,
            lag: Some(0),
            clock_offset: Some(matins_proto::Duration::from_millis(-12)),
            ..NodeStatus::default()
        };
        let alarm = Alarm {
            code: "node_unreachable".into(),
            subject: "node-2".into(),
            text: "silent for a minute".into(),
            since: None,
        };
        let status = ClusterStatusResponse {
            node: "node-1".into(),
            version: "0.1.0".into(),
            cluster_id: Some("c0ffee".into()),
            leader: Some("node-1".into()),
            ready: true,
            leading_since: Some(matins_proto::Timestamp::from_millis(0)),
            term: 4,
            level: 1,
            applied_index: 99,
            committed_index: 100,
            nodes: vec![node("node-1", true, true), node("node-2", false, false)],
            alarms: vec![alarm],
            state_budget: Some(Budget { used: 5 << 20, limit: 1 << 30 }),
            ..ClusterStatusResponse::default()
        };
        assert_eq!(
            status_text(&status, &Look::PLAIN),
            "\
node-1 (n1) has led since 1970-01-01T00:00:00Z.
1 of 2 voters answer, fewer than a majority: nothing is decided.
1 thing needs a person: see below.

Cluster         c0ffee
Answered by     node-1 (0.1.0)
Term            4
Feature level   1
Applied         99 of 100
Memory          5 of 1024 MiB
Runs            0 live, 0 finished
Leaderships     0

NODE     NAME   ROLE     STATE         LAG   CLOCK   DISK   ADDRESS
node-1   n1     leader   ready         0     -12ms   -      127.0.0.1:7070
node-2   n2     voter    unreachable   0     -12ms   -      127.0.0.1:7070

! node_unreachable node-2: silent for a minute
"
        );
    }

    #[test]
    fn it_says_what_one_more_lost_node_would_mean() {
        let told = |all: usize, answer: usize| {
            let nodes = (0..all).map(|at| NodeStatus {
                role: Role::Voter.into(),
                reachable: at < answer,
                ..NodeStatus::default()
            });
            one_more(&ClusterStatusResponse { nodes: nodes.collect(), ..ClusterStatusResponse::default() })
        };
        assert_eq!(told(3, 3), "All 3 voters answer: one more may be lost.");
        assert_eq!(told(3, 2), "2 of 3 voters answer: one more lost and nothing is decided.");
        assert_eq!(told(3, 1), "1 of 3 voters answer, fewer than a majority: nothing is decided.");
        assert_eq!(told(5, 5), "All 5 voters answer: 2 more may be lost.");
        assert!(told(1, 1).starts_with("The only voter answers: lost, nothing is decided"));
    }

    #[test]
    fn what_is_far_behind_and_whose_clock_is_wrong_is_told_in_words() {
        let node = NodeStatus {
            id: "node-2".into(),
            name: "b".into(),
            reachable: true,
            lag: Some(5_000),
            clock_offset: Some(matins_proto::Duration::from_millis(-90_000)),
            ..NodeStatus::default()
        };
        let status = ClusterStatusResponse {
            cluster_id: Some("c0ffee".into()),
            node: "node-1".into(),
            nodes: vec![node],
            ..ClusterStatusResponse::default()
        };
        let text = in_words(&status, &Look::PLAIN);
        assert!(text.contains("node-1 knows of no leader: nothing is decided until there is one."), "{text}");
        assert!(text.contains("node-2 (b) is 5000 entries behind."), "{text}");
        assert!(text.contains("The clock of node-2 (b) is 1m30s behind the cluster's time."), "{text}");
    }
}
