//! A figure with its unit, its aim and the best rival's, and what is made of many measurements.

use std::time::Duration;

/// What a number counts, and whether more of it is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Seconds,
    Millis,
    Micros,
    /// The one of which more is better.
    PerSecond,
    Megabytes,
    Percent,
    Count,
}

impl Unit {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Millis => "ms",
            Self::Micros => "us",
            Self::PerSecond => "/s",
            Self::Megabytes => "MB",
            Self::Percent => "%",
            Self::Count => "",
        }
    }

    fn is_more_better(self) -> bool {
        self == Self::PerSecond
    }
}

/// One number of the table.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// Of a cluster of three. `None`: there is none, the number is only reported.
    pub(crate) aim: Option<f64>,
    /// The best one that was measured elsewhere.
    pub(crate) rival: &'static str,
}

/// What is said of a figure that has an aim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Met,
    /// So many times too slow, too large, or too few.
    MissedBy(f64),
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, value: f64, unit: Unit) -> Self {
        Self { what: what.into(), value, unit, aim: None, rival: "" }
    }

    pub(crate) fn seconds(what: impl Into<String>, span: Duration) -> Self {
        Self::new(what, span.as_secs_f64(), Unit::Seconds)
    }

    pub(crate) fn millis(what: impl Into<String>, span: Duration) -> Self {
        Self::new(what, span.as_secs_f64() * 1e3, Unit::Millis)
    }

    pub(crate) fn micros(what: impl Into<String>, span: Duration) -> Self {
        Self::new(what, span.as_secs_f64() * 1e6, Unit::Micros)
    }

    pub(crate) fn per_second(what: impl Into<String>, count: usize, span: Duration) -> Self {
        Self::new(what, count as f64 / span.as_secs_f64(), Unit::PerSecond)
    }

    pub(crate) fn aim(self, aim: f64) -> Self {
        Self { aim: Some(aim), ..self }
    }

    pub(crate) fn rival(self, rival: &'static str) -> Self {
        Self { rival, ..self }
    }

    /// `None`: it has no aim.
    pub(crate) fn verdict(&self) -> Option<Verdict> {
        let aim = self.aim?;
        let excess = if self.unit.is_more_better() { aim / self.value } else { self.value / aim };
        Some(if excess <= 1.0 { Verdict::Met } else { Verdict::MissedBy(excess) })
    }

    /// The value with three digits that mean something.
    pub(crate) fn value_text(&self) -> String {
        format!(
            "{}{}{}",
            digits(self.value),
            if self.unit == Unit::Count { "" } else { " " },
            self.unit.text()
        )
    }

    /// The same of the aim; empty if there is none.
    pub(crate) fn aim_text(&self) -> String {
        self.aim.map_or_else(String::new, |aim| Self { value: aim, ..self.clone() }.value_text())
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 1.0 => format!("{value:.3}"),
        few if few < 10.0 => format!("{value:.2}"),
        some if some < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The measurement below which so large a part of them lies, by the nearest rank. They need not be in order.
///
/// # Panics
///
/// If there is none.
pub(crate) fn percentile(spans: &[Duration], part: f64) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

pub(crate) fn median(spans: &[Duration]) -> Duration {
    percentile(spans, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_knows_whether_more_is_better() {
        let verdict = |value, unit, aim| Figure::new("", value, unit).aim(aim).verdict().unwrap();
        assert_eq!(verdict(0.2, Unit::Seconds, 0.25), Verdict::Met);
        assert_eq!(verdict(0.5, Unit::Seconds, 0.25), Verdict::MissedBy(2.0));
        assert_eq!(verdict(500.0, Unit::PerSecond, 1000.0), Verdict::MissedBy(2.0));
        assert_eq!(verdict(1500.0, Unit::PerSecond, 1000.0), Verdict::Met);
        assert_eq!(Figure::new("", 1.0, Unit::Count).verdict(), None);
    }

    #[test]
    fn percentiles_are_measurements_by_the_nearest_rank() {
        let spans: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(median(&spans), Duration::from_millis(100));
        assert_eq!(percentile(&spans, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&spans, 1.0), Duration::from_millis(200));
        assert_eq!(median(&spans[..1]), spans[0]);
    }

    #[test]
    fn numbers_have_three_digits() {
        let text = |value, unit| Figure::new("", value, unit).value_text();
        assert_eq!(text(0.123_4, Unit::Seconds), "0.123 s");
        assert_eq!(text(12.34, Unit::Millis), "12.3 ms");
        assert_eq!(text(12_345.6, Unit::PerSecond), "12346 /s");
        assert_eq!(text(3.0, Unit::Count), "3.00");
        assert_eq!(text(0.0, Unit::Percent), "0 %");
    }
}
