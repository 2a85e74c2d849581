//! `logs`: what tasks print, to the end or as it comes.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use clap::Args;
use matins_proto::Timestamp;
use matins_proto::v1::{LogLine, ReadLogsRequest, ReadLogsResponse, log_line::Stream, log_notice::Kind};

use super::list::parse_since;
use crate::context::{Context, Format, Outcome, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Look, as_json, as_jsonl, as_yaml, paint};
use crate::refs::TaskRef;

/// Show what tasks print
///
/// Of each task the last attempt, unless another is named. With several tasks each line begins with its task. Works for
/// running tasks on any node, and for finished ones after their node is gone.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins logs run-42
  matins logs -f latest:nightly-flights
  matins logs run-42 --failed --tail 20
  matins logs run-42/extract.3 --attempt 1")]
pub(crate) struct LogsArgs {
    /// `run-42`, `latest:WORKFLOW`, or one task of it: `run-42/extract.3`
    #[arg(value_name = "RUN[/TASK]")]
    run: String,

    /// Go on with what comes, until the run has ended
    #[arg(short, long)]
    follow: bool,

    /// Only tasks that failed, or whose last attempt did
    #[arg(long)]
    failed: bool,

    /// Of this attempt, from 1
    #[arg(long, value_name = "N")]
    attempt: Option<u32>,

    /// Only the last lines of each task
    #[arg(long, value_name = "N")]
    tail: Option<u32>,

    /// Only lines of this time (10m) or after this instant
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Timestamp>,

    /// Only standard error
    #[arg(long)]
    stderr: bool,
}

/// `matins logs`.
pub(super) async fn logs(args: LogsArgs, context: &Context) -> Outcome {
    let TaskRef { run, task } = TaskRef::parse(&args.run, context)?;
    let is_document = matches!(context.format(), Format::Json | Format::Yaml);
    if args.follow && is_document {
        return Err(Fault::usage("what goes on and on is no single document")
            .hint("use -o jsonl, which is one document a line"));
    }
    let ask = ReadLogsRequest {
        run: run.clone(),
        task: task.clone(),
        attempt: args.attempt,
        follow: args.follow,
        failed: args.failed,
        tail: args.tail,
        since: args.since,
        streams: if args.stderr { vec![Stream::Stderr.into()] } else { Vec::new() },
        after: Vec::new(),
    };
    let reading = read(ask, context);
    if args.follow {
        until_interrupted(reading, || format!("stopped reading; {run} goes on")).await
    } else {
        reading.await
    }
}

async fn read(ask: ReadLogsRequest, context: &Context) -> Outcome {
    let mut lines = Lines { asked: ask.task.clone(), look: context.look(), open: None };
    let mut follow = context.client()?.read_logs(ask);
    let mut pieces = Vec::new();
    while let Some(piece) = follow.next().await? {
        match context.format() {
            Format::Jsonl => context.print(&as_jsonl(&piece))?,
            Format::Json | Format::Yaml => pieces.push(piece),
            Format::Table | Format::Wide | Format::Name => {
                write(&lines.take(&piece))?;
                if let Some(text) = notice(&piece) {
                    write(&lines.close())?;
                    context.say(text);
                }
            }
        }
    }
    match context.format() {
        Format::Json => context.print(&as_json(&pieces))?,
        Format::Yaml => context.print(&as_yaml(&pieces))?,
        Format::Table | Format::Wide | Format::Name | Format::Jsonl => write(&lines.close())?,
    }
    Ok(Exit::Done)
}

/// Log lines need not be UTF-8, so they do not go through text.
fn write(bytes: &[u8]) -> Result<(), Fault> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(Fault::Output)
}

/// What a person should know about a log besides its lines.
fn notice(piece: &ReadLogsResponse) -> Option<String> {
    let notice = piece.notice.as_ref()?;
    let worth_saying = match notice.kind() {
        Kind::Lost | Kind::LogExpired | Kind::Dropped | Kind::Unreachable => true,
        Kind::End | Kind::Started | Kind::Unspecified => false,
    };
    worth_saying.then(|| format!("{} attempt {}: {}", piece.task, piece.attempt, notice.text))
}

/// Puts lines of several tasks one below the other.
struct Lines {
    /// The task that was asked for. Its lines need no name before them.
    asked: String,
    look: Look,
    /// The attempt whose line is not at its end yet.
    open: Option<(String, u32)>,
}

impl Lines {
    fn take(&mut self, piece: &ReadLogsResponse) -> Vec<u8> {
        let here = (piece.task.clone(), piece.attempt);
        let mut bytes = Vec::new();
        for LogLine { text, stream: _, complete, position: _, time: _ } in &piece.lines {
            if self.open.as_ref() != Some(&here) {
                bytes.extend(self.close());
                bytes.extend(self.prefix(&piece.task).into_bytes());
            }
            bytes.extend_from_slice(text);
            self.open = if *complete { None } else { Some(here.clone()) };
            if *complete {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    /// Ends a line that was begun.
    fn close(&mut self) -> Vec<u8> {
        self.open.take().map(|_| b"\n".to_vec()).unwrap_or_default()
    }

    fn prefix(&self, task: &str) -> String {
        const COLOURS: [AnsiColor; 5] =
            [AnsiColor::Cyan, AnsiColor::Green, AnsiColor::Yellow, AnsiColor::Magenta, AnsiColor::Blue];
        if task == self.asked {
            return String::new();
        }
        // The same task has the same colour in every call.
        let at = task.bytes().fold(0_usize, |sum, byte| sum * 31 % 1_009 + usize::from(byte)) % COLOURS.len();
        paint(&format!("{task} | "), Style::new().fg_color(Some(COLOURS[at].into())), &self.look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(task: &str, lines: &[(&'static str, bool)]) -> ReadLogsResponse {
        let line = |&(text, complete): &(&'static str, bool)| LogLine {
            text: text.as_bytes().into(),
            complete,
            ..LogLine::default()
        };
        let lines = lines.iter().map(line).collect();
        ReadLogsResponse { task: task.into(), attempt: 1, lines, ..ReadLogsResponse::default() }
    }

    #[test]
    fn lines_of_several_tasks_say_whose_they_are_and_never_mix() {
        let mut lines = Lines { asked: String::new(), look: Look::PLAIN, open: None };
        let mut text = lines.take(&piece("load", &[("one", true), ("begun", false)]));
        text.extend(lines.take(&piece("load", &[(" and ended", true), ("cut", false)])));
        text.extend(lines.take(&piece("check", &[("ok", true)])));
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "load | one\nload | begun and ended\nload | cut\ncheck | ok\n"
        );
    }

    #[test]
    fn the_task_that_was_asked_for_needs_no_name() {
        let mut lines = Lines { asked: "load".into(), look: Look::PLAIN, open: None };
        let mut text = lines.take(&piece("load", &[("one", true), ("no end", false)]));
        text.extend(lines.close());
        assert_eq!(String::from_utf8(text).unwrap(), "one\nno end\n");
    }
}
