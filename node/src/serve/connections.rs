//! The connections of a port: as many as may be open, and patience when the machine has no more.
//!
//! tonic takes every connection that comes, and asks again at once when the machine has no file left for one; both would take
//! from the node what its log and its peers need. Start reading at [`admit`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::bounds::{Seat, Seats};

/// A machine that has no file for a connection is asked again after so long.
const AGAIN: Duration = Duration::from_millis(100);

/// A connection that holds its seat until it is closed.
pub(crate) struct Admitted<C> {
    connection: C,
    _seat: Seat,
}

/// The connections that there is a seat for; others are closed at once. Ends only when `incoming` does.
pub(crate) fn admit<C: Send>(
    incoming: impl Stream<Item = io::Result<C>> + Send + Unpin + 'static,
    seats: Seats,
) -> impl Stream<Item = io::Result<Admitted<C>>> + Send {
    futures::stream::unfold((incoming, seats), |(mut incoming, seats)| async move {
        loop {
            match incoming.next().await? {
                Ok(connection) => {
                    if let Ok(seat) = seats.take() {
                        return Some((Ok(Admitted { connection, _seat: seat }), (incoming, seats)));
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

impl<C: Connected> Connected for Admitted<C> {
    type ConnectInfo = C::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Admitted<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, into)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Admitted<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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
