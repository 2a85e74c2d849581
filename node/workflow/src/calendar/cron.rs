//! A cron text, read and checked (DESIGN 4): five fields, or six with the seconds first, or a name such as `@daily`.

use std::fmt;

use super::field::{DAY, Field, HOUR, MINUTE, MONTH, SECOND, WEEKDAY};
use super::naive::Matcher;

/// A longer cron text is refused.
pub const CRON_BYTES_MAX: usize = 1024;

const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// One POSIX cron text. A day matches if the day of the month OR the day of the week matches where both are given;
/// a day field is *given* unless it is `*` itself (so `*/2` is given, as in croniter).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    text: String,
    is_every_hour: bool,
    pub(super) matcher: Matcher,
}

/// Why a cron text was turned down, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CronError {
    /// Byte of the text at which the fault begins; its length where something is missing at the end.
    pub position: usize,
    /// Bytes that the fault covers, at least 1 (which may lie behind the end of the text).
    pub length: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// The fields in the order of the text, seconds first.
pub(super) struct Fields {
    pub(super) second: Field,
    pub(super) minute: Field,
    pub(super) hour: Field,
    pub(super) day: Field,
    pub(super) month: Field,
    pub(super) weekday: Field,
}

impl Cron {
    /// Reads five fields (`minute hour day month weekday`), six (`second` before them), or `@yearly @annually
    /// @monthly @weekly @daily @midnight @hourly`. Names are three letters, in any case; 0 and 7 are Sunday.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        if text.len() > CRON_BYTES_MAX {
            let message = format!("a cron text has at most {CRON_BYTES_MAX} bytes, this one {}", text.len());
            return Err(CronError::new(0, 1, message, "split it into a list of cron texts".into()));
        }
        let expanded = if text.trim().starts_with('@') { named(text)? } else { text };
        let fields = Fields::parse(expanded)?;
        Ok(Self {
            text: text.trim().to_owned(),
            is_every_hour: fields.hour.is_full(&HOUR),
            matcher: Matcher::new(&fields),
        })
    }

    /// The text as it was written, without the space around it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the hour field is a wildcard: `*`, or another way to write every hour. Such a schedule follows
    /// elapsed time, so by default it fires in both copies of an hour that occurs twice.
    pub fn is_every_hour(&self) -> bool {
        self.is_every_hour
    }

    /// Whether no day of any year matches, as in `0 0 30 2 *`.
    pub fn never_fires(&self) -> bool {
        self.matcher.at_or_after(i64::MIN).is_none()
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl CronError {
    pub(super) fn new(position: usize, length: usize, message: String, hint: String) -> Self {
        Self { position, length, message, hint }
    }
}

impl Fields {
    fn parse(text: &str) -> Result<Self, CronError> {
        let words = words(text);
        let (second, rest) = match words.as_slice() {
            [(at, first), ..] if first.contains('=') => {
                let message = format!("`{first}` does not belong into a cron text");
                let hint = "a schedule's zone is its key `timezone`".into();
                return Err(CronError::new(*at, first.len(), message, hint));
            }
            rest @ [_, _, _, _, _] => (Field::only(0), rest),
            [(at, second), rest @ ..] if rest.len() == 5 => (SECOND.parse(second, *at)?, rest),
            _ => return Err(field_count(text, &words)),
        };
        let field = |index: usize, kind: &super::field::FieldKind| kind.parse(rest[index].1, rest[index].0);
        Ok(Self {
            second,
            minute: field(0, &MINUTE)?,
            hour: field(1, &HOUR)?,
            day: field(2, &DAY)?,
            month: field(3, &MONTH)?,
            weekday: field(4, &WEEKDAY)?,
        })
    }
}

/// The words of a text with their byte positions.
fn words(text: &str) -> Vec<(usize, &str)> {
    text.split_whitespace().map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word)).collect()
}

fn field_count(text: &str, words: &[(usize, &str)]) -> CronError {
    let (position, length) = match words.get(6) {
        Some((at, word)) => (*at, word.len()),
        None => (text.trim_end().len(), 1),
    };
    let message =
        format!("a cron text has five fields, or six with seconds, and this one has {}", words.len());
    let hint = match words.len() {
        7.. => "there is no field for years; leave it out".into(),
        _ => "write `minute hour day month weekday`, as in `30 2 * * *`".into(),
    };
    CronError::new(position, length, message, hint)
}

/// The five fields that a name such as `@daily` stands for.
fn named(text: &str) -> Result<&'static str, CronError> {
    let name = text.trim();
    let position = text.len() - text.trim_start().len();
    let lower = name.to_ascii_lowercase();
    if let Some((_, fields)) = NAMED.iter().find(|(known, _)| *known == lower) {
        return Ok(fields);
    }
    let hint = if lower == "@reboot" {
        "a cluster does not boot; a run can be started by hand, with `matins start`".into()
    } else if lower.starts_with("@every") {
        "write fields with a step, as in `*/5 * * * *`".into()
    } else {
        let known: Vec<&str> = NAMED.iter().map(|(known, _)| *known).collect();
        format!("the names are {}", known.join(" "))
    };
    Err(CronError::new(position, name.len(), format!("`{name}` names no schedule"), hint))
}
