//! A cluster of real processes for end-to-end tests: started, made ready with a deadline, asked through the command line,
//! killed node by node, and gone when it is dropped. Start at [`Cluster::start`].

#![allow(dead_code, reason = "each test file uses its own part of it")]

pub(crate) mod load;
mod processes;

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

/// A schedule that is due each second, for tests that look what became of its ticks.
pub(crate) const TICKING: &str = r#"
workflow: ticking
schedules:
  second: { cron: "* * * * * *", catchup: none }
concurrency: { max_active_runs: 2, on_full: skip }
tasks:
  work: { run: "true" }
"#;

/// Nodes on free ports of loopback, in a folder of their own.
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) nodes: Vec<Node>,
    /// Executors that belong to no node.
    executors: Vec<Child>,
    /// Nodes that were ever started.
    made: usize,
}

/// One node, up or down.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) cluster_port: u16,
    pub(crate) data_dir: PathBuf,
    /// More flags, and more of its environment.
    pub(crate) flags: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// The feature level that it pretends to support; `None`: that of this release.
    pub(crate) level: Option<String>,
    child: Option<Child>,
}

/// What a call of the command line came to.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Drop for Cluster {
    /// Nodes first, so that nothing starts anew; then supervisors and tasks, which outlive a node on purpose.
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        self.kill_executors();
        processes::end_all_of(self.folder.path());
    }
}

impl Cluster {
    /// Starts so many nodes and makes one cluster of them, with a ready leader.
    pub(crate) fn start(nodes: usize) -> Self {
        Self::start_with(nodes, |_| {})
    }

    /// As [`Self::start`], with nodes that are changed before they are started.
    pub(crate) fn start_with(nodes: usize, change: impl Fn(&mut Node)) -> Self {
        let cluster = Self::waiting_with(nodes, change);
        cluster.until("the first node answers", || cluster.status(0).is_some());
        let first = cluster.nodes[0].endpoint();
        cluster.ask_at(&first, &["cluster", "init"]).well();
        for node in &cluster.nodes[1..] {
            let address = node.cluster_address();
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
        Self::waiting_with(nodes, |_| {})
    }

    /// As [`Self::waiting`], with nodes that are changed before they are started.
    pub(crate) fn waiting_with(nodes: usize, change: impl Fn(&mut Node)) -> Self {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let ports = free_ports(2 * nodes);
        let node = |at: usize| Node {
            name: format!("n{}", at + 1),
            port: ports[at],
            cluster_port: ports[nodes + at],
            data_dir: folder.path().join(format!("n{}", at + 1)),
            flags: Vec::new(),
            environment: Vec::new(),
            level: None,
            child: None,
        };
        let mut nodes: Vec<Node> = (0..nodes).map(node).collect();
        nodes.iter_mut().for_each(change);
        nodes.iter_mut().for_each(Node::up);
        let made = nodes.len();
        Self { folder, nodes, executors: Vec::new(), made }
    }

    /// Starts another node, which belongs to no cluster yet, and tells which it is.
    pub(crate) fn start_empty(&mut self) -> usize {
        self.start_empty_with(|_| {})
    }

    /// As [`Self::start_empty`], with a node that is changed before it is started.
    pub(crate) fn start_empty_with(&mut self, change: impl Fn(&mut Node)) -> usize {
        self.made += 1;
        let name = format!("n{}", self.made);
        let ports = free_ports(2);
        let data_dir = self.folder.path().join(&name);
        let mut node = Node {
            name,
            port: ports[0],
            cluster_port: ports[1],
            data_dir,
            level: None,
            flags: Vec::new(),
            environment: Vec::new(),
            child: None,
        };
        change(&mut node);
        node.up();
        self.nodes.push(node);
        let at = self.nodes.len() - 1;
        self.until("the node answers", || self.status(at).is_some());
        at
    }

    /// Starts another node and makes it a voter.
    pub(crate) fn grow(&mut self) {
        let new = self.start_empty();
        self.ask(&["cluster", "add", &self.nodes[new].cluster_address()]).well();
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
        // The one that was seen: a moment later another look may find none.
        let mut leader = None;
        self.until("there is a leader", || {
            leader = self.leader().filter(|at| self.nodes[*at].is_up());
            leader.is_some()
        });
        leader.expect("it was waited for")
    }

    /// Waits until something is so; fails with what the nodes logged if it never is.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is_so: impl FnMut() -> bool) {
        self.until_within(DEADLINE, what, is_so);
    }

    /// As [`Self::until`], with a promise of its own about how long it takes.
    #[track_caller]
    pub(crate) fn until_within(&self, most: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + most;
        while !is_so() {
            assert!(Instant::now() < deadline, "not within {most:?}: {what}\n{}", self.logs());
            sleep(PAUSE);
        }
    }

    /// Waits until a node has ended by itself.
    #[track_caller]
    pub(crate) fn until_left(&mut self, at: usize) {
        let deadline = Instant::now() + DEADLINE;
        while !self.nodes[at].has_left() {
            assert!(Instant::now() < deadline, "node {at} did not leave\n{}", self.logs());
            sleep(PAUSE);
        }
    }

    /// Registers workflows, written as one file.
    #[track_caller]
    pub(crate) fn apply(&self, source: &str) {
        let path = self.folder.path().join("test.matins.yaml");
        fs::write(&path, source).expect("the folder is there");
        self.ask(&["apply", path.to_str().expect("the path is plain")]).well();
    }

    /// Starts a run and gives its id.
    #[track_caller]
    pub(crate) fn begin(&self, args: &[&str]) -> String {
        self.ask(&[&["start"], args].concat()).well().out.trim().to_owned()
    }

    /// A run, or one task of it, as it is now.
    #[track_caller]
    pub(crate) fn get(&self, what: &str) -> serde_json::Value {
        self.json(&["run", "get", what])
    }

    /// Waits until a run or a task is in this state.
    #[track_caller]
    pub(crate) fn until_state(&self, what: &str, state: &str) {
        self.until(&format!("{what} is {state}"), || self.get(what)["state"] == state);
    }

    /// Waits until a task of a run has an attempt with a process, and tells by which fence.
    #[track_caller]
    pub(crate) fn until_started(&self, task: &str) -> u64 {
        let mut fence = None;
        self.until(&format!("{task} has started"), || {
            let task = self.get(task);
            fence = (task["state"] == "running").then(|| fence_of(&task, attempt_states(&task).len() - 1));
            fence.is_some_and(|fence| self.has_process(fence))
        });
        fence.expect("it was waited for")
    }

    /// Starts an executor that belongs to no node, and tells where its port is. It is ended with the cluster's folder.
    pub(crate) fn start_executor(&mut self, name: &str) -> String {
        self.start_executor_by(command(), name)
    }

    /// As [`Self::start_executor`], by a command that becomes the binary.
    pub(crate) fn start_executor_by(&mut self, mut command: Command, name: &str) -> String {
        let (dir, listen) = (self.folder.path().join(name), format!("127.0.0.1:{}", free_ports(1)[0]));
        let join = self.nodes.iter().map(Node::cluster_address).collect::<Vec<_>>().join(",");
        let log = File::options().create(true).append(true).open(dir.with_extension("log"));
        command.args(["executor", "run", "--name", name, "--join", &join, "--listen", &listen, "--tied"]);
        command.args(["--labels", "place=outside"]);
        command.arg("--data-dir").arg(&dir).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.stderr(log.expect("the folder is there")).spawn();
        self.executors.push(child.expect("the binary can be started"));
        listen
    }

    /// Asks all of them to end, and waits until they have.
    #[track_caller]
    pub(crate) fn stop_executors(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        for mut child in std::mem::take(&mut self.executors) {
            let pid = Pid::from_raw(child.id().cast_signed()).expect("it has a number");
            kill_process(pid, Signal::TERM).expect("it was not waited for yet");
            while child.try_wait().expect("it is our child").is_none() {
                assert!(Instant::now() < deadline, "an executor does not end\n{}", self.logs());
                sleep(PAUSE);
            }
        }
    }

    /// Ends all of them, as a power cut would.
    pub(crate) fn kill_executors(&mut self) {
        for mut child in self.executors.drain(..) {
            child.kill().expect("it was not waited for yet");
            child.wait().expect("it is our child");
        }
    }

    /// Waits until a node's executor is in this state, as `executor list` says it.
    #[track_caller]
    pub(crate) fn until_executor(&self, at: usize, state: &str) {
        self.until_executor_named(&self.nodes[at].name, state);
    }

    /// As [`Self::until_executor`], for any executor.
    #[track_caller]
    pub(crate) fn until_executor_named(&self, name: &str, state: &str) {
        let is_so = || {
            let list = self.json(&["executor", "list"]);
            list.as_array()
                .is_some_and(|all| all.iter().any(|it| it["name"] == *name && it["state"] == state))
        };
        self.until(&format!("executor {name} is {state}"), is_so);
    }

    /// Starts a run of a workflow with the task `work` on this node, though others are there too.
    #[track_caller]
    pub(crate) fn begin_on(&self, at: usize, args: &[&str]) -> String {
        (0..self.nodes.len()).for_each(|at| self.until_executor(at, "ready"));
        let others = || self.nodes.iter().enumerate().filter(move |(other, _)| *other != at);
        others().for_each(|(_, node)| drop(self.ask(&["executor", "drain", &node.name]).well()));
        let run = self.begin(args);
        let task = format!("{run}/work");
        self.until_started(&task);
        assert_eq!(self.get(&task)["attempts"][0]["executorName"], *self.nodes[at].name);
        others().for_each(|(_, node)| drop(self.ask(&["executor", "undrain", &node.name]).well()));
        run
    }

    /// Whether a process of the attempt with this fence is alive, on any node.
    pub(crate) fn has_process(&self, fence: u64) -> bool {
        processes::with_fence(self.folder.path(), fence)
    }

    /// A call of the command line that goes on beside the test.
    pub(crate) fn ask_beside(&self, endpoint: &str, args: &[&str], output: &Path) -> Child {
        let output = File::create(output).expect("the folder is there");
        let mut command = command();
        command.args(["--endpoint", endpoint]).args(args).current_dir(self.folder.path());
        command.stdin(Stdio::null()).stdout(output).spawn().expect("the binary can be started")
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

    /// Where other nodes reach it.
    pub(crate) fn cluster_address(&self) -> String {
        format!("127.0.0.1:{}", self.cluster_port)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// Memory of its process, in bytes.
    #[track_caller]
    pub(crate) fn resident_bytes(&self) -> u64 {
        let process = self.child.as_ref().expect("it is up").id();
        let status =
            fs::read_to_string(format!("/proc/{process}/status")).expect("it was not waited for yet");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has it");
        let kibibytes = line.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok());
        1_024 * kibibytes.expect("it is a number")
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
            .args(&self.flags)
            .env("MATINS_TEST_WALL_CLOCK", self.wall_clock())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .envs(self.level.iter().map(|level| ("MATINS_TEST_LEVEL", level)))
            // It must not outlive the test, however that ends.
            .arg("--tied")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the binary can be started"));
    }

    /// Holds how far its wall clock is set off, in milliseconds; without the file it is right.
    fn wall_clock(&self) -> PathBuf {
        self.data_dir.with_extension("clock")
    }

    /// Sets its wall clock off.
    pub(crate) fn set_clock(&self, ahead: Duration) {
        fs::write(self.wall_clock(), ahead.as_millis().to_string()).expect("the folder is there");
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is our child");
        }
    }

    /// Ends it in good order, as a service manager does.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("it is our child");
        }
    }

    /// Whether it has ended by itself. It is down then.
    pub(crate) fn has_left(&mut self) -> bool {
        let has_left =
            self.child.as_mut().is_some_and(|child| child.try_wait().expect("it is our child").is_some());
        if has_left {
            self.child = None;
        }
        has_left
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

/// The fence of an attempt, by its place.
#[track_caller]
pub(crate) fn fence_of(task: &serde_json::Value, at: usize) -> u64 {
    let fence = task["attempts"][at]["fence"].as_str().and_then(|fence| fence.parse().ok());
    fence.unwrap_or_else(|| panic!("attempt {at} has no fence: {task}"))
}

/// How the attempts of a task stand, in order.
pub(crate) fn attempt_states(task: &serde_json::Value) -> Vec<&str> {
    let attempts = task["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    attempts.iter().map(|attempt| attempt["state"].as_str().unwrap_or("none")).collect()
}

/// The binary, without anything of the environment that could change what it does.
pub(crate) fn command() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_matins")));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MATINS_") {
            command.env_remove(name);
        }
    }
    command
}

/// The same, which may open so many files at first, and so many if it raises that.
pub(crate) fn command_with_files(soft: u32, hard: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\"")]);
    let command = command();
    command.get_envs().for_each(|(name, _)| {
        shell.env_remove(name);
    });
    shell.arg(command.get_program());
    shell
}

/// Calls a verb that needs no cluster.
pub(crate) fn offline(args: &[&str]) -> Said {
    Said::from(command().args(args).output().expect("the binary can be started"))
}

/// So many free ports of loopback, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    let held: Vec<TcpListener> = (0..count).map(bind).collect();
    held.iter().map(|it| it.local_addr().expect("it is bound").port()).collect()
}
