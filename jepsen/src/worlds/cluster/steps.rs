//! What can happen next, what it costs, and what happens when nothing goes wrong any more.

use super::super::host::Host;
use super::{AGE_MAX, Cluster, Pending, Step, is_slow};

/// Messages on a stream in one direction; time waits for a stream that holds more.
const QUEUE_MAX: usize = 2;

impl Cluster {
    /// All that can happen next.
    pub(super) fn all_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.local_steps(&mut steps);
        self.stream_steps(&mut steps);
        self.leader_steps(&mut steps);
        self.host_faults(&mut steps);
        if self.left.cancels > 0 && self.is_active() {
            steps.push(Step::Cancel);
        }
        if self.left.time > 0 && !self.is_time_up() {
            steps.push(Step::Time);
        }
        steps
    }

    /// Something must happen before time can go on: a stream is full, or a leader would give up.
    fn is_time_up(&self) -> bool {
        let is_crowded = self.streams.iter().any(|it| it.up.len() > QUEUE_MAX || it.down.len() > QUEUE_MAX);
        let gives_up = |it: &Pending| Some(it.node) == self.leading && it.wants_answer && it.age >= AGE_MAX;
        is_crowded || self.pending.iter().any(gives_up)
    }

    fn is_active(&self) -> bool {
        self.state().runs.iter().any(|(_, run)| run.is_active())
    }

    /// What goes on inside machines.
    fn local_steps(&self, steps: &mut Vec<Step>) {
        for (place, host) in self.hosts.iter().enumerate() {
            if is_slow(self.shape.link) {
                let (filled, heard) = host.waiting();
                steps.extend(filled.map(|id| Step::ToSupervisor(place, id)));
                steps.extend(heard.then_some(Step::FromSupervisor(place)));
                steps.extend(host.preparing().map(|fence| Step::Prepared(place, fence)));
            }
            if !host.has_executor() {
                steps.push(Step::StartExecutor(place));
            }
            for supervisor in &host.supervisors {
                for (fence, group) in &supervisor.processes {
                    if group.first && (group.is_told || self.left.exits > 0) {
                        steps.push(Step::Exit(place, *fence, false));
                    }
                    if group.first && self.left.children > 0 {
                        steps.push(Step::Exit(place, *fence, true));
                    }
                    if group.rest && !group.first {
                        steps.push(Step::RestExits(place, *fence));
                    }
                }
            }
        }
    }

    fn stream_steps(&self, steps: &mut Vec<Step>) {
        for stream in &self.streams {
            if stream.has_up() {
                steps.push(Step::Up(stream.id));
            }
            if stream.has_down() {
                steps.push(Step::Down(stream.id));
            }
            if stream.executor_end && stream.down.len() > 1 && self.left.late > 0 {
                steps.push(Step::DownLate(stream.id));
            }
            if stream.executor_end && !stream.down.is_empty() && self.left.twice > 0 {
                steps.push(Step::DownTwice(stream.id));
            }
            if stream.executor_end && self.left.cuts > 0 {
                steps.push(Step::Cut(stream.id));
            }
        }
        if self.streams_made < self.shape.streams_max {
            for host in self.waiting_hosts() {
                let leads = (0..self.leads.len()).filter(|node| self.leads[*node].is_some());
                steps.extend(leads.map(|node| Step::Connect(host, node)));
            }
        }
    }

    fn waiting_hosts(&self) -> impl Iterator<Item = usize> {
        (0..self.hosts.len()).filter(|host| self.hosts[*host].wants_stream())
    }

    fn leader_steps(&self, steps: &mut Vec<Step>) {
        for (place, pending) in self.pending.iter().enumerate() {
            steps.push(Step::Enter(place));
            if pending.wants_answer && self.left.unanswered > 0 {
                steps.push(Step::Unanswered(place));
            }
        }
        for (node, lead) in self.leads.iter().enumerate() {
            let may_die = self.leading != Some(node) || self.left.elections > 0;
            if lead.is_some() && may_die {
                steps.push(Step::LeaderDies(node));
            }
            if self.left.elections > 0 && self.leading != Some(node) {
                steps.push(Step::Elect(node));
            }
        }
    }

    fn host_faults(&self, steps: &mut Vec<Step>) {
        for (place, host) in self.hosts.iter().enumerate() {
            if host.has_executor() {
                steps.extend((self.left.crashes > 0).then_some(Step::Crash(place)));
                steps.extend((self.left.reboots > 0).then_some(Step::Reboot(place)));
            } else {
                if self.left.wipes > 0 {
                    steps.extend([Step::Wipe(place, true), Step::Wipe(place, false)]);
                }
                let has_supervisor = !host.supervisors.is_empty();
                steps.extend(
                    (self.left.lost_sockets > 0 && has_supervisor).then_some(Step::LoseSupervisor(place)),
                );
            }
        }
    }

    /// Takes the price of a step from the budget. In a fair schedule nothing has one.
    pub(super) fn pay(&mut self, step: Step) {
        let left = &mut self.left;
        let price = match step {
            Step::Time => &mut left.time,
            Step::Elect(_) => &mut left.elections,
            Step::DownLate(_) => &mut left.late,
            Step::DownTwice(_) => &mut left.twice,
            Step::Cut(_) => &mut left.cuts,
            Step::Unanswered(_) => &mut left.unanswered,
            Step::Exit(_, _, true) => &mut left.children,
            Step::Crash(_) => &mut left.crashes,
            Step::Reboot(_) => &mut left.reboots,
            Step::Wipe(..) => &mut left.wipes,
            Step::LoseSupervisor(_) => &mut left.lost_sockets,
            Step::Cancel => &mut left.cancels,
            Step::Exit(_, _, false) => &mut left.exits,
            Step::LeaderDies(_)
            | Step::Connect(..)
            | Step::Up(_)
            | Step::Down(_)
            | Step::Enter(_)
            | Step::ToSupervisor(..)
            | Step::FromSupervisor(_)
            | Step::Prepared(..)
            | Step::RestExits(..)
            | Step::StartExecutor(_) => return,
        };
        *price = price.saturating_sub(1);
    }

    /// The next step when everything that can be done is done, and nothing goes wrong any more.
    pub(super) fn next_fair_step(&self) -> Option<Step> {
        let first_host = |is_so: fn(&Host) -> bool| self.hosts.iter().position(|host| is_so(host));
        if let Some(host) = first_host(|host| !host.has_executor()) {
            return Some(Step::StartExecutor(host));
        }
        let Some(leading) = self.leading else { return Some(Step::Elect(0)) };
        let other = 1 - leading;
        if self.leads[other].is_some() {
            return Some(Step::LeaderDies(other));
        }
        if let Some(step) = self.next_delivery() {
            return Some(step);
        }
        if let Some(host) = self.waiting_hosts().next() {
            return Some(Step::Connect(host, leading));
        }
        if let Some(step) = self.next_exit() {
            return Some(step);
        }
        let is_cordoned = self.state().executors.iter().any(|(_, row)| row.is_cordoned());
        let is_over = !self.is_active() && self.state().live.is_empty() && !is_cordoned;
        (!is_over).then_some(Step::Time)
    }

    fn next_delivery(&self) -> Option<Step> {
        for (place, host) in self.hosts.iter().enumerate() {
            let (mut filled, heard) = host.waiting();
            if let Some(id) = filled.next() {
                return Some(Step::ToSupervisor(place, id));
            }
            if heard {
                return Some(Step::FromSupervisor(place));
            }
            if let Some(fence) = host.preparing().next() {
                return Some(Step::Prepared(place, fence));
            }
        }
        if let Some(stream) = self.streams.iter().find(|stream| stream.has_up()) {
            return Some(Step::Up(stream.id));
        }
        if let Some(stream) = self.streams.iter().find(|stream| stream.has_down()) {
            return Some(Step::Down(stream.id));
        }
        (!self.pending.is_empty()).then_some(Step::Enter(0))
    }

    fn next_exit(&self) -> Option<Step> {
        for (place, host) in self.hosts.iter().enumerate() {
            for supervisor in &host.supervisors {
                for (fence, group) in &supervisor.processes {
                    if group.first {
                        return Some(Step::Exit(place, *fence, false));
                    }
                    if group.rest {
                        return Some(Step::RestExits(place, *fence));
                    }
                }
            }
        }
        None
    }
}
