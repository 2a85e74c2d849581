//! The index against a plain list of runs, and what it believes after which end.

use proptest::prelude::*;

use super::*;

fn run(number: u64, block: Digest) -> IndexedRun {
    IndexedRun {
        run: number,
        workflow: format!("team/w{}", number % 3),
        state: if number.is_multiple_of(4) { "failed" } else { "success" }.to_owned(),
        schedule: number.is_multiple_of(2).then(|| "nightly".to_owned()),
        logical_time: (number as i64 * 7) % 40 - 10,
        finished_at: number as i64,
        labels: vec![("team".to_owned(), format!("t{}", number % 5))],
        retry_of: None,
        block,
        offset: number as u32 * 10,
        length: 10,
    }
}

fn block(number: u8) -> Digest {
    Digest([number; 32])
}

fn add(history: &History, number: u8) -> Vec<IndexedRun> {
    let runs: Vec<_> = (0..20).map(|at| run(u64::from(number) * 20 + at, block(number))).collect();
    history.add_block(&block(number), &runs).unwrap();
    runs
}

fn all(history: &History, filter: &Filter, order: Order, limit: usize) -> Vec<IndexedRun> {
    let (mut runs, mut after) = (Vec::new(), None);
    loop {
        let page = history.scan(filter, after, order, limit).unwrap();
        assert!(page.runs.len() <= limit);
        runs.extend(page.runs);
        after = page.next;
        if after.is_none() {
            return runs;
        }
    }
}

fn filters() -> impl Strategy<Value = Filter> {
    let text = |texts: [&'static str; 2]| {
        prop::option::of(prop::sample::select(texts.to_vec()).prop_map(str::to_owned))
    };
    let times = (prop::option::of(-12_i64..32), prop::option::of(-12_i64..32));
    let label = prop::option::of((0..6).prop_map(|n| ("team".to_owned(), format!("t{n}"))));
    (text(["team/w0", "team/w"]), text(["failed", "success"]), text(["nightly", "other"]), label, times)
        .prop_map(|(workflow, state, schedule, label, (from, until))| Filter {
            workflow,
            state,
            label,
            schedule,
            from,
            until,
        })
}

#[test]
fn rule_6_5_lists_by_workflow_state_label_and_time_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let (history, missing) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    assert_eq!(missing, BTreeSet::new());
    let mut runs: Vec<_> = (0..3).flat_map(|number| add(&history, number)).collect();
    runs.sort_by_key(|run| (run.logical_time, run.run));
    proptest!(|(filter in filters(), limit in 1_usize..9)| {
        let in_time = |run: &&IndexedRun| {
            filter.from.is_none_or(|from| run.logical_time >= from)
                && filter.until.is_none_or(|until| run.logical_time < until)
        };
        let mut expected: Vec<_> = runs.iter().filter(in_time).filter(|run| filter.matches(run)).cloned().collect();
        prop_assert_eq!(&all(&history, &filter, Order::OldestFirst, limit), &expected);
        expected.reverse();
        prop_assert_eq!(&all(&history, &filter, Order::NewestFirst, limit), &expected);
    });
    assert_eq!(history.find(21).unwrap(), Some(run(21, block(1))));
    assert_eq!(history.find(99).unwrap(), None);
}

#[test]
fn rule_6_5_a_block_that_is_off_the_list_goes_and_one_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    add(&history, 0);
    add(&history, 1);
    history.close().unwrap();
    let (history, missing) = History::open(dir.path(), &BTreeSet::from([block(1), block(2)])).unwrap();
    assert_eq!(missing, BTreeSet::from([block(2)]));
    assert!(!history.is_indexed(&block(0)).unwrap() && history.is_indexed(&block(1)).unwrap());
    let left = all(&history, &Filter::default(), Order::OldestFirst, 100);
    assert_eq!((left.len(), left.iter().all(|run| run.block == block(1))), (20, true));
}

#[test]
fn rule_6_5_an_index_that_met_a_power_cut_or_does_not_open_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let expected = BTreeSet::from([block(0)]);
    let open = |boot: &str| History::open_in_boot(dir.path(), boot, &expected).unwrap();

    let (history, missing) = open("one");
    assert_eq!(missing, expected);
    add(&history, 0);
    history.db.flush().unwrap();
    drop(history);
    assert_eq!(open("one").1, BTreeSet::new(), "the process ended, the machine did not");
    let (history, missing) = open("two");
    assert_eq!(missing, expected, "the machine went down while it was open");
    add(&history, 0);
    history.close().unwrap();
    assert_eq!(open("three").1, BTreeSet::new(), "it was closed and synced");

    checked::save(&Disk, &dir.path().join(CONDITION), b"opening").unwrap();
    assert_eq!(open("three").1, expected, "an open did not come back");
    fs::remove_dir_all(dir.path().join(DATABASE)).unwrap();
    fs::write(dir.path().join(DATABASE), "not a directory").unwrap();
    assert!(History::open_in_boot(dir.path(), "three", &expected).is_err(), "it says so if it cannot");
}

#[test]
fn a_run_that_sled_would_put_into_a_file_of_its_own_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    let mut large = run(1, block(0));
    large.labels.push(("x".to_owned(), "y".repeat(VALUE_BYTES_MAX as usize)));
    assert!(matches!(history.add_block(&block(0), &[large]), Err(StoreError::TooLarge { .. })));
    assert!(!history.is_indexed(&block(0)).unwrap());
}
