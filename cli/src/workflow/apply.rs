//! `apply`: makes the documents of files current, all of them or none.

use std::path::PathBuf;

use clap::Args;
use matins_proto::v1::{
    AppliedDocument, ApplyWorkflowsRequest,
    applied_document::{Action, Kind},
};

use super::sources;
use crate::context::{Context, Outcome, Repeat};
use crate::exit::Exit;
use crate::output::{Cell, Column, Look, Row};

/// Register workflows and pools, as one change: all of the files or none
///
/// Says of each what became of it: created, changed (with the old and the new version) or unchanged.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins apply nightly-flights.matins.yaml
  matins apply workflows/ --dry-run
  matins apply workflows/ --prune        also deletes what the files no longer define")]
pub(crate) struct ApplyArgs {
    /// Files, or folders, of which all `*.matins.yaml` are taken; `-` reads standard input
    #[arg(value_name = "FILE|DIR", required = true)]
    files: Vec<PathBuf>,

    /// Check everything and say what would change, but change nothing
    #[arg(long)]
    dry_run: bool,

    /// Also delete the workflows of these namespaces that no file defines
    #[arg(long)]
    prune: bool,

    /// Also start each workflow once
    #[arg(long)]
    start: bool,

    #[command(flatten)]
    repeat: Repeat,
}

impl Row for AppliedDocument {
    const PLURAL: &'static str = "documents";
    const COLUMNS: &'static [Column] = &[
        Column::new("KIND"),
        Column::new("NAME"),
        Column::new("ACTION"),
        Column::new("VERSION"),
        Column::new("RUN"),
    ];

    fn name(&self) -> String {
        self.name.clone()
    }

    fn cells(&self, _: &Look) -> Vec<Cell> {
        let kind = match self.kind() {
            Kind::Workflow => "workflow",
            Kind::Pool => "pool",
            Kind::Unspecified => "",
        };
        let action = match self.action() {
            Action::Created => "created",
            Action::Changed => "changed",
            Action::Unchanged => "unchanged",
            Action::Deleted => "deleted",
            Action::Unspecified => "",
        };
        let version = match (self.old_version, self.version) {
            (Some(old), Some(new)) if old != new => format!("{old} -> {new}"),
            (_, Some(version)) | (Some(version), None) => version.to_string(),
            (None, None) => String::new(),
        };
        vec![
            Cell::text(kind),
            Cell::text(&self.name),
            Cell::State(action.into()),
            Cell::text(version),
            Cell::text(self.run_id.clone().unwrap_or_default()),
        ]
    }
}

/// `matins apply`.
pub(super) async fn apply(args: ApplyArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let sources = sources::load(&args.files, context, &client).await?;
    if args.prune && !args.dry_run {
        context.confirm("also delete the workflows that these files do not define?")?;
    }
    let ask = ApplyWorkflowsRequest {
        request_id: args.repeat.request_id,
        not_after: None,
        sources,
        namespace: context.namespace(),
        dry_run: args.dry_run,
        prune: args.prune,
        start: args.start,
    };
    let answer = client.call(ask).await?;
    sources::tell_notes(&answer.diagnostics, context);
    context.list(&answer.documents)?;
    if args.dry_run {
        context.say("a dry run: nothing was changed");
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table;

    #[test]
    fn each_document_says_what_became_of_it() {
        let workflow = |name: &str, action: Action, old: Option<u32>, new: Option<u32>| AppliedDocument {
            kind: Kind::Workflow.into(),
            name: name.into(),
            action: action.into(),
            old_version: old,
            version: new,
            run_id: None,
        };
        let documents = [
            workflow("default/hello", Action::Created, None, Some(1)),
            workflow("default/nightly", Action::Changed, Some(3), Some(4)),
            workflow("default/same", Action::Unchanged, Some(2), Some(2)),
            workflow("default/old", Action::Deleted, Some(7), None),
        ];
        assert_eq!(
            table(&documents, &Look::PLAIN),
            "\
KIND       NAME              ACTION      VERSION   RUN
workflow   default/hello     created     1         -
workflow   default/nightly   changed     3 -> 4    -
workflow   default/same      unchanged   2         -
workflow   default/old       deleted     7         -
"
        );
    }
}
