//! Counts the ticks of the schedule that is due every second: each second must have exactly one run.

use std::collections::BTreeMap;
use std::time::Duration;

use matins_client::Client;
use matins_core::time::Timestamp;
use matins_proto::v1::{ListRunsRequest, ListSchedulesRequest, PauseScheduleRequest, Run, run::State};
use matins_workflow::calendar::{Calendar, Cron, Gap, Zone};
use tokio::time::{Instant, sleep};

use crate::exit::Exit;
use crate::fault::Fault;

const WORKFLOW: &str = "default/heartbeat";

/// Runs that wait when the schedule is paused have ended within this.
const END_MAX: Duration = Duration::from_secs(60);

/// What came of the ticks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    /// Seconds from the first tick to the last.
    pub(super) due: usize,
    /// Seconds without a run, and ticks that the engine itself says it skipped.
    pub(super) missed: usize,
    /// Runs beyond the first for their second.
    pub(super) doubled: usize,
    /// Runs that did not succeed.
    pub(super) unwell: usize,
}

/// Pauses the schedule, waits for its runs to end, and counts.
pub(super) async fn count(client: &Client) -> Result<Ticks, Fault> {
    let pause = PauseScheduleRequest { workflow: WORKFLOW.into(), ..PauseScheduleRequest::default() };
    client.call(pause).await?;
    let deadline = Instant::now() + END_MAX;
    let runs = loop {
        let runs = all_runs(client).await?;
        let live = |run: &Run| matches!(run.state(), State::Queued | State::Running | State::Stopping);
        if !runs.iter().any(live) {
            break runs;
        }
        if Instant::now() > deadline {
            return Err(Fault::own(Exit::NotSuccess, "runs of the heartbeat did not end within a minute"));
        }
        sleep(Duration::from_millis(200)).await;
    };
    let ask = ListSchedulesRequest { workflow: WORKFLOW.into(), ..ListSchedulesRequest::default() };
    let schedules = client.call(ask).await?.schedules;
    // What the pause itself skips is not missed.
    let skipped = schedules.iter().flat_map(|schedule| &schedule.skipped);
    let skipped: u64 =
        skipped.filter(|skipped| skipped.reason != "paused").map(|skipped| skipped.count).sum();
    let mut ticks = judge(&runs)?;
    ticks.missed += skipped as usize;
    Ok(ticks)
}

async fn all_runs(client: &Client) -> Result<Vec<Run>, Fault> {
    let (mut runs, mut page_token) = (Vec::new(), String::new());
    loop {
        let ask = ListRunsRequest {
            workflow: WORKFLOW.into(),
            retries: true,
            page_size: 1_000,
            page_token,
            ..ListRunsRequest::default()
        };
        let answer = client.call(ask).await?;
        runs.extend(answer.runs);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(runs);
        }
    }
}

/// Compares the runs with the calendar between the first and the last of them.
fn judge(runs: &[Run]) -> Result<Ticks, Fault> {
    let cron =
        Cron::parse("* * * * * *").map_err(|error| Fault::machine("the calendar cannot be read", error))?;
    let calendar = Calendar::new(vec![cron], Zone::utc(), Gap::Shift, None);
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    for time in runs.iter().filter_map(|run| run.logical_time) {
        *seen.entry(time.as_millis()).or_default() += 1;
    }
    let (Some((first, _)), Some((last, _))) = (seen.first_key_value(), seen.last_key_value()) else {
        return Err(Fault::own(Exit::NotSuccess, "the heartbeat made no run at all"));
    };
    let (from, until) = (Timestamp::from_millis(first - 1), Timestamp::from_millis(*last));
    let due: Vec<i64> = calendar.ticks(from, until, usize::MAX).map(|tick| tick.at.as_millis()).collect();
    Ok(Ticks {
        due: due.len(),
        missed: due.iter().filter(|at| !seen.contains_key(at)).count(),
        doubled: seen.values().map(|count| count - 1).sum(),
        unwell: runs.iter().filter(|run| run.state() != State::Success).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_pairs_are_found() {
        let run = |second: i64, state: State| Run {
            logical_time: Some(matins_proto::Timestamp::from_millis(second * 1_000)),
            state: state.into(),
            ..Run::default()
        };
        let well = |second| run(second, State::Success);
        let runs = [well(10), well(11), well(13), well(13), run(14, State::Failed)];
        let expected = Ticks { due: 5, missed: 1, doubled: 1, unwell: 1 };
        assert_eq!(judge(&runs).unwrap(), expected);
        assert!(judge(&[]).is_err());
    }
}
