//! Plain HTTP on the public port: probes, metrics, the description of the API, and REST.
//!
//! Probes and metrics have no bounds: they are asked when a node is at its worst. Everything else has bounds of its own beside
//! gRPC's, answers in HTTP's terms, and only under a name of this node: probes know a pod by whatever name they like. Start reading
//! at [`router`].

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{any, get};
use tonic::Status;

use super::DoorLimits;
use super::api::Api;
use super::bounds::{Bounds, Seats, TurnedAway, overloaded};
use super::error::ApiError;
use super::health::Probe;
use super::hosts::Hosts;
use super::rest::{Rest, error_response, not_found, openapi_text};
use super::service::Services;
use crate::metrics::{CONTENT_TYPE, Scrape};
use crate::system::blocking;

/// All that is asked by plain HTTP.
pub(crate) fn router(
    api: &Api,
    services: Services,
    (metrics, limits): (Arc<dyn Scrape>, &DoorLimits),
    (bounds, streams): (Bounds, Seats),
    hosts: Hosts,
) -> Router {
    let rest = Rest::new(api, services, (streams, limits));
    let bounded = Router::new()
        .route("/v1/{*path}", any(move |request: Request| rest.answer(request)))
        .route("/openapi.json", get(openapi))
        .layer(from_fn(move |request: Request, next: Next| {
            let bounds = bounds.clone();
            async move { bounds.hold(request, next).await.unwrap_or_else(turned_away) }
        }))
        // Outermost: whoever may not ask takes no seat.
        .layer(from_fn(move |request: Request, next: Next| {
            let checked = hosts.check(&request);
            async move {
                match checked {
                    Ok(()) => next.run(request).await,
                    Err(error) => misdirected(error),
                }
            }
        }));
    let probe = |probe: Probe| {
        let api = api.clone();
        get(move || async move { probe.answer(&api) })
    };
    Router::new()
        .route("/livez", probe(Probe::Live))
        .route("/readyz", probe(Probe::Ready))
        .route("/leaderz", probe(Probe::Leader))
        .route("/metrics", get(move || tell(metrics.clone())))
        .merge(bounded)
        .fallback(not_found)
}

/// A large state takes a while to count, so that is done beside everything else.
pub(super) async fn tell(metrics: Arc<dyn Scrape>) -> ([(header::HeaderName, &'static str); 1], String) {
    let text = blocking(move || metrics.scrape()).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
}

async fn openapi() -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "application/json")], openapi_text().to_string())
}

/// The status that says so of a name, and that a proxy or browser may try another connection.
fn misdirected(error: ApiError) -> Response {
    let mut response = error_response(&error.into());
    *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
    response
}

fn turned_away(why: TurnedAway) -> Response {
    error_response(&match why {
        TurnedAway::Full => overloaded().into(),
        TurnedAway::Late => Status::cancelled("there was no answer in time"),
    })
}
