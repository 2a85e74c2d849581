//! The network of a simulated machine.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

use super::Machine;

/// No seed takes so long in real time.
const LONGER_THAN_ANY_SEED: Duration = Duration::from_secs(86_400);

/// A port that is open.
pub struct Listener(TcpListener);

/// The connections that come in at a port, as tonic's server takes them.
pub type Incoming = Pin<Box<dyn Stream<Item = io::Result<Connection>> + Send>>;

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Opens a port.
pub async fn listen(address: SocketAddr) -> io::Result<Listener> {
    TcpListener::bind(address).await.map(Listener)
}

/// Takes what comes in at a port.
pub fn incoming(listener: Listener) -> Incoming {
    Box::pin(futures::stream::unfold(listener, |listener| async move {
        let accepted = listener.0.accept().await.map(|(stream, _)| Connection::of(stream));
        Some((accepted, listener))
    }))
}

/// Nobody stalls here, so there is nothing to set.
pub fn close_stalled(_: &Listener, _: Duration) {}

/// Connects now.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    without_real_time(endpoint).connect_with_connector(service_fn(dial)).await
}

/// Connects when it is first used, and again when the connection broke.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    without_real_time(endpoint).connect_with_connector_lazy(service_fn(dial))
}

/// h2 forgets a stream that was reset a second ago, by the clock of the real machine, which is not told by the seed: here
/// it never does.
fn without_real_time(endpoint: &Endpoint) -> Endpoint {
    endpoint.clone().http2_reset_stream_duration(LONGER_THAN_ANY_SEED)
}

async fn dial(uri: Uri) -> io::Result<TokioIo<Connection>> {
    let no_port = || io::Error::new(io::ErrorKind::InvalidInput, "an address has a host and a port");
    let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(no_port)?;
    let stream = TcpStream::connect((host.to_owned(), port)).await?;
    Ok(TokioIo::new(Connection::of(stream)))
}

/// A connection of a process. When the process has ended itself, it says and hears nothing more: the simulation is told
/// a moment later, and until then its tasks go on.
pub struct Connection {
    stream: TcpStream,
    machine: Machine,
}

impl Connection {
    fn of(stream: TcpStream) -> Self {
        Self { stream, machine: Machine::current() }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.machine.has_ended() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.machine.has_ended() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
