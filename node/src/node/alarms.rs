//! What this node sees and the state does not hold: members that do not answer, clocks, its disk. Pure.

use matins_core::time::{Millis, Timestamp};

use crate::serve::cluster::{AlarmView, MemberView};

/// A wall clock this far from leader time is worth a look: a leader with it would hold time back or step it (PROTOCOL 1.1).
const CLOCK_APART_MAX: Millis = Millis::from_secs(10);

/// What there is to see.
pub(super) struct Seen<'a> {
    /// All members.
    pub(super) members: &'a [MemberView],
    /// This node.
    pub(super) own: &'a str,
    /// It waits for room on its disk.
    pub(super) disk_is_full: bool,
    /// A reading of the clocks that waits for a person.
    pub(super) time_waiting: Option<Timestamp>,
    /// Leader time.
    pub(super) now: Timestamp,
}

/// The alarms, the most urgent first.
pub(super) fn alarms(seen: &Seen<'_>) -> Vec<AlarmView> {
    let mut alarms = Vec::new();
    let mut alarm = |code, text: String, subject: String| {
        alarms.push(AlarmView { code, text, subject, since: seen.now });
    };
    if seen.disk_is_full {
        let text =
            "its disk is full, and it acknowledges nothing until there is room: free some space (`df -h`)";
        alarm("disk_full", text.into(), seen.own.to_owned());
    }
    let is_other = |member: &&MemberView| member.node.to_string() != seen.own;
    for member in seen.members.iter().filter(|member| !member.is_reachable).filter(is_other) {
        let text =
            "it does not answer: look whether it runs, and whether its cluster address is reached from here";
        alarm("node_unreachable", text.into(), member.node.to_string());
    }
    if seen.time_waiting.is_some() {
        let text = "a majority's clocks are more than 31 days ahead; if they are right: `matins cluster time accept TIME`";
        alarm("time_waiting", text.into(), "time".into());
    }
    let apart = seen.members.iter().filter_map(|member| {
        let ahead = member.clock_ahead_millis.filter(|_| member.is_reachable)?;
        (ahead.unsigned_abs() > CLOCK_APART_MAX.0).then_some((member.node, ahead))
    });
    for (node, ahead) in apart {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        let text = format!(
            "its wall clock is {} s {way} the cluster's time: look at its time synchronisation (`timedatectl`)",
            ahead.unsigned_abs() / 1_000
        );
        alarm("clock_ahead", text, node.to_string());
    }
    alarms
}

#[cfg(test)]
mod tests {
    use matins_core::id::NodeId;

    use super::*;

    fn member(node: u64, is_reachable: bool, ahead: i64) -> MemberView {
        MemberView {
            node: NodeId(node),
            is_reachable,
            clock_ahead_millis: Some(ahead),
            ..MemberView::default()
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_what_is_not_is_not() {
        let told = |seen: &Seen<'_>| -> Vec<(&'static str, String)> {
            alarms(seen).into_iter().map(|alarm| (alarm.code, alarm.subject)).collect()
        };
        let (own, now) = ("node-1", Timestamp::ZERO);
        // Nobody hears itself, and a clock that was not heard of lately says nothing.
        let calm = [member(1, false, 20_000_000), member(2, true, -9_000)];
        assert_eq!(told(&Seen { members: &calm, own, disk_is_full: false, time_waiting: None, now }), []);
        let wild = [member(1, true, 11_000), member(2, false, 0), member(3, true, -60_000)];
        let seen = Seen { members: &wild, own, disk_is_full: true, time_waiting: Some(now), now };
        let expected = [
            ("disk_full", "node-1"),
            ("node_unreachable", "node-2"),
            ("time_waiting", "time"),
            ("clock_ahead", "node-1"),
            ("clock_ahead", "node-3"),
        ];
        assert_eq!(told(&seen), expected.map(|(code, subject)| (code, subject.to_owned())));
    }
}
