//! The connections of a port: as many as may be open, and patience when the machine has no more.
//!
//! tonic takes every connection that comes, and asks again at once when the machine has no file left for one; both would take
//! from the node what its log and its peers need. And nothing but the end of its connection frees what waits for a reader who
//! takes nothing of one stream while he reads others. Start reading at [`admit`].

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::bounds::{Seat, Seats};

/// A machine that has no file for a connection is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// Whoever connects and says nothing for so long is not heard any more: tonic would wait for ever.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// A connection that holds its seat until it is closed.
pub(crate) struct Admitted<C> {
    connection: C,
    /// Until its first byte has come.
    silence: Option<Pin<Box<Sleep>>>,
    readers: Readers,
    stalled_max: Duration,
    _seat: Seat,
}

/// The connections that there is a seat for; others are closed at once, and so is one on which a stream has waited for its
/// reader for `stalled_max`. Ends only when `incoming` does.
pub(crate) fn admit<C: Send>(
    incoming: impl Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    seats: Seats,
    stalled_max: Duration,
) -> impl Stream<Item = io::Result<Admitted<C>>> + Send {
    futures::stream::unfold((incoming, seats), move |(mut incoming, seats)| async move {
        loop {
            match incoming.next().await? {
                Ok(connection) => {
                    if let Ok(seat) = seats.take() {
                        let readers = Readers::default();
                        let silence = Some(Box::pin(tokio::time::sleep(SILENT_MAX)));
                        let admitted = Admitted { connection, silence, readers, stalled_max, _seat: seat };
                        return Some((Ok(admitted), (incoming, seats)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    })
}

/// Since when streams of one connection wait for their readers. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Readers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    number: u64,
    /// By number of the stream's piece, which only rises: the first one waits longest.
    since: BTreeMap<u64, Instant>,
}

/// A piece of a stream that its reader has not taken, until this is dropped.
#[derive(Debug)]
pub(crate) struct Untaken {
    readers: Readers,
    number: u64,
}

impl Readers {
    /// A stream waits for its reader from now on.
    pub(crate) fn wait(&self) -> Untaken {
        let mut waiting = self.waiting();
        waiting.number += 1;
        let number = waiting.number;
        waiting.since.insert(number, Instant::now());
        drop(waiting);
        Untaken { readers: self.clone(), number }
    }

    /// An error if a stream has waited for so long.
    fn check(&self, stalled_max: Duration) -> io::Result<()> {
        let waiting = self.waiting();
        if waiting.since.first_key_value().is_some_and(|(_, since)| since.elapsed() >= stalled_max) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the reader of a stream takes nothing"));
        }
        Ok(())
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.readers.waiting().since.remove(&self.number);
    }
}

impl<C: Connected> Connected for Admitted<C> {
    type ConnectInfo = Readers;

    fn connect_info(&self) -> Readers {
        self.readers.clone()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Admitted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.connection).poll_read(context, into);
        if polled.is_ready() {
            self.silence = None;
        } else if let Some(silence) = &mut self.silence
            && silence.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said")));
        }
        polled
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Admitted<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        // The keep-alive comes by here however quiet a connection is.
        self.readers.check(self.stalled_max)?;
        Pin::new(&mut self.connection).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.readers.check(self.stalled_max)?;
        Pin::new(&mut self.connection).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
