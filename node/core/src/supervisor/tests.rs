//! Golden scripts for the rules of PROTOCOL 5.1, one story each. `UPDATE_GOLDENFILES=1` rewrites what is below `---`.

extern crate std;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::ToString;
use core::error::Error;
use std::path::PathBuf;

use goldenscript::Context;

use super::*;

/// Times in scripts are milliseconds; `at=` sets the clock, which then stands still.
#[derive(Default)]
struct Script {
    machine: Machine,
    now: BootTime,
}

impl Script {
    fn event(&self, command: &goldenscript::Command) -> Result<Event, Box<dyn Error>> {
        let mut args = command.consume_args();
        let number = |text: Option<&str>| -> Result<u64, Box<dyn Error>> {
            Ok(text.ok_or("a number is missing")?.parse()?)
        };
        let session = match args.take_key("session") {
            Some(text) => SessionNumber(text.parse()?),
            None => self.machine.highest(),
        };
        let fence = |text| number(text).map(Fence);
        Ok(match command.name.as_str() {
            "session" => Event::Session { number: SessionNumber(number(args.next_pos())?) },
            "spawn" => Event::Spawn {
                session,
                fence: fence(args.next_pos())?,
                on_disconnect: Millis(number(args.take_key("on_disconnect").or(Some("0")))?),
            },
            "deadline" => Event::Deadline {
                session,
                at: BootTime(0) + Millis(number(args.next_pos())?),
                kill_after: Millis(2_000),
            },
            "stop" => Event::Stop {
                session,
                fence: fence(args.next_pos())?,
                grace: Millis(number(args.take_key("grace").or(Some("10000")))?),
            },
            "ack" => Event::Acknowledge { session, fence: fence(args.next_pos())? },
            "exited" => Event::Exited {
                fence: fence(args.next_pos())?,
                exit: match args.take_key("signal") {
                    Some(signal) => Exit::Signal(signal.parse()?),
                    None => Exit::Code(number(args.take_key("code").or(Some("0")))? as i32),
                },
            },
            "gone" => Event::Gone { fence: fence(args.next_pos())? },
            "tick" => Event::Tick,
            other => return Err(format!("no event is called `{other}`").into()),
        })
    }
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Result<String, Box<dyn Error>> {
        if let Some(at) = command.consume_args().take_key("at") {
            self.now = BootTime(0) + Millis(at.parse()?);
        }
        if command.name == "held" {
            let lines = self.machine.held().into_iter().map(|(fence, held)| match held {
                Held::Running => format!("{fence} running\n"),
                Held::Ended(exit) => format!("{fence} ended {exit:?}\n"),
            });
            return Ok(lines.collect());
        }
        if command.name == "wake" {
            let wake = self.machine.next_wake().map(|at| at.since(BootTime(0)).0);
            return Ok(wake.map_or("never\n".to_string(), |at| format!("{at}\n")));
        }
        let event = self.event(command)?;
        let actions = self.machine.handle(self.now, event);
        let at = self.now.since(BootTime(0)).0;
        let lines: Vec<String> = actions.iter().map(|action| format!("{at} {}\n", show(action))).collect();
        Ok(lines.concat())
    }
}

fn show(action: &Action) -> String {
    match action {
        Action::Spawn(fence) => format!("spawn {fence}"),
        Action::Refuse(fence, why) => format!("refuse {fence}: {why:?}"),
        Action::Term(fence) => format!("TERM {fence}"),
        Action::Kill(fence) => format!("KILL {fence}"),
        Action::Ended(fence, exit) => format!("ended {fence}: {exit:?}"),
        Action::Unkillable(fence) => format!("unkillable {fence}"),
    }
}

#[test]
fn scripts() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/supervisor/scripts");
    for entry in std::fs::read_dir(folder)? {
        goldenscript::run(&mut Script::default(), entry?.path())?;
    }
    Ok(())
}

mod properties {
    use alloc::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const KILL_AFTER: Millis = Millis(2_000);

    /// What a story consists of; times are steps of 500 ms, sessions and fences are few, so that they meet.
    #[derive(Clone, Debug)]
    enum Step {
        Session(u64),
        Spawn {
            session: u64,
            fence: u64,
        },
        /// A deadline so many milliseconds from now; negative ones came too late.
        Deadline {
            session: u64,
            ahead: i64,
        },
        Stop {
            session: u64,
            fence: u64,
        },
        /// The first process of one that runs exits, and its group goes.
        End(Index),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (1..6u64).prop_map(Step::Session),
            (1..6u64, 1..5u64).prop_map(|(session, fence)| Step::Spawn { session, fence }),
            (1..6u64, -2_000..6_000i64).prop_map(|(session, ahead)| Step::Deadline { session, ahead }),
            (1..6u64, 1..5u64).prop_map(|(session, fence)| Step::Stop { session, fence }),
            any::<Index>().prop_map(Step::End),
            (0..3_000u64).prop_map(Step::Wait),
        ];
        proptest::collection::vec(step, 1..60)
    }

    /// What the rules say, told again without the machine's words.
    #[derive(Default)]
    struct Rules {
        highest: u64,
        /// The latest deadline that counts, of any session; processes may not outlive it by more than K.
        deadline: Option<BootTime>,
        /// The latest one of the highest session, and whether it has passed.
        own: Option<BootTime>,
        over: bool,
        spawned: BTreeSet<Fence>,
        /// Spawned and not gone; when it was first signalled, and when killed.
        alive: BTreeMap<Fence, (Option<BootTime>, Option<BootTime>)>,
    }

    impl Rules {
        fn hear(&mut self, now: BootTime, event: &Event) {
            self.over |= self.own.is_some_and(|at| at <= now);
            match event {
                Event::Session { number } if number.0 > self.highest => {
                    (self.highest, self.own, self.over) = (number.0, None, false);
                }
                Event::Deadline { session, at, .. }
                    if session.0 == self.highest && !self.over && *at > now =>
                {
                    self.own = self.own.max(Some(*at));
                    self.deadline = self.deadline.max(Some(*at));
                }
                Event::Session { .. }
                | Event::Deadline { .. }
                | Event::Spawn { .. }
                | Event::Stop { .. }
                | Event::Acknowledge { .. }
                | Event::Exited { .. }
                | Event::Gone { .. }
                | Event::Tick => {}
            }
        }

        fn see(&mut self, now: BootTime, actions: &[Action]) {
            for action in actions {
                match action {
                    Action::Spawn(fence) => {
                        assert!(
                            self.own.is_some_and(|at| at > now) && !self.over,
                            "spawned without a deadline"
                        );
                        assert!(self.spawned.insert(*fence), "{fence} spawned twice");
                        self.alive.insert(*fence, (None, None));
                    }
                    Action::Term(fence) => {
                        let (asked, _) = self.alive.get_mut(fence).expect("only what lives is signalled");
                        asked.get_or_insert(now);
                    }
                    Action::Kill(fence) => {
                        let (asked, killed) =
                            self.alive.get_mut(fence).expect("only what lives is signalled");
                        asked.get_or_insert(now);
                        killed.get_or_insert(now);
                    }
                    Action::Ended(fence, _) => {
                        self.alive.remove(fence);
                    }
                    Action::Refuse(..) | Action::Unkillable(_) => {}
                }
            }
        }

        /// Whoever lives past the deadline is being stopped, and killed half of K later.
        fn check(&self, now: BootTime) {
            let Some(deadline) = self.deadline else {
                assert!(self.alive.is_empty(), "a process without a deadline");
                return;
            };
            for (fence, (asked, killed)) in &self.alive {
                assert!(now < deadline || asked.is_some(), "{fence} outlives its deadline");
                let must_be_killed =
                    asked.is_some_and(|asked| asked + KILL_AFTER <= now) && now >= deadline + KILL_AFTER;
                assert!(!must_be_killed || killed.is_some(), "{fence} is not killed");
            }
        }
    }

    fn event(step: &Step, now: BootTime, rules: &Rules) -> Option<Event> {
        let session = |number: &u64| SessionNumber(*number);
        Some(match step {
            Step::Session(number) => Event::Session { number: session(number) },
            Step::Spawn { session: number, fence } => {
                Event::Spawn { session: session(number), fence: Fence(*fence), on_disconnect: Millis(0) }
            }
            Step::Deadline { session: number, ahead } => Event::Deadline {
                session: session(number),
                at: BootTime(now.0.saturating_add_signed(ahead * 1_000_000)),
                kill_after: KILL_AFTER,
            },
            Step::Stop { session: number, fence } => {
                Event::Stop { session: session(number), fence: Fence(*fence), grace: Millis(10_000) }
            }
            Step::End(index) => {
                let fences: Vec<Fence> = rules.alive.keys().copied().collect();
                if fences.is_empty() {
                    return None;
                }
                Event::Exited { fence: *index.get(&fences), exit: Exit::Code(0) }
            }
            Step::Wait(_) => Event::Tick,
        })
    }

    proptest! {
        /// PROTOCOL 5.1, for any order of messages: no process without a deadline, none outlives it, none runs twice.
        #[test]
        fn no_process_outlives_its_deadline(steps in steps()) {
            let (mut machine, mut rules) = (Machine::default(), Rules::default());
            let mut now = BootTime(10_000_000_000);
            for step in steps {
                if let Step::Wait(millis) = step {
                    // Woken as it asked to be, as the shell does.
                    let until = now + Millis(millis);
                    while let Some(wake) = machine.next_wake().filter(|wake| *wake <= until) {
                        now = now.max(wake);
                        rules.hear(now, &Event::Tick);
                        rules.see(now, &machine.handle(now, Event::Tick));
                        rules.check(now);
                    }
                    now = until;
                }
                let Some(event) = event(&step, now, &rules) else { continue };
                rules.hear(now, &event);
                rules.see(now, &machine.handle(now, event.clone()));
                if let Event::Exited { fence, .. } = event {
                    rules.see(now, &machine.handle(now, Event::Gone { fence }));
                    assert!(!rules.alive.contains_key(&fence), "its end is told");
                }
                rules.check(now);
            }
        }
    }
}
