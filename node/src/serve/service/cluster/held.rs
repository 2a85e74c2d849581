//! Schedules that a restore holds until a person lets them go on (PROTOCOL 6.10).

use matins_core::State;
use matins_core::command::Command;
use matins_core::id::WorkflowName;
use matins_proto::v1::{Alarm, Committed, ResumeHeldRequest, ResumeHeldResponse};
use rand::Rng as _;

use crate::serve::api::{Api, wire_time};
use crate::serve::error::ApiError;
use crate::system;

/// Workflows that one call lets go on: each is a command of its own, and the caller waits.
const AT_ONCE: usize = 200;

/// Workflows that were paused by the restore, and not by a person before it.
pub(super) fn held(state: &State) -> Vec<WorkflowName> {
    let Some(origin) = state.cluster.refounded.as_ref().filter(|origin| origin.is_held) else {
        return Vec::new();
    };
    let held = state.workflows.iter();
    let held = held.filter(|(_, row)| row.current.is_some() && row.paused_at == Some(origin.at));
    held.map(|(name, _)| name.clone()).collect()
}

/// Says that they are held: nothing else would tell why no run is made.
pub(super) fn alarm(state: &State) -> Option<Alarm> {
    let held = held(state);
    let origin = state.cluster.refounded.as_ref().filter(|_| !held.is_empty())?;
    Some(Alarm {
        code: "schedules_held".to_owned(),
        text: format!(
            "{} workflows are held since the cluster was restored, and their schedules make no runs: `matins cluster resume` lets them go on",
            held.len()
        ),
        subject: "cluster".to_owned(),
        since: Some(wire_time(origin.at)),
    })
}

/// Lets some of them go on.
pub(super) async fn resume(api: &Api, request: ResumeHeldRequest) -> Result<ResumeHeldResponse, ApiError> {
    let ask = api.ask(&request.request_id, request.not_after)?;
    let held = held(&api.read(false).await?.state);
    let mut resumed = Vec::new();
    let mut committed: Option<Committed> = None;
    for workflow in held.iter().take(AT_ONCE) {
        // A repeat finds those that go on already paused no more: each needs an id of its own only for its own repeats.
        let id = format!("{:032x}", system::random().random::<u128>());
        let one = api.ask(&id, Some(wire_time(ask.not_after)))?;
        committed = Some(api.command(&one, Command::ResumeWorkflow(workflow.clone())).await?.1);
        resumed.push(workflow.to_string());
    }
    let left = (held.len() - resumed.len()) as u32;
    Ok(ResumeHeldResponse { committed, resumed, left })
}
