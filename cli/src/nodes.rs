//! Nodes as child processes of this one, for `dev` and `demo`: where they are, started, stopped, made into a cluster.
//!
//! A child is in a process group of its own, so that Ctrl-C reaches it only through this process, and ends by itself when
//! this process does (`--tied`), unless it is meant to stay.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use matins_client::{Client, ClientError, Limits};
use matins_proto::v1::{AddNodeRequest, ClusterStatusRequest, InitClusterRequest};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::exit::Exit;
use crate::fault::Fault;

/// A node that was started answers within this, on a machine that is busy with a build.
const READY_MAX: Duration = Duration::from_secs(60);

/// A node that was asked to end does so within this; then it is killed.
const STOP_MAX: Duration = Duration::from_secs(10);

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// A label for people.
    pub(crate) name: String,
    /// Its public port, on loopback.
    pub(crate) port: u16,
    /// Its cluster port, on loopback.
    pub(crate) cluster_port: u16,
    /// Where it keeps everything.
    pub(crate) data_dir: PathBuf,
}

/// What becomes of a node when this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tie {
    /// It ends too, however this process ended.
    Tied,
    /// It stays.
    Free,
}

impl Place {
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn cluster_address(&self) -> String {
        format!("127.0.0.1:{}", self.cluster_port)
    }

    /// What the node logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Starts the node. What it says goes to the end of its log.
    pub(crate) fn start(&self, slots: Option<u32>, tie: Tie) -> Result<Child, Fault> {
        let wrong = |error: io::Error| Fault::machine(format!("cannot start node {}", self.name), error);
        if let Some(folder) = self.data_dir.parent() {
            fs::create_dir_all(folder).map_err(wrong)?;
        }
        let log = OpenOptions::new().create(true).append(true).open(self.log()).map_err(wrong)?;
        let mut command = Command::new(std::env::current_exe().map_err(wrong)?);
        command
            .arg("server")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--name", &self.name])
            .args(["--listen", &self.endpoint()])
            .args(["--cluster-listen", &self.cluster_address()]);
        if let Some(slots) = slots {
            command.args(["--slots", &slots.to_string()]);
        }
        match tie {
            Tie::Tied => command.arg("--tied").stdin(Stdio::piped()),
            Tie::Free => command.stdin(Stdio::null()),
        };
        let stderr = log.try_clone().map_err(wrong)?;
        command.process_group(0).stdout(Stdio::from(log)).stderr(Stdio::from(stderr)).spawn().map_err(wrong)
    }

    /// A client of this node alone.
    pub(crate) fn client(&self, total_max: Duration) -> Result<Client, Fault> {
        let limits = Limits { attempt_max: Duration::from_secs(2), total_max, ..Limits::default() };
        Ok(Client::new(&self.endpoint(), limits)?)
    }
}

/// The endpoints of all nodes, as `--endpoint` takes them.
pub(crate) fn endpoints(places: &[Place]) -> String {
    places.iter().map(Place::endpoint).collect::<Vec<_>>().join(",")
}

/// Whether nobody listens on this port of loopback.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// So many free ports of loopback, all different.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>, Fault> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    // All of them are held until the last one is found.
    let held: io::Result<Vec<TcpListener>> = (0..count).map(bind).collect();
    let ports = held.and_then(|held| held.iter().map(|it| it.local_addr().map(|at| at.port())).collect());
    ports.map_err(|error| Fault::machine("there is no free port on 127.0.0.1", error))
}

/// Asks a node to end, and kills it if it does not.
pub(crate) async fn stop(child: &mut Child) -> io::Result<ExitStatus> {
    send(child, Signal::TERM);
    if let Ok(status) = timeout(STOP_MAX, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

/// Sends a signal to a child that was not waited for yet; one that has ended does not mind.
pub(crate) fn send(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // The only error is that it has ended: until it was waited for its id belongs to nobody else.
        let _ = kill_process(pid, signal);
    }
}

/// Waits until every node answers, and makes one cluster of them, as far as they are none already.
///
/// Only if none of them has a cluster a new one is made: an empty disk must not found a second one.
pub(crate) async fn make_cluster(places: &[Place]) -> Result<(), Fault> {
    let mut clusters = Vec::new();
    for place in places {
        clusters.push(cluster_of(place).await?);
    }
    let seed = clusters.iter().position(Option::is_some);
    let seed = if let Some(seed) = seed {
        seed
    } else {
        places[0].client(READY_MAX)?.call(InitClusterRequest::default()).await?;
        0
    };
    let client = places[seed].client(READY_MAX)?;
    for (at, place) in places.iter().enumerate() {
        if at != seed && clusters[at].is_none() {
            let ask = AddNodeRequest { address: place.cluster_address(), ..AddNodeRequest::default() };
            client.call(ask).await?;
        }
    }
    Ok(())
}

/// The cluster that a node belongs to, once it answers.
async fn cluster_of(place: &Place) -> Result<Option<String>, Fault> {
    let client = place.client(Duration::from_secs(2))?;
    let deadline = Instant::now() + READY_MAX;
    loop {
        match client.call(ClusterStatusRequest {}).await {
            Ok(status) => return Ok(status.cluster_id),
            Err(ClientError::NoAnswer { .. }) if Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(error) => {
                let message = format!("node {} does not answer", place.name);
                let hint = format!("its log may say why: {}", place.log().display());
                let source = Some(Box::new(error).into());
                return Err(Fault::Own { exit: Exit::NoAnswer, message, hint: None, source }.hint(hint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_free_and_different() {
        let ports = free_ports(6).unwrap();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 6);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        assert!(!is_free(held.local_addr().unwrap().port()));
    }
}
