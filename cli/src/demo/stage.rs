//! What the demonstration stands on: a folder of its own, the examples, three nodes on free ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matins_client::{Client, Limits};
use matins_proto::v1::{ApplyWorkflowsRequest, CancelBackfillRequest, ListBackfillsRequest};
use rustix::process::Signal;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

use crate::fault::Fault;
use crate::nodes::{Place, Tie, endpoints, free_ports, make_cluster, send, stop};
use crate::workflow::sources;

/// Nodes of the cluster; one of three may die.
const NODES: usize = 3;

/// Tasks that a node runs at once: four days with three items each must fit on two nodes, nearly.
const SLOTS: u32 = 6;

/// A file of the examples, by its path.
macro_rules! example {
    ($path:literal) => {
        ($path, include_bytes!(concat!("../../../examples/", $path)))
    };
}
/// How long a Ctrl-C waits for runs to be cancelled.
const CALM_MAX: Duration = Duration::from_secs(2);

/// How long it is tried to remove the folder.
const REMOVE_MAX: Duration = Duration::from_secs(20);

/// The examples, which are in this binary so that it works anywhere.
const FILES: [(&str, &[u8]); 15] = [
    example!("heartbeat.matins.yaml"),
    example!("nightly-flights/nightly-flights.matins.yaml"),
    example!("nightly-flights/report.py"),
    example!("nightly-flights/scripts/check.py"),
    example!("nightly-flights/scripts/extract.py"),
    example!("nightly-flights/scripts/flights.py"),
    example!("nightly-flights/scripts/load.py"),
    example!("nightly-flights/scripts/task.py"),
    example!("nightly-flights/scripts/transform.py"),
    example!("nightly-flights/scripts/verify.py"),
    example!("nightly-flights/scripts/warehouse.py"),
    example!("nightly-flights/data/airlines.csv"),
    example!("nightly-flights/data/counts.tsv"),
    example!("nightly-flights/data/flights-2013-01.csv.gz"),
    example!("nightly-flights/data/weather-2013-01.csv.gz"),
];

/// Three nodes and a folder.
pub(super) struct Stage {
    folder: PathBuf,
    places: Vec<Place>,
    /// By place; `None`: it is down.
    children: Vec<Option<Child>>,
    tie: Tie,
}

impl Stage {
    /// Writes the examples and chooses ports; starts nothing yet.
    pub(super) fn build(keep: bool) -> Result<Self, Fault> {
        let folder = std::env::temp_dir().join(format!("matins-demo-{:08x}", rand::random::<u32>()));
        for (path, content) in &FILES {
            let path = folder.join("examples").join(path);
            let parent = path.parent().expect("it lies in the folder");
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, content))
                .map_err(|error| Fault::machine(format!("cannot write `{}`", path.display()), error))?;
        }
        let ports = free_ports(2 * NODES)?;
        let place = |at: usize| {
            let name = format!("n{}", at + 1);
            Place { data_dir: folder.join(&name), name, port: ports[at], cluster_port: ports[NODES + at] }
        };
        let tie = if keep { Tie::Free } else { Tie::Tied };
        let children = (0..NODES).map(|_| None).collect();
        Ok(Self { places: (0..NODES).map(place).collect(), children, folder, tie })
    }

    /// Starts all nodes and makes a cluster of them.
    pub(super) async fn open(&mut self) -> Result<(), Fault> {
        for at in 0..NODES {
            self.start(at)?;
        }
        make_cluster(&self.places).await
    }

    /// Starts a node that is down.
    pub(super) fn start(&mut self, at: usize) -> Result<(), Fault> {
        self.children[at] = Some(self.places[at].start(Some(SLOTS), self.tie)?);
        Ok(())
    }

    /// Kills a node as a power cut would.
    pub(super) async fn kill(&mut self, at: usize) -> Result<(), Fault> {
        let Some(mut child) = self.children[at].take() else { return Ok(()) };
        send(&child, Signal::KILL);
        child.wait().await.map_err(|error| Fault::machine("cannot wait for a killed node", error))?;
        Ok(())
    }

    /// Which node has this public address.
    pub(super) fn at_address(&self, address: &str) -> Option<usize> {
        self.places.iter().position(|place| place.endpoint() == address)
    }

    pub(super) fn name(&self, at: usize) -> &str {
        &self.places[at].name
    }

    /// A client of the whole cluster.
    pub(super) fn client(&self, limits: Limits) -> Result<Client, Fault> {
        Ok(Client::new(&endpoints(&self.places), limits)?)
    }

    /// Registers both examples.
    pub(super) async fn apply(&self, client: &Client) -> Result<(), Fault> {
        let mut packed = Vec::new();
        for path in ["heartbeat.matins.yaml", "nightly-flights/nightly-flights.matins.yaml"] {
            let path = self.folder.join("examples").join(path);
            packed.push(sources::load_one(&path, client).await?);
        }
        client.call(ApplyWorkflowsRequest { sources: packed, ..ApplyWorkflowsRequest::default() }).await?;
        Ok(())
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the days are loaded.
    pub(super) fn warehouse(&self) -> PathBuf {
        self.folder.join("warehouse.sqlite")
    }

    /// Where tasks leave rows for each other.
    pub(super) fn staging(&self) -> PathBuf {
        self.folder.join("staging")
    }

    /// The script that judges the warehouse.
    pub(super) fn judge(&self) -> PathBuf {
        self.folder.join("examples/nightly-flights/report.py")
    }

    /// Ends all nodes and removes the folder.
    pub(super) async fn end(&mut self) -> Result<(), Fault> {
        for child in &mut self.children {
            if let Some(mut child) = child.take() {
                stop(&mut child).await.map_err(|error| Fault::machine("cannot end a node", error))?;
            }
        }
        // A supervisor may still be writing the end of a task.
        let deadline = Instant::now() + REMOVE_MAX;
        loop {
            match fs::remove_dir_all(&self.folder) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    return Err(Fault::machine(format!("cannot remove `{}`", self.folder.display()), error));
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Ends what still runs, as far as the cluster can be asked in a moment, so that no task outlives the nodes.
    pub(super) async fn calm(&self) {
        let cancel = async {
            let client = self.client(Limits::default())?;
            for backfill in client.call(ListBackfillsRequest::default()).await?.backfills {
                if backfill.finished_at.is_none() {
                    let (backfill, now) = (backfill.id, true);
                    client.call(CancelBackfillRequest { backfill, now, ..Default::default() }).await?;
                }
            }
            Ok::<(), Fault>(())
        };
        // If not, the supervisors end the tasks when their leases do.
        let _ = timeout(CALM_MAX, cancel).await;
    }

    /// Lets the nodes live on without this process.
    pub(super) fn leave(&mut self) {
        // Dropping a child neither ends it nor waits for it.
        self.children.clear();
    }

    /// What a person needs who wants to look around.
    pub(super) fn how_to_use(&self) -> String {
        let pids: Vec<String> =
            self.children.iter().flatten().filter_map(Child::id).map(|id| id.to_string()).collect();
        format!(
            "\nthe cluster goes on; look around with\n  export MATINS_ENDPOINT={}\n  matins cluster status\n  \
             matins run list\n  matins run get latest:nightly-flights\nand end it with\n  kill {} && rm -r {}",
            endpoints(&self.places),
            pids.join(" "),
            self.folder.display()
        )
    }
}

impl Drop for Stage {
    /// A panic must not leave nodes behind either.
    fn drop(&mut self) {
        for child in self.children.iter().flatten() {
            send(child, Signal::KILL);
        }
    }
}
