//! What filters take, and how their faults are told.

use matins_proto::v1::run;
use proptest::prelude::*;

use super::*;

fn failed_run() -> Run {
    Run {
        id: "run-42".into(),
        workflow: "warehouse/nightly".into(),
        version: Some(3),
        state: run::State::Failed.into(),
        created_at: Some(matins_proto::Timestamp::parse("2026-03-08T07:30:00Z").unwrap()),
        started_at: Some(matins_proto::Timestamp::parse("2026-03-08T07:30:00Z").unwrap()),
        finished_at: Some(matins_proto::Timestamp::parse("2026-03-08T08:00:00Z").unwrap()),
        params: Some(matins_proto::Json { text: r#"{"day":"2026-03-07","batch":500}"#.into() }),
        labels: [("team".to_owned(), "data".to_owned())].into(),
        ..Run::default()
    }
}

#[test]
fn terms_ask_by_text_number_and_time() {
    for (filter, expected) in [
        ("", true),
        ("state = failed", true),
        ("state != failed", false),
        ("workflow=warehouse/* and labels.team = data", true),
        ("workflow = *nightly AND id > run-9", true),
        ("workflow = warehouse/nightly", true),
        ("workflow = nightly", false),
        ("workflow != nightly", true),
        ("id >= run-43", false),
        ("version < 10", true),
        ("params.batch = 500", true),
        ("params.day = \"2026-03-07\" AND state=success", false),
        ("created_at = 2026-03-08", true),
        ("created_at > 2026-03-08", false),
        ("created_at <= 2026-03-08T07:30:00Z", true),
        ("backfill = backfill-1", false),
        ("backfill != backfill-1", true),
        ("state=failed and workflow=~nightly", true),
        ("workflow=~^nightly", false),
        ("workflow =~ /(nightly|hourly)$ and not state = success", true),
        ("workflow =~ '^x y$' or id = run-42", true),
        ("(state = success OR state = failed) AND NOT (labels.team = ops)", true),
        ("state = success OR state = failed AND labels.team = ops", false),
        ("NOT NOT state = failed", true),
        ("took > 10m", true),
        ("took > 1h", false),
        ("took <= 30m and waited = 0ms", true),
        ("late >= 1s", false),
    ] {
        let read = Filter::of_runs(filter).unwrap_or_else(|error| panic!("{filter}: {error:?}"));
        assert_eq!(read.takes_run(&failed_run()), expected, "{filter}");
    }
}

#[test]
fn what_cannot_be_read_is_shown_with_its_place() {
    for (filter, expected, hint) in [
        (
            "stat = failed",
            "there is no field `stat` (column 1)\n  stat = failed\n  ^",
            "did you mean `state`?",
        ),
        ("state", "behind `state` (column 6)\n  state\n       ^", "FIELD OP VALUE"),
        ("state = ", "expected a value (column 9)", "FIELD OP VALUE"),
        ("state=faild", "it is never `faild` (column 7)", "did you mean `failed`?"),
        (
            "id = a state = b",
            "expected AND, OR or the end (column 8)\n  id = a state = b\n         ^",
            "AND or OR",
        ),
        ("id = \"x", "this quote has no end (column 6)", "close it"),
        ("created_at > soon", "(column 14)", ""),
        ("took > 10", "10 what? a duration has a unit (column 8)", "write `10s`"),
        ("took =~ 1", "matches no pattern", "< or >"),
        ("workflow =~ (a", "the pattern cannot be read", "regular expression"),
        ("workflow =~ (((\\w{1000}){1000}){1000})", "the pattern is too large", "ask for less"),
        ("(id = run-1", "expected `)` (column 12)", ""),
        ("id = run-1)", "expected AND, OR or the end (column 11)", ""),
        ("é = 1", "expected a field (column 1)", ""),
    ] {
        let fault = Filter::of_runs(filter).expect_err(filter);
        let status = tonic::Status::from(fault);
        let text = format!("{status:?}");
        assert!(status.message().contains(expected), "{filter}: {}", status.message());
        assert!(
            text.contains(hint) || hint.is_empty() || hint_of(&status).contains(hint),
            "{filter}: {text}"
        );
    }
    let deep = "(".repeat(100) + "id = run-1" + &")".repeat(100);
    assert!(Filter::of_runs(&deep).is_err());
}

fn hint_of(status: &tonic::Status) -> String {
    String::from_utf8_lossy(status.details()).into_owned()
}

proptest! {
    #[test]
    fn a_filter_of_any_text_is_read_or_refused(
        text in "[a-z_.=<>!~\"'()* 0-9]{0,60}", other in ".{0,40}",
            words in "((state|id|took|workflow|created_at|and|or|not|[(]|[)]|=|=~|<|failed|run-1|10m|x|\"a b\") ?){0,20}",
    ) {
        for text in [&text, &other, &words] {
            if let Ok(filter) = Filter::of_runs(text) {
                filter.takes_run(&failed_run());
            }
            drop(Filter::of_workflows(text));
        }
    }
}
