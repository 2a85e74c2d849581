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
