//! Streams that outlive the node they come from: when one breaks, another node is asked for what comes after.

use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, Streaming};

use crate::client::Client;
use crate::cursor::{Cursor, Heard};
use crate::error::{Answered, ClientError, Failure, Verdict};
use crate::nodes::{Backoff, NodeAt};

/// Something that is followed. Ends by itself where what it follows does; to stop earlier, drop it.
#[derive(Debug)]
pub struct Follow<C: Cursor> {
    client: Client,
    pub(crate) cursor: C,
    stream: Option<Open<C::Piece>>,
    /// Since when streams break before anything was heard on them.
    broken_since: Option<Instant>,
    backoff: Backoff,
    is_over: bool,
}

#[derive(Debug)]
struct Open<P> {
    stream: Streaming<P>,
    at: NodeAt,
}

impl<C: Cursor> Follow<C> {
    pub(crate) fn new(client: Client, cursor: C) -> Self {
        Self { client, cursor, stream: None, broken_since: None, backoff: Backoff::default(), is_over: false }
    }

    /// The next piece of news; `None` once there will be no more.
    ///
    /// Nothing is lost when the future is dropped before it is done. An error ends it only if no node could be
    /// heard for [`Limits::total_max`](crate::Limits::total_max), or the cluster's answer is final.
    pub async fn next(&mut self) -> Result<Option<C::Piece>, ClientError> {
        while !self.is_over {
            let open = match &mut self.stream {
                Some(open) => open,
                none => {
                    let (stream, at) = self.client.open(C::PATH, self.cursor.ask()).await?;
                    none.insert(Open { stream, at })
                }
            };
            match hear(open, self.client.nodes().limits.silence_max).await {
                Ok(Some(piece)) => {
                    self.broken_since = None;
                    self.backoff = Backoff::default();
                    match self.cursor.hear(piece) {
                        Heard::News(piece) => return Ok(Some(piece)),
                        Heard::Last(piece) => {
                            self.end();
                            return Ok(Some(piece));
                        }
                        Heard::Nothing => {}
                    }
                }
                Ok(None) if C::ENDS_BY_CLOSING => self.end(),
                Ok(None) => self.broken(&Status::unavailable("it closed the stream")).await?,
                Err(status) => self.broken(&status).await?,
            }
        }
        Ok(None)
    }

    fn end(&mut self) {
        self.is_over = true;
        self.stream = None;
    }

    /// Leaves a node whose stream is broken, after a pause that grows while nothing is heard.
    async fn broken(&mut self, status: &Status) -> Result<(), ClientError> {
        let Some(Open { at, .. }) = self.stream.take() else { return Ok(()) };
        let answered = Answered::from(status);
        let pause = match Verdict::of(status) {
            Verdict::Final => return Err(ClientError::Answered(Box::new(answered))),
            Verdict::Later(delay) => delay,
            Verdict::Elsewhere => self.backoff.pause(),
        };
        let nodes = self.client.nodes();
        let endpoint = nodes.endpoint(at).to_owned();
        tracing::debug!(endpoint, code = ?status.code(), message = status.message(), "stream broken");
        nodes.leave(at);
        let within = nodes.limits.total_max;
        let since = *self.broken_since.get_or_insert_with(Instant::now);
        if since.elapsed() + pause > within {
            let failures = vec![Failure {
                endpoint,
                code: answered.code,
                reason: answered.reason,
                message: answered.message,
            }];
            return Err(ClientError::NoAnswer { within, failures, request_id: None });
        }
        sleep(pause).await;
        Ok(())
    }
}

/// The next message of a stream; a stream that is silent for too long is broken.
async fn hear<P: Message + Default>(open: &mut Open<P>, silence_max: Duration) -> Result<Option<P>, Status> {
    timeout(silence_max, open.stream.message())
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("silent for {silence_max:?}"))))
}
