//! `matins server`: one node of a cluster, from flags, `MATINS_NODE_*` or a TOML file.
//!
//! There is one struct of settings, [`Layer`]; flags go over the environment, which goes over the file. [`Settings`] is
//! what they come to once every fault was told. Start at [`serve`].

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, CommandFactory as _};
use serde::Deserialize;

use matins_node::execute::TaskEnvironment;
use matins_node::raft::RaftTimes;
use matins_node::{Node, NodeConfig};

use crate::context::Outcome;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::run::parse_span;

/// Begins the names of all settings in the environment.
const PREFIX: &str = "MATINS_NODE_";

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

    /// Least time without a heartbeat before an election [default: 300ms]
    #[arg(long, value_name = "SPAN", env = "MATINS_NODE_ELECTION_MIN", hide_env_values = true)]
    election_min: Option<Span>,

    /// Most time without a heartbeat before an election [default: 600ms]
    #[arg(long, value_name = "SPAN", env = "MATINS_NODE_ELECTION_MAX", hide_env_values = true)]
    election_max: Option<Span>,

    /// What is logged, as in `info` or `matins_node=debug,warn` [default: info]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) name: String,
    pub(crate) listen: SocketAddr,
    pub(crate) cluster_listen: SocketAddr,
    pub(crate) advertise: String,
    pub(crate) cluster_advertise: String,
    pub(crate) insecure: bool,
    /// `None`: this node runs no tasks.
    pub(crate) executor: Option<ExecutorSettings>,
    pub(crate) heartbeat: Duration,
    pub(crate) election_min: Duration,
    pub(crate) election_max: Duration,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

/// What an executor runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExecutorSettings {
    pub(crate) slots: u32,
    pub(crate) labels: BTreeMap<String, String>,
    /// `None`: PATH of this process.
    pub(crate) path: Option<String>,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }

    /// Fills in the defaults and checks everything; all faults at once.
    fn settle(self) -> Result<Settings, Vec<String>> {
        let mut faults = Vec::new();
        let mut address = |what: &str, given: Option<String>, default: &str| {
            let text = given.unwrap_or_else(|| default.to_owned());
            text.parse().unwrap_or_else(|_| {
                faults.push(format!("{what}: `{text}` is no address: write IP:PORT, as in 10.0.0.1:7070"));
                SocketAddr::from(([127, 0, 0, 1], 0))
            })
        };
        let listen = address("listen", self.listen, "127.0.0.1:7070");
        let cluster_listen = address("cluster_listen", self.cluster_listen, "127.0.0.1:7071");
        let insecure = self.insecure.unwrap_or(false);
        for (what, at) in [("listen", listen), ("cluster_listen", cluster_listen)] {
            if !at.ip().is_loopback() && !insecure {
                faults.push(format!(
                    "{what}: {at} can be reached from other machines, and this release has no TLS and no tokens: \
                     set `insecure` if only machines you trust can reach it"
                ));
            }
        }
        if listen == cluster_listen && listen.port() != 0 {
            faults.push(format!("listen and cluster_listen are the same address {listen}: give two ports"));
        }
        let mut advertised = |what: &str, given: Option<String>, at: SocketAddr| {
            if given.is_none() && at.ip().is_unspecified() {
                faults.push(format!("{what}: {at} means every address, so say which one others use"));
            }
            given.unwrap_or_else(|| at.to_string())
        };
        let advertise = advertised("advertise", self.advertise, listen);
        let cluster_advertise = advertised("cluster_advertise", self.cluster_advertise, cluster_listen);
        let (heartbeat, election_min, election_max) =
            times([self.heartbeat, self.election_min, self.election_max], &mut faults);
        let log_format = match self.log_format.as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                faults.push(format!("log_format: `{other}` is neither text nor json"));
                LogFormat::Text
            }
        };
        let log = self.log.unwrap_or_else(|| "info".into());
        if let Err(error) = log.parse::<tracing_subscriber::EnvFilter>() {
            faults.push(format!("log: {error}"));
        }
        if self.slots == Some(0) {
            faults.push("slots: 0 lets nothing run: give `executor = false` for a node without tasks".into());
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let executor = ExecutorSettings {
            slots: self.slots.unwrap_or_else(default_slots),
            labels: self.labels.unwrap_or_default().0,
            path: self.task_path,
        };
        Ok(Settings {
            data_dir: self.data_dir.unwrap_or_else(|| "/var/lib/matins".into()),
            name: self.name.unwrap_or_else(machine),
            listen,
            cluster_listen,
            advertise,
            cluster_advertise,
            insecure,
            executor: self.executor.unwrap_or(true).then_some(executor),
            heartbeat,
            election_min,
            election_max,
            log,
            log_format,
        })
    }
}

/// Heartbeat, and the least and the most time without one, with their defaults and checked together.
fn times(given: [Option<Span>; 3], faults: &mut Vec<String>) -> (Duration, Duration, Duration) {
    let span = |given: Option<Span>, millis| given.map_or(Duration::from_millis(millis), |span| span.0);
    let [heartbeat, min, max] = given;
    let (heartbeat, min, max) = (span(heartbeat, 100), span(min, 500), span(max, 900));
    if heartbeat < Duration::from_millis(100) {
        // openraft's heartbeat is also the deadline of each append (PROTOCOL 2.5).
        faults.push(format!("heartbeat: {heartbeat:?} is too short, 100ms is the least"));
    }
    if min < heartbeat * 3 || max < min + heartbeat {
        faults.push(format!(
            "election_min and election_max: {min:?} and {max:?} do not fit a heartbeat of {heartbeat:?}: give three \
             heartbeats at least, and one more"
        ));
    }
    (heartbeat, min, max)
}

fn default_slots() -> u32 {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32 * 2)
}

fn machine() -> String {
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
    start_log(&settings);
    tracing::info!(?settings, version = env!("CARGO_PKG_VERSION"), "starting");
    let reason = run_node(settings, stopped(args.tied)).await?;
    tracing::info!(reason, "stopped");
    Ok(Exit::Done)
}

fn start_log(settings: &Settings) {
    let filter: tracing_subscriber::EnvFilter =
        settings.log.parse().expect("it was parsed when it was checked");
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match settings.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
}

/// Comes back with the reason when this process is asked to end.
async fn stopped(tied: bool) -> &'static str {
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
    settings: Settings,
    stop: impl Future<Output = &'static str>,
) -> Result<&'static str, Fault> {
    let node = Node::start(node_config(settings)).await.map_err(|error| {
        Fault::machine("this node does not start", error).hint("`matins server -h` explains every setting")
    })?;
    let reason = stop.await;
    node.stop().await;
    Ok(reason)
}

/// What the node is told.
fn node_config(settings: Settings) -> NodeConfig {
    let times = RaftTimes {
        heartbeat: settings.heartbeat,
        election_min: settings.election_min,
        election_max: settings.election_max,
        ..RaftTimes::default()
    };
    let executor = settings.executor.map(|executor| matins_node::ExecutorSettings {
        slots: executor.slots,
        labels: executor.labels,
        environment: TaskEnvironment { path: executor.path, variables: Vec::new() },
        cgroup: None,
    });
    // A supervisor is found by its path, also from another working directory.
    let data_dir = std::path::absolute(&settings.data_dir).unwrap_or(settings.data_dir);
    NodeConfig {
        data_dir,
        name: settings.name,
        public_listen: settings.listen,
        cluster_listen: settings.cluster_listen,
        public_address: Some(settings.advertise),
        cluster_address: Some(settings.cluster_advertise),
        is_insecure: settings.insecure,
        executor,
        times,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_each_other() {
        let settings = Layer::default().settle().unwrap();
        assert_eq!(settings.listen.to_string(), "127.0.0.1:7070");
        assert_eq!(settings.cluster_advertise, "127.0.0.1:7071");
        assert!(settings.executor.is_some());
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
        let faults = layer.settle().unwrap_err();
        let heads: Vec<_> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(heads, ["cluster_listen", "listen", "advertise", "heartbeat", "log_format", "slots"]);
    }

    #[test]
    fn a_file_lies_below_flags_and_knows_no_other_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        fs::write(&path, "name = \"a\"\nslots = 3\nelection_max = \"2s\"\nlabels = { zone = \"a\" }\n")
            .unwrap();
        let flags = Layer { slots: Some(5), ..Layer::default() };
        let settings = read_settings(Some(path.clone()), flags).unwrap();
        let executor = settings.executor.unwrap();
        assert_eq!((settings.name.as_str(), executor.slots), ("a", 5));
        assert_eq!(executor.labels["zone"], "a");
        assert_eq!(settings.election_max, Duration::from_secs(2));

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
