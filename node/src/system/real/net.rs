//! The network of this machine.

use std::io;
use std::net::SocketAddr;

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
    TcpListener::bind(address).await.map(Listener)
}

/// Takes what comes in at a port.
pub fn incoming(listener: Listener) -> Incoming {
    TcpListenerStream::new(listener.0)
}

/// Connects now.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, Error> {
    endpoint.connect().await
}

/// Connects when it is first used, and again when the connection broke.
pub fn connect_lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}
