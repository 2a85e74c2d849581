//! Golden scripts for the rules of PROTOCOL 5.4 to 5.8, one story each. `UPDATE_GOLDENFILES=1` rewrites what is
//! below `---`.

extern crate std;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::error::Error;
use std::path::PathBuf;

use goldenscript::Context;

use super::*;
use crate::supervisor::Exit;

/// Times in scripts are milliseconds; `at=` sets the clock, which then stands still. `begin` is an incarnation.
struct Script {
    machine: Machine,
    now: BootTime,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn number(text: Option<&str>) -> Outcome<u64> {
    Ok(text.ok_or("a number is missing")?.parse()?)
}

fn fences(text: Option<&str>) -> Outcome<Vec<Fence>> {
    text.unwrap_or("").split_whitespace().map(|fence| Ok(Fence(fence.parse()?))).collect()
}

impl Script {
    /// `begin last=3 supervisors=2 started="1 2" ended="3" reported="4"`
    fn begin(&mut self, command: &goldenscript::Command) -> Outcome<String> {
        let mut args = command.consume_args();
        let mut journal = Vec::new();
        for (key, found) in
            [("started", Journaled::Started), ("ended", Journaled::Ended), ("reported", Journaled::Reported)]
        {
            journal.extend(fences(args.take_key(key))?.into_iter().map(|fence| (fence, found)));
        }
        let last = SessionNumber(number(args.take_key("last").or(Some("0")))?);
        let count = number(args.take_key("supervisors").or(Some("1")))? as u32;
        self.machine = Machine::new(last, (1..=count).map(SupervisorId), journal);
        Ok(String::new())
    }

    fn event(&self, command: &goldenscript::Command) -> Outcome<Event> {
        let mut args = command.consume_args();
        let session = match args.take_key("session") {
            Some(text) => SessionNumber(text.parse()?),
            None => self.machine.number(),
        };
        let mut fence = || number(args.next_pos()).map(Fence);
        let answered = |fence, answer| Event::Answered { fence, answer };
        Ok(match command.name.as_str() {
            "stream" => Event::StreamOpened,
            "closed" => Event::StreamClosed,
            "outnumbered" => Event::Outnumbered { highest: SessionNumber(number(args.next_pos())?) },
            "listed" => {
                let running = fences(args.take_key("running"))?;
                let ended = fences(args.take_key("ended"))?;
                let held = running.into_iter().map(|fence| (fence, Held::Running));
                let ended = ended.into_iter().map(|fence| (fence, Held::Ended(Exit::Code(0))));
                Event::Listed {
                    supervisor: SupervisorId(number(args.next_pos())? as u32),
                    number: session,
                    held: held.chain(ended).collect(),
                }
            }
            "opened" => Event::Opened {
                number: session,
                params: LeaseTerms::default(),
                bound: fences(args.take_key("bound"))?,
            },
            "refused" => Event::Refused { last: SessionNumber(number(args.next_pos())?) },
            "granted" => Event::Granted {
                sequence: number(args.next_pos())?,
                length: Millis(number(args.take_key("length").or(Some("10000")))?),
            },
            "start" => Event::Start { session, fence: fence()? },
            "stop" => Event::Stop { fence: fence()?, how: StopHow::Graceful },
            "started" => answered(fence()?, SpawnAnswer::Started),
            "not_taken" => answered(fence()?, SpawnAnswer::Refused),
            "unkillable" => answered(fence()?, SpawnAnswer::Unkillable),
            "ended" => Event::Ended { fence: fence()? },
            "reported" => Event::Reported { fence: fence()? },
            "ack" => Event::Acknowledged { fence: fence()? },
            "tick" => Event::Tick,
            other => return Err(format!("no event is called `{other}`").into()),
        })
    }
}

impl goldenscript::Runner for Script {
    type Command = goldenscript::Command;

    fn run(&mut self, command: &goldenscript::Command, _: &Context) -> Outcome<String> {
        if let Some(at) = command.consume_args().take_key("at") {
            self.now = BootTime(0) + Millis(at.parse()?);
        }
        if command.name == "begin" {
            return self.begin(command);
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
        Action::Announce(number) => format!("to supervisors: {number}"),
        Action::Hello(number, held) => {
            let held: Vec<String> = held.iter().map(|(fence, how)| format!(" {fence}={how:?}")).collect();
            format!("hello {number}{}", held.concat())
        }
        Action::Renew(sequence) => format!("renew {sequence}"),
        Action::PassDeadline { session, at, .. } => {
            format!("to supervisors: deadline {} of {session}", at.since(BootTime(0)).0)
        }
        Action::Journal(fence) => format!("journal {fence}"),
        Action::Confirm(fence) => format!("confirm {fence}"),
        Action::Spawn(number, fence) => format!("to supervisor: spawn {fence} under {number}"),
        Action::StopGroup(number, fence, how) => {
            format!("to supervisor: stop {fence} ({how:?}) under {number}")
        }
        Action::Started(fence) => format!("started {fence}"),
        Action::RefuseStart(fence, why) => format!("refuse {fence}: {why:?}"),
        Action::SendDead(fence) => format!("dead {fence}"),
        Action::Unkillable(fence) => format!("unkillable {fence}"),
        Action::MakeReport(fence) => format!("collect {fence}"),
        Action::MakeLost(fence) => format!("collect {fence} as lost"),
        Action::SendReport(fence) => format!("report {fence}"),
        Action::Forget(_, fence) => format!("forget {fence}"),
        Action::CloseStream => "close the stream".to_string(),
    }
}

#[test]
fn scripts() -> Outcome<()> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/executor/scripts");
    for entry in std::fs::read_dir(folder)? {
        let mut script = Script { machine: Machine::new(SessionNumber(0), [], []), now: BootTime(0) };
        goldenscript::run(&mut script, entry?.path())?;
    }
    Ok(())
}
