//! Applying, versions, and what is refused.

use matins_core::time::Millis;
use matins_proto::v1::applied_document::Action;
use matins_proto::v1::source_file::Content;
use matins_proto::v1::{
    ApplyWorkflowsRequest, DiffWorkflowRequest, GetWorkflowRequest, ListSchedulesRequest,
    ListWorkflowVersionsRequest, ListWorkflowsRequest, NextTicksRequest, PauseScheduleRequest,
    RollbackWorkflowRequest, Source, SourceFile,
};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{World, reason, source};

const NIGHTLY: &str =
    "workflow: nightly\nschedules: { night: { cron: '30 2 * * *' } }\ntasks: { a: { run: 'true' } }\n";

fn actions(response: &matins_proto::v1::ApplyWorkflowsResponse) -> Vec<(String, Action, Option<u32>)> {
    response.documents.iter().map(|line| (line.name.clone(), line.action(), line.version)).collect()
}

#[tokio::test]
async fn a_change_makes_a_version_and_a_comment_does_not() {
    let world = World::founded().await;
    let name = || "default/nightly".to_owned();
    let first = world.apply(NIGHTLY).await.unwrap();
    assert_eq!(actions(&first), [(name(), Action::Created, Some(1))]);
    let same = world.apply(&format!("# a comment\n{NIGHTLY}")).await.unwrap();
    assert_eq!(actions(&same), [(name(), Action::Unchanged, Some(1))]);
    let changed = NIGHTLY.replace("'true'", "'false'");
    let request =
        ApplyWorkflowsRequest { sources: vec![source(&changed)], dry_run: true, ..Default::default() };
    let dry = world.workflows().apply(request).await.unwrap().into_inner();
    assert_eq!(actions(&dry), [(name(), Action::Changed, Some(2))]);
    assert_eq!(dry.committed.unwrap().index, 0);
    assert_eq!(actions(&world.apply(&changed).await.unwrap()), [(name(), Action::Changed, Some(2))]);

    let diff = DiffWorkflowRequest { workflow: "nightly".into(), ..Default::default() };
    let diff = world.workflows().diff(diff).await.unwrap().into_inner();
    assert_eq!((diff.from, diff.to), (1, 2));
    assert!(
        diff.unified.contains("-tasks: { a: { run: 'true' } }\n+tasks: { a: { run: 'false' } }"),
        "{}",
        diff.unified
    );

    let back =
        RollbackWorkflowRequest { workflow: "nightly".into(), request_id: "r".into(), ..Default::default() };
    let rolled = world.workflows().rollback(back.clone()).await.unwrap().into_inner();
    assert_eq!((rolled.old_version, rolled.version), (2, 3));
    // The repeat of a request is answered again, and does not go back once more.
    let repeat = world.workflows().rollback(back).await.unwrap().into_inner();
    assert_eq!((repeat.old_version, repeat.version), (2, 3));
    let versions = ListWorkflowVersionsRequest { workflow: "nightly".into(), ..Default::default() };
    let versions = world.workflows().list_versions(versions).await.unwrap().into_inner().versions;
    let told: Vec<_> = versions.iter().map(|one| (one.version, one.current)).collect();
    assert_eq!(told, [(3, true), (2, false), (1, false)]);
    assert_eq!(versions[0].digest, versions[2].digest);
    world.stop().await;
}

#[tokio::test]
async fn all_faults_are_told_at_once_and_nothing_changes() {
    let world = World::founded().await;
    let bad = "workflow: a\ntasks: { t: { rum: 'x' }, u: { run: 'true', needs: v } }\n";
    let refused = world.apply(&format!("{NIGHTLY}---\n{bad}")).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).0),
        (Code::InvalidArgument, "DEFINITION_INVALID".to_owned())
    );
    let faults = refused.get_details_bad_request().unwrap().field_violations;
    assert!(faults.len() >= 2, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.field.starts_with("test.matins.yaml:6:")), "{faults:?}");
    let list = world.workflows().list(ListWorkflowsRequest::default()).await.unwrap().into_inner();
    assert!(list.workflows.is_empty());

    let refused = world.apply("workflow: a\ntasks: { t: { run: 'true', pool: none } }").await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).0), (Code::NotFound, "POOL_NOT_FOUND".to_owned()));
    world.stop().await;
}

#[tokio::test]
async fn files_come_along_and_each_must_be_named() {
    let world = World::founded().await;
    let file =
        |path: &str, content| SourceFile { path: path.into(), content: Some(content), executable: false };
    let with = |files| ApplyWorkflowsRequest {
        sources: vec![Source {
            files,
            ..source("workflow: f\nfiles: [s/*.py]\ntasks: { t: { run: [python3, s/a.py] } }")
        }],
        ..Default::default()
    };
    let good = with(vec![file("s/a.py", Content::Inline(b"print(1)".to_vec()))]);
    world.workflows().apply(good).await.unwrap();
    let get = GetWorkflowRequest { workflow: "f".into(), ..Default::default() };
    let shown = world.workflows().get(get).await.unwrap().into_inner().workflow.unwrap();
    assert_eq!((shown.files[0].path.as_str(), shown.files[0].size), ("s/a.py", 8));
    assert!(shown.source.starts_with("workflow: f"));

    let unknown = with(vec![file("s/a.py", Content::Digest("0".repeat(64)))]);
    assert_eq!(reason(&world.workflows().apply(unknown).await.unwrap_err()).0, "BLOB_NOT_FOUND");
    let spare = vec![
        file("s/a.py", Content::Inline(b"print(2)".to_vec())),
        file("readme", Content::Inline(b"x".to_vec())),
    ];
    assert_eq!(reason(&world.workflows().apply(with(spare)).await.unwrap_err()).0, "BAD_ARGUMENT");
    world.stop().await;
}

#[tokio::test]
async fn prune_stays_in_the_namespaces_concerned() {
    let world = World::founded().await;
    for name in ["a/one", "a/two", "b/one"] {
        let (namespace, name) = name.split_once('/').unwrap();
        let text = format!("workflow: {name}\nnamespace: {namespace}\ntasks: {{ t: {{ run: 'true' }} }}");
        world.apply(&text).await.unwrap();
    }
    let text = "workflow: one\nnamespace: a\ntasks: { t: { run: 'true' } }";
    let request =
        ApplyWorkflowsRequest { sources: vec![source(text)], prune: true, start: true, ..Default::default() };
    let response = world.workflows().apply(request).await.unwrap().into_inner();
    let told = actions(&response);
    assert_eq!(told[0], ("a/one".to_owned(), Action::Unchanged, Some(1)));
    assert_eq!(told[1], ("a/two".to_owned(), Action::Deleted, None));
    assert_eq!(response.documents[0].run_id.as_deref(), Some("run-1"));
    let list = world.workflows().list(ListWorkflowsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = list.workflows.iter().map(|workflow| workflow.name.as_str()).collect();
    assert_eq!(names, ["a/one", "b/one"]);
    world.stop().await;
}

#[tokio::test]
async fn a_schedule_tells_its_ticks_and_can_be_changed_while_ticks_are_due() {
    let world = World::founded().await;
    world.apply(NIGHTLY).await.unwrap();
    world.alone.fire();
    let next = NextTicksRequest { workflow: "nightly".into(), count: 2, ..Default::default() };
    let ticks = world.schedules().next(next).await.unwrap().into_inner().ticks;
    let told: Vec<_> = ticks.iter().map(|tick| tick.logical_time.unwrap().to_string()).collect();
    assert_eq!(told, ["2026-03-02T02:30:00Z", "2026-03-03T02:30:00Z"]);
    assert_eq!(ticks[0].interval_start.unwrap().to_string(), "2026-03-01T02:30:00Z");

    world.alone.pass(Millis::from_hours(3));
    let later = NIGHTLY.replace("30 2", "45 2");
    assert_eq!(actions(&world.apply(&later).await.unwrap())[0].1, Action::Changed);
    let pause =
        PauseScheduleRequest { workflow: "nightly".into(), schedule: "nigth".into(), ..Default::default() };
    let refused = world.schedules().pause(pause).await.unwrap_err();
    assert_eq!(reason(&refused), ("SCHEDULE_NOT_FOUND".to_owned(), "did you mean `night`?".to_owned()));
    world.stop().await;
}

/// All schedules that a list of one a page has, as `workflow:schedule`.
async fn schedules(world: &World, (namespace, workflow): (&str, &str)) -> Vec<String> {
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let (namespace, workflow) = (namespace.to_owned(), workflow.to_owned());
        let ask =
            ListSchedulesRequest { namespace, workflow, page_size: 1, page_token, ..Default::default() };
        let page = world.schedules().list(ask).await.unwrap().into_inner();
        listed.extend(page.schedules.iter().map(|row| format!("{}:{}", row.workflow, row.name)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return listed;
        }
    }
}

#[tokio::test]
async fn a_list_of_schedules_is_of_all_or_of_a_namespace_or_of_a_workflow() {
    let world = World::founded().await;
    let of = |name: &str, schedules: &str| {
        let (namespace, name) = name.split_once('/').unwrap();
        let head = format!("workflow: {name}\nnamespace: {namespace}\nschedules: {{ {schedules} }}\n");
        format!("{head}tasks: {{ t: {{ run: 'true' }} }}\n")
    };
    let (one, two) = ("one: { cron: '0 1 * * *' }", "one: { cron: '0 1 * * *' }, two: { cron: '0 2 * * *' }");
    let files = [of("a/load", two), of("b/load", one), of("b/load-more", two), of("c/load", one)];
    world.apply(&files.join("---\n")).await.unwrap();
    let all = ["a/load:one", "a/load:two", "b/load:one", "b/load-more:one", "b/load-more:two", "c/load:one"];
    assert_eq!(schedules(&world, ("", "")).await, all);
    assert_eq!(schedules(&world, ("b", "")).await, all[2..5]);
    assert_eq!(schedules(&world, ("", "a/load")).await, all[..2]);
    assert_eq!(schedules(&world, ("", "b/load")).await, all[2..3]);
    assert_eq!(schedules(&world, ("b", "b/load-more")).await, all[3..5]);
    assert!(schedules(&world, ("a", "b/load")).await.is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_status_of_very_many_faults_is_small_enough_to_arrive() {
    let world = World::founded().await;
    let faulty = |at: usize| format!("workflow: w{at}\ntasks: {{ a: {{ rum: '\u{e9}' }} }}\n");
    let all = (0..500).map(faulty).collect::<Vec<_>>().join("---\n");
    let status = world.apply(&all).await.unwrap_err();
    assert_eq!(reason(&status).0, "DEFINITION_INVALID");
    let told = status.get_error_details().bad_request().unwrap().field_violations.clone();
    assert!(told.len() > 10 && told.len() < 500, "{} are told", told.len());
    let last = &told[told.len() - 1].description;
    assert!(last.starts_with("and ") && last.ends_with(" more"), "{last}");
    world.stop().await;
}
