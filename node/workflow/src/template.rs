//! Templates and conditions: what a text of the file means in one run.
//!
//! The one place that knows the template engine. Rendering is typed and strict (LANGUAGE 1.3), bounded in steps and
//! size, and gives the same on every leader: nothing in here reads a clock or draws a random number. Errors of the
//! engine are turned into [`RenderError`] here and never shown as the engine shows them, which may quote values.
//!
//! Start reading at [`render_text`], [`render_json`] and [`eval_condition`], then [`render_job`] for what an attempt runs;
//! `names` checks the same texts before there is a run.

mod dates;
mod filters;
mod job;
mod kinds;
mod moment;
pub(crate) mod names;
pub(crate) mod pieces;
mod sample;
mod scope;
mod tree;
mod value;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use matins_core::id::TaskName;
use matins_core::ir::{Action, Task};
use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value};
use serde_json::Value as Json;

pub use job::{Job, Work, render_job};
pub use scope::{RunScope, Scope, TaskScope, Times};

pub(crate) use pieces::{Piece, pieces};
pub(crate) use sample::{Wanted, sample};

/// Steps that one expression may take.
const FUEL: u64 = 100_000;

/// DESIGN 5: how many items a fan-out may have.
pub const FAN_OUT_MAX: usize = 10_000;

/// Why a text could not be rendered. It holds words of the file and of the language, never a value of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot evaluate `{expr}`: {message}")]
pub struct RenderError {
    /// The expression, as the file has it.
    pub expr: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// Renders a place for text: lists, records and booleans as JSON, numbers in shortest form (LANGUAGE 1.3).
pub fn render_text(template: &str, scope: &Scope) -> Result<String, RenderError> {
    if !template.contains("{{") {
        return Ok(template.to_owned());
    }
    text_in(template, &scope.context())
}

/// Renders the strings of a JSON document; one that is exactly one `{{ expr }}` keeps the type of its value.
pub fn render_json(template: &str, scope: &Scope) -> Result<Json, RenderError> {
    json_in(&parse_json(template)?, &scope.context())
}

/// Evaluates a `when`: a bare expression, or one whole `{{ }}` around it, that gives true or false (LANGUAGE 1.5).
pub fn eval_condition(condition: &str, scope: &Scope) -> Result<bool, RenderError> {
    let expr = bare(condition)?;
    let value = eval(expr, &scope.context())?;
    if value.kind() == ValueKind::Bool {
        return Ok(value.is_true());
    }
    let message = format!("it gives {}, and a condition must give true or false", value::kind_name(&value));
    Err(RenderError::new(expr, message).with_hint("compare it, as in `x == 'full'`, or use `| bool`"))
}

/// The tasks whose state or outputs `when` and `for_each` use: the inputs of a decision (PROTOCOL 4.2).
pub fn decision_inputs(task: &Task) -> BTreeSet<TaskName> {
    let mut found = Vec::new();
    if let Some(expr) = task.when.as_deref().and_then(|when| bare(when).ok()) {
        found.extend(names::tasks_in(expr));
    }
    found.extend(task.for_each.iter().flat_map(|template| tasks_of_json(template)));
    found.iter().filter_map(|name| name.parse().ok()).collect()
}

/// The tasks whose state or outputs [`render_job`] uses.
pub fn job_inputs(task: &Task) -> BTreeSet<TaskName> {
    let mut found: Vec<String> = task.env.iter().flat_map(|(_, template)| tasks_of_text(template)).collect();
    found.extend(task.with.iter().flat_map(|template| tasks_of_json(template)));
    match &task.action {
        Action::Argv(argv) => found.extend(argv.iter().flat_map(|arg| tasks_of_text(arg))),
        Action::Shell { shell: _, text } => found.extend(tasks_of_text(text)),
        Action::Script { .. } => {}
    }
    found.iter().filter_map(|name| name.parse().ok()).collect()
}

fn tasks_of_text(template: &str) -> Vec<String> {
    let pieces = pieces(template).unwrap_or_default();
    let exprs = pieces.into_iter().filter_map(|piece| match piece {
        Piece::Expr(range) => Some(&template[range]),
        Piece::Text(_) => None,
    });
    exprs.flat_map(names::tasks_in).collect()
}

fn tasks_of_json(template: &str) -> Vec<String> {
    fn walk(json: &Json, found: &mut Vec<String>) {
        match json {
            Json::String(text) => found.extend(tasks_of_text(text)),
            Json::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Json::Object(fields) => fields.values().for_each(|value| walk(value, found)),
            Json::Null | Json::Bool(_) | Json::Number(_) => {}
        }
    }
    let mut found = Vec::new();
    if let Ok(json) = parse_json(template) {
        walk(&json, &mut found);
    }
    found
}

/// Evaluates a `for_each`: the items, in order, [`FAN_OUT_MAX`] at most.
pub fn eval_for_each(for_each: &str, scope: &Scope) -> Result<Vec<Json>, RenderError> {
    let items = match render_json(for_each, scope)? {
        Json::Array(items) => items,
        other @ (Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_)) => {
            let kind = value::kind_name(&value::from_json(&other));
            return Err(RenderError::new(for_each, format!("`for_each` takes a list, not {kind}")));
        }
    };
    if items.len() > FAN_OUT_MAX {
        let message = format!("the list has {} items, and a fan-out has {FAN_OUT_MAX} at most", items.len());
        return Err(RenderError::new(for_each, message).with_hint("`| batch(100)` makes lists of 100"));
    }
    Ok(items)
}

impl RenderError {
    pub(crate) fn new(expr: &str, message: impl Into<String>) -> Self {
        let expr = expr.trim();
        let end = expr.char_indices().nth(120).map_or(expr.len(), |(at, _)| at);
        Self { expr: expr[..end].to_owned(), message: message.into(), hint: None }
    }

    fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The expression of a condition, with or without `{{ }}` around it.
pub(crate) fn bare(condition: &str) -> Result<&str, RenderError> {
    let trimmed = condition.trim();
    if !trimmed.starts_with("{{") {
        return Ok(trimmed);
    }
    match cut(trimmed)?.as_slice() {
        [Piece::Expr(range)] => Ok(&trimmed[range.clone()]),
        _ => Err(RenderError::new(condition, "a condition is one bare expression")
            .with_hint("write `when: tasks.check.outputs.ok and params.mode == 'full'`")),
    }
}

fn parse_json(template: &str) -> Result<Json, RenderError> {
    serde_json::from_str(template).map_err(|_| RenderError::new(template, "it is not JSON"))
}

fn cut(text: &str) -> Result<Vec<Piece>, RenderError> {
    pieces(text).map_err(|fault| {
        RenderError::new(&text[fault.range.start.min(text.len())..], fault.message).with_hint(fault.hint)
    })
}

fn text_in(template: &str, context: &Value) -> Result<String, RenderError> {
    let mut rendered = String::with_capacity(template.len());
    for piece in cut(template)? {
        match piece {
            Piece::Text(range) => rendered.push_str(&template[range]),
            Piece::Expr(range) => {
                let expr = &template[range];
                let value = eval(expr, context)?;
                if value.is_none() {
                    return Err(RenderError::new(expr, "it is null, which has no text")
                        .with_hint("write `| default('', true)` behind it, or another default"));
                }
                rendered.push_str(&value::text(&value).map_err(|error| convert(expr, &error))?);
            }
        }
        if rendered.len() > value::RENDERED_BYTES_MAX {
            let message = format!("the text is larger than {} bytes", value::RENDERED_BYTES_MAX);
            return Err(RenderError::new(template, message));
        }
    }
    Ok(rendered)
}

fn json_in(template: &Json, context: &Value) -> Result<Json, RenderError> {
    Ok(match template {
        Json::String(text) => match cut(text)?.as_slice() {
            [Piece::Expr(range)] => {
                let expr = &text[range.clone()];
                value::to_json(&eval(expr, context)?).map_err(|error| convert(expr, &error))?
            }
            _ => Json::String(text_in(text, context)?),
        },
        Json::Array(items) => {
            Json::Array(items.iter().map(|item| json_in(item, context)).collect::<Result<_, _>>()?)
        }
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| Ok((name.clone(), json_in(value, context)?));
            Json::Object(fields.iter().map(field).collect::<Result<_, RenderError>>()?)
        }
        Json::Null | Json::Bool(_) | Json::Number(_) => template.clone(),
    })
}

/// The value of one expression; never undefined.
fn eval(expr: &str, context: &Value) -> Result<Value, RenderError> {
    if expr.len() > names::EXPR_BYTES_MAX {
        let message = format!("it has more than {} bytes", names::EXPR_BYTES_MAX);
        return Err(RenderError::new(expr, message));
    }
    let compiled = ENGINE.compile_expression(expr).map_err(|error| convert(expr, &error))?;
    let value = compiled.eval(context.clone()).map_err(|error| convert(expr, &error))?;
    if value.is_undefined() {
        return Err(undefined(expr));
    }
    Ok(value)
}

fn undefined(expr: &str) -> RenderError {
    RenderError::new(expr, "it uses a value that is not there")
        .with_hint("`| default(..)` gives one where it may be missing")
}

/// The engine's error in our words. Its details name types, filters and syntax.
#[expect(clippy::wildcard_enum_match_arm, reason = "the enum is the engine's, and grows without us")]
fn convert(expr: &str, error: &minijinja::Error) -> RenderError {
    match error.kind() {
        ErrorKind::UndefinedError => undefined(expr),
        ErrorKind::OutOfFuel => {
            RenderError::new(expr, format!("it takes more than {FUEL} steps, the limit of one expression"))
        }
        kind => {
            let detail = error.detail().unwrap_or_default();
            // The engine shows both numbers, which are values of the run.
            let message = if detail.starts_with("unable to calculate") {
                "this cannot be calculated: a division by zero, or a number that is too large".to_owned()
            } else if detail.is_empty() {
                kind.to_string()
            } else {
                detail.to_owned()
            };
            RenderError::new(expr, message)
        }
    }
}

/// One for all: it holds no values. Its debug information, which would name values, stays off.
static ENGINE: LazyLock<Environment<'static>> = LazyLock::new(engine);

fn engine() -> Environment<'static> {
    let mut engine = Environment::empty();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.set_fuel(Some(FUEL));
    engine.set_debug(false);
    filters::add_all(&mut engine);
    engine
}
