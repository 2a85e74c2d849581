//! Checks the names in an expression before there is a run: every name, filter, test and function is looked up where
//! it stands in the syntax tree, also in branches that no evaluation with sample values would reach.
//!
//! Start reading at [`check`].

use std::collections::BTreeMap;
use std::ops::Range;

use matins_core::ir::ParamKind;
use minijinja::machinery::ast::{self, BinOpKind, CallArg, CallType, Expr};
use minijinja::machinery::{self, Span};

use super::filters::{FILTERS, FUNCTIONS, TESTS};
use super::kinds::{brings_text, is_number};
use super::tree::{constant_text, path, range};
use crate::compile::Graph;
use crate::diagnostic::{Severity, did_you_mean};

/// Parsing and walking recurse with the length of an expression.
pub(crate) const EXPR_BYTES_MAX: usize = 4_096;
/// What is joined may be as large as an output.
const JOINED_MAX: usize = 50;

/// Names that stand for a value.
const ROOTS: &[&str] = &[
    "params",
    "logical_time",
    "interval_start",
    "interval_end",
    "run",
    "tasks",
    "item",
    "item_index",
    "env",
];
const RUN_PARTS: &[&str] = &["id", "workflow", "namespace", "version", "schedule", "backfill", "started_at"];
const RUN_PARTS_LATER: &[&str] = &["state", "failures", "duration"];
const TASK_PARTS: &[&str] = &["state", "outputs", "items"];
/// Names of the language that come later.
const ROOTS_LATER: &[&str] = &["event", "parent"];
const FUNCTIONS_LATER: &[&str] = &["secret", "var"];

/// What an expression may name where it stands.
#[derive(Clone)]
pub(crate) struct Names<'a> {
    /// The place in words: "the default of a param".
    pub(crate) place: &'a str,
    /// None: no run has params yet.
    pub(crate) params: Option<&'a BTreeMap<String, ParamKind>>,
    /// None: there are no tasks yet.
    pub(crate) tasks: Option<TaskNames<'a>>,
    pub(crate) item: ItemUse,
    /// None: the place has no environment.
    pub(crate) env: Option<Vec<&'a str>>,
}

/// A task as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskEntry {
    /// In the order of the file.
    pub(crate) index: usize,
    pub(crate) is_fan_out: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct TaskNames<'a> {
    pub(crate) graph: &'a Graph,
    /// The task whose text this is.
    pub(crate) index: usize,
}

/// Whether `item` may be used, and where items come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemUse {
    /// The task is no fan-out, or there is no task.
    None,
    /// The place is evaluated once for all items.
    BeforeItems,
    /// Items are written in the file.
    FromFile,
    /// Items come from a task or a param.
    FromOutside,
}

/// Something wrong with an expression, in bytes of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) range: Range<usize>,
    pub(crate) severity: Severity,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

/// What the tree of an expression says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    pub(crate) findings: Vec<Finding>,
    /// Text may come in here that the file does not hold and nobody quoted (LANGUAGE 1.1).
    pub(crate) is_unquoted: bool,
    /// A filter written behind it is for all of it, not for its last part.
    pub(crate) takes_filter: bool,
    /// Its value depends on what only a run knows, so that sample values prove little.
    pub(crate) is_open: bool,
    /// The tasks it names.
    pub(crate) tasks: Vec<String>,
}

/// Checks every name in `expr`. A syntax error is left to the evaluation with sample values, which finds it too.
pub(crate) fn check(expr: &str, names: &Names<'_>) -> Checked {
    let mut walk = Walk { text: expr, names, checked: Checked::default(), joined: 0 };
    if expr.len() > EXPR_BYTES_MAX {
        let message = format!("an expression has {EXPR_BYTES_MAX} bytes at most, this one {}", expr.len());
        walk.error(0..expr.len(), "limit-expression", message).hint("let a task compute it");
    } else if let Ok(tree) = machinery::parse_expr(expr) {
        walk.expr(&tree);
        walk.checked.is_unquoted = brings_text(names, &tree);
        let is_one = matches!(tree, Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) | Expr::Filter(_));
        walk.checked.takes_filter = is_one;
    }
    walk.checked
}

/// The tasks that `expr` names.
pub(crate) fn tasks_in(expr: &str) -> Vec<String> {
    let names = Names { place: "", params: None, tasks: None, item: ItemUse::None, env: None };
    check(expr, &names).tasks
}

struct Walk<'t, 'n> {
    text: &'t str,
    names: &'n Names<'n>,
    checked: Checked,
    /// How many `+` and `~` there are.
    joined: usize,
}

impl Walk<'_, '_> {
    fn expr(&mut self, expr: &Expr<'_>) {
        match expr {
            Expr::Const(_) => {}
            Expr::GetAttr(get) if path(expr).is_none() => self.expr(&get.expr),
            Expr::GetItem(get) if path(expr).is_none() => {
                self.expr(&get.expr);
                self.expr(&get.subscript_expr);
            }
            Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) => self.path(expr),
            Expr::Slice(slice) => {
                self.expr(&slice.expr);
                for part in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.expr(part);
                }
            }
            Expr::UnaryOp(unary) => self.expr(&unary.expr),
            Expr::BinOp(binary) => self.binary(binary, expr.span()),
            Expr::Compare(compare) => {
                self.expr(&compare.expr);
                compare.ops.iter().for_each(|op| self.expr(&op.expr));
            }
            Expr::IfExpr(choice) => {
                self.expr(&choice.test_expr);
                self.expr(&choice.true_expr);
                choice.false_expr.iter().for_each(|other| self.expr(other));
            }
            Expr::Filter(filter) => self.filter(filter, expr.span()),
            Expr::Test(test) => self.test(test, expr.span()),
            Expr::Call(call) => self.call(call, expr.span()),
            Expr::List(list) => list.items.iter().for_each(|item| self.expr(item)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expr(item)),
            Expr::Map(map) => map.keys.iter().chain(&map.values).for_each(|part| self.expr(part)),
        }
    }

    fn args(&mut self, args: &[CallArg<'_>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr)
                | CallArg::Kwarg(_, expr)
                | CallArg::PosSplat(expr)
                | CallArg::KwargSplat(expr) => self.expr(expr),
            }
        }
    }

    /// Keeps out what would take memory without end, also on the leader that renders it: `'x' * 100000000`, and a
    /// large text joined to itself many times.
    fn binary(&mut self, binary: &ast::BinOp<'_>, span: Span) {
        if matches!(binary.op, BinOpKind::Mul) {
            for side in [&binary.left, &binary.right] {
                if !is_number(self.names, side) {
                    self.error(
                        range(side.span()),
                        "template-value",
                        "`*` takes numbers, and this may be another value",
                    )
                    .hint("write `x | int` or `x | float`; in brackets if it is not one name");
                }
            }
        }
        if matches!(binary.op, BinOpKind::Add | BinOpKind::Concat) {
            self.joined += 1;
            if self.joined == JOINED_MAX {
                let message = format!("an expression has {JOINED_MAX} `+` and `~` at most");
                self.error(range(span), "limit-expression", message).hint("use `[a, b] | join('')`");
            }
        }
        self.expr(&binary.left);
        self.expr(&binary.right);
    }

    fn filter(&mut self, filter: &ast::Filter<'_>, span: Span) {
        let inner_end = filter.expr.as_ref().map_or(span.start_offset, |inner| inner.span().end_offset);
        let at = self.find(filter.name, inner_end as usize, span);
        self.known_filter(filter.name, at);
        let first = filter.args.first().and_then(constant_text);
        match (filter.name, first) {
            ("map", Some((name, span))) => self.known_filter(&name, range(span)),
            ("select", Some((name, span))) => self.known_test(&name, range(span)),
            ("selectattr" | "rejectattr", _) => {
                if let Some((name, span)) = filter.args.get(1).and_then(constant_text) {
                    self.known_test(&name, range(span));
                }
            }
            _ => {}
        }
        filter.expr.iter().for_each(|inner| self.expr(inner));
        self.args(&filter.args);
    }

    fn known_filter(&mut self, name: &str, at: Range<usize>) {
        if !FILTERS.contains(&name) {
            let message = format!("there is no filter `{name}`");
            let hint = match name {
                "d" => Some("did you mean `default`?".to_owned()),
                "count" => Some("did you mean `length`?".to_owned()),
                "to_json" | "json" => Some("did you mean `tojson`?".to_owned()),
                "list" => Some("lists need no filter here: `map` and the like give lists".to_owned()),
                "shlex_quote" | "shell" => Some("did you mean `quote`?".to_owned()),
                name => crate::diagnostic::nearest(name, FILTERS.iter().copied())
                    .map(|near| format!("did you mean `{near}`?")),
            };
            self.error(at, "unknown-filter", message).hint = hint;
        }
    }

    fn known_test(&mut self, name: &str, at: Range<usize>) {
        if !TESTS.contains(&name) {
            let hint = did_you_mean(name, TESTS.iter().copied());
            self.error(at, "unknown-test", format!("there is no test `{name}`")).hint = hint;
        }
    }

    fn test(&mut self, test: &ast::Test<'_>, span: Span) {
        let at = self.find(test.name, test.expr.span().end_offset as usize, span);
        self.known_test(test.name, at);
        self.expr(&test.expr);
        self.args(&test.args);
    }

    fn call(&mut self, call: &ast::Call<'_>, span: Span) {
        match call.identify_call() {
            CallType::Function(name) if FUNCTIONS.contains(&name) => {}
            CallType::Function(name) if FUNCTIONS_LATER.contains(&name) => {
                let message = format!("`{name}()` is part of the language but not of this release");
                self.error(range(call.expr.span()), "later", message);
            }
            CallType::Function(name) => {
                let hint = match name {
                    "now" | "utcnow" | "today" => Some(
                        "a template gives the same whenever it is rendered: use `logical_time`".to_owned(),
                    ),
                    name if FILTERS.contains(&name) => {
                        Some(format!("`{name}` is a filter: write `x | {name}`"))
                    }
                    _ => Some("there is `range`".to_owned()),
                };
                let message = format!("there is no function `{name}`");
                self.error(range(call.expr.span()), "unknown-function", message).hint = hint;
            }
            CallType::Method(of, name) => {
                self.expr(of);
                let hint = FILTERS.contains(&name).then(|| format!("write `x | {name}`"));
                let hint = hint.or_else(|| Some("filters do such work: `x | upper`".to_owned()));
                let message = format!("values have no methods, so there is no `.{name}()`");
                self.error(range(span), "unknown-method", message).hint = hint;
            }
            CallType::Object(_) => {
                self.error(range(span), "unknown-function", "this is not a function");
            }
        }
        self.args(&call.args);
    }

    /// A name and the parts named behind it.
    fn path(&mut self, expr: &Expr<'_>) {
        let Some((root, parts)) = path(expr) else { return };
        let at = range(expr.span());
        match root {
            "params" => self.param(&parts, at),
            "tasks" => self.task(&parts, at),
            "run" => self.run(&parts, at),
            "env" => self.env(&parts, at),
            "item" | "item_index" => self.item(root, at),
            "logical_time" | "interval_start" | "interval_end" => {
                if let Some(part) = parts.first() {
                    let message = format!("`{root}` is a time and has no part `{part}`");
                    self.error(at, "unknown-name", message)
                        .hint("filters take it apart: `logical_time | strftime('%Y')`");
                }
            }
            root if ROOTS_LATER.contains(&root) => {
                let message = format!("`{root}` is part of the language but not of this release");
                self.error(at, "later", message);
            }
            root => {
                let hint = match root {
                    "ds" => Some("that is `interval_start | date` here".to_owned()),
                    "execution_date" | "data_interval_end" => Some("that is `logical_time` here".to_owned()),
                    "True" | "False" | "None" => Some("write it in lower case".to_owned()),
                    root if self.is_task(root) => Some(format!("did you mean `tasks.{root}`?")),
                    root if self.names.params.is_some_and(|params| params.contains_key(root)) => {
                        Some(format!("did you mean `params.{root}`?"))
                    }
                    root => did_you_mean(root, ROOTS.iter().copied()),
                };
                self.error(at, "unknown-name", format!("there is no `{root}`")).hint = hint;
            }
        }
    }

    fn is_task(&self, name: &str) -> bool {
        self.names.tasks.is_some_and(|tasks| tasks.graph.tasks.contains_key(name))
    }

    fn param(&mut self, parts: &[&str], at: Range<usize>) {
        let Some(params) = self.names.params else {
            let message = format!("`params` cannot be used in {}", self.names.place);
            self.error(at, "unknown-name", message).hint("times can: `{{ logical_time | date }}`");
            return;
        };
        let Some(name) = parts.first() else {
            self.checked.is_open = true;
            return;
        };
        match params.get(*name) {
            Some(ParamKind::Json | ParamKind::List) => self.checked.is_open = true,
            // Sample values stand well for all others.
            Some(_) if parts.len() == 1 => {}
            Some(_) => {
                let message = format!("`params.{name}` is a single value and has no part `{}`", parts[1]);
                self.error(at, "unknown-name", message);
            }
            None => {
                let mut hint = did_you_mean(name, params.keys().map(String::as_str));
                if params.is_empty() {
                    hint = Some(format!("declare it: `params: {{ {name}: {{ type: string }} }}`"));
                }
                self.error(at, "unknown-param", format!("the workflow has no param `{name}`")).hint = hint;
            }
        }
    }

    fn task(&mut self, parts: &[&str], at: Range<usize>) {
        self.checked.is_open = true;
        self.checked.tasks.extend(parts.first().map(|name| (*name).to_owned()));
        let Some(TaskNames { graph, index }) = self.names.tasks else {
            let message = format!("`tasks` cannot be used in {}", self.names.place);
            self.error(at, "unknown-name", message);
            return;
        };
        let Some(name) = parts.first() else {
            self.error(at, "unknown-name", "`tasks` alone is no value")
                .hint("name one: `tasks.NAME.outputs`");
            return;
        };
        let Some(TaskEntry { index: used, is_fan_out }) = graph.tasks.get(*name) else {
            let hint = did_you_mean(name, graph.tasks.keys().map(String::as_str));
            self.error(at, "unknown-task", format!("the workflow has no task `{name}`")).hint = hint;
            return;
        };
        let task = &graph.names[index];
        if *used == index {
            let message = format!("task `{name}` cannot use what it gives itself");
            self.error(at.clone(), "not-upstream", message);
        } else if !graph.is_upstream(*used, index) {
            let needs = graph.needs[index].iter().map(|need| graph.names[need.task].as_str());
            let needs: Vec<_> = needs.chain([*name]).collect();
            let message = format!("task `{task}` uses `tasks.{name}`, but `{name}` is not upstream of it");
            self.error(at.clone(), "not-upstream", message)
                .hint(format!("order is never inferred; write `needs: [{}]`", needs.join(", ")));
        }
        match parts.get(1) {
            Some(&"items") if !is_fan_out => {
                let message = format!("task `{name}` is no fan-out and has no `items`");
                self.error(at, "unknown-name", message).hint(format!("use `tasks.{name}.outputs`"));
            }
            Some(part) if !TASK_PARTS.contains(part) => {
                let hint = format!("outputs are under `outputs`: `tasks.{name}.outputs.{part}`");
                let message = format!("a task has `state`, `outputs` and `items`, but no `{part}`");
                self.error(at, "unknown-name", message).hint(hint);
            }
            Some(_) | None => {}
        }
    }

    fn run(&mut self, parts: &[&str], at: Range<usize>) {
        if self.names.tasks.is_none() {
            let message = format!("`run` cannot be used in {}", self.names.place);
            self.error(at, "unknown-name", message).hint("times can: `{{ logical_time | date }}`");
            return;
        }
        match parts.first() {
            Some(part) if RUN_PARTS_LATER.contains(part) => {
                let message = format!("`run.{part}` is part of the language but not of this release");
                self.error(at, "later", message);
            }
            Some(part) if !RUN_PARTS.contains(part) => {
                let hint = did_you_mean(part, RUN_PARTS.iter().copied());
                self.error(at, "unknown-name", format!("there is no `run.{part}`")).hint = hint;
            }
            Some(_) | None => {}
        }
    }

    fn env(&mut self, parts: &[&str], at: Range<usize>) {
        self.checked.is_open = true;
        let place = self.names.place;
        match (&self.names.env, parts.first()) {
            (None, _) => {
                self.error(at, "unknown-name", format!("`env` cannot be used in {place}"));
            }
            (Some(known), Some(name)) if !known.contains(name) => {
                let message = format!("the task's `env` has no `{name}` here");
                let hint = "`env.X` is what the file gives the task, in its order; a machine's variables are not \
                            seen by templates";
                self.error(at, "unknown-env", message).hint(hint);
            }
            (Some(_), _) => {}
        }
    }

    fn item(&mut self, root: &str, at: Range<usize>) {
        self.checked.is_open = true;
        let (message, hint) = match self.names.item {
            ItemUse::FromFile | ItemUse::FromOutside => return,
            ItemUse::BeforeItems => (
                format!("`{root}` cannot be used in {}", self.names.place),
                "it is decided once for all items; let the list of `for_each` leave out what is not wanted",
            ),
            ItemUse::None => {
                (format!("`{root}` is there only in a task with `for_each`"), "add `for_each: [a, b]`")
            }
        };
        self.error(at, "unknown-name", message).hint(hint);
    }

    fn find(&self, name: &str, from: usize, span: Span) -> Range<usize> {
        let from = from.min(self.text.len());
        match self.text.get(from..).and_then(|rest| rest.find(name)) {
            Some(found) => from + found..from + found + name.len(),
            None => range(span),
        }
    }

    fn error(&mut self, range: Range<usize>, code: &'static str, message: impl Into<String>) -> &mut Finding {
        let message = message.into();
        self.checked.findings.push(Finding { range, severity: Severity::Error, code, message, hint: None });
        self.checked.findings.last_mut().expect("it was pushed in the line above")
    }
}

impl Finding {
    fn hint(&mut self, hint: impl Into<String>) {
        self.hint = Some(hint.into());
    }
}
