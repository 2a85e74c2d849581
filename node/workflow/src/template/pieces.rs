//! Cuts a text into what stands for itself and what is an expression. `{{ }}` is the only mark there is
//! (LANGUAGE 1.4): `{%` and `{#` are plain text, so that `${#files[@]}` reaches the shell as written.

use std::ops::Range;

/// A piece of a template, in bytes of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(Range<usize>),
    /// What stands between `{{` and `}}`.
    Expr(Range<usize>),
}

/// A text that is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PieceFault {
    pub(crate) range: Range<usize>,
    pub(crate) message: &'static str,
    pub(crate) hint: &'static str,
}

/// The pieces of `text`, in order and without empty texts.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece>, PieceFault> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(open) = text[at..].find("{{").map(|found| at + found) {
        if open > at {
            pieces.push(Piece::Text(at..open));
        }
        let close = find_close(text, open)?;
        let inside = open + 2..close;
        check(&text[inside.clone()], open)?;
        pieces.push(Piece::Expr(inside));
        at = close + 2;
    }
    if at < text.len() {
        pieces.push(Piece::Text(at..text.len()));
    }
    Ok(pieces)
}

/// The `}}` that ends the expression, over strings and brackets in it.
fn find_close(text: &str, open: usize) -> Result<usize, PieceFault> {
    let bytes = text.as_bytes();
    let (mut at, mut depth) = (open + 2, 0_usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'}' if depth == 0 && bytes.get(at + 1) == Some(&b'}') => return Ok(at),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'\'' | b'"' => at = end_of_string(bytes, at),
            _ => {}
        }
        at += 1;
    }
    Err(PieceFault {
        range: open..open + 2,
        message: "this `{{` is never closed",
        hint: "a literal `{{` is written `{{ '{{' }}`",
    })
}

/// The closing quote of the string that opens at `at`; the end of the text if there is none.
fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let mut next = at + 1;
    while let Some(byte) = bytes.get(next) {
        match byte {
            b'\\' => next += 1,
            byte if *byte == quote => return next,
            _ => {}
        }
        next += 1;
    }
    bytes.len()
}

fn check(inside: &str, open: usize) -> Result<(), PieceFault> {
    let range = open..open + 2 + inside.len() + 2;
    if inside.trim().is_empty() {
        let hint = "name a value, as in `{{ params.day }}`";
        return Err(PieceFault { range, message: "there is nothing between `{{` and `}}`", hint });
    }
    // In Jinja these trim white space; here the first would turn a number negative without a word.
    if inside.starts_with(['-', '+']) || inside.ends_with(['-', '+']) {
        let hint = "write `{{ x }}`; a negative number is `{{ -x }}`, with a space";
        return Err(PieceFault { range, message: "`{{-` and `-}}` are not part of the language", hint });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let pieces = pieces(text).expect("a template");
        let show = |piece: &Piece| match piece {
            Piece::Text(range) => format!("text {}", &text[range.clone()]),
            Piece::Expr(range) => format!("expr {}", text[range.clone()].trim()),
        };
        pieces.iter().map(show).collect()
    }

    #[test]
    fn only_double_braces_count() {
        assert_eq!(cut("echo ${#files[@]} {% x %} {# y #}"), ["text echo ${#files[@]} {% x %} {# y #}"]);
        assert_eq!(cut("a{{ b }}c{{d}}"), ["text a", "expr b", "text c", "expr d"]);
        assert_eq!(cut("{{ {'a': {'b': 1}} }}"), ["expr {'a': {'b': 1}}"]);
        assert_eq!(cut("{{ '{{' }}-{{ '}}' }}"), ["expr '{{'", "text -", "expr '}}'"]);
        assert_eq!(cut("awk '{print $1}'"), ["text awk '{print $1}'"]);
        assert_eq!(cut(""), Vec::<String>::new());
    }

    #[test]
    fn what_is_not_closed_or_empty_is_a_fault() {
        for (text, range) in [("a {{ b", 2..4), ("{{ 'x }}", 0..2), ("x{{ }}", 1..6), ("{{- x }}", 0..8)] {
            assert_eq!(pieces(text).expect_err(text).range, range, "{text}");
        }
    }
}
