//! One field of a cron text: `*`, values, names, ranges and steps, into the set of values it means.
//!
//! Accepted is what every cron agrees on. Ranges do not wrap around (POSIX and Vixie refuse them as well), but Sunday
//! is 0 and 7, so `FRI-SUN` is 5-7. `a/n` is `a-max/n`, except for days of the week, where engines disagree
//! whether the week ends with 6 or with 7.

use super::cron::CronError;

/// What the field counts, and within which bounds.
pub(super) struct FieldKind {
    name: &'static str,
    /// The larger unit in which steps start over.
    within: &'static str,
    pub(super) min: u32,
    pub(super) max: u32,
    /// Three-letter names of the values from `min` on.
    names: &'static [&'static str],
}

pub(super) const SECOND: FieldKind =
    FieldKind { name: "second", within: "minute", min: 0, max: 59, names: &[] };
pub(super) const MINUTE: FieldKind =
    FieldKind { name: "minute", within: "hour", min: 0, max: 59, names: &[] };
pub(super) const HOUR: FieldKind = FieldKind { name: "hour", within: "day", min: 0, max: 23, names: &[] };
pub(super) const DAY: FieldKind =
    FieldKind { name: "day of the month", within: "month", min: 1, max: 31, names: &[] };
pub(super) const MONTH: FieldKind =
    FieldKind { name: "month", within: "year", min: 1, max: 12, names: &MONTHS };
pub(super) const WEEKDAY: FieldKind =
    FieldKind { name: "day of the week", within: "week", min: 0, max: 6, names: &WEEKDAYS };

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// The values that a field matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Bit `n` is value `n`. Never empty; Sunday is bit 0 only.
    mask: u64,
    /// The text was `*` alone. `*/2` or `1-31` *give* the field, for the rule of the two day fields.
    pub(super) is_star: bool,
}

impl Field {
    /// A field that matches one value.
    pub(super) fn only(value: u32) -> Self {
        Self { mask: 1 << value, is_star: false }
    }

    /// `*`.
    pub(super) fn every() -> Self {
        Self { mask: u64::MAX, is_star: true }
    }

    /// Every value of `kind`, however it was written.
    pub(super) fn is_full(self, kind: &FieldKind) -> bool {
        self.values(kind).count() as u32 == kind.count()
    }

    /// The matched values, ascending.
    pub(super) fn values(self, kind: &FieldKind) -> impl Iterator<Item = u32> {
        (kind.min..=kind.max).filter(move |value| self.mask & (1 << value) != 0)
    }
}

impl FieldKind {
    fn count(&self) -> u32 {
        self.max - self.min + 1
    }

    /// The largest number one may write: Sunday is also 7.
    fn written_max(&self) -> u32 {
        if self.is_weekday() { 7 } else { self.max }
    }

    fn is_weekday(&self) -> bool {
        self.max == WEEKDAY.max
    }

    /// Reads `text`, which begins at byte `at` of the cron text.
    pub(super) fn parse(&self, text: &str, at: usize) -> Result<Field, CronError> {
        let mut mask = 0;
        let mut item_at = at;
        for item in text.split(',') {
            mask |= self.parse_item(item, item_at)?;
            item_at += item.len() + 1;
        }
        Ok(Field { mask, is_star: text == "*" })
    }

    fn parse_item(&self, item: &str, at: usize) -> Result<u64, CronError> {
        if item.is_empty() {
            let message = format!("a list of values for the {} has an empty place", self.name);
            return Err(CronError::new(at, 1, message, "write one value between two commas".into()));
        }
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.parse_step(step, at + range.len() + 1)?)),
            None => (item, None),
        };
        let (low, high) = if range == "*" {
            (self.min, self.max)
        } else if let Some((low, high)) = range.split_once('-') {
            let bounds = (self.parse_value(low, at)?, self.parse_value(high, at + low.len() + 1)?);
            self.order(bounds, step, at, range)?
        } else {
            let value = self.parse_value(range, at)?;
            match step {
                Some(step) => self.open_range(value, step, at, item)?,
                None => (value, value),
            }
        };
        let values = (low..=high).step_by(step.unwrap_or(1) as usize);
        Ok(values.fold(0, |mask, value| mask | 1 << if self.is_weekday() { value % 7 } else { value }))
    }

    /// Sunday ends a week and begins one: as an end of `5-0` it is 7, as a start of `7-2` it is 0.
    fn order(
        &self,
        (low, high): (u32, u32),
        step: Option<u32>,
        at: usize,
        range: &str,
    ) -> Result<(u32, u32), CronError> {
        if low <= high {
            return Ok((low, high));
        }
        if self.is_weekday() && high == 0 {
            return Ok((low, 7));
        }
        if self.is_weekday() && low == 7 {
            return Ok((0, high));
        }
        let part = |from: u32, to: u32| if from == to { from.to_string() } else { format!("{from}-{to}") };
        let hint = match step {
            Some(_) => "list the values that you mean".to_owned(),
            None => format!("write `{},{}`", part(low, self.max), part(self.min, high)),
        };
        let message = format!("the range `{range}` runs backwards; cron ranges do not wrap around");
        Err(CronError::new(at, range.len(), message, hint))
    }

    fn open_range(&self, low: u32, step: u32, at: usize, item: &str) -> Result<(u32, u32), CronError> {
        if self.is_weekday() {
            let message = format!("`{item}` has no end, and engines disagree where a week ends");
            let hint = format!("write `{low}-6/{step}` or `{low}-7/{step}`");
            return Err(CronError::new(at, item.len(), message, hint));
        }
        Ok((low, self.max))
    }

    fn parse_step(&self, text: &str, at: usize) -> Result<u32, CronError> {
        let step = if is_number(text) { text.parse::<u32>().ok() } else { None };
        if let Some(step) = step.filter(|step| (1..=self.count()).contains(step)) {
            return Ok(step);
        }
        let message = match text {
            "" => format!("the step of the {} is missing", self.name),
            _ => format!("`{text}` is no step of the {}", self.name),
        };
        let hint = format!(
            "a step is 1 to {}; it counts within its field and starts over with each {}",
            self.count(),
            self.within
        );
        Err(CronError::new(at, text.len().max(1), message, hint))
    }

    fn parse_value(&self, text: &str, at: usize) -> Result<u32, CronError> {
        if is_number(text) {
            let bounds = self.min..=self.written_max();
            let value = text.parse::<u32>().ok().filter(|value| bounds.contains(value));
            let message = || format!("{} {text} is out of range", self.name);
            return value.ok_or_else(|| CronError::new(at, text.len(), message(), self.bounds_hint()));
        }
        match self.names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
            Some(index) => Ok(self.min + index as u32),
            None => Err(self.not_a_value(text, at)),
        }
    }

    fn not_a_value(&self, text: &str, at: usize) -> CronError {
        let length = text.len().max(1);
        let special = |c: &char| matches!(c.to_ascii_uppercase(), 'L' | 'W' | '#' | '?' | 'H' | 'R' | '*');
        // A long name, such as `monday`, begins with its short one.
        let short = text.get(..3).and_then(|start| self.names.iter().find(|n| n.eq_ignore_ascii_case(start)));
        let hint = match (short, text.chars().find(special)) {
            (Some(short), _) if text.chars().all(|c| c.is_ascii_alphabetic()) => format!("write `{short}`"),
            (_, Some('?')) => "write `*`: a day field that is `*` does not restrict the other".into(),
            (_, Some('*')) => "`*` stands alone or before a step, as in `*/2`".into(),
            (_, Some('H' | 'h' | 'R' | 'r')) => {
                "random and hashed values are unsupported: say which value you mean".into()
            }
            (_, Some(_)) => "`L`, `W` and `#` are not POSIX cron: run on each day that it can be, \
                             as in `0 0 28-31 * *`, and let a task's `when` decide"
                .into(),
            (_, None) => self.bounds_hint(),
        };
        let message = match text {
            "" => format!("the {} is missing here", self.name),
            _ => format!("`{text}` is no {}", self.name),
        };
        CronError::new(at, length, message, hint)
    }

    fn bounds_hint(&self) -> String {
        let numbers = format!("write {} to {}", self.min, self.written_max());
        match (self.names.first(), self.names.last()) {
            (Some(first), Some(last)) => format!("{numbers}, or {first} to {last}"),
            _ => numbers,
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
