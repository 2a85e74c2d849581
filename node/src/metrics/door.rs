//! What the ports of a process bear at the moment, and what they turned away by which of their bounds.
//!
//! Told where it happens; what is open is counted by values that are dropped when it closes. Start reading at [`DoorCounts`].

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::registrar::Registrar;

/// One label.
type Label = [(&'static str, &'static str); 1];

/// What bounds callers. Each is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Calls by gRPC in flight.
    GrpcCalls,
    /// Calls by plain HTTP in flight.
    HttpCalls,
    /// Streams by gRPC that are open.
    GrpcStreams,
    /// Streams by plain HTTP that are open.
    HttpStreams,
    /// Connections to the public port, or to the one port of an executor without a node.
    Connections,
    /// Connections to the cluster port.
    ClusterConnections,
    /// Bytes of requests in flight.
    RequestBytes,
    /// Commands that wait for the next entry, on the leader.
    Commands,
}

impl Bound {
    /// Those of a node.
    pub(super) const NODE: [Self; 8] = [
        Self::GrpcCalls,
        Self::HttpCalls,
        Self::GrpcStreams,
        Self::HttpStreams,
        Self::Connections,
        Self::ClusterConnections,
        Self::RequestBytes,
        Self::Commands,
    ];

    /// Those of an executor without a node.
    pub(super) const EXECUTOR: [Self; 2] = [Self::GrpcStreams, Self::Connections];

    fn label(self) -> Label {
        let word = match self {
            Self::GrpcCalls => "grpc_calls",
            Self::HttpCalls => "http_calls",
            Self::GrpcStreams => "grpc_streams",
            Self::HttpStreams => "http_streams",
            Self::Connections => "connections",
            Self::ClusterConnections => "cluster_connections",
            Self::RequestBytes => "request_bytes",
            Self::Commands => "commands",
        };
        [("bound", word)]
    }
}

/// What is open, and what was turned away. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct DoorCounts {
    used: Family<Label, Gauge>,
    max: Family<Label, Gauge>,
    turned_away: Family<Label, Counter>,
}

/// So much of a bound is used until this is dropped.
#[derive(Debug)]
pub(crate) struct Used {
    gauge: Gauge,
    amount: i64,
}

impl Used {
    /// Uses more of it.
    pub(crate) fn add(&mut self, amount: usize) {
        self.gauge.inc_by(amount as i64);
        self.amount += amount as i64;
    }
}

impl Drop for Used {
    fn drop(&mut self) {
        self.gauge.dec_by(self.amount);
    }
}

impl DoorCounts {
    /// Those of a process that has these bounds.
    pub(super) fn register(to: &mut Registrar, bounds: &[Bound]) -> Self {
        let counts = Self::default();
        let it = counts.clone();
        to.add(
            ("bound_used", &["bound"]),
            "How much of a bound of the process's ports is in use; `commands` is not told",
            it.used,
        );
        to.add(("bound_max", &["bound"]), "The most of it that may be in use", it.max);
        to.add(
            ("turned_away", &["bound"]),
            "Calls, streams, connections and commands that were turned away because a bound was reached",
            it.turned_away,
        );
        // A series that is there from the start tells its first change.
        for bound in bounds {
            drop(counts.turned_away.get_or_create(&bound.label()));
        }
        counts
    }

    /// A bound allows so much.
    pub(crate) fn allow(&self, bound: Bound, max: usize) {
        self.max.get_or_create(&bound.label()).set(max as i64);
        drop(self.used.get_or_create(&bound.label()));
    }

    /// So much of a bound is in use from now on.
    pub(crate) fn hold(&self, bound: Bound, amount: usize) -> Used {
        let gauge = self.used.get_or_create(&bound.label()).clone();
        let mut used = Used { gauge, amount: 0 };
        used.add(amount);
        used
    }

    /// Something was turned away.
    pub(crate) fn turned_away(&self, bound: Bound) {
        self.turned_away.get_or_create(&bound.label()).inc();
    }
}
