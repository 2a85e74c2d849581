//! Start messages, rendered when they are sent (PROTOCOL 4.3).
//!
//! Pure: a start is made of `State` and the blobs it names, the same on every leader but for what has moved on since.

use matins_core::id::{Digest, Fence, TaskId};
use matins_core::ir::{self, Shell};
use matins_core::state::{AttemptState, RunRow, State};
use matins_core::time::{Millis, Timestamp};
use matins_proto::v1;
use matins_workflow::calendar::{Zone, moment};
use matins_workflow::template::{Job, Scope, Work, render_job};

use super::decide::in_words;
use super::scope::{NoScope, Outputs, scope_of, zone_of_run};

/// From TERM to KILL on cancel and timeout (LANGUAGE 1.17).
const KILL_GRACE: Millis = Millis::from_secs(10);
/// Output of one attempt (DESIGN 5).
const OUTPUT_BYTES_MAX: u64 = 16 << 20;
/// Log of one attempt (DESIGN 5).
const LOG_BYTES_MAX: u64 = 256 << 20;

/// What a look at a granted attempt came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Rendered {
    /// To be sent.
    Job(Box<v1::Job>),
    /// These outputs have to be read first.
    Needs(Vec<Digest>),
    /// It cannot be rendered: the attempt ends and is not retried.
    Broken(String),
    /// It has ended, or is being stopped.
    Over,
}

/// Renders the job of a live attempt.
pub fn render_start(state: &State, fence: Fence, outputs: &dyn Outputs) -> Rendered {
    let Some((task, number)) = state.live.get(&fence).copied() else { return Rendered::Over };
    let is_running =
        state.attempts.get(&(task, number)).is_some_and(|row| row.state == AttemptState::Running);
    let spec = state.spec_of(task).filter(|_| is_running);
    let (Some(spec), Some(run), Some(definition)) =
        (spec, state.runs.get(&task.run), state.definition_of(task.run))
    else {
        return Rendered::Over;
    };
    let scope = match scope_of(state, task, outputs) {
        Ok(scope) => scope,
        Err(NoScope::Needs(digests)) => return Rendered::Needs(digests),
        Err(NoScope::Never(why)) => return Rendered::Broken(why),
        Err(NoScope::Gone) => return Rendered::Over,
    };
    match render_job(spec, &scope) {
        Ok(job) => {
            let names = Names { task, number, spec, run, zone: zone_of_run(&definition.workflow, run) };
            Rendered::Job(Box::new(message(&definition.workflow, &names, &scope, job)))
        }
        Err(error) => Rendered::Broken(in_words(&error)),
    }
}

/// What an attempt is called.
struct Names<'a> {
    task: TaskId,
    number: u32,
    spec: &'a ir::Task,
    run: &'a RunRow,
    zone: Zone,
}

fn message(workflow: &ir::Workflow, names: &Names<'_>, scope: &Scope, job: Job) -> v1::Job {
    let pair = |(name, value): (String, String)| v1::EnvironmentPair { name, value };
    let file = |file: &ir::File| v1::JobFile {
        path: file.path.clone(),
        digest: file.digest.0.to_vec(),
        size: file.bytes,
        executable: file.is_executable,
    };
    v1::Job {
        command: Some(command(job.work)),
        env: job.env.into_iter().map(pair).collect(),
        matins: names.environment(scope).into_iter().map(pair).collect(),
        with_json: job.with.map(|with| with.to_string()).unwrap_or_default(),
        files: workflow.files.iter().map(file).collect(),
        kill_grace_ms: KILL_GRACE.0,
        on_disconnect_ms: names.spec.on_disconnect.0,
        output_bytes_max: OUTPUT_BYTES_MAX,
        log_bytes_max: LOG_BYTES_MAX,
        label: names.label(),
    }
}

fn command(work: Work) -> v1::job::Command {
    match work {
        Work::Argv(arguments) => v1::job::Command::Argv(v1::Argv { arguments }),
        Work::Shell { shell, text } => {
            let shell = match shell {
                Shell::Sh => v1::ShellKind::Sh,
                Shell::Bash => v1::ShellKind::Bash,
            };
            v1::job::Command::Shell(v1::ShellText { text, shell: shell.into() })
        }
        Work::Script { interpreter, text } => v1::job::Command::Script(v1::Script { text, interpreter }),
    }
}

impl Names<'_> {
    /// `run-42/extract.3` (LANGUAGE 1.8).
    fn label(&self) -> String {
        match self.task.item {
            Some(item) => format!("{}/{}.{item}", self.task.run, self.spec.name),
            None => format!("{}/{}", self.task.run, self.spec.name),
        }
    }

    /// The `MATINS_*` values, without that prefix (LANGUAGE 1.14).
    fn environment(&self, scope: &Scope) -> Vec<(String, String)> {
        let time = |at: Timestamp| moment::datetime(at, &self.zone);
        let mut values = vec![
            ("RUN_ID", self.task.run.to_string()),
            ("TASK", self.spec.name.to_string()),
            ("ATTEMPT", self.number.to_string()),
            ("LOGICAL_TIME", time(self.run.logical_time)),
            ("INTERVAL_START", time(self.run.interval_start)),
            ("INTERVAL_END", time(self.run.logical_time)),
            ("WORKFLOW", self.run.workflow.name.to_string()),
            ("NAMESPACE", self.run.workflow.namespace.to_string()),
        ];
        if let Some((index, item)) = &scope.item {
            values.push(("ITEM_INDEX", index.to_string()));
            // Text as it is, everything else as JSON, as in a template (LANGUAGE 1.3).
            values.push(("ITEM", item.as_str().map_or_else(|| item.to_string(), str::to_owned)));
        }
        values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}
