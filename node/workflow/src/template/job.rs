//! What an attempt runs, rendered: the contents of a start message (PROTOCOL 4.3).

use matins_core::ir::{Action, Shell, Task};
use serde_json::Value as Json;

use super::scope::with_env;
use super::{RenderError, Scope, job_inputs, json_in, parse_json, text_in};

/// A task of one run with every template rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// What to run.
    pub work: Work,
    /// Environment in order, each name once: the last value that the file gave it.
    pub env: Vec<(String, String)>,
    /// The document for `$MATINS_INPUT`, if the task has `with`.
    pub with: Option<Json>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// A program and its arguments, without a shell.
    Argv(Vec<String>),
    /// A text for a shell.
    Shell {
        /// Which one.
        shell: Shell,
        /// Rendered.
        text: String,
    },
    /// A script, verbatim.
    Script {
        /// What runs it; empty: its `#!` line, else `sh -e`.
        interpreter: Vec<String>,
        /// As the file has it.
        text: String,
    },
}

/// Renders a task: first `env` in order (each value may use those before it), then the action and `with`.
pub fn render_job(task: &Task, scope: &Scope) -> Result<Job, RenderError> {
    let inputs = job_inputs(task);
    let names = scope.names(|name| inputs.iter().any(|input| input.as_str() == name));
    let mut known = scope.env.clone();
    let mut env: Vec<(String, String)> = Vec::with_capacity(task.env.len());
    for (name, template) in &task.env {
        let value = if template.contains("{{") {
            text_in(template, &with_env(names.clone(), &known))?
        } else {
            template.clone()
        };
        env.retain(|(known, _)| known != name);
        env.push((name.clone(), value.clone()));
        known.insert(name.clone(), value);
    }
    let context = with_env(names, &known);
    let work = match &task.action {
        Action::Argv(argv) => {
            Work::Argv(argv.iter().map(|arg| text_in(arg, &context)).collect::<Result<_, _>>()?)
        }
        Action::Shell { shell, text } => Work::Shell { shell: *shell, text: text_in(text, &context)? },
        Action::Script { interpreter, text } => {
            Work::Script { interpreter: interpreter.clone(), text: text.clone() }
        }
    };
    let with = task.with.as_ref().map(|with| json_in(&parse_json(with)?, &context)).transpose()?;
    Ok(Job { work, env, with })
}
