//! gRPC on the public port: the services, reflection and health, behind bounds that answer in gRPC's terms.
//!
//! Start reading at [`router`].

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use matins_proto::v1::backfills_server::BackfillsServer;
use matins_proto::v1::cluster_server::ClusterServer;
use matins_proto::v1::logs_server::LogsServer;
use matins_proto::v1::pools_server::PoolsServer;
use matins_proto::v1::runs_server::RunsServer;
use matins_proto::v1::schedules_server::SchedulesServer;
use matins_proto::v1::workflows_server::WorkflowsServer;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::service::Routes;
use tonic_health::server::health_reporter;
use tower::ServiceExt as _;

use super::api::Api;
use super::bounds::{Bounds, Seats, TurnedAway, overloaded, seated};
use super::connections::Readers;
use super::service::Services;
use super::{DoorLimits, ServeError, health};

/// All that is asked by gRPC, and what keeps its health service up to date.
pub(crate) fn router(
    api: Api,
    (services, limits): (&Services, &DoorLimits),
    (bounds, streams): (Bounds, Seats),
) -> Result<(Router, impl Future<Output = ()> + use<>), ServeError> {
    let (reporter, health_service) = health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(matins_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let (asked, told) = (limits.request_bytes_max, limits.answer_bytes_max);
    let mut names = Vec::new();
    let mut routes = Routes::new(reflection);
    // The same two bounds for each service; a macro since each server is a type of its own.
    macro_rules! add {
        ($($server:ident($field:ident)),*) => {$(
            let server = $server::from_arc(Arc::clone(&services.$field));
            names.push(name_of(&server).to_owned());
            routes = routes.add_service(server.max_decoding_message_size(asked).max_encoding_message_size(told));
        )*};
    }
    add!(
        WorkflowsServer(workflows),
        RunsServer(runs),
        SchedulesServer(schedules),
        BackfillsServer(backfills),
        PoolsServer(pools),
        LogsServer(logs),
        ClusterServer(cluster)
    );
    let router = routes.into_axum_router().layer(from_fn(move |request: Request, next: Next| {
        let bounds = bounds.clone();
        async move { bounds.hold(request, next).await.unwrap_or_else(turned_away) }
    }));
    // Outside of the bounds: a probe that is turned away would have a busy node restarted.
    let health_service = health_service.map_request(|request: Request| request.map(tonic::body::Body::new));
    let router = router.route_service("/grpc.health.v1.Health/{*rest}", health_service);
    // Outermost, since a stream has its seat for as long as it is open and a call only until its answer begins.
    let router = seat_streams(router, streaming()?, streams);
    Ok((router, health::follow(reporter, names, api)))
}

/// Has every call of these paths hold a seat for as long as its answer goes on; where there is none it is turned away.
pub(super) fn seat_streams(router: Router, paths: BTreeSet<String>, streams: Seats) -> Router {
    let paths = Arc::new(paths);
    router.layer(from_fn(move |request: Request, next: Next| {
        let readers = request.extensions().get::<Readers>().cloned();
        let seat = paths.contains(request.uri().path()).then(|| streams.take());
        async move {
            match seat.transpose() {
                Ok(None) => next.run(request).await,
                Ok(Some(seat)) => seated(next.run(request).await, seat, readers),
                Err(error) => Status::from(error).into_http(),
            }
        }
    }))
}

/// The paths of all rpcs whose answer goes on.
fn streaming() -> Result<BTreeSet<String>, ServeError> {
    let mut paths = BTreeSet::from(["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned()]);
    for set in [matins_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(set).map_err(tonic_reflection::server::Error::from)?;
        for file in &set.file {
            for service in &file.service {
                let on = service.method.iter().filter(|method| method.server_streaming());
                paths.extend(
                    on.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
                );
            }
        }
    }
    Ok(paths)
}

fn turned_away(why: TurnedAway) -> Response {
    let status = match why {
        TurnedAway::Full => Status::from(overloaded()),
        // The code that says "ask again" to a client (`error.proto`).
        TurnedAway::Late => Status::cancelled("there was no answer in time"),
    };
    status.into_http()
}

/// The name by which gRPC knows a service: `matins.v1.Runs`.
fn name_of<S: tonic::server::NamedService>(_: &S) -> &'static str {
    S::NAME
}
