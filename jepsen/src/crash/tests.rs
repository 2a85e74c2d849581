//! The verb itself, on a small scale.

use super::*;

#[test]
fn a_story_is_the_same_twice() {
    let tell = || {
        let disk = TapeDisk::default();
        store::run(&disk, 3).expect("the workload runs");
        disk.tape().iter().map(|change| format!("{:?}", std::mem::discriminant(change))).collect::<Vec<_>>()
    };
    assert_eq!(tell(), tell());
}

#[test]
fn a_point_can_be_repeated_alone() {
    let disk = TapeDisk::default();
    let work = store::run(&disk, 3).expect("the workload runs");
    let story = Story { tape: disk.tape(), notes: work.notes, seed: 3 };
    let (counts, broken) = story.cut_everywhere(Some(40));
    assert!(broken.is_none_or(|broken| broken.point == 40));
    assert_eq!(counts.kinds.values().sum::<u64>(), 1);
}

/// What a workload acknowledged and what a sound disk then holds, to be spoiled: of the first seed that ends with all kinds
/// of things.
fn sound() -> (contents::Known, contents::Found) {
    let end_of = |seed| {
        let disk = TapeDisk::default();
        let work = store::run(&disk, seed).expect("the workload runs");
        let known = work.notes.last().expect("it noted something").known.clone();
        let found = points::open_image(&TapeDisk::of(disk.image())).expect("it opens");
        (known, found)
    };
    let is_rich = |(known, found): &(contents::Known, contents::Found)| {
        found.records.len() > 2
            && found.snapshot.is_some()
            && !known.acked.blobs.is_empty()
            && found.vote.is_some()
    };
    (1..50).map(end_of).find(is_rich).expect("one of fifty seeds ends with everything")
}

#[test]
fn what_is_lost_changed_or_invented_is_refused() {
    let (known, found) = sound();
    assert!(known.check(&found).expect("it is sound") > 5);
    let spoil = |change: &dyn Fn(&mut contents::Found)| {
        let mut spoiled = found.clone();
        change(&mut spoiled);
        known.check(&spoiled).expect_err("it is spoiled")
    };
    let last = *found.records.keys().next_back().expect("there are records");
    let lost = spoil(&|found| drop(found.records.remove(&last)));
    assert!(lost.starts_with("I10"), "{lost}");
    spoil(&|found| drop(found.records.insert(last, contents::record(last, 77, 5))));
    spoil(&|found| drop(found.records.insert(last + 1, contents::record(last + 1, 77, 5))));
    spoil(&|found| found.marker.node = matins_core::id::NodeId(8));
    spoil(&|found| found.vote = None);
    spoil(&|found| found.snapshot = None);
    spoil(&|found| found.blobs.clear());
    spoil(&|found| {
        found.blobs.insert(matins_core::id::Digest::of(b"nobody asked for it"));
    });
    let first = *found.records.keys().next().expect("there are records");
    spoil(&|found| drop(found.records.remove(&(first + 1))));
    // As after a purge that went further than any snapshot.
    let beyond = spoil(&|found| {
        found.purged = found.records.get(&last).map(matins_node::store::log::Record::position);
        found.records.clear();
    });
    assert!(beyond.starts_with("6."), "{beyond}");
}
