//! The probes, and gRPC's health service.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::World;
use crate::serve::DoorLimits;

async fn probe(world: &World, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn health(world: &World, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    let answer = HealthClient::new(world.channel.clone()).check(request).await.unwrap().into_inner();
    let HealthCheckResponse { status } = answer;
    ServingStatus::try_from(status).unwrap()
}

#[tokio::test]
async fn a_node_is_alive_before_it_is_ready_and_says_why() {
    // A node that turns every other call away.
    let full = DoorLimits { calls_in_flight_max: 0, plain_calls_in_flight_max: 0, ..DoorLimits::default() };
    let world = World::with(full).await;
    assert_eq!(probe(&world, "/livez").await, (200, "alive\n".into()));
    let (status, why) = probe(&world, "/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains("matins cluster init"), "{why}");
    for service in ["", "matins.v1.Runs"] {
        assert_eq!(health(&world, service).await, ServingStatus::NotServing);
    }

    world.alone.found();
    assert_eq!(probe(&world, "/readyz").await, (200, "ready at index 3, node-1 leads\n".into()));
    assert_eq!(probe(&world, "/leaderz").await, (200, "node-1 leads in term 0\n".into()));
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while health(&world, "matins.v1.Runs").await != ServingStatus::Serving {
        assert!(tokio::time::Instant::now() < deadline, "gRPC's health says so too");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.stop().await;
}
