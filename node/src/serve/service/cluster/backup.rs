//! `Backup`: the whole cluster as one stream of frames, while work goes on (PROTOCOL 6.10).
//!
//! A copy of the state costs nothing and does not change, so all of it is of one index. Blobs are never changed; those that
//! the copy names are held here until they were sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use matins_core::State;
use matins_core::id::Digest;
use matins_proto::v1::BackupResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::serve::api::Api;
use crate::serve::cluster::BlobMissing;
use crate::serve::error::{ApiError, fault_of};
use crate::store::backup::{CHUNK_BYTES, Head, Part, Writer};
use crate::system::blocking;

/// Frames that wait for a slow reader: he holds up nobody but himself.
const FRAMES_WAITING: usize = 4;
/// A sign of life while nothing is ready: clients give a silent stream up after 15 s.
const ALIVE_EVERY: Duration = Duration::from_secs(3);

/// The frames, one a message.
pub(crate) type Frames = BoxStream<'static, Result<BackupResponse, Status>>;

/// Why it ended before its end.
enum Ended {
    /// Nobody takes the frames any more.
    Gone,
    /// A fault of this node.
    Fault(ApiError),
}

/// Begins a backup of what was acknowledged before this call.
pub(crate) async fn backup(api: Api) -> Result<Frames, Status> {
    let read = api.read(false).await?;
    let (to, frames) = mpsc::channel(FRAMES_WAITING);
    let stopping = api.stopping.clone();
    tokio::spawn(async move {
        let mut sending = Sending { api, to, writer: Writer::default() };
        let sent = stopping.run_until_cancelled(sending.send(read.state)).await;
        if let Some(Err(Ended::Fault(error))) = sent {
            // Whoever asked may be gone.
            drop(sending.to.send(Err(error.into())).await);
        }
    });
    Ok(Box::pin(ReceiverStream::new(frames)))
}

struct Sending {
    api: Api,
    to: mpsc::Sender<Result<BackupResponse, Status>>,
    writer: Writer,
}

impl Sending {
    async fn send(&mut self, state: Arc<State>) -> Result<(), Ended> {
        let copy = Arc::clone(&state);
        let encoded = blocking(move || copy.encode());
        let bytes = self.alive(encoded).await?;
        let cluster = Arc::clone(&self.api.cluster);
        let copy = Arc::clone(&state);
        let named = async move { cluster.hold_named(&copy).await };
        let names = self.alive(named).await?.map_err(|why| Ended::Fault(fault_of("history", &why)))?;
        self.part(&Part::Head(Head::of(&state, &bytes, names.len()))).await?;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.part(&Part::State(chunk.to_vec())).await?;
        }
        drop(bytes);
        self.blobs(names).await?;
        let end = self.writer.end();
        self.frame(end).await
    }

    async fn blobs(&mut self, names: BTreeSet<Digest>) -> Result<(), Ended> {
        for digest in names {
            let cluster = Arc::clone(&self.api.cluster);
            let blob = async move { cluster.blob(digest).await };
            match self.alive(blob).await? {
                Ok(blob) => {
                    self.part(&Part::Blob { digest, bytes: blob.len() as u64 }).await?;
                    for chunk in blob.chunks(CHUNK_BYTES) {
                        self.part(&Part::Chunk(chunk.to_vec())).await?;
                    }
                }
                Err(BlobMissing::Lost(_)) => self.part(&Part::Missing(digest)).await?,
                Err(error @ BlobMissing::Fault(..)) => {
                    return Err(Ended::Fault(fault_of("blobs", &error.to_string())));
                }
            }
        }
        Ok(())
    }

    async fn part(&mut self, part: &Part) -> Result<(), Ended> {
        let frame = self.writer.frame(part);
        self.frame(frame).await
    }

    async fn frame(&self, frame: Vec<u8>) -> Result<(), Ended> {
        self.to.send(Ok(BackupResponse { frame })).await.map_err(|_| Ended::Gone)
    }

    /// Waits for something that may take long, and says meanwhile that it goes on.
    async fn alive<T>(&self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep(ALIVE_EVERY) => self.frame(Vec::new()).await?,
            }
        }
    }
}
