//! `Backfills`: the runs of a past range.

mod create;

use std::pin::Pin;

use futures::stream;
use matins_core::command::Command;
use matins_core::id::{BackfillId, LogIndex, Namespace};
use matins_core::state::{BackfillRow, RunOrigin, WorkKey};
use matins_core::{Refusal, State, Thing};
use matins_proto::v1::backfills_server::Backfills;
use matins_proto::v1::{
    Backfill, CancelBackfillRequest, CancelBackfillResponse, CreateBackfillRequest, CreateBackfillResponse,
    GetBackfillRequest, GetBackfillResponse, ListBackfillsRequest, ListBackfillsResponse,
    PauseBackfillRequest, PauseBackfillResponse, ResumeBackfillRequest, ResumeBackfillResponse,
    WatchBackfillRequest, WatchBackfillResponse, backfill,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::schedules::optional;
use crate::serve::api::{Api, drawn_id, named, page_size, workflow_name};
use crate::serve::error::{Answer, ApiError};
use crate::serve::page::{Query, cut};
use crate::serve::pulse::Pulse;
use crate::serve::view::backfill::backfill;

/// Answers `Backfills`.
pub(crate) struct BackfillsService(pub(crate) Api);

#[tonic::async_trait]
impl Backfills for BackfillsService {
    async fn create(&self, request: Request<CreateBackfillRequest>) -> Answer<CreateBackfillResponse> {
        Ok(Response::new(create::create(&self.0, request.into_inner()).await?))
    }

    async fn list(&self, request: Request<ListBackfillsRequest>) -> Answer<ListBackfillsResponse> {
        let request = request.into_inner();
        let asked = (&request.workflow, &request.namespace, &request.states);
        let query = Query::new("backfills", &asked);
        let size = page_size(request.page_size, 50)?;
        let before = query.last(&request.page_token)?.map(|last| named("page_token", last));
        let before = before.transpose()?.unwrap_or(BackfillId(u64::MAX));
        let workflow =
            (!request.workflow.is_empty()).then(|| workflow_name(&request.workflow)).transpose()?;
        let namespace = optional::<Namespace>("namespace", &request.namespace)?;
        let wanted: Vec<backfill::State> = request.states().collect();
        let read = self.0.read(request.stale).await?;
        let is_meant = |row: &BackfillRow| {
            let of = &row.schedule.workflow;
            workflow.as_ref().is_none_or(|workflow| of == workflow)
                && namespace.as_ref().is_none_or(|namespace| of.namespace == *namespace)
        };
        let rows = read.state.backfills.range(..before).rev().filter(|(_, row)| is_meant(row));
        let shown = rows.map(|(id, row)| backfill(*id, row));
        let shown = shown.filter(|shown| wanted.is_empty() || wanted.contains(&shown.state()));
        let (backfills, next_page_token) = cut(shown, size, |shown| query.token(&shown.id));
        Ok(Response::new(ListBackfillsResponse { read_at: Some(read.at), backfills, next_page_token }))
    }

    async fn get(&self, request: Request<GetBackfillRequest>) -> Answer<GetBackfillResponse> {
        let request = request.into_inner();
        let id = named("backfill", &request.backfill)?;
        let read = self.0.read(request.stale).await?;
        let backfill = find(&read.state, id)?;
        Ok(Response::new(GetBackfillResponse { read_at: Some(read.at), backfill: Some(backfill) }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBackfillResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchBackfillRequest>) -> Answer<Self::WatchStream> {
        let request = request.into_inner();
        let id = named("backfill", &request.backfill)?;
        let read = self.0.read(false).await?;
        find(&read.state, id)?;
        let told = self.0.heard(request.after_index).and_then(|state| find(&state, id).ok());
        let watch = Watch { pulse: Pulse::new(self.0.clone()), id, told, is_over: false };
        Ok(Response::new(Box::pin(stream::unfold(watch, |mut watch| async move {
            if watch.is_over {
                return None;
            }
            let message = watch.next().await;
            watch.is_over = message.as_ref().map_or(true, |message| message.ended);
            Some((message.map_err(Status::from), watch))
        }))))
    }

    async fn pause(&self, request: Request<PauseBackfillRequest>) -> Answer<PauseBackfillResponse> {
        let request = request.into_inner();
        let id = named("backfill", &request.backfill)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::PauseBackfill(id)).await?;
        Ok(Response::new(PauseBackfillResponse { committed: Some(committed) }))
    }

    async fn resume(&self, request: Request<ResumeBackfillRequest>) -> Answer<ResumeBackfillResponse> {
        let request = request.into_inner();
        let id = named("backfill", &request.backfill)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::ResumeBackfill(id)).await?;
        Ok(Response::new(ResumeBackfillResponse { committed: Some(committed) }))
    }

    async fn cancel(&self, request: Request<CancelBackfillRequest>) -> Answer<CancelBackfillResponse> {
        let request = request.into_inner();
        let id: BackfillId = named("backfill", &request.backfill)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::CancelBackfill(id)).await?;
        if request.now {
            self.kill_runs(id, committed.index).await?;
        }
        Ok(Response::new(CancelBackfillResponse { committed: Some(committed) }))
    }
}

impl BackfillsService {
    /// `now` of a cancel: KILL follows at once for each run that is still being ended.
    async fn kill_runs(&self, id: BackfillId, index: u64) -> Result<(), ApiError> {
        // Many runs are cancelled in slices (PROTOCOL 4.5), and only then can be ended faster.
        let mut states = self.0.cluster.states();
        let is_through = |state: &std::sync::Arc<State>| {
            let is_of =
                |work: &WorkKey| matches!(work, WorkKey::CancelBackfill { backfill, .. } if *backfill == id);
            state.index >= LogIndex(index) && !state.work.iter().any(|(work, ())| is_of(work))
        };
        let state = match tokio::time::timeout(KILL_WITHIN, states.wait_for(is_through)).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => self.0.state(),
        };
        let runs = state.runs.iter().filter(|(_, row)| row.origin == RunOrigin::Backfill(id));
        let active: Vec<_> = runs.filter(|(_, row)| row.is_active()).map(|(run, _)| *run).collect();
        for run in active {
            let ask = self.0.ask(drawn_id().as_str(), None)?;
            let how = matins_core::command::StopHow::Now;
            match self.0.command(&ask, Command::Cancel { run, how }).await {
                Ok(_) => {}
                // It ended meanwhile, which is what was asked for.
                Err(error) if error.reason() == matins_proto::v1::error::Reason::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How long `now` waits for runs to be cancelled in slices.
const KILL_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

fn find(state: &State, id: BackfillId) -> Result<Backfill, ApiError> {
    let row = state.backfills.get(&id);
    row.map(|row| backfill(id, row))
        .ok_or_else(|| ApiError::refused(&Refusal::NotFound(Thing::Backfill(id)), state))
}

struct Watch {
    pulse: Pulse,
    id: BackfillId,
    told: Option<Backfill>,
    is_over: bool,
}

impl Watch {
    async fn next(&mut self) -> Result<WatchBackfillResponse, ApiError> {
        let state = self.pulse.next().await?;
        let now = find(&state, self.id)?;
        let resync = self.told.is_none();
        let ended = now.finished_at.is_some();
        let backfill = Some(now.clone()).filter(|now| self.told.as_ref() != Some(now) || ended);
        self.told = Some(now);
        Ok(WatchBackfillResponse { index: state.index.0, resync, backfill, ended })
    }
}
