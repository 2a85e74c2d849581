//! `cluster status`: how the cluster is, as the node that answers sees it.

use std::fmt::Write as _;

use clap::Args;
use matins_proto::v1::{
    Checkpoint, ClusterStatusRequest, ClusterStatusResponse, NodeStatus, Origin, node_status::Role,
};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row, fields, plain_span, table};

/// Show how the cluster is, as the node that answers sees it
///
/// Works without a leader, and before there is a cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster status
  matins --endpoint 10.0.0.2:7070 cluster status -o json")]
pub(crate) struct StatusArgs {}

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
    let leader = match (&status.leader, status.ready) {
        (Some(leader), true) => leader.clone(),
        (Some(leader), false) => format!("{leader}, not ready yet"),
        (None, _) => "none".into(),
    };
    let waits = "waits for `matins cluster init` or to be added".to_owned();
    let memory = status.state_budget.map(|budget| {
        let mib = |bytes: u64| bytes / (1 << 20);
        format!("{} of {} MiB", mib(budget.used), mib(budget.limit))
    });
    let mut text = fields(
        &[
            ("Cluster", Cell::text(status.cluster_id.clone().unwrap_or(waits))),
            ("Answered by", Cell::text(format!("{} ({})", status.node, status.version))),
            ("Leader", Cell::text(leader)),
            ("Term", Cell::Number(status.term)),
            ("Feature level", Cell::Number(status.level.into())),
            ("Applied", Cell::text(format!("{} of {}", status.applied_index, status.committed_index))),
            ("Leader time", Cell::text(status.leader_time.map(|time| time.to_string()).unwrap_or_default())),
            (
                "Time waiting",
                Cell::text(status.time_waiting.map(|time| time.to_string()).unwrap_or_default()),
            ),
            ("Memory", Cell::text(memory.unwrap_or_default())),
            ("Runs", Cell::text(format!("{} live, {} in history", status.live_runs, status.retired_runs))),
            ("Leaderships", Cell::Number(status.leaderships)),
            ("Checkpoint", Cell::text(status.checkpoint.as_ref().map(checkpoint_text).unwrap_or_default())),
            ("Began from", Cell::text(status.origin.as_ref().map(origin_text).unwrap_or_default())),
        ],
        look,
    );
    if !status.nodes.is_empty() {
        text.push('\n');
        text.push_str(&table(&status.nodes, look));
    }
    if !status.alarms.is_empty() {
        text.push('\n');
        for alarm in &status.alarms {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "! {} {}: {}", alarm.code, alarm.subject, alarm.text);
        }
    }
    text
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
Cluster         c0ffee
Answered by     node-1 (0.1.0)
Leader          node-1
Term            4
Feature level   1
Applied         99 of 100
Memory          5 of 1024 MiB
Runs            0 live, 0 in history
Leaderships     0

NODE     NAME   ROLE     STATE         LAG   CLOCK   ADDRESS
node-1   n1     leader   ready         0     -12ms   127.0.0.1:7070
node-2   n2     voter    unreachable   0     -12ms   127.0.0.1:7070

! node_unreachable node-2: silent for a minute
"
        );
    }
}
