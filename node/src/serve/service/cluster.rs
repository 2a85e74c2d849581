//! `Cluster`: how the cluster is, its nodes and executors.

use matins_core::command::Command;
use matins_core::id::RequestId;
use matins_core::state::{AttemptState, CheckpointRow, TaskState};
use matins_core::time::Millis;
use matins_core::{Refusal, State};
use matins_proto::v1::cluster_server::Cluster;
use matins_proto::v1::error::Reason;
use matins_proto::v1::{
    AcceptTimeRequest, AcceptTimeResponse, AddNodeRequest, AddNodeResponse, Alarm, BackupRequest, Budget,
    ChangeSettingsRequest, ChangeSettingsResponse, Checkpoint, ClusterStatusRequest, ClusterStatusResponse,
    Committed, DiskUse, DrainExecutorRequest, DrainExecutorResponse, GetSettingsRequest, GetSettingsResponse,
    InitClusterRequest, InitClusterResponse, ListExecutorsRequest, ListExecutorsResponse, NodeStatus, Origin,
    RaiseLevelRequest, RaiseLevelResponse, RemoveExecutorRequest, RemoveExecutorResponse, RemoveNodeRequest,
    RemoveNodeResponse, ReplaceNodeRequest, ReplaceNodeResponse, ResumeHeldRequest, ResumeHeldResponse,
    TransferLeaderRequest, TransferLeaderResponse, UndrainExecutorRequest, UndrainExecutorResponse,
    node_status,
};
use tokio::sync::Mutex;
use tonic::{Request, Response};

use crate::serve::api::{Api, Ask, core_time, find_executor, wire_time};
use crate::serve::cluster::{ClusterView, MemberView, MembersAsk, SupportedLevel};
use crate::serve::error::{Answer, ApiError};
use crate::serve::view::executor::executor;

mod backup;
mod held;
pub(super) mod settings;

/// At most so many alarms are told.
const ALARMS_MAX: usize = 100;
/// A reading that is told and one that waits may be so far apart and still be meant as one.
const READING_SLACK: Millis = Millis::from_mins(1);

/// Answers `Cluster`.
pub(crate) struct ClusterService {
    api: Api,
    /// The request that made the cluster, while this process lives: a repeat is answered again.
    made_by: Mutex<Option<(RequestId, u64)>>,
}

impl ClusterService {
    pub(crate) fn new(api: Api) -> Self {
        Self { api, made_by: Mutex::new(None) }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, request: Request<InitClusterRequest>) -> Answer<InitClusterResponse> {
        let ask = self.api.ask(&request.into_inner().request_id, None)?;
        // One at a time: a repeat that overtakes the first call waits for it.
        let mut made_by = self.made_by.lock().await;
        let made = made_by.as_ref().filter(|(id, _)| *id == ask.id).map(|(_, cluster)| *cluster);
        let cluster = match made {
            Some(cluster) => cluster,
            None => self.api.cluster.init().await.map_err(ApiError::from)?,
        };
        *made_by = Some((ask.id, cluster));
        let node = self.api.cluster.status().node.to_string();
        Ok(Response::new(InitClusterResponse { cluster_id: cluster_id(cluster), node }))
    }

    async fn add_node(&self, request: Request<AddNodeRequest>) -> Answer<AddNodeResponse> {
        let AddNodeRequest { request_id, not_after, address } = request.into_inner();
        let ask = self.api.ask(&request_id, not_after)?;
        let change = change(&ask, Some(filled("address", address)?), None, Vec::new());
        let (node, voters, committed) = self.changed(&ask, change).await?;
        Ok(Response::new(AddNodeResponse { committed: Some(committed), node, voters }))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Answer<RemoveNodeResponse> {
        let RemoveNodeRequest { request_id, not_after, node, force } = request.into_inner();
        let ask = self.api.ask(&request_id, not_after)?;
        let change = change(&ask, None, Some(filled("node", node)?), force);
        let (node, voters, committed) = self.changed(&ask, change).await?;
        Ok(Response::new(RemoveNodeResponse { committed: Some(committed), node, voters }))
    }

    async fn replace_node(&self, request: Request<ReplaceNodeRequest>) -> Answer<ReplaceNodeResponse> {
        let ReplaceNodeRequest { request_id, not_after, node, address, force } = request.into_inner();
        let ask = self.api.ask(&request_id, not_after)?;
        let (node, address) = (filled("node", node)?, filled("address", address)?);
        let change = change(&ask, Some(address), Some(node), force);
        let (node, voters, committed) = self.changed(&ask, change).await?;
        Ok(Response::new(ReplaceNodeResponse { committed: Some(committed), node, voters }))
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Answer<TransferLeaderResponse> {
        let TransferLeaderRequest { request_id, not_after, node } = request.into_inner();
        let ask = self.api.ask(&request_id, not_after)?;
        let to = Some(node.as_str()).filter(|node| !node.is_empty());
        let leader = self.api.cluster.hand_over(to).await.map_err(ApiError::from)?;
        // It leads when it answers: its `LeaderReady` is applied.
        self.api.read(false).await?;
        let committed = Some(self.committed(&ask));
        Ok(Response::new(TransferLeaderResponse { committed, leader: leader.to_string() }))
    }

    async fn status(&self, _: Request<ClusterStatusRequest>) -> Answer<ClusterStatusResponse> {
        self.api.cluster.look_around().await;
        let view = self.api.cluster.status();
        let state = self.api.state();
        Ok(Response::new(status(&self.api, &view, &state)))
    }

    async fn accept_time(&self, request: Request<AcceptTimeRequest>) -> Answer<AcceptTimeResponse> {
        let request = request.into_inner();
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let waiting = self.api.cluster.status().time_waiting;
        let waiting = waiting.ok_or_else(|| {
            ApiError::new(Reason::NoTimeWaiting, "no reading of the clocks waits to be accepted")
        })?;
        let told = request.reading.map(core_time);
        let told = told.ok_or_else(|| ApiError::bad_field("reading", "it is missing"))?;
        let apart = told.since(waiting).max(waiting.since(told));
        if apart > READING_SLACK {
            return Err(ApiError::new(Reason::Stale, "another reading of the clocks waits by now")
                .with("subject", "time")
                .hint("look at `matins cluster status` again")
                .into());
        }
        let (_, committed) = self.api.command(&ask, Command::AcceptTime { up_to: waiting.max(told) }).await?;
        Ok(Response::new(AcceptTimeResponse { committed: Some(committed) }))
    }

    async fn list_executors(&self, request: Request<ListExecutorsRequest>) -> Answer<ListExecutorsResponse> {
        let read = self.api.read(request.into_inner().stale).await?;
        let rows = read.state.executors.iter();
        let executors = rows.map(|(id, row)| executor(*id, row, &read.state)).collect();
        Ok(Response::new(ListExecutorsResponse { read_at: Some(read.at), executors }))
    }

    async fn drain(&self, request: Request<DrainExecutorRequest>) -> Answer<DrainExecutorResponse> {
        let request = request.into_inner();
        let read = self.api.read(false).await?;
        let id = find_executor(&read.state, &request.executor)?;
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.api.command(&ask, Command::Drain(id)).await?;
        let state = self.api.state_at(committed.index).await;
        let running = state.executors.get(&id).map_or(0, |row| row.used);
        Ok(Response::new(DrainExecutorResponse { committed: Some(committed), running }))
    }

    type BackupStream = backup::Frames;

    async fn backup(&self, _: Request<BackupRequest>) -> Answer<Self::BackupStream> {
        Ok(Response::new(backup::backup(self.api.clone()).await?))
    }

    async fn resume_held(&self, request: Request<ResumeHeldRequest>) -> Answer<ResumeHeldResponse> {
        Ok(Response::new(held::resume(&self.api, request.into_inner()).await?))
    }

    async fn get_settings(&self, request: Request<GetSettingsRequest>) -> Answer<GetSettingsResponse> {
        let read = self.api.read(request.into_inner().stale).await?;
        let settings = settings::all(&read.state.cluster.settings);
        Ok(Response::new(GetSettingsResponse { read_at: Some(read.at), settings }))
    }

    async fn change_settings(
        &self,
        request: Request<ChangeSettingsRequest>,
    ) -> Answer<ChangeSettingsResponse> {
        let request = request.into_inner();
        let mut changes = Vec::new();
        for (key, value) in &request.settings {
            changes.push(settings::change(key, value)?);
        }
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.api.command(&ask, Command::ChangeSettings(changes)).await?;
        Ok(Response::new(ChangeSettingsResponse { committed: Some(committed) }))
    }

    async fn undrain(&self, request: Request<UndrainExecutorRequest>) -> Answer<UndrainExecutorResponse> {
        let request = request.into_inner();
        let read = self.api.read(false).await?;
        let id = find_executor(&read.state, &request.executor)?;
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.api.command(&ask, Command::Undrain(id)).await?;
        Ok(Response::new(UndrainExecutorResponse { committed: Some(committed) }))
    }

    async fn remove_executor(
        &self,
        request: Request<RemoveExecutorRequest>,
    ) -> Answer<RemoveExecutorResponse> {
        let request = request.into_inner();
        let read = self.api.read(false).await?;
        let id = find_executor(&read.state, &request.executor)?;
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.api.command(&ask, Command::Dismiss(id)).await?;
        let state = self.api.state_at(committed.index).await;
        let running = state.executors.get(&id).map_or(0, |row| row.used);
        Ok(Response::new(RemoveExecutorResponse { committed: Some(committed), running }))
    }

    async fn raise_level(&self, request: Request<RaiseLevelRequest>) -> Answer<RaiseLevelResponse> {
        let request = request.into_inner();
        let ask = self.api.ask(&request.request_id, request.not_after)?;
        let level = u16::try_from(request.level)
            .map_err(|_| ApiError::bad_field("level", "there is no such level"))?;
        let supported = self.api.cluster.supported_level((level > 0).then_some(level)).await;
        let SupportedLevel { level, members } = supported.map_err(ApiError::from)?;
        let (_, committed) = self.api.command(&ask, Command::RaiseLevel { level, members }).await?;
        Ok(Response::new(RaiseLevelResponse { committed: Some(committed), level: level.into() }))
    }
}

impl ClusterService {
    /// Has the membership changed: the node that came or went, how many vote now, and the commit.
    async fn changed(&self, ask: &Ask, change: MembersAsk) -> Result<(String, u32, Committed), ApiError> {
        let address = change.add.clone();
        let changed = self.api.cluster.change_members(change).await.map_err(|error| {
            let error = ApiError::from(error);
            match address {
                Some(address) => error.with("address", address),
                None => error,
            }
        })?;
        Ok((changed.node.to_string(), changed.voters, self.committed(ask)))
    }

    /// A change of who leads and who votes has no command of ours: what is told is where this node stands after it.
    fn committed(&self, ask: &Ask) -> Committed {
        let state = self.api.state();
        Committed {
            index: state.index.0,
            leader_time: Some(wire_time(state.now)),
            not_after: Some(wire_time(ask.not_after)),
        }
    }
}

fn change(ask: &Ask, add: Option<String>, remove: Option<String>, force: Vec<String>) -> MembersAsk {
    MembersAsk { request: ask.id.clone(), add, remove, force }
}

fn filled(field: &'static str, text: String) -> Result<String, ApiError> {
    if text.is_empty() { Err(ApiError::bad_field(field, "it is empty")) } else { Ok(text) }
}

fn cluster_id(id: u64) -> String {
    format!("{id:016x}")
}

/// Runs in history.
fn retired_runs(state: &State) -> u64 {
    let all: u64 = state.retired_runs.iter().map(|(_, count)| count).sum();
    all.saturating_sub(state.cluster.counters.forgotten_runs)
}

fn status(api: &Api, view: &ClusterView, state: &State) -> ClusterStatusResponse {
    let cluster = &state.cluster;
    let live_runs = state.runs.iter().filter(|(_, row)| row.is_active()).count();
    let retired_runs = retired_runs(state);
    let has_time = state.now != matins_core::time::Timestamp::ZERO;
    let ready = cluster.leader.as_ref().is_some_and(|leader| Some(leader.node) == view.leader);
    ClusterStatusResponse {
        node: view.node.to_string(),
        version: view.version.clone(),
        cluster_id: cluster.id.map(cluster_id),
        leader: view.leader.map(|node| node.to_string()),
        ready,
        term: view.term,
        applied_index: state.index.0,
        committed_index: view.committed.max(state.index.0),
        level: u32::from(cluster.level),
        leader_time: has_time.then(|| wire_time(api.leader_time())),
        nodes: view.members.iter().map(|member| node_status(member, view)).collect(),
        alarms: alarms(view, state),
        time_waiting: view.time_waiting.map(wire_time),
        state_budget: Some(Budget { used: state.bytes(), limit: cluster.settings.state_bytes_max }),
        live_runs: live_runs as u32,
        retired_runs,
        finished_runs: retired_runs + (state.runs.len() - live_runs) as u64,
        leaderships: cluster.counters.leaderships,
        leading_since: cluster.leader.as_ref().filter(|_| ready).map(|leader| wire_time(leader.since)),
        checkpoint: cluster.checkpoint.as_ref().map(checkpoint),
        origin: cluster.refounded.as_ref().map(|origin| Origin {
            cluster_id: cluster_id(origin.from),
            index: origin.index.0,
            at: Some(wire_time(origin.at)),
            held: held::held(state).len() as u32,
        }),
    }
}

fn checkpoint(row: &CheckpointRow) -> Checkpoint {
    let nodes = |agree: bool| {
        let found = row
            .reports
            .iter()
            .filter(move |(_, hash)| row.agreed.is_some() && (row.agreed == Some(*hash)) == agree);
        found.map(|(node, _)| node.to_string()).collect()
    };
    Checkpoint {
        index: row.index,
        at: Some(wire_time(row.at)),
        agreed: row.agreed.map(|hash| hash.to_string()).unwrap_or_default(),
        nodes: nodes(true),
        differing: nodes(false),
    }
}

fn node_status(member: &MemberView, view: &ClusterView) -> NodeStatus {
    let role = if member.is_voter { node_status::Role::Voter } else { node_status::Role::Learner };
    NodeStatus {
        id: member.node.to_string(),
        name: member.name.clone(),
        address: member.address.clone(),
        cluster_address: member.cluster_address.clone(),
        role: role.into(),
        leader: view.leader == Some(member.node),
        reachable: member.is_reachable || member.node == view.node,
        lag: member.lag,
        clock_offset: member.clock_ahead_millis.map(matins_proto::Duration::from_millis),
        version: member.version.clone(),
        disk: member.disk.as_ref().map(|disk| DiskUse {
            path: disk.path.clone(),
            used_permille: disk.used_permille.into(),
            warn_permille: disk.limits.warn_permille.into(),
            full_permille: disk.limits.full_permille.into(),
        }),
        level_max: member.level_max.map(u32::from),
    }
}

/// What a person should look at: what this node sees, then what the state says.
fn alarms(view: &ClusterView, state: &State) -> Vec<Alarm> {
    let seen = view.alarms.iter().map(|alarm| Alarm {
        code: alarm.code.to_owned(),
        text: alarm.text.clone(),
        subject: alarm.subject.clone(),
        since: Some(wire_time(alarm.since)),
    });
    let quarantined = state.schedules.iter().filter_map(|(id, row)| {
        let why = row.quarantine.as_ref()?;
        Some(Alarm {
            code: "schedule_quarantined".to_owned(),
            text: format!("schedule `{id}` makes no ticks until it is changed and applied: {why}"),
            subject: id.to_string(),
            since: Some(wire_time(row.mark)),
        })
    });
    let used = state.bytes();
    let limit = state.cluster.settings.state_bytes_max;
    let budget = (used > limit / 100 * 80).then(|| Alarm {
        code: "budget".to_owned(),
        text: format!(
            "the state holds {} of {} MiB, and above 80 % no new runs are made: wait for runs to finish, or look at those \
             that do not: `matins run list --state running,queued`",
            used >> 20,
            limit >> 20
        ),
        subject: "state".to_owned(),
        since: Some(wire_time(state.now)),
    });
    let all =
        seen.chain(full_disk(state)).chain(disks(view)).chain(differing(state)).chain(unkillable(state));
    let all = all.chain(quarantined).chain(past_failed(state)).chain(budget).chain(held::alarm(state));
    all.take(ALARMS_MAX).collect()
}

fn full_disk(state: &State) -> Option<Alarm> {
    let full = state.cluster.full_disk.as_ref()?;
    let refusal = Refusal::FullDisk(full.clone());
    Some(Alarm {
        code: "disk_full".to_owned(),
        text: format!("{refusal}; {}", refusal.hint().unwrap_or_default()),
        subject: full.node.to_string(),
        since: Some(wire_time(state.now)),
    })
}

fn disks(view: &ClusterView) -> impl Iterator<Item = Alarm> {
    view.members.iter().filter_map(|member| {
        let disk = member.disk.as_ref().filter(|disk| disk.used_permille >= disk.limits.warn_permille)?;
        let (used, full) = (disk.used_permille, disk.limits.full_permille);
        Some(Alarm {
            code: "disk_filling".to_owned(),
            text: format!(
                "the disk under {} is {}.{} % full, and at {}.{} % it takes no new runs: free some space, or keep less \
                 (`matins cluster settings`)",
                disk.path, used / 10, used % 10, full / 10, full % 10
            ),
            subject: member.node.to_string(),
            since: None,
        })
    })
}

/// PROTOCOL 6.8: nodes whose state is not what a majority found; without a majority, that no two agree.
fn differing(state: &State) -> Option<Alarm> {
    let row = state.cluster.checkpoint.as_ref()?;
    let told = checkpoint(row);
    let (subject, text) = match row.agreed {
        Some(_) if told.differing.is_empty() => return None,
        Some(_) => {
            let nodes = told.differing.join(", ");
            (
                nodes.clone(),
                format!(
                    "the state of {nodes} differs from the majority's at index {}: replace it",
                    row.index
                ),
            )
        }
        None if !row.is_split => return None,
        None => {
            let text = "no majority has the same state at index";
            let help =
                "no task is lent until one has: start the nodes that are down, or replace one that differs";
            ("cluster".to_owned(), format!("{text} {}, and {help}", row.index))
        }
    };
    Some(Alarm { code: "state_differs".to_owned(), text, subject, since: Some(wire_time(row.at)) })
}

fn unkillable(state: &State) -> impl Iterator<Item = Alarm> {
    state.live.iter().filter_map(|(_, key)| {
        let attempt = state.attempts.get(key)?;
        let AttemptState::Stopping { is_unkillable: true, .. } = attempt.state else { return None };
        let executor = state.executors.get(&attempt.executor).map_or("", |row| row.name.as_str());
        let task = key.0;
        Some(Alarm {
            code: "unkillable".to_owned(),
            text: format!(
                "its processes on executor `{executor}` are still there after KILL: \
                 look at that machine, or give it up: `matins attempt abandon {}`",
                matins_core::why::address(state, task)
            ),
            subject: task.run.to_string(),
            since: state.tasks.get(&task).map(|row| wire_time(row.since)),
        })
    })
}

fn past_failed(state: &State) -> impl Iterator<Item = Alarm> {
    state.past_waits.iter().filter_map(|((_, _, task), ())| {
        let row = state.tasks.get(task)?;
        let TaskState::WaitingForPast { failed: Some(failed), .. } = row.state else { return None };
        Some(Alarm {
            code: "past_failed".to_owned(),
            text: format!("{} waits for a repair of {failed}: `matins retry {failed}`", task.run),
            subject: task.run.to_string(),
            since: Some(wire_time(row.since)),
        })
    })
}
