//! Whom people mean by the id or the name of a node that is to go (PROTOCOL 2.7).
//!
//! An id names one node for good. A name is a label that the next node may be given; so a name that a removed node had means
//! that one, and nothing once another has it: whoever repeats a command whose answer was lost must not hit the other one.
//! Start reading at [`meant`].

use matins_core::id::NodeId;

use super::error::ChangeError;
use super::types::Members;

/// One that somebody named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// A member.
    Member(NodeId),
    /// One that was taken out: whoever repeats that hears that it is done.
    Gone(NodeId),
}

/// Whom `text` means, an id or else a name. `removals` are the nodes that were to be taken out, the newest last; one whose
/// change failed is a member still.
pub(super) fn meant(
    text: &str,
    members: &Members,
    removals: &[(NodeId, String)],
) -> Result<Meant, ChangeError> {
    if let Some(node) = members.nodes.keys().find(|node| node.to_string() == text) {
        return Ok(Meant::Member(*node));
    }
    let mut gone = removals.iter().rev().filter(|(node, _)| !members.nodes.contains_key(node));
    if let Some((node, _)) = gone.clone().find(|(node, _)| node.to_string() == text) {
        return Ok(Meant::Gone(*node));
    }
    let named = members.nodes.iter().filter(|(_, member)| member.name == text);
    let named: Vec<NodeId> = named.map(|(node, _)| *node).collect();
    match (gone.find(|(_, name)| name == text), members.find(text)) {
        (None, Some(member)) => Ok(Meant::Member(member)),
        (None, None) => Err(ChangeError::NoMember(text.to_owned())),
        (Some((gone, _)), _) if named.is_empty() => Ok(Meant::Gone(*gone)),
        (Some((gone, _)), _) => Err(reused(text, *gone, &named)),
    }
}

fn reused(name: &str, gone: NodeId, named: &[NodeId]) -> ChangeError {
    let named = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
    ChangeError::Unsafe {
        why: format!("{name} was the name of {gone}, which was taken out, and is that of {named} now"),
        hint: format!(
            "if {gone} was meant, it is done; if {named} is, give that id in the place of the name"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Member;

    #[test]
    fn rule_2_7_a_name_that_a_removed_node_had_never_means_the_next_one() {
        let nodes = [(1, "a"), (4, "d"), (5, "d"), (9, "c")];
        let member = |name: &str| Member { name: name.into(), ..Member::default() };
        let nodes = nodes.into_iter().map(|(node, name)| (NodeId(node), member(name))).collect();
        let members = Members { nodes, voter_sets: vec![[1, 4, 5, 9].map(NodeId).into()] };
        // Node 1 was to go and did not.
        let removals =
            [(2, "b"), (3, "c"), (1, "a"), (7, "b")].map(|(node, name)| (NodeId(node), name.into()));
        let meant = |text: &str| meant(text, &members, &removals);

        assert_eq!(meant("a"), Ok(Meant::Member(NodeId(1))));
        assert_eq!(meant("b"), Ok(Meant::Gone(NodeId(7))), "the last one that had it");
        assert_eq!(meant("node-2"), Ok(Meant::Gone(NodeId(2))));
        assert_eq!(meant("node-3"), Ok(Meant::Gone(NodeId(3))));
        assert_eq!(meant("node-9"), Ok(Meant::Member(NodeId(9))));
        let Err(ChangeError::Unsafe { why, hint }) = meant("c") else { panic!("{:?}", meant("c")) };
        assert!(
            [&why, &hint].iter().all(|text| text.contains("node-3") && text.contains("node-9")),
            "{why}: {hint}"
        );
        for unknown in ["d", "e", "node-8"] {
            assert_eq!(meant(unknown), Err(ChangeError::NoMember(unknown.into())));
        }
    }
}
