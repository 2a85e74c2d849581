//! A slow network: connections that go through this process, which holds every byte back for a while.
//!
//! Netem is missing on many kernels, so this needs none of the kernel's queues. Start at [`Proxy::open`].

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::Rng as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::workload::Trouble;

/// Pieces that may be on their way in one direction; more wait at the sender.
const PIECES_MAX: usize = 4_096;

/// How slow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delay {
    /// Every byte in each direction takes this long ...
    pub(crate) least: Duration,
    /// ... and up to so much longer. Bytes of one direction never overtake each other.
    pub(crate) jitter: Duration,
}

/// A port whose connections lead somewhere else, slowly. Closed with all its connections when it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    carried: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Opens a port on this address.
    pub(crate) fn open(runtime: &Handle, at: IpAddr, to: SocketAddr, delay: Delay) -> Result<Self, Trouble> {
        let wrong = |error: std::io::Error| Trouble(format!("cannot open a proxy: {error}"));
        let listener = runtime.block_on(TcpListener::bind((at, 0))).map_err(wrong)?;
        let port = listener.local_addr().map_err(wrong)?.port();
        let carried = Arc::new(AtomicU64::new(0));
        let task = runtime.spawn(serve(listener, to, delay, Arc::clone(&carried)));
        Ok(Self { port, carried, task })
    }

    /// Bytes that were held back, and whose time had come.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, to: SocketAddr, delay: Delay, carried: Arc<AtomicU64>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        connections.spawn(carry(near, to, delay, Arc::clone(&carried)));
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until either side closes it.
async fn carry(near: TcpStream, to: SocketAddr, delay: Delay, carried: Arc<AtomicU64>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    for stream in [&near, &far] {
        // At worst it is a little slower still.
        let _ = stream.set_nodelay(true);
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::select! {
        () = carry_one_way(near_read, far_write, delay, &carried) => {}
        () = carry_one_way(far_read, near_write, delay, &carried) => {}
    }
}

async fn carry_one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Delay, carried: &AtomicU64) {
    let (held, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let jitter = delay.jitter.mul_f64(rand::rng().random());
            if held.send((Instant::now() + delay.least + jitter, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((at, bytes)) = due.recv().await {
            sleep_until(at).await;
            carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn bytes_take_their_time_in_both_directions() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let echo = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = echo.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = echo.accept().unwrap().0;
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            stream.write_all(&byte).unwrap();
        });
        let delay = Delay { least: Duration::from_millis(40), jitter: Duration::ZERO };
        let proxy = Proxy::open(runtime.handle(), Ipv4Addr::LOCALHOST.into(), to, delay).unwrap();
        let mut stream = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port)).unwrap();
        let began = std::time::Instant::now();
        stream.write_all(&[7]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        assert!(began.elapsed() >= Duration::from_millis(80));
        assert_eq!(proxy.carried(), 2);
        server.join().unwrap();
    }
}
