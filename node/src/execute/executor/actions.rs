//! Carrying out what the machine says.

use std::io;
use std::sync::Arc;

use matins_core::executor::{Action, HeldAs, StartRefusal, StopHow};
use matins_core::id::{Fence, SessionNumber};
use matins_core::time::Millis;
use matins_proto::v1;
use matins_proto::v1::executor_message::Message;

use super::{Driver, Finished, fetch};
use crate::execute::prepare::Fetched;
use crate::execute::supervisor::wire::ToSupervisor;
use crate::execute::{collect, prepare, wire};
use crate::system::wall_time;

impl Driver<'_> {
    /// Does one thing. An error ends the incarnation: the next one finds everything in files and lists.
    pub(super) fn act(&mut self, action: Action) -> io::Result<()> {
        match action {
            Action::Announce(number) => self.announce(number),
            Action::PassDeadline { session, at, kill_after } => {
                self.tell_all(&ToSupervisor::Deadline { session, at, kill_after })
            }
            Action::Journal(fence) => {
                let job = Arc::clone(self.jobs.get(&fence).expect("a start brings its job"));
                tracing::info!(lease = fence.0, task = job.label, "start");
                self.journal.write_start(fence, &job)
            }
            Action::Spawn(session, fence) => {
                self.prepare(session, fence);
                Ok(())
            }
            Action::StopGroup(session, fence, how) => self.stop(session, fence, how),
            Action::MakeReport(fence) => {
                self.make_report(fence);
                Ok(())
            }
            Action::MakeLost(fence) => {
                self.make_lost(fence);
                Ok(())
            }
            Action::Forget(session, fence) => self.forget(session, fence),
            Action::CloseStream => {
                if let Some(stream) = self.stream.take() {
                    stream.close.cancel();
                }
                Ok(())
            }
            Action::SendReport(fence) => {
                if let Some(report) = self.journal.report(fence) {
                    self.send(Message::Report(report));
                }
                Ok(())
            }
            Action::Hello(..)
            | Action::Renew(_)
            | Action::Confirm(_)
            | Action::Started(_)
            | Action::RefuseStart(..)
            | Action::SendDead(_)
            | Action::Unkillable(_) => {
                if let Some(message) = self.message(action) {
                    self.send(message);
                }
                Ok(())
            }
        }
    }

    /// What is no more than a message to the leader.
    fn message(&self, action: Action) -> Option<Message> {
        Some(match action {
            Action::Hello(number, held) => Message::Hello(self.hello(number, &held)),
            Action::Renew(sequence) => Message::Renew(v1::Renew { sequence }),
            Action::Confirm(fence) => Message::StartConfirmed(v1::StartConfirmed { fence: fence.0 }),
            Action::Started(fence) => {
                Message::Started(v1::Started { fence: fence.0, at: wall_time().as_millis() })
            }
            Action::RefuseStart(fence, why) => Message::StartRefused(v1::StartRefused {
                fence: fence.0,
                session: self.machine.number().0,
                reason: match why {
                    StartRefusal::OtherSession => "it came under another session",
                    StartRefusal::Dead => "a stop for it was answered before",
                    StartRefusal::SessionOver => "the supervisor's session is over",
                }
                .to_owned(),
            }),
            Action::SendDead(fence) => Message::StopDead(v1::StopDead { fence: fence.0 }),
            Action::Unkillable(fence) => Message::Unkillable(v1::Unkillable { fence: fence.0 }),
            Action::Announce(_)
            | Action::PassDeadline { .. }
            | Action::Journal(_)
            | Action::Spawn(..)
            | Action::StopGroup(..)
            | Action::MakeReport(_)
            | Action::MakeLost(_)
            | Action::SendReport(_)
            | Action::Forget(..)
            | Action::CloseStream => return None,
        })
    }

    fn hello(&self, number: SessionNumber, held: &[(Fence, HeldAs)]) -> v1::Hello {
        let identity = self.journal.identity();
        v1::Hello {
            node: self.config.node.0,
            session: number.0,
            boot_id: identity.boot.clone(),
            journal: identity.journal.0,
            held: wire::held_fences(held),
            slots: self.config.slots,
            labels: self.config.labels.clone().into_iter().collect(),
            name: self.config.name.clone(),
            level: self.config.level,
            address: self.config.address.clone(),
            cluster: self.stream.as_ref().map_or(0, |stream| stream.cluster),
        }
    }

    /// Queues a message to the leader. One that finds no room ends the stream: the leader does not read.
    fn send(&mut self, message: Message) {
        let Some(stream) = &self.stream else { return };
        if stream.to_leader.try_send(v1::ExecutorMessage { message: Some(message) }).is_err() {
            stream.close.cancel();
        }
    }

    fn tell_all(&self, message: &ToSupervisor) -> io::Result<()> {
        self.links.iter().try_for_each(|link| link.send(message.clone()))
    }

    fn announce(&mut self, number: SessionNumber) -> io::Result<()> {
        // Noted first: a number that was given to a supervisor must not be used again by another incarnation.
        self.journal.write_session(number)?;
        self.tell_all(&ToSupervisor::Session { number })?;
        self.tell_all(&ToSupervisor::List { session: number })
    }

    fn prepare(&mut self, session: SessionNumber, fence: Fence) {
        self.preparing.insert(fence, true);
        let job = Arc::clone(self.jobs.get(&fence).expect("a start brings its job"));
        if job.files.is_empty() {
            // Some twenty calls of the system: less than the way to another thread and back.
            let task =
                prepare::prepare(&self.journal, fence, &job, &self.config.environment, &Fetched::new());
            self.done.push_back(Finished::Prepared { session, fence, task: task.map(Box::new) });
            return;
        }
        let (blobs, journal, finish) = (Arc::clone(&self.blobs), self.journal.clone(), self.finish.clone());
        let config = Arc::clone(&self.config);
        self.tasks.spawn(async move {
            let task = match fetch(&*blobs, &job).await {
                Ok(fetched) => {
                    let made = tokio::task::spawn_blocking(move || {
                        prepare::prepare(&journal, fence, &job, &config.environment, &fetched).map(Box::new)
                    });
                    made.await.unwrap_or_else(|error| Err(format!("making it ready failed: {error}")))
                }
                Err(reason) => Err(reason),
            };
            // The incarnation may have ended, and then the next one reports the attempt lost.
            let _ = finish.send(Finished::Prepared { session, fence, task }).await;
        });
    }

    fn stop(&mut self, session: SessionNumber, fence: Fence, how: StopHow) -> io::Result<()> {
        if let Some(is_wanted) = self.preparing.get_mut(&fence) {
            *is_wanted = false;
            return Ok(());
        }
        let grace = match how {
            StopHow::Graceful => {
                let job = self.jobs.get(&fence).cloned().or_else(|| self.journal.job(fence).map(Arc::new));
                job.map_or(Millis::from_secs(10), |job| Millis(job.kill_grace_ms))
            }
            StopHow::Now => Millis::ZERO,
            StopHow::Lost => self.params.kill_after(),
        };
        let supervisor = self.runs_at.get(&fence);
        match self.links.iter().find(|link| Some(&link.id) == supervisor) {
            Some(link) => link.send(ToSupervisor::Stop { session, fence, grace }),
            // No list named it in this incarnation: whoever has it hears it.
            None => self.tell_all(&ToSupervisor::Stop { session, fence, grace }),
        }
    }

    fn make_report(&mut self, fence: Fence) {
        let told = self.exits.remove(&fence);
        if !collect::has_outputs(&self.journal, fence) {
            // As above: nothing is read that a task could have made long.
            let report = collect::collect(&self.journal, fence, told.as_ref()).report;
            if self.journal.write_report(&report).is_ok() {
                self.told.metrics.ended(&report);
                self.done.push_back(Finished::Reported(fence));
                return;
            }
        }
        let (blobs, journal, finish) = (Arc::clone(&self.blobs), self.journal.clone(), self.finish.clone());
        let metrics = self.told.metrics.clone();
        self.tasks.spawn(async move {
            let reading = journal.clone();
            let collected =
                tokio::task::spawn_blocking(move || collect::collect(&reading, fence, told.as_ref()));
            let Ok(collect::Collected { mut report, large }) = collected.await else { return };
            if let Some(bytes) = large {
                let size = bytes.len();
                match blobs.store(bytes).await {
                    Ok(digest) => collect::attach(&mut report, digest, size),
                    Err(error) => {
                        report.output_fault = format!("cannot store outputs of {size} bytes: {error}");
                    }
                }
            }
            report_in_outbox(&journal, &report).await;
            metrics.ended(&report);
            // The incarnation may have ended; the next one finds the report in the outbox.
            let _ = finish.send(Finished::Reported(fence)).await;
        });
    }

    fn make_lost(&mut self, fence: Fence) {
        // It may be that its files were still being made ready: then it is not spawned any more.
        if let Some(is_wanted) = self.preparing.get_mut(&fence) {
            *is_wanted = false;
        }
        let (journal, finish) = (self.journal.clone(), self.finish.clone());
        let metrics = self.told.metrics.clone();
        self.tasks.spawn(async move {
            let killing = journal.clone();
            let Ok(report) = tokio::task::spawn_blocking(move || collect::lose(&killing, fence)).await else {
                return;
            };
            report_in_outbox(&journal, &report).await;
            metrics.ended(&report);
            // As above.
            let _ = finish.send(Finished::Reported(fence)).await;
        });
    }

    fn forget(&mut self, session: SessionNumber, fence: Fence) -> io::Result<()> {
        self.jobs.remove(&fence);
        self.exits.remove(&fence);
        let journal = self.journal.clone();
        // Not awaited and not cancelled: what the task left behind may take long to delete.
        tokio::task::spawn_blocking(move || journal.forget(fence));
        let Some(supervisor) = self.runs_at.remove(&fence) else { return Ok(()) };
        if let Some(link) = self.links.iter().find(|link| link.id == supervisor) {
            link.send(ToSupervisor::Statuses { session, acknowledged: vec![fence] })?;
        }
        self.retire(supervisor);
        Ok(())
    }
}

/// Puts a report into the outbox, again and again while the disk has no room: it must not be lost.
async fn report_in_outbox(journal: &crate::execute::journal::Journal, report: &v1::AttemptReport) {
    while let Err(error) = journal.write_report(report) {
        tracing::error!(lease = report.fence, %error, "cannot write a report");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}
