//! Durations and sizes as the language writes them (LANGUAGE 1.16): `1h30m`, `512Mi`. A bare number is an error.

use matins_core::time::Millis;

const DURATION_UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const SIZE_UNITS: [(&str, u64); 4] = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("Ti", 1 << 40)];

/// Why a duration or a size was turned down.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LiteralError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

impl LiteralError {
    fn new(message: String, hint: impl Into<String>) -> Self {
        Self { message, hint: hint.into() }
    }
}

/// Reads `500ms`, `10s`, `5m`, `1h30m`, `7d`, `2w`: whole numbers, larger units first, each unit once. A day is 24 h.
pub fn parse_duration(text: &str) -> Result<Millis, LiteralError> {
    if let Some(rest) = text.strip_prefix('-') {
        parse_duration(rest)?;
        return Err(LiteralError::new(
            format!("the duration `{text}` is negative"),
            format!("write `{rest}`"),
        ));
    }
    let faulty = || {
        LiteralError::new(
            format!("`{text}` is no duration"),
            "write a number and a unit, as in `90s` or `1h30m`",
        )
    };
    if is_number(text) {
        let message = format!("{text} what? a duration has a unit");
        return Err(LiteralError::new(message, format!("write `{text}s`")));
    }
    let mut total: u64 = 0;
    let mut units_left = DURATION_UNITS.iter();
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest).ok_or_else(faulty)?;
        let unit_end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if !DURATION_UNITS.iter().any(|(name, _)| *name == unit) {
            return Err(unknown_unit(text, unit));
        }
        let Some((_, millis)) = units_left.find(|(name, _)| *name == unit) else {
            let message = format!("the units of the duration `{text}` are out of order");
            return Err(LiteralError::new(message, "write each unit once, the largest first, as in `1h30m`"));
        };
        let part = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*millis));
        total = part
            .and_then(|part| total.checked_add(part))
            .filter(|total| i64::try_from(*total).is_ok())
            .ok_or_else(|| {
            LiteralError::new(format!("the duration `{text}` is too long"), "the longest is 15250284452w")
        })?;
        rest = after;
    }
    if text.is_empty() { Err(faulty()) } else { Ok(Millis(total)) }
}

/// The same with a sign before it, as in the filter `add('-1d')`; in milliseconds.
pub fn parse_signed_duration(text: &str) -> Result<i64, LiteralError> {
    match text.strip_prefix('-') {
        Some(rest) => parse_duration(rest).map(|span| -(span.0 as i64)),
        None => parse_duration(text.strip_prefix('+').unwrap_or(text)).map(|span| span.0 as i64),
    }
}

/// Reads `512Mi` or `2Gi` (also `Ki`, `Ti`), in bytes.
pub fn parse_size(text: &str) -> Result<u64, LiteralError> {
    let faulty =
        || LiteralError::new(format!("`{text}` is no size"), "write a number and a unit, as in `512Mi`");
    if is_number(text) {
        let message = format!("{text} what? a size has a unit");
        return Err(LiteralError::new(message, format!("write `{text}Mi`")));
    }
    let (number, unit) = split_number(text).ok_or_else(faulty)?;
    let Some((_, bytes)) = SIZE_UNITS.iter().find(|(name, _)| *name == unit) else {
        let known = SIZE_UNITS.iter().find(|(name, _)| {
            unit.get(..1).is_some_and(|letter| !letter.is_empty() && letter.eq_ignore_ascii_case(&name[..1]))
        });
        return Err(match known {
            Some((name, _)) => {
                let message = format!("`{unit}` is no unit of a size");
                LiteralError::new(message, format!("write `{number}{name}`, which counts in powers of 1024"))
            }
            None => faulty(),
        });
    };
    let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*bytes));
    size.ok_or_else(|| {
        LiteralError::new(format!("the size `{text}` is too large"), "the largest is 16777215Ti")
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits that a text begins with, and the rest; none if it begins with something else.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn unknown_unit(text: &str, unit: &str) -> LiteralError {
    let hint = match unit {
        "" => "write whole numbers and their units, as in `1h30m` for an hour and a half".to_owned(),
        _ => "the units are `ms s m h d w`".to_owned(),
    };
    let message = match unit {
        "" => format!("`{text}` is no duration"),
        _ => format!("`{unit}` is no unit of a duration"),
    };
    LiteralError::new(message, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2w", 1_209_600_000),
            ("0s", 0),
            ("1w1d1h1m1s1ms", 694_861_001),
        ] {
            assert_eq!(parse_duration(text), Ok(Millis(millis)), "{text}");
        }
        assert_eq!(parse_signed_duration("-1d"), Ok(-86_400_000));
        assert_eq!(parse_signed_duration("+90s"), Ok(90_000));
    }

    #[test]
    fn a_bare_number_asks_for_its_unit() {
        let error = parse_duration("10").unwrap_err();
        assert_eq!(error.message, "10 what? a duration has a unit");
        assert_eq!(error.hint, "write `10s`");
        assert_eq!(parse_size("512").unwrap_err().hint, "write `512Mi`");
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "1.5h",
            "1 h",
            "1h 30m",
            "30m1h",
            "1m1m",
            "1y",
            "10S",
            "-5m",
            "--5m",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration("15250284452w").is_ok());
        assert!(parse_duration("15250284453w").is_err());
        assert!(parse_signed_duration("--1d").is_err());
    }

    #[test]
    fn sizes_count_in_powers_of_two() {
        assert_eq!(parse_size("512Mi"), Ok(512 << 20));
        assert_eq!(parse_size("2Gi"), Ok(2 << 30));
        assert_eq!(parse_size("512MB").unwrap_err().hint, "write `512Mi`, which counts in powers of 1024");
        for text in ["", "Mi", "1.5Gi", "1é", "20000000Ti", "-1Mi"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
