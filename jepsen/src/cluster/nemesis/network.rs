//! Faults between nodes; clients reach all of them at any time.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;

use super::{Field, Nemesis, names};
use crate::cluster::network::{CLUSTER_PORT, Network, Way};
use crate::cluster::proxy::{Delay, Proxy};
use crate::cluster::workload::Trouble;

/// The first answer through a slow network comes within this.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Packets on some ways are dropped, by the kernel.
pub(super) struct Partition {
    nodes: usize,
    targets: Vec<usize>,
    cut: Vec<Way>,
}

impl Partition {
    /// Nobody of this group reaches anybody else, nor the other way round.
    pub(super) fn around(group: &[usize], nodes: usize) -> Self {
        let is_cut = |way: &Way| group.contains(&way.0) != group.contains(&way.1);
        Self { nodes, targets: group.to_vec(), cut: ways(nodes).filter(is_cut).collect() }
    }

    /// Each node reaches only its two neighbours; of three nodes, two do not reach each other. Everybody sees a majority,
    /// and no two see the same.
    pub(super) fn ring(first: usize, nodes: usize) -> Self {
        let are_neighbours = |(from, to): Way| (from + 1) % nodes == to || (to + 1) % nodes == from;
        let (a, b) = (first, (first + 1) % nodes);
        let is_cut = |way: &Way| {
            if nodes > 3 { !are_neighbours(*way) } else { *way == (a, b) || *way == (b, a) }
        };
        let cut: Vec<Way> = ways(nodes).filter(is_cut).collect();
        let mut targets: Vec<usize> = cut.iter().map(|way| way.0).collect();
        targets.sort_unstable();
        targets.dedup();
        Self { nodes, targets, cut }
    }

    /// What it sends reaches nobody.
    pub(super) fn mute(target: usize, nodes: usize) -> Self {
        Self { nodes, targets: vec![target], cut: ways(nodes).filter(|way| way.0 == target).collect() }
    }

    /// It hears nobody.
    pub(super) fn deaf(target: usize, nodes: usize) -> Self {
        Self { nodes, targets: vec![target], cut: ways(nodes).filter(|way| way.1 == target).collect() }
    }
}

impl Nemesis for Partition {
    fn nodes(&self) -> Vec<String> {
        names(&self.targets)
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        network_of(field)?.cut(&self.cut)
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let network = network_of(field)?;
        for way in ways(self.nodes) {
            if network.passes(way)? == self.cut.contains(&way) {
                return Ok(None);
            }
        }
        Ok(Some(format!(
            "packets are dropped on exactly {} of {} ways",
            self.cut.len(),
            ways(self.nodes).count()
        )))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        network_of(field)?.mend()
    }
}

/// Every byte between nodes takes its time.
pub(super) struct Slow {
    nodes: usize,
    delay: Delay,
    proxies: Vec<Proxy>,
}

impl Slow {
    /// Half of them are so slow that no quorum round comes back within its deadline, which is the heartbeat's 100 ms.
    pub(super) fn new(random: &mut StdRng, nodes: usize) -> Self {
        let least = if random.random() { random.random_range(5..25) } else { random.random_range(60..300) };
        let least = Duration::from_millis(least);
        Self { nodes, delay: Delay { least, jitter: least / 2 }, proxies: Vec::new() }
    }
}

impl Nemesis for Slow {
    fn nodes(&self) -> Vec<String> {
        names(&(0..self.nodes).collect::<Vec<_>>())
    }

    fn inject(&mut self, field: &Field) -> Result<(), Trouble> {
        let network = network_of(field)?;
        for from in 0..self.nodes {
            let mut ports = Vec::new();
            for (_, to) in ways(self.nodes).filter(|way| way.0 == from) {
                let far = SocketAddr::new(network.address(to), CLUSTER_PORT);
                let proxy = Proxy::open(&field.runtime, network.outside(), far, self.delay)?;
                ports.push((to, proxy.port));
                self.proxies.push(proxy);
            }
            network.detour(from, &ports)?;
        }
        Ok(())
    }

    fn look(&mut self, field: &Field) -> Result<Option<String>, Trouble> {
        let network = network_of(field)?;
        let least = self.delay.least;
        let mut slowest = Duration::ZERO;
        for way in ways(self.nodes) {
            // A node may be starting just now.
            let Ok(took) = network.first_answer(way, ANSWER_MAX) else { return Ok(None) };
            if took < least {
                return Ok(None);
            }
            slowest = slowest.max(took);
        }
        let carried: u64 = self.proxies.iter().map(Proxy::carried).sum();
        Ok(Some(format!(
            "each way is slower by {least:?} at least, {slowest:?} at most; {carried} bytes were held back"
        )))
    }

    fn heal(&mut self, field: &Field) -> Result<(), Trouble> {
        self.proxies.clear();
        network_of(field)?.straighten()
    }
}

fn network_of(field: &Field) -> Result<&Network, Trouble> {
    field.nodes.network.as_ref().ok_or_else(|| Trouble("the nodes have no network of their own".into()))
}

/// Every ordered pair of nodes.
fn ways(nodes: usize) -> impl Iterator<Item = Way> {
    (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to))).filter(|way| way.0 != way.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_of_five_each_sees_a_majority_and_no_two_the_same() {
        let ring = Partition::ring(0, 5);
        let mut sights: Vec<Vec<usize>> =
            (0..5).map(|at| (0..5).filter(|other| !ring.cut.contains(&(at, *other))).collect()).collect();
        assert!(sights.iter().all(|sight| sight.len() == 3));
        sights.sort();
        sights.dedup();
        assert_eq!(sights.len(), 5);
        assert_eq!(Partition::ring(1, 3).cut, [(1, 2), (2, 1)]);
    }

    #[test]
    fn one_way_is_one_way() {
        assert_eq!(Partition::mute(0, 3).cut, [(0, 1), (0, 2)]);
        assert_eq!(Partition::deaf(0, 3).cut, [(1, 0), (2, 0)]);
        assert_eq!(Partition::around(&[1], 3).cut, [(0, 1), (1, 0), (1, 2), (2, 1)]);
    }
}
