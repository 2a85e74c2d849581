//! The network of this machine.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Error};

/// A port that is open.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// The connections that come in at a port, as tonic's server takes them.
pub type Incoming = TcpListenerStream;

impl Listener {
    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Opens a port.
pub async fn listen(address: SocketAddr) -> io::Result<Listener> {
    let listener = TcpListener::bind(address).await?;
    // A connection has the options of the port that it came in at. tonic sets none on connections that it is given, and
    // without this a small answer may wait for the acknowledgement of the one before.
    sockopt::set_tcp_nodelay(&listener, true)?;
    Ok(Listener(listener))
}

/// Takes what comes in at a port.
pub fn incoming(listener: Listener) -> Incoming {
    TcpListenerStream::new(listener.0)
}

/// Has connections closed whose other side takes nothing for so long, or is gone without a word.
pub fn close_stalled(listener: &Listener, stalled_max: Duration) {
    let millis = u32::try_from(stalled_max.as_millis()).unwrap_or(u32::MAX);
    // The kernel counts the time during which data waits to be taken, also while the other side says that it has no room.
    let set = sockopt::set_tcp_user_timeout(&listener.0, millis)
        .and_then(|()| sockopt::set_socket_keepalive(&listener.0, true))
        .and_then(|()| sockopt::set_tcp_keepidle(&listener.0, stalled_max));
    if let Err(error) = set {
        tracing::warn!(%error, "connections that stall will not be closed");
    }
}

/// Connects now.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect().await
}

/// Connects when it is first used, and again when the connection broke.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}
