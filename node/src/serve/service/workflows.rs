//! `Workflows`: definitions and their versions.

mod apply;

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::{Bytes, BytesMut};
use matins_core::command::{Apply, ApplyWorkflow, Command};
use matins_core::id::{Digest, Namespace, VersionNumber, WorkflowName};
use matins_core::state::{DefinitionRow, VersionRow};
use matins_core::{Answer as Answered, Refusal, State};
use matins_proto::v1::error::Reason;
use matins_proto::v1::workflows_server::Workflows;
use matins_proto::v1::{
    ApplyWorkflowsRequest, ApplyWorkflowsResponse, DeleteWorkflowRequest, DeleteWorkflowResponse,
    DiffWorkflowRequest, DiffWorkflowResponse, GetWorkflowRequest, GetWorkflowResponse,
    ListWorkflowVersionsRequest, ListWorkflowVersionsResponse, ListWorkflowsRequest, ListWorkflowsResponse,
    PauseWorkflowRequest, PauseWorkflowResponse, ResumeWorkflowRequest, ResumeWorkflowResponse,
    RollbackWorkflowRequest, RollbackWorkflowResponse, UploadBlobRequest, UploadBlobResponse,
};
use similar::TextDiff;
use tonic::{Request, Response, Streaming};

use super::schedules::optional;
use crate::serve::api::{Api, committed, find_workflow, named, page_size, workflow_name};
use crate::serve::cluster::BlobMissing;
use crate::serve::error::{Answer, ApiError, fault_of};
use crate::serve::filter::Filter;
use crate::serve::page::{Query, cut, invalid};
use crate::serve::view::definition::{version, with_everything, workflow};

/// The most that one file may have.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 20;
/// The most that one piece of it may have.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Answers `Workflows`.
pub(crate) struct WorkflowsService(pub(crate) Api);

#[tonic::async_trait]
impl Workflows for WorkflowsService {
    async fn apply(&self, request: Request<ApplyWorkflowsRequest>) -> Answer<ApplyWorkflowsResponse> {
        Ok(Response::new(apply::apply(&self.0, request.into_inner()).await?))
    }

    async fn upload_blob(
        &self,
        request: Request<Streaming<UploadBlobRequest>>,
    ) -> Answer<UploadBlobResponse> {
        let mut chunks = request.into_inner();
        let mut bytes = BytesMut::new();
        let mut size = None;
        while let Some(chunk) = chunks.message().await? {
            let size = *size.get_or_insert(chunk.size);
            check_blob(size, bytes.len() as u64 + chunk.chunk.len() as u64, chunk.chunk.len())?;
            bytes.extend_from_slice(&chunk.chunk);
        }
        if size.unwrap_or(0) != bytes.len() as u64 {
            let what = format!("{} bytes came, and {} were announced", bytes.len(), size.unwrap_or(0));
            return Err(ApiError::bad_field("size", what).into());
        }
        Ok(Response::new(self.store(bytes.freeze()).await?))
    }

    async fn list(&self, request: Request<ListWorkflowsRequest>) -> Answer<ListWorkflowsResponse> {
        let request = request.into_inner();
        let query = Query::new("workflows", &(&request.namespace, &request.filter));
        let size = page_size(request.page_size, 100)?;
        let filter = Filter::of_workflows(&request.filter)?;
        let namespace = optional::<Namespace>("namespace", &request.namespace)?;
        let after = query.last(&request.page_token)?.map(|name| named::<WorkflowName>("page_token", name));
        let after = after.transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        let read = self.0.read(request.stale).await?;
        let state = &read.state;
        let rows = state.workflows.range((after, Bound::Unbounded));
        let own = rows.filter(|(name, _)| namespace.as_ref().is_none_or(|own| name.namespace == *own));
        let shown = own.filter_map(|(name, row)| workflow(name, row.current?, state));
        let shown = shown.filter(|workflow| filter.takes_workflow(workflow));
        let (workflows, next_page_token) = cut(shown, size, |workflow| query.token(&workflow.name));
        Ok(Response::new(ListWorkflowsResponse { read_at: Some(read.at), workflows, next_page_token }))
    }

    async fn get(&self, request: Request<GetWorkflowRequest>) -> Answer<GetWorkflowResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let read = self.0.read(request.stale).await?;
        let (number, row, definition) = find_version(&read.state, &name, request.version)?;
        let source = self.source(row).await?;
        let shown = workflow(&name, number, &read.state);
        let workflow = shown.map(|shown| with_everything(shown, &definition.workflow, source));
        Ok(Response::new(GetWorkflowResponse { read_at: Some(read.at), workflow }))
    }

    async fn list_versions(
        &self,
        request: Request<ListWorkflowVersionsRequest>,
    ) -> Answer<ListWorkflowVersionsResponse> {
        let request = request.into_inner();
        let query = Query::new("versions", &request.workflow);
        let size = page_size(request.page_size, 100)?;
        let name = workflow_name(&request.workflow)?;
        let before = query.last(&request.page_token)?.map(|last| last.parse().map_err(|_| invalid()));
        let before: VersionNumber = before.transpose()?.unwrap_or(VersionNumber::MAX);
        let read = self.0.read(request.stale).await?;
        let (row, _) = find_workflow(&read.state, &name)?;
        let rows = read.state.versions.range((name.clone(), 0)..(name.clone(), before)).rev();
        let versions = rows.map(|((_, number), version_row)| {
            version(*number, version_row, row.current == Some(*number), &read.state)
        });
        let (versions, next_page_token) = cut(versions, size, |one| query.token(&one.version.to_string()));
        Ok(Response::new(ListWorkflowVersionsResponse { read_at: Some(read.at), versions, next_page_token }))
    }

    async fn diff(&self, request: Request<DiffWorkflowRequest>) -> Answer<DiffWorkflowResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let read = self.0.read(request.stale).await?;
        let (to, new_row, new) = find_version(&read.state, &name, request.to)?;
        let before = request.from.unwrap_or_else(|| to.saturating_sub(1));
        let (from, old_row, old) = find_version(&read.state, &name, Some(before))?;
        let (old_text, new_text) = (self.source(old_row).await?, self.source(new_row).await?);
        let unified = TextDiff::from_lines(&old_text, &new_text)
            .unified_diff()
            .context_radius(3)
            .header(&format!("{name} version {from}"), &format!("{name} version {to}"))
            .to_string();
        let files = files_that_differ(old, new);
        Ok(Response::new(DiffWorkflowResponse { read_at: Some(read.at), from, to, unified, files }))
    }

    async fn delete(&self, request: Request<DeleteWorkflowRequest>) -> Answer<DeleteWorkflowResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::DeleteWorkflow(name)).await?;
        Ok(Response::new(DeleteWorkflowResponse { committed: Some(committed) }))
    }

    async fn rollback(&self, request: Request<RollbackWorkflowRequest>) -> Answer<RollbackWorkflowResponse> {
        Ok(Response::new(self.roll_back(request.into_inner()).await?))
    }

    async fn pause(&self, request: Request<PauseWorkflowRequest>) -> Answer<PauseWorkflowResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::PauseWorkflow(name)).await?;
        Ok(Response::new(PauseWorkflowResponse { committed: Some(committed) }))
    }

    async fn resume(&self, request: Request<ResumeWorkflowRequest>) -> Answer<ResumeWorkflowResponse> {
        let request = request.into_inner();
        let name = workflow_name(&request.workflow)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::ResumeWorkflow(name)).await?;
        Ok(Response::new(ResumeWorkflowResponse { committed: Some(committed) }))
    }
}

impl WorkflowsService {
    /// The text of a version; empty if it was made without one.
    async fn source(&self, row: &VersionRow) -> Result<String, ApiError> {
        let Some(digest) = row.source else { return Ok(String::new()) };
        match self.0.cluster.blob(digest).await {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error @ BlobMissing::Lost(_)) => {
                Err(ApiError::new(Reason::BlobNotFound, error.to_string()).with("digest", digest.to_string()))
            }
            Err(error @ BlobMissing::Fault(..)) => Err(fault_of("blob", &error.to_string())),
        }
    }

    async fn roll_back(
        &self,
        request: RollbackWorkflowRequest,
    ) -> Result<RollbackWorkflowResponse, ApiError> {
        let name = workflow_name(&request.workflow)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let read = self.0.read(false).await?;
        let (row, _) = find_workflow(&read.state, &name)?;
        // Each version was current once, so the one current before the present one has the number before it.
        let target = request.version.unwrap_or_else(|| row.current.unwrap_or(0).saturating_sub(1));
        let (_, version, _) = find_version(&read.state, &name, Some(target))?;
        let (mut answered, mut answer) =
            self.0.propose(&ask, to_definition(&name, version.definition)).await?;
        if answer == Err(Refusal::RequestReused) && request.version.is_none() {
            // A repeat finds the first one done, and would take the one before as another version.
            let first = self.0.remembered(&ask, answered.index).await;
            let made = first.and_then(|answer| version_made(&answer, &name));
            let state = self.0.state();
            if let Some(row) = made.and_then(|number| state.versions.get(&(name.clone(), number))) {
                (answered, answer) = self.0.propose(&ask, to_definition(&name, row.definition)).await?;
            }
        }
        let answer = answer.map_err(|refusal| ApiError::refused(&refusal, &self.0.state()))?;
        let Answered::Applied(applied) = answer else {
            return Err(fault_of("answer to a rollback", &format!("{answer:?}")));
        };
        let (_, old, new) = applied.workflows.first().cloned().unwrap_or((name, None, 0));
        Ok(RollbackWorkflowResponse {
            committed: Some(committed(&ask, &answered)),
            old_version: old.unwrap_or(0),
            version: new,
        })
    }
}

fn to_definition(name: &WorkflowName, definition: Digest) -> Command {
    let workflow = ApplyWorkflow { name: name.clone(), definition, start: None };
    Command::Apply(Apply { workflows: vec![workflow], ..Apply::default() })
}

fn version_made(answer: &Answered, name: &WorkflowName) -> Option<VersionNumber> {
    let Answered::Applied(applied) = answer else { return None };
    applied.workflows.iter().find(|(made, _, _)| made == name).map(|(_, _, number)| *number)
}

/// A version of a registered workflow; the current one unless another is named.
fn find_version<'s>(
    state: &'s State,
    name: &WorkflowName,
    number: Option<VersionNumber>,
) -> Result<(VersionNumber, &'s VersionRow, &'s DefinitionRow), ApiError> {
    let (row, _) = find_workflow(state, name)?;
    let number = number.or(row.current).unwrap_or(0);
    let version = state.versions.get(&(name.clone(), number));
    let found = version.and_then(|row| Some((number, row, state.definitions.get(&row.definition)?)));
    found.ok_or_else(|| {
        ApiError::not_found(Reason::VersionNotFound, "version", &number.to_string())
            .with("workflow", name.to_string())
            .hint("`matins workflow versions` lists them")
    })
}

impl WorkflowsService {
    /// Stores a file that has come whole.
    pub(crate) async fn store(&self, bytes: Bytes) -> Result<UploadBlobResponse, ApiError> {
        let size = bytes.len() as u64;
        let digest = self.0.cluster.put_blob(bytes).await?;
        Ok(UploadBlobResponse { digest: digest.to_string(), size })
    }
}

fn files_that_differ(old: &DefinitionRow, new: &DefinitionRow) -> Vec<String> {
    let files = |row: &DefinitionRow| -> BTreeMap<String, (Digest, bool)> {
        let files = row.workflow.files.iter();
        files.map(|file| (file.path.clone(), (file.digest, file.is_executable))).collect()
    };
    let (old, new) = (files(old), files(new));
    let mut paths: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    paths.sort();
    paths.dedup();
    paths.retain(|path| old.get(path) != new.get(path));
    paths
}

fn check_blob(size: u64, so_far: u64, chunk: usize) -> Result<(), ApiError> {
    if size.max(so_far) > BLOB_BYTES_MAX {
        return Err(ApiError::limit("bytes of a file", BLOB_BYTES_MAX, size.max(so_far)));
    }
    if chunk > CHUNK_BYTES_MAX {
        return Err(ApiError::limit("bytes of one piece of a file", CHUNK_BYTES_MAX as u64, chunk as u64));
    }
    Ok(())
}
