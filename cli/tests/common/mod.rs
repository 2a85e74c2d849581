//! A cluster of real processes for end-to-end tests: started, made ready with a deadline, asked through the command line,
//! killed node by node, and gone when it is dropped. Start at [`Cluster::start`].

#![allow(dead_code, reason = "each test file uses its own part of it")]

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Everything that a test waits for comes within this, also on a machine that is busy with a build.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// Nodes on free ports of loopback, in a folder of their own.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) nodes: Vec<Node>,
}

/// One node, up or down.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) cluster_port: u16,
    pub(crate) data_dir: PathBuf,
    child: Option<Child>,
}

/// What a call of the command line came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Cluster {
    /// Starts so many nodes and makes one cluster of them, with a ready leader.
    pub(crate) fn start(nodes: usize) -> Self {
        let cluster = Self::waiting(nodes);
        cluster.until("the first node answers", || cluster.status(0).is_some());
        let first = cluster.nodes[0].endpoint();
        cluster.ask_at(&first, &["cluster", "init"]).well();
        for node in &cluster.nodes[1..] {
            let address = format!("127.0.0.1:{}", node.cluster_port);
            cluster.until("the node answers", || {
                cluster.ask_at(&node.endpoint(), &["cluster", "status"]).code == Some(0)
            });
            cluster.ask_at(&first, &["cluster", "add", &address]).well();
        }
        cluster.until_ready();
        cluster
    }

    /// Starts so many nodes that belong to no cluster yet.
    pub(crate) fn waiting(nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let ports = free_ports(2 * nodes);
        let node = |at: usize| Node {
            name: format!("n{}", at + 1),
            port: ports[at],
            cluster_port: ports[nodes + at],
            data_dir: folder.path().join(format!("n{}", at + 1)),
            child: None,
        };
        let mut nodes: Vec<Node> = (0..nodes).map(node).collect();
        nodes.iter_mut().for_each(Node::up);
        Self { folder, nodes }
    }

    /// All endpoints, as `--endpoint` takes them.
    pub(crate) fn endpoints(&self) -> String {
        self.nodes.iter().map(Node::endpoint).collect::<Vec<_>>().join(",")
    }

    /// Calls the command line of this cluster.
    pub(crate) fn ask(&self, args: &[&str]) -> Said {
        self.ask_at(&self.endpoints(), args)
    }

    /// As [`Self::ask`], at one node.
    pub(crate) fn ask_at(&self, endpoint: &str, args: &[&str]) -> Said {
        let output =
            command().args(["--endpoint", endpoint]).args(args).current_dir(self.folder.path()).output();
        Said::from(output.expect("the binary can be started"))
    }

    /// The same as JSON, which must have gone well.
    pub(crate) fn json(&self, args: &[&str]) -> serde_json::Value {
        let said = self.ask(&[args, &["-o", "json"]].concat()).well();
        serde_json::from_str(&said.out).expect("-o json prints JSON")
    }

    /// How the cluster is, as a node sees it; `None`: it does not answer.
    pub(crate) fn status(&self, at: usize) -> Option<serde_json::Value> {
        let said = self.ask_at(&self.nodes[at].endpoint(), &["cluster", "status", "-o", "json"]);
        (said.code == Some(0)).then(|| serde_json::from_str(&said.out).expect("-o json prints JSON"))
    }

    /// Which node leads and is ready, as any node sees it.
    pub(crate) fn leader(&self) -> Option<usize> {
        let status =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].is_up()).find_map(|at| self.status(at))?;
        let leader = status["leader"].as_str().filter(|_| status["ready"] == true)?;
        let node = status["nodes"].as_array()?.iter().find(|node| node["id"] == leader)?;
        let address = node["address"].as_str()?;
        self.nodes.iter().position(|node| node.endpoint() == address)
    }

    /// Waits for a leader that is up, and tells which it is.
    pub(crate) fn until_ready(&self) -> usize {
        let leader = || self.leader().filter(|at| self.nodes[*at].is_up());
        self.until("there is a leader", || leader().is_some());
        leader().expect("there was one a moment ago")
    }

    /// Waits until something is so; fails with what the nodes logged if it never is.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}\n{}", self.logs());
            sleep(PAUSE);
        }
    }

    /// The last lines that each node logged.
    fn logs(&self) -> String {
        let tail = |node: &Node| {
            let text = fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().rev().take(20).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- {}\n{}\n", node.name, lines.join("\n"))
        };
        self.nodes.iter().map(tail).collect()
    }
}

impl Node {
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn log(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, with the data it has.
    pub(crate) fn up(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).expect("its folder is there");
        let child = command()
            .arg("server")
            .arg("--data-dir")
            .arg(&self.data_dir)
            .args(["--name", &self.name, "--listen", &self.endpoint()])
            .args(["--cluster-listen", &format!("127.0.0.1:{}", self.cluster_port)])
            // It must not outlive the test, however that ends.
            .arg("--tied")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the binary can be started"));
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is our child");
        }
    }

    /// Sends a signal, such as STOP and CONT.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, signal).expect("it was not waited for yet");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Said {
    /// Fails the test unless the call went well.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// The binary, without anything of the environment that could change what it does.
fn command() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_matins")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MATINS_") {
            command.env_remove(name);
        }
    }
    command
}

/// So many free ports of loopback, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let held: Vec<TcpListener> = (0..count).map(bind).collect();
    held.iter().map(|it| it.local_addr().expect("it is bound").port()).collect()
}
