//! One place where a metric gets its name, and the reference that people read: both come from the same call.

use std::fmt::Write as _;

use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::registry::{Metric, Registry};

/// Begins every name but those of the process, which are the same in all programs.
const PREFIX: &str = "matins_";

/// Names metrics.
#[derive(Default)]
pub(crate) struct Registrar {
    registry: Registry,
    described: Vec<Described>,
}

/// What people are told about a metric.
pub(crate) struct Described {
    name: String,
    kind: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
}

impl Registrar {
    /// Names a metric, without the `_total` that counters get by themselves.
    pub(crate) fn add<M: Metric + TypedMetric>(
        &mut self,
        (name, labels): (&str, &'static [&'static str]),
        help: &'static str,
        metric: M,
    ) {
        let (kind, suffix) = match M::TYPE {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
            MetricType::Info => ("info", ""),
            MetricType::Unknown => ("unknown", ""),
        };
        let full = if name.starts_with("process_") { name.to_owned() } else { format!("{PREFIX}{name}") };
        self.registry.register(full.clone(), help, metric);
        self.described.push(Described { name: full + suffix, kind, labels, help });
    }

    pub(crate) fn done(self) -> (Registry, Vec<Described>) {
        (self.registry, self.described)
    }
}

/// The reference of all metrics: those of nodes, and those of executors.
pub(crate) fn reference(node: &[Described], executor: &[Described]) -> String {
    let mut text = String::from(
        "# Metrics\n\nWhat nodes and executors tell at `/metrics`, in the text format that Prometheus reads. This page is made \
         from the code: `UPDATE_GOLDENFILES=1 cargo test -p matins-node metrics` writes it anew. What is counted in memory begins \
         at 0 when a process starts.\n\n\
         ## Nodes\n\nOn the public port, 7070. \
         Counters of ticks, runs, attempts and commands count on the node that leads, so sum them over all nodes. Gauges that \
         are read off the state are the same on every node that keeps up, so take the maximum.\n\n",
    );
    table(&mut text, node);
    text.push_str(
        "\n## Executors\n\nAn executor without a node tells these on its one port, 7072, where nodes read logs and `/livez` and \
         `/readyz` answer. A node with an executor tells those that begin with `matins_executor_` too. Each counts for itself.\n\n",
    );
    table(&mut text, executor);
    text
}

fn table(text: &mut String, described: &[Described]) {
    text.push_str("| name | kind | labels | what it says |\n|---|---|---|---|\n");
    for metric in described {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        );
    }
}
