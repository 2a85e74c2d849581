//! Random command sequences: `apply` never panics, invariants hold after every entry, and a refusal leaves no trace.
//!
//! Each line is a line of a golden script, drawn by a seed, so that a failure can be copied into one.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the words of scripts are shared with the golden scripts"
)]

mod common;

use common::Script;
use proptest::prelude::*;

/// Something for the random lines to work on.
const BEGINNING: &[&str] = &[
    "pool db 2",
    "apply w a b@a c@a d@b/c when=c retry=a@1/b@2 s=tick pool=b@db allow=c rule=d@all_done",
    "apply x a b@a for_each=a@2 s=tick max=1 past=b lost=a@1 timeout=a@60",
    "apply y a b@a s=tick max=1 full=skip pool=a@db@2 rule=b@one_failed",
    "apply z a for_each=a max=2 full=cancel disconnect=a@60",
    "open node-1 1 slots=3",
    "open node-2 1 slots=2",
    "fire w@tick next=+60",
    "fire x@tick next=+60",
    "fire y@tick next=+60",
    "start w",
    "start x",
    "start z",
];

/// One line of a script, or one that makes no sense: those must be refused, not panic.
fn line() -> impl Strategy<Value = String> {
    let node = 1..4u64;
    let session = 1..9u64;
    let workflow = prop::sample::select(vec!["w", "x", "y", "z"]);
    let schedule = prop::sample::select(vec!["w@tick", "x@tick", "y@tick"]);
    let held = prop::collection::vec(1..30u64, 0..4);
    prop_oneof![
        3 => (node.clone(), session.clone(), held, 0..3u64, 1..3u64).prop_map(|(node, session, held, slots, journal)| {
            let held: Vec<String> = held.iter().map(ToString::to_string).collect();
            format!("open node-{node} {session} slots={slots} journal={journal} held={}", quoted(&held.join("/")))
        }),
        2 => (node.clone(), session.clone(), 0..100u64).prop_map(|(n, s, d)| format!("expire node-{n} {s} dead_for={d}")),
        1 => (node.clone(), session.clone()).prop_map(|(n, s)| format!("cordon node-{n} {s}")),
        2 => (node.clone(), session).prop_map(|(n, s)| format!("uncordon node-{n} {s}")),
        1 => node.clone().prop_map(|n| format!("drain node-{n}")),
        1 => node.clone().prop_map(|n| format!("undrain node-{n}")),
        1 => node.prop_map(|n| format!("ready node={n}")),
        3 => (0..2_000u64).prop_map(|step| format!("time +{step}")),
        1 => Just("apply w a b@a c@a d@b/c when=c retry=a@1/b@2 s=tick pool=b@db allow=c rule=d@all_done".to_owned()),
        1 => Just("apply x a b@a for_each=a@2 s=tick max=1 past=b lost=a@1 timeout=a@60".to_owned()),
        1 => Just("apply y a b@a s=tick max=1 full=skip pool=a@db@2 rule=b@one_failed".to_owned()),
        1 => Just("apply z a for_each=a max=2 full=cancel disconnect=a@60 retry=a@1".to_owned()),
        1 => Just("apply w a b@a s=tick text=second".to_owned()),
        5 => workflow.clone().prop_map(|workflow| format!("start {workflow}")),
        1 => workflow.prop_map(|workflow| format!("start {workflow} request=r1")),
        3 => (schedule.clone(), 0..30u64).prop_map(|(schedule, back)| format!("fire {schedule} -{back} next=+60")),
        1 => schedule.clone().prop_map(|schedule| format!("fire {schedule} next=+60")),
        1 => schedule.clone().prop_map(|schedule| format!("pause {schedule}")),
        1 => schedule.clone().prop_map(|schedule| format!("resume {schedule}")),
        1 => schedule.clone().prop_map(|schedule| format!("quarantine {schedule}")),
        1 => (schedule, 1..4u64).prop_map(|(schedule, active)| format!("backfill {schedule} -900 -0 active={active}")),
        2 => (1..4u64, 0..800u64).prop_map(|(id, tick)| format!("slice backfill-{id} -{tick} cursor=-{tick}")),
        1 => (1..4u64).prop_map(|id| format!("cancel-backfill backfill-{id}")),
        20 => (0..9u64, -1..3i64, 0..2u64).prop_map(|(fence, exit, log)| match exit {
            -1 => format!("finish %fence{fence} exit=broken log={log}"),
            exit => format!("finish %fence{fence} exit={exit} log={log}"),
        }),
        10 => (0..9u64, 0..5u64).prop_map(|(task, what)| {
            let what = ["run", "skip", "fail", "0", "3"][what as usize];
            format!("decide %deciding{task} {what}")
        }),
        8 => Just("timers".to_owned()),
        4 => (1..200u64).prop_map(|fence| format!("logs {fence}@pack")),
        2 => (0..20u64).prop_map(|run| format!("cancel %run{run}")),
        3 => (0..20u64).prop_map(|run| format!("retry %run{run}")),
        2 => (0..20u64).prop_map(|run| format!("retry %run{run} from=a")),
        4 => (0..20u64).prop_map(|task| format!("retry-task %failed{task}")),
        1 => (1..20u64).prop_map(|run| format!("abandon run-{run}/a")),
        3 => (0..9u64).prop_map(|run| format!("retire %finished{run}")),
        1 => (0..4u64).prop_map(|slots| format!("pool db {slots}")),
        1 => Just("delete w".to_owned()),
        1 => (15..80u64).prop_map(|rows| format!("settings rows={rows}")),
        3 => Just("continue".to_owned()),
    ]
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(lines in prop::collection::vec(line(), 1..120)) {
        let mut script = Script::founded();
        let lines = BEGINNING.iter().map(ToString::to_string).chain(lines).collect::<Vec<_>>();
        for line in &lines {
            if let Err(fault) = script.line(line) {
                prop_assert!(false, "after `{line}`: {fault}");
            }
        }
    }
}
