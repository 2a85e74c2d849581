//! Whether the nodes' disks have room for new runs (PROTOCOL 6.12). Pure.

use std::collections::BTreeMap;

use matins_core::command::{Command, FullDisk};
use matins_core::id::NodeId;
use matins_core::state::State;

use crate::disk::DiskUse;
use crate::raft::Members;

/// What is known of the nodes' disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Disks {
    /// No majority was heard of lately: what the state says stays.
    #[default]
    Unknown,
    /// The leader's own and those of a majority have room.
    HaveRoom,
    /// They have not; this is the fullest.
    Full(FullDisk),
}

/// What nodes said of their disks; `None` inside: one cannot tell, and is not waited for.
pub type Heard = BTreeMap<NodeId, Option<DiskUse>>;

/// Judges what was heard lately. The leader writes first and must have room itself; a commit needs a majority of each set of
/// `members`.
pub fn judge(own: NodeId, heard: &Heard, members: &Members, was_full: bool) -> Disks {
    let has_room = |disk: &Option<DiskUse>| disk.as_ref().is_none_or(|disk| disk.has_room(was_full));
    let with_room = heard.iter().filter(|(_, disk)| has_room(disk)).map(|(node, _)| *node).collect();
    let own_has_room = heard.get(&own).is_some_and(has_room);
    if own_has_room && members.is_majority(&with_room) {
        return Disks::HaveRoom;
    }
    if own_has_room && !members.is_majority(&heard.keys().copied().collect()) {
        return Disks::Unknown;
    }
    let disks = heard.iter().filter_map(|(node, disk)| Some((*node, disk.as_ref()?)));
    let full = disks.filter(|(_, disk)| !disk.has_room(was_full));
    // The leader's own first: it alone is enough.
    let fullest = full.max_by_key(|(node, disk)| (*node == own, disk.used_permille));
    fullest.map_or(Disks::Unknown, |(node, disk)| {
        Disks::Full(FullDisk {
            node,
            path: disk.path.clone(),
            used_permille: disk.used_permille,
            limit_permille: disk.limits.full_permille,
        })
    })
}

/// Says whether disks have room, if the state says otherwise. A figure that moves is no news.
pub fn news(state: &State, disks: &Disks) -> Option<Command> {
    let place = |full: &FullDisk| (full.node, full.limit_permille);
    match (disks, &state.cluster.full_disk) {
        (Disks::Unknown, _) | (Disks::HaveRoom, None) => None,
        (Disks::HaveRoom, Some(_)) => Some(Command::Disks(None)),
        (Disks::Full(full), Some(known)) if place(full) == place(known) => None,
        (Disks::Full(full), _) => state.cluster.id.map(|_| Command::Disks(Some(full.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn heard(used: &[(u64, u16)]) -> Heard {
        let disk = |used_permille| Some(DiskUse { used_permille, ..DiskUse::default() });
        used.iter().map(|(node, used)| (NodeId(*node), disk(*used))).collect()
    }

    fn judged(used: &[(u64, u16)]) -> Disks {
        let voter_sets = vec![BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])];
        judge(NodeId(1), &heard(used), &Members { voter_sets, ..Members::default() }, false)
    }

    fn fullest(disks: &Disks) -> Option<u64> {
        match disks {
            Disks::Full(full) => Some(full.node.0),
            Disks::Unknown | Disks::HaveRoom => None,
        }
    }

    #[test]
    fn one_full_follower_stops_nothing() {
        assert_eq!(judged(&[(1, 100), (2, 100), (3, 990)]), Disks::HaveRoom);
        assert_eq!(judged(&[(1, 100), (2, 100)]), Disks::HaveRoom);
    }

    #[test]
    fn the_leaders_own_disk_and_those_of_a_majority_must_have_room() {
        assert_eq!(fullest(&judged(&[(1, 960), (2, 100), (3, 999)])), Some(1));
        assert_eq!(fullest(&judged(&[(1, 100), (2, 960), (3, 990)])), Some(3));
        assert_eq!(fullest(&judged(&[(1, 960)])), Some(1));
    }

    #[test]
    fn who_was_not_heard_is_not_judged() {
        assert_eq!(judged(&[(1, 100)]), Disks::Unknown);
        assert_eq!(judged(&[]), Disks::Unknown);
    }

    #[test]
    fn a_figure_that_moves_is_no_news() {
        let mut state = State::default();
        state.cluster.id = Some(7);
        let full = judged(&[(1, 960)]);
        let Some(Command::Disks(said)) = news(&state, &full) else { panic!("{full:?}") };
        state.cluster.full_disk = said;
        assert_eq!(news(&state, &judged(&[(1, 970)])), None);
        assert_eq!(news(&state, &Disks::Unknown), None);
        assert_eq!(news(&state, &Disks::HaveRoom), Some(Command::Disks(None)));
    }
}
