//! All workloads, in the order of the table.

mod ad_hoc;
mod chain;
mod commands;
mod due_in_a_minute;
mod due_together;
mod failover;
mod fan_out;
mod finished_runs;
mod hand_over;
mod idle;
mod live_runs;
mod python;
mod schedules;
mod snapshot;
mod tick;

use crate::workload::Workload;

/// All there are.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(chain::Chain),
        Box::new(fan_out::FanOut),
        Box::new(python::Python),
        Box::new(due_together::DueTogether),
        Box::new(tick::Tick),
        Box::new(ad_hoc::AdHoc),
        Box::new(failover::Failover),
        Box::new(hand_over::HandOver),
        Box::new(commands::Commands),
        Box::new(idle::Idle),
        Box::new(live_runs::LiveRuns),
        Box::new(schedules::Schedules),
        Box::new(due_in_a_minute::DueInAMinute),
        Box::new(snapshot::Snapshot),
        Box::new(finished_runs::FinishedRuns),
    ]
}
