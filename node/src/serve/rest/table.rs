//! Which path means which rpc: the whole REST API on one page.
//!
//! What the rpcs do, and what their fields mean, is in the protos (and in `docs/openapi.json`, which is made from this table
//! and them). A test holds that every public rpc has a row. Start reading at [`ROUTES`].

use futures::StreamExt as _;
use futures::future::BoxFuture;
use matins_proto::v1::backfills_server::Backfills as _;
use matins_proto::v1::cluster_server::Cluster as _;
use matins_proto::v1::pools_server::Pools as _;
use matins_proto::v1::runs_server::Runs as _;
use matins_proto::v1::schedules_server::Schedules as _;
use matins_proto::v1::workflows_server::Workflows as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tonic::{Request, Status};

use super::events::{Event, Events};
use crate::serve::error::{ApiError, fault_of};
use crate::serve::service::Services;

/// One row.
pub(crate) struct Route {
    /// `GET` and the like.
    pub(crate) method: &'static str,
    /// See `path`.
    pub(crate) path: &'static str,
    /// `Service.Rpc`.
    pub(crate) rpc: &'static str,
    pub(crate) call: Call,
}

/// How an rpc is called.
pub(crate) enum Call {
    /// JSON in, JSON out.
    Unary(fn(Services, Value) -> BoxFuture<'static, Result<String, Status>>),
    /// JSON in, events out.
    Events(fn(Services, Value) -> BoxFuture<'static, Result<Events, Status>>),
    /// JSON in, events or text out.
    Logs,
    /// JSON in, a file out.
    Backup,
    /// A file in, JSON out.
    Upload,
}

/// A call that answers once.
macro_rules! once {
    ($service:ident.$rpc:ident) => {
        Call::Unary(|services, asked| {
            Box::pin(async move {
                let answer = services.$service.$rpc(Request::new(read(asked)?)).await?;
                written(&answer.into_inner())
            })
        })
    };
}

/// A call that goes on answering.
macro_rules! stream {
    ($service:ident.$rpc:ident) => {
        Call::Events(|services, asked| {
            Box::pin(async move {
                let messages = services.$service.$rpc(Request::new(read(asked)?)).await?.into_inner();
                Ok(messages.map(|message| message.and_then(|message| Event::of(&message))).boxed())
            })
        })
    };
}

/// A row.
const fn row(method: &'static str, path: &'static str, rpc: &'static str, call: Call) -> Route {
    Route { method, path, rpc, call }
}

/// Every row, by service.
#[rustfmt::skip]
pub(crate) static ROUTES: &[Route] = &[
    row("POST",   "/v1/workflows:apply", "Workflows.Apply", once!(workflows.apply)),
    row("GET",    "/v1/workflows", "Workflows.List", once!(workflows.list)),
    row("GET",    "/v1/workflows/{workflow=*/*}", "Workflows.Get", once!(workflows.get)),
    row("DELETE", "/v1/workflows/{workflow=*/*}", "Workflows.Delete", once!(workflows.delete)),
    row("GET",    "/v1/workflows/{workflow=*/*}/versions", "Workflows.ListVersions", once!(workflows.list_versions)),
    row("GET",    "/v1/workflows/{workflow=*/*}:diff", "Workflows.Diff", once!(workflows.diff)),
    row("POST",   "/v1/workflows/{workflow=*/*}:rollback", "Workflows.Rollback", once!(workflows.rollback)),
    row("POST",   "/v1/workflows/{workflow=*/*}:pause", "Workflows.Pause", once!(workflows.pause)),
    row("POST",   "/v1/workflows/{workflow=*/*}:resume", "Workflows.Resume", once!(workflows.resume)),
    row("POST",   "/v1/blobs", "Workflows.UploadBlob", Call::Upload),

    row("GET",    "/v1/schedules", "Schedules.List", once!(schedules.list)),
    row("GET",    "/v1/schedules:decisions", "Schedules.ListDecisions", once!(schedules.list_decisions)),
    row("GET",    "/v1/schedules:next", "Schedules.Next", once!(schedules.next)),
    row("POST",   "/v1/schedules:pause", "Schedules.Pause", once!(schedules.pause)),
    row("POST",   "/v1/schedules:resume", "Schedules.Resume", once!(schedules.resume)),

    row("POST",   "/v1/runs:start", "Runs.Start", once!(runs.start)),
    row("POST",   "/v1/runs:submit", "Runs.Submit", once!(runs.submit)),
    row("GET",    "/v1/runs", "Runs.List", once!(runs.list)),
    row("GET",    "/v1/runs:watch", "Runs.WatchList", stream!(runs.watch_list)),
    row("GET",    "/v1/runs:why", "Runs.Why", once!(runs.why)),
    row("GET",    "/v1/runs:wait", "Runs.Wait", once!(runs.wait)),
    row("GET",    "/v1/runs/{run}", "Runs.Get", once!(runs.get)),
    row("GET",    "/v1/runs/{run}:watch", "Runs.Watch", stream!(runs.watch)),
    row("POST",   "/v1/runs/{run}:cancel", "Runs.Cancel", once!(runs.cancel)),
    row("POST",   "/v1/runs/{run}:retry", "Runs.Retry", once!(runs.retry)),
    row("GET",    "/v1/runs/{run}/events", "Runs.ListEvents", once!(runs.list_events)),
    row("GET",    "/v1/runs/{run}/logs", "Logs.Read", Call::Logs),
    row("GET",    "/v1/runs/{run}/tasks/{task}/items", "Runs.ListItems", once!(runs.list_items)),
    row("POST",   "/v1/runs/{run}/tasks/{task}:retry", "Runs.RetryTask", once!(runs.retry_task)),
    row("POST",   "/v1/runs/{run}/tasks/{task}:abandon", "Runs.AbandonAttempt", once!(runs.abandon_attempt)),

    row("POST",   "/v1/backfills", "Backfills.Create", once!(backfills.create)),
    row("GET",    "/v1/backfills", "Backfills.List", once!(backfills.list)),
    row("GET",    "/v1/backfills/{backfill}", "Backfills.Get", once!(backfills.get)),
    row("GET",    "/v1/backfills/{backfill}:watch", "Backfills.Watch", stream!(backfills.watch)),
    row("POST",   "/v1/backfills/{backfill}:pause", "Backfills.Pause", once!(backfills.pause)),
    row("POST",   "/v1/backfills/{backfill}:resume", "Backfills.Resume", once!(backfills.resume)),
    row("POST",   "/v1/backfills/{backfill}:cancel", "Backfills.Cancel", once!(backfills.cancel)),

    row("GET",    "/v1/pools", "Pools.List", once!(pools.list)),
    row("PUT",    "/v1/pools/{name}", "Pools.Set", once!(pools.set)),
    row("DELETE", "/v1/pools/{name}", "Pools.Delete", once!(pools.delete)),

    row("GET",    "/v1/cluster", "Cluster.Status", once!(cluster.status)),
    row("POST",   "/v1/cluster:init", "Cluster.Init", once!(cluster.init)),
    row("POST",   "/v1/cluster:accept-time", "Cluster.AcceptTime", once!(cluster.accept_time)),
    row("POST",   "/v1/cluster/nodes", "Cluster.AddNode", once!(cluster.add_node)),
    row("DELETE", "/v1/cluster/nodes/{node}", "Cluster.RemoveNode", once!(cluster.remove_node)),
    row("POST",   "/v1/cluster/nodes/{node}:replace", "Cluster.ReplaceNode", once!(cluster.replace_node)),
    row("POST",   "/v1/cluster:transfer-leader", "Cluster.TransferLeader", once!(cluster.transfer_leader)),
    row("POST",   "/v1/cluster:raise-level", "Cluster.RaiseLevel", once!(cluster.raise_level)),
    row("GET",    "/v1/cluster:backup", "Cluster.Backup", Call::Backup),
    row("POST",   "/v1/cluster:resume-held", "Cluster.ResumeHeld", once!(cluster.resume_held)),
    row("GET",    "/v1/cluster/settings", "Cluster.GetSettings", once!(cluster.get_settings)),
    row("POST",   "/v1/cluster/settings", "Cluster.ChangeSettings", once!(cluster.change_settings)),
    row("GET",    "/v1/executors", "Cluster.ListExecutors", once!(cluster.list_executors)),
    row("DELETE", "/v1/executors/{executor}", "Cluster.RemoveExecutor", once!(cluster.remove_executor)),
    row("POST",   "/v1/executors/{executor}:drain", "Cluster.Drain", once!(cluster.drain)),
    row("POST",   "/v1/executors/{executor}:undrain", "Cluster.Undrain", once!(cluster.undrain)),
];

/// Reads a request message, the fields of which stood in the path, the query or the body.
pub(crate) fn read<M: DeserializeOwned>(asked: Value) -> Result<M, Status> {
    serde_json::from_value(asked).map_err(|error| ApiError::bad_field("request", error.to_string()).into())
}

/// Writes an answer.
pub(crate) fn written<M: Serialize>(answer: &M) -> Result<String, Status> {
    serde_json::to_string(answer).map_err(|error| fault_of("json", &error.to_string()).into())
}
