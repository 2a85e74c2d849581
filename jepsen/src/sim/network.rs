//! What lies between executors and leaders: streams over links that can be cut, one way or both, and stalled.
//!
//! A stream is in order and loses nothing while it lives. What is sent into a cut is held, and comes when the cut ends,
//! unless the stream was given up by then; then each end hears of it at its own time.

use std::collections::VecDeque;

use matins_core::id::{ExecutorId, SessionNumber};
use matins_node::lead::leader::Event as Told;
use matins_node::lead::queue::ConnId;
use matins_proto::v1::executor_message::Message as Said;
use matins_proto::v1::leader_message::Message;
use rand::Rng as _;

use super::agenda::{Instant, MS};
use super::world::{Event, Proc, World};

/// Which way something goes over a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    ToLeader,
    ToExecutor,
}

/// What goes over a stream.
pub(super) enum Body {
    /// The stream is open.
    Opened,
    ToLeader(Box<Said>),
    ToExecutor(Box<Message>),
    Closed,
}

/// One end of a stream.
#[derive(Default)]
struct End {
    is_closed: bool,
    /// What goes to this end comes no earlier than this.
    last: Instant,
    held: VecDeque<Body>,
}

/// A stream of an executor to a leader.
pub(super) struct Conn {
    executor: Proc,
    leader: Proc,
    at_executor: End,
    at_leader: End,
    breaks_at: Option<Instant>,
    /// What its hello said.
    pub(super) session: Option<(ExecutorId, SessionNumber)>,
}

impl Conn {
    /// Whom something reaches that goes this way.
    pub(super) const fn to(&self, direction: Direction) -> Proc {
        match direction {
            Direction::ToLeader => self.leader,
            Direction::ToExecutor => self.executor,
        }
    }

    const fn from(&self, direction: Direction) -> Proc {
        match direction {
            Direction::ToLeader => self.executor,
            Direction::ToExecutor => self.leader,
        }
    }

    const fn end(&mut self, direction: Direction) -> &mut End {
        match direction {
            Direction::ToLeader => &mut self.at_leader,
            Direction::ToExecutor => &mut self.at_executor,
        }
    }
}

impl World {
    /// How long a message takes.
    pub(super) fn delay(&mut self) -> u64 {
        let tail = self.knobs.tail_ppm;
        if tail > 0 && self.random.random_range(0..1_000_000) < tail {
            return self.draw(self.knobs.tail);
        }
        self.knobs.latency + self.draw(self.knobs.latency * 7)
    }

    /// Whether what goes from one node to another arrives soon.
    pub(super) fn is_open(&self, from: usize, to: usize) -> bool {
        let is_cut = self.cuts.get(&(from, to)).is_some_and(|count| *count > 0);
        let is_stalled = self.stalls.get(&(from, to)).is_some_and(|until| *until > self.agenda.now());
        !is_cut && !is_stalled
    }

    /// An executor looks for a leader, as long as it has no stream.
    pub(super) fn connect(&mut self, proc: Proc) {
        let is_wanted = self.nodes[proc.node].driver.as_ref().is_some_and(|driver| driver.conn.is_none());
        if !self.lives(proc) || !is_wanted {
            return;
        }
        let node = proc.node;
        let reaches = |other: &usize| {
            self.is_ready(*other)
                && self.is_awake(*other)
                && (*other == node || (self.is_open(node, *other) && self.is_open(*other, node)))
        };
        let leaders: Vec<usize> = (0..self.nodes.len()).filter(reaches).collect();
        let length = self.knobs.lease.length.0 * MS;
        if leaders.is_empty() {
            let at = self.agenda.now() + (length / 50).clamp(50 * MS, 1_000 * MS) + self.draw(20 * MS);
            self.agenda.at(at, Event::Connect(proc));
            return;
        }
        // Who of several believers in their own lead is known here is a matter of chance.
        let leader = leaders[self.draw(leaders.len() as u64) as usize];
        self.conns_made += 1;
        let id = ConnId(self.conns_made);
        let conn = Conn {
            executor: proc,
            leader: self.proc(leader),
            at_executor: End::default(),
            at_leader: End::default(),
            breaks_at: None,
            session: None,
        };
        self.conns.insert(id, conn);
        if let Some(reign) = self.reign(leader) {
            reign.conns.insert(id);
        }
        if let Some(driver) = &mut self.nodes[node].driver {
            driver.conn = Some(id);
        }
        self.send(id, Direction::ToExecutor, Body::Opened);
    }

    /// Hands something to a stream.
    pub(super) fn send(&mut self, id: ConnId, direction: Direction, body: Body) {
        let delay = self.delay();
        let now = self.agenda.now();
        let keepalive = self.knobs.keepalive;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if let Body::ToLeader(said) = &body
            && let Said::Hello(hello) = said.as_ref()
        {
            conn.session = Some((matins_core::id::NodeId(hello.node), SessionNumber(hello.session)));
        }
        let (from, to) = (conn.from(direction).node, conn.to(direction).node);
        let is_local = from == to;
        let is_cut = !is_local && self.cuts.get(&(from, to)).is_some_and(|count| *count > 0);
        let stalled = self.stalls.get(&(from, to)).copied().unwrap_or(0);
        let end = conn.end(direction);
        if end.is_closed {
            return;
        }
        if is_cut || !end.held.is_empty() {
            end.held.push_back(body);
            if conn.breaks_at.is_none() {
                conn.breaks_at = Some(now + keepalive);
                self.agenda.at(now + keepalive, Event::Breaks(id));
            }
            return;
        }
        let at = if is_local { now + MS / 20 } else { (now + delay).max(stalled) }.max(end.last);
        end.last = at;
        self.agenda.at(at, Event::Arrives(id, direction, body));
    }

    /// A link is open again: what was held goes on.
    pub(super) fn release(&mut self, from: usize, to: usize) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            for direction in [Direction::ToLeader, Direction::ToExecutor] {
                let Some(conn) = self.conns.get_mut(&id) else { break };
                if conn.from(direction).node != from || conn.to(direction).node != to {
                    continue;
                }
                let held = std::mem::take(&mut conn.end(direction).held);
                let is_free = conn.at_leader.held.is_empty() && conn.at_executor.held.is_empty();
                if is_free {
                    conn.breaks_at = None;
                }
                for body in held {
                    self.send(id, direction, body);
                }
            }
        }
    }

    /// Nobody answered for so long: both ends give the stream up.
    pub(super) fn breaks_off(&mut self, id: ConnId) {
        let now = self.agenda.now();
        if self.conns.get(&id).and_then(|conn| conn.breaks_at).is_none_or(|at| at > now) {
            return;
        }
        for direction in [Direction::ToLeader, Direction::ToExecutor] {
            let late = self.draw(self.knobs.keepalive / 2);
            let Some(conn) = self.conns.get_mut(&id) else { return };
            conn.end(direction).held.clear();
            self.agenda.at(now + late, Event::Arrives(id, direction, Body::Closed));
        }
    }

    /// Whoever sends this way has closed the stream.
    pub(super) fn close(&mut self, id: ConnId, direction: Direction) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let other = match direction {
            Direction::ToLeader => Direction::ToExecutor,
            Direction::ToExecutor => Direction::ToLeader,
        };
        // Nothing comes to the closing end any more.
        conn.end(other).is_closed = true;
        self.send(id, direction, Body::Closed);
        self.forget_closed(id);
    }

    /// Something reaches an end of a stream.
    pub(super) fn arrives(&mut self, id: ConnId, direction: Direction, body: Body) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let to = conn.to(direction);
        if conn.end(direction).is_closed {
            return;
        }
        if matches!(body, Body::Closed) {
            conn.end(direction).is_closed = true;
        }
        if !self.lives(to) {
            return;
        }
        match (direction, body) {
            (Direction::ToLeader, Body::ToLeader(said)) => {
                if self.leads_over(to.node, id) {
                    self.tell_leader(to.node, Told::Said(id, *said));
                }
            }
            (Direction::ToLeader, Body::Closed) => {
                if self.leads_over(to.node, id) {
                    if let Some(reign) = self.reign(to.node) {
                        reign.conns.remove(&id);
                    }
                    self.tell_leader(to.node, Told::Closed(id));
                }
                self.forget_closed(id);
            }
            (Direction::ToExecutor, Body::Opened) => self.stream_opened(to.node, id),
            (Direction::ToExecutor, Body::ToExecutor(message)) => self.leader_said(to.node, id, *message),
            (Direction::ToExecutor, Body::Closed) => {
                self.stream_closed(to.node, id);
                self.forget_closed(id);
            }
            (Direction::ToLeader, Body::Opened | Body::ToExecutor(_))
            | (Direction::ToExecutor, Body::ToLeader(_)) => {}
        }
    }

    fn leads_over(&mut self, node: usize, id: ConnId) -> bool {
        self.reign(node).is_some_and(|reign| reign.conns.contains(&id))
    }

    fn forget_closed(&mut self, id: ConnId) {
        if self.conns.get(&id).is_some_and(|conn| conn.at_executor.is_closed && conn.at_leader.is_closed) {
            self.conns.remove(&id);
        }
    }

    /// A process has died: the kernel closes its streams, if the machine is still there to do so.
    pub(super) fn streams_of_dead(&mut self, dead: Proc, is_machine_there: bool) {
        let ids: Vec<ConnId> = self.conns.keys().copied().collect();
        for id in ids {
            let Some(conn) = self.conns.get(&id) else { continue };
            for direction in [Direction::ToLeader, Direction::ToExecutor] {
                if conn_from(conn, direction) != dead {
                    continue;
                }
                if is_machine_there {
                    self.close(id, direction);
                } else {
                    let at = self.agenda.now() + self.knobs.keepalive;
                    self.agenda.at(at, Event::Arrives(id, direction, Body::Closed));
                }
                break;
            }
        }
    }
}

const fn conn_from(conn: &Conn, direction: Direction) -> Proc {
    conn.from(direction)
}
