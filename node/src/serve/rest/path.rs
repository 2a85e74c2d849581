//! Which row of the table a method and a path mean, and the fields that stand in the path.
//!
//! A pattern has segments `word`, `{field}` for one segment, and `{field=*/*}` for two (a workflow's full name); its last
//! segment may end in `:verb`. A field may be percent-encoded, so that `latest:default/nightly` fits into one segment.

use axum::http::Method;
use percent_encoding::percent_decode_str;

use super::table::Route;

/// Fields found in a path: name and text.
pub(crate) type Fields = Vec<(&'static str, String)>;

/// What there is at a path.
pub(crate) enum Found {
    /// This row, with these fields.
    Route(&'static Route, Fields),
    /// Something for these methods.
    OtherMethods(Vec<&'static str>),
    /// Nothing.
    Nothing,
}

/// A segment of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Stands for itself.
    Word(&'static str),
    /// Stands for a field.
    Field(&'static str),
    /// Stands for a field that takes two segments.
    Pair(&'static str),
}

/// A pattern in its parts: segments, and the verb after the colon.
pub(crate) fn parts(pattern: &'static str) -> (Vec<Segment>, Option<&'static str>) {
    let (path, verb) = match pattern.rsplit_once(':') {
        Some((path, verb)) => (path, Some(verb)),
        None => (pattern, None),
    };
    // The `/` inside of a pair's braces is no boundary.
    let path = path.trim_start_matches('/');
    let mut segments = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        let end = match rest.strip_prefix('{') {
            Some(inside) => inside.find('}').map_or(rest.len(), |at| at + 2),
            None => rest.find('/').unwrap_or(rest.len()),
        };
        segments.push(segment(&rest[..end]));
        rest = rest[end..].trim_start_matches('/');
    }
    (segments, verb)
}

fn segment(text: &'static str) -> Segment {
    let Some(inside) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return Segment::Word(text);
    };
    match inside.strip_suffix("=*/*") {
        Some(field) => Segment::Pair(field),
        None => Segment::Field(inside),
    }
}

/// Finds the row for a request.
pub(crate) fn find(routes: &'static [Route], method: &Method, path: &str) -> Found {
    let mut others = Vec::new();
    for route in routes {
        let Some(fields) = matched(route.path, path) else { continue };
        if route.method == method.as_str() {
            return Found::Route(route, fields);
        }
        others.push(route.method);
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others) }
}

/// The fields in a path that fits the pattern.
fn matched(pattern: &'static str, path: &str) -> Option<Fields> {
    let (segments, verb) = parts(pattern);
    let path = match verb {
        Some(verb) => path.strip_suffix(verb)?.strip_suffix(':')?,
        None => path,
    };
    let mut texts = path.strip_prefix('/')?.split('/');
    let mut fields = Vec::new();
    for segment in segments {
        let text = texts.next().filter(|text| !text.is_empty())?;
        match segment {
            Segment::Word(word) if word == text => {}
            Segment::Word(_) => return None,
            // A verb that this pattern has not is no part of a name: names have no colon, but for `latest:`.
            Segment::Field(field) => fields.push((field, decoded(text)?)),
            Segment::Pair(field) => {
                let second = texts.next()?;
                fields.push((field, format!("{}/{}", decoded(text)?, decoded(second)?)));
            }
        }
    }
    let has_verb = fields.last().is_some_and(|(_, text)| text.contains(':') && !text.starts_with("latest:"));
    (texts.next().is_none() && !has_verb).then_some(fields)
}

fn decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_takes_the_paths_it_should() {
        let fits = |pattern, path| {
            matched(pattern, path).map(|fields| {
                fields.into_iter().map(|(name, text)| format!("{name}={text}")).collect::<Vec<_>>().join(" ")
            })
        };
        for (pattern, path, expected) in [
            ("/v1/runs", "/v1/runs", Some("")),
            ("/v1/runs", "/v1/runs/", None),
            ("/v1/runs:start", "/v1/runs:start", Some("")),
            ("/v1/runs/{run}", "/v1/runs/run-4", Some("run=run-4")),
            ("/v1/runs/{run}", "/v1/runs/run-4:cancel", None),
            ("/v1/runs/{run}", "/v1/runs/latest%3Aa%2Fb", Some("run=latest:a/b")),
            ("/v1/runs/{run}:cancel", "/v1/runs/run-4:cancel", Some("run=run-4")),
            ("/v1/runs/{run}:cancel", "/v1/runs/latest%3Aa%2Fb:cancel", Some("run=latest:a/b")),
            ("/v1/workflows/{workflow=*/*}", "/v1/workflows/a/b", Some("workflow=a/b")),
            ("/v1/workflows/{workflow=*/*}", "/v1/workflows/a", None),
            ("/v1/workflows/{workflow=*/*}/versions", "/v1/workflows/a/b/versions", Some("workflow=a/b")),
            ("/v1/workflows/{workflow=*/*}:pause", "/v1/workflows/a/b:pause", Some("workflow=a/b")),
            (
                "/v1/runs/{run}/tasks/{task}:retry",
                "/v1/runs/run-4/tasks/x.3:retry",
                Some("run=run-4 task=x.3"),
            ),
        ] {
            assert_eq!(fits(pattern, path).as_deref(), expected, "{pattern} {path}");
        }
    }
}
