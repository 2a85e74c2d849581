//! The nodes of a run: real `matins server` processes, one per node, each with a folder, an address and, where the machine
//! allows, a network and a disk of its own.
//!
//! A keeper looks after them as a service manager would: a node that ends by itself is started again, and why it ended is
//! noted. Start at [`Nodes::start`].

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::disk::Disk;
use super::network::{CLUSTER_PORT, Network, PUBLIC_PORT, inside};
use super::processes::{self, is_in, is_of, pids, words};
use super::workload::Trouble;

/// How many tasks a node runs at once.
pub(crate) const SLOTS: u32 = 8;

/// A node that ended by itself is started again after so long, as a service manager does it.
const REST: Duration = Duration::from_millis(500);

/// A connection on this machine is made or refused within this.
const CONNECT_MAX: Duration = Duration::from_millis(500);

/// The exit code of a leader that cannot lead (PROTOCOL 2.3).
pub(crate) const GAVE_UP_LEAD: i32 = 75;
/// The exit code of a node whose disk fails it (PROTOCOL 6.1, 6.8).
const DISK_FAULT: i32 = 74;

/// What a node says that does not start because its disk is full.
const NO_ROOM: &str = "no room left on the disk";
/// An error with its causes has no more lines.
const LAST_LINES: usize = 6;

/// One node.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) public: SocketAddr,
    pub(crate) cluster: SocketAddr,
    pub(crate) data_dir: PathBuf,
    pub(crate) disk: Option<Disk>,
    namespace: Option<(String, u64)>,
    log: PathBuf,
    clock: PathBuf,
    process: Mutex<Process>,
    /// Its disk fails it, so that it may stop itself.
    is_disk_bad: AtomicBool,
}

/// The process of a node.
enum Process {
    /// Not there, because a fault wants it so.
    Down,
    /// It ended by itself, and is started again at this instant.
    Resting(Instant),
    /// There, and to be there.
    Kept(Child),
    /// Started to see what becomes of it.
    OnTrial(Child),
}

/// A node that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) node: String,
    pub(crate) why: Why,
}

/// Why a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It led and could not (PROTOCOL 2.3).
    GaveUpLead,
    /// Its disk failed it, as it was made to (PROTOCOL 6.1).
    BadDisk,
    /// Nothing that the protocol names.
    Unknown(String),
}

/// All nodes, and what they stand on.
pub(crate) struct Nodes {
    // Nodes go before the network and the folder do.
    /// Members first, then those that stand by.
    pub(crate) all: Vec<Node>,
    members: usize,
    pub(crate) network: Option<Network>,
    pub(crate) folder: PathBuf,
    binary: PathBuf,
    shrink: u64,
    left: Mutex<Vec<Left>>,
    is_over: AtomicBool,
}

/// What nodes are made of.
pub(crate) struct Plan {
    pub(crate) binary: PathBuf,
    pub(crate) folder: PathBuf,
    pub(crate) nodes: usize,
    /// So many more stand by, to be added while it runs. They have no disks of their own.
    pub(crate) spares: usize,
    /// Tells this run from others of this process.
    pub(crate) number: u32,
    /// Bounds of log and history are smaller by so much, if the binary is a build for development: so that snapshots,
    /// purges and history come into play within seconds.
    pub(crate) shrink: u64,
    /// Disks of their own are wanted.
    pub(crate) with_disks: bool,
}

impl Nodes {
    /// Makes what nodes need, as far as this machine allows; starts none yet. What it does not allow is told.
    pub(crate) fn prepare(plan: &Plan, notes: &mut Vec<String>) -> Result<Self, Trouble> {
        let network = Network::build(plan.number, plan.nodes + plan.spares);
        let network = network.map_err(|trouble| notes.push(format!("no namespaces: {}", trouble.0))).ok();
        let mut nodes = Self {
            all: Vec::new(),
            members: plan.nodes,
            network,
            folder: plan.folder.clone(),
            binary: plan.binary.clone(),
            shrink: plan.shrink,
            left: Mutex::default(),
            is_over: AtomicBool::new(false),
        };
        for at in 0..plan.nodes + plan.spares {
            let node = nodes.make(at, plan, notes)?;
            nodes.all.push(node);
        }
        Ok(nodes)
    }

    fn make(&self, at: usize, plan: &Plan, notes: &mut Vec<String>) -> Result<Node, Trouble> {
        let name = format!("n{}", at + 1);
        let folder = self.folder.join(&name);
        let mut disk = None;
        if plan.with_disks && at < plan.nodes {
            let image = format!("{}-{}-{name}", std::process::id(), plan.number);
            disk = Disk::make(&image, &folder)
                .map_err(|trouble| notes.push(format!("no disk for {name}: {}", trouble.0)))
                .ok();
        }
        fs::create_dir_all(&folder).map_err(|error| Trouble(format!("{}: {error}", folder.display())))?;
        let (public, cluster) = match &self.network {
            Some(network) => {
                let address = network.address(at);
                (SocketAddr::new(address, PUBLIC_PORT), SocketAddr::new(address, CLUSTER_PORT))
            }
            None => free_addresses(at)?,
        };
        let namespace = match &self.network {
            Some(network) => Some((network.namespace(at), network.number(at)?)),
            None => None,
        };
        Ok(Node {
            log: self.folder.join(format!("{name}.log")),
            clock: self.folder.join(format!("{name}.clock")),
            data_dir: folder.join("data"),
            name,
            public,
            cluster,
            disk,
            namespace,
            process: Mutex::new(Process::Down),
            is_disk_bad: AtomicBool::new(false),
        })
    }

    /// Starts the nodes that the cluster is made of.
    pub(crate) fn start(&self) -> Result<(), Trouble> {
        (0..self.members).try_for_each(|at| self.up(at))
    }

    /// The nodes that are members whenever no fault changes who is.
    pub(crate) fn members(&self) -> &[Node] {
        &self.all[..self.members]
    }

    /// The places of the nodes that stand by.
    pub(crate) fn spares(&self) -> std::ops::Range<usize> {
        self.members..self.all.len()
    }

    /// Whether snapshots come within seconds.
    pub(crate) fn are_bounds_small(&self) -> bool {
        self.shrink > 1
    }

    /// The public endpoints of the members, with commas.
    pub(crate) fn endpoints(&self) -> String {
        self.members().iter().map(|node| node.public.to_string()).collect::<Vec<_>>().join(",")
    }

    /// Starts a node that is down, and has it kept.
    pub(crate) fn up(&self, at: usize) -> Result<(), Trouble> {
        let child = self.spawn(at)?;
        *self.all[at].process() = Process::Kept(child);
        Ok(())
    }

    /// Starts a node that is down, to see what becomes of it.
    pub(crate) fn try_up(&self, at: usize) -> Result<(), Trouble> {
        let child = self.spawn(at)?;
        *self.all[at].process() = Process::OnTrial(child);
        Ok(())
    }

    fn spawn(&self, at: usize) -> Result<Child, Trouble> {
        let node = &self.all[at];
        let wrong = |error: std::io::Error| Trouble(format!("cannot start {}: {error}", node.name));
        let log = File::options().create(true).append(true).open(&node.log).map_err(wrong)?;
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MATINS_") {
                command.env_remove(name);
            }
        }
        command
            .arg("server")
            .arg("--data-dir")
            .arg(&node.data_dir)
            .args(["--name", &node.name, "--slots", &SLOTS.to_string(), "--insecure"])
            .args(["--listen", &node.public.to_string(), "--cluster-listen", &node.cluster.to_string()])
            .env("MATINS_TEST_WALL_CLOCK", &node.clock)
            .env("MATINS_TEST_SHRINK", self.shrink.to_string())
            .env("RUST_BACKTRACE", "1")
            // It must not outlive this process, however that ends.
            .arg("--tied")
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        let namespace = node.namespace.as_ref().map(|(name, _)| name.as_str());
        inside(namespace, || command.spawn())?.map_err(wrong)
    }

    /// Looks after the nodes once: notes what ended by itself, and starts it again.
    pub(crate) fn keep(&self) -> Result<(), Trouble> {
        for (at, node) in self.all.iter().enumerate() {
            let ended = {
                let mut process = node.process();
                match &mut *process {
                    Process::Down | Process::OnTrial(_) => None,
                    Process::Resting(until) if Instant::now() < *until => None,
                    Process::Resting(_) if self.is_over.load(Ordering::Acquire) => None,
                    Process::Resting(_) => {
                        *process = Process::Kept(self.spawn(at)?);
                        None
                    }
                    Process::Kept(child) => {
                        let ended = child.try_wait();
                        let ended = ended.map_err(|error| Trouble(format!("{}: {error}", node.name)))?;
                        if ended.is_some() {
                            *process = Process::Resting(Instant::now() + REST);
                        }
                        ended
                    }
                }
            };
            if let Some(status) = ended {
                let why = node.why(status);
                self.lock_left().push(Left { node: node.name.clone(), why });
            }
        }
        Ok(())
    }

    /// Nodes that ended by themselves so far.
    pub(crate) fn left(&self) -> Vec<Left> {
        self.lock_left().clone()
    }

    /// Lines of the nodes' logs, and of their supervisors', that tell of a panic.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for node in &self.all {
            let supervisors = fs::read_dir(node.data_dir.join("executor/supervisors")).into_iter().flatten();
            let logs = supervisors.flatten().map(|entry| entry.path().join("log"));
            for log in logs.chain([node.log.clone()]) {
                let text = fs::read(&log).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines = text.lines().filter(|line| line.contains("panicked at"));
                panics.extend(lines.map(|line| format!("{}: {line}", node.name)));
            }
        }
        panics
    }

    /// Asks all nodes to end, waits a moment, and then ends everything that is left of them.
    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        for node in &self.all {
            node.signal(Signal::CONT);
            node.kill();
        }
        let numbers: Vec<u64> = self.all.iter().filter_map(|node| Some(node.namespace.as_ref()?.1)).collect();
        processes::end_all(|pid| {
            is_of(pid, &self.folder) || numbers.iter().any(|number| is_in(pid, *number))
        });
    }

    fn lock_left(&self) -> MutexGuard<'_, Vec<Left>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nodes {
    /// Nodes first, so that nothing starts anew; then supervisors and tasks, which outlive a node on purpose. Disks and the
    /// network go with their fields.
    fn drop(&mut self) {
        self.end();
    }
}

impl Node {
    /// The process, while it is up.
    pub(crate) fn pid(&self) -> Option<i32> {
        match &*self.process() {
            Process::Down | Process::Resting(_) => None,
            Process::Kept(child) | Process::OnTrial(child) => Some(child.id().cast_signed()),
        }
    }

    /// Kills it, if it is up, and leaves it down.
    pub(crate) fn kill(&self) {
        kill(&mut self.process());
    }

    /// Asks it to end, and waits until it has. `false`: it does not, and was killed.
    pub(crate) fn stop(&self, within: Duration) -> bool {
        let mut process = self.process();
        let ended = match &mut *process {
            Process::Down | Process::Resting(_) => true,
            Process::Kept(child) | Process::OnTrial(child) => {
                processes::send(child.id().cast_signed(), Signal::TERM);
                ends(child, within)
            }
        };
        // Before the keeper can look: it would take this for an end of the node's own.
        kill(&mut process);
        ended
    }

    /// Sends it a signal, if it is up.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid() {
            processes::send(pid, signal);
        }
    }

    /// How the process that is on trial ended. `None`: it lives.
    pub(crate) fn verdict(&self) -> Result<Option<ExitStatus>, Trouble> {
        match &mut *self.process() {
            Process::OnTrial(child) => {
                child.try_wait().map_err(|error| Trouble(format!("{}: {error}", self.name)))
            }
            Process::Down | Process::Resting(_) | Process::Kept(_) => {
                Err(Trouble(format!("{} is not on trial", self.name)))
            }
        }
    }

    /// From now on its process may end by itself, which [`Self::verdict`] tells.
    pub(crate) fn let_go(&self) {
        let mut process = self.process();
        *process = match std::mem::replace(&mut *process, Process::Down) {
            Process::OnTrial(child) | Process::Kept(child) => Process::OnTrial(child),
            other @ (Process::Down | Process::Resting(_)) => other,
        };
    }

    /// From now on the process that was on trial is kept.
    pub(crate) fn acquit(&self) {
        let mut process = self.process();
        *process = match std::mem::replace(&mut *process, Process::Down) {
            Process::OnTrial(child) | Process::Kept(child) => Process::Kept(child),
            other @ (Process::Down | Process::Resting(_)) => other,
        };
    }

    /// Whether somebody listens on its public port.
    pub(crate) fn listens(&self) -> bool {
        TcpStream::connect_timeout(&self.public, CONNECT_MAX).is_ok()
    }

    /// Sets its wall clock off by so many milliseconds.
    pub(crate) fn set_clock(&self, ahead: i64) -> Result<(), Trouble> {
        // As a whole, so that it never reads half a number.
        let new = self.clock.with_extension("new");
        let written = fs::write(&new, ahead.to_string()).and_then(|()| fs::rename(&new, &self.clock));
        written.map_err(|error| Trouble(format!("cannot set the clock of {}: {error}", self.name)))
    }

    /// Says whether its disk is failing it from now on.
    pub(crate) fn blame_disk(&self, health: DiskHealth) {
        self.is_disk_bad.store(health == DiskHealth::Bad, Ordering::Release);
    }

    /// The bytes that it has logged so far.
    pub(crate) fn logged(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |metadata| metadata.len() as usize)
    }

    /// What it has logged since then.
    pub(crate) fn logged_since(&self, bytes: usize) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(text.get(bytes..).unwrap_or_default()).into_owned()
    }

    /// The processes of its supervisors.
    pub(crate) fn supervisors(&self) -> Vec<i32> {
        let is_one = |pid: &i32| {
            let words = words(*pid);
            words.get(1).is_some_and(|word| word == "supervisor")
                && words.iter().any(|word| Path::new(word).starts_with(&self.data_dir))
        };
        pids().filter(is_one).collect()
    }

    /// Every process that runs on its machine, were it one.
    pub(crate) fn is_own(&self, pid: i32) -> bool {
        match &self.namespace {
            Some((_, number)) => is_in(pid, *number),
            None => is_of(pid, &self.data_dir),
        }
    }

    fn why(&self, status: ExitStatus) -> Why {
        let text = self.logged_since(self.logged().saturating_sub(4_000));
        let is_disk_bad = self.is_disk_bad.load(Ordering::Acquire);
        match status.code() {
            Some(GAVE_UP_LEAD) => Why::GaveUpLead,
            Some(DISK_FAULT) if is_disk_bad => Why::BadDisk,
            Some(_) if is_disk_bad && last_lines(&text).contains(NO_ROOM) => Why::BadDisk,
            Some(_) | None => {
                let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                Why::Unknown(format!("{status}: {last}"))
            }
        }
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a disk fails its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskHealth {
    Good,
    Bad,
}

/// Kills a process, if it is up, and leaves it down.
fn kill(process: &mut Process) {
    match std::mem::replace(process, Process::Down) {
        Process::Down | Process::Resting(_) => {}
        Process::Kept(mut child) | Process::OnTrial(mut child) => {
            // Neither fails while nobody has waited for it; if it has ended already, both come to nothing.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The last few lines: what a process says when it does not start.
fn last_lines(text: &str) -> String {
    let last: Vec<&str> = text.lines().rev().take(LAST_LINES).collect();
    last.join("\n")
}

/// Whether a child ends within this time.
fn ends(child: &mut Child, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        if child.try_wait().is_ok_and(|status| status.is_some()) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Two free ports on a loopback address of its own.
fn free_addresses(at: usize) -> Result<(SocketAddr, SocketAddr), Trouble> {
    let address: IpAddr = Ipv4Addr::new(127, 0, 0, at as u8 + 1).into();
    let bind = || TcpListener::bind((address, 0)).and_then(|held| held.local_addr().map(|at| (held, at)));
    // Both are held until both are found.
    let (first, second) = (bind(), bind());
    match (first, second) {
        (Ok(first), Ok(second)) => Ok((first.1, second.1)),
        (Err(error), _) | (_, Err(error)) => Err(Trouble(format!("no free port on {address}: {error}"))),
    }
}

#[cfg(test)]
mod tests;
