//! Whether this node is well: the probes `/livez`, `/readyz` and `/leaderz`, and gRPC's health service.
//!
//! Each probe answers from memory, with one line that says why. Nothing here asks another node, so that probes stay quick
//! and do not fail together. Start reading at [`Probe`].

use std::time::Duration;

use axum::http::StatusCode;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::api::Api;

/// How often gRPC's health service is brought up to date.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Whether the process works: if not, restart it.
    Live,
    /// Whether clients should be sent here.
    Ready,
    /// Whether this node leads.
    Leader,
}

impl Probe {
    /// The answer, and one line that says why. `Err`: no.
    pub(crate) fn ask(self, api: &Api) -> Result<String, String> {
        if api.stopping.is_cancelled() {
            return Err("stopping".into());
        }
        match self {
            Self::Live => Ok("alive".into()),
            Self::Ready => ready(api),
            Self::Leader => leads(api),
        }
    }

    /// The same as a status and the text of an answer.
    pub(crate) fn answer(self, api: &Api) -> (StatusCode, String) {
        as_answer(self.ask(api))
    }
}

/// What a probe found, as plain HTTP says it.
pub(super) fn as_answer(found: Result<String, String>) -> (StatusCode, String) {
    match found {
        Ok(why) => (StatusCode::OK, why + "\n"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

fn ready(api: &Api) -> Result<String, String> {
    let state = api.state();
    if state.cluster.id.is_none() {
        return Err("not a member of a cluster yet: `matins cluster init` or `matins cluster add`".into());
    }
    match api.cluster.status().leader {
        Some(leader) => Ok(format!("ready at index {}, {leader} leads", state.index.0)),
        None => Err("no leader is known".into()),
    }
}

fn leads(api: &Api) -> Result<String, String> {
    let view = api.cluster.status();
    let state = api.state();
    let is_ready = state.cluster.leader.as_ref().is_some_and(|leader| leader.node == view.node);
    match view.leader {
        Some(leader) if leader != view.node => Err(format!("{leader} leads")),
        Some(_) if is_ready => Ok(format!("{} leads in term {}", view.node, view.term)),
        Some(_) => Err("elected, and not ready yet".into()),
        None => Err("no leader is known".into()),
    }
}

/// Keeps gRPC's health service in step with `/readyz` until the node stops: for the server as a whole and for each service.
pub(crate) async fn follow(reporter: HealthReporter, services: Vec<String>, api: Api) {
    let mut told = None;
    loop {
        let is_ready = Probe::Ready.ask(&api).is_ok();
        if told != Some(is_ready) {
            let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in services.iter().map(String::as_str).chain([""]) {
                reporter.set_service_status(service, status).await;
            }
            told = Some(is_ready);
        }
        if api.stopping.is_cancelled() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = api.stopping.cancelled() => {}
        }
    }
}
