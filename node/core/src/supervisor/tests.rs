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
