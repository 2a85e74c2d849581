//! Times and spans for people: relative on a terminal, RFC 3339 otherwise.

use matins_proto::Timestamp;

use super::Look;

/// An instant: `5m ago`, `in 2h`, or RFC 3339.
pub(crate) fn moment(time: Timestamp, look: &Look) -> String {
    let Some(now) = look.now else { return time.to_string() };
    let millis = now.as_millis().saturating_sub(time.as_millis());
    match millis {
        ..-1_000 => format!("in {}", plain_span(millis.saturating_neg())),
        -1_000..1_000 => "now".to_owned(),
        1_000.. => format!("{} ago", plain_span(millis)),
    }
}

/// From one instant to another, or to now where the end is not there yet and a person looks on. Empty if unknown.
pub(crate) fn span_between(start: Option<Timestamp>, end: Option<Timestamp>, look: &Look) -> String {
    let Some((start, end)) = start.zip(end.or(look.now)) else { return String::new() };
    plain_span(end.as_millis().saturating_sub(start.as_millis()).max(0))
}

/// A span in its two largest units: `320ms`, `5.2s`, `3m20s`, `2h5m`, `3d4h`.
pub(crate) fn plain_span(millis: i64) -> String {
    let seconds = millis / 1_000;
    let two = |large: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{small_unit}"),
    };
    match seconds {
        ..1 => format!("{}ms", millis.max(0)),
        1..10 => format!("{seconds}.{}s", millis % 1_000 / 100),
        10..60 => format!("{seconds}s"),
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        86_400.. => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (millis, text) in [
            (0, "0ms"),
            (320, "320ms"),
            (5_250, "5.2s"),
            (42_000, "42s"),
            (200_000, "3m20s"),
            (180_000, "3m"),
            (7_500_000, "2h5m"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(plain_span(millis), text);
        }
    }

    #[test]
    fn times_are_relative_only_for_people() {
        let at = Timestamp::from_millis(1_357_102_800_000);
        assert_eq!(moment(at, &Look::PLAIN), "2013-01-02T05:00:00Z");
        let later =
            |millis| Look { now: Some(Timestamp::from_millis(at.as_millis() + millis)), ..Look::PLAIN };
        assert_eq!(moment(at, &later(300_000)), "5m ago");
        assert_eq!(moment(at, &later(-7_200_000)), "in 2h");
        assert_eq!(moment(at, &later(400)), "now");
    }
}
