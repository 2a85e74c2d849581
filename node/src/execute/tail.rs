//! Reading the logs of attempts that run on this node, also while they grow (PROTOCOL 6.7).

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use matins_core::id::Fence;
use matins_core::time::Timestamp;
use matins_proto::v1::attempt_logs_server::AttemptLogs;
use matins_proto::v1::{AttemptStream, LogChunk, TailRequest};
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::journal::log_path;
use super::log::{Frame, LogReader, Stream};
use crate::system;

/// Chunks read ahead of a slow reader.
const READ_AHEAD_MAX: usize = 16;

/// The logs of one executor.
#[derive(Clone, Debug)]
pub struct LogFolder {
    dir: PathBuf,
}

impl LogFolder {
    /// The logs of the executor whose folder is `dir`.
    pub const fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The log file of an attempt, whether it is there or not.
    pub fn path(&self, fence: Fence) -> PathBuf {
        log_path(&self.dir, fence)
    }

    /// The attempts that have a log here, ascending.
    pub fn fences(&self) -> io::Result<Vec<Fence>> {
        let mut fences = Vec::new();
        for entry in std::fs::read_dir(self.dir.join("logs"))? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".log"));
            fences.extend(number.and_then(|number| number.parse().ok()).map(Fence));
        }
        fences.sort_unstable();
        Ok(fences)
    }

    /// Deletes the log of an attempt, once its attachment is applied. It may be gone already.
    pub fn delete(&self, fence: Fence) -> io::Result<()> {
        match std::fs::remove_file(self.path(fence)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

#[tonic::async_trait]
impl AttemptLogs for LogFolder {
    type TailStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<LogChunk, Status>> + Send>>;

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let request = request.into_inner();
        let path = self.path(Fence(request.fence));
        if !path.exists() {
            return Err(Status::not_found(format!("no log of {} on this node", Fence(request.fence))));
        }
        let (chunks, received) = mpsc::channel(READ_AHEAD_MAX);
        tokio::spawn(async move {
            if let Err(error) = send_log(&path, &request, &chunks).await {
                // The reader may be gone, which is why this one ends too.
                let _ = chunks.send(Err(Status::internal(format!("cannot read the log: {error}")))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(received))))
    }
}

type Chunks = mpsc::Sender<Result<LogChunk, Status>>;

async fn send_log(path: &Path, request: &TailRequest, chunks: &Chunks) -> io::Result<()> {
    // Watched before it is read, so that nothing that is written in between can be missed.
    let watch = if request.follow { Some(Watch::new(path)?) } else { None };
    let mut reader = LogReader::open(path)?;
    let mut first = match request.lines {
        Some(lines) => reader.tail(lines)?,
        None => Vec::new(),
    };
    loop {
        for frame in std::mem::take(&mut first) {
            if send_frame(frame, request, chunks).await? {
                return Ok(());
            }
        }
        while let Some(frame) = reader.next_frame()? {
            if send_frame(frame, request, chunks).await? {
                return Ok(());
            }
        }
        let Some(watch) = &watch else { return Ok(()) };
        tokio::select! {
            changed = watch.changed() => changed?,
            () = chunks.closed() => return Ok(()),
        }
    }
}

/// Sends one frame, if it was asked for. Whether it was the last one.
async fn send_frame(frame: Frame, request: &TailRequest, chunks: &Chunks) -> io::Result<bool> {
    let stream = match frame.stream {
        Stream::Stdout => AttemptStream::Stdout,
        Stream::Stderr => AttemptStream::Stderr,
        Stream::Note => AttemptStream::Note,
        Stream::End => return Ok(true),
    };
    let is_wanted = matches!(request.stream(), AttemptStream::Unspecified) || request.stream() == stream;
    let since = request.since.map(Timestamp::from_millis);
    if !is_wanted || since.is_some_and(|since| frame.at < since) {
        return Ok(false);
    }
    let chunk = LogChunk {
        at: frame.at.as_millis(),
        stream: stream.into(),
        text: frame.bytes,
        position: frame.position,
    };
    chunks.send(Ok(chunk)).await.map_err(io::Error::other)?;
    Ok(false)
}

/// Tells when a file has changed, without asking again and again.
struct Watch {
    inotify: AsyncFd<std::os::fd::OwnedFd>,
}

impl Watch {
    fn new(path: &Path) -> io::Result<Self> {
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let inotify = inotify::init(flags)?;
        let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE_SELF;
        inotify::add_watch(&inotify, path, changes)?;
        Ok(Self { inotify: system::watched(inotify)? })
    }

    async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable().await?;
            let mut buffer = [0; 4096];
            match rustix::io::read(self.inotify.get_ref(), &mut buffer) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
