//! One module per service of `matins.v1`; long work of one sits below it.

mod backfills;
mod cluster;
mod logs;
mod pools;
mod runs;
mod schedules;
mod workflows;

pub(crate) use backfills::BackfillsService;
pub(crate) use cluster::ClusterService;
pub(crate) use logs::LogsService;
pub(crate) use pools::PoolsService;
pub(crate) use runs::RunsService;
pub(crate) use schedules::SchedulesService;
pub(crate) use workflows::WorkflowsService;
