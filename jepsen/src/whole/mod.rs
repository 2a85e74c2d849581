//! Whole nodes on simulated machines: real node code, openraft and tonic, under turmoil's time and network.
//!
//! Each seed is a process of its own, so that nothing of one reaches another, and tells one story: which cluster, which
//! faults, what was asked. First faults, under which nothing may break; then everything is healed and new work must be done
//! within a bounded time. The same seed tells the same story bit for bit. Start reading at [`run`], then `seed`.
//!
//! It needs a build of its own, since the machine below the node is another one: see [`BUILD`].

#[cfg(feature = "whole-node")]
mod audit;
#[cfg(feature = "whole-node")]
mod client;
#[cfg(feature = "whole-node")]
mod executor;
#[cfg(feature = "whole-node")]
mod faults;
#[cfg(feature = "whole-node")]
mod host;
#[cfg(feature = "whole-node")]
mod observer;
#[cfg(feature = "whole-node")]
mod parent;
#[cfg(feature = "whole-node")]
mod seed;
#[cfg(feature = "whole-node")]
mod shape;
#[cfg(feature = "whole-node")]
mod starter;
#[cfg(feature = "whole-node")]
mod tasks;

use crate::report::Report;

/// How the verb is built.
pub(crate) const BUILD: &str = "RUSTFLAGS=\"--cfg tokio_unstable\" cargo build --release --target-dir \
                                target/simulation -p matins-jepsen --features whole-node";

/// What `whole` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How many seeds at least
    #[arg(long, default_value_t = 4)]
    seeds: u64,
    /// The first one
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Go on with further seeds until so many hours were simulated; fewer make the report invalid
    #[arg(long, default_value_t = 0.0)]
    hours: f64,
    /// Simulated minutes under faults for each seed
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// So many of the seeds run twice, and must tell the same story bit for bit
    #[arg(long, default_value_t = 2)]
    twice: u64,
    /// Tell one seed's story in this process, as JSON: what the verb starts for each seed
    #[arg(long, hide = true)]
    story_of: Option<u64>,
    /// With `--story-of`: what the nodes log, to stderr (`info`, `matins_node=debug`)
    #[arg(long, hide = true)]
    log: Option<String>,
}

/// Tells the stories of many seeds, as many at a time as there are processors.
#[cfg(feature = "whole-node")]
pub(crate) fn run(arguments: &Arguments) -> Report {
    match arguments.story_of {
        Some(seed) => parent::tell(seed, arguments),
        None => parent::run(arguments),
    }
}

/// Says how to get a build that can.
#[cfg(not(feature = "whole-node"))]
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("whole");
    let wanted = arguments.from..arguments.from.saturating_add(arguments.seeds);
    report.needs("seeds", 0, wanted.end - wanted.start);
    report
        .invalid
        .push(format!("this build has no simulated machines below its nodes; build it with: {BUILD}"));
    report
}
