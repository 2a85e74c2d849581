//! What every client may rely on: the form in JSON, and the table of reasons.

use matins_proto::v1::{Attempt, Run, StateReason, Task, attempt, error, run, run_origin, task};
use matins_proto::{FILE_DESCRIPTOR_SET, Json, Timestamp};
use prost::Message as _;
use serde_json::json;

#[test]
fn a_run_in_json_is_proto3s_mapping() {
    let attempt = Attempt {
        number: 2,
        fence: 9_007_199_254_740_993,
        state: attempt::State::Failed.into(),
        exit_code: Some(0),
        log: attempt::Log::Lost.into(),
        ..Attempt::default()
    };
    let run = Run {
        id: "run-42".into(),
        version: Some(3),
        origin: run_origin::Kind::Schedule.into(),
        params: Some(Json::from(json!({ "batch": 500, "mode": "delta" }))),
        state: run::State::Running.into(),
        reason: Some(StateReason { code: "concurrency".into(), ..StateReason::default() }),
        created_at: Some(Timestamp::from_millis(1_357_102_800_250)),
        tasks: vec![Task {
            address: "extract.3".into(),
            item_index: Some(3),
            state: task::State::UpstreamFailed.into(),
            attempts: vec![attempt],
            ..Task::default()
        }],
        ..Run::default()
    };
    let json = serde_json::to_value(&run).unwrap();

    assert_eq!(json["params"], json!({ "batch": 500, "mode": "delta" }));
    assert_eq!(json["createdAt"], "2013-01-02T05:00:00.250Z");
    assert_eq!((&json["state"], &json["origin"]), (&json!("running"), &json!("schedule")));
    assert_eq!(json["tasks"][0]["state"], "upstream_failed");
    assert_eq!(json["tasks"][0]["attempts"][0]["fence"], "9007199254740993");
    assert_eq!(json["tasks"][0]["attempts"][0]["log"], "log_lost");
    // Zero is written, absence is not; and an exit code of 0 is not absence.
    assert_eq!(json["priority"], 0);
    assert_eq!(json["tasks"][0]["attempts"][0]["exitCode"], 0);
    for absent in ["schedule", "backfill", "retryOf", "finishedAt", "taskCounts"] {
        assert_eq!(json.get(absent), None, "`{absent}` is absent");
    }
    assert_eq!(serde_json::from_value::<Run>(json).unwrap(), run);
}

#[test]
fn states_are_the_words_of_the_language() {
    fn words<E: TryFrom<i32>>(name: impl Fn(&E) -> &'static str) -> String {
        (1..).map_while(|number| E::try_from(number).ok()).map(|it| name(&it)).collect::<Vec<_>>().join(" ")
    }
    assert_eq!(
        words(task::State::as_str_name),
        "waiting queued running stopping retrying success failed upstream_failed skipped cancelled"
    );
    assert_eq!(words(run::State::as_str_name), "queued running stopping success failed cancelled");
    assert_eq!(run::State::from_str_name("success"), Some(run::State::Success));
}

#[test]
fn every_reason_has_the_code_that_its_number_belongs_to() {
    use tonic::Code;
    for reason in (0..1_000).filter_map(|number| error::Reason::try_from(number).ok()) {
        let expected: &[Code] = match reason as i32 {
            0 | 90..=99 => &[Code::Unknown],
            1..=19 => &[Code::NotFound],
            20..=39 => &[Code::InvalidArgument],
            40..=69 => &[Code::FailedPrecondition],
            70..=79 => &[Code::ResourceExhausted],
            80..=89 => &[Code::Unavailable],
            100..=109 => &[Code::PermissionDenied, Code::Unauthenticated],
            110..=119 => &[Code::Unimplemented],
            _ => &[Code::Internal],
        };
        assert!(expected.contains(&reason.code()), "{} is {:?}", reason.as_str_name(), reason.code());
        assert_eq!(error::Reason::from_str_name(reason.as_str_name()), Some(reason));
    }
}

#[test]
fn reflection_shows_the_public_services_and_no_others() {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let ours = files.file.iter().filter(|file| file.package() == "matins.v1");
    let mut services: Vec<_> =
        ours.flat_map(|file| &file.service).map(prost_types::ServiceDescriptorProto::name).collect();
    services.sort_unstable();
    assert_eq!(services, ["Backfills", "Cluster", "Logs", "Pools", "Runs", "Schedules", "Workflows"]);
}

/// What each command must carry and answer, and each read (`common.proto`).
#[test]
fn commands_and_reads_keep_the_conventions() {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let messages: Vec<_> = files.file.iter().flat_map(|file| &file.message_type).collect();
    let has = |message: &str, field: &str| {
        let name = message.strip_prefix(".matins.v1.").unwrap();
        let message = messages.iter().find(|message| message.name() == name).unwrap();
        message.field.iter().any(|it| it.name() == field)
    };
    for method in files.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method) {
        let (asks, answers) = (method.input_type(), method.output_type());
        assert_eq!(has(asks, "not_after"), has(answers, "committed"), "{asks} and {answers}");
        assert!(!has(asks, "not_after") || has(asks, "request_id"), "{asks} has no request id");
        assert!(!has(asks, "stale") || has(answers, "read_at"), "{answers} does not say at which index");
        assert_eq!(has(asks, "page_size"), has(answers, "next_page_token"), "{asks} and {answers}");
        assert_eq!(has(asks, "after_index"), has(answers, "index"), "{asks} and {answers}");
    }
}

/// The comments are the API's reference, so nothing may be without one.
#[test]
fn everything_public_has_a_comment() {
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    for file in files.file.iter().filter(|file| file.package() == "matins.v1") {
        let places = &file.source_code_info.as_ref().unwrap().location;
        let silent =
            |place: &&prost_types::source_code_info::Location| place.leading_comments().trim().is_empty();
        for place in places.iter().filter(silent) {
            // Pairs of what (4 message, 5 enum, 6 service; inside 2 field, value or method, 4 enum, 8 oneof) and which
            // one. Other paths are of parts of a declaration, such as its name.
            let declares = matches!(
                place.path[..],
                [4..=6, _] | [4, _, 2 | 4 | 8, _] | [5 | 6, _, 2, _] | [4, _, 4, _, 2, _]
            );
            assert!(!declares, "{}:{} has no comment", file.name(), place.span[0] + 1);
        }
    }
}
