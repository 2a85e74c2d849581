//! The grammar of filters:
//!
//! ```text
//! any  = all (OR all)*
//! all  = one (AND one)*
//! one  = NOT one | "(" any ")" | FIELD OP VALUE
//! ```

use matins_workflow::calendar::{UserTime, Zone, parse_duration};
use matins_workflow::nearest;
use regex::RegexBuilder;

use super::fields::Kind;
use super::{Expr, Op, Term, Value};
use crate::serve::error::ApiError;

/// A filter is at most so long.
const FILTER_BYTES_MAX: usize = 4 << 10;
/// Parentheses and NOTs are at most so deep.
const DEPTH_MAX: u32 = 32;
/// The memory that one pattern may compile to.
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Groups of a pattern are at most so deep.
const PATTERN_DEPTH_MAX: u32 = 32;

/// A fault at a place of the text.
struct Fault {
    /// In bytes.
    at: usize,
    what: String,
    hint: String,
}

/// Reads a filter; `None` takes everything. `kind_of` says what a field is.
pub(super) fn filter(
    text: &str,
    kind_of: impl Fn(&str) -> Result<Kind, Vec<&'static str>>,
) -> Result<Option<Expr>, ApiError> {
    if text.len() > FILTER_BYTES_MAX {
        return Err(ApiError::limit("bytes of a filter", FILTER_BYTES_MAX as u64, text.len() as u64));
    }
    let mut reader = Reader { text, at: 0, kind_of: &kind_of };
    reader.skip_blanks();
    if reader.rest().is_empty() {
        return Ok(None);
    }
    let read = reader.any(0).and_then(|expr| {
        if reader.rest().is_empty() {
            Ok(expr)
        } else {
            Err(reader.fault("expected AND, OR or the end", JOIN))
        }
    });
    read.map(Some).map_err(|fault| shown(text, &fault))
}

const JOIN: &str =
    "join terms by AND or OR, as in `state = failed AND labels.team = data`; quote a value with blanks";
const TERM: &str = "a term is FIELD OP VALUE, as in `workflow =~ nightly` or `took > 10m`";

/// The fault with the text and a mark below its place.
fn shown(text: &str, fault: &Fault) -> ApiError {
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let before = text.get(..fault.at).unwrap_or(text).chars().count();
    let what = format!("{} (column {})\n  {one_line}\n  {}^", fault.what, before + 1, " ".repeat(before));
    ApiError::bad_field("filter", what).hint(fault.hint.clone())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    kind_of: &'a dyn Fn(&str) -> Result<Kind, Vec<&'static str>>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fault(&self, what: impl Into<String>, hint: impl Into<String>) -> Fault {
        Fault { at: self.at, what: what.into(), hint: hint.into() }
    }

    fn skip_blanks(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes a word such as AND, in any case, if it stands here by itself.
    fn word(&mut self, word: &str) -> bool {
        let Some((head, behind)) = self.rest().split_at_checked(word.len()) else { return false };
        let ends =
            behind.is_empty() || behind.starts_with(|c: char| c.is_whitespace() || c == '(' || c == ')');
        if !head.eq_ignore_ascii_case(word) || !ends {
            return false;
        }
        self.at += word.len();
        self.skip_blanks();
        true
    }

    fn any(&mut self, depth: u32) -> Result<Expr, Fault> {
        let mut parts = vec![self.all(depth)?];
        while self.word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Any(parts) })
    }

    fn all(&mut self, depth: u32) -> Result<Expr, Fault> {
        let mut parts = vec![self.one(depth)?];
        while self.word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::All(parts) })
    }

    fn one(&mut self, depth: u32) -> Result<Expr, Fault> {
        if depth >= DEPTH_MAX {
            let what = format!("more than {DEPTH_MAX} parentheses and NOTs inside each other");
            return Err(self.fault(what, "ask for less at once"));
        }
        if self.word("not") {
            return Ok(Expr::Not(Box::new(self.one(depth + 1)?)));
        }
        if !self.rest().starts_with('(') {
            return self.term().map(Expr::Is);
        }
        self.at += 1;
        self.skip_blanks();
        let inner = self.any(depth + 1)?;
        if !self.rest().starts_with(')') {
            return Err(self.fault("expected `)`", JOIN));
        }
        self.at += 1;
        self.skip_blanks();
        Ok(inner)
    }

    fn term(&mut self) -> Result<Term, Fault> {
        let is_part = |letter: char| letter.is_ascii_alphanumeric() || "._-/".contains(letter);
        let end = self.rest().find(|letter| !is_part(letter)).unwrap_or(self.rest().len());
        let field = &self.rest()[..end];
        if field.is_empty() {
            return Err(self.fault("expected a field", TERM));
        }
        let kind = (self.kind_of)(field).map_err(|known| {
            let hint = match nearest(field, known.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are: {}", known.join(", ")),
            };
            self.fault(format!("there is no field `{field}`"), hint)
        })?;
        self.at += end;
        self.skip_blanks();
        let Some((op, length)) = Op::read(self.rest()) else {
            return Err(self.fault(format!("expected one of = != =~ < <= > >= behind `{field}`"), TERM));
        };
        self.at += length;
        self.skip_blanks();
        let at = self.at;
        let value = self.value()?;
        let value = typed(kind, op, value).map_err(|(what, hint)| Fault { at, what, hint })?;
        self.skip_blanks();
        Ok(Term { field: field.to_owned(), op, value })
    }

    /// A word, or a text in quotes. A word may hold parentheses of its own, as patterns do, and ends before one that closes
    /// more than it opened.
    fn value(&mut self) -> Result<String, Fault> {
        let rest = self.rest();
        if let Some(quote) = rest.chars().next().filter(|c| ['"', '\''].contains(c)) {
            let Some(end) = rest[1..].find(quote) else {
                return Err(self.fault("this quote has no end", format!("close it with {quote}")));
            };
            self.at += end + 2;
            return Ok(rest[1..=end].to_owned());
        }
        let mut open = 0u32;
        let end = rest.find(|c: char| match c {
            '(' => {
                open += 1;
                false
            }
            ')' if open == 0 => true,
            ')' => {
                open -= 1;
                false
            }
            other => other.is_whitespace(),
        });
        let end = end.unwrap_or(rest.len());
        if end == 0 {
            return Err(self.fault("expected a value", TERM));
        }
        self.at += end;
        Ok(rest[..end].to_owned())
    }
}

/// A value by what its field is; else what is wrong with it, and a hint.
fn typed(kind: Kind, op: Op, text: String) -> Result<Value, (String, String)> {
    match (kind, op) {
        (Kind::Time | Kind::Span, Op::Matches) => {
            Err(("a time or duration matches no pattern".into(), "compare it with < or >".into()))
        }
        (Kind::Time, _) => {
            let time =
                UserTime::parse(&text, &Zone::utc()).map_err(|error| (error.to_string(), error.hint))?;
            Ok(Value::Time(time.first(), time.last()))
        }
        (Kind::Span, _) => {
            let span = parse_duration(&text).map_err(|error| (error.to_string(), error.hint))?;
            Ok(Value::Span(span.0))
        }
        (Kind::Text | Kind::Workflow | Kind::Word(_) | Kind::Number, Op::Matches) => {
            let mut builder = RegexBuilder::new(&text);
            let pattern = builder.size_limit(PATTERN_BYTES_MAX).nest_limit(PATTERN_DEPTH_MAX).build();
            pattern.map(Value::Pattern).map_err(|error| pattern_fault(&error))
        }
        (Kind::Word(words), Op::Equal | Op::NotEqual) if !text.contains('*') && !words.contains(&&*text) => {
            let hint = match nearest(&text, words.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("it is one of: {}", words.join(", ")),
            };
            Err((format!("it is never `{text}`"), hint))
        }
        (Kind::Workflow, Op::Equal | Op::NotEqual) if !text.contains(['/', '*']) => {
            Ok(Value::Text(format!("default/{text}")))
        }
        (Kind::Text | Kind::Workflow | Kind::Word(_) | Kind::Number, _) => Ok(Value::Text(text)),
    }
}

fn pattern_fault(error: &regex::Error) -> (String, String) {
    if let regex::Error::CompiledTooBig(_) = error {
        return ("the pattern is too large".into(), "ask for less, or in several terms".into());
    }
    // The last line says what is wrong; those before draw the pattern, which is drawn already.
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
    (format!("the pattern cannot be read: {last}"), "it is a regular expression; `=` with * may do".into())
}

impl Op {
    /// An operator and its length.
    fn read(text: &str) -> Option<(Self, usize)> {
        // Longer ones first: `<` begins `<=`.
        let words = [
            ("!=", Self::NotEqual),
            ("<=", Self::LessOrEqual),
            (">=", Self::GreaterOrEqual),
            ("=~", Self::Matches),
            ("=", Self::Equal),
            ("<", Self::Less),
            (">", Self::Greater),
        ];
        words.into_iter().find(|(word, _)| text.starts_with(word)).map(|(word, op)| (op, word.len()))
    }
}
