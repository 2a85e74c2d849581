//! What a node is told when it starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use matins_core::id::NodeId;

use crate::disk::DiskLimits;
use crate::execute::{ExecutorConfig, TaskEnvironment};
use crate::raft::RaftTimes;
use crate::serve::Hosts;
use crate::traces::TraceSettings;

/// What a node is told when it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Everything that it keeps lies below; absolute.
    pub data_dir: PathBuf,
    /// A label for people.
    pub name: String,
    /// Where it listens for clients.
    pub public_listen: SocketAddr,
    /// Where it listens for nodes and executors.
    pub cluster_listen: SocketAddr,
    /// Host and port as clients reach it; `None`: what it listens on.
    pub public_address: Option<String>,
    /// Host and port as nodes reach it; `None`: what it listens on.
    pub cluster_address: Option<String>,
    /// More names under which plain HTTP is answered, each as [`Hosts::fault`] allows it.
    pub public_hosts: Vec<String>,
    /// Whether it may listen on other addresses than loopback without TLS and tokens (DESIGN 4).
    pub is_insecure: bool,
    /// What runs tasks here; `None`: nothing does.
    pub executor: Option<ExecutorSettings>,
    /// Times of consensus.
    pub times: RaftTimes,
    /// Where spans go; `None`: nowhere.
    pub traces: Option<TraceSettings>,
    /// How full its disk may be.
    pub disk: DiskLimits,
    /// The newest feature level that it supports: [`matins_core::LEVEL`] outside tests.
    pub level_max: u16,
}

/// What a node's executor is told.
#[derive(Clone, Debug)]
pub struct ExecutorSettings {
    /// How many attempts run at once.
    pub slots: u32,
    /// What tasks may ask for.
    pub labels: BTreeMap<String, String>,
    /// What this machine gives its tasks.
    pub environment: TaskEnvironment,
    /// A cgroup to make those of the tasks in; `None`: this process's own, if it is delegated.
    pub cgroup: Option<PathBuf>,
}

/// Who an executor is.
pub(super) struct Identity {
    pub(super) node: NodeId,
    /// For people.
    pub(super) name: String,
    /// Host and port where its logs are read; empty: those of its node.
    pub(super) address: String,
    /// The highest feature level of this binary.
    pub(super) level: u32,
}

impl ExecutorSettings {
    /// What the executor itself is told, whose folder lies in `data_dir`.
    pub(super) fn executor(self, data_dir: &Path, identity: Identity) -> ExecutorConfig {
        let Identity { node, name, address, level } = identity;
        let Self { slots, labels, environment, cgroup } = self;
        let dir = data_dir.join("executor");
        ExecutorConfig { dir, node, name, slots, labels, address, level, environment, program: None, cgroup }
    }
}

impl NodeConfig {
    /// All faults at once, each with what to do about it; empty if it can be used.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let ports = [
            ("public", self.public_listen, &self.public_address, "--advertise"),
            ("cluster", self.cluster_listen, &self.cluster_address, "--cluster-advertise"),
        ];
        for (what, address, told, flag) in ports {
            faults.extend(faults_of_port((what, flag), address, told.as_ref(), self.is_insecure));
        }
        faults.extend(self.public_hosts.iter().filter_map(|name| Hosts::fault(name)));
        if !self.data_dir.is_absolute() {
            faults.push(format!("the data directory {} is not an absolute path", self.data_dir.display()));
        }
        if self.executor.as_ref().is_some_and(|executor| executor.slots == 0) {
            faults.push("an executor needs one slot at least; switch it off instead".into());
        }
        let DiskLimits { warn_permille, full_permille } = self.disk;
        if warn_permille > full_permille || full_permille > 1_000 {
            faults.push("a disk is too full at 100 % at most, and is warned of before that".into());
        }
        if let Err(error) = self.times.validate() {
            faults.push(error.to_string());
        }
        faults
    }

    /// Names by which others know it, and those that it was told.
    pub(super) fn hosts(&self) -> Hosts {
        let addresses = [&self.public_address, &self.cluster_address];
        let own = addresses.into_iter().flatten().filter_map(|address| Hosts::of_address(address));
        Hosts::new(own.chain([self.name.clone()]).chain(self.public_hosts.iter().cloned()))
    }
}

/// What is wrong with a port: `told` is the address that others are told, given by this flag.
pub(super) fn faults_of_port(
    (what, flag): (&str, &str),
    address: SocketAddr,
    told: Option<&String>,
    is_insecure: bool,
) -> Vec<String> {
    let mut faults = Vec::new();
    if !address.ip().is_loopback() && !is_insecure {
        faults.push(format!(
            "the {what} port would listen on {address} for anybody who can reach it, without TLS and tokens; listen on a \
             loopback address, or say `--insecure` if the network is private"
        ));
    }
    if address.ip().is_unspecified() && told.is_none() {
        faults.push(format!(
            "the {what} port listens on every address, so others cannot tell where to reach it; give \
             `{flag} HOST:PORT`"
        ));
    }
    faults
}
