//! Verbs about the cluster, its executors, and attempts that nobody can end.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use matins_proto::v1::{
    AbandonAttemptRequest, AcceptTimeRequest, AddNodeRequest, ClusterStatusRequest, ClusterStatusResponse,
    DrainExecutorRequest, Executor, InitClusterRequest, ListExecutorsRequest, NodeStatus,
    UndrainExecutorRequest, node_status::Role,
};

use crate::context::{Context, Outcome, Repeat};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row, fields, plain_span, table};
use crate::refs::TaskRef;
use crate::run::parse_instant;

/// What can be done with the cluster.
#[derive(Subcommand, Debug)]
pub(crate) enum ClusterVerb {
    Init(InitArgs),
    Add(AddArgs),
    Status(StatusArgs),
    /// The cluster's time
    #[command(subcommand)]
    Time(TimeVerb),
}

/// What can be done with the cluster's time.
#[derive(Subcommand, Debug)]
pub(crate) enum TimeVerb {
    Accept(AcceptArgs),
}

/// Make the cluster, once, with the node at --endpoint as its first member
///
/// Other nodes are added to it. A node with an empty directory waits until one or the other happens.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins --endpoint 10.0.0.1:7070 cluster init
  matins --endpoint 10.0.0.1:7070 cluster add 10.0.0.2:7071
  matins --endpoint 10.0.0.1:7070 cluster add 10.0.0.3:7071")]
pub(crate) struct InitArgs {
    #[command(flatten)]
    repeat: Repeat,
}

/// Add a node that waits with an empty directory
///
/// It becomes a voter once it has caught up.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster add 10.0.0.2:7071")]
pub(crate) struct AddArgs {
    /// Where its cluster port is, as the other nodes reach it
    #[arg(value_name = "HOST:PORT")]
    address: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Show how the cluster is, as the node that answers sees it
///
/// Works without a leader, and before there is a cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster status
  matins --endpoint 10.0.0.2:7070 cluster status -o json")]
pub(crate) struct StatusArgs {}

/// Accept a reading of the clocks that is far ahead
///
/// Nodes do not follow clocks that jump by more than 31 days until a person says that they are right.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster status                             shows the reading that waits
  matins cluster time accept 2026-11-22T05:00:00Z")]
pub(crate) struct AcceptArgs {
    /// The reading, as `cluster status` shows it; refused if another one waits by now
    #[arg(value_name = "TIME", value_parser = parse_instant)]
    reading: matins_proto::Timestamp,

    #[command(flatten)]
    repeat: Repeat,
}

/// What can be done with executors.
#[derive(Subcommand, Debug)]
pub(crate) enum ExecutorVerb {
    List(ExecutorListArgs),
    Drain(DrainArgs),
    Undrain(UndrainArgs),
}

/// List executors and how busy they are
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor list")]
pub(crate) struct ExecutorListArgs {}

/// Give an executor nothing new; what it runs goes on
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor drain node-9")]
pub(crate) struct DrainArgs {
    /// Its node, by id or by name
    executor: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// Give a drained executor work again
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor undrain node-9")]
pub(crate) struct UndrainArgs {
    /// Its node, by id or by name
    executor: String,

    #[command(flatten)]
    repeat: Repeat,
}

/// What can be done with attempts.
#[derive(Subcommand, Debug)]
pub(crate) enum AttemptVerb {
    Abandon(AbandonArgs),
}

/// Give up an attempt that cannot be ended
///
/// Its slot is free at once, though its processes may still live and write: only a person can know that they do no harm.
/// Asks first, on a terminal.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins attempt abandon run-42/load")]
pub(crate) struct AbandonArgs {
    /// `run-42/load`
    #[arg(value_name = "RUN/TASK")]
    task: String,

    /// Which attempt [default: the one that is live]
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,

    #[command(flatten)]
    repeat: Repeat,
}

impl Row for NodeStatus {
    const PLURAL: &'static str = "nodes";
    const COLUMNS: &'static [Column] = &[
        Column::new("NODE"),
        Column::new("NAME"),
        Column::new("ROLE"),
        Column::new("STATE"),
        Column::new("LAG"),
        Column::new("CLOCK"),
        Column::new("ADDRESS"),
        Column::wide("CLUSTER ADDRESS"),
        Column::wide("VERSION"),
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
            Cell::text(&self.address),
            Cell::text(&self.cluster_address),
            Cell::text(&self.version),
        ]
    }
}

impl Row for Executor {
    const PLURAL: &'static str = "executors";
    const COLUMNS: &'static [Column] = &[
        Column::new("EXECUTOR"),
        Column::new("NAME"),
        Column::new("STATE"),
        Column::new("USED"),
        Column::new("SLOTS"),
        Column::new("LABELS"),
        Column::wide("SESSION"),
        Column::wide("SINCE"),
    ];

    fn name(&self) -> String {
        self.id.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        vec![
            Cell::text(&self.id),
            Cell::text(&self.name),
            Cell::State(self.state().as_str_name().into()),
            Cell::Number(self.used.into()),
            Cell::Number(self.slots.into()),
            Cell::text(labels.join(",")),
            Cell::Number(self.session),
            Cell::Time(self.session_since),
        ]
    }
}

impl ClusterVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::Init(args) => {
                let ask = InitClusterRequest { request_id: args.repeat.request_id };
                let answer = context.client()?.call(ask).await?;
                let sentence =
                    format!("cluster {} is made, its first node is {}", answer.cluster_id, answer.node);
                context.done(&answer, sentence)
            }
            Self::Add(args) => {
                let AddArgs { address, repeat } = args;
                let ask = AddNodeRequest { request_id: repeat.request_id, not_after: None, address };
                let answer = context.client()?.call(ask).await?;
                let sentence = format!("{} is a voter; there are {} now", answer.node, answer.voters);
                context.done(&answer, sentence)
            }
            Self::Status(StatusArgs {}) => status(context).await,
            Self::Time(TimeVerb::Accept(args)) => accept(args, context).await,
        }
    }
}

impl ExecutorVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        match self {
            Self::List(ExecutorListArgs {}) => {
                let answer = context.client()?.call(ListExecutorsRequest { stale: false }).await?;
                context.list(&answer.executors)?;
                Ok(Exit::Done)
            }
            Self::Drain(DrainArgs { executor, repeat }) => {
                let name = executor.clone();
                let ask = DrainExecutorRequest { request_id: repeat.request_id, not_after: None, executor };
                let answer = context.client()?.call(ask).await?;
                context.done(&answer, format!("{name} gets nothing new; it still runs {}", answer.running))
            }
            Self::Undrain(UndrainArgs { executor, repeat }) => {
                let name = executor.clone();
                let ask = UndrainExecutorRequest { request_id: repeat.request_id, not_after: None, executor };
                let answer = context.client()?.call(ask).await?;
                context.done(&answer, format!("{name} gets work again"))
            }
        }
    }
}

impl AttemptVerb {
    /// Does it.
    pub(crate) async fn perform(self, context: &Context) -> Outcome {
        let Self::Abandon(args) = self;
        let TaskRef { run, task } = TaskRef::parse_task(&args.task, context)?;
        context.confirm(&format!("give up the attempt of {run}/{task}, whatever its processes still do?"))?;
        let request_id = args.repeat.request_id;
        let sentence = format!("{run}/{task}");
        let ask = AbandonAttemptRequest { request_id, not_after: None, run, task, attempt: args.attempt };
        let answer = context.client()?.call(ask).await?;
        let sentence =
            format!("attempt {} of {sentence} is given up (fence {})", answer.attempt, answer.fence);
        context.done(&answer, sentence)
    }
}

async fn status(context: &Context) -> Outcome {
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
            ("Applied", Cell::text(format!("{} of {}", status.applied_index, status.committed_index))),
            ("Leader time", Cell::text(status.leader_time.map(|time| time.to_string()).unwrap_or_default())),
            (
                "Time waiting",
                Cell::text(status.time_waiting.map(|time| time.to_string()).unwrap_or_default()),
            ),
            ("Memory", Cell::text(memory.unwrap_or_default())),
            ("Runs", Cell::text(format!("{} live, {} in history", status.live_runs, status.retired_runs))),
            ("Leaderships", Cell::Number(status.leaderships)),
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

async fn accept(args: AcceptArgs, context: &Context) -> Outcome {
    context.confirm(&format!("set the cluster's time to {}? it never goes back", args.reading))?;
    let request_id = args.repeat.request_id;
    let ask = AcceptTimeRequest { request_id, not_after: None, reading: Some(args.reading) };
    let answer = context.client()?.call(ask).await.map_err(Fault::from)?;
    context.done(&answer, format!("the cluster's time is {} from now on", args.reading))
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
Cluster       c0ffee
Answered by   node-1 (0.1.0)
Leader        node-1
Term          4
Applied       99 of 100
Memory        5 of 1024 MiB
Runs          0 live, 0 in history
Leaderships   0

NODE     NAME   ROLE     STATE         LAG   CLOCK   ADDRESS
node-1   n1     leader   ready         0     -12ms   127.0.0.1:7070
node-2   n2     voter    unreachable   0     -12ms   127.0.0.1:7070

! node_unreachable node-2: silent for a minute
"
        );
    }
}
