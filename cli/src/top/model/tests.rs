//! What keys do, and what happens to the chosen run.

use matins_proto::v1::run::State;

use super::*;

fn run(number: u64, workflow: &str, state: State) -> Run {
    Run {
        id: format!("run-{number}"),
        workflow: workflow.into(),
        state: state.into(),
        created_at: Some(Timestamp::from_millis(number as i64 * 1_000)),
        ..Run::default()
    }
}

fn model() -> Model {
    let runs =
        vec![run(10, "a/b", State::Running), run(9, "a/c", State::Queued), run(8, "a/a", State::Running)];
    Model::new(Seen { runs, ..Seen::default() })
}

fn ids(model: &Model) -> Vec<&str> {
    model.seen.runs.iter().map(|run| run.id.as_str()).collect()
}

#[test]
fn keys_sort_and_move_and_the_mark_stays_with_its_run() {
    let mut model = model();
    assert_eq!(ids(&model), ["run-8", "run-9", "run-10"]);
    assert_eq!(model.press(Key::Down), Wish::Nothing);
    assert_eq!(model.position(), 1);
    model.press(Key::Turn);
    assert_eq!((ids(&model), model.position()), (vec!["run-10", "run-9", "run-8"], 1));
    model.press(Key::Turn);
    model.press(Key::Sort);
    model.press(Key::Sort);
    assert_eq!((model.sort, ids(&model)), (Sort::Workflow, vec!["run-8", "run-10", "run-9"]));
    assert_eq!(model.position(), 2);
    assert_eq!(model.press(Key::Why), Wish::Why("run-9".into()));
    model.explain("it waits".into());
    assert_eq!(model.press(Key::Why), Wish::Nothing);
    assert_eq!(model.why, None);
    assert_eq!(model.press(Key::Last), Wish::Nothing);
    assert_eq!(model.press(Key::PageUp), Wish::Nothing);
    assert_eq!(model.position(), 0);
    model.explain("it waits".into());
    assert_eq!((model.press(Key::Back), model.why.is_none()), (Wish::Nothing, true));
    assert_eq!((model.press(Key::Back), model.press(Key::Quit)), (Wish::Leave, Wish::Leave));
}

#[test]
fn when_the_chosen_run_ends_the_next_takes_its_place() {
    let mut model = model();
    model.press(Key::Down);
    model.explain("it waits".into());
    let runs = vec![run(8, "a/a", State::Running), run(10, "a/b", State::Running)];
    model.saw(Seen { runs, ..Seen::default() });
    assert_eq!((model.position(), model.why.is_none()), (1, true));
    model.saw(Seen::default());
    assert_eq!(model.press(Key::Why), Wish::Nothing);
}
