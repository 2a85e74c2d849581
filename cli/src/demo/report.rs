//! What came of the demonstration, in words, and what is wrong with it.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;

use super::heartbeat::Ticks;
use super::probe::Outage;
use crate::output::plain_span;

/// What `report.py --json` says about the warehouse, as far as it is told here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Warehouse {
    pub(super) days: u32,
    pub(super) days_expected: u32,
    pub(super) rows: u64,
    pub(super) rows_expected: u64,
    pub(super) loads: Loads,
    pub(super) ran_twice: Vec<RanTwice>,
    pub(super) overlapping: Vec<String>,
    pub(super) wrong: Vec<String>,
}

/// What became of the attempts to load a day.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Loads {
    pub(super) replaced: u32,
    pub(super) rejected: u32,
}

/// A task that was started more than once.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RanTwice {
    pub(super) run: String,
    pub(super) task: String,
}

/// One kill of the leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Kill {
    /// The node that was killed.
    pub(super) node: String,
    /// Attempts that its executor held.
    pub(super) held: Vec<String>,
    /// Of these, those that came to another end than the story wants.
    pub(super) unlike: Vec<String>,
    /// From the kill until each of them stood as the story wants.
    pub(super) settled: Duration,
}

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) runs: u32,
    pub(super) runs_success: u32,
    pub(super) attempts: u32,
    pub(super) leader_changes: u64,
    pub(super) outage: Outage,
    pub(super) back_in_time: Kill,
    pub(super) taken_over: Kill,
    pub(super) ticks: Ticks,
    pub(super) warehouse: Warehouse,
    pub(super) took: Duration,
}

impl Found {
    /// Everything that is not as promised.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.warehouse.wrong.clone();
        let mut check = |is_right: bool, text: String| {
            if !is_right {
                wrong.push(text);
            }
        };
        check(
            self.runs_success == self.runs,
            format!("{} runs did not succeed", self.runs - self.runs_success),
        );
        check(self.warehouse.days == self.warehouse.days_expected, "days are missing".into());
        check(self.warehouse.rows == self.warehouse.rows_expected, "the rows are not those expected".into());
        check(self.ticks.missed == 0, format!("{} ticks were missed", self.ticks.missed));
        check(self.ticks.doubled == 0, format!("{} ticks were doubled", self.ticks.doubled));
        check(self.ticks.unwell == 0, format!("{} heartbeats did not succeed", self.ticks.unwell));
        check(self.leader_changes >= 2, "the leader did not change twice".into());
        for attempt in &self.back_in_time.unlike {
            check(false, format!("{attempt} was lost although its node came back in time"));
        }
        for attempt in &self.taken_over.unlike {
            check(false, format!("{attempt} was not taken over"));
        }
        wrong
    }
}

/// The report that a person reads.
pub(super) fn in_words(found: &Found) -> String {
    let mut text = String::new();
    let mut line = |title: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{title:22} {value}");
    };
    let span = |span: Duration| plain_span(i64::try_from(span.as_millis()).unwrap_or(i64::MAX));
    let Found { warehouse, ticks, outage, back_in_time, taken_over, .. } = found;
    line("days done", format!("{} of {}", warehouse.days, warehouse.days_expected));
    line("rows loaded", format!("{} of {}", warehouse.rows, warehouse.rows_expected));
    line("attempts", format!("{} in {} runs", found.attempts, found.runs));
    line("leader changes", found.leader_changes.to_string());
    let longest =
        format!("{} in {} times, {} at most", span(outage.total), outage.count, span(outage.longest));
    line("without a leader", longest);
    let went_on = back_in_time.held.len() - back_in_time.unlike.len();
    line(
        "first kill",
        format!(
            "{}: came back in time, {went_on} of {} attempts went on",
            back_in_time.node,
            back_in_time.held.len()
        ),
    );
    let taken = taken_over.held.len() - taken_over.unlike.len();
    line(
        "second kill",
        format!(
            "{}: stayed down, {taken} of {} tasks taken over, the last after {}",
            taken_over.node,
            taken_over.held.len(),
            span(taken_over.settled)
        ),
    );
    line(
        "ticks of the heartbeat",
        format!("{} due, {} missed, {} doubled", ticks.due, ticks.missed, ticks.doubled),
    );
    let harm =
        if warehouse.overlapping.is_empty() && warehouse.wrong.is_empty() { "no harm" } else { "HARM" };
    line(
        "tasks that ran twice",
        format!(
            "{}, {} at the same time; {} loads replaced, {} rejected: {harm}",
            warehouse.ran_twice.len(),
            warehouse.overlapping.len(),
            warehouse.loads.replaced,
            warehouse.loads.rejected
        ),
    );
    for task in &warehouse.ran_twice {
        line("", format!("{}/{}", task.run, task.task));
    }
    line("took", span(found.took));
    let wrong = found.wrong();
    for what in &wrong {
        line("WRONG", what.clone());
    }
    line(
        "",
        if wrong.is_empty() { "all is right".into() } else { format!("{} things are wrong", wrong.len()) },
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let kill = |node: &str| Kill {
            node: node.into(),
            held: vec!["run-3/transform.1".into()],
            ..Kill::default()
        };
        let warehouse = Warehouse {
            days: 31,
            days_expected: 31,
            rows: 27_004,
            rows_expected: 27_004,
            ..Warehouse::default()
        };
        Found {
            runs: 31,
            runs_success: 31,
            attempts: 230,
            leader_changes: 2,
            back_in_time: kill("n1"),
            taken_over: kill("n3"),
            ticks: Ticks { due: 75, ..Ticks::default() },
            warehouse,
            took: Duration::from_secs(81),
            ..Found::default()
        }
    }

    #[test]
    fn all_is_right_only_if_everything_is() {
        assert_eq!(found().wrong(), Vec::<String>::new());
        assert!(in_words(&found()).contains("all is right"));
        let mut bad = found();
        bad.ticks.doubled = 1;
        bad.warehouse.rows = 27_003;
        bad.taken_over.unlike = bad.taken_over.held.clone();
        assert_eq!(bad.wrong().len(), 3);
        assert!(in_words(&bad).contains("3 things are wrong"));
    }

    #[test]
    fn the_script_is_understood() {
        let text = r#"{"days":31,"daysExpected":31,"rows":5,"rowsExpected":5,"loads":{"loaded":31,"replaced":1,"repeated":0,
            "rejected":2},"notFirst":[],"ranTwice":[{"day":"2013-01-05","run":"run-5","task":"load","fences":[1,2]}],
            "overlapping":[],"wrong":[]}"#;
        let warehouse: Warehouse = serde_json::from_str(text).unwrap();
        assert_eq!((warehouse.loads.replaced, warehouse.ran_twice[0].task.as_str()), (1, "load"));
    }
}
