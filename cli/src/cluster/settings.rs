//! `cluster settings`: the rules that the cluster keeps, and how they are changed.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use matins_proto::v1::{ChangeSettingsRequest, GetSettingsRequest, Setting};

use crate::context::{Context, Outcome, Repeat};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row};

/// Show the rules of the cluster, or change some
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster settings
  matins cluster settings set retention.runs=90d retention.logs-bytes=5Gi")]
pub(crate) struct SettingsArgs {
    #[command(subcommand)]
    verb: Option<SettingsVerb>,
}

/// What can be done with them.
#[derive(Subcommand, Debug)]
pub(crate) enum SettingsVerb {
    /// Change some rules, all of those named or none
    Set(SetArgs),
}

/// Change some rules.
#[derive(Args, Debug)]
pub(crate) struct SetArgs {
    /// Rules with their new values, as in retention.runs=90d
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = pair)]
    settings: Vec<(String, String)>,

    #[command(flatten)]
    repeat: Repeat,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write KEY=VALUE, as in retention.runs=90d".into()),
    }
}

impl Row for Setting {
    const PLURAL: &'static str = "settings";
    const COLUMNS: &'static [Column] =
        &[Column::new("KEY"), Column::new("VALUE"), Column::new("USUAL"), Column::new("MEANING")];

    fn name(&self) -> String {
        self.key.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        vec![
            Cell::text(&self.key),
            Cell::text(&self.value),
            Cell::text(&self.usual),
            Cell::text(&self.description),
        ]
    }
}

/// Does it.
pub(crate) async fn settings(args: SettingsArgs, context: &Context) -> Outcome {
    match args.verb {
        None => {
            let answer = context.client()?.call(GetSettingsRequest { stale: false }).await?;
            context.list(&answer.settings)?;
            Ok(Exit::Done)
        }
        Some(SettingsVerb::Set(SetArgs { settings, repeat })) => {
            let settings: BTreeMap<String, String> = settings.into_iter().collect();
            let sentence = format!("changed {} settings", settings.len());
            let ask = ChangeSettingsRequest { request_id: repeat.request_id, not_after: None, settings };
            let answer = context.client()?.call(ask).await?;
            context.done(&answer, sentence)
        }
    }
}
