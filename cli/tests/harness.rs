//! The harness of the end-to-end tests itself: a node that cannot start is a failure with its reason, never a hang.

mod common;

use common::Cluster;

#[test]
fn nobody_answers_where_no_node_is() {
    let mut cluster = Cluster::waiting(1);
    cluster.nodes[0].kill();
    assert!(!cluster.nodes[0].is_up());
    // An unknown verb never asks anybody.
    assert_eq!(cluster.ask(&["frobnicate"]).code, Some(2));
}
