//! Small questions to the engine's syntax tree.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums are the template engine's, and grow without us"
)]

use std::ops::Range;

use minijinja::machinery::Span;
use minijinja::machinery::ast::{CallArg, Expr};

/// `a.b['c']` as `a` and `[b, c]`.
pub(super) fn path<'e>(expr: &'e Expr<'_>) -> Option<(&'e str, Vec<&'e str>)> {
    match expr {
        Expr::Var(var) => Some((var.id, Vec::new())),
        Expr::GetAttr(get) => {
            let (root, mut parts) = path(&get.expr)?;
            parts.push(get.name);
            Some((root, parts))
        }
        Expr::GetItem(get) => {
            let Expr::Const(constant) = &get.subscript_expr else { return None };
            let (root, mut parts) = path(&get.expr)?;
            parts.push(constant.value.as_str()?);
            Some((root, parts))
        }
        _ => None,
    }
}

pub(super) fn constant_text(arg: &CallArg<'_>) -> Option<(String, Span)> {
    match arg {
        CallArg::Pos(Expr::Const(constant)) => Some((constant.value.as_str()?.to_owned(), constant.span())),
        _ => None,
    }
}

pub(super) fn range(span: Span) -> Range<usize> {
    span.start_offset as usize..span.end_offset as usize
}
