//! `matins executor run`: an executor that belongs to no node.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use matins_node::execute::TaskEnvironment;
use matins_node::node::{ExecutorProcess, ExecutorProcessConfig, ExecutorSettings};

use crate::context::Outcome;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::server::{Labels, LogFormat, default_slots, machine, start_log, stopped};

/// What is logged unless it is said otherwise.
const LOG_DEFAULT: &str = "info";

/// Run tasks on this machine, without being a node
///
/// It has no vote and keeps nothing of the cluster. It finds the leader through any node's cluster port, so one address is
/// enough, and more are safer. There may be many of these.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins executor run --join 10.0.0.1:7071,10.0.0.2:7071 --data-dir /var/lib/matins-executor --labels gpu=yes")]
pub(crate) struct ExecutorRunArgs {
    /// Cluster ports of nodes
    #[arg(
        long,
        value_name = "HOST:PORT,..",
        value_delimiter = ',',
        required = true,
        env = "MATINS_EXECUTOR_JOIN"
    )]
    join: Vec<String>,

    /// Where it keeps what it runs
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/matins-executor",
        env = "MATINS_EXECUTOR_DATA_DIR"
    )]
    data_dir: PathBuf,

    /// A label for people [default: the name of the machine]
    #[arg(long, env = "MATINS_EXECUTOR_NAME")]
    name: Option<String>,

    /// How many tasks may run here at once [default: twice the number of cores]
    #[arg(long, value_name = "N", env = "MATINS_EXECUTOR_SLOTS")]
    slots: Option<u32>,

    /// What tasks can ask for, as in zone=a,disk=ssd
    #[arg(long, value_name = "KEY=VALUE,..", env = "MATINS_EXECUTOR_LABELS")]
    labels: Option<Labels>,

    /// PATH of the tasks [default: that of this process]
    #[arg(long, value_name = "PATH", env = "MATINS_EXECUTOR_TASK_PATH")]
    task_path: Option<String>,

    /// Where nodes read the logs of what runs here
    #[arg(long, value_name = "IP:PORT", default_value_t = DEFAULT_LISTEN, env = "MATINS_EXECUTOR_LISTEN")]
    listen: SocketAddr,

    /// The address that nodes are told [default: that of --listen]
    #[arg(long, value_name = "HOST:PORT", env = "MATINS_EXECUTOR_ADVERTISE")]
    advertise: Option<String>,

    /// Listen beyond this machine without TLS and tokens: whoever reaches the port can read logs
    #[arg(long, env = "MATINS_EXECUTOR_INSECURE")]
    insecure: bool,

    /// What is logged, as in `info` or `matins_node=debug,warn`
    #[arg(long, value_name = "FILTER", default_value = LOG_DEFAULT, env = "MATINS_EXECUTOR_LOG")]
    log: String,

    /// How it is logged
    #[arg(long, value_enum, default_value = "text", env = "MATINS_EXECUTOR_LOG_FORMAT")]
    log_format: LogFormat,

    /// End when standard input does: so that no executor outlives who started it
    #[arg(long, hide = true)]
    tied: bool,
}

const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7072);

/// Runs until it is told to end.
pub(super) async fn run(args: ExecutorRunArgs) -> Outcome {
    let config = ExecutorProcessConfig {
        // What cannot be made absolute is told by the executor.
        data_dir: std::path::absolute(&args.data_dir).unwrap_or(args.data_dir),
        name: args.name.unwrap_or_else(machine),
        join: args.join,
        listen: args.listen,
        address: args.advertise,
        is_insecure: args.insecure,
        executor: ExecutorSettings {
            slots: args.slots.unwrap_or_else(default_slots),
            labels: args.labels.unwrap_or_default().into(),
            environment: TaskEnvironment { path: args.task_path, variables: Vec::new() },
            cgroup: None,
        },
    };
    let faults = config.faults();
    if !faults.is_empty() {
        return Err(Fault::usage(format!("the settings do not fit:\n  {}", faults.join("\n  ")))
            .hint("`matins executor run -h` explains every setting"));
    }
    let filter = args.log.parse().map_err(|error| Fault::usage(format!("--log: {error}")))?;
    start_log(filter, args.log_format);
    tracing::info!(?config, version = env!("CARGO_PKG_VERSION"), "starting");
    let executor = ExecutorProcess::start(config).await;
    let executor = executor.map_err(|error| Fault::machine("this executor does not start", error))?;
    let reason = stopped(args.tied).await;
    tracing::info!(reason, "stopping");
    executor.stop().await;
    tracing::info!(reason, "stopped");
    Ok(Exit::Done)
}
