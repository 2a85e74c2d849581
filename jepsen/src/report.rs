//! What each verb comes to: figures, failures with the command that repeats them, and a verdict.
//!
//! A verb fills a [`Report`] and does nothing else with it: `main` prints it, writes it as JSON and makes the exit code.
//! Too little of something that had to be exercised is no success, and neither is a fault of the harness.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a proof comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Everything held and enough was exercised.
    Held,
    /// A promise was broken.
    Broken,
    /// Nothing can be said: too little happened, a fault was not active, or the harness failed.
    Invalid,
}

/// Something that was counted or measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// What, with its unit: `attempts`, `without a leader, longest (ms)`.
    pub(crate) name: String,
    pub(crate) value: u64,
    /// Less than this makes the whole report invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at_least: Option<u64>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Which promise, and how: begins with the invariant or the rule where there is one (`I6: ...`).
    pub(crate) what: String,
    /// The one command that repeats it.
    pub(crate) repeat: String,
}

/// What a verb found out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The verb, with the part of it: `sim`, `cluster mutex`.
    pub(crate) verb: String,
    pub(crate) version: String,
    pub(crate) seconds: f64,
    pub(crate) figures: Vec<Figure>,
    pub(crate) failures: Vec<Failure>,
    /// Why nothing can be said, where that is so.
    pub(crate) invalid: Vec<String>,
    /// What a reader should know besides.
    pub(crate) notes: Vec<String>,
    /// What was done, one line each, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) timeline: Vec<String>,
}

impl Report {
    /// A report that says nothing yet.
    pub(crate) fn new(verb: impl Into<String>) -> Self {
        Self {
            verb: verb.into(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            seconds: 0.0,
            figures: Vec::new(),
            failures: Vec::new(),
            invalid: Vec::new(),
            notes: Vec::new(),
            timeline: Vec::new(),
        }
    }

    /// Notes a figure.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: u64) {
        self.figures.push(Figure { name: name.into(), value, at_least: None });
    }

    /// Notes a figure without which the rest says nothing.
    pub(crate) fn needs(&mut self, name: impl Into<String>, value: u64, at_least: u64) {
        self.figures.push(Figure { name: name.into(), value, at_least: Some(at_least) });
    }

    /// Notes a broken promise.
    pub(crate) fn fail(&mut self, what: impl Into<String>, repeat: impl Into<String>) {
        self.failures.push(Failure { what: what.into(), repeat: repeat.into() });
    }

    /// Takes in the report of a part; its lines begin with the part's name.
    pub(crate) fn take(&mut self, part: &str, other: Self) {
        let start = format!("{part}: ");
        // What a part has named after itself is not named twice.
        let named = |text: String| if text.starts_with(&start) { text } else { format!("{start}{text}") };
        self.figures
            .extend(other.figures.into_iter().map(|figure| Figure { name: named(figure.name), ..figure }));
        let failures = other.failures.into_iter();
        self.failures.extend(failures.map(|failure| Failure { what: named(failure.what), ..failure }));
        self.invalid.extend(other.invalid.into_iter().map(named));
        self.notes.extend(other.notes.into_iter().map(named));
        self.timeline.extend(other.timeline.into_iter().map(named));
    }

    /// Notes how long it took.
    pub(crate) fn took(&mut self, time: Duration) {
        self.seconds = (time.as_secs_f64() * 10.0).round() / 10.0;
    }

    /// What it comes to. A broken promise stays one, however little was exercised.
    pub(crate) fn verdict(&self) -> Verdict {
        if !self.failures.is_empty() {
            return Verdict::Broken;
        }
        if self.invalid.is_empty() && self.too_little().next().is_none() {
            Verdict::Held
        } else {
            Verdict::Invalid
        }
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, file: &Path) -> std::io::Result<()> {
        let mut json = serde_json::to_value(self).map_err(std::io::Error::other)?;
        json["verdict"] = serde_json::to_value(self.verdict()).map_err(std::io::Error::other)?;
        std::fs::write(file, format!("{json:#}\n"))
    }

    /// Reads what [`Self::write`] wrote. The verdict is worked out anew.
    pub(crate) fn read(file: &Path) -> std::io::Result<Self> {
        serde_json::from_slice(&std::fs::read(file)?).map_err(std::io::Error::other)
    }

    fn too_little(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.at_least.is_some_and(|least| figure.value < least))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {:.1} s", self.verb, self.seconds)?;
        let width = self.figures.iter().map(|figure| figure.name.chars().count()).max().unwrap_or(0);
        for figure in &self.figures {
            writeln!(f, "  {:width$}  {:>12}", figure.name, grouped(figure.value))?;
        }
        for line in &self.timeline {
            writeln!(f, "  | {line}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {note}")?;
        }
        for figure in self.too_little() {
            let least = grouped(figure.at_least.unwrap_or(0));
            writeln!(f, "  too little: {} is {}, {least} are needed", figure.name, grouped(figure.value))?;
        }
        for reason in &self.invalid {
            writeln!(f, "  invalid: {reason}")?;
        }
        for failure in &self.failures {
            writeln!(f, "  BROKEN: {}\n    repeat it with: {}", failure.what, failure.repeat)?;
        }
        let verdict = match self.verdict() {
            Verdict::Held => "held",
            Verdict::Broken => "BROKEN",
            Verdict::Invalid => "INVALID: this says nothing",
        };
        writeln!(f, "  {verdict}")
    }
}

/// A number with its thousands apart.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_no_success() {
        let mut report = Report::new("sim");
        report.needs("runs", 9, 10);
        assert_eq!(report.verdict(), Verdict::Invalid);
        report.fail("I6: two processes", "matins-jepsen sim --from 1 --seeds 1");
        assert_eq!(report.verdict(), Verdict::Broken);
    }

    #[test]
    fn what_was_written_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut report = Report::new("sim");
        report.needs("runs", 9, 10);
        for line in [None, Some("0.0 s  kill of n1".to_owned())] {
            report.timeline.extend(line);
            report.write(file.path()).unwrap();
            let read = Report::read(file.path()).unwrap();
            assert_eq!(read.to_string(), report.to_string());
        }
    }

    #[test]
    fn a_part_is_named_once() {
        let mut part = Report::new("cluster mutex");
        part.figure("faults", 3);
        part.figure("mutex: runs", 7);
        let mut report = Report::new("cluster");
        report.take("mutex", part);
        let names: Vec<&str> = report.figures.iter().map(|figure| figure.name.as_str()).collect();
        assert_eq!(names, ["mutex: faults", "mutex: runs"]);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([7, 1_234, 1_234_567].map(grouped), ["7", "1,234", "1,234,567"]);
    }
}
