//! `why`: one sentence on what something waits for or how it ended, and the command that helps.
//!
//! The cluster decides what it says; here it becomes a sentence. Start at [`why`].

use clap::Args;
use matins_proto::v1::{WhyRequest, WhyResponse};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Look, fold, moment, plain_span};
use crate::refs::TaskRef;

/// Say what something waits for, since when, and what would unblock it
///
/// One sentence, and below it what to type. Works for runs, tasks and items, finished ones too, for backfills, and for
/// workflows that make no run.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins why run-42
  matins why run-42/load
  matins why latest:nightly-flights/extract.3
  matins why backfill-7
  matins why nightly-flights            why there is no run of it now")]
pub(crate) struct WhyArgs {
    /// `run-42`, `run-42/load`, `latest:WORKFLOW`, `backfill-7` or a workflow
    #[arg(value_name = "RUN[/TASK]")]
    what: String,
}

/// `matins why`.
pub(crate) async fn why(args: WhyArgs, context: &Context) -> Outcome {
    let answer = context.client()?.call(ask(&args.what, context)?).await?;
    context.one(&answer, &answer.subject, |look| text(&answer, look))?;
    Ok(Exit::Done)
}

/// What is meant shows by its spelling: no workflow is called `run-42` or `backfill-7` (LANGUAGE 1.7).
fn ask(what: &str, context: &Context) -> Result<WhyRequest, Fault> {
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|digit| digit.is_ascii_digit());
    if what.strip_prefix("backfill-").is_some_and(is_number) {
        return Ok(WhyRequest { backfill: what.to_owned(), ..WhyRequest::default() });
    }
    let head = what.split('/').next().unwrap_or(what);
    if head.starts_with("latest:") || head.strip_prefix("run-").is_some_and(is_number) {
        let TaskRef { run, task } = TaskRef::parse(what, context)?;
        return Ok(WhyRequest { run, task, ..WhyRequest::default() });
    }
    Ok(WhyRequest { workflow: context.workflow(what), ..WhyRequest::default() })
}

/// The sentence, and the commands below it.
pub(crate) fn text(why: &WhyResponse, look: &Look) -> String {
    let reason = why.reason.clone().unwrap_or_default();
    let until = reason.until.map(|until| format!(" {}", at(until, look))).unwrap_or_default();
    let remedy = if why.remedy.is_empty() { String::new() } else { format!("; {}", why.remedy) };
    let sentence = format!("{} {}: {}{until}{remedy}.", why.subject, standing(why, look), reason.text);
    let mut text = fold(&sentence, look.columns, 0) + "\n";
    for command in &why.commands {
        text.push_str("  ");
        text.push_str(command);
        text.push('\n');
    }
    text
}

/// `failed 5m ago`, `has been queued for 3m`.
fn standing(why: &WhyResponse, look: &Look) -> String {
    let ended = match why.state.as_str() {
        "success" => Some("succeeded"),
        "failed" => Some("failed"),
        "cancelled" => Some("was cancelled"),
        "skipped" => Some("was skipped"),
        "upstream_failed" => Some("did not run (upstream_failed)"),
        _ => None,
    };
    match (ended, why.since) {
        (Some(verb), Some(since)) => format!("{verb} {}", at(since, look)),
        (Some(verb), None) => verb.to_owned(),
        (None, Some(since)) => match look.now {
            Some(now) => {
                let span = now.as_millis().saturating_sub(since.as_millis()).max(0);
                format!("has been {} for {}", why.state, plain_span(span))
            }
            None => format!("has been {} since {since}", why.state),
        },
        (None, None) => format!("is {}", why.state),
    }
}

fn at(time: matins_proto::Timestamp, look: &Look) -> String {
    if look.now.is_some() { moment(time, look) } else { format!("at {time}") }
}

#[cfg(test)]
mod tests {
    use matins_proto::Timestamp;
    use matins_proto::v1::StateReason;

    use super::*;

    fn pool() -> WhyResponse {
        WhyResponse {
            subject: "run-42/load".into(),
            state: "queued".into(),
            since: Some(Timestamp::from_millis(0)),
            reason: Some(StateReason {
                code: "pool".into(),
                text: "pool `db` is full (2 of 2 slots), held by run-40/load".into(),
                until: None,
            }),
            remedy: "it starts when one has ended".into(),
            commands: vec!["matins why run-40/load".into()],
            ..WhyResponse::default()
        }
    }

    #[test]
    fn it_is_one_sentence_with_what_to_type_below() {
        assert_eq!(
            text(&pool(), &Look::PLAIN),
            "run-42/load has been queued since 1970-01-01T00:00:00Z: pool `db` is full (2 of 2 slots), held by \
             run-40/load; it starts when one has ended.\n  matins why run-40/load\n"
        );
        let look = Look { now: Some(Timestamp::from_millis(200_000)), ..Look::PLAIN };
        assert!(text(&pool(), &look).starts_with("run-42/load has been queued for 3m20s: pool"));
    }

    #[test]
    fn what_ends_by_itself_says_when() {
        let reason = StateReason {
            code: "delay".into(),
            text: "attempt 1 failed (exit code 1); attempt 2 begins".into(),
            until: Some(Timestamp::from_millis(9_000)),
        };
        let why =
            WhyResponse { state: "retrying".into(), reason: Some(reason), commands: Vec::new(), ..pool() };
        let look = Look { now: Some(Timestamp::from_millis(4_000)), ..Look::PLAIN };
        assert_eq!(
            text(&why, &look),
            "run-42/load has been retrying for 4.0s: attempt 1 failed (exit code 1); attempt 2 begins in 5.0s; it starts \
             when one has ended.\n"
        );
    }
}
