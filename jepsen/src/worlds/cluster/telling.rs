//! Steps in words.

use matins_core::executor::Event;

use super::super::host::ToLeader;
use super::{Cluster, Step};

impl Cluster {
    pub(super) fn told(&self, step: Step) -> String {
        match step {
            Step::Time => format!("{} pass", self.shape.step),
            Step::Elect(node) => format!("{} is elected and ready", lead_name(node)),
            Step::LeaderDies(node) => format!("the process of {} ends", lead_name(node)),
            Step::Connect(host, node) => {
                format!("{} opens stream {} to {}", name(host), self.streams_made + 1, lead_name(node))
            }
            Step::Up(id) => self.told_up(id),
            Step::Down(id) => self.told_down(id, 0, ""),
            Step::DownLate(id) => self.told_down(id, 1, ", which overtakes the one before"),
            Step::DownTwice(id) => self.told_down(id, 0, ", which comes once more later"),
            Step::Cut(id) => format!("stream {id} breaks"),
            Step::Enter(place) => format!("applied: {}", self.told_pending(place)),
            Step::Unanswered(place) => format!("no answer to: {}", self.told_pending(place)),
            Step::ToSupervisor(host, id) => {
                format!("supervisor {} of {} takes a message", id.0, name(host))
            }
            Step::FromSupervisor(host) => format!("{} hears its supervisor", name(host)),
            Step::Prepared(host, fence) => format!("{} has made {fence} ready", name(host)),
            Step::Exit(host, fence, false) => format!("the task of {fence} exits on {}", name(host)),
            Step::Exit(host, fence, true) => {
                format!("the first process of {fence} exits on {}, a child of it lives on", name(host))
            }
            Step::RestExits(host, fence) => format!("what {fence} left behind on {} exits", name(host)),
            Step::Crash(host) => format!("the process of {} dies", name(host)),
            Step::StartExecutor(host) => format!("{} is started", name(host)),
            Step::Reboot(host) => format!("the machine of {} reboots", name(host)),
            Step::Wipe(host, true) => {
                format!("the data directory of {} is wiped but for the socket", name(host))
            }
            Step::Wipe(host, false) => format!("the data directory of {} is wiped", name(host)),
            Step::LoseSupervisor(host) => {
                format!("the supervisor of {} cannot be reached any more", name(host))
            }
            Step::Cancel => "the run is cancelled".into(),
        }
    }

    fn told_pending(&self, place: usize) -> String {
        let Some(pending) = self.pending.get(place) else { return "nothing".into() };
        format!("{:?}, proposed by {}", pending.command, lead_name(pending.node))
    }

    fn told_up(&self, id: u8) -> String {
        let Some(stream) = self.stream(id) else { return format!("nothing on stream {id}") };
        let lead = lead_name(stream.node);
        match stream.up.front() {
            None => format!("{lead} hears that stream {id} has ended"),
            Some(ToLeader::Hello(hello)) => {
                let held: Vec<_> = hello.held.iter().map(|(fence, _)| fence.to_string()).collect();
                format!(
                    "{lead} hears {} say hello on stream {id}: session {}, boot {}, journal {}, holds {held:?}",
                    name(stream.host),
                    hello.number,
                    hello.identity.boot,
                    hello.identity.journal
                )
            }
            Some(message) => format!("{lead} hears {} on stream {id}: {message:?}", name(stream.host)),
        }
    }

    fn told_down(&self, id: u8, place: usize, how: &str) -> String {
        let Some(stream) = self.stream(id) else { return format!("nothing on stream {id}") };
        let executor = name(stream.host);
        match stream.down.get(place) {
            None => format!("{executor} hears that stream {id} has ended"),
            Some(Event::Opened { number, bound, .. }) => {
                let bound: Vec<_> = bound.iter().map(ToString::to_string).collect();
                format!("{executor} hears on stream {id} that session {number} is open, bound {bound:?}{how}")
            }
            Some(event) => format!("{executor} hears on stream {id}: {event:?}{how}"),
        }
    }
}

fn name(host: usize) -> String {
    format!("E{}", host + 1)
}

fn lead_name(node: usize) -> String {
    format!("leader {}", node + 1)
}
