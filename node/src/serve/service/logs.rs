//! `Logs`: what tasks print.

mod lines;
mod read;

use std::pin::Pin;

use matins_proto::v1::logs_server::Logs;
use matins_proto::v1::{ReadLogsRequest, ReadLogsResponse};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use crate::serve::api::Api;
use crate::serve::error::Answer;

/// Answers `Logs`.
pub(crate) struct LogsService(pub(crate) Api);

#[tonic::async_trait]
impl Logs for LogsService {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadLogsResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadLogsRequest>) -> Answer<Self::ReadStream> {
        Ok(Response::new(read::read(self.0.clone(), request.into_inner()).await?))
    }
}
