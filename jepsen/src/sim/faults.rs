//! Faults begin and end, and at last they end for good.

use rand::Rng as _;

use super::agenda::{HOUR, Instant, MS, SEC};
use super::happening::What;
use super::world::{Event, Over, World};

impl World {
    pub(super) fn fault(&mut self, what: &What) {
        if self.is_calm {
            return;
        }
        match *what {
            What::Kill { node, down } => {
                self.count(0);
                self.kill_server(node, down);
            }
            What::Reboot { node, down, keeps_journal } => self.reboot(node, down, keeps_journal),
            What::Freeze { node, time } => {
                self.count(2);
                self.freeze(node, time);
            }
            What::Suspend { node, time } => {
                self.count(3);
                self.processes.machine_sleeps(node);
                let until = self.agenda.now() + time;
                self.nodes[node].suspended_until = self.nodes[node].suspended_until.max(until);
                self.falls_asleep(node, until);
            }
            What::Wipe { node, down } => self.wipe(node, down),
            What::KillSupervisor { node } => self.kill_supervisor(node),
            What::CutOff { node, time } => {
                self.count(6);
                for other in (0..self.nodes.len()).filter(|other| *other != node) {
                    self.cut(node, other, time);
                    self.cut(other, node, time);
                }
                self.topology();
            }
            What::Cut { from, to, time } => {
                if from != to {
                    self.count(7);
                    self.cut(from, to, time);
                    self.topology();
                }
            }
            What::Stall { from, to, time, then_cut } => {
                if from != to {
                    self.count(8);
                    let until = self.agenda.now() + time;
                    let stalled = self.stalls.entry((from, to)).or_default();
                    *stalled = (*stalled).max(until);
                    self.agenda.at(until, Event::Over(Over::Stall(from, to, then_cut)));
                    self.topology();
                }
            }
            What::Elect { node } => {
                if self.has_quorum(node) && self.consensus.leader.is_some_and(|proc| proc.node != node) {
                    self.count(9);
                    self.elect(node);
                }
            }
            What::SetWall { node, by_ms, time } => self.set_wall(node, by_ms, time),
            What::Lag => self.leader_lags(),
            What::Outage { time } => {
                self.count(12);
                for node in 0..self.nodes.len() {
                    self.kill_server(node, time);
                }
            }
            What::Wish(_) => {}
        }
    }

    fn set_wall(&mut self, node: usize, by_ms: i64, time: u64) {
        self.count(10);
        self.note_walls();
        self.nodes[node].clocks.wall_step += by_ms;
        self.note_walls();
        self.agenda.at(self.agenda.now() + time, Event::Over(Over::Wall(node, by_ms)));
    }

    fn leader_lags(&mut self) {
        let leader = self.consensus.leader.map(|proc| proc.node);
        if let Some(reign) = leader.and_then(|node| self.reign(node)) {
            reign.lags = true;
            self.count(11);
        }
    }

    fn count(&mut self, kind: usize) {
        self.counts.faults[kind] += 1;
    }

    fn freeze(&mut self, node: usize, time: u64) {
        let until = self.agenda.now() + time;
        if self.nodes[node].is_up {
            self.nodes[node].frozen_until = self.nodes[node].frozen_until.max(until);
            self.falls_asleep(node, until);
        }
    }

    fn falls_asleep(&mut self, node: usize, until: Instant) {
        self.topology();
        self.agenda.at(until, Event::Over(Over::Asleep(node)));
    }

    fn cut(&mut self, from: usize, to: usize, time: u64) {
        *self.cuts.entry((from, to)).or_default() += 1;
        self.agenda.at(self.agenda.now() + time, Event::Over(Over::Cut(from, to)));
    }

    fn reboot(&mut self, node: usize, down: u64, keeps_journal: bool) {
        if !self.nodes[node].is_up {
            return;
        }
        self.count(1);
        self.stop_server(node, false);
        self.processes.machine_dies(node);
        for number in 0..self.supervisors.len() {
            if self.supervisors[number].node == node {
                self.lose_supervisor(number);
            }
        }
        let now = self.agenda.now();
        let rebooted = &mut self.nodes[node];
        rebooted.suspended_until = 0;
        rebooted.asleep.clear();
        rebooted.host.boot += 1;
        rebooted.clocks.booted_at = now;
        rebooted.clocks.boot_base = self.random.random_range(0..100 * SEC);
        let host = &mut self.nodes[node].host;
        host.supervisors.clear();
        if !keeps_journal {
            // A file system that was not synced may come back with any of it; all is what hurts most.
            host.journal.clear();
        }
        host.journal_id += 1;
        self.agenda.at(now + down, Event::Over(Over::Down(node)));
    }

    /// The folder is gone with the process: another supervisor is begun, under another journal id.
    fn wipe(&mut self, node: usize, down: u64) {
        if !self.nodes[node].is_up {
            return;
        }
        self.count(4);
        self.kill_server(node, down);
        let host = &mut self.nodes[node].host;
        host.journal.clear();
        host.supervisors.clear();
        host.journal_id += 1_000;
        host.last_session = matins_core::id::SessionNumber(0);
    }

    fn kill_supervisor(&mut self, node: usize) {
        let Some(number) = self.nodes[node].host.supervisors.last().copied() else { return };
        self.count(5);
        self.processes.supervisor_dies(number);
        self.lose_supervisor(number);
    }

    /// A fault ends.
    pub(super) fn over(&mut self, over: Over) {
        match over {
            Over::Down(node) => {
                if !self.nodes[node].is_up {
                    self.start_server(node);
                }
            }
            Over::Asleep(node) => self.wakes(node),
            Over::Cut(from, to) => {
                let count = self.cuts.entry((from, to)).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.release(from, to);
                    self.topology();
                }
            }
            Over::Stall(from, to, then_cut) => {
                if then_cut > 0 && !self.is_calm {
                    // What was stalled arrives; what would answer it does not.
                    self.cut(to, from, then_cut);
                }
                self.topology();
            }
            Over::Wall(..) if self.is_calm => {}
            Over::Wall(node, by_ms) => {
                self.note_walls();
                self.nodes[node].clocks.wall_step -= by_ms;
                self.note_walls();
            }
        }
    }

    /// A sleeper wakes: if it led, its watchdog sees how long nothing came round (PROTOCOL 2.3).
    fn wakes(&mut self, node: usize) {
        if self.nodes[node].awake_at() > self.agenda.now() {
            return;
        }
        self.wake_up(node);
        let proc = self.proc(node);
        let lead = self.nodes[node].lead.as_ref().map(|lead| (lead.term, lead.unhealthy_since));
        let give_up = self.knobs.lease.give_up_after().0 * MS;
        if let Some((term, since)) = lead
            && self.agenda.now() - since >= give_up
        {
            let at = self.agenda.now() + self.draw(100 * MS);
            self.agenda.at(at, Event::Watchdog(proc, term, since));
            // Until then it goes on as it was; nobody has told it anything.
        }
        self.topology();
        if self.nodes[node].is_up {
            self.run_leader(node);
        }
    }

    /// The second phase: a quorum is healed for good, every other fault is made permanent.
    pub(super) fn heal_for_good(&mut self) {
        self.is_calm = true;
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        let ill =
            if self.nodes.len() > 2 && self.random.random() { self.nodes.len().div_ceil(2) - 1 } else { 0 };
        let from = self.draw(self.nodes.len() as u64) as usize;
        let healed: Vec<usize> = all.iter().map(|node| (node + from) % all.len()).skip(ill).collect();
        for node in all {
            self.nodes[node].clocks.wall_step = 0;
            self.nodes[node].frozen_until = 0;
            if healed.contains(&node) {
                self.nodes[node].suspended_until = 0;
                if !self.nodes[node].is_up {
                    self.start_server(node);
                }
            } else if self.nodes[node].is_up {
                match self.random.random_range(0..3) {
                    0 => self.stop_server(node, true),
                    1 => self.nodes[node].frozen_until = 100_000 * HOUR,
                    _ => self.isolate(node),
                }
            }
        }
        self.stalls.clear();
        for from in &healed {
            for to in &healed {
                self.cuts.remove(&(*from, *to));
                self.release(*from, *to);
            }
        }
        self.topology();
        for node in &healed {
            self.agenda.at(self.agenda.now(), Event::Over(Over::Asleep(*node)));
        }
        self.healed = healed;
    }

    fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            *self.cuts.entry((node, other)).or_default() += 1_000_000;
            *self.cuts.entry((other, node)).or_default() += 1_000_000;
        }
    }
}
