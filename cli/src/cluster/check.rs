//! `cluster check` and `cluster recover`: what to do with a data directory while no node runs in it.

use std::path::PathBuf;

use clap::Args;
use matins_core::command::After;
use matins_node::offline::{Finding, Health, Plan, check as check_dir, plan, recover as recover_dir};
use serde::Serialize;

use super::backup::unusable;
use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row, fields};

/// Look at a data directory, say what is wrong with it and what to do
///
/// Nothing is changed. Refused while a node runs in it. Ends with 1 if a person has to do something.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster check /var/lib/matins")]
pub(crate) struct CheckDirArgs {
    /// The data directory of a node that is down
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Go on alone from one data directory, when the majority of a cluster is lost for good
///
/// What the lost nodes acknowledged and this one has not is lost. It becomes a new cluster of one, which no node of the old
/// one can come back to. Without --yes-lose it only says what it would do.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster recover --data-dir /var/lib/matins
  matins cluster recover --data-dir /var/lib/matins --yes-lose 00c0ffee00c0ffee")]
pub(crate) struct RecoverArgs {
    /// The data directory of the survivor that has the most
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Yes, lose what this directory has not: the id of the cluster, as the plan says it
    #[arg(long, value_name = "CLUSTER")]
    yes_lose: Option<String>,

    /// Hold schedules and backfills until `matins cluster resume`
    #[arg(long)]
    hold_schedules: bool,
}

/// One line of the table.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    part: &'static str,
    state: &'static str,
    found: String,
    to_do: String,
}

impl From<Finding> for Line {
    fn from(finding: Finding) -> Self {
        let state = match finding.health {
            Health::Good => "good",
            Health::Mends => "mends",
            Health::Bad => "bad",
        };
        Self { part: finding.part, state, found: finding.what, to_do: finding.to_do }
    }
}

impl Row for Line {
    const PLURAL: &'static str = "findings";
    const COLUMNS: &'static [Column] =
        &[Column::new("PART"), Column::new("STATE"), Column::new("FOUND"), Column::new("TO DO")];

    fn name(&self) -> String {
        self.part.to_owned()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        vec![
            Cell::text(self.part),
            Cell::State(self.state.into()),
            Cell::text(&self.found),
            Cell::text(&self.to_do),
        ]
    }
}

/// `cluster check`.
pub(crate) fn check(args: &CheckDirArgs, context: &Context) -> Outcome {
    let report = check_dir(&args.dir).map_err(unusable)?;
    let health = report.health();
    let lines: Vec<Line> = report.findings.into_iter().map(Line::from).collect();
    context.list(&lines)?;
    match health {
        Health::Good | Health::Mends => Ok(Exit::Done),
        Health::Bad => Ok(Exit::NotSuccess),
    }
}

/// What is told before a recovery.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    cluster_id: String,
    node: String,
    last_index: u64,
    last_term: u64,
    time: String,
    voters: Vec<String>,
    live_runs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered_as: Option<String>,
}

impl Told {
    fn of(plan: &Plan) -> Self {
        let voters = plan.members.iter().filter(|(_, _, is_voter)| *is_voter);
        Self {
            cluster_id: format!("{:016x}", plan.cluster),
            node: plan.node.to_string(),
            last_index: plan.index,
            last_term: plan.term,
            time: matins_proto::Timestamp::from_millis(plan.now.as_millis()).to_string(),
            voters: voters.map(|(id, name, _)| format!("{id} ({name})")).collect(),
            live_runs: plan.live_runs,
            recovered_as: None,
        }
    }

    fn cells(&self) -> Vec<(&'static str, Cell)> {
        vec![
            ("Cluster", Cell::text(&self.cluster_id)),
            ("This node", Cell::text(&self.node)),
            ("Last record", Cell::text(format!("{} of term {}", self.last_index, self.last_term))),
            ("Leader time", Cell::text(&self.time)),
            ("Voters", Cell::text(self.voters.join(", "))),
            ("Live runs", Cell::Number(self.live_runs)),
        ]
    }
}

/// `cluster recover`.
pub(crate) fn recover(args: &RecoverArgs, context: &Context) -> Outcome {
    let plan = plan(&args.data_dir).map_err(unusable)?;
    let mut told = Told::of(&plan);
    context.say(format!(
        "WARNING: this makes a NEW cluster of this one directory. Whatever the other voters acknowledged after record {} is LOST: \
         runs may be missing, and ticks that they decided are decided again. The old cluster must never run again: first make \
         sure that its other nodes are down for good. Of several survivors take the one with the highest term, then the highest \
         last record, and keep a copy of this directory.",
        told.last_index
    ));
    if args.yes_lose.as_deref() != Some(told.cluster_id.as_str()) {
        context.one(&told, &told.cluster_id, |look| fields(&told.cells(), look))?;
        let fault = match &args.yes_lose {
            Some(other) => format!("this directory is of cluster {}, not of {other}", told.cluster_id),
            None => "not confirmed, nothing was done".to_owned(),
        };
        return Err(
            Fault::own(Exit::Refused, fault).hint(format!("to do it, add `--yes-lose {}`", told.cluster_id))
        );
    }
    let schedules = if args.hold_schedules { After::Ends } else { After::GoesOn };
    let cluster = recover_dir(&args.data_dir, schedules).map_err(unusable)?;
    told.recovered_as = Some(format!("{cluster:016x}"));
    context.one(&told, &format!("{cluster:016x}"), |look| fields(&told.cells(), look))?;
    context.say(format!(
        "recovered as cluster {cluster:016x}, of {} alone\nnext: start its server, empty the directories of the others, and \
         `matins cluster add` them",
        told.node
    ));
    Ok(Exit::Done)
}
