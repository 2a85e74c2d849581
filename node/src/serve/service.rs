//! One module per service of `matins.v1`; long work of one sits below it.

mod backfills;
mod cluster;
mod logs;
mod pools;
mod runs;
mod schedules;
mod workflows;

use std::sync::Arc;

use super::api::Api;

pub(crate) use backfills::BackfillsService;
pub(crate) use cluster::ClusterService;
pub(crate) use cluster::settings::all as settings_of;
pub(crate) use logs::LogsService;
pub(crate) use pools::PoolsService;
pub(crate) use runs::RunsService;
pub(crate) use schedules::SchedulesService;
pub(crate) use workflows::{BLOB_BYTES_MAX, WorkflowsService};

/// Every service, once for all ways in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Services {
    pub(crate) workflows: Arc<WorkflowsService>,
    pub(crate) runs: Arc<RunsService>,
    pub(crate) schedules: Arc<SchedulesService>,
    pub(crate) backfills: Arc<BackfillsService>,
    pub(crate) pools: Arc<PoolsService>,
    pub(crate) logs: Arc<LogsService>,
    pub(crate) cluster: Arc<ClusterService>,
}

impl Services {
    pub(crate) fn new(api: &Api) -> Self {
        Self {
            workflows: Arc::new(WorkflowsService(api.clone())),
            runs: Arc::new(RunsService::new(api.clone())),
            schedules: Arc::new(SchedulesService(api.clone())),
            backfills: Arc::new(BackfillsService(api.clone())),
            pools: Arc::new(PoolsService(api.clone())),
            logs: Arc::new(LogsService(api.clone())),
            cluster: Arc::new(ClusterService::new(api.clone())),
        }
    }
}
