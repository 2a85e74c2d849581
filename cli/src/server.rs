//! `matins server`: one node of a cluster, from flags, `MATINS_NODE_*` or a TOML file.
//!
//! There is one struct of settings, [`Layer`]; flags go over the environment, which goes over the file. [`Settings`] is
//! what they come to once every fault was told. Start at [`serve`].

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, CommandFactory as _};
use matins_node::disk::DiskLimits;
use matins_node::execute::TaskEnvironment;
use matins_node::raft::RaftTimes;
use matins_node::traces::TraceSettings;
use matins_node::{ExecutorSettings, Node, NodeConfig};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::context::Outcome;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::run::parse_span;

/// Begins the names of all settings in the environment.
const PREFIX: &str = "MATINS_NODE_";

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
    layer: Layer,

    /// End when standard input does: so that no node outlives who started it
    #[arg(long, hide = true)]
    tied: bool,
}

/// Settings of a node, none of which must be given in the same place.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
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

    /// Listen beyond this machine without TLS and tokens: whoever reaches the ports can run anything
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

/// Labels: a table in a file, `key=value,..` elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Labels(BTreeMap<String, String>);

impl From<Labels> for BTreeMap<String, String> {
    fn from(Labels(labels): Labels) -> Self {
        labels
    }
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |part: &str| match part.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            Some(_) | None => Err(format!("`{part}` is no label: write key=value")),
        };
        text.split(',').filter(|part| !part.is_empty()).map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// A length of time, as the language writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_span(text).map(Self)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What a node runs with: every value is there, and fits the others.
#[derive(Clone, Debug)]
struct Settings {
    node: NodeConfig,
    log: String,
    log_format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Layer {
    /// What is given here, and below it what is given there.
    fn over(self, below: Self) -> Self {
        Self {
            data_dir: self.data_dir.or(below.data_dir),
            name: self.name.or(below.name),
            listen: self.listen.or(below.listen),
            cluster_listen: self.cluster_listen.or(below.cluster_listen),
            advertise: self.advertise.or(below.advertise),
            cluster_advertise: self.cluster_advertise.or(below.cluster_advertise),
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

    /// Fills in the defaults and checks everything; all faults at once.
    fn settle(self) -> Result<Settings, Vec<String>> {
        let mut faults = Vec::new();
        let mut address = |what: &str, given: Option<String>, default: SocketAddr| {
            let Some(text) = given else { return default };
            text.parse().unwrap_or_else(|_| {
                faults.push(format!("{what}: `{text}` is no address; write IP:PORT, as in 10.0.0.1:7070"));
                default
            })
        };
        let public_listen = address("listen", self.listen, (Ipv4Addr::LOCALHOST, 7070).into());
        let cluster_listen =
            address("cluster_listen", self.cluster_listen, (Ipv4Addr::LOCALHOST, 7071).into());
        let log_format = match self.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                faults.push(format!("log_format: `{other}` is neither text nor json"));
                LogFormat::Text
            }
        };
        let log = self.log.unwrap_or_else(|| LOG_DEFAULT.into());
        if let Err(error) = log.parse::<EnvFilter>() {
            faults.push(format!("log: {error}"));
        }
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/matins".into());
        let executor = ExecutorSettings {
            slots: self.slots.unwrap_or_else(default_slots),
            labels: self.labels.unwrap_or_default().0,
            environment: TaskEnvironment { path: self.task_path, variables: Vec::new() },
            cgroup: None,
        };
        let usual = RaftTimes::default();
        let times = RaftTimes {
            heartbeat: self.heartbeat.map_or(usual.heartbeat, |span| span.0),
            election_min: self.election_min.map_or(usual.election_min, |span| span.0),
            election_max: self.election_max.map_or(usual.election_max, |span| span.0),
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
            is_insecure: self.insecure.unwrap_or(false),
            executor: self.executor.unwrap_or(true).then_some(executor),
            times,
            traces,
            disk,
            level_max: level_max(),
        };
        faults.extend(node.faults());
        if faults.is_empty() { Ok(Settings { node, log, log_format }) } else { Err(faults) }
    }
}

/// The feature level that this release supports. Builds for development can pretend to be an older or a later release, so that
/// tests have both in one cluster; a release knows no such thing.
fn level_max() -> u16 {
    let pretended = cfg!(debug_assertions).then(|| std::env::var("MATINS_TEST_LEVEL").ok()).flatten();
    pretended.and_then(|level| level.parse().ok()).unwrap_or(matins_node::LEVEL)
}

pub(crate) fn default_slots() -> u32 {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32 * 2)
}

pub(crate) fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Reads all layers.
fn read_settings(config: Option<PathBuf>, layer: Layer) -> Result<Settings, Fault> {
    let file = match config {
        None => Layer::default(),
        Some(path) => {
            let text = fs::read_to_string(&path).map_err(|error| Fault::unreadable(&path, error))?;
            toml::from_str(&text).map_err(|error| {
                Fault::machine(format!("`{}` has a fault", path.display()), error)
                    .hint("`matins server -h` lists all settings; keys have _ for -")
            })?
        }
    };
    layer.over(file).settle().map_err(|faults| {
        Fault::usage(format!("the settings do not fit:\n  {}", faults.join("\n  ")))
            .hint("`matins server -h` explains every setting")
    })
}

/// Names in the environment that look like settings and are none.
fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let command = crate::args::Cli::command();
    let server = command.find_subcommand("server").expect("it is in the tree of verbs");
    let known: Vec<_> = server.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    names.filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str())).collect()
}

/// `matins server`.
pub(crate) async fn serve(args: ServerArgs) -> Outcome {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = unknown_variables(names);
    if !unknown.is_empty() {
        return Err(Fault::usage(format!("there is no setting {}", unknown.join(", ")))
            .hint("`matins server -h` lists all settings"));
    }
    let settings = read_settings(args.config, args.layer)?;
    start_log(settings.log.parse().expect("it was parsed when it was checked"), settings.log_format);
    tracing::info!(?settings, version = env!("CARGO_PKG_VERSION"), "starting");
    let reason = Box::pin(run_node(settings.node, stopped(args.tied))).await?;
    tracing::info!(reason, "stopped");
    Ok(Exit::Done)
}

/// Logs to stderr what the filter lets through.
pub(crate) fn start_log(filter: EnvFilter, format: LogFormat) {
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
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
    use super::*;

    #[test]
    fn defaults_fit_each_other() {
        let settings = Layer::default().settle().unwrap();
        assert_eq!(settings.node.public_listen.to_string(), "127.0.0.1:7070");
        assert_eq!(settings.node.cluster_listen.to_string(), "127.0.0.1:7071");
        assert!(settings.node.executor.is_some());
    }

    #[test]
    fn the_example_of_a_node_is_understood() {
        let layer: Layer = toml::from_str(include_str!("../../deploy/config/node.toml")).unwrap();
        let settings = layer.settle().unwrap();
        assert_eq!(settings.log_format, LogFormat::Json);
        assert!(settings.node.is_insecure);
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let layer = Layer {
            listen: Some("0.0.0.0:7070".into()),
            cluster_listen: Some("nonsense".into()),
            heartbeat: Some("10ms".parse().unwrap()),
            slots: Some(0),
            log_format: Some("xml".into()),
            ..Layer::default()
        };
        let faults = layer.settle().unwrap_err().join("\n");
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
        let flags = Layer { slots: Some(5), ..Layer::default() };
        let node = read_settings(Some(path.clone()), flags).unwrap().node;
        let executor = node.executor.unwrap();
        assert_eq!((node.name.as_str(), executor.slots), ("a", 5));
        assert_eq!(executor.labels["zone"], "a");
        assert_eq!(node.times.election_max, Duration::from_secs(2));

        fs::write(&path, "nmae = \"a\"\n").unwrap();
        let fault = read_settings(Some(path.clone()), Layer::default()).unwrap_err();
        assert!(fault.report().contains("unknown field `nmae`"), "{}", fault.report());
        fs::write(&path, "heartbeat = \"10\"\n").unwrap();
        let fault = read_settings(Some(path), Layer::default()).unwrap_err();
        assert!(fault.report().contains("a duration has a unit"), "{}", fault.report());
    }

    #[test]
    fn a_variable_that_is_no_setting_is_a_fault() {
        let names = ["MATINS_NODE_SLOTS", "MATINS_NODE_SLOT", "PATH"].map(str::to_owned);
        assert_eq!(unknown_variables(names.into_iter()), ["MATINS_NODE_SLOT"]);
    }
}
