//! A network of its own for each node: a namespace of the kernel, tied to this machine by a bridge, with a packet filter
//! between the nodes that lets faults cut any direction of any pair.
//!
//! Clients stay outside and reach every node at any time. Start at [`Network::build`].

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::shell::{call, can, feed};
use super::workload::Trouble;

/// The port of nodes for clients, in a namespace of its own.
pub(crate) const PUBLIC_PORT: u16 = 7070;
/// The port of nodes for each other.
pub(crate) const CLUSTER_PORT: u16 = 7071;

/// New links carry packets within this.
const UP_MAX: Duration = Duration::from_secs(5);
/// How long a probe waits: the packets go through memory.
const PROBE_MAX: Duration = Duration::from_millis(200);
/// How often a probe is sent before it counts as dropped.
const PROBES: usize = 3;
/// Begins the names of namespaces and links, so that those of a killed run are known.
const PREFIX: &str = "mj";
/// The rules of a cut.
const CUT: &str = "matins_cut";
/// The rules of a detour.
const DETOUR: &str = "matins_detour";

/// What a client says first in HTTP/2, with empty settings, so that the server answers.
const HTTP2_HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// Namespaces and the bridge between them. They are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    prefix: String,
    subnet: [u8; 3],
    nodes: usize,
}

/// Packets from the first node to the second, by place.
pub(crate) type Way = (usize, usize);

impl Network {
    /// Builds it for so many nodes. An error: this machine does not allow it.
    pub(crate) fn build(number: u32, nodes: usize) -> Result<Self, Trouble> {
        let pid = std::process::id();
        let prefix = format!("{PREFIX}{pid}x{number}");
        // A range that is set aside for measurements of networks, so it is nobody's.
        let [high, low] = ((pid.wrapping_mul(7).wrapping_add(number)) as u16).to_be_bytes();
        let network = Self { prefix, subnet: [198, 18 + (high & 1), low], nodes };
        network.set_up()?;
        // On a busy machine new links take a while.
        let deadline = Instant::now() + UP_MAX;
        while !network.passes((0, nodes - 1))? {
            if Instant::now() > deadline {
                return Err(Trouble("namespaces do not reach each other over a bridge".into()));
            }
        }
        Ok(network)
    }

    fn set_up(&self) -> Result<(), Trouble> {
        let bridge = format!("{}b", self.prefix);
        ip(&["link", "add", &bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", self.outside()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for at in 0..self.nodes {
            let namespace = self.namespace(at);
            let link = format!("{}v{}", self.prefix, at + 1);
            ip(&["netns", "add", &namespace])?;
            ip(&["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &namespace])?;
            ip(&["link", "set", &link, "master", &bridge, "up"])?;
            let address = format!("{}/24", self.address(at));
            ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// The address of a node.
    pub(crate) fn address(&self, at: usize) -> IpAddr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, at as u8 + 1).into()
    }

    /// The address of this machine, as nodes see it.
    pub(crate) fn outside(&self) -> IpAddr {
        let [a, b, c] = self.subnet;
        Ipv4Addr::new(a, b, c, 254).into()
    }

    /// The namespace of a node.
    pub(crate) fn namespace(&self, at: usize) -> String {
        format!("{}n{}", self.prefix, at + 1)
    }

    /// Whether faults can drop packets here.
    pub(crate) fn has_filter(&self) -> bool {
        let probe = "table inet matins_probe { }\ndelete table inet matins_probe\n";
        feed("ip", &["netns", "exec", &self.namespace(0), "nft", "-f", "-"], probe).is_ok()
    }

    /// Drops all packets on these ways, until [`Self::mend`].
    pub(crate) fn cut(&self, ways: &[Way]) -> Result<(), Trouble> {
        for to in 0..self.nodes {
            let from = ways.iter().filter(|way| way.1 == to).map(|way| self.address(way.0).to_string());
            let from = from.collect::<Vec<_>>().join(", ");
            if !from.is_empty() {
                let rules = format!(
                    "table inet {CUT} {{\n\
                     chain in {{\n type filter hook input priority 0;\n ip saddr {{ {from} }} counter drop;\n }}\n\
                     }}\n"
                );
                self.nft(to, &rules)?;
            }
        }
        Ok(())
    }

    /// Lets all packets through again.
    pub(crate) fn mend(&self) -> Result<(), Trouble> {
        (0..self.nodes).try_for_each(|at| self.remove_table(at, "inet", CUT))
    }

    /// Whether packets pass on this way, by sending some.
    pub(crate) fn passes(&self, (from, to): Way) -> Result<bool, Trouble> {
        let wrong = |error: std::io::Error| Trouble(format!("cannot probe the network: {error}"));
        let bind = |at: usize| {
            let address = SocketAddr::new(self.address(at), 0);
            inside(Some(&self.namespace(at)), || UdpSocket::bind(address))?.map_err(wrong)
        };
        let (sender, receiver) = (bind(from)?, bind(to)?);
        receiver.set_read_timeout(Some(PROBE_MAX)).map_err(wrong)?;
        let address = receiver.local_addr().map_err(wrong)?;
        for _ in 0..PROBES {
            sender.send_to(b"matins", address).map_err(wrong)?;
            if receiver.recv(&mut [0; 16]).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// From now on new connections from this node to the cluster ports of others lead to these ports of this machine
    /// instead, and those that are open are reset.
    pub(crate) fn detour(&self, from: usize, ports: &[(usize, u16)]) -> Result<(), Trouble> {
        let outside = self.outside();
        let rule = |(to, port): &(usize, u16)| {
            let to = format!("ip daddr {} tcp dport {CLUSTER_PORT}", self.address(*to));
            (format!("{to} dnat to {outside}:{port};\n"), format!("{to} reject with tcp reset;\n"))
        };
        let (detours, resets): (String, String) = ports.iter().map(rule).unzip();
        let rules = format!(
            "table ip {DETOUR} {{\n\
             chain detour {{\n type nat hook output priority -100;\n {detours} }}\n\
             chain break_off {{\n type filter hook output priority 0;\n {resets} }}\n\
             }}\n"
        );
        self.nft(from, &rules)
    }

    /// Ends all detours.
    pub(crate) fn straighten(&self) -> Result<(), Trouble> {
        (0..self.nodes).try_for_each(|at| self.remove_table(at, "ip", DETOUR))
    }

    /// How long a node waits for the first answer of another's cluster port.
    pub(crate) fn first_answer(&self, (from, to): Way, within: Duration) -> Result<Duration, Trouble> {
        let address = SocketAddr::new(self.address(to), CLUSTER_PORT);
        let ask = || -> std::io::Result<Duration> {
            let began = Instant::now();
            let mut stream = TcpStream::connect_timeout(&address, within)?;
            stream.set_read_timeout(Some(within))?;
            stream.write_all(HTTP2_HELLO)?;
            stream.read_exact(&mut [0; 9])?;
            Ok(began.elapsed())
        };
        let answer = inside(Some(&self.namespace(from)), ask)?;
        answer.map_err(|error| Trouble(format!("no answer from {address}: {error}")))
    }

    /// The number by which the kernel knows the namespace of a node.
    pub(crate) fn number(&self, at: usize) -> Result<u64, Trouble> {
        let path = path_of(&self.namespace(at));
        let metadata = std::fs::metadata(&path);
        Ok(metadata.map_err(|error| Trouble(format!("no namespace {}: {error}", path.display())))?.ino())
    }

    fn nft(&self, at: usize, rules: &str) -> Result<(), Trouble> {
        feed("ip", &["netns", "exec", &self.namespace(at), "nft", "-f", "-"], rules).map(drop)
    }

    /// The table may be there or not.
    fn remove_table(&self, at: usize, family: &str, table: &str) -> Result<(), Trouble> {
        self.nft(at, &format!("table {family} {table} {{\n}}\ndelete table {family} {table}\n"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&self.prefix);
    }
}

/// Runs something on a thread that has moved into a namespace; `None`: that of this process.
pub(crate) fn inside<T: Send>(namespace: Option<&str>, act: impl FnOnce() -> T + Send) -> Result<T, Trouble> {
    let Some(namespace) = namespace else { return Ok(act()) };
    let path = path_of(namespace);
    let enter = || {
        let wrong = |error: std::io::Error| Trouble(format!("cannot enter {}: {error}", path.display()));
        let file = File::open(&path).map_err(wrong)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|error| wrong(error.into()))?;
        Ok(act())
    };
    // The thread ends with this call, so nothing else ever runs in there by mistake.
    std::thread::scope(|scope| {
        scope.spawn(enter).join().map_err(|_| Trouble("a thread in a namespace panicked".into()))?
    })
}

/// Removes namespaces and bridges of runs whose process is gone.
pub(crate) fn remove_stale() {
    if !can("ip", &["-V"]) {
        return;
    }
    let names = call("ip", &["netns", "list"]).unwrap_or_default();
    let links = call("ip", &["-o", "link", "show", "type", "bridge"]).unwrap_or_default();
    let names = names.lines().filter_map(|line| line.split(' ').next());
    let links = links.lines().filter_map(|line| line.split(": ").nth(1));
    for prefix in names.chain(links).filter_map(run_of) {
        if !Path::new(&format!("/proc/{}", prefix.1)).exists() {
            remove(&prefix.0);
        }
    }
}

/// The prefix and the process of a run, from the name of something it made.
fn run_of(name: &str) -> Option<(String, u32)> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('x')?;
    let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((format!("{PREFIX}{pid}x{number}"), pid.parse().ok()?))
}

/// Removes everything with this prefix. What is not there is no fault.
fn remove(prefix: &str) {
    let names = call("ip", &["netns", "list"]).unwrap_or_default();
    let node = format!("{prefix}n");
    for name in names.lines().filter_map(|line| line.split(' ').next()).filter(|name| name.starts_with(&node))
    {
        // A link ends with the namespace that holds its other end.
        let _ = ip(&["netns", "del", name]);
    }
    let _ = ip(&["link", "del", &format!("{prefix}b")]);
}

fn path_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

fn ip(args: &[&str]) -> Result<(), Trouble> {
    call("ip", args).map(drop)
}

#[cfg(test)]
mod tests;
