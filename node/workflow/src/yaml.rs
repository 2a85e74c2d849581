//! YAML text to a tree that knows where everything stands.
//!
//! The one place that knows the YAML parser. Scalars keep their source text and style, because what a scalar means is
//! decided by the type of its place and not by how it looks (LANGUAGE 1.15). Anchors, aliases and `<<` are resolved
//! here, within bounds; a duplicate key is a fault. Never knows a key of the language. Start reading at [`parse`].

#![expect(clippy::wildcard_enum_match_arm, reason = "the events are the parser's, and grow without us")]

use std::collections::BTreeMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

use crate::diagnostic::{Reporter, Span};

/// DESIGN 5: how deep lists and maps may lie in each other.
pub(crate) const DEPTH_MAX: usize = 64;
/// What the aliases of one file may expand to: bytes of text, and [`NODE_WEIGHT`] for each node.
pub(crate) const ALIAS_BYTES_MAX: usize = 4 << 20;
const NODE_WEIGHT: usize = 64;

/// A value and where it stands. What came by an alias stands where its anchor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// The text without quotes, with escapes resolved and lines folded.
    pub(crate) text: String,
    pub(crate) style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    SingleQuoted,
    DoubleQuoted,
    /// `|` or `>`.
    Block,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Scalar {
    /// Nothing, `~` or `null` without quotes.
    pub(crate) fn is_null(&self) -> bool {
        self.style == Style::Plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar(scalar) if scalar.is_null())
    }

    /// In words, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) if scalar.is_null() => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    fn weight(&self) -> usize {
        NODE_WEIGHT
            + match &self.value {
                Value::Scalar(scalar) => scalar.text.len(),
                Value::List(items) => items.iter().map(Self::weight).sum(),
                Value::Map(entries) => {
                    entries.iter().map(|entry| entry.key.len() + entry.value.weight()).sum()
                }
            }
    }
}

/// The documents of a file that could be read; a syntax error ends the list. Faults go to `reporter`.
pub(crate) fn parse(reporter: &mut Reporter<'_>) -> Vec<Node> {
    let mut options = granit_parser::options! { emit_unresolved_aliases: true };
    options.set_emit_comments(false);
    let mut builder = Builder {
        events: Parser::new_from_str_with_options(reporter.text, options),
        reporter,
        anchors: BTreeMap::new(),
        alias_bytes_left: ALIAS_BYTES_MAX,
    };
    let mut documents = Vec::new();
    // `None`: a fault after which the rest of the file cannot be read; it has been reported.
    while let Some((event, span)) = builder.next() {
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) => builder.anchors.clear(),
            Event::StreamStart | Event::DocumentEnd => {}
            event => match builder.node(event, span, 0) {
                Some(node) => documents.push(node),
                None => break,
            },
        }
    }
    documents
}

struct Builder<'r, 'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    reporter: &'r mut Reporter<'a>,
    /// By the parser's number, with what an alias to it costs.
    anchors: BTreeMap<usize, (Node, usize)>,
    alias_bytes_left: usize,
}

impl<'a> Builder<'_, 'a> {
    fn next(&mut self) -> Option<(Event<'a>, Span)> {
        match self.events.next()? {
            Ok((event, span)) => Some((event, self.span(&span))),
            Err(fault) => {
                let start = self.offset(fault.marker());
                let message = format!("this is not YAML: {}", fault.info());
                let one = self.reporter.error(Span::new(start, start), "yaml-syntax", message);
                if one.place.source_line.trim_start().starts_with('\t') {
                    one.hint("indent with spaces, never with tabs");
                } else if one.place.source_line.contains(": @") || one.place.source_line.contains(": `") {
                    one.hint("a value that begins with `@` or a backtick needs quotes");
                } else if one.place.source_line.contains("{{") {
                    one.hint("a value that begins with `{{` needs quotes: \"{{ params.day }}\"");
                }
                None
            }
        }
    }

    /// The node that begins with `event`.
    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Option<Node> {
        if depth > DEPTH_MAX {
            let message = format!("lists and maps lie deeper than {DEPTH_MAX} in each other");
            self.reporter.error(span, "limit-yaml-depth", message).hint("this limit is fixed");
            return None;
        }
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                let scalar = Scalar { text: text.into_owned(), style: style_of(style) };
                (Node { span, value: Value::Scalar(scalar) }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                (self.list(span, depth)?, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                (self.map(span, depth)?, anchor)
            }
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::UnresolvedAlias(name) => {
                let message = format!("there is no anchor `&{name}` before this");
                self.reporter.error(span, "unknown-anchor", message);
                return Some(empty(span));
            }
            // Not a node: the parser gives none of these in the place of one.
            _ => return Some(empty(span)),
        };
        if anchor > 0 {
            let weight = node.weight();
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        Some(node)
    }

    fn list(&mut self, span: Span, depth: usize) -> Option<Node> {
        let mut items = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let span = Span::new(span.start, at.end);
                return Some(Node { span, value: Value::List(items) });
            }
            items.push(self.node(event, at, depth + 1)?);
        }
    }

    fn map(&mut self, span: Span, depth: usize) -> Option<Node> {
        // What `<<` brings stands where `<<` stands, so that order means what it shows.
        let (mut entries, mut merged): (Vec<Entry>, Vec<(usize, Node)>) = (Vec::new(), Vec::new());
        let mut known: BTreeMap<String, Span> = BTreeMap::new();
        let mut end = span.end;
        loop {
            let (event, at) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                end = end.max(at.end);
                break;
            }
            let key = self.node(event, at, depth + 1)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            end = end.max(value.span.end);
            let key_span = key.span;
            let Value::Scalar(Scalar { text: key, style }) = key.value else {
                self.refuse_key(span, key_span);
                continue;
            };
            if key == "<<" && style == Style::Plain {
                merged.push((entries.len(), value));
            } else if let Some(first) = known.get(&key) {
                let place = self.reporter.place(*first);
                self.reporter
                    .error(key_span, "duplicate-key", format!("the key `{key}` stands here twice"))
                    .related(place, "it stands here first");
            } else {
                known.insert(key.clone(), key_span);
                entries.push(Entry { key, key_span, value });
            }
        }
        let mut added = 0;
        for (at, source) in merged {
            let mut found = Vec::new();
            self.merge(source, &mut known, &mut found);
            let at = at + added;
            added += found.len();
            entries.splice(at..at, found);
        }
        Some(Node { span: Span::new(span.start, end), value: Value::Map(entries) })
    }

    /// `<<`: the keys of a map, or of each map in a list, that are not there yet.
    fn merge(&mut self, source: Node, known: &mut BTreeMap<String, Span>, entries: &mut Vec<Entry>) {
        match source.value {
            Value::Map(others) => {
                for entry in others {
                    if !known.contains_key(&entry.key) {
                        known.insert(entry.key.clone(), entry.key_span);
                        entries.push(entry);
                    }
                }
            }
            Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                for item in items {
                    self.merge(item, known, entries);
                }
            }
            Value::List(_) | Value::Scalar(_) => {
                self.reporter.error(source.span, "yaml-merge", "`<<` takes a map or a list of maps");
            }
        }
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Option<Node> {
        let Some((node, weight)) = self.anchors.get(&anchor) else {
            self.reporter.error(span, "unknown-anchor", "an anchor cannot contain itself");
            return Some(empty(span));
        };
        let Some(left) = self.alias_bytes_left.checked_sub(*weight) else {
            let message = format!("the aliases of this file expand to more than {ALIAS_BYTES_MAX} bytes");
            self.reporter.error(span, "limit-yaml-aliases", message).hint("this limit is fixed");
            return None;
        };
        self.alias_bytes_left = left;
        Some(node.clone())
    }

    fn refuse_key(&mut self, map: Span, key: Span) {
        if self.reporter.text[map.start..].starts_with("{{") {
            let span = Span::new(map.start, key.end + 1);
            self.reporter
                .error(span, "yaml-template", "a value that begins with `{{` needs quotes")
                .hint("write \"{{ params.day }}\"");
        } else {
            self.reporter.error(key, "yaml-key", "a key is one word, not a list or a map");
        }
    }

    fn refuse_tag(&mut self, has_tag: bool, span: Span) {
        if has_tag {
            self.reporter
                .error(span, "yaml-tag", "tags such as `!!str` are not part of the language")
                .hint("quotes make a value text");
        }
    }

    fn span(&self, span: &granit_parser::Span) -> Span {
        Span::new(self.offset(&span.start), self.offset(&span.end))
    }

    fn offset(&self, marker: &granit_parser::Marker) -> usize {
        let counted = || self.reporter.text.char_indices().nth(marker.index()).map(|(at, _)| at);
        marker.byte_offset().or_else(counted).unwrap_or(self.reporter.text.len())
    }
}

fn empty(span: Span) -> Node {
    Node { span, value: Value::Scalar(Scalar { text: String::new(), style: Style::Plain }) }
}

fn style_of(style: ScalarStyle) -> Style {
    match style {
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::SingleQuoted,
        ScalarStyle::DoubleQuoted => Style::DoubleQuoted,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    }
}

/// Where the bytes `range` of a scalar's text stand in the source, as well as it can be told: text and source are
/// walked together, over indentation, folding and escapes.
pub(crate) fn span_within(source: &str, node: &Node, range: Span) -> Span {
    let Value::Scalar(scalar) = &node.value else { return node.span };
    let end = node.span.end.min(source.len());
    let Some(written) = source.get(node.span.start..end) else { return node.span };
    let mut walk = Walk { written: written.as_bytes(), at: first_byte(written, scalar.style) };
    let mut start = None;
    for (at, letter) in scalar.text.char_indices() {
        walk.to(letter, scalar.style);
        if at == range.start {
            start = Some(walk.at);
        }
        if at + letter.len_utf8() >= range.end.max(range.start + 1) {
            let start = start.unwrap_or(walk.at);
            walk.past(letter, scalar.style);
            return Span::new(node.span.start + start, (node.span.start + walk.at).min(end));
        }
        walk.past(letter, scalar.style);
    }
    // An empty piece at the very end, as of a text that stops too early.
    let at = (node.span.start + start.unwrap_or(walk.at)).min(node.span.end.saturating_sub(1));
    Span::new(at.max(node.span.start), at)
}

/// Past the opening quote, or past the header line of a block.
fn first_byte(written: &str, style: Style) -> usize {
    match style {
        Style::SingleQuoted | Style::DoubleQuoted => 1,
        Style::Block if written.starts_with(['|', '>']) => written.find('\n').map_or(0, |at| at + 1),
        Style::Plain | Style::Block => 0,
    }
}

struct Walk<'a> {
    written: &'a [u8],
    at: usize,
}

impl Walk<'_> {
    /// Moves to the place that gave `letter`.
    fn to(&mut self, letter: char, style: Style) {
        while let Some(here) = self.written.get(self.at) {
            let is_escape = style == Style::DoubleQuoted && *here == b'\\';
            let is_folded = letter == ' ' && matches!(here, b'\n' | b'\r');
            if letter == char::from(*here) || is_escape || is_folded || !here.is_ascii_whitespace() {
                return;
            }
            self.at += 1;
        }
    }

    /// Moves past it.
    fn past(&mut self, letter: char, style: Style) {
        let here = self.written.get(self.at).copied();
        if style == Style::DoubleQuoted && here == Some(b'\\') {
            let digits = match self.written.get(self.at + 1) {
                Some(b'x') => 2,
                Some(b'u') => 4,
                Some(b'U') => 8,
                _ => 0,
            };
            self.at += 2 + digits;
        } else if style == Style::SingleQuoted && letter == '\'' {
            self.at += 2;
        } else {
            self.at += letter.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests;
