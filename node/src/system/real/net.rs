//! The network of this machine.

use std::io;
use std::net::SocketAddr;

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
