//! `run get`: one run as a tree, or one task with its attempts and outputs.

use clap::Args;
use matins_proto::v1::{Attempt, GetRunRequest, Run, Task};

use super::list::{origin, reason, version};
use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, Column, Look, Row, fields, run_tree, span_between, table};
use crate::refs::TaskRef;

/// Show a run and its tasks, with the reason of every wait and skip
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins run get run-42
  matins run get latest:nightly-flights
  matins run get run-42/extract.3      one task, with its attempts and outputs")]
pub(crate) struct GetArgs {
    /// `run-42`, `latest:WORKFLOW`, or one task of it: `run-42/extract.3`
    #[arg(value_name = "RUN[/TASK]")]
    run: String,

    /// The most items of a fan-out that are shown, those that failed or have not ended first
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    items: u32,
}

impl Row for Attempt {
    const PLURAL: &'static str = "attempts";
    const COLUMNS: &'static [Column] = &[
        Column::new("ATTEMPT"),
        Column::new("STATE"),
        Column::new("EXECUTOR"),
        Column::new("GRANTED"),
        Column::new("TOOK"),
        Column::new("EXIT"),
        Column::new("FENCE"),
        Column::wide("LOG"),
        Column::new("REASON"),
    ];

    fn name(&self) -> String {
        self.number.to_string()
    }

    fn cells(&self, look: &Look) -> Vec<Cell> {
        let exit = self.exit_code.map(|code| code.to_string());
        let exit = exit.or_else(|| self.signal.map(|signal| format!("signal {signal}")));
        let reason = self.reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default();
        let name = if self.executor_name.is_empty() { &self.executor } else { &self.executor_name };
        vec![
            Cell::Number(self.number.into()),
            Cell::State(self.state().as_str_name().into()),
            Cell::text(name),
            Cell::Time(self.granted_at),
            // When its process started is told with its end; until then its lease says since when it is under way.
            Cell::text(span_between(self.started_at.or(self.granted_at), self.finished_at, look)),
            Cell::text(exit.unwrap_or_default()),
            Cell::Number(self.fence),
            Cell::text(self.log().as_str_name()),
            Cell::text(reason),
        ]
    }
}

/// `matins run get`.
pub(super) async fn get(args: GetArgs, context: &Context) -> Outcome {
    let TaskRef { run, task } = TaskRef::parse(&args.run, context)?;
    let ask = GetRunRequest { stale: false, run, task: task.clone(), items_max: args.items };
    let answer = context.client()?.call(ask).await?;
    let run = answer.run.ok_or_else(|| Fault::not_found(format!("there is no run `{}`", args.run)))?;
    if task.is_empty() {
        context.one(&run, &run.id, |look| run_text(&run, look))?;
        return Ok(Exit::Done);
    }
    let found = run.tasks.iter().flat_map(|it| std::iter::once(it).chain(&it.items));
    let found = found.into_iter().find(|it| it.address == task);
    let found = found.ok_or_else(|| {
        Fault::not_found(format!("{} has no task `{task}`", run.id))
            .hint(format!("`matins run get {}` shows its tasks", run.id))
    })?;
    context.one(found, &format!("{}/{}", run.id, found.address), |look| task_text(&run, found, look))?;
    Ok(Exit::Done)
}

/// A run for people: what it is, then its tree.
pub(super) fn run_text(run: &Run, look: &Look) -> String {
    let params = run.params.as_ref().map(|params| params.text.clone()).unwrap_or_default();
    let interval = run.interval_start.zip(run.interval_end);
    let interval = interval.map(|(start, end)| format!("{start} to {end}")).unwrap_or_default();
    let logical_time = run.logical_time.map(|time| time.to_string()).unwrap_or_default();
    let head = fields(
        &[
            ("Run", Cell::text(&run.id)),
            ("Workflow", Cell::text(format!("{}, version {}", run.workflow, version(run)))),
            ("State", Cell::State(run.state().as_str_name().into())),
            ("Reason", Cell::text(reason(run))),
            ("Logical time", Cell::text(logical_time)),
            ("Interval", Cell::text(interval)),
            ("Made by", Cell::text(origin(run))),
            ("Retries", Cell::text(run.retries.join(" "))),
            ("Params", Cell::text(if params == "{}" { String::new() } else { params })),
            ("Created", Cell::Time(run.created_at)),
            ("Started", Cell::Time(run.started_at)),
            ("Finished", Cell::Time(run.finished_at)),
            ("Took", Cell::text(span_between(run.started_at, run.finished_at, look))),
        ],
        look,
    );
    format!("{head}\n{}", run_tree(run, look))
}

/// A task for people: what it is, its attempts, its outputs, its items.
fn task_text(run: &Run, task: &Task, look: &Look) -> String {
    let reason = task.reason.as_ref().map(|reason| reason.text.clone()).unwrap_or_default();
    let outputs = task.outputs.as_ref().map(|outputs| outputs.text.clone());
    let too_large = format!("{} bytes, too large to show", task.outputs_size);
    let outputs = outputs.or_else(|| (task.outputs_size > 0).then_some(too_large)).unwrap_or_default();
    let mut text = fields(
        &[
            ("Task", Cell::text(format!("{}/{}", run.id, task.address))),
            ("State", Cell::State(task.state().as_str_name().into())),
            ("Reason", Cell::text(reason)),
            ("Needs", Cell::text(task.needs.join(" "))),
            ("Trigger rule", Cell::text(&task.trigger_rule)),
            ("Item", Cell::text(task.item.as_ref().map(|item| item.text.clone()).unwrap_or_default())),
            ("Taken from", Cell::text(task.taken_from.clone().unwrap_or_default())),
            ("Started", Cell::Time(task.started_at)),
            ("Finished", Cell::Time(task.finished_at)),
            ("Outputs", Cell::text(outputs)),
        ],
        look,
    );
    if !task.attempts.is_empty() {
        text.push('\n');
        text.push_str(&table(&task.attempts, look));
    }
    if !task.items.is_empty() {
        text.push('\n');
        text.push_str(&run_tree(&Run { tasks: task.items.clone(), ..Run::default() }, look));
    }
    text
}

#[cfg(test)]
mod tests {
    use matins_proto::Timestamp;
    use matins_proto::v1::{StateReason as Reason, attempt, run, run_origin, task};

    use super::*;

    #[test]
    fn a_run_is_told_with_all_that_is_known_of_it() {
        let run = Run {
            id: "run-42".into(),
            workflow: "warehouse/nightly".into(),
            version: Some(3),
            state: run::State::Failed.into(),
            reason: Some(Reason { code: "task".into(), text: "`load` failed".into(), until: None }),
            origin: run_origin::Kind::Schedule.into(),
            schedule: Some("nightly".into()),
            logical_time: Some(Timestamp::from_millis(1_357_102_800_000)),
            created_at: Some(Timestamp::from_millis(1_357_102_800_000)),
            started_at: Some(Timestamp::from_millis(1_357_102_800_000)),
            finished_at: Some(Timestamp::from_millis(1_357_102_865_000)),
            params: Some(matins_proto::Json { text: r#"{"day":"2013-01-01"}"#.into() }),
            tasks: vec![Task {
                address: "load".into(),
                state: task::State::Failed.into(),
                ..Task::default()
            }],
            ..Run::default()
        };
        assert_eq!(
            run_text(&run, &Look::PLAIN),
            "\
Run            run-42
Workflow       warehouse/nightly, version 3
State          failed
Reason         `load` failed
Logical time   2013-01-02T05:00:00Z
Made by        schedule nightly
Params         {\"day\":\"2013-01-01\"}
Created        2013-01-02T05:00:00Z
Started        2013-01-02T05:00:00Z
Finished       2013-01-02T05:01:05Z
Took           1m5s

└─ ✘ load   failed
"
        );
    }

    #[test]
    fn an_attempt_under_way_shows_since_when() {
        let attempt = Attempt {
            number: 1,
            state: attempt::State::Running.into(),
            granted_at: Some(Timestamp::from_millis(60_000)),
            ..Attempt::default()
        };
        let look = Look { now: Some(Timestamp::from_millis(185_000)), ..Look::PLAIN };
        let took = |attempt: &Attempt, look: &Look| attempt.cells(look)[4].clone();
        assert_eq!(took(&attempt, &look), Cell::text("2m5s"));
        // What its executor saw of it is better, once that is known.
        let started_at = Some(Timestamp::from_millis(65_000));
        let finished_at = Some(Timestamp::from_millis(70_000));
        let ended = Attempt { started_at, finished_at, ..attempt.clone() };
        assert_eq!(took(&ended, &look), Cell::text("5.0s"));
        // Where nobody looks on, nothing is told that another call would tell otherwise.
        assert_eq!(took(&attempt, &Look::PLAIN), Cell::text(""));
    }

    #[test]
    fn a_task_shows_each_attempt() {
        let attempts = vec![
            Attempt {
                number: 1,
                fence: 17,
                executor: "node-9".into(),
                state: attempt::State::Failed.into(),
                exit_code: Some(1),
                reason: Some(Reason { text: "exit code 1".into(), ..Reason::default() }),
                ..Attempt::default()
            },
            Attempt {
                number: 2,
                fence: 21,
                executor: "node-9".into(),
                executor_name: "b".into(),
                state: attempt::State::Lost.into(),
                ..Attempt::default()
            },
        ];
        let task = Task {
            address: "load".into(),
            state: task::State::Retrying.into(),
            needs: vec!["check".into()],
            trigger_rule: "all_success".into(),
            attempts,
            ..Task::default()
        };
        let run = Run { id: "run-1".into(), ..Run::default() };
        assert_eq!(
            task_text(&run, &task, &Look::PLAIN),
            "\
Task           run-1/load
State          retrying
Needs          check
Trigger rule   all_success

ATTEMPT   STATE    EXECUTOR   GRANTED   TOOK   EXIT   FENCE   REASON
      1   failed   node-9     -         -      1         17   exit code 1
      2   lost     b          -         -      -         21   -
"
        );
    }
}
