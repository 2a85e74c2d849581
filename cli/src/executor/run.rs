//! `matins executor run`: an executor that belongs to no node.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::Args;
use matins_node::execute::TaskEnvironment;
use matins_node::node::{ExecutorProcess, ExecutorProcessConfig, ExecutorSettings};
use serde::Deserialize;

use crate::context::Outcome;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::server::stopped;
use crate::settings::{self, Faults, Labels, Layer, LogSettings, default_slots, machine};

/// What is logged unless it is said otherwise.
const LOG_DEFAULT: &str = "info";

/// Run tasks on this machine, without being a node
///
/// It has no vote and keeps nothing of the cluster. It finds the leader through any node's cluster port, so one address is
/// enough, and more are safer. There may be many of these.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins executor run --join 10.0.0.1:7071,10.0.0.2:7071 --listen 10.0.0.4:7072 --insecure --labels gpu=yes
  matins executor run --config /etc/matins/executor.toml
  MATINS_NODE_JOIN=127.0.0.1:7071 matins executor run
Flags come first, then the environment, then the file, then the defaults.")]
pub(crate) struct ExecutorRunArgs {
    /// A file with settings: TOML, keys as the flags below with _ for -
    #[arg(long, value_name = "FILE", env = "MATINS_NODE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,

    #[command(flatten)]
    layer: ExecutorLayer,

    /// End when standard input does: so that no executor outlives who started it
    #[arg(long, hide = true)]
    tied: bool,
}

/// Settings of an executor, none of which must be given in the same place. Where a node has the same one it is called the same.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ExecutorLayer {
    /// Cluster ports of nodes; one that answers is enough
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        env = "MATINS_NODE_JOIN",
        hide_env_values = true
    )]
    join: Option<Vec<String>>,

    /// Where it keeps what it runs [default: /var/lib/matins-executor]
    #[arg(long, value_name = "DIR", env = "MATINS_NODE_DATA_DIR", hide_env_values = true)]
    data_dir: Option<PathBuf>,

    /// A label for people [default: the name of the machine]
    #[arg(long, env = "MATINS_NODE_NAME", hide_env_values = true)]
    name: Option<String>,

    /// How many tasks may run here at once [default: twice the number of cores]
    #[arg(long, value_name = "N", env = "MATINS_NODE_SLOTS", hide_env_values = true)]
    slots: Option<u32>,

    /// What tasks can ask for, as in zone=a,disk=ssd
    #[arg(long, value_name = "KEY=VALUE,..", env = "MATINS_NODE_LABELS", hide_env_values = true)]
    labels: Option<Labels>,

    /// PATH of the tasks [default: that of this process]
    #[arg(long, value_name = "PATH", env = "MATINS_NODE_TASK_PATH", hide_env_values = true)]
    task_path: Option<String>,

    /// Where nodes read the logs of what runs here, and where its probes and metrics are [default: 127.0.0.1:7072]
    #[arg(long, value_name = "IP:PORT", env = "MATINS_NODE_LISTEN", hide_env_values = true)]
    listen: Option<String>,

    /// The address that nodes are told [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT", env = "MATINS_NODE_ADVERTISE", hide_env_values = true)]
    advertise: Option<String>,

    /// Listen beyond this machine without TLS and tokens: whoever reaches the port can read logs [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[arg(env = "MATINS_NODE_INSECURE", hide_env_values = true)]
    insecure: Option<bool>,

    /// What is logged, as in `info` or `matins_node=debug,warn` [default: info]
    #[arg(long, value_name = "FILTER", env = "MATINS_NODE_LOG", hide_env_values = true)]
    log: Option<String>,

    /// How it is logged: text or json [default: text]
    #[arg(long, value_name = "FORMAT", env = "MATINS_NODE_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<String>,
}

/// What an executor runs with: every value is there, and fits the others.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    executor: ExecutorProcessConfig,
    log: LogSettings,
}

impl Settings {
    /// The first line of the log: what an operator looks for by its name.
    fn tell(&self, file: Option<&Path>) {
        let ExecutorProcessConfig { executor, .. } = &self.executor;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            name = self.executor.name,
            data_dir = %self.executor.data_dir.display(),
            join = self.executor.join.join(","),
            listen = %self.executor.listen,
            address = self.executor.address,
            insecure = self.executor.is_insecure,
            slots = executor.slots,
            settings_file = file.map(|file| tracing::field::display(file.display())),
            "starting"
        );
        tracing::debug!(labels = ?executor.labels, "other settings");
    }
}

impl Layer for ExecutorLayer {
    type Settled = Settings;

    const VERB: &'static str = "executor run";

    fn over(self, below: Self) -> Self {
        Self {
            join: self.join.or(below.join),
            data_dir: self.data_dir.or(below.data_dir),
            name: self.name.or(below.name),
            slots: self.slots.or(below.slots),
            labels: self.labels.or(below.labels),
            task_path: self.task_path.or(below.task_path),
            listen: self.listen.or(below.listen),
            advertise: self.advertise.or(below.advertise),
            insecure: self.insecure.or(below.insecure),
            log: self.log.or(below.log),
            log_format: self.log_format.or(below.log_format),
        }
    }

    fn settle(self, faults: &mut Faults) -> Settings {
        let listen = faults.address("listen", self.listen, (Ipv4Addr::LOCALHOST, 7072));
        let log = faults.log((self.log, LOG_DEFAULT), self.log_format.as_deref());
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/matins-executor".into());
        let executor = ExecutorProcessConfig {
            // What cannot be made absolute is told by the executor.
            data_dir: std::path::absolute(&data_dir).unwrap_or(data_dir),
            name: self.name.unwrap_or_else(machine),
            join: self.join.unwrap_or_default(),
            listen,
            address: self.advertise,
            is_insecure: self.insecure.unwrap_or(false),
            executor: ExecutorSettings {
                slots: self.slots.unwrap_or_else(default_slots),
                labels: self.labels.unwrap_or_default().into(),
                environment: TaskEnvironment { path: self.task_path, variables: Vec::new() },
                cgroup: None,
            },
        };
        faults.extend(executor.faults());
        Settings { executor, log }
    }
}

/// Runs until it is told to end.
pub(super) async fn run(args: ExecutorRunArgs) -> Outcome {
    let settings = settings::read(args.config.clone(), args.layer)?;
    settings.log.start();
    settings.tell(args.config.as_deref());
    let executor = ExecutorProcess::start(settings.executor).await;
    let executor = executor.map_err(|error| Fault::machine("this executor does not start", error))?;
    let reason = stopped(args.tied).await;
    tracing::info!(reason, "stopping");
    executor.stop().await;
    tracing::info!(reason, "stopped");
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::settle;

    #[test]
    fn the_file_of_the_package_is_read_and_lies_below_flags() {
        let text = include_str!("../../../deploy/config/executor.toml");
        let file: ExecutorLayer = toml::from_str(text).unwrap();
        let flags = ExecutorLayer { slots: Some(5), ..ExecutorLayer::default() };
        let config = settle(flags.over(file)).unwrap().executor;
        assert_eq!((config.executor.slots, config.join.len(), config.name.as_str()), (5, 3, "n1-tasks"));
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let layer = ExecutorLayer {
            listen: Some("nonsense".into()),
            slots: Some(0),
            log: Some("a=b=c".into()),
            log_format: Some("xml".into()),
            ..ExecutorLayer::default()
        };
        let faults = settle(layer).unwrap_err().join("\n");
        for part in ["listen: `nonsense`", "--join", "one slot", "log: ", "`xml`"] {
            assert!(faults.contains(part), "{part} is missing in\n{faults}");
        }
    }
}
