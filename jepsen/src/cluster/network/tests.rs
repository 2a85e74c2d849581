//! Names, and a cut.

use super::*;

#[test]
fn names_tell_their_run() {
    assert_eq!(run_of("mj4711x2n3"), Some(("mj4711x2".into(), 4711)));
    assert_eq!(run_of("mj4711x12b"), Some(("mj4711x12".into(), 4711)));
    assert_eq!(run_of("docker0"), None);
}

#[test]
fn a_cut_drops_one_way_and_leaves_the_others() {
    let Ok(network) = Network::build(77, 3) else { return };
    if !network.has_filter() {
        return;
    }
    network.cut(&[(0, 1)]).unwrap();
    assert!(!network.passes((0, 1)).unwrap());
    assert!(network.passes((1, 0)).unwrap());
    assert!(network.passes((2, 1)).unwrap());
    network.mend().unwrap();
    assert!(network.passes((0, 1)).unwrap());
}
