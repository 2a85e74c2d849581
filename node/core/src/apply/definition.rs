//! Workflows, versions and pools (LANGUAGE 1.22).

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::answer::{Answer, Applied as Changes, Refusal, Thing};
use crate::command::{Apply, ApplyWorkflow};
use crate::effect::Effect;
use crate::id::{Digest, PoolName, ScheduleId, VersionNumber, WorkflowName};
use crate::ir::Workflow;
use crate::state::{DefinitionRow, LimitId, PoolRow, RunOrigin, TimerKey, VersionRow, WorkflowRow};
use crate::time::Millis;

use super::run::NewRun;
use super::{Applied, Step, conflict};

/// A stored definition that nothing names is dropped so long after it was stored.
const UNNAMED_FOR: Millis = Millis::from_hours(1);

impl Step<'_> {
    /// Stores a compiled form, which changes nothing that can be seen.
    pub(super) fn store_definition(&mut self, definition: Workflow, source: Option<Digest>) -> Applied {
        let bytes = postcard::to_allocvec(&definition).expect("a definition has no custom error");
        let max = self.state.cluster.settings.definition_bytes_max;
        if bytes.len() > max as usize {
            return Err(Refusal::Limit {
                limit: "bytes of a compiled definition".into(),
                value: u64::from(max),
                asked: bytes.len() as u64,
                hint: "move long scripts into `files`, or split the workflow".into(),
            });
        }
        let downstream = downstream_of(&definition)?;
        let digest = Digest::of(&bytes);
        let now = self.now();
        if self.state.definitions.update(&digest, |row| row.stored_at = now).is_none() {
            let (workflow, downstream) = (Arc::new(definition), Arc::new(downstream));
            let row = DefinitionRow { workflow, downstream, source, uses: 0, stored_at: now };
            self.state.definitions.insert(digest, row);
        }
        self.set_timer(now + UNNAMED_FOR, TimerKey::DropDefinition(digest));
        Ok(Answer::Definition(digest))
    }

    /// Forgets a definition that no version and no run uses.
    pub(super) fn drop_definition_if_unused(&mut self, digest: Digest) {
        let now = self.now();
        let is_over = |row: &DefinitionRow| row.uses == 0 && row.stored_at + UNNAMED_FOR <= now;
        if self.state.definitions.get(&digest).is_some_and(is_over) {
            self.state.definitions.remove(&digest);
        }
    }

    /// One use less.
    pub(super) fn unuse_definition(&mut self, digest: Digest) {
        self.state.definitions.update(&digest, |row| row.uses = row.uses.saturating_sub(1));
        self.drop_definition_if_unused(digest);
    }

    /// One atomic change: all of it, or a refusal.
    pub(super) fn apply(&mut self, apply: Apply) -> Applied {
        self.check_apply(&apply)?;
        for (schedule, count) in &apply.skip_due {
            self.skip_due(schedule, *count);
        }
        let mut changes = Changes::default();
        for (pool, slots, description) in apply.pools {
            let before = self.state.pools.get(&pool).map(|row| row.slots);
            self.put_pool(pool.clone(), slots, description);
            changes.pools.push((pool, before, slots));
        }
        for workflow in apply.workflows {
            let (before, now) = self.apply_workflow(&workflow);
            changes.workflows.push((workflow.name.clone(), before, now));
            if let Some(tick) = workflow.start {
                changes.runs.push(self.make_run(NewRun {
                    workflow: workflow.name,
                    definition: workflow.definition,
                    version: Some(now),
                    origin: RunOrigin::Manual,
                    schedule: None,
                    tick,
                    retry_of: None,
                }));
            }
        }
        for workflow in apply.prune {
            self.remove_workflow(&workflow);
            changes.pruned.push(workflow);
        }
        self.effects.push(Effect::Definitions);
        Ok(Answer::Applied(changes))
    }

    fn check_apply(&self, apply: &Apply) -> Result<(), Refusal> {
        let new_pools: Vec<&PoolName> = apply.pools.iter().map(|(pool, _, _)| pool).collect();
        let mut changed = Vec::new();
        for workflow in &apply.workflows {
            let row = self.state.definitions.get(&workflow.definition);
            let row = row.ok_or(Refusal::NotFound(Thing::Definition(workflow.definition)))?;
            if row.workflow.name != workflow.name {
                return Err(Refusal::Invalid("the definition is of another workflow".into()));
            }
            self.check_pools(&row.workflow, &new_pools)?;
            changed.extend(self.schedules_changed_by(&workflow.name, &row.workflow.schedules));
            if let Some(tick) = &workflow.start {
                self.check_params(tick)?;
                self.state.check_room_for_runs()?;
            }
        }
        for workflow in &apply.prune {
            self.check_idle(workflow)?;
            changed.extend(self.schedules_of(workflow));
        }
        for (schedule, _) in &apply.skip_due {
            // It may have gone since the proposer looked.
            self.find_schedule(schedule)?;
        }
        let is_skipped = |id: &ScheduleId| apply.skip_due.iter().any(|(skipped, _)| skipped == id);
        changed.retain(|id| !is_skipped(id));
        self.check_not_due(&changed)
    }

    /// A pool that nobody made is refused when the workflow comes, not when its task waits for it.
    pub(super) fn check_pools(&self, workflow: &Workflow, new: &[&PoolName]) -> Result<(), Refusal> {
        let named = workflow.tasks.iter().flat_map(|task| &task.pools).map(|wanted| &wanted.pool);
        match named.into_iter().find(|pool| !self.state.pools.contains(pool) && !new.contains(pool)) {
            Some(pool) => Err(Refusal::NotFound(Thing::Pool(pool.clone()))),
            None => Ok(()),
        }
    }

    /// Makes a stored definition the current version of its workflow, if it is not already.
    fn apply_workflow(&mut self, apply: &ApplyWorkflow) -> (Option<VersionNumber>, VersionNumber) {
        let name = &apply.name;
        let before = self.state.workflows.get(name).and_then(|row| row.current);
        let current = self.current_version(name);
        if let Some((number, _)) = current.filter(|(_, digest)| *digest == apply.definition) {
            return (before, number);
        }
        let now = self.now();
        let mut row = self.state.workflows.get(name).cloned().unwrap_or_default();
        row.version_last += 1;
        row.current = Some(row.version_last);
        row.changed_at = now;
        let number = row.version_last;
        self.state.workflows.insert(name.clone(), row);
        let definition = self.state.definitions.get(&apply.definition);
        let source = definition.and_then(|row| row.source);
        let schedules = definition.map(|row| row.workflow.schedules.clone()).unwrap_or_default();
        let version = VersionRow { definition: apply.definition, source, created_at: now };
        self.state.versions.insert((name.clone(), number), version);
        self.state.definitions.update(&apply.definition, |row| row.uses += 1);
        self.replace_schedules(name, &schedules);
        // The gate may be wider in the new version.
        self.gates.insert(name.clone());
        self.touch(5);
        (before, number)
    }

    /// The current version of a workflow and its compiled form.
    pub(super) fn current_version(&self, workflow: &WorkflowName) -> Option<(VersionNumber, Digest)> {
        let number = self.state.workflows.get(workflow)?.current?;
        let version = self.state.versions.get(&(workflow.clone(), number))?;
        Some((number, version.definition))
    }

    /// The compiled form of the current version.
    pub(super) fn current_definition(&self, workflow: &WorkflowName) -> Option<&DefinitionRow> {
        let (_, digest) = self.current_version(workflow)?;
        self.state.definitions.get(&digest)
    }

    /// A workflow that is registered.
    pub(super) fn find_workflow(&self, workflow: &WorkflowName) -> Result<&WorkflowRow, Refusal> {
        let row = self.state.workflows.get(workflow).filter(|row| row.current.is_some());
        row.ok_or_else(|| Refusal::NotFound(Thing::Workflow(workflow.clone())))
    }

    /// Deletes a workflow. Its versions and past runs stay, and so does the number of its last version.
    pub(super) fn delete_workflow(&mut self, workflow: &WorkflowName) -> Applied {
        self.check_idle(workflow)?;
        self.check_not_due(&self.schedules_of(workflow))?;
        self.remove_workflow(workflow);
        self.effects.push(Effect::Definitions);
        Ok(Answer::Done)
    }

    /// Refuses while runs of a workflow are active or a backfill of it is open.
    fn check_idle(&self, workflow: &WorkflowName) -> Result<(), Refusal> {
        self.find_workflow(workflow)?;
        let mut runs = self.state.runs.iter().filter(|(_, row)| row.workflow == *workflow && row.is_active());
        if let Some((run, row)) = runs.next() {
            let why = alloc::format!("{run} is {}", row.state.as_str());
            return Err(conflict(
                Thing::Workflow(workflow.clone()),
                why,
                "wait for its runs, or cancel them",
            ));
        }
        let is_open =
            |row: &crate::state::BackfillRow| row.schedule.workflow == *workflow && row.ended_at.is_none();
        if let Some((backfill, _)) = self.state.backfills.iter().find(|(_, row)| is_open(row)) {
            let why = alloc::format!("{backfill} is not over");
            return Err(conflict(
                Thing::Workflow(workflow.clone()),
                why,
                "wait for the backfill, or cancel it",
            ));
        }
        Ok(())
    }

    fn remove_workflow(&mut self, workflow: &WorkflowName) {
        for schedule in self.schedules_of(workflow) {
            self.remove_schedule(&schedule);
        }
        let now = self.now();
        self.state.workflows.update(workflow, |row| {
            row.current = None;
            row.paused_at = None;
            row.changed_at = now;
        });
    }

    /// Makes or changes a pool.
    pub(super) fn set_pool(&mut self, pool: PoolName, slots: u32, description: String) -> Applied {
        self.put_pool(pool, slots, description);
        Ok(Answer::Done)
    }

    fn put_pool(&mut self, pool: PoolName, slots: u32, description: String) {
        self.state.pools.insert(pool.clone(), PoolRow { slots, description });
        self.free(LimitId::Pool(pool));
        self.effects.push(Effect::Definitions);
    }

    /// Deletes a pool that nothing names.
    pub(super) fn delete_pool(&mut self, pool: &PoolName) -> Applied {
        if !self.state.pools.contains(pool) {
            return Err(Refusal::NotFound(Thing::Pool(pool.clone())));
        }
        let uses = |workflow: &Workflow| {
            workflow.tasks.iter().any(|task| task.pools.iter().any(|wanted| wanted.pool == *pool))
        };
        let mut registered = self
            .state
            .workflows
            .iter()
            .filter(|(name, _)| self.current_definition(name).is_some_and(|row| uses(&row.workflow)));
        if let Some((workflow, _)) = registered.next() {
            let why = alloc::format!("workflow `{workflow}` names it");
            return Err(conflict(Thing::Pool(pool.clone()), why, "change that workflow first"));
        }
        let mut active = self.state.runs.iter().filter(|(id, row)| {
            row.is_active() && self.state.definition_of(**id).is_some_and(|row| uses(&row.workflow))
        });
        if let Some((run, _)) = active.next() {
            let why = alloc::format!("{run} names it");
            return Err(conflict(Thing::Pool(pool.clone()), why, "wait for its runs, or cancel them"));
        }
        self.state.pools.remove(pool);
        self.effects.push(Effect::Definitions);
        Ok(Answer::Done)
    }
}

/// For each task, which tasks need it. Refuses what the checker never lets through: a bad index or a ring.
fn downstream_of(workflow: &Workflow) -> Result<Vec<Vec<u16>>, Refusal> {
    let count = workflow.tasks.len();
    if count == 0 || count > usize::from(u16::MAX) {
        return Err(Refusal::Invalid("a workflow has between 1 and 65535 tasks".into()));
    }
    let mut downstream = alloc::vec![Vec::new(); count];
    for (number, task) in (0u16..).zip(&workflow.tasks) {
        for need in &task.needs {
            let followers = downstream.get_mut(usize::from(*need));
            let followers = followers.ok_or_else(|| Refusal::Invalid("`needs` points to no task".into()))?;
            followers.push(number);
        }
    }
    // Taking tasks away that need nothing any more leaves nothing, unless there is a ring.
    let mut open: Vec<usize> = workflow.tasks.iter().map(|task| task.needs.len()).collect();
    let mut free: Vec<usize> = (0..count).filter(|task| open[*task] == 0).collect();
    let mut done = 0;
    while let Some(task) = free.pop() {
        done += 1;
        for follower in &downstream[task] {
            open[usize::from(*follower)] -= 1;
            if open[usize::from(*follower)] == 0 {
                free.push(usize::from(*follower));
            }
        }
    }
    if done == count {
        Ok(downstream)
    } else {
        Err(Refusal::Invalid("tasks wait for each other in a ring".into()))
    }
}
