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
        // Each tenth run retries the one before it.
        retry_of: number.is_multiple_of(10).then(|| number.saturating_sub(1)),
        retry_root: if number.is_multiple_of(10) { number.saturating_sub(1) } else { number },
        block,
        offset: number as u32 * 10,
        length: 10,
        sum: 0,
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
    let times = (prop::option::of(-12_i64..32), prop::option::of(-12_i64..32));
    let workflow = prop::sample::select(vec!["team/w0", "team/w1", "team/w"]).prop_map(str::to_owned);
    let schedule = prop::option::of(prop::sample::select(vec!["nightly", "other"]).prop_map(str::to_owned));
    (workflow, schedule, times).prop_map(|(workflow, schedule, (from, until))| Filter {
        workflow,
        schedule,
        from,
        until,
    })
}

#[test]
fn rule_6_5_lists_by_workflow_schedule_and_time_page_by_page() {
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
fn lists_by_id_have_each_run_once_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    let runs: Vec<_> = (0..3).flat_map(|number| add(&history, number)).collect();
    let pair = |workflow: &str, state: &str| (format!("team/{workflow}"), state.to_owned());
    let few = [pair("w0", "failed"), pair("w2", "success"), pair("w2", "cancelled")];
    // So many that they are not merged: the others are of workflows that never ran.
    let many = (0..=MERGED_MAX).map(|at| pair(&format!("other-{at}"), "failed")).chain(few.clone());
    for among in [Among::All, Among::Pairs(few.into()), Among::Pairs(many.collect())] {
        for limit in [1, 7, 100] {
            let (mut listed, mut before) = (Vec::new(), u64::MAX);
            loop {
                let page = history.listed(before, &among, limit).unwrap();
                assert!(page.runs.len() <= limit);
                listed.extend(page.runs);
                let Some(next) = page.next else { break };
                before = next;
            }
            let expected: Vec<_> = runs.iter().rev().filter(|run| among.has(run)).cloned().collect();
            assert_eq!(listed, expected, "{limit} a page");
        }
    }
    assert!(history.has_later_retry(29, 29).unwrap(), "run 30 is a retry of it");
    assert!(!history.has_later_retry(29, 30).unwrap() && !history.has_later_retry(28, 28).unwrap());
}

#[test]
fn a_list_that_finds_nothing_among_very_many_rows_says_where_it_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    let rare = 5;
    let of = |number: u64| {
        let workflow = if number == rare { "team/rare" } else { "team/other" }.to_owned();
        IndexedRun { workflow, retry_of: None, ..run(number, block(0)) }
    };
    let runs: Vec<_> = (0..2 * ROWS_READ_MAX as u64).map(of).collect();
    history.add_block(&block(0), &runs).unwrap();
    let states = ["failed", "success"];
    let pairs = |workflow: &str| states.map(|state| (workflow.to_owned(), state.to_owned()));
    let others = (0..MERGED_MAX).flat_map(|at| pairs(&format!("team/{at}")));
    let many = Among::Pairs(others.chain(pairs("team/rare")).collect());
    let page = history.listed(u64::MAX, &many, 3).unwrap();
    assert_eq!((page.runs.len(), page.next), (0, Some(ROWS_READ_MAX as u64)));
    let page = history.listed(page.next.unwrap(), &many, 3).unwrap();
    assert_eq!((page.runs, page.next), (vec![of(rare)], None));
    let few = Among::Pairs(pairs("team/rare").into());
    assert_eq!(
        history.listed(u64::MAX, &few, 3).unwrap().runs,
        vec![of(rare)],
        "a workflow of its own is found at once"
    );
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
    let left = history.listed(u64::MAX, &Among::All, 100).unwrap().runs;
    assert_eq!((left.len(), left.iter().all(|run| run.block == block(1))), (20, true));
    // Of runs 20 to 39 every third is of this workflow, and no order leads to one that went.
    let own = Filter { workflow: "team/w0".to_owned(), schedule: None, from: None, until: None };
    assert_eq!(all(&history, &own, Order::OldestFirst, 100).len(), 7);
}

#[test]
fn rule_6_5_a_block_that_came_in_only_in_part_goes() {
    // Killed while it was put in; by the next start retention has taken it off the list, or has not.
    for expected in [BTreeSet::from([block(0), block(1)]), BTreeSet::from([block(1)])] {
        let dir = tempfile::tempdir().unwrap();
        let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
        add(&history, 0);
        add(&history, 1);
        history.blocks.insert(block(0).0, IN_PART).unwrap();
        assert_eq!(history.indexed_blocks().unwrap(), vec![block(1)]);
        history.close().unwrap();

        let (history, missing) = History::open(dir.path(), &expected).unwrap();
        assert_eq!(missing, &expected - &BTreeSet::from([block(1)]));
        assert!(!history.is_indexed(&block(0)).unwrap());
        let left = history.listed(u64::MAX, &Among::All, 100).unwrap().runs;
        assert_eq!((left.len(), left.iter().all(|run| run.block == block(1))), (20, true));
        assert_eq!(history.block_runs.len(), 1, "what named its runs is gone too");
    }
}

/// A list reads a key, and then the run: retention may come between the two.
#[test]
fn a_key_whose_run_was_taken_out_leads_nowhere_and_one_without_its_run_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let (history, _) = History::open(dir.path(), &BTreeSet::new()).unwrap();
    let runs = add(&history, 0);
    let keys = keys::of_run(&runs[3]);
    assert_eq!(history.led_to(&keys[0]).unwrap().as_ref(), Some(&runs[3]));
    history.runs.remove(runs[3].run.to_be_bytes()).unwrap();
    assert!(history.led_to(&keys[0]).is_err());
    history.keep_only(&BTreeSet::new()).unwrap();
    assert_eq!(history.led_to(&keys::of_run(&runs[4])[0]).unwrap(), None);
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
    large.schedule = Some("y".repeat(VALUE_BYTES_MAX as usize));
    assert!(matches!(history.add_block(&block(0), &[large]), Err(StoreError::TooLarge { .. })));
    assert!(!history.is_indexed(&block(0)).unwrap());
}
