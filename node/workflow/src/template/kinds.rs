//! What can be known of an expression's value before there is a run: whether it may bring text into a shell that the
//! file does not hold and nobody quoted (LANGUAGE 1.1), and whether it is a number.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the template engine's, and grow without us"
)]

use matins_core::ir::ParamKind;
use minijinja::machinery::ast::{BinOpKind, Expr, UnaryOpKind};

use super::names::{ItemUse, Names};
use super::tree::path;

/// What they give cannot mean anything to a shell.
const HARMLESS: &[&str] = &[
    "quote",
    "int",
    "float",
    "bool",
    "length",
    "date",
    "datetime",
    "add",
    "add_days",
    "add_months",
    "in_zone",
    "start_of",
    "strftime",
    "weekday",
    "unix",
    "sha256",
    "urlencode",
    "round",
    "abs",
];

/// Whether the value may hold text from outside the file that could mean something to a shell.
pub(super) fn brings_text(names: &Names<'_>, expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(_) | Expr::UnaryOp(_) | Expr::Compare(_) | Expr::Test(_) | Expr::Call(_) => false,
        Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) => path_brings_text(names, expr),
        Expr::Slice(slice) => brings_text(names, &slice.expr),
        Expr::BinOp(binary) => match binary.op {
            BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::In => false,
            BinOpKind::ScAnd
            | BinOpKind::ScOr
            | BinOpKind::Add
            | BinOpKind::Sub
            | BinOpKind::Mul
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow
            | BinOpKind::Concat => brings_text(names, &binary.left) || brings_text(names, &binary.right),
        },
        Expr::IfExpr(choice) => {
            brings_text(names, &choice.true_expr)
                || choice.false_expr.as_ref().is_some_and(|other| brings_text(names, other))
        }
        Expr::Filter(filter) => {
            !HARMLESS.contains(&filter.name)
                && filter.expr.as_ref().is_some_and(|inner| brings_text(names, inner))
        }
        Expr::List(list) => list.items.iter().any(|item| brings_text(names, item)),
        Expr::Tuple(tuple) => tuple.items.iter().any(|item| brings_text(names, item)),
        Expr::Map(map) => map.values.iter().any(|value| brings_text(names, value)),
    }
}

fn path_brings_text(names: &Names<'_>, expr: &Expr<'_>) -> bool {
    let Some((root, parts)) = path(expr) else {
        return match expr {
            Expr::GetAttr(get) => brings_text(names, &get.expr),
            Expr::GetItem(get) => brings_text(names, &get.expr),
            _ => false,
        };
    };
    match root {
        "item" => names.item == ItemUse::FromOutside,
        "tasks" => parts.get(1) != Some(&"state"),
        "params" => {
            let kind = parts.first().and_then(|name| names.params?.get(*name));
            // The values of an enum stand in the file; the other kinds are numbers, times and words of ours.
            matches!(kind, Some(ParamKind::String | ParamKind::Json | ParamKind::List))
        }
        _ => false,
    }
}

/// Filters that give a number or fail.
const NUMBERS: &[&str] = &["int", "float", "length", "round", "abs", "sum", "unix", "weekday"];

/// Whether the value is a number whatever the run.
pub(super) fn is_number(names: &Names<'_>, expr: &Expr<'_>) -> bool {
    match expr {
        Expr::Const(constant) => constant.value.is_number(),
        Expr::UnaryOp(unary) => matches!(unary.op, UnaryOpKind::Neg),
        Expr::BinOp(binary) => match binary.op {
            BinOpKind::Add => is_number(names, &binary.left) && is_number(names, &binary.right),
            // What they give is a number; `*` is checked where it stands.
            BinOpKind::Sub
            | BinOpKind::Mul
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow => true,
            BinOpKind::Eq
            | BinOpKind::Ne
            | BinOpKind::Lt
            | BinOpKind::Lte
            | BinOpKind::Gt
            | BinOpKind::Gte
            | BinOpKind::ScAnd
            | BinOpKind::ScOr
            | BinOpKind::Concat
            | BinOpKind::In => false,
        },
        Expr::Filter(filter) => NUMBERS.contains(&filter.name),
        Expr::IfExpr(choice) => {
            let other = choice.false_expr.as_ref();
            is_number(names, &choice.true_expr) && other.is_some_and(|other| is_number(names, other))
        }
        Expr::Var(_) | Expr::GetAttr(_) | Expr::GetItem(_) => match path(expr) {
            Some(("item_index", _)) => true,
            Some(("params", parts)) => {
                let kind = parts.first().and_then(|name| names.params?.get(*name));
                matches!(kind, Some(ParamKind::Int | ParamKind::Float))
            }
            _ => false,
        },
        _ => false,
    }
}
