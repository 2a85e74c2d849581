//! Random command sequences: `apply` never panics, invariants hold after every entry, and a refusal leaves no trace.
//!
//! Each line is a line of a golden script, drawn by a seed, so that a failure can be copied into one. Between them come
//! commands of every kind with values that nobody would ask for.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the words of scripts are shared with the golden scripts"
)]

mod common;

use common::arbitrary::Source;
use common::{Leads, Script};
use matins_core::command::{Command, Entry};
use matins_core::id::LogIndex;
use matins_core::time::Timestamp;
use matins_core::{State, apply};
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

/// What a random sequence consists of.
#[derive(Clone, Debug)]
enum Step {
    /// A line of a script.
    Line(String),
    /// Any command at all, drawn by this seed.
    Any(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![3 => line().prop_map(Step::Line), 2 => any::<u64>().prop_map(Step::Any)];
    prop::collection::vec(step, 1..120)
}

/// A command of any kind, with ids that may be there and values at the ends of their range.
fn any_command(state: &State, at: Timestamp, seed: u64) -> Option<(Command, Option<Timestamp>, Leads)> {
    let mut source = Source::new(seed);
    source.now = at.as_millis();
    source.digests.extend(state.definitions.iter().map(|(digest, _)| *digest));
    source.digests.extend(state.blocks.iter().map(|(_, block)| block.digest));
    let command = source.draw()?;
    let claimed = (source.below(30) == 0).then(|| source.draw()).flatten();
    let leads = if source.below(10) == 0 { Leads::Never } else { Leads::Now };
    Some((command, claimed, leads))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 4_000, ..ProptestConfig::default() })]

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

    /// DESIGN 3.1: `apply` is total. And I11: who begins with a snapshot comes to the same state.
    #[test]
    fn no_command_whatever_it_asks_for_parts_replicas_or_panics(steps in steps(), half: prop::sample::Index) {
        let mut script = Script::founded();
        for line in BEGINNING {
            script.line(line).map_err(|fault| TestCaseError::fail(format!("after `{line}`: {fault}")))?;
        }
        let half = half.index(steps.len());
        let mut snapshot = None;
        for (number, step) in steps.iter().enumerate() {
            if number == half {
                snapshot = Some((script.state.encode(), script.log.len()));
            }
            let done = match step {
                Step::Line(line) => script.line(line).map_err(|fault| format!("after `{line}`: {fault}")),
                Step::Any(seed) => match any_command(&script.state, script.at(), *seed) {
                    Some((command, at, leads)) => {
                        let told = format!("{command:?}");
                        script.ask(command, at, leads).map(drop).map_err(|fault| format!("after {told}: {fault}"))
                    }
                    None => Ok(()),
                },
            };
            prop_assert!(done.is_ok(), "{}", done.unwrap_err());
        }
        let (bytes, from) = snapshot.expect("the half is one of the steps");
        let mut replica = State::decode(&bytes).expect("a snapshot reads back");
        for (bytes, index) in script.log[from..].iter().zip(from as u64 + 1..) {
            apply(&mut replica, LogIndex(index), Entry::decode(bytes).expect("an entry reads back"));
        }
        prop_assert_eq!(replica.hash(), script.state.hash(), "I11");
    }
}

/// Few enough for a suite that runs at every change; `PROPTEST_CASES` asks for more.
const CASES: u32 = 24;

fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.and_then(|asked| asked.parse().ok()).unwrap_or(CASES)
}

/// Every kind of command is among those drawn: a new one stops the build here, and a kind that is never drawn the test.
#[test]
fn every_kind_of_command_is_drawn() {
    let mut drawn = std::collections::BTreeSet::new();
    for seed in 0..4_000 {
        if let Some((command, _, _)) = any_command(&State::default(), Timestamp::ZERO, seed) {
            drawn.insert(kind(&command));
        }
    }
    assert_eq!(drawn, (0..KINDS).collect());
}

const KINDS: u32 = 50;

fn kind(command: &Command) -> u32 {
    match command {
        Command::LeaderReady { .. } => 0,
        Command::Time(_) => 1,
        Command::OpenSession(_) => 2,
        Command::ExpireSession { .. } => 3,
        Command::Cordon { .. } => 4,
        Command::Uncordon { .. } => 5,
        Command::Fire(_) => 6,
        Command::Decide(_) => 7,
        Command::FireTimers(_) => 8,
        Command::Finish(_) => 9,
        Command::Publishing { .. } => 10,
        Command::Unkillable { .. } => 11,
        Command::AttachLogs(_) => 12,
        Command::Continue => 13,
        Command::BackfillSlice(_) => 14,
        Command::RetireRuns { .. } => 15,
        Command::Checkpoint => 16,
        Command::CheckpointReport { .. } => 17,
        Command::Quarantine { .. } => 18,
        Command::Recalculate { .. } => 19,
        Command::Init { .. } => 20,
        Command::SetSettings(_) => 21,
        Command::AcceptTime { .. } => 22,
        Command::StoreDefinition { .. } => 23,
        Command::Apply(_) => 24,
        Command::PauseWorkflow(_) => 25,
        Command::ResumeWorkflow(_) => 26,
        Command::PauseSchedule(_) => 27,
        Command::ResumeSchedule(_) => 28,
        Command::DeleteWorkflow(_) => 29,
        Command::Start(_) => 30,
        Command::Retry(_) => 31,
        Command::RetryTask(_) => 32,
        Command::Cancel { .. } => 33,
        Command::CreateBackfill(_) => 34,
        Command::PauseBackfill(_) => 35,
        Command::ResumeBackfill(_) => 36,
        Command::CancelBackfill(_) => 37,
        Command::SetPool { .. } => 38,
        Command::DeletePool(_) => 39,
        Command::Drain(_) => 40,
        Command::Undrain(_) => 41,
        Command::Abandon(_) => 42,
        Command::RaiseLevel { .. } => 43,
        Command::Dismiss(_) => 44,
        Command::Refound(_) => 45,
        Command::Retain(_) => 46,
        Command::ChangeSettings(_) => 47,
        Command::Disks(_) => 48,
        Command::MemberGoes { .. } => 49,
    }
}
