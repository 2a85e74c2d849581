//! `start` and `submit`: new runs, of a registered workflow or of a file.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use matins_proto::v1::{StartRunRequest, SubmitRunRequest, run::State};
use matins_proto::{Json, Timestamp};
use serde_json::{Map, Value};

use super::watch::wait_for;
use crate::context::{Context, Outcome, Repeat};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::refs::TaskRef;
use crate::workflow::sources;

/// Start a run of a registered workflow
///
/// Prints the id of the run and nothing else on standard output, so that a script can use it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins start nightly-flights
  matins start nightly-flights -p day=2013-01-31 -p mode=full --wait
  run=$(matins start hello) && matins logs -f \"$run\"")]
pub(crate) struct StartArgs {
    /// Its name, `namespace/name` or `name`
    #[arg(required_unless_present = "like")]
    workflow: Option<String>,

    #[command(flatten)]
    given: Given,

    /// Run this version instead of the current one
    #[arg(long, value_name = "N")]
    version: Option<u32>,

    /// Take workflow and params of this run; -p goes over them
    #[arg(long, value_name = "RUN", conflicts_with = "workflow")]
    like: Option<String>,

    #[command(flatten)]
    repeat: Repeat,
}

/// Run a file once, without registering it
///
/// The run carries the file as a version of its own. Its schedules make no ticks; pools must exist already.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins submit hello.matins.yaml -p name=Ada --wait")]
pub(crate) struct SubmitArgs {
    /// The file, with exactly one workflow; `-` reads standard input
    file: PathBuf,

    #[command(flatten)]
    given: Given,

    #[command(flatten)]
    repeat: Repeat,
}

/// What a run is given, however it begins.
#[derive(Args, Debug)]
struct Given {
    #[command(flatten)]
    params: ParamArgs,

    /// The time that the run is for, such as 2013-01-02T07:30:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = parse_instant)]
    logical_time: Option<Timestamp>,

    /// The schedule whose calendar gives the start of the interval, and whose params hold
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    schedule: String,

    /// Wait until the run has ended, and leave with 0 only if it succeeded
    #[arg(long)]
    wait: bool,
}

/// Parameters, one by one or from a file.
#[derive(Args, Debug, Default)]
pub(crate) struct ParamArgs {
    /// A parameter; `KEY=@FILE` takes its value from a file. Can be given several times
    #[arg(short = 'p', long = "param", value_name = "KEY=VALUE")]
    param: Vec<String>,

    /// A file with a JSON object of parameters; -p goes over them
    #[arg(long, value_name = "FILE")]
    params_file: Option<PathBuf>,
}

/// Reads RFC 3339 text with an offset: what is meant does not depend on where it is read.
pub(crate) fn parse_instant(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text.parse().map_err(
        |_| "write a time with its offset, as in 2013-01-02T07:30:00Z or 2013-01-02T02:30:00-05:00",
    )?;
    Ok(Timestamp::from_millis(time.as_millisecond()))
}

/// The parameters as one JSON object; `None` if there are none.
pub(crate) fn params_json(args: &ParamArgs) -> Result<Option<Json>, Fault> {
    let mut params = match &args.params_file {
        Some(path) => read_params(path)?,
        None => Map::new(),
    };
    for text in &args.param {
        let wrong = || {
            Fault::usage(format!("`-p {text}` is no parameter"))
                .hint("write `-p name=value`, or `-p name=@file` for what a file holds")
        };
        let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
        let value = match value.strip_prefix('@') {
            Some(path) => {
                fs::read_to_string(path).map_err(|error| Fault::unreadable(Path::new(path), error))?
            }
            None => value.to_owned(),
        };
        params.insert(key.to_owned(), Value::String(value));
    }
    let has_any = !params.is_empty() || args.params_file.is_some();
    Ok(has_any.then(|| Json::from(Value::Object(params))))
}

fn read_params(path: &Path) -> Result<Map<String, Value>, Fault> {
    let text = fs::read(path).map_err(|error| Fault::unreadable(path, error))?;
    serde_json::from_slice(&text).map_err(|error| {
        Fault::machine(format!("`{}` does not hold a JSON object", path.display()), error)
            .hint("write one object, such as {\"day\": \"2013-01-31\", \"batch\": 500}")
    })
}

/// `matins start`.
pub(super) async fn start(args: StartArgs, context: &Context) -> Outcome {
    let like = args.like.map(|run| TaskRef::parse_run(&run, context)).transpose()?;
    let ask = StartRunRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        workflow: args.workflow.map(|name| context.workflow(&name)).unwrap_or_default(),
        params: params_json(&args.given.params)?,
        logical_time: args.given.logical_time,
        schedule: args.given.schedule,
        version: args.version,
        like: like.unwrap_or_default(),
    };
    let answer = context.client()?.call(ask).await?;
    context.one(&answer, &answer.run_id, |_| format!("{}\n", answer.run_id))?;
    if args.given.wait { wait_one(&answer.run_id, context).await } else { Ok(Exit::Done) }
}

/// `matins submit`.
pub(super) async fn submit(args: SubmitArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let mut packed = sources::load(std::slice::from_ref(&args.file), context, &client).await?;
    let source = packed.pop().filter(|_| packed.is_empty());
    let source = source.ok_or_else(|| {
        Fault::usage(format!("`{}` has several workflow files", args.file.display()))
            .hint("submit one of them")
    })?;
    let ask = SubmitRunRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        source: Some(source),
        namespace: context.namespace(),
        params: params_json(&args.given.params)?,
        logical_time: args.given.logical_time,
        schedule: args.given.schedule,
    };
    let answer = client.call(ask).await?;
    sources::tell_notes(&answer.diagnostics, context);
    context.one(&answer, &answer.run_id, |_| format!("{}\n", answer.run_id))?;
    if args.given.wait { wait_one(&answer.run_id, context).await } else { Ok(Exit::Done) }
}

/// Waits for a run that was just made, and says on standard error how it ended.
async fn wait_one(run: &str, context: &Context) -> Outcome {
    let runs = wait_for(vec![run.to_owned()], None, context).await?;
    let Some(run) = runs.runs.first() else { return Ok(Exit::WaitEnded) };
    let reason = run.reason.as_ref().map(|reason| format!(": {}", reason.text)).unwrap_or_default();
    context.say(format!("{} {}{reason}", run.id, run.state().as_str_name()));
    if run.state() == State::Failed {
        context.say(format!("hint: `matins logs {} --failed` shows what the failed tasks printed", run.id));
    }
    Ok(Exit::of_run(run.state()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(given: &[&str]) -> Result<Option<Json>, Fault> {
        let param = given.iter().map(|&text| text.to_owned()).collect();
        params_json(&ParamArgs { param, params_file: None })
    }

    #[test]
    fn parameters_are_text_and_the_last_one_wins() {
        let json = params(&["batch=500", "name=a=b", "batch=7", "empty="]).unwrap().unwrap();
        assert_eq!(json.text, r#"{"batch":"7","name":"a=b","empty":""}"#);
        assert!(params(&[]).unwrap().is_none());
        assert_eq!(params(&["batch"]).unwrap_err().exit(), Exit::Usage);
        assert_eq!(params(&["=1"]).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn a_parameter_can_come_from_a_file_and_go_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("params.json");
        fs::write(&path, r#"{"batch": 1, "mode": "full"}"#).unwrap();
        let value = folder.path().join("value");
        fs::write(&value, "two\nlines").unwrap();
        let args =
            ParamArgs { param: vec![format!("mode=@{}", value.display())], params_file: Some(path.clone()) };
        let json = params_json(&args).unwrap().unwrap();
        assert_eq!(json.text, "{\"batch\":1,\"mode\":\"two\\nlines\"}");
        fs::write(&path, "[1]").unwrap();
        assert_eq!(params_json(&args).unwrap_err().exit(), Exit::Usage);
    }

    #[test]
    fn an_instant_needs_its_offset() {
        assert_eq!(parse_instant("2013-01-02T02:30:00-05:00").unwrap().to_string(), "2013-01-02T07:30:00Z");
        assert!(parse_instant("2013-01-02").is_err());
        assert!(parse_instant("2013-01-02T02:30:00").is_err());
    }
}
