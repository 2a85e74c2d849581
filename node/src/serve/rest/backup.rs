//! A backup as a file: the frames one after the other, as the command line writes them.
//!
//! A backup that breaks off ends its connection without the end of the body, so that a client cannot take it for whole.

use std::io;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use matins_proto::v1::BackupRequest;
use matins_proto::v1::cluster_server::Cluster as _;
use tonic::{Request, Status};

use super::events::{Seat, next_of};
use crate::serve::service::Services;

/// Takes a backup.
pub(crate) async fn backup(services: &Services, seat: Seat) -> Result<Response, Status> {
    let frames = services.cluster.backup(Request::new(BackupRequest {})).await?.into_inner();
    let bytes = futures::stream::unfold(Some((frames.boxed(), seat)), |open| async move {
        let (mut frames, seat) = open?;
        Some(match next_of(&mut frames, &seat).await {
            Some(Ok(piece)) => (Ok(piece.frame), Some((frames, seat))),
            Some(Err(status)) => (Err(io::Error::other(status)), None),
            // A stream that ends because the node stops is no backup.
            None if seat.is_stopping() => (Err(io::Error::other("this node is shutting down")), None),
            None => return None,
        })
    });
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], Body::from_stream(bytes)).into_response())
}
