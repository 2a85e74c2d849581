//! The lines of a golden script, one after the other.

use goldenscript::{Argument, Command as Line};
use matins_core::command::{Apply, ApplyWorkflow, Command, Request};
use matins_core::id::{BackfillId, Leadership, LogIndex, RunId};
use matins_core::time::Millis;
use matins_core::{Answer, members_changed, why};

use super::args::{schedule, seconds};
use super::{Args, Fault, Script, words, workflow_of};

impl goldenscript::Runner for Script {
    type Command = Line;

    fn run(&mut self, line: &Line, _: &goldenscript::Context) -> Result<String, Fault> {
        match line.name.as_str() {
            "show" => return words::show(&self.state, &mut Args::of(line)),
            "apply" => return self.apply_line(line),
            "why" => return self.why_line(&mut Args::of(line)),
            "level" => {
                self.level = Args::of(line).need()?.parse()?;
                return Ok(String::new());
            }
            "members" => {
                let index = LogIndex(self.state.index.0 + 1);
                members_changed(&mut self.state, index);
                return Ok(format!("members of entry {}", index.0));
            }
            _ => {}
        }
        // A request id, or a leadership of the past, may stand before any command.
        let mut line = line.clone();
        let mut take = |name: &str| {
            let is_it = |arg: &Argument| matches!(arg, Argument::KeyValue(key, _) if key == name);
            let position = line.args.iter().position(is_it)?;
            match line.args.remove(position) {
                Argument::KeyValue(_, value) => Some(value),
                _ => None,
            }
        };
        let (id, until, leadership) = (take("request"), take("until"), take("leadership"));
        let command = self.command(&line)?;
        let request = id.map(|id| {
            let not_after = until.map_or(Ok(self.at + Millis::from_mins(10)), |until| seconds(&until));
            Ok::<_, Fault>(Request { id: id.parse()?, not_after: not_after? })
        });
        let newest = self.state.cluster.leader.as_ref().map(|leader| leader.leadership);
        let leadership = leadership.map_or(Ok(newest), |text| text.parse().map(Leadership).map(Some))?;
        Ok(self.enter_under(command, request.transpose()?, leadership)?.1)
    }
}

impl Script {
    /// Why something is as it is: `why run-1/a`, `why run-1`, `why backfill-1`, `why w`.
    fn why_line(&self, args: &mut Args) -> Result<String, Fault> {
        let (text, state) = (args.need()?, &self.state);
        let (first, task) = text.split_once('/').unwrap_or((&text, ""));
        let why = if let Ok(run) = first.parse::<RunId>() {
            let rows = state.retired(run).ok_or("no such run")?;
            match rows.task_named(task) {
                Some(id) => why::of_task(&rows, id, state),
                None => why::of_run(&rows, state),
            }
        } else if let Ok(backfill) = first.parse::<BackfillId>() {
            why::of_backfill(backfill, state).ok_or("no such backfill")?
        } else {
            why::of_workflow(&format!("test/{text}").parse()?, state).ok_or("no such workflow")?
        };
        Ok(words::why(&why))
    }

    /// Registers the newest stored definition of a workflow: `apply w skip_due=1`.
    fn apply_line(&mut self, line: &Line) -> Result<String, Fault> {
        let mut args = Args::of(line);
        if let Some(at) = args.key("at") {
            self.at = seconds(&at)?;
        }
        let mut apply = Apply::default();
        if let Some(prune) = args.key("prune") {
            apply.prune.push(format!("test/{prune}").parse()?);
        }
        if let Some(skip) = args.key("skip_due") {
            apply.skip_due.push((schedule(&skip)?, 1));
        }
        let definition = workflow_of(&mut args)?;
        let name = definition.name.clone();
        let (outcome, _) =
            self.enter(Command::StoreDefinition { definition: Box::new(definition), source: None }, None)?;
        match outcome.answers.first() {
            Some(Ok(Answer::Definition(definition))) => {
                apply.workflows.push(ApplyWorkflow { name, definition: *definition, start: None });
            }
            other => return Err(format!("not stored: {other:?}").into()),
        }
        Ok(self.enter(Command::Apply(apply), None)?.1)
    }
}
