//! `matins server`: one node of a cluster, from flags, `MATINS_NODE_*` or a TOML file.
//!
//! There is one struct of settings, [`ServerLayer`]; [`Settings`] is what they come to once every fault was told. Start at
//! [`serve`].

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use matins_node::disk::DiskLimits;
use matins_node::execute::TaskEnvironment;
use matins_node::raft::RaftTimes;
use matins_node::traces::TraceSettings;
use matins_node::{ExecutorSettings, Node, NodeConfig};
use serde::Deserialize;

use crate::context::Outcome;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::settings::{self, Faults, Labels, Layer, LogSettings, Span, default_slots, machine};

/// One line per change of state. openraft tells each of its steps at `info`, and while a node is down an error for every try to
/// reach it; what matters of that `raft` says itself.
const LOG_DEFAULT: &str = "info,openraft=off";

/// Run one node: a voter of the cluster, its API, and an executor
///
/// A node with an empty data directory waits until `matins cluster init` makes a cluster of it, or `matins cluster add`
/// takes it into one. Every setting is a flag, a variable `MATINS_NODE_*`, or a key of a TOML file.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins server --data-dir /var/lib/matins
  matins server --config /etc/matins/node.toml

A file has the names of the flags, with _ for -:
  data_dir = \"/var/lib/matins\"
  listen = \"10.0.0.1:7070\"
  cluster_listen = \"10.0.0.1:7071\"
  insecure = true
  labels = { zone = \"a\" }")]
pub(crate) struct ServerArgs {
    /// A TOML file with settings; flags and variables go over it
    #[arg(long, value_name = "FILE", env = "MATINS_NODE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    layer: ServerLayer,

    /// End when standard input does: so that no node outlives who started it
    #[arg(long, hide = true)]
    tied: bool,
}

/// Settings of a node, none of which must be given in the same place.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ServerLayer {
    /// Where the node keeps everything [default: /var/lib/matins]
    #[arg(long, value_name = "DIR", env = "MATINS_NODE_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,

    /// A label for people [default: the name of the machine]
    #[arg(long, env = "MATINS_NODE_NAME", hide_env_values = true)]
    name: Option<String>,

    /// Where clients reach it [default: 127.0.0.1:7070]
    #[arg(long, value_name = "IP:PORT", env = "MATINS_NODE_LISTEN", hide_env_values = true)]
    listen: Option<String>,

    /// Where nodes and executors reach it [default: 127.0.0.1:7071]
    #[arg(long, value_name = "IP:PORT", env = "MATINS_NODE_CLUSTER_LISTEN", hide_env_values = true)]
    cluster_listen: Option<String>,

    /// The address that clients are told [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT", env = "MATINS_NODE_ADVERTISE", hide_env_values = true)]
    advertise: Option<String>,

    /// The address that other nodes are told [default: that of --cluster-listen]
    #[arg(long, value_name = "HOST:PORT", env = "MATINS_NODE_CLUSTER_ADVERTISE", hide_env_values = true)]
    cluster_advertise: Option<String>,

    /// Names that plain HTTP is asked under besides --name and what is advertised: matins.example.com, *.example.com, or * for any
    #[arg(
        long,
        value_name = "HOST,..",
        value_delimiter = ',',
        env = "MATINS_NODE_PUBLIC_HOSTS",
        hide_env_values = true
    )]
    public_hosts: Option<Vec<String>>,

    /// Listen beyond this machine without TLS and tokens: whoever reaches the ports can run anything [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[arg(env = "MATINS_NODE_INSECURE", hide_env_values = true)]
    insecure: Option<bool>,

    /// Run tasks on this node [default: true]
    #[arg(long, value_name = "BOOL", env = "MATINS_NODE_EXECUTOR", hide_env_values = true)]
    executor: Option<bool>,

    /// How many tasks may run here at once [default: twice the number of cores]
    #[arg(long, value_name = "N", env = "MATINS_NODE_SLOTS", hide_env_values = true)]
    slots: Option<u32>,

    /// What tasks can ask for, as in zone=a,disk=ssd
    #[arg(long, value_name = "KEY=VALUE,..", env = "MATINS_NODE_LABELS", hide_env_values = true)]
    labels: Option<Labels>,

    /// PATH of the tasks [default: that of this process]
    #[arg(long, value_name = "PATH", env = "MATINS_NODE_TASK_PATH", hide_env_values = true)]
    task_path: Option<String>,

    /// Time between heartbeats of the leader [default: 100ms]
    #[arg(long, value_name = "SPAN", env = "MATINS_NODE_HEARTBEAT", hide_env_values = true)]
    heartbeat: Option<Span>,

    /// Least time without a heartbeat before an election [default: 500ms]
    #[arg(long, value_name = "SPAN", env = "MATINS_NODE_ELECTION_MIN", hide_env_values = true)]
    election_min: Option<Span>,

    /// Most time without a heartbeat before an election [default: 900ms]
    #[arg(long, value_name = "SPAN", env = "MATINS_NODE_ELECTION_MAX", hide_env_values = true)]
    election_max: Option<Span>,

    /// How full the disk may be before an alarm, in per cent [default: 85]
    #[arg(long, value_name = "PERCENT", env = "MATINS_NODE_DISK_WARN", hide_env_values = true)]
    disk_warn: Option<u16>,

    /// How full the disk may be before no new runs are made, in per cent [default: 95]
    #[arg(long, value_name = "PERCENT", env = "MATINS_NODE_DISK_FULL", hide_env_values = true)]
    disk_full: Option<u16>,

    /// What is logged, as in `info` or `matins_node=debug,warn` [default: info,openraft=off]
    #[arg(long, value_name = "FILTER", env = "MATINS_NODE_LOG", hide_env_values = true)]
    log: Option<String>,

    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "MATINS_NODE_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<String>,
}

/// What a node runs with: every value is there, and fits the others.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    node: NodeConfig,
    log: LogSettings,
}

impl Settings {
    /// The first line of the log: what an operator looks for by its name. Field by field, since some settings are secret: the
    /// headers of a collector of traces are.
    fn tell(&self, file: Option<&Path>) {
        let NodeConfig { executor, times, disk, traces, .. } = &self.node;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            name = self.node.name,
            data_dir = %self.node.data_dir.display(),
            public_listen = %self.node.public_listen,
            public_address = self.node.public_address,
            cluster_listen = %self.node.cluster_listen,
            cluster_address = self.node.cluster_address,
            insecure = self.node.is_insecure,
            slots = executor.as_ref().map_or(0, |executor| executor.slots),
            settings_file = file.map(|file| tracing::field::display(file.display())),
            "starting"
        );
        tracing::debug!(
            public_hosts = ?self.node.public_hosts,
            labels = ?executor.as_ref().map(|executor| &executor.labels),
            heartbeat = ?times.heartbeat,
            election_min = ?times.election_min,
            election_max = ?times.election_max,
            disk_warn = disk.warn_permille / 10,
            disk_full = disk.full_permille / 10,
            traces = traces.is_some(),
            "other settings"
        );
    }
}

impl Layer for ServerLayer {
    type Settled = Settings;

    const VERB: &'static str = "server";

    fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            name: self.name.or(below.name),
            listen: self.listen.or(below.listen),
            cluster_listen: self.cluster_listen.or(below.cluster_listen),
            advertise: self.advertise.or(below.advertise),
            cluster_advertise: self.cluster_advertise.or(below.cluster_advertise),
            public_hosts: self.public_hosts.or(below.public_hosts),
            insecure: self.insecure.or(below.insecure),
            executor: self.executor.or(below.executor),
            slots: self.slots.or(below.slots),
            labels: self.labels.or(below.labels),
            task_path: self.task_path.or(below.task_path),
            heartbeat: self.heartbeat.or(below.heartbeat),
            election_min: self.election_min.or(below.election_min),
            election_max: self.election_max.or(below.election_max),
            disk_warn: self.disk_warn.or(below.disk_warn),
            disk_full: self.disk_full.or(below.disk_full),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }

    fn settle(self, faults: &mut Faults) -> Settings {
        let public_listen = faults.address("listen", self.listen, (Ipv4Addr::LOCALHOST, 7070));
        let cluster_listen =
            faults.address("cluster_listen", self.cluster_listen, (Ipv4Addr::LOCALHOST, 7071));
        let log = faults.log((self.log, LOG_DEFAULT), self.log_format.as_deref());
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/matins".into());
        let executor = ExecutorSettings {
            slots: self.slots.unwrap_or_else(default_slots),
            labels: self.labels.unwrap_or_default().into(),
            environment: TaskEnvironment { path: self.task_path, variables: Vec::new() },
            cgroup: None,
        };
        let usual = RaftTimes::default();
        let times = RaftTimes {
            heartbeat: self.heartbeat.map_or(usual.heartbeat, Span::into),
            election_min: self.election_min.map_or(usual.election_min, Span::into),
            election_max: self.election_max.map_or(usual.election_max, Span::into),
            ..usual
        };
        // By the names that OpenTelemetry gives them, the same in all programs.
        let traces = TraceSettings::read(|name| std::env::var(name).ok()).unwrap_or_else(|of_traces| {
            faults.extend(of_traces);
            None
        });
        let usual = DiskLimits::default();
        let permille =
            |percent: Option<u16>, usual: u16| percent.map_or(usual, |percent| percent.saturating_mul(10));
        let full_permille = permille(self.disk_full, usual.full_permille);
        let warn_permille = permille(self.disk_warn, usual.warn_permille.min(full_permille));
        let disk = DiskLimits { warn_permille, full_permille };
        let node = NodeConfig {
            // What cannot be made absolute is told by the node.
            data_dir: std::path::absolute(&data_dir).unwrap_or(data_dir),
            name: self.name.unwrap_or_else(machine),
            public_listen,
            cluster_listen,
            public_address: self.advertise,
            cluster_address: self.cluster_advertise,
            public_hosts: self.public_hosts.unwrap_or_default(),
            is_insecure: self.insecure.unwrap_or(false),
            executor: self.executor.unwrap_or(true).then_some(executor),
            times,
            traces,
            disk,
            level_max: level_max(),
        };
        faults.extend(node.faults());
        Settings { node, log }
    }
}

/// The feature level that this release supports. Builds for development can pretend to be an older or a later release, so that
/// tests have both in one cluster; a release knows no such thing.
fn level_max() -> u16 {
    let pretended = cfg!(debug_assertions).then(|| std::env::var("MATINS_TEST_LEVEL").ok()).flatten();
    pretended.and_then(|level| level.parse().ok()).unwrap_or(matins_node::LEVEL)
}

/// `matins server`.
pub(crate) async fn serve(args: ServerArgs) -> Outcome {
    let settings = settings::read(args.config.clone(), args.layer)?;
    settings.log.start();
    settings.tell(args.config.as_deref());
    let reason = Box::pin(run_node(settings.node, stopped(args.tied))).await?;
    tracing::info!(reason, "stopped");
    Ok(Exit::Done)
}

/// Comes back with the reason when this process is asked to end.
pub(crate) async fn stopped(tied: bool) -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
    let (ended, closed) = tokio::sync::oneshot::channel::<()>();
    if tied {
        // A thread of its own: tokio's would keep the runtime from ending.
        std::thread::spawn(move || {
            // What is written there does not matter, only that it ends.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            drop(ended);
        });
    }
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        _ = closed, if tied => "who started it is gone",
    }
}

/// Runs the node until `stop` comes back, then ends it in good order.
async fn run_node(
    config: NodeConfig,
    stop: impl Future<Output = &'static str>,
) -> Result<&'static str, Fault> {
    let node = Box::pin(Node::start(config))
        .await
        .map_err(|error| Fault::machine("this node does not start", error))?;
    let reason = stop.await;
    tracing::info!(reason, "stopping");
    node.stop().await;
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::settings::{read, settle};

    #[test]
    fn defaults_fit_each_other() {
        let settings = settle(ServerLayer::default()).unwrap();
        assert_eq!(settings.node.public_listen.to_string(), "127.0.0.1:7070");
        assert_eq!(settings.node.cluster_listen.to_string(), "127.0.0.1:7071");
        assert!(settings.node.executor.is_some());
    }

    #[test]
    fn the_example_of_a_node_is_understood() {
        let layer: ServerLayer = toml::from_str(include_str!("../../deploy/config/node.toml")).unwrap();
        let settings = settle(layer).unwrap();
        assert!(format!("{:?}", settings.log).contains("Json"), "{:?}", settings.log);
        assert!(settings.node.is_insecure);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let layer = ServerLayer {
            listen: Some("0.0.0.0:7070".into()),
            cluster_listen: Some("nonsense".into()),
            heartbeat: Some("10ms".parse().unwrap()),
            slots: Some(0),
            log_format: Some("xml".into()),
            ..ServerLayer::default()
        };
        let faults = settle(layer).unwrap_err().join("\n");
        for part in ["cluster_listen: `nonsense`", "`xml`", "--insecure", "--advertise", "one slot", "100ms"]
        {
            assert!(faults.contains(part), "{part} is missing in\n{faults}");
        }
    }

    #[test]
    fn a_file_lies_below_flags_and_knows_no_other_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        fs::write(&path, "name = \"a\"\nslots = 3\nelection_max = \"2s\"\nlabels = { zone = \"a\" }\n")
            .unwrap();
        let flags = ServerLayer { slots: Some(5), ..ServerLayer::default() };
        let node = read(Some(path.clone()), flags).unwrap().node;
        let executor = node.executor.unwrap();
        assert_eq!((node.name.as_str(), executor.slots), ("a", 5));
        assert_eq!(executor.labels["zone"], "a");
        assert_eq!(node.times.election_max, Duration::from_secs(2));

        fs::write(&path, "nmae = \"a\"\n").unwrap();
        let fault = read(Some(path.clone()), ServerLayer::default()).unwrap_err();
        assert!(fault.report().contains("unknown field `nmae`"), "{}", fault.report());
        fs::write(&path, "heartbeat = \"10\"\n").unwrap();
        let fault = read(Some(path), ServerLayer::default()).unwrap_err();
        assert!(fault.report().contains("a duration has a unit"), "{}", fault.report());
    }
}
