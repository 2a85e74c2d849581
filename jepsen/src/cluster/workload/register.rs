//! **register**: a store outside of the cluster that takes only rising fences is safe from zombies, and refuses nobody
//! who is in the right.
//!
//! Zombies are made on purpose: a person orders `attempt abandon` while the process still runs, which is the one case in
//! which two may live at the same time (PROTOCOL 5.10). Start at [`Register`]; [`broken`] is the checker.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use matins_proto::v1::attempt::State as AttemptState;
use matins_proto::v1::{AbandonAttemptRequest, ListRunsRequest, StartRunRequest};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::time::sleep;

use crate::report::Report;

use super::call::Call;
use super::doors::{Doors, Heard};
use super::excuse::Excuses;
use super::record::{Event, Line, read};
use super::spans::spans;
use super::{Site, Trouble, Until, Workload, runs};

const NAME: &str = "register";

/// Registers, each written to by a workflow of its own, one run at a time.
const REGISTERS: u32 = 3;

/// See the head of this module.
#[derive(Debug, Default)]
pub(crate) struct Register {
    abandoned: u64,
}

/// What a register and its writers left behind.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// Fences in the order in which the register took them.
    pub(crate) taken: Vec<u64>,
    /// What the writers wrote down.
    pub(crate) lines: Vec<Line>,
    /// Fences of attempts that the cluster recorded as success.
    pub(crate) successes: BTreeSet<u64>,
    /// Fences of attempts that the cluster gave up on a person's word.
    pub(crate) abandoned: BTreeSet<u64>,
    /// What the protocol excepts beside that.
    pub(crate) excuses: Excuses,
}

#[tonic::async_trait]
impl Workload for Register {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn set_up(&mut self, site: &Site) -> Result<(), Trouble> {
        let mut text = String::new();
        for register in 0..REGISTERS {
            let call = Call { register: Some(format!("{register}")), is_stubborn: true, ..Call::hold(1_200) };
            let _ = writeln!(
                text,
                "---\nworkflow: writer-{register}\nconcurrency: {{ max_active_runs: 1, on_full: queue }}\n\
                 tasks:\n  write: {{ retry: {{ limit: 20, delay: 100ms }}, run: {} }}",
                call.run(site, NAME)?
            );
        }
        runs::apply(&Doors::open(site)?, NAME, text).await
    }

    async fn drive(&mut self, site: &Site, until: &Until) -> Result<(), Trouble> {
        let doors = Doors::open(site)?;
        let mut random = StdRng::seed_from_u64(site.seed);
        let mut round = 0_u32;
        while !until.is_over() {
            sleep(Duration::from_millis(250)).await;
            round += 1;
            let workflow = format!("{NAME}/writer-{}", round % REGISTERS);
            let states = runs::ACTIVE.iter().map(|state| *state as i32).collect();
            let ask = ListRunsRequest { workflow: workflow.clone(), states, ..ListRunsRequest::default() };
            let Heard::Done(active) = doors.at(doors.any(&mut random), ask).await? else { continue };
            if active.runs.len() < 2 {
                let ask = StartRunRequest { workflow, ..StartRunRequest::default() };
                doors.at(doors.any(&mut random), ask).await?;
            }
            if round.is_multiple_of(5)
                && let Some(run) = active.runs.last()
            {
                let (run, task) = (run.id.clone(), "write".to_owned());
                let ask = AbandonAttemptRequest { run, task, ..AbandonAttemptRequest::default() };
                if let Heard::Done(_) = doors.at(doors.any(&mut random), ask).await? {
                    self.abandoned += 1;
                }
            }
        }
        Ok(())
    }

    async fn settle(&mut self, site: &Site, within: Duration, report: &mut Report) -> Result<(), Trouble> {
        runs::settle(site, NAME, within, report).await?;
        // Zombies may write until they are killed, 10 s after they were told to end.
        sleep(Duration::from_secs(2)).await;
        Ok(())
    }

    async fn check(&mut self, site: &Site, report: &mut Report) -> Result<(), Trouble> {
        let all = runs::whole(&Doors::open(site)?, NAME).await?;
        let lines = read(&site.record_file(NAME))?;
        let excuses = Excuses::read(site, &all);
        let mut found = Vec::new();
        for register in 0..REGISTERS {
            let workflow = format!("{NAME}/writer-{register}");
            let path = site.records.join(format!("{NAME}-{register}"));
            let text = fs::read_to_string(path).unwrap_or_default();
            let taken: Result<_, _> = text.lines().map(str::parse).collect();
            let of_state = |is_in: fn(&matins_proto::v1::Attempt) -> bool| {
                let runs = all.iter().filter(|run| run.workflow == workflow);
                let attempts = runs.flat_map(|run| runs::attempts(run).map(|(_, attempt)| attempt));
                attempts.filter(|it| is_in(it)).map(|it| it.fence).collect()
            };
            let history = History {
                taken: taken.map_err(|error| Trouble(format!("register {register}: {error}")))?,
                lines: lines.iter().filter(|line| line.workflow == workflow).cloned().collect(),
                successes: of_state(|attempt| attempt.state() == AttemptState::Success),
                abandoned: of_state(|attempt| {
                    attempt.reason.as_ref().is_some_and(|reason| reason.code == "abandoned")
                }),
                excuses: excuses.clone(),
            };
            found.extend(broken(&history).into_iter().map(|what| format!("register {register}: {what}")));
        }
        let count = |is: fn(&Event) -> bool| lines.iter().filter(|line| is(&line.event)).count() as u64;
        report.needs("register: writes that were taken", count(|it| matches!(it, Event::Accepted(_))), 100);
        report.figure(
            "register: zombies' writes that were refused",
            count(|it| matches!(it, Event::Rejected(_))),
        );
        report.needs("register: attempts abandoned while they ran", self.abandoned, 1);
        excuses.tell(NAME, &spans(&lines).0, report);
        site.report(NAME, found, report);
        Ok(())
    }
}

/// The register holds rising fences, a later start has a higher fence, and only those are refused who lost the task.
pub(crate) fn broken(history: &History) -> Vec<String> {
    let mut broken = Vec::new();
    for pair in history.taken.windows(2).filter(|pair| pair[1] < pair[0]) {
        broken.push(format!("5.2: it took fence {} after fence {}", pair[1], pair[0]));
    }
    let (spans, doubled) = spans(&history.lines);
    broken.extend(doubled);
    for pair in spans.windows(2).filter(|pair| pair[1].fence <= pair[0].fence) {
        broken.push(format!("I5: fence {} began after fence {}", pair[1].fence, pair[0].fence));
    }
    let mut writes: BTreeMap<u64, u64> = BTreeMap::new();
    for fence in &history.taken {
        *writes.entry(*fence).or_default() += 1;
    }
    for line in &history.lines {
        match line.event {
            Event::Rejected(by) if history.successes.contains(&line.fence) => broken.push(format!(
                "I6: fence {} was refused for fence {by}, and yet the cluster says that it succeeded",
                line.fence
            )),
            Event::Accepted(_) => match writes.get_mut(&line.fence) {
                Some(left @ 1..) => *left -= 1,
                Some(_) | None => {
                    broken.push(format!("fence {} was told of a write that is not there", line.fence));
                }
            },
            Event::Rejected(_) | Event::Start | Event::Alive | Event::End(_) | Event::Held => {}
        }
    }
    broken.extend(overlaps(&history.excuses.counted(spans), &history.abandoned));
    broken
}

/// Two lives of one writer overlap only if a person gave the first one up, or nobody could end it.
fn overlaps(spans: &[super::spans::Span], abandoned: &BTreeSet<u64>) -> Vec<String> {
    let mut broken = Vec::new();
    for (at, first) in spans.iter().enumerate().filter(|(_, span)| !abandoned.contains(&span.fence)) {
        for second in spans[at + 1..].iter().take_while(|second| second.start <= first.end) {
            broken.push(format!(
                "I6: fence {} began before fence {} had ended, which nobody abandoned",
                second.fence, first.fence
            ));
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::super::excuse::tests::frozen;
    use super::*;

    fn line(event: Event, at: u64, fence: u64) -> Line {
        Line {
            event,
            at,
            fence,
            workflow: "register/writer-0".into(),
            run: "run-1".into(),
            task: "write".into(),
            attempt: fence as u32,
            logical_time: String::new(),
        }
    }

    /// Fence 1 is abandoned, goes on, and is refused once fence 2 has written.
    fn good() -> History {
        History {
            taken: vec![1, 2, 2],
            lines: vec![
                line(Event::Start, 10, 1),
                line(Event::Accepted(1), 11, 1),
                line(Event::Start, 20, 2),
                line(Event::Accepted(2), 21, 2),
                line(Event::Rejected(2), 22, 1),
                line(Event::Accepted(2), 23, 2),
                line(Event::End(0), 24, 2),
                line(Event::End(0), 25, 1),
            ],
            successes: BTreeSet::from([2]),
            abandoned: BTreeSet::from([1]),
            excuses: Excuses::default(),
        }
    }

    #[test]
    fn a_refused_zombie_is_right() {
        assert_eq!(broken(&good()), Vec::<String>::new());
    }

    #[test]
    fn a_zombie_that_nobody_abandoned_is_an_overlap() {
        let history = History { abandoned: BTreeSet::new(), ..good() };
        assert_eq!(broken(&history).len(), 1);
    }

    #[test]
    fn a_zombie_that_nobody_could_end_is_excepted() {
        let alone = |excuses| {
            let mut history = History { abandoned: BTreeSet::new(), excuses, ..good() };
            // From 10 to 25, and from 20 to 24: now around the fault, which came at 100.
            history.lines.iter_mut().for_each(|line| line.at = line.at * 10 - 20);
            broken(&history)
        };
        assert_eq!(alone(frozen(&[1])), Vec::<String>::new());
        assert_eq!(alone(frozen(&[2])).len(), 1, "it was the other one");
        // The register still takes no fence that falls.
        let fallen = History { taken: vec![2, 1, 2], excuses: frozen(&[1]), ..good() };
        assert_eq!(broken(&fallen).len(), 1);
    }

    #[test]
    fn a_register_that_falls_is_found() {
        let history = History { taken: vec![2, 1, 2], ..good() };
        assert_eq!(broken(&history), ["5.2: it took fence 1 after fence 2"]);
    }

    #[test]
    fn a_success_that_was_refused_is_found() {
        let history = History { successes: BTreeSet::from([1, 2]), ..good() };
        assert_eq!(broken(&history).len(), 1);
    }

    #[test]
    fn a_write_that_was_told_and_is_gone_is_found() {
        let history = History { taken: vec![1, 2], ..good() };
        assert_eq!(broken(&history), ["fence 2 was told of a write that is not there"]);
    }

    #[test]
    fn a_later_start_under_a_lower_fence_is_found() {
        let mut history = good();
        history.lines.extend([line(Event::Start, 30, 0), line(Event::End(0), 31, 0)]);
        assert!(broken(&history).iter().any(|what| what == "I5: fence 0 began after fence 2"));
    }
}
