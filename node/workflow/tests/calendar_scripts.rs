//! Golden scripts of the calendar, in `scripts/calendar/`: what cron texts mean, what a DST night does, how faults
//! are told.
//!
//! - `cron TEXT` reads a cron text;
//! - `next TEXT.. after=T [zone=Z] [count=N] [gap=G] [fold=F]` and `before TEXT.. at=T [..]` ask for ticks;
//! - `nights TEXT.. at=T [..]` tells what the next two changes of the clocks do;
//! - `zone NAME`, `time TEXT [zone=Z]`, `duration TEXT` and `size TEXT` read what users write;
//! - `filter NAME T [ARG] [zone=Z]` calls a date function of templates.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::error::Error;
use std::fmt::Write;

use goldenscript::{ArgumentConsumer, Command, Context};
use matins_core::time::Timestamp;
use matins_workflow::calendar::{
    Calendar, Cron, Fold, FoldCopy, Gap, Mark, Tick, UserTime, Zone, moment, parse_duration,
    parse_signed_duration, parse_size,
};

type Answer = Result<String, Box<dyn Error>>;

struct Script;

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Answer {
        let mut args = command.consume_args();
        let answer = match command.name.as_str() {
            "cron" => cron(args.next_pos().unwrap()),
            "next" | "before" | "nights" => ticks(&command.name, &mut args)?,
            "zone" => zone(args.next_pos().unwrap()),
            "time" => time(&mut args)?,
            "duration" => match parse_duration(args.next_pos().unwrap()) {
                Ok(span) => format!("{} ms\n", span.0),
                Err(error) => told(&error.message, &error.hint),
            },
            "size" => match parse_size(args.next_pos().unwrap()) {
                Ok(bytes) => format!("{bytes}\n"),
                Err(error) => told(&error.message, &error.hint),
            },
            "filter" => filter(&mut args)?,
            name => return Err(format!("unknown command {name}").into()),
        };
        args.reject_next()?;
        Ok(answer)
    }
}

fn told(message: &str, hint: &str) -> String {
    format!("error: {message}\nhint: {hint}\n")
}

fn cron(text: &str) -> String {
    match Cron::parse(text) {
        Ok(cron) if cron.never_fires() => format!("{cron}: never fires\n"),
        Ok(cron) if cron.is_every_hour() => format!("{cron}: every hour\n"),
        Ok(cron) => format!("{cron}: ok\n"),
        Err(error) => {
            let caret = format!("{}{}", " ".repeat(error.position), "^".repeat(error.length));
            format!("{text}\n{caret}\n{}", told(&error.message, &error.hint))
        }
    }
}

fn ticks(name: &str, args: &mut ArgumentConsumer<'_>) -> Answer {
    let zone = Zone::parse(args.take_key("zone").unwrap_or("UTC"))?;
    let gap = match args.take_key("gap") {
        None | Some("shift") => Gap::Shift,
        Some("skip") => Gap::Skip,
        Some(gap) => return Err(format!("unknown gap {gap}").into()),
    };
    let fold = match args.take_key("fold") {
        None => None,
        Some("first") => Some(Fold::First),
        Some("second") => Some(Fold::Second),
        Some("both") => Some(Fold::Both),
        Some(fold) => return Err(format!("unknown fold {fold}").into()),
    };
    let count: usize = args.take_key("count").unwrap_or("1").parse()?;
    let bound = args.take_key(if name == "next" { "after" } else { "at" }).unwrap();
    let bound = UserTime::parse(bound, &zone)?.first();
    let mut crons = Vec::new();
    while let Some(text) = args.next_pos() {
        crons.push(Cron::parse(text)?);
    }
    let calendar = Calendar::new(crons, zone, gap, fold);
    if name == "nights" {
        return Ok(nights(&calendar, bound));
    }
    let ticks: Vec<Tick> = match name {
        "next" => calendar.ticks(bound, Timestamp::MAX, count).collect(),
        _ => calendar.previous_before(bound).into_iter().collect(),
    };
    let mut text = String::new();
    for tick in &ticks {
        writeln!(text, "{}{}", moment::datetime(tick.at, calendar.zone()), mark(tick)).unwrap();
    }
    Ok(if ticks.is_empty() { "never\n".into() } else { text })
}

fn nights(calendar: &Calendar, after: Timestamp) -> String {
    let mut text = String::new();
    for night in calendar.dst_nights(after, 2) {
        writeln!(text, "{} becomes {}", night.from, night.to).unwrap();
        for tick in &night.ticks {
            writeln!(text, "  {}{}", moment::datetime(tick.at, calendar.zone()), mark(tick)).unwrap();
        }
        for local in &night.skipped {
            writeln!(text, "  {local} skipped").unwrap();
        }
    }
    text
}

fn mark(tick: &Tick) -> String {
    match tick.mark {
        None => String::new(),
        Some(Mark::Gap { nominal }) => format!(" (gap, for {nominal})"),
        Some(Mark::Fold(FoldCopy::First)) => " (fold, first)".into(),
        Some(Mark::Fold(FoldCopy::Second)) => " (fold, second)".into(),
    }
}

fn zone(name: &str) -> String {
    match Zone::parse(name) {
        Ok(zone) => format!("{zone}: ok\n"),
        // The release of the tables changes with the dependency.
        Err(error) => told(
            &error.to_string().replace(matins_workflow::calendar::tz_version(), "VERSION"),
            &error.hint(),
        ),
    }
}

fn time(args: &mut ArgumentConsumer<'_>) -> Answer {
    let zone = Zone::parse(args.take_key("zone").unwrap_or("UTC"))?;
    let utc = |at| moment::datetime(at, &Zone::utc());
    Ok(match UserTime::parse(args.next_pos().unwrap(), &zone) {
        Ok(UserTime::Instant(at)) => format!("{}\n", utc(at)),
        Ok(UserTime::Day { first, last }) => format!("{} to {}\n", utc(first), utc(last)),
        Err(error) => told(&error.message, &error.hint),
    })
}

fn filter(args: &mut ArgumentConsumer<'_>) -> Answer {
    let zone = Zone::parse(args.take_key("zone").unwrap_or("UTC"))?;
    let name = args.next_pos().unwrap();
    let at = UserTime::parse(args.next_pos().unwrap(), &zone)?.first();
    let argument = args.next_pos().unwrap_or_default();
    let moved = match name {
        "date" => return Ok(format!("{}\n", moment::date(at, &zone))),
        "weekday" => return Ok(format!("{}\n", moment::weekday(at, &zone))),
        "unix" => return Ok(format!("{}\n", moment::unix(at))),
        "strftime" => {
            return Ok(moment::strftime(at, &zone, argument)
                .map_or_else(|error| told(&error.message, &error.hint), |text| format!("{text}\n")));
        }
        "datetime" => Ok(at),
        "add" => moment::add(at, parse_signed_duration(argument)?),
        "add_days" => moment::add_days(at, &zone, argument.parse()?),
        "add_months" => moment::add_months(at, &zone, argument.parse()?),
        "start_of" => argument.parse().and_then(|unit| moment::start_of(unit, at, &zone)),
        name => return Err(format!("unknown filter {name}").into()),
    };
    Ok(match moved {
        Ok(at) => format!("{}\n", moment::datetime(at, &zone)),
        Err(error) => told(&error.message, &error.hint),
    })
}

#[test]
fn cron_texts() {
    goldenscript::run(&mut Script, "tests/scripts/calendar/cron").unwrap();
}

#[test]
fn ticks_of_plain_days() {
    goldenscript::run(&mut Script, "tests/scripts/calendar/ticks").unwrap();
}

#[test]
fn ticks_of_dst_nights() {
    goldenscript::run(&mut Script, "tests/scripts/calendar/dst").unwrap();
}

#[test]
fn times_that_users_write() {
    goldenscript::run(&mut Script, "tests/scripts/calendar/times").unwrap();
}

#[test]
fn date_functions_of_templates() {
    goldenscript::run(&mut Script, "tests/scripts/calendar/filters").unwrap();
}
