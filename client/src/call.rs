//! The table of unary methods: which request goes where, what it is answered, and what may be repeated.
//!
//! A test holds it against the descriptor set, so that no method is missing or misspelt.

use std::time::Duration;

use matins_proto::Timestamp;
use matins_proto::v1::{
    self, ClusterStatusRequest, ClusterStatusResponse, InitClusterRequest, InitClusterResponse,
    WaitRunsRequest,
};

/// A request message, which says by its type which method it is for.
pub trait Call: prost::Message + Clone + Default + Send + Sync + 'static {
    /// What it is answered.
    type Answer: prost::Message + Default + Send + Sync + 'static;

    /// `/matins.v1.SERVICE/METHOD`.
    const PATH: &'static str;

    /// Which nodes may be asked.
    const ROUTE: Route = Route::Any;

    /// The fields that make a command safe to repeat; `None` for what changes nothing.
    fn command(&mut self) -> Option<Command<'_>> {
        None
    }

    /// Leader time, where the answer tells it.
    fn leader_time(_answer: &Self::Answer) -> Option<Timestamp> {
        None
    }

    /// How much longer than others an answer to this request may take.
    fn patience(&self) -> Duration {
        Duration::ZERO
    }
}

/// Which nodes may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// One after the other, until one answers.
    Any,
    /// Only the first endpoint that was configured: another one would do another thing.
    First,
}

/// The fields that make a command safe to repeat (PROTOCOL 4.6).
#[derive(Debug)]
pub struct Command<'a> {
    /// Empty until it is drawn.
    pub request_id: &'a mut String,
    /// `None` inside for a command that has no such field, and until it is set.
    pub not_after: Option<&'a mut Option<Timestamp>>,
}

/// Says what a kind of call has in common: a `command` changes something, a `read` names its index, a `plain` neither.
macro_rules! call {
    ($(command $service:ident.$method:ident $ask:ident -> $answer:ident $(, patience $patience:expr)?;)*) => {$(
        impl Call for v1::$ask {
            type Answer = v1::$answer;
            const PATH: &'static str = method_path!($service.$method);

            fn command(&mut self) -> Option<Command<'_>> {
                Some(Command { request_id: &mut self.request_id, not_after: Some(&mut self.not_after) })
            }

            fn leader_time(answer: &v1::$answer) -> Option<Timestamp> {
                answer.committed.as_ref()?.leader_time
            }

            $(fn patience(&self) -> Duration {
                $patience(self)
            })?
        }
    )*};
    ($(read $service:ident.$method:ident $ask:ident -> $answer:ident $(, patience $patience:expr)?;)*) => {$(
        impl Call for v1::$ask {
            type Answer = v1::$answer;
            const PATH: &'static str = method_path!($service.$method);

            fn leader_time(answer: &v1::$answer) -> Option<Timestamp> {
                answer.read_at.as_ref()?.leader_time
            }

            $(fn patience(&self) -> Duration {
                $patience(self)
            })?
        }
    )*};
}

/// `method_path!(Runs.Start)` is `"/matins.v1.Runs/Start"`.
macro_rules! method_path {
    ($service:ident.$method:ident) => {
        concat!("/matins.v1.", stringify!($service), "/", stringify!($method))
    };
}
pub(crate) use method_path;

call! {
    command Workflows.Apply ApplyWorkflowsRequest -> ApplyWorkflowsResponse, patience |_| SLOW;
    command Workflows.Delete DeleteWorkflowRequest -> DeleteWorkflowResponse;
    command Workflows.Rollback RollbackWorkflowRequest -> RollbackWorkflowResponse;
    command Workflows.Pause PauseWorkflowRequest -> PauseWorkflowResponse;
    command Workflows.Resume ResumeWorkflowRequest -> ResumeWorkflowResponse;
    command Runs.Start StartRunRequest -> StartRunResponse;
    command Runs.Submit SubmitRunRequest -> SubmitRunResponse, patience |_| SLOW;
    command Runs.Cancel CancelRunRequest -> CancelRunResponse;
    command Runs.Retry RetryRunRequest -> RetryRunResponse;
    command Runs.RetryTask RetryTaskRequest -> RetryTaskResponse;
    command Runs.AbandonAttempt AbandonAttemptRequest -> AbandonAttemptResponse;
    command Schedules.Pause PauseScheduleRequest -> PauseScheduleResponse;
    command Schedules.Resume ResumeScheduleRequest -> ResumeScheduleResponse;
    command Backfills.Create CreateBackfillRequest -> CreateBackfillResponse, patience |_| SLOW;
    command Backfills.Pause PauseBackfillRequest -> PauseBackfillResponse;
    command Backfills.Resume ResumeBackfillRequest -> ResumeBackfillResponse;
    command Backfills.Cancel CancelBackfillRequest -> CancelBackfillResponse;
    command Pools.Set SetPoolRequest -> SetPoolResponse;
    command Pools.Delete DeletePoolRequest -> DeletePoolResponse;
    command Cluster.AddNode AddNodeRequest -> AddNodeResponse, patience |_| SLOW;
    command Cluster.RemoveNode RemoveNodeRequest -> RemoveNodeResponse, patience |_| SLOW;
    command Cluster.ReplaceNode ReplaceNodeRequest -> ReplaceNodeResponse, patience |_| SLOW;
    command Cluster.TransferLeader TransferLeaderRequest -> TransferLeaderResponse;
    command Cluster.AcceptTime AcceptTimeRequest -> AcceptTimeResponse;
    command Cluster.Drain DrainExecutorRequest -> DrainExecutorResponse;
    command Cluster.Undrain UndrainExecutorRequest -> UndrainExecutorResponse;
    command Cluster.RemoveExecutor RemoveExecutorRequest -> RemoveExecutorResponse;
    command Cluster.ResumeHeld ResumeHeldRequest -> ResumeHeldResponse, patience |_| SLOW;
    command Cluster.ChangeSettings ChangeSettingsRequest -> ChangeSettingsResponse;
    command Cluster.RaiseLevel RaiseLevelRequest -> RaiseLevelResponse;
}

call! {
    read Workflows.List ListWorkflowsRequest -> ListWorkflowsResponse;
    read Workflows.Get GetWorkflowRequest -> GetWorkflowResponse;
    read Workflows.ListVersions ListWorkflowVersionsRequest -> ListWorkflowVersionsResponse;
    read Workflows.Diff DiffWorkflowRequest -> DiffWorkflowResponse;
    read Runs.Get GetRunRequest -> GetRunResponse;
    read Runs.Why WhyRequest -> WhyResponse;
    read Runs.List ListRunsRequest -> ListRunsResponse;
    read Runs.ListEvents ListRunEventsRequest -> ListRunEventsResponse;
    read Runs.ListItems ListItemsRequest -> ListItemsResponse;
    read Runs.Wait WaitRunsRequest -> WaitRunsResponse, patience wait_patience;
    read Schedules.List ListSchedulesRequest -> ListSchedulesResponse;
    read Schedules.ListDecisions ListDecisionsRequest -> ListDecisionsResponse;
    read Schedules.Next NextTicksRequest -> NextTicksResponse;
    read Backfills.List ListBackfillsRequest -> ListBackfillsResponse;
    read Backfills.Get GetBackfillRequest -> GetBackfillResponse;
    read Pools.List ListPoolsRequest -> ListPoolsResponse;
    read Cluster.ListExecutors ListExecutorsRequest -> ListExecutorsResponse;
    read Cluster.GetSettings GetSettingsRequest -> GetSettingsResponse;
}

impl Call for InitClusterRequest {
    type Answer = InitClusterResponse;
    const PATH: &'static str = method_path!(Cluster.Init);
    // Told to two nodes, it would make two clusters.
    const ROUTE: Route = Route::First;

    fn command(&mut self) -> Option<Command<'_>> {
        Some(Command { request_id: &mut self.request_id, not_after: None })
    }
}

impl Call for ClusterStatusRequest {
    type Answer = ClusterStatusResponse;
    const PATH: &'static str = method_path!(Cluster.Status);

    fn leader_time(answer: &ClusterStatusResponse) -> Option<Timestamp> {
        answer.leader_time
    }
}

/// For calls in which the node has to do more than one step: check and store files, let a new node catch up.
const SLOW: Duration = Duration::from_secs(60);

/// A wait is answered when it is over, after 30 s at the latest (`WaitRunsRequest.timeout`).
fn wait_patience(ask: &WaitRunsRequest) -> Duration {
    const LONGEST: Duration = Duration::from_secs(30);
    let asked = ask.timeout.and_then(|span| u64::try_from(span.as_millis()).ok());
    asked.map_or(LONGEST, |millis| Duration::from_millis(millis).min(LONGEST))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use matins_proto::v1::*;

    use super::*;

    /// Notes each request of the table: its method, message, answer, and whether it is a command.
    macro_rules! rows {
        ($($ask:ty),* $(,)?) => {
            BTreeSet::from([$({
                let message = std::any::type_name::<$ask>().rsplit("::").next().unwrap().to_owned();
                let answer = std::any::type_name::<<$ask as Call>::Answer>().rsplit("::").next().unwrap().to_owned();
                (<$ask>::PATH.to_owned(), message, answer, <$ask>::default().command().is_some())
            }),*])
        };
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one line a method")]
    fn the_table_has_every_unary_method() {
        let ours = rows![
            ApplyWorkflowsRequest,
            DeleteWorkflowRequest,
            RollbackWorkflowRequest,
            PauseWorkflowRequest,
            ResumeWorkflowRequest,
            ListWorkflowsRequest,
            GetWorkflowRequest,
            ListWorkflowVersionsRequest,
            DiffWorkflowRequest,
            StartRunRequest,
            SubmitRunRequest,
            CancelRunRequest,
            RetryRunRequest,
            RetryTaskRequest,
            AbandonAttemptRequest,
            GetRunRequest,
            WhyRequest,
            ListRunsRequest,
            ListItemsRequest,
            ListRunEventsRequest,
            ListDecisionsRequest,
            WaitRunsRequest,
            PauseScheduleRequest,
            ResumeScheduleRequest,
            ListSchedulesRequest,
            NextTicksRequest,
            CreateBackfillRequest,
            PauseBackfillRequest,
            ResumeBackfillRequest,
            CancelBackfillRequest,
            ListBackfillsRequest,
            GetBackfillRequest,
            SetPoolRequest,
            DeletePoolRequest,
            ListPoolsRequest,
            InitClusterRequest,
            AddNodeRequest,
            RemoveNodeRequest,
            ReplaceNodeRequest,
            TransferLeaderRequest,
            AcceptTimeRequest,
            DrainExecutorRequest,
            UndrainExecutorRequest,
            RemoveExecutorRequest,
            RaiseLevelRequest,
            ClusterStatusRequest,
            ListExecutorsRequest,
            ResumeHeldRequest,
            GetSettingsRequest,
            ChangeSettingsRequest,
        ];
        let files = FileDescriptorSet::decode(matins_proto::FILE_DESCRIPTOR_SET).unwrap();
        let is_command = |name: &str| {
            let message = files.file.iter().flat_map(|file| &file.message_type).find(|it| it.name() == name);
            message.unwrap().field.iter().any(|field| field.name() == "request_id")
        };
        let mut theirs = BTreeSet::new();
        for service in files.file.iter().flat_map(|file| &file.service) {
            for method in &service.method {
                if method.client_streaming() || method.server_streaming() {
                    continue;
                }
                let ask = method.input_type().trim_start_matches(".matins.v1.").to_owned();
                let answer = method.output_type().trim_start_matches(".matins.v1.").to_owned();
                let path = format!("/matins.v1.{}/{}", service.name(), method.name());
                let command = is_command(&ask);
                theirs.insert((path, ask, answer, command));
            }
        }
        assert_eq!(ours, theirs);
    }

    #[test]
    fn a_wait_is_given_the_time_it_asks_for() {
        let wait = |millis| WaitRunsRequest {
            timeout: Some(matins_proto::Duration::from_millis(millis)),
            ..WaitRunsRequest::default()
        };
        assert_eq!(wait(1_500).patience(), Duration::from_millis(1_500));
        assert_eq!(wait(3_600_000).patience(), Duration::from_secs(30));
        assert_eq!(WaitRunsRequest::default().patience(), Duration::from_secs(30));
    }
}
