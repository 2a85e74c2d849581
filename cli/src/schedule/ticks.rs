//! The ticks to come, computed here from a calendar, and what a DST night does to them.

use matins_core::time::Timestamp;
use matins_proto::v1::{Tick, tick::Note};
use matins_workflow::calendar::{Calendar, DstNight, FoldCopy, Mark, moment};

use crate::output::{Cell, Column, Look, Row};

/// Changes of the clocks that `check` tells of each schedule: the next spring and the next autumn.
const NIGHTS: usize = 2;

impl Row for Tick {
    const PLURAL: &'static str = "ticks";
    const COLUMNS: &'static [Column] = &[
        Column::new("LOGICAL TIME"),
        Column::new("LOCAL"),
        Column::new("INTERVAL START"),
        Column::new("NOTE"),
    ];

    fn name(&self) -> String {
        self.logical_time.map(|time| time.to_string()).unwrap_or_default()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        // A tick is known by its exact time, so none of these is relative to now.
        let exact = |time: Option<matins_proto::Timestamp>| time.map(|it| it.to_string()).unwrap_or_default();
        let note = match self.note() {
            Note::Usual => "",
            Note::GapShifted => "in a gap: its local time does not exist, shifted",
            Note::FoldFirst => "in a fold: the first of two equal local times",
            Note::FoldSecond => "in a fold: the second of two equal local times",
            Note::GapSkipped => "in a gap: its local time does not exist, no tick",
        };
        vec![
            Cell::text(exact(self.logical_time)),
            Cell::text(&self.local),
            Cell::text(exact(self.interval_start)),
            Cell::text(note),
        ]
    }
}

/// The next `count` ticks strictly after `after`, with those that a gap swallows in their places.
pub(crate) fn next_ticks(calendar: &Calendar, after: Timestamp, count: usize) -> Vec<Tick> {
    let wire = |time: Timestamp| Some(matins_proto::Timestamp::from_millis(time.as_millis()));
    let mut last = after;
    let mut ticks = Vec::new();
    for tick in calendar.ticks(after, Timestamp::MAX, count) {
        let note = match tick.mark {
            None => Note::Usual,
            Some(Mark::Gap { .. }) => Note::GapShifted,
            Some(Mark::Fold(FoldCopy::First)) => Note::FoldFirst,
            Some(Mark::Fold(FoldCopy::Second)) => Note::FoldSecond,
        };
        ticks.push(Tick {
            logical_time: wire(tick.at),
            interval_start: calendar.previous_before(tick.at).and_then(|before| wire(before.at)),
            local: moment::datetime(tick.at, calendar.zone()),
            note: note.into(),
        });
        last = tick.at;
    }
    let mut from = after;
    while let Some(night) = calendar.dst_nights(from, 1).pop().filter(|night| night.at <= last) {
        from = night.at;
        for local in &night.skipped {
            let place = ticks.partition_point(|tick| tick.logical_time < wire(night.at));
            let (local, note) = (local.to_string(), Note::GapSkipped.into());
            ticks.insert(place, Tick { logical_time: wire(night.at), interval_start: None, local, note });
        }
    }
    ticks
}

/// What the next changes of the clocks do to a schedule, one line each; none where the zone has no more of them.
pub(crate) fn nights(calendar: &Calendar, after: Timestamp) -> Vec<String> {
    calendar.dst_nights(after, NIGHTS).iter().map(|night| night_text(calendar, night)).collect()
}

fn night_text(calendar: &Calendar, night: &DstNight) -> String {
    let clock = |text: &str| {
        text.split_once('T').map_or(text, |(_, clock)| clock).get(..8).unwrap_or(text).to_owned()
    };
    let mut parts: Vec<String> = Vec::new();
    for tick in &night.ticks {
        let local = moment::datetime(tick.at, calendar.zone());
        parts.push(match tick.mark {
            Some(Mark::Gap { nominal }) => {
                format!("{} does not exist, runs at {}", clock(&nominal.to_string()), clock(&local))
            }
            Some(Mark::Fold(FoldCopy::First)) => {
                format!("{} is there twice, runs at the first", clock(&local))
            }
            Some(Mark::Fold(FoldCopy::Second)) => {
                format!("{} is there twice, runs at the second", clock(&local))
            }
            None => continue,
        });
    }
    parts.extend(
        night.skipped.iter().map(|local| format!("{} does not exist, no run", clock(&local.to_string()))),
    );
    let what = if parts.is_empty() { "no tick is touched".to_owned() } else { parts.join("; ") };
    let (from, to) = (night.from.to_string(), night.to.to_string());
    let day = from.split_once('T').map_or(from.as_str(), |(day, _)| day);
    let way = if night.from < night.to { "forward" } else { "back" };
    format!("{day} the clocks go {way}, {} to {}: {what}", clock(&from), clock(&to))
}
