//! Names of things as people give them: `run-42`, `latest:hello`, `run-42/extract.3`.

use crate::context::Context;
use crate::fault::Fault;

/// A run, or a task of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskRef {
    /// As the API takes it: `run-42` or `latest:namespace/name`.
    pub(crate) run: String,
    /// `extract.3`; empty for the run as a whole.
    pub(crate) task: String,
}

impl TaskRef {
    /// Reads `RUN` or `RUN/TASK`.
    pub(crate) fn parse(text: &str, context: &Context) -> Result<Self, Fault> {
        let (run, task) = text.split_once('/').unwrap_or((text, ""));
        if task.contains('/') {
            return Err(Fault::usage(format!("`{text}` is neither a run nor a task of one"))
                .hint("write `run-42/extract.3`; the namespace of `latest:WORKFLOW` is given by -n"));
        }
        Ok(Self { run: run_ref(run, context)?, task: task.to_owned() })
    }

    /// Reads `RUN/TASK`, where a whole run will not do.
    pub(crate) fn parse_task(text: &str, context: &Context) -> Result<Self, Fault> {
        let found = Self::parse(text, context)?;
        if found.task.is_empty() {
            return Err(Fault::usage(format!("`{text}` names no task")).hint(format!("write `{text}/TASK`")));
        }
        Ok(found)
    }

    /// Reads `RUN`, where a task will not do.
    pub(crate) fn parse_run(text: &str, context: &Context) -> Result<String, Fault> {
        let found = Self::parse(text, context)?;
        if found.task.is_empty() {
            return Ok(found.run);
        }
        Err(Fault::usage(format!("`{text}` names a task, not a run"))
            .hint(format!("write `{}`", text.split_once('/').map_or(text, |(run, _)| run))))
    }
}

fn run_ref(text: &str, context: &Context) -> Result<String, Fault> {
    let wrong = |what: &str| {
        Fault::usage(format!("`{text}` is no run: {what}")).hint(
            "write `run-42`, or `latest:WORKFLOW` for a workflow's newest; `matins run list` shows runs",
        )
    };
    if let Some(workflow) = text.strip_prefix("latest:") {
        if workflow.is_empty() {
            return Err(wrong("it names no workflow"));
        }
        return Ok(format!("latest:{}", context.workflow(workflow)));
    }
    let digits = text.strip_prefix("run-").ok_or_else(|| wrong("it does not begin with `run-`"))?;
    match digits.parse::<u64>() {
        Ok(number) if number > 0 && number.to_string() == digits => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err(wrong("what follows `run-` is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Format, Global};

    fn context(namespace: Option<&str>) -> Context {
        Context::new(Global {
            endpoint: String::new(),
            namespace: namespace.map(Into::into),
            output: Format::Table,
            yes: false,
        })
    }

    #[test]
    fn runs_and_tasks_have_one_spelling() {
        let here = context(None);
        for (text, run, task) in [
            ("run-42", "run-42", ""),
            ("run-42/extract.3", "run-42", "extract.3"),
            ("latest:hello", "latest:hello", ""),
            ("latest:hello/greet", "latest:hello", "greet"),
        ] {
            let found = TaskRef::parse(text, &here).unwrap();
            assert_eq!((found.run.as_str(), found.task.as_str()), (run, task), "{text}");
        }
        for text in ["", "42", "run-", "run-007", "run-0", "run-1/a/b", "latest:", "hello"] {
            assert!(TaskRef::parse(text, &here).is_err(), "{text}");
        }
    }

    #[test]
    fn the_namespace_of_the_latest_is_that_of_n() {
        let found = TaskRef::parse("latest:hello/greet", &context(Some("warehouse"))).unwrap();
        assert_eq!(found.run, "latest:warehouse/hello");
    }

    #[test]
    fn a_task_where_a_run_is_wanted_is_a_fault_and_the_other_way_round() {
        let here = context(None);
        assert!(TaskRef::parse_run("run-1/a", &here).is_err());
        assert!(TaskRef::parse_task("run-1", &here).is_err());
    }
}
