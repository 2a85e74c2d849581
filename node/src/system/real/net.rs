//! The network of this machine.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Error};

/// A port that is open.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// The connections that come in at a port, as tonic's server takes them.
pub type Incoming = TcpIncoming;

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
///
/// What is written goes out at once. tonic's own setting for that is ignored where a server is given its connections, and
/// without it a second message waits until the first was acknowledged, which the other side delays by 40 ms.
pub fn incoming(listener: Listener) -> Incoming {
    TcpIncoming::from(listener.0).with_nodelay(Some(true))
}

/// Has connections closed whose other side takes nothing for so long, or is gone without a word.
pub fn close_stalled(listener: &Listener, stalled_max: Duration) {
    let millis = u32::try_from(stalled_max.as_millis()).unwrap_or(u32::MAX);
    // A connection has the options of the port that it came in at. The kernel counts the time during which data waits to be taken, also while the other side says that it has no room.
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpStream;
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_that_is_answered_waits_for_an_acknowledgement() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = incoming(listener).next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
