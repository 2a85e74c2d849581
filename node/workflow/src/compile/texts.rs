//! Checks every template and condition of a file where it stands.

use super::read;
use crate::diagnostic::{Reporter, Severity, Span};
use crate::template::names::{self, Checked, Names};
use crate::template::{Piece, Wanted, pieces, sample};
use crate::yaml::{Node, Value, span_within};

/// What a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Text that nobody interprets.
    Text,
    /// Text for a shell: what comes from outside needs quotes (LANGUAGE 1.1).
    Shell,
    /// JSON: a whole `{{ expr }}` keeps its type.
    Json,
}

/// A template in a scalar.
pub(crate) fn template(reporter: &mut Reporter<'_>, node: &Node, names: &Names<'_>, place: For) {
    let Value::Scalar(scalar) = &node.value else { return };
    let pieces = match pieces(&scalar.text) {
        Ok(pieces) => pieces,
        Err(fault) => {
            let span = within(reporter, node, fault.range.start, fault.range.end);
            reporter.error(span, "template-syntax", fault.message).hint(fault.hint);
            return;
        }
    };
    let is_whole = place == For::Json && pieces.len() == 1;
    let wanted = if is_whole { Wanted::Json } else { Wanted::Text };
    for piece in pieces {
        let Piece::Expr(range) = piece else { continue };
        let expr = Span::new(range.start, range.end);
        let checked = expression(reporter, node, expr, (names, wanted));
        if checked.is_unquoted && checked.findings.is_empty() && place == For::Shell {
            let inside = scalar.text[range].trim();
            let inside = if checked.takes_filter { inside.to_owned() } else { format!("({inside})") };
            let span = within(reporter, node, expr.start - 2, expr.end + 2);
            reporter
                .warning(span, "unquoted", "this comes from outside the file and goes to a shell as it is")
                .hint(format!(
                    "write `{{{{ {inside} | quote }}}}`, or give `run` a list, which needs no shell"
                ));
        }
    }
}

/// All strings of a node in a place for JSON.
pub(crate) fn json(reporter: &mut Reporter<'_>, node: &Node, names: &Names<'_>) {
    match &node.value {
        Value::Scalar(_) => template(reporter, node, names, For::Json),
        Value::List(items) => items.iter().for_each(|item| json(reporter, item, names)),
        Value::Map(entries) => entries.iter().for_each(|entry| json(reporter, &entry.value, names)),
    }
}

/// A condition: a bare expression, or one whole `{{ }}`. Gives its text.
pub(crate) fn condition(reporter: &mut Reporter<'_>, node: &Node, names: &Names<'_>) -> Option<String> {
    let scalar = read::scalar(reporter, node, "`when`")?;
    match crate::template::bare(&scalar.text) {
        Ok(expr) => {
            let start = expr.as_ptr().addr() - scalar.text.as_ptr().addr();
            let range = Span::new(start, start + expr.len());
            expression(reporter, node, range, (names, Wanted::Condition));
        }
        Err(fault) => {
            reporter.error(node.span, "template-syntax", fault.message).maybe_hint(fault.hint);
        }
    }
    Some(scalar.text.clone())
}

fn expression(reporter: &mut Reporter<'_>, node: &Node, at: Span, how: (&Names<'_>, Wanted)) -> Checked {
    let (names, wanted) = how;
    let Value::Scalar(scalar) = &node.value else { return Checked::default() };
    let text = &scalar.text[at.start..at.end];
    let mut checked = names::check(text, names);
    // What the tree refuses is not evaluated: that is how `'x' * 100000000` is kept from taking its memory.
    let sampled = if checked.findings.is_empty() { sample(text, names, &checked, wanted) } else { None };
    checked.findings.extend(sampled);
    for finding in &checked.findings {
        let span = within(reporter, node, at.start + finding.range.start, at.start + finding.range.end);
        let one = match finding.severity {
            Severity::Error => reporter.error(span, finding.code, finding.message.as_str()),
            Severity::Warning | Severity::Note => {
                reporter.warning(span, finding.code, finding.message.as_str())
            }
        };
        one.maybe_hint(finding.hint.clone());
    }
    checked
}

fn within(reporter: &Reporter<'_>, node: &Node, start: usize, end: usize) -> Span {
    // It walks the whole text: not once more for each of the faults that are only counted.
    if reporter.is_full() {
        return node.span;
    }
    span_within(reporter.text, node, Span::new(start, end))
}
