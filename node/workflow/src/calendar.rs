//! When a workflow is due: cron texts, time zones, and what a DST night does to both.
//!
//! Start reading at [`Calendar`]: it unites [`Cron`] texts, a [`Zone`] and the two DST policies, and gives the
//! ticks after or before an instant. `cron` reads the text, `naive` matches it on zone-less local time (the only
//! place that knows the `cron` crate), `zone` cuts the time line at the changes of a zone's offset, and `ticks` maps
//! local ticks to instants piece by piece. `night` tells what the next changes of the clocks do. `moment` has the date functions of templates and the times that users
//! write, `literal` durations and sizes.
//!
//! Nothing here reads a clock, a file or the machine's zone tables: the tables are compiled in, so that nodes of one
//! release agree (PROTOCOL 3.5 has what happens between releases).

pub use cron::{CRON_BYTES_MAX, Cron, CronError};
pub use jiff::civil::Date;
pub use literal::{LiteralError, parse_duration, parse_signed_duration, parse_size};
pub use matins_core::ir::{Fold, Gap};
pub use moment::{MomentError, Unit, UserTime, day_bounds};
pub use night::{DstNight, NIGHT_TICKS_MAX};
pub use ticks::{Calendar, CalendarError, FoldCopy, Mark, Tick, Ticks};
pub use zone::{LocalTime, Zone, ZoneError, tz_version};

mod cron;
mod field;
mod literal;
pub mod moment;
mod naive;
mod night;
mod ticks;
mod zone;
