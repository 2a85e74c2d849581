//! A disk that is full, and one that loses what was not synced.

use super::*;

#[test]
fn a_disk_is_full_or_loses_what_was_not_synced() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}-test", std::process::id());
    let Ok(disk) = Disk::make(&name, &folder.path().join("n1")) else { return };
    assert!(!disk.is_full());
    disk.fill().unwrap();
    assert!(disk.is_full());
    disk.clear();
    assert!(!disk.is_full());
    for _ in 0..2 {
        disk.leave_marks().unwrap();
        assert!(!disk.has_lost(), "nothing is lost without a power cut");
        disk.cut_power().unwrap();
        assert!(disk.has_lost());
    }
}
