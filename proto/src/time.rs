//! Instants and spans on the wire: protobuf's well-known messages, which in JSON are text.
//!
//! They are our own types since prost's have no serde, and those of `pbjson-types` write `+00:00` where proto3's
//! mapping says `Z`. Text is made and read by prost's.

use std::fmt;
use std::str::FromStr as _;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant; in JSON `"2013-01-02T05:00:00Z"` with 0, 3, 6 or 9 digits of a second. On the wire it is
/// `google.protobuf.Timestamp`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Message)]
pub struct Timestamp {
    /// Whole seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds after that second, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Timestamp {
    /// The instant so many milliseconds after 1970; negative ones lie before.
    pub const fn from_millis(millis: i64) -> Self {
        Self { seconds: millis.div_euclid(1_000), nanos: millis.rem_euclid(1_000) as i32 * 1_000_000 }
    }

    /// Milliseconds since 1970, rounded down; what is out of range becomes the nearest that is not.
    pub const fn as_millis(self) -> i64 {
        // `nanos` comes from the wire, and may be out of its bounds.
        let nanos_in_millis = (self.nanos as i64).div_euclid(1_000_000);
        self.seconds.saturating_mul(1_000).saturating_add(nanos_in_millis)
    }

    /// Reads RFC 3339 text.
    pub fn parse(text: &str) -> Result<Self, prost_types::TimestampError> {
        prost_types::Timestamp::from_str(text).map(|it| Self { seconds: it.seconds, nanos: it.nanos })
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        prost_types::Timestamp { seconds: self.seconds, nanos: self.nanos }.fmt(f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// A length of time; in JSON `"1.500s"`. On the wire it is `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds more, of the same sign.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Duration {
    /// The span of so many milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self { seconds: millis / 1_000, nanos: (millis % 1_000) as i32 * 1_000_000 }
    }

    /// Whole milliseconds; what is out of range becomes the nearest that is not.
    pub const fn as_millis(self) -> i64 {
        self.seconds.saturating_mul(1_000).saturating_add(self.nanos as i64 / 1_000_000)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        prost_types::Duration { seconds: self.seconds, nanos: self.nanos }.fmt(f)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let span = prost_types::Duration::from_str(&text).map_err(D::Error::custom)?;
        Ok(Self { seconds: span.seconds, nanos: span.nanos })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_rfc_3339_in_json() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (1_357_102_800_000, "2013-01-02T05:00:00Z"),
            (1_357_102_800_250, "2013-01-02T05:00:00.250Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
        ] {
            let instant = Timestamp::from_millis(millis);
            assert_eq!(instant.as_millis(), millis);
            assert_eq!(serde_json::to_string(&instant).unwrap(), format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Timestamp>(&format!("{text:?}")).unwrap(), instant);
        }
        assert_eq!(
            Timestamp::parse("2013-01-02T00:00:00-05:00").unwrap(),
            Timestamp::from_millis(1_357_102_800_000)
        );
        assert!(serde_json::from_str::<Timestamp>("\"soon\"").is_err());
    }

    #[test]
    fn what_the_wire_can_hold_does_not_overflow() {
        assert_eq!(Timestamp { seconds: i64::MAX, nanos: i32::MAX }.as_millis(), i64::MAX);
        assert_eq!(Duration { seconds: i64::MIN, nanos: i32::MIN }.as_millis(), i64::MIN);
    }

    #[test]
    fn a_span_is_seconds_in_json() {
        for (millis, text) in [(0, "0s"), (1_500, "1.500s"), (-1_500, "-1.500s"), (604_800_000, "604800s")] {
            let span = Duration::from_millis(millis);
            assert_eq!(span.as_millis(), millis);
            assert_eq!(serde_json::to_string(&span).unwrap(), format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Duration>(&format!("{text:?}")).unwrap(), span);
        }
    }
}
