//! An instant in a zone, as templates hold it: `logical_time` and what date filters make of it.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use matins_core::time::Timestamp;
use minijinja::value::{DynObject, Object, ObjectRepr, Value};

use crate::calendar::{self, Zone};

/// Shows itself in RFC 3339 with the offset of its zone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) time: Timestamp,
    pub(crate) zone: Zone,
}

impl Moment {
    pub(crate) fn value(time: Timestamp, zone: &Zone) -> Value {
        Value::from_object(Self { time, zone: zone.clone() })
    }

    pub(crate) fn text(&self) -> String {
        calendar::moment::datetime(self.time, &self.zone)
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl Object for Moment {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        other.downcast_ref::<Self>().map(|other| self.time.cmp(&other.time))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}
