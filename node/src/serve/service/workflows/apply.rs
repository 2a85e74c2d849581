//! `apply`: documents become current, all of them or none (LANGUAGE 1.22).

use std::collections::BTreeSet;

use matins_core::command::{Apply, ApplyWorkflow, Command, Entry, Proposal};
use matins_core::id::{LogIndex, ScheduleId, WorkflowName};
use matins_core::time::Timestamp;
use matins_core::{Answer, Applied, LEVEL, Refusal, State};
use matins_proto::v1::applied_document::{Action, Kind};
use matins_proto::v1::{AppliedDocument, ApplyWorkflowsRequest, ApplyWorkflowsResponse, Committed};
use matins_workflow::calendar::Calendar;
use serde_json::Map;

use crate::serve::api::{Api, Ask, committed, not_committed};
use crate::serve::compile::{Documents, compile, store};
use crate::serve::error::{ApiError, fault_of};
use crate::serve::plan::{Wanted, tick};

/// Ticks counted of a schedule that is changed while its due ticks cannot be fired.
const SKIPPED_MAX: usize = 1_000_000;

pub(super) async fn apply(
    api: &Api,
    request: ApplyWorkflowsRequest,
) -> Result<ApplyWorkflowsResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let documents = compile(api, &request.sources, &request.namespace).await?;
    let read = api.read(false).await?;
    documents.check_pools(&read.state)?;
    let prune = if request.prune { pruned(&read.state, &documents) } else { Vec::new() };
    let starts = request.start.then(|| api.leader_time());
    let change = change(&documents, prune, starts)?;
    let (applied, committed) = if request.dry_run {
        let applied = try_out(&read.state, &documents, change)?;
        (applied, not_committed(read.state.now))
    } else {
        store(api, &request.sources, &documents.workflows).await?;
        propose(api, &ask, (&documents, change)).await?
    };
    // A dry run shows the numbers that would be, but no run that nobody made.
    let runs = if request.dry_run { Vec::new() } else { applied.runs.clone() };
    Ok(ApplyWorkflowsResponse {
        committed: Some(committed),
        documents: told(&read.state, &documents, (&applied, runs)),
        diagnostics: documents.wire_diagnostics(),
    })
}

/// Registered workflows that no source defines, in the namespaces in which the sources define one.
fn pruned(state: &State, documents: &Documents) -> Vec<WorkflowName> {
    let defined: BTreeSet<&WorkflowName> =
        documents.workflows.iter().map(|document| &document.name).collect();
    let namespaces: BTreeSet<_> = defined.iter().map(|name| &name.namespace).collect();
    let registered = state.workflows.iter().filter(|(_, row)| row.current.is_some()).map(|(name, _)| name);
    let lost = registered.filter(|name| namespaces.contains(&name.namespace) && !defined.contains(name));
    lost.cloned().collect()
}

fn change(
    documents: &Documents,
    prune: Vec<WorkflowName>,
    starts: Option<Timestamp>,
) -> Result<Apply, ApiError> {
    let workflows = documents.workflows.iter().map(|document| {
        let start = starts.map(|logical_time| {
            let workflow = &document.workflow;
            tick(&Wanted { workflow, schedule: "", logical_time, params: Map::new() }).map(|(_, tick)| tick)
        });
        let (name, definition) = (document.name.clone(), document.definition);
        Ok(ApplyWorkflow { name, definition, start: start.transpose()? })
    });
    let pools =
        documents.pools.iter().map(|(_, pool)| (pool.name.clone(), pool.slots, pool.description.clone()));
    Ok(Apply {
        workflows: workflows.collect::<Result<_, ApiError>>()?,
        pools: pools.collect(),
        prune,
        skip_due: Vec::new(),
    })
}

async fn propose(
    api: &Api,
    ask: &Ask,
    (documents, mut asked): (&Documents, Apply),
) -> Result<(Applied, Committed), ApiError> {
    let (mut answered, mut answer) = api.propose(ask, Command::Apply(asked.clone())).await?;
    if answer == Err(Refusal::RequestReused) {
        // A repeat that starts runs is worked out for the time of the first one: otherwise it would be another command.
        let first = api.remembered(ask, answered.index).await;
        let state = api.state();
        let first = match first {
            Some(Answer::Applied(applied)) => applied.runs.first().and_then(|run| state.runs.get(run)),
            Some(_) | None => None,
        };
        if let Some(row) = first {
            asked = change(documents, asked.prune, Some(row.logical_time))?;
            (answered, answer) = api.propose(ask, Command::Apply(asked.clone())).await?;
        }
    }
    if let Err(Refusal::TicksDue(due)) = &answer {
        let state = api.state();
        if state.bytes() > state.cluster.settings.state_bytes_max / 100 * 80 {
            // PROTOCOL 3.5: no memory for their runs, and a bad schedule can always be changed.
            asked.skip_due = due.iter().map(|id| (id.clone(), ticks_due(&state, id))).collect();
            (answered, answer) = api.propose(ask, Command::Apply(asked)).await?;
        }
    }
    let answer = answer.map_err(|refusal| ApiError::refused(&refusal, &api.state()))?;
    let Answer::Applied(applied) = answer else {
        return Err(fault_of("answer to an apply", &format!("{answer:?}")));
    };
    Ok((applied, committed(ask, &answered)))
}

fn ticks_due(state: &State, id: &ScheduleId) -> u32 {
    let row = state.schedules.get(id);
    let calendar = row.and_then(|row| Some((Calendar::from_schedule(&row.spec).ok()?, row.mark)));
    calendar.map_or(0, |(calendar, mark)| calendar.ticks(mark, state.now, SKIPPED_MAX).count() as u32)
}

/// What the change would do, by doing it to a copy of the state, which costs nothing.
fn try_out(state: &State, documents: &Documents, change: Apply) -> Result<Applied, ApiError> {
    let mut copy = state.clone();
    let stores = documents.workflows.iter().map(|document| Command::StoreDefinition {
        definition: Box::new(document.workflow.clone()),
        source: None,
    });
    let answers = run(&mut copy, stores.collect());
    if let Some(Err(refusal)) = answers.into_iter().find(Result::is_err) {
        return Err(ApiError::refused(&refusal, &copy));
    }
    let mut answers = run(&mut copy, vec![Command::Apply(change.clone())]);
    if let Some(Err(Refusal::TicksDue(due))) = answers.first() {
        // Ticks that are due now will have been fired when it is done in earnest.
        let skip_due = due.iter().map(|id| (id.clone(), 0)).collect();
        answers = run(&mut copy, vec![Command::Apply(Apply { skip_due, ..change })]);
    }
    match answers.into_iter().next() {
        Some(Ok(Answer::Applied(applied))) => Ok(applied),
        Some(Err(refusal)) => Err(ApiError::refused(&refusal, &copy)),
        other => Err(fault_of("answer to an apply", &format!("{other:?}"))),
    }
}

fn run(copy: &mut State, commands: Vec<Command>) -> Vec<Result<Answer, Refusal>> {
    let proposals =
        commands.into_iter().map(|command| Proposal { request: None, leadership: None, command }).collect();
    let (index, at) = (LogIndex(copy.index.0 + 1), copy.now);
    matins_core::apply(copy, index, Entry { level: LEVEL, at, proposals }).answers
}

/// One line for each document in the order of the sources, then those that were pruned.
fn told(
    before: &State,
    documents: &Documents,
    (applied, runs): (&Applied, Vec<matins_core::id::RunId>),
) -> Vec<AppliedDocument> {
    let mut runs = runs.into_iter();
    let mut lines = Vec::new();
    for (document, (name, old, new)) in documents.workflows.iter().zip(&applied.workflows) {
        let action = match old {
            None => Action::Created,
            Some(old) if old == new => Action::Unchanged,
            Some(_) => Action::Changed,
        };
        let line = AppliedDocument {
            kind: Kind::Workflow.into(),
            name: name.to_string(),
            action: action.into(),
            old_version: *old,
            version: Some(*new),
            run_id: runs.next().map(|run| run.to_string()),
        };
        lines.push((document.place, line));
    }
    for (place, pool) in &documents.pools {
        let old = before.pools.get(&pool.name);
        let action = match old {
            None => Action::Created,
            Some(old) if old.slots == pool.slots && old.description == pool.description => Action::Unchanged,
            Some(_) => Action::Changed,
        };
        lines.push((*place, line(Kind::Pool, pool.name.to_string(), action)));
    }
    lines.sort_by_key(|(place, _)| *place);
    let pruned = applied.pruned.iter().map(|name| line(Kind::Workflow, name.to_string(), Action::Deleted));
    lines.into_iter().map(|(_, line)| line).chain(pruned).collect()
}

fn line(kind: Kind, name: String, action: Action) -> AppliedDocument {
    AppliedDocument {
        kind: kind.into(),
        name,
        action: action.into(),
        old_version: None,
        version: None,
        run_id: None,
    }
}
