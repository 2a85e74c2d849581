//! Puts what a watch tells into the picture that it began with.

use matins_proto::v1::{Run, Task, WatchRunResponse, WatchRunsResponse};

/// Makes `run` what it is after `change`.
pub fn update_run(run: &mut Run, change: &WatchRunResponse) {
    if let Some(newer) = &change.run {
        // Without `resync` the run comes without its tasks, which did not change but for those named.
        let tasks = if change.resync { newer.tasks.clone() } else { std::mem::take(&mut run.tasks) };
        *run = Run { tasks, ..newer.clone() };
    }
    for task in &change.tasks {
        match run.tasks.iter_mut().find(|it| it.address == task.address) {
            Some(place) => {
                let items = std::mem::take(&mut place.items);
                *place = Task { items, ..task.clone() };
            }
            None => run.tasks.push(task.clone()),
        }
    }
    for item in &change.items {
        // An item of a task that was never told has no place in the picture.
        let Some(task) = run.tasks.iter_mut().find(|it| it.name == item.name) else { continue };
        match task.items.binary_search_by_key(&item.item_index, |it| it.item_index) {
            Ok(place) => task.items[place] = item.clone(),
            Err(place) => task.items.insert(place, item.clone()),
        }
    }
}

/// Makes `runs`, the newest first, what they are after `change`.
pub fn update_runs(runs: &mut Vec<Run>, change: &WatchRunsResponse) {
    if change.resync {
        runs.clear();
    }
    runs.retain(|run| !change.removed.contains(&run.id));
    for run in &change.runs {
        if let Some(place) = runs.iter_mut().find(|it| it.id == run.id) {
            place.clone_from(run);
        } else {
            let place = runs.partition_point(|it| number(it) > number(run));
            runs.insert(place, run.clone());
        }
    }
}

/// The number in `run-42`: it rises with age. 0 for an id of a form that is not known here.
fn number(run: &Run) -> u64 {
    run.id.rsplit_once('-').and_then(|(_, digits)| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(address: &str, attempts: u32) -> Task {
        let (name, index) = address.split_once('.').unwrap_or((address, ""));
        Task {
            address: address.into(),
            name: name.into(),
            item_index: index.parse().ok(),
            attempt_count: attempts,
            ..Task::default()
        }
    }

    fn run(id: &str, tasks: Vec<Task>) -> Run {
        Run { id: id.into(), tasks, ..Run::default() }
    }

    #[test]
    fn a_run_keeps_what_a_change_does_not_name() {
        let mut seen = Run::default();
        let whole = run("run-1", vec![task("extract", 1), task("load", 0)]);
        update_run(&mut seen, &WatchRunResponse { resync: true, run: Some(whole), ..Default::default() });
        update_run(
            &mut seen,
            &WatchRunResponse {
                items: vec![task("extract.1", 1), task("extract.0", 1)],
                ..Default::default()
            },
        );
        update_run(
            &mut seen,
            &WatchRunResponse {
                run: Some(Run { priority: 7, ..run("run-1", Vec::new()) }),
                tasks: vec![task("extract", 2)],
                items: vec![task("extract.1", 2)],
                ..Default::default()
            },
        );
        let mut extract = task("extract", 2);
        extract.items = vec![task("extract.0", 1), task("extract.1", 2)];
        assert_eq!(seen, Run { priority: 7, ..run("run-1", vec![extract, task("load", 0)]) });

        let anew = run("run-1", vec![task("extract", 3)]);
        update_run(
            &mut seen,
            &WatchRunResponse { resync: true, run: Some(anew.clone()), ..Default::default() },
        );
        assert_eq!(seen, anew);
    }

    #[test]
    fn a_list_stays_in_order_of_age() {
        let mut seen = vec![run("run-10", vec![]), run("run-9", vec![]), run("run-2", vec![])];
        let change = WatchRunsResponse {
            runs: vec![run("run-11", vec![]), run("run-9", vec![task("a", 1)]), run("run-7", vec![])],
            removed: vec!["run-10".into()],
            ..Default::default()
        };
        update_runs(&mut seen, &change);
        let ids: Vec<_> = seen.iter().map(|run| run.id.as_str()).collect();
        assert_eq!(ids, ["run-11", "run-9", "run-7", "run-2"]);
        assert_eq!(seen[1].tasks.len(), 1);

        update_runs(&mut seen, &WatchRunsResponse { resync: true, ..Default::default() });
        assert!(seen.is_empty());
    }
}
