//! What a shell completes: verbs and flags from the tree of verbs, and names of runs, tasks and workflows from the cluster.
//!
//! The script that `completion` prints calls this program again, with [`VARIABLE`] set, for every word to be completed. A
//! cluster that does not answer at once completes nothing. Start at [`script`] and [`answer`].

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Command, CommandFactory as _};
use clap_complete::CompletionCandidate;
use clap_complete::engine::ArgValueCompleter;
use clap_complete::env::{Bash, CompleteEnv, EnvCompleter, Fish, Zsh};
use matins_client::{Client, Limits};
use matins_proto::v1::{GetRunRequest, ListRunsRequest, ListWorkflowsRequest};

use crate::args::Cli;

/// Names the shell that asks. Set by the scripts, and by nobody else.
const VARIABLE: &str = "MATINS_COMPLETE";
/// A person who pressed the tabulator waits no longer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Names that are offered at most.
const NAMES_MAX: u32 = 50;

/// The shells that there are scripts for.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// The script that makes a shell ask this program.
pub(crate) fn script(shell: Shell) -> std::io::Result<String> {
    let mut text = Vec::new();
    let program = "matins";
    let shell: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Zsh => &Zsh,
        Shell::Fish => &Fish,
    };
    shell.write_registration(VARIABLE, program, program, program, &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Answers a shell that asks, and ends the process; does nothing if none does.
pub(crate) fn answer() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(|| with_names(Cli::command())).var(VARIABLE).complete();
    }
}

/// Arguments that are names are completed from the cluster.
fn with_names(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_id().as_str() {
            "run" | "runs" | "task" | "like" => arg.add(ArgValueCompleter::new(runs_and_tasks)),
            "workflow" => arg.add(ArgValueCompleter::new(workflows)),
            "what" => arg.add(ArgValueCompleter::new(|current: &OsStr| {
                runs_and_tasks(current).into_iter().chain(workflows(current)).collect::<Vec<_>>()
            })),
            _ => arg,
        })
        .mut_subcommands(with_names)
}

fn runs_and_tasks(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let found = match current.split_once('/') {
        Some((run, _)) if !run.starts_with("latest:") => ask(async |client| {
            let ask = GetRunRequest { stale: true, run: run.to_owned(), ..GetRunRequest::default() };
            let run = client.call(ask).await.ok()?.run?;
            let tasks = run.tasks.iter().flat_map(|task| std::iter::once(task).chain(&task.items));
            let named =
                tasks.map(|task| (format!("{}/{}", run.id, task.address), task.state().as_str_name().into()));
            Some(named.collect())
        }),
        Some(_) | None => ask(async |client| {
            let ask = ListRunsRequest { stale: true, page_size: NAMES_MAX, ..ListRunsRequest::default() };
            let runs = client.call(ask).await.ok()?.runs;
            let named = runs
                .into_iter()
                .map(|run| (run.id.clone(), format!("{} {}", run.workflow, run.state().as_str_name())));
            Some(named.collect())
        }),
    };
    fitting(found, &current)
}

fn workflows(current: &OsStr) -> Vec<CompletionCandidate> {
    let found = ask(async |client| {
        let ask = ListWorkflowsRequest { stale: true, page_size: 1_000, ..ListWorkflowsRequest::default() };
        let workflows = client.call(ask).await.ok()?.workflows;
        // In the default namespace the name alone is enough.
        let name = |name: &str| name.strip_prefix("default/").unwrap_or(name).to_owned();
        Some(workflows.into_iter().map(|it| (name(&it.name), it.description)).collect())
    });
    fitting(found, &current.to_string_lossy())
}

/// Names with a word about each.
type Names = Vec<(String, String)>;

fn fitting(names: Names, current: &str) -> Vec<CompletionCandidate> {
    let fitting = names.into_iter().filter(|(name, _)| name.starts_with(current));
    let candidate = |(name, about): (String, String)| {
        CompletionCandidate::new(name).help((!about.is_empty()).then(|| about.into()))
    };
    fitting.map(candidate).collect()
}

/// Asks the cluster that the environment names.
fn ask(question: impl AsyncFnOnce(Client) -> Option<Names>) -> Names {
    let endpoint = std::env::var("MATINS_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:7070".into());
    let limits = Limits { total_max: PATIENCE, ..Limits::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Names::new() };
    // A client is made where it can spawn its connections.
    let names = runtime.block_on(async { question(Client::new(&endpoint, limits).ok()?).await });
    names.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shell_has_a_script_that_asks_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = script(shell).unwrap();
            assert!(text.contains(VARIABLE) && text.contains("matins"), "{shell:?}: {text}");
        }
    }

    #[test]
    fn only_names_that_begin_so_are_offered() {
        let names = vec![("run-42".into(), "a".into()), ("run-7".into(), String::new())];
        assert_eq!(fitting(names, "run-4").len(), 1);
    }
}
