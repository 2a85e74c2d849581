//! The client itself: stamps what it sends, gives it to the walk, and notes what answers tell about the time.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use matins_proto::Timestamp;
use matins_proto::v1::{
    BackupRequest, BackupResponse, ClusterStatusRequest, ReadLogsRequest, UploadBlobRequest,
    UploadBlobResponse, WaitRunsRequest, WaitRunsResponse, WatchBackfillRequest, WatchRunRequest,
    WatchRunsRequest,
};
use prost::Message;
use sha2::{Digest as _, Sha256};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::call::{Call, Route, method_path};
use crate::cursor::{BackfillCursor, LogCursor, RunCursor, RunsCursor};
use crate::error::{ClientError, Delay};
use crate::follow::Follow;
use crate::nodes::{Limits, NodeAt, Nodes};

/// How long a command may be repeated if its sender does not say (PROTOCOL 4.6): far longer than this client does so.
const NOT_AFTER_DEFAULT: Duration = Duration::from_secs(600);

/// The same for a request id that its sender chose, to use it again: the hour that PROTOCOL 4.6 allows, less what this
/// client's reckoning of leader time may be ahead of the leader's own.
const NOT_AFTER_CHOSEN: Duration = Duration::from_secs(3_590);

/// How long what was heard of leader time is reckoned on.
const TIME_KEPT_MAX: Duration = Duration::from_secs(60);

/// Largest message that is taken: a run with some thousand items.
const MESSAGE_MAX: usize = 64 << 20;

/// Size of one message of an upload.
const CHUNK: usize = 1 << 20;

/// A client of one cluster. A clone is another handle to the same connections.
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Arc<Nodes>,
    heard: Arc<Mutex<Option<HeardTime>>>,
}

/// Leader time as an answer told it, and when by the clocks of this machine.
#[derive(Clone, Copy, Debug)]
struct HeardTime {
    leader: Timestamp,
    /// Stands still while the machine is suspended.
    at: Instant,
    /// Goes on while the machine is suspended, but may be set.
    wall: SystemTime,
}

impl Client {
    /// A client of the nodes at `endpoints`: `host:port`, several with commas. Connects only when something is asked.
    ///
    /// Must be called inside a tokio runtime, on which its connections live.
    pub fn new(endpoints: &str, limits: Limits) -> Result<Self, ClientError> {
        Ok(Self { nodes: Arc::new(Nodes::new(endpoints, limits)?), heard: Arc::default() })
    }

    /// From now on tells of each call that had no answer for so long: once, while it goes on being tried.
    pub fn tell_of_delays(&self, after: Duration, tell: impl Fn(&Delay) + Send + Sync + 'static) {
        self.nodes.tell_of_delays(after, Box::new(tell));
    }

    /// Sends a request to whichever node answers, and gives its answer.
    ///
    /// A command without a request id is given one, drawn once; without `not_after` it is given ten minutes of leader
    /// time, or an hour if it brings its own request id. Both stay the same in every repeat. So a command that this function reports as done was done once, and one
    /// for which it reports [`ClientError::NoAnswer`] at most once.
    pub async fn call<C: Call>(&self, mut ask: C) -> Result<C::Answer, ClientError> {
        self.stamp(&mut ask).await?;
        self.send(&ask).await.map_err(|error| match error {
            ClientError::NoAnswer { within, failures, request_id: _ } => {
                let request_id = ask.command().map(|command| command.request_id.clone());
                ClientError::NoAnswer { within, failures, request_id }
            }
            other @ (ClientError::Endpoint { .. }
            | ClientError::Answered(_)
            | ClientError::BadAnswer { .. }) => other,
        })
    }

    /// Leader time now, as reckoned from an answer of the last minute, or else asked for.
    /// `None`: the cluster has no time yet.
    pub async fn leader_time(&self) -> Result<Option<Timestamp>, ClientError> {
        if let Some(now) = self.reckoned_time() {
            return Ok(Some(now));
        }
        self.send(&ClusterStatusRequest {}).await?;
        Ok(self.reckoned_time())
    }

    /// Waits until all of `runs` have ended, or for `timeout`; `done` in the answer says which.
    pub async fn wait(
        &self,
        runs: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<WaitRunsResponse, ClientError> {
        let started = Instant::now();
        let mut ask = WaitRunsRequest { runs, timeout: None };
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(started.elapsed()));
            ask.timeout = left.map(|left| {
                let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX);
                matins_proto::Duration::from_millis(millis)
            });
            let answer = self.call(ask.clone()).await?;
            if answer.done || left.is_some_and(|left| left.is_zero()) {
                return Ok(answer);
            }
            // `latest:` means what was the latest when the wait began.
            ask.runs = answer.runs.iter().map(|run| run.id.clone()).collect();
        }
    }

    /// Stores a file on a majority and gives its digest, by which a definition may name it within the hour.
    pub async fn upload(&self, file: Bytes) -> Result<String, ClientError> {
        let digest = format!("{:x}", Bytes::copy_from_slice(&Sha256::digest(&file)));
        // A file of the largest size takes a while, also on the way to a majority.
        let patience = Duration::from_secs(60);
        let (answer, at) =
            self.nodes.ask(Route::Any, patience, |channel| send_file(channel, file.clone())).await?;
        if answer.digest != digest {
            let endpoint = self.nodes.endpoint(at).to_owned();
            let what = format!("the digest {} for a file whose digest is {digest}", answer.digest);
            return Err(ClientError::BadAnswer { endpoint, what });
        }
        Ok(digest)
    }

    /// Follows one run until it has ended. `latest:` is what was the latest when the watch began.
    pub fn watch_run(&self, ask: WatchRunRequest) -> Follow<RunCursor> {
        Follow::new(self.clone(), RunCursor::new(ask))
    }

    /// Follows a list of runs.
    pub fn watch_runs(&self, ask: WatchRunsRequest) -> Follow<RunsCursor> {
        Follow::new(self.clone(), RunsCursor::new(ask))
    }

    /// Follows one backfill until it has ended.
    pub fn watch_backfill(&self, ask: WatchBackfillRequest) -> Follow<BackfillCursor> {
        Follow::new(self.clone(), BackfillCursor::new(ask))
    }

    /// Reads logs; with `follow` until all that was asked for has ended. No line is told twice.
    pub fn read_logs(&self, ask: ReadLogsRequest) -> Follow<LogCursor> {
        Follow::new(self.clone(), LogCursor::new(ask))
    }

    /// Streams a backup of the cluster from one node. It cannot go on at another: who hears an error asks anew.
    pub async fn backup(&self) -> Result<Backup, ClientError> {
        let (stream, at) = self.open(method_path!(Cluster.Backup), BackupRequest {}).await?;
        Ok(Backup {
            stream,
            endpoint: self.nodes.endpoint(at).to_owned(),
            silence_max: self.nodes.limits.silence_max,
        })
    }

    pub(crate) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    /// Opens a stream on whichever node grants one.
    pub(crate) async fn open<Q, P>(
        &self,
        path: &'static str,
        ask: Q,
    ) -> Result<(Streaming<P>, NodeAt), ClientError>
    where
        Q: Message + Clone + Send + Sync + 'static,
        P: Message + Default + Send + Sync + 'static,
    {
        let attempt = |channel| {
            let ask = ask.clone();
            async move {
                let mut grpc = ready(channel).await?;
                let path = PathAndQuery::from_static(path);
                let answer = grpc.server_streaming(Request::new(ask), path, ProstCodec::default()).await?;
                Ok(answer.into_inner())
            }
        };
        self.nodes.ask(Route::Any, Duration::ZERO, attempt).await
    }

    /// Gives a command what makes it safe to repeat, where its sender has not.
    async fn stamp<C: Call>(&self, ask: &mut C) -> Result<(), ClientError> {
        let Some(command) = ask.command() else { return Ok(()) };
        let remembered = if command.request_id.is_empty() {
            *command.request_id = format!("{:032x}", rand::random::<u128>());
            NOT_AFTER_DEFAULT
        } else {
            NOT_AFTER_CHOSEN
        };
        if let Some(not_after @ None) = command.not_after {
            // Without a time the node that takes the command stamps it.
            *not_after = self.leader_time().await?.map(|now| later(now, remembered));
        }
        Ok(())
    }

    /// Sends a request as it is, and notes the time that its answer tells.
    async fn send<C: Call>(&self, ask: &C) -> Result<C::Answer, ClientError> {
        let attempt = |channel| unary(channel, ask.clone());
        let (answer, _) = self.nodes.ask(C::ROUTE, ask.patience(), attempt).await?;
        if let Some(leader) = C::leader_time(&answer) {
            let heard = HeardTime { leader, at: Instant::now(), wall: SystemTime::now() };
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(heard);
        }
        Ok(answer)
    }

    /// Leader time by what was heard last, unless that is too old by either clock.
    fn reckoned_time(&self) -> Option<Timestamp> {
        let heard = (*self.heard.lock().unwrap_or_else(PoisonError::into_inner))?;
        let by_wall = heard.wall.elapsed().ok()?;
        let elapsed = heard.at.elapsed();
        (by_wall.max(elapsed) <= TIME_KEPT_MAX).then(|| later(heard.leader, elapsed))
    }
}

/// A backup on its way.
#[derive(Debug)]
pub struct Backup {
    stream: Streaming<BackupResponse>,
    endpoint: String,
    silence_max: Duration,
}

impl Backup {
    /// The node that it comes from.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The next frame of the file; `None` at the end of the stream, which is the end of the backup only if the last frame
    /// says so.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            let heard = tokio::time::timeout(self.silence_max, self.stream.message()).await;
            let silent = || Status::deadline_exceeded(format!("silent for {:?}", self.silence_max));
            match heard.unwrap_or_else(|_| Err(silent())) {
                Ok(Some(BackupResponse { frame })) if frame.is_empty() => {}
                Ok(Some(BackupResponse { frame })) => return Ok(Some(frame.into())),
                Ok(None) => return Ok(None),
                Err(status) => {
                    return Err(ClientError::Answered(Box::new(crate::error::Answered::from(&status))));
                }
            }
        }
    }
}

/// The instant so much later.
fn later(instant: Timestamp, span: Duration) -> Timestamp {
    let millis = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(instant.as_millis().saturating_add(millis))
}

/// A connection that takes a request.
async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MESSAGE_MAX);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(grpc)
}

/// Sends one request to one node. It is not told how long it has: it hears when nobody waits any more.
async fn unary<C: Call>(channel: Channel, ask: C) -> Result<C::Answer, Status> {
    let mut grpc = ready(channel).await?;
    let answer =
        grpc.unary(Request::new(ask), PathAndQuery::from_static(C::PATH), ProstCodec::default()).await?;
    Ok(answer.into_inner())
}

/// Sends one file to one node.
async fn send_file(channel: Channel, file: Bytes) -> Result<UploadBlobResponse, Status> {
    let mut grpc = ready(channel).await?;
    let size = file.len() as u64;
    // An empty file is one empty chunk.
    let chunks = (0..file.len().max(1)).step_by(CHUNK).map(move |start| {
        let end = file.len().min(start + CHUNK);
        UploadBlobRequest { size, chunk: file.slice(start..end) }
    });
    let path = PathAndQuery::from_static(method_path!(Workflows.UploadBlob));
    let request = Request::new(tokio_stream::iter(chunks));
    let answer = grpc.client_streaming(request, path, ProstCodec::default()).await?;
    Ok(answer.into_inner())
}
