//! How a world begins.

use std::sync::Arc;

use matins_core::command::{Apply, ApplyWorkflow, Command, Start, Tick};
use matins_core::state::{RunOrigin, Settings};
use matins_core::time::Millis;
use matins_core::{Answer, State};
use matins_workflow::compile::{NoFiles, Options, SourceFile, compile};

use super::super::fingerprint;
use super::super::host::Host;
use super::super::search::World as _;
use super::super::shapes::{Begins, Shape};
use super::{AT, Agreed, Cluster};

/// A fair schedule comes to where a world begins within so many steps.
const STEPS_TO_BEGIN: usize = 200;

impl Cluster {
    /// The first state of a shape: a run was started, and has come as far as the shape says.
    pub(crate) fn founded(shape: Arc<Shape>) -> Result<Self, String> {
        let state = State::default();
        let key = fingerprint::of_state(&state);
        let mut cluster = Self {
            elapsed: Millis::ZERO,
            agreed: Arc::new(Agreed { state: Arc::new(state), key }),
            leads: [None, None],
            leading: None,
            pending: Vec::new(),
            hosts: (0..shape.hosts).map(|_| Arc::new(Host::new(shape.link))).collect(),
            streams: Vec::new(),
            streams_made: 0,
            left: shape.budget,
            is_fair: true,
            shape,
        };
        cluster.elect(0)?;
        let settings = Settings { lease: cluster.shape.terms, ..Settings::default() };
        cluster.ask(Command::Init { cluster: 1, settings })?;
        cluster.start_run()?;
        cluster.go_to_the_beginning()?;
        cluster.left = cluster.shape.budget;
        cluster.is_fair = false;
        Ok(cluster)
    }

    fn ask(&mut self, command: Command) -> Result<Answer, String> {
        let answer = self.client(command)?.answers.remove(0);
        answer.map_err(|refusal| format!("the world cannot begin: {refusal}"))
    }

    fn start_run(&mut self) -> Result<(), String> {
        let pool = if self.shape.has_pool { ", pool: one" } else { "" };
        let tasks = (1..=self.shape.tasks).map(|task| format!("  t{task}: {{ run: [x]{pool} }}\n"));
        let text =
            format!("workflow: small\ntasks:\n{}---\npool: one\nslots: 1\n", tasks.collect::<String>());
        let source = SourceFile { name: "world.yaml".into(), text: text.into() };
        let mut compiled = compile(&[source], &NoFiles, &Options::default());
        if compiled.has_errors() {
            return Err(format!("the workflow of the world is wrong: {:?}", compiled.diagnostics));
        }
        let mut workflow = compiled.workflows.remove(0);
        for task in &mut workflow.ir.tasks {
            task.retry.lost_limit = self.shape.lost_max;
        }
        let (name, definition) = (workflow.ir.name.clone(), workflow.digest());
        self.ask(Command::StoreDefinition { definition: Box::new(workflow.ir), source: None })?;
        let mut apply = Apply::default();
        apply.pools.extend(compiled.pools.iter().map(|pool| (pool.name.clone(), pool.slots, String::new())));
        apply.workflows.push(ApplyWorkflow { name: name.clone(), definition, start: None });
        self.ask(Command::Apply(apply))?;
        let tick = Tick { logical_time: AT, interval_start: AT, params: Ok("{}".into()) };
        let start = Start { workflow: name, definition, origin: RunOrigin::Manual, schedule: None, tick };
        self.ask(Command::Start(start)).map(drop)
    }

    /// Takes fair steps up to where the shape begins.
    fn go_to_the_beginning(&mut self) -> Result<(), String> {
        for _ in 0..STEPS_TO_BEGIN {
            if self.has_begun() {
                return Ok(());
            }
            let Some(step) = self.next_fair_step() else { break };
            self.take(step)?;
        }
        Err(format!("the world {} never comes to its beginning", self.shape.name))
    }

    fn has_begun(&self) -> bool {
        let is_granted = !self.state().live.is_empty();
        let processes = self.hosts.iter().flat_map(|host| &host.supervisors);
        let is_running = processes.flat_map(|it| it.processes.values()).any(|group| group.is_alive());
        match self.shape.begins {
            Begins::Granted => is_granted,
            Begins::Running => is_running && self.next_is_quiet(),
        }
    }

    /// Nothing is under way.
    fn next_is_quiet(&self) -> bool {
        let has_messages = self.streams.iter().any(|stream| stream.has_up() || stream.has_down());
        !has_messages && self.pending.is_empty() && self.streams.len() == self.hosts.len()
    }
}
