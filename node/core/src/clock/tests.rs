//! PROTOCOL 1.1 to 1.4, by scripts and by random clocks.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;
use core::fmt::Write as _;
use std::boxed::Box;
use std::error::Error;

use goldenscript::{Command, Context};
use proptest::prelude::*;

use super::*;

/// The true time at the beginning of every script.
const TRUE_START: i64 = 1_700_000_000_000;

/// One node, and the walls that it hears. Instants `t` are seconds since the beginning; times are printed as their
/// distance in seconds from the true time.
#[derive(Default)]
struct Script {
    clock: LeaderClock,
    walls: BTreeMap<u64, i64>,
    t: i64,
    now: Timestamp,
    accepted: Timestamp,
}

impl Script {
    fn boot(&self) -> BootTime {
        BootTime(self.t as u64 * 1_000_000)
    }

    fn off(&self, time: Timestamp) -> String {
        format!("{:+.3}", (time.as_millis() - TRUE_START - self.t) as f64 / 1000.0)
    }

    fn hear(&mut self) {
        for (node, offset) in self.walls.clone() {
            let wall = Timestamp::from_millis(TRUE_START + self.t + offset);
            self.clock.heard(NodeId(node), wall, self.boot());
        }
    }

    fn apply(&mut self, now: Timestamp, from: AppliedFrom) {
        self.now = self.now.max(now);
        self.clock.applied(self.now, self.accepted, self.boot(), from);
    }

    /// Goes on to `to`, hears each second, and says what alarm was raised when.
    fn run_to(&mut self, to: i64, writes: bool) -> String {
        let mut out = String::new();
        while self.t < to {
            self.t = to.min(self.t + 1000);
            self.hear();
            let now = self.clock.now(self.boot());
            if writes {
                self.apply(now, AppliedFrom::Live);
            }
            for alarm in self.clock.take_alarms() {
                let text = match alarm {
                    ClockAlarm::Stepped { by } => format!("stepped by {by}"),
                    ClockAlarm::Ahead { by } => format!("ahead by {by}"),
                    ClockAlarm::AwaitsPerson { reading } => format!("awaits a person: {}", self.off(reading)),
                };
                writeln!(out, "t={} alarm: {text}", self.t as f64 / 1000.0).expect("text grows");
            }
        }
        out
    }

    fn show(&mut self) -> String {
        let now = self.clock.now(self.boot());
        let reading = self.clock.reading(self.boot()).map_or("none".to_string(), |at| self.off(at));
        let waits = self.clock.awaits_person(self.boot()).map_or("", |_| " awaits a person");
        format!("t={} now={} reading={reading}{waits}\n", self.t as f64 / 1000.0, self.off(now))
    }
}

fn millis_of(seconds: &str) -> Result<i64, Box<dyn Error>> {
    Ok((seconds.parse::<f64>()? * 1000.0) as i64)
}

impl goldenscript::Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "voters" => {
                let mut sets = vec![];
                while let Some(set) = args.next_pos() {
                    let ids = set.split('-').map(|id| id.parse().map(NodeId));
                    sets.push(ids.collect::<Result<BTreeSet<_>, _>>()?);
                }
                self.clock.set_voters(sets);
            }
            "walls" => {
                while let Some((node, offset)) = args.next_key() {
                    self.walls.insert(node.parse()?, millis_of(offset)?);
                }
            }
            "silent" => self.walls.clear(),
            "applied" => {
                let offset = millis_of(args.next_pos().ok_or("applied OFFSET")?)?;
                let from =
                    if args.next_pos() == Some("disk") { AppliedFrom::Disk } else { AppliedFrom::Live };
                self.apply(Timestamp::from_millis(TRUE_START + self.t + offset), from);
            }
            "accept" => {
                let offset = millis_of(args.next_pos().ok_or("accept OFFSET")?)?;
                self.accepted = Timestamp::from_millis(TRUE_START + self.t + offset);
                let now = self.now + Millis(1);
                self.apply(now, AppliedFrom::Live);
            }
            "hear" => self.hear(),
            "lead" => return Ok(format!("leads: {}\n", self.clock.lead(self.boot()))),
            "follow" => self.clock.follow(),
            "run" | "write" => {
                let to = millis_of(args.take_key("to").ok_or("to=SECONDS")?)?;
                let alarms = self.run_to(to, command.name == "write");
                return Ok(alarms + &self.show());
            }
            "now" => return Ok(self.show()),
            "known" => {
                let known = self.clock.known(self.boot());
                return Ok(format!("known: {}\n", known.map_or("no".to_string(), |at| self.off(at))));
            }
            "time" => {
                let (at, _) = self.clock.now_with_readings(self.boot()).ok_or("no majority is heard")?;
                self.apply(at, AppliedFrom::Live);
                return Ok(format!("Time at={}\n", self.off(at)));
            }
            name => return Err(format!("there is no command {name}").into()),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}

#[test]
fn scripts() -> Result<(), Box<dyn Error>> {
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock/scripts");
    for entry in std::fs::read_dir(scripts)? {
        goldenscript::run(&mut Script::default(), entry?.path())?;
    }
    Ok(())
}

/// Whoever waits for a millisecond wakes when it begins: neither before, which would be for nothing, nor later.
#[test]
fn the_next_millisecond_begins_when_it_is_said() {
    for nanos in [0, 1, 999_999, 1_000_000, 1_234_567] {
        let mut clock = LeaderClock::new();
        clock.set_voters(vec![[NodeId(1)].into()]);
        clock.heard(NodeId(1), Timestamp::from_millis(TRUE_START), BootTime(500));
        assert!(clock.lead(BootTime(500)));
        clock.applied(Timestamp::from_millis(TRUE_START), Timestamp::ZERO, BootTime(500), AppliedFrom::Live);
        let boot = BootTime(500 + nanos);
        let now = clock.now(boot);
        let next = BootTime(boot.0 - clock.into_milli(boot)) + Millis(1);
        assert_eq!(clock.now(BootTime(next.0 - 1)), now, "{nanos}");
        assert_eq!(clock.now(next), now + Millis(1), "{nanos}");
    }
}

/// What one wall clock does: an offset in milliseconds for each second of the run.
fn wild_wall() -> impl Strategy<Value = Vec<i64>> {
    let year: i64 = 365 * 24 * 3_600_000;
    prop::collection::vec(prop_oneof![-10 * year..10 * year, -100_000i64..100_000, Just(0)], 60)
}

proptest! {
    /// Of n voters fewer than half may show anything, jump and come back: leader time stays with the others
    /// (PROTOCOL 1.1, 1.4), and catches up with them.
    #[test]
    fn no_minority_moves_leader_time_ahead(
        voters in 1u64..8,
        walls in prop::collection::vec(wild_wall(), 3),
        skew in prop::collection::vec(-500i64..500, 8),
        silent in any::<[bool; 3]>(),
    ) {
        let minority = (voters as usize - 1) / 2;
        let mut clock = LeaderClock::new();
        clock.set_voters(vec![(0..voters).map(NodeId).collect()]);
        let mut now = Timestamp::ZERO;
        for second in 0..60i64 {
            let boot = BootTime(second as u64 * 1_000_000_000);
            for node in 0..voters {
                let index = node as usize;
                let offset = if index < minority { walls[index][second as usize] } else { skew[index] };
                if index >= minority || !silent[index] {
                    let wall = Timestamp::from_millis(TRUE_START + second * 1000 + offset);
                    clock.heard(NodeId(node), wall, boot);
                }
            }
            prop_assert!(clock.lead(boot), "a majority was heard");
            let (at, _) = clock.now_with_readings(boot).expect("a majority was heard");
            clock.applied(at, Timestamp::ZERO, boot, AppliedFrom::Live);
            let off = at.as_millis() - TRUE_START - second * 1000;
            prop_assert!(off <= 500, "{off} ms ahead at {second} s");
            prop_assert!(off >= -500, "{off} ms behind at {second} s");
            prop_assert!(at >= now, "never back");
            now = at;
        }
    }

    /// Whatever is heard and applied, leader time never goes back and no entry would be refused (PROTOCOL 1.3).
    #[test]
    fn leader_time_never_goes_back(walls in prop::collection::vec(wild_wall(), 3)) {
        let mut clock = LeaderClock::new();
        clock.set_voters(vec![(0..3).map(NodeId).collect()]);
        let mut now = Timestamp::ZERO;
        for second in 0..60u64 {
            let boot = BootTime(second * 1_000_000_000);
            for (node, wall) in walls.iter().enumerate() {
                let wall = TRUE_START + second as i64 * 1000 + wall[second as usize];
                clock.heard(NodeId(node as u64), Timestamp::from_millis(wall), boot);
            }
            prop_assert!(clock.lead(boot), "all are heard");
            let (at, readings) = clock.now_with_readings(boot).expect("all are heard");
            prop_assert!(at >= now, "never back");
            prop_assert!(at <= now.max(readings.majority) + CLIP, "refused by apply");
            clock.applied(at, Timestamp::ZERO, boot, AppliedFrom::Live);
            now = at;
            let plain = clock.now(boot);
            prop_assert!(plain >= now && plain <= now + CLIP, "refused by apply");
        }
    }
}
