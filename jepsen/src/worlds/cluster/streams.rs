//! Streams between executors and leaders: in order, broken at any time, with what was said before still on its way.

use std::collections::VecDeque;
use std::sync::Arc;

use matins_core::executor::Event;
use matins_core::id::SessionNumber;
use matins_node::lead::leader;

use super::super::host::{Host, Said, ToLeader};
use super::{Cluster, conn};

/// One stream.
#[derive(Clone, Debug, Hash)]
pub(super) struct Stream {
    pub(super) id: u8,
    pub(super) host: usize,
    pub(super) node: usize,
    pub(super) up: VecDeque<ToLeader>,
    pub(super) down: VecDeque<Event>,
    /// The executor has not let go of it.
    pub(super) executor_end: bool,
    /// The leader has not let go of it.
    pub(super) leader_end: bool,
    /// The session that the leader said to be open on it.
    pub(super) opened: Option<SessionNumber>,
}

/// Which message is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    First,
    Second,
    /// The first one, which stays.
    Copy,
}

impl Stream {
    pub(super) fn new(id: u8, host: usize, node: usize) -> Self {
        let (up, down) = (VecDeque::new(), VecDeque::new());
        Self { id, host, node, up, down, executor_end: true, leader_end: true, opened: None }
    }

    /// Whether the leader has something to take.
    pub(super) fn has_up(&self) -> bool {
        self.leader_end && (!self.up.is_empty() || !self.executor_end)
    }

    /// Whether the executor has something to take.
    pub(super) fn has_down(&self) -> bool {
        self.executor_end && (!self.down.is_empty() || !self.leader_end)
    }
}

impl Cluster {
    pub(super) fn stream(&self, id: u8) -> Option<&Stream> {
        self.streams.iter().find(|stream| stream.id == id).map(AsRef::as_ref)
    }

    pub(super) fn stream_mut(&mut self, id: u8) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.id == id).map(Arc::make_mut)
    }

    pub(super) fn drop_dead_streams(&mut self) {
        self.streams.retain(|stream| stream.executor_end || stream.leader_end);
    }

    /// What an executor said goes on its stream.
    pub(super) fn said(&mut self, host: usize, said: Said) {
        let stream = self.streams.iter_mut().find(|stream| stream.host == host && stream.executor_end);
        let Some(stream) = stream else { return };
        if said.to_leader.is_empty() && !said.closes {
            return;
        }
        let stream = Arc::make_mut(stream);
        if stream.leader_end {
            stream.up.extend(said.to_leader);
        }
        if said.closes {
            stream.executor_end = false;
            stream.down.clear();
            self.drop_dead_streams();
        }
    }

    /// The process at the executor's end of a stream is gone.
    pub(super) fn executor_lets_go(&mut self, host: usize) {
        for stream in self.streams.iter_mut().filter(|stream| stream.host == host && stream.executor_end) {
            let stream = Arc::make_mut(stream);
            stream.executor_end = false;
            stream.down.clear();
        }
        self.drop_dead_streams();
    }

    pub(super) fn cut(&mut self, id: u8) {
        let Some(host) = self.stream(id).map(|stream| stream.host) else { return };
        self.executor_lets_go(host);
        self.on_host(host, Host::stream_closed);
    }

    pub(super) fn up(&mut self, id: u8) -> Result<(), String> {
        let Some(stream) = self.stream_mut(id) else { return Ok(()) };
        let (host, node) = (stream.host, stream.node);
        let event = match stream.up.pop_front() {
            Some(message) => leader::Event::Said(conn(id), self.in_wire_words(host, message)),
            None => {
                stream.leader_end = false;
                self.drop_dead_streams();
                leader::Event::Closed(conn(id))
            }
        };
        let now = self.lead_now();
        if let Some(lead) = &mut self.leads[node] {
            Arc::make_mut(lead).leader.event(event, now);
        }
        self.run_lead(node)
    }

    pub(super) fn down(&mut self, id: u8, take: Take) {
        let Some(stream) = self.stream_mut(id) else { return };
        let host = stream.host;
        let event = match take {
            Take::First => stream.down.pop_front(),
            Take::Second => stream.down.remove(1),
            Take::Copy => stream.down.front().cloned(),
        };
        if let Some(event) = event {
            self.on_host(host, |host, now| host.hear(now, event));
        } else {
            stream.executor_end = false;
            self.drop_dead_streams();
            self.on_host(host, Host::stream_closed);
        }
    }
}
