//! What is wrong with a file, or looks wrong: one [`Diagnostic`] per fault, all faults at once.
//!
//! Plain data that holds the one source line it is about, so that it can be sent over the API and rendered far from
//! the file. Never decides what is a fault. Start reading at [`Diagnostic`], then [`Reporter`].

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::{Deserialize, Serialize};

/// Source lines longer than this are not shown.
const SOURCE_LINE_BYTES_MAX: usize = 4_096;

/// Faults that are told of one file; the rest are counted.
pub(crate) const FAULTS_MAX: usize = 200;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file is taken, but may not do what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// One fault of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable, for machines and search: `unknown-key`.
    pub code: String,
    /// What is wrong, as a clause without a full stop.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do next; `None` if the message says it.
    pub hint: Option<String>,
    /// A second place that explains the first, with what it is.
    pub related: Option<(Place, String)>,
}

/// A piece of one line of a source file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// As the caller named the file.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// The line without its end; empty if it is longer than 4 KiB.
    pub source_line: String,
    /// What of it is meant, in bytes of `source_line`.
    pub range: Range<u32>,
}

/// Whether a rendering may use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// Plain text.
    Never,
    /// ANSI escapes.
    Always,
}

impl Diagnostic {
    /// With source line, caret and hint, over several lines and with a line feed at the end.
    pub fn render(&self, colour: Colour) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level.primary_title(self.message.as_str()).id(self.code.as_str());
        let mut report = vec![with_place(Group::with_title(title), &self.place)];
        if let Some((place, what)) = &self.related {
            report.push(with_place(Group::with_title(Level::NOTE.secondary_title(what.as_str())), place));
        }
        if let Some(hint) = &self.hint {
            let hint = Level::HELP.with_name("hint").secondary_title(hint.as_str());
            report.push(Group::with_title(hint));
        }
        let renderer = match colour {
            Colour::Never => Renderer::plain(),
            Colour::Always => Renderer::styled(),
        };
        let mut text = renderer.render(&report);
        text.push('\n');
        text
    }
}

fn with_place<'a>(group: Group<'a>, place: &'a Place) -> Group<'a> {
    if place.source_line.is_empty() {
        let origin =
            Origin::path(place.file.as_str()).line(place.line as usize).char_column(place.column as usize);
        return group.element(origin);
    }
    let range = place.range.start as usize..place.range.end as usize;
    let snippet = Snippet::source(place.source_line.as_str())
        .line_start(place.line as usize)
        .path(place.file.as_str())
        .annotation(AnnotationKind::Primary.span(range));
    group.element(snippet)
}

/// A piece of the source, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }
}

/// One source file that is UTF-8, and what was found in it so far.
pub(crate) struct Reporter<'a> {
    file: &'a str,
    pub(crate) text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    diagnostics: Vec<Diagnostic>,
    /// Errors beyond [`FAULTS_MAX`], and the last fault beyond it.
    untold: usize,
    beyond: Option<Diagnostic>,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        Self { file, text, lines, diagnostics: Vec::new(), untold: 0, beyond: None }
    }

    pub(crate) fn error(&mut self, span: Span, code: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.report(Severity::Error, span, code, message.into())
    }

    pub(crate) fn warning(&mut self, span: Span, code: &str, message: impl Into<String>) -> &mut Diagnostic {
        self.report(Severity::Warning, span, code, message.into())
    }

    /// For the places of the diagnostic that was reported last.
    pub(crate) fn place(&self, span: Span) -> Place {
        let start = floor_char(self.text, span.start.min(self.text.len()));
        let line = self.lines.partition_point(|begin| *begin <= start) - 1;
        let begin = self.lines[line];
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let source_line = self.text[begin..end.max(begin)].trim_end_matches('\r');
        let column = self.text[begin..start].chars().count() + 1;
        let from = (start - begin).min(source_line.len());
        let mut to = floor_char(source_line, (span.end.max(start) - begin).min(source_line.len())).max(from);
        if to == from {
            to += source_line[from..].chars().next().map_or(0, char::len_utf8);
        }
        let is_shown = source_line.len() <= SOURCE_LINE_BYTES_MAX;
        Place {
            file: self.file.to_owned(),
            line: line as u32 + 1,
            column: column as u32,
            source_line: if is_shown { source_line.to_owned() } else { String::new() },
            range: if is_shown { from as u32..to as u32 } else { 0..0 },
        }
    }

    /// A hint for what was reported last.
    pub(crate) fn hint_last(&mut self, hint: &str) {
        if let Some(last) = self.diagnostics.last_mut() {
            last.hint = Some(hint.to_owned());
        }
    }

    pub(crate) fn error_count(&self) -> usize {
        self.untold + self.diagnostics.iter().filter(|one| one.severity == Severity::Error).count()
    }

    /// In order of place, errors of one place first. What is said twice of one place is said once: aliases bring
    /// the same fault several times.
    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        if self.untold > 0 {
            let message = format!("{FAULTS_MAX} faults are told, and there are {} errors more", self.untold);
            let place = self.place(Span::new(self.text.len(), self.text.len()));
            let one = Diagnostic::new(Severity::Error, "limit-faults", message, place);
            self.diagnostics.push(one);
        }
        let mut diagnostics = self.diagnostics;
        diagnostics.sort_by_key(|one| (one.place.line, one.place.column, one.severity));
        diagnostics.dedup();
        diagnostics
    }

    /// Whether more faults would only be counted, so that it is no use to look for all of them.
    pub(crate) fn is_full(&self) -> bool {
        self.diagnostics.len() >= FAULTS_MAX
    }

    /// An error at a place that is known already.
    pub(crate) fn error_at(&mut self, place: Place, code: &str, message: String) -> &mut Diagnostic {
        let one = self.report(Severity::Error, Span::default(), code, message);
        one.place = place;
        one
    }

    fn report(&mut self, severity: Severity, span: Span, code: &str, message: String) -> &mut Diagnostic {
        if self.is_full() {
            self.untold += usize::from(severity == Severity::Error);
            let place =
                Place { file: String::new(), line: 0, column: 0, source_line: String::new(), range: 0..0 };
            return self.beyond.insert(Diagnostic::new(severity, code, message, place));
        }
        let place = self.place(span);
        self.diagnostics.push(Diagnostic::new(severity, code, message, place));
        self.diagnostics.last_mut().expect("it was pushed in the line above")
    }
}

impl Diagnostic {
    fn new(severity: Severity, code: &str, message: String, place: Place) -> Self {
        Self { severity, code: code.to_owned(), message, place, hint: None, related: None }
    }

    pub(crate) fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn maybe_hint(&mut self, hint: Option<String>) -> &mut Self {
        self.hint = hint;
        self
    }

    pub(crate) fn related(&mut self, place: Place, what: impl Into<String>) -> &mut Self {
        self.related = Some((place, what.into()));
        self
    }
}

fn floor_char(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The name in `names` that `wrong` was probably meant to be.
pub fn nearest<'n>(wrong: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A comparison costs the product of both lengths: no name is that long, and nobody reads so many.
    if wrong.len() > 100 {
        return None;
    }
    let lower = wrong.to_lowercase();
    let rank = |name: &'n str| {
        let other = name.to_lowercase();
        let distance = strsim::damerau_levenshtein(&lower, &other);
        let begins_alike =
            lower.len().min(other.len()) >= 3 && (lower.starts_with(&other) || other.starts_with(&lower));
        let allowed = lower.len().max(other.len()) / 3;
        (begins_alike || distance <= allowed).then_some((distance, name))
    };
    names.into_iter().take(500).filter_map(rank).min().map(|(_, name)| name)
}

/// `did you mean `x`?`, or the names there are if none is near and they are few.
pub(crate) fn did_you_mean<'n>(
    wrong: &str,
    names: impl IntoIterator<Item = &'n str> + Clone,
) -> Option<String> {
    if let Some(name) = nearest(wrong, names.clone()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let names: Vec<_> = names.into_iter().take(31).map(|name| format!("`{name}`")).collect();
    (1..=30).contains(&names.len()).then(|| format!("there is {}", names.join(", ")))
}
