//! The harness of the end-to-end tests itself: what it starts ends with it, and a call tells code and words apart.

mod common;

use common::Cluster;

#[test]
fn a_node_that_was_killed_is_down_and_its_data_stays() {
    let mut cluster = Cluster::waiting(2);
    cluster.nodes[0].kill();
    assert!(!cluster.nodes[0].is_up());
    assert!(cluster.nodes[1].is_up());
    assert!(cluster.folder.path().join("n1.log").exists());
}

#[test]
fn a_call_tells_its_code_and_its_words() {
    let cluster = Cluster::waiting(0);
    let said = cluster.ask(&["frobnicate"]);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    assert!(said.err.contains("frobnicate"), "{said:?}");
}
