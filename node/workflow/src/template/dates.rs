//! The date filters. They take a time, or the text of one, and work in its zone.

#![expect(clippy::needless_pass_by_value, reason = "the engine hands the arguments of filters over")]

use std::borrow::Cow;

use matins_core::time::Timestamp;
use minijinja::value::Value;
use minijinja::{Environment, Error, State};

use super::moment::Moment;
use super::value::{invalid, kind_name};
use crate::calendar::{self, Unit, UserTime, Zone};

/// Under this name, which no expression can write, the context holds a time in the zone of date filters.
pub(crate) const ZONE_KEY: &str = " zone";

pub(crate) fn add_all(env: &mut Environment<'static>) {
    env.add_filter("add", add);
    env.add_filter("add_days", add_days);
    env.add_filter("add_months", add_months);
    env.add_filter("date", date);
    env.add_filter("datetime", datetime);
    env.add_filter("in_zone", in_zone);
    env.add_filter("start_of", start_of);
    env.add_filter("strftime", strftime);
    env.add_filter("unix", unix);
    env.add_filter("weekday", weekday);
}

/// A time, or the text of one: a date is its first instant in the zone of date filters.
fn moment(state: &State, value: &Value) -> Result<Moment, Error> {
    if let Some(moment) = value.downcast_object_ref::<Moment>() {
        return Ok(moment.clone());
    }
    let Some(text) = value.as_str() else {
        return Err(invalid(format!("a date filter takes a time, not {}", kind_name(value))));
    };
    let zone = default_zone(state);
    // The fault's own words quote the text, which is a value of the run.
    let time = UserTime::parse(text, &zone)
        .map_err(|_| invalid("the text is no date and no time such as `2013-01-31T02:30:00Z`"))?;
    Ok(Moment { time: time.first(), zone })
}

fn default_zone(state: &State) -> Zone {
    let holder = state.lookup(ZONE_KEY);
    let moment = holder.as_ref().and_then(Value::downcast_object_ref::<Moment>);
    moment.map_or_else(Zone::utc, |moment| moment.zone.clone())
}

fn moved(zone: &Zone, time: Result<Timestamp, calendar::MomentError>) -> Result<Value, Error> {
    time.map(|time| Moment::value(time, zone)).map_err(|fault| invalid(fault.to_string()))
}

fn date(state: &State, value: &Value) -> Result<String, Error> {
    let at = moment(state, value)?;
    Ok(calendar::moment::date(at.time, &at.zone))
}

fn datetime(state: &State, value: &Value) -> Result<String, Error> {
    Ok(moment(state, value)?.text())
}

fn strftime(state: &State, value: &Value, pattern: Cow<'_, str>) -> Result<String, Error> {
    let at = moment(state, value)?;
    calendar::moment::strftime(at.time, &at.zone, &pattern).map_err(|fault| invalid(fault.to_string()))
}

fn add(state: &State, value: &Value, span: Cow<'_, str>) -> Result<Value, Error> {
    let at = moment(state, value)?;
    let millis = calendar::parse_signed_duration(&span).map_err(|fault| invalid(fault.to_string()))?;
    moved(&at.zone, calendar::moment::add(at.time, millis))
}

fn add_days(state: &State, value: &Value, days: i64) -> Result<Value, Error> {
    let at = moment(state, value)?;
    moved(&at.zone, calendar::moment::add_days(at.time, &at.zone, days))
}

fn add_months(state: &State, value: &Value, months: i64) -> Result<Value, Error> {
    let at = moment(state, value)?;
    moved(&at.zone, calendar::moment::add_months(at.time, &at.zone, months))
}

fn in_zone(state: &State, value: &Value, name: Cow<'_, str>) -> Result<Value, Error> {
    let at = moment(state, value)?;
    let zone = Zone::parse(&name).map_err(|fault| invalid(fault.to_string()))?;
    Ok(Moment::value(at.time, &zone))
}

fn start_of(state: &State, value: &Value, unit: Cow<'_, str>) -> Result<Value, Error> {
    let at = moment(state, value)?;
    let unit = match unit.as_ref() {
        "hour" => Unit::Hour,
        "day" => Unit::Day,
        "week" => Unit::Week,
        "month" => Unit::Month,
        "year" => Unit::Year,
        other => {
            return Err(invalid(format!("`start_of` takes hour, day, week, month or year, not `{other}`")));
        }
    };
    moved(&at.zone, calendar::moment::start_of(unit, at.time, &at.zone))
}

/// 1 is Monday.
fn weekday(state: &State, value: &Value) -> Result<u32, Error> {
    let at = moment(state, value)?;
    Ok(calendar::moment::weekday(at.time, &at.zone))
}

/// Whole seconds since 1970.
fn unix(state: &State, value: &Value) -> Result<i64, Error> {
    Ok(calendar::moment::unix(moment(state, value)?.time))
}
