//! `matins dev`: a cluster for development, of real processes that are started again when they end.

use std::fs;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::nodes::{Place, Tie, endpoints, is_free, make_cluster, stop};

/// Cluster ports lie so far above the public ones, where they are free.
const CLUSTER_PORTS_ABOVE: u16 = 100;

/// A node that lived this long may end again before it is waited for longer.
const LIVED_LONG: Duration = Duration::from_secs(30);

/// The smallest workflow, to try.
const HELLO: &str = include_str!("../../examples/hello.matins.yaml");

/// How often logs are looked at for new lines.
const LOG_PAUSE: Duration = Duration::from_millis(200);

/// Run a cluster for development on this machine
///
/// Real processes on ports of 127.0.0.1, started again when they end. Data and ports are kept between starts, in the data
/// directory, with a log of each node. Ctrl-C ends all of them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins dev
  matins dev --nodes 1 --port 8070 --data-dir /tmp/try")]
pub(crate) struct DevArgs {
    /// How many nodes; with three, one may die
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,

    /// Where everything is kept
    #[arg(long, value_name = "DIR", default_value = ".matins/dev")]
    data_dir: PathBuf,

    /// Public port of the first node; the others follow
    #[arg(long, value_name = "P", default_value_t = 7070, value_parser = clap::value_parser!(u16).range(1024..=65_000))]
    port: u16,

    /// Do not show what the nodes log
    #[arg(short, long)]
    quiet: bool,
}

/// `matins dev`.
pub(crate) async fn dev(args: DevArgs, context: &Context) -> Outcome {
    let places = places(&args)?;
    if let Some(taken) = places.iter().find(|place| !is_free(place.port) || !is_free(place.cluster_port)) {
        let port = if is_free(taken.port) { taken.cluster_port } else { taken.port };
        return Err(Fault::own(Exit::Refused, format!("port {port} is in use"))
            .hint("is another `matins dev` running? --port and --data-dir start one beside it"));
    }
    let (stopping, stopped) = watch::channel(false);
    let mut keepers = JoinSet::new();
    for place in &places {
        keepers.spawn(keep(place.clone(), stopped.clone()));
        if !args.quiet {
            keepers.spawn(show_log(place.clone(), stopped.clone()));
        }
    }
    let made = tokio::select! {
        made = make_cluster(&places) => made,
        _ = tokio::signal::ctrl_c() => Err(Fault::Interrupted("stopped before the cluster was made".into())),
        Some(ended) = keepers.join_next() => Err(ended_early(ended)),
    };
    let result = match made {
        Ok(()) => {
            let hello = args.data_dir.join("hello.matins.yaml");
            fs::write(&hello, HELLO)
                .map_err(|error| Fault::machine(format!("cannot write `{}`", hello.display()), error))?;
            context.say(welcome(&places, &hello));
            tokio::select! {
                _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
                Some(ended) = keepers.join_next() => Err(ended_early(ended)),
            }
        }
        Err(fault) => Err(fault),
    };
    context.say("ending the nodes …");
    stopping.send_replace(true);
    while let Some(ended) = keepers.join_next().await {
        ended.map_err(|error| Fault::machine("a node's keeper failed", error))??;
    }
    result
}

/// A keeper ends only when it is told to, or when a node cannot be started at all.
fn ended_early(ended: Result<Result<(), Fault>, tokio::task::JoinError>) -> Fault {
    match ended {
        Ok(Err(fault)) => fault,
        Ok(Ok(())) => Fault::own(Exit::Refused, "a node's keeper ended too early"),
        Err(error) => Fault::machine("a node's keeper failed", error),
    }
}

/// Where the nodes were at the first start, or are to be from now on.
fn places(args: &DevArgs) -> Result<Vec<Place>, Fault> {
    let folder = &args.data_dir;
    fs::create_dir_all(folder)
        .map_err(|error| Fault::machine(format!("cannot make `{}`", folder.display()), error))?;
    let folder = fs::canonicalize(folder).map_err(|error| Fault::unreadable(folder, error))?;
    let path = folder.join("nodes.json");
    if path.exists() {
        let text = fs::read(&path).map_err(|error| Fault::unreadable(&path, error))?;
        let places: Vec<Place> = serde_json::from_slice(&text)
            .map_err(|error| Fault::machine(format!("`{}` is damaged", path.display()), error))?;
        let first = places.first().map_or(args.port, |place| place.port);
        if places.len() != usize::from(args.nodes) || first != args.port {
            let is = format!("--nodes {} --port {first}", places.len());
            return Err(Fault::own(
                Exit::Refused,
                format!("the cluster in `{}` was made with {is}", folder.display()),
            )
            .hint(format!(
                "give {is}, or another --data-dir, or delete that folder with all that is in it"
            )));
        }
        return Ok(places);
    }
    let places = choose(&folder, args);
    let text = serde_json::to_vec_pretty(&places).expect("places are plain values");
    fs::write(&path, text)
        .map_err(|error| Fault::machine(format!("cannot write `{}`", path.display()), error))?;
    Ok(places)
}

fn choose(folder: &Path, args: &DevArgs) -> Vec<Place> {
    let publics = args.port..args.port + args.nodes;
    let candidates = (args.port + CLUSTER_PORTS_ABOVE)..=u16::MAX;
    let clusters = candidates.filter(|port| !publics.contains(port) && is_free(*port));
    let place = |(at, (port, cluster_port)): (usize, (u16, u16))| {
        let name = format!("n{}", at + 1);
        Place { data_dir: folder.join(&name), name, port, cluster_port }
    };
    publics.clone().zip(clusters).enumerate().map(place).collect()
}

/// Comes back when it is time to stop.
async fn told(stopping: &mut watch::Receiver<bool>) {
    // That nobody can tell any more means the same.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// Keeps one node running until it is told to stop.
async fn keep(place: Place, mut stopping: watch::Receiver<bool>) -> Result<(), Fault> {
    let mut pause = Duration::from_millis(500);
    loop {
        let (mut child, started) = (place.start(None, Tie::Tied)?, Instant::now());
        // Waiting for a child closes its standard input, which would end it.
        let _tie = child.stdin.take();
        tokio::select! {
            status = child.wait() => {
                let status = status.map_err(|error| Fault::machine("cannot wait for a node", error))?;
                tell(&format!("{} | ended ({status}), starts again in {pause:?}", place.name));
            }
            () = told(&mut stopping) => {
                stop(&mut child).await.map_err(|error| Fault::machine("cannot end a node", error))?;
                return Ok(());
            }
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = told(&mut stopping) => return Ok(()),
        }
        pause = if started.elapsed() > LIVED_LONG {
            Duration::from_millis(500)
        } else {
            (pause * 2).min(Duration::from_secs(10))
        };
    }
}

/// Shows what a node logs from now on, one short line each.
async fn show_log(place: Place, mut stopping: watch::Receiver<bool>) -> Result<(), Fault> {
    let wrong = |error| Fault::unreadable(&place.log(), error);
    let file =
        fs::OpenOptions::new().create(true).append(true).read(true).open(place.log()).map_err(wrong)?;
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::End(0)).map_err(wrong)?;
    let mut line = String::new();
    loop {
        // What has no line end yet stays in `line` and goes on.
        while reader.read_line(&mut line).map_err(wrong)? > 0 && line.ends_with('\n') {
            tell(&format!("{} | {}", place.name, short(line.trim_end())));
            line.clear();
        }
        tokio::select! {
            () = sleep(LOG_PAUSE) => {}
            () = told(&mut stopping) => return Ok(()),
        }
    }
}

/// A log line without its time, which is now, and no longer than a line.
fn short(line: &str) -> String {
    let text = match line.split_once(' ') {
        Some((time, rest)) if time.len() > 18 && time.ends_with('Z') => rest.trim_start(),
        Some(_) | None => line,
    };
    if text.chars().count() <= 160 {
        return text.to_owned();
    }
    text.chars().take(159).chain(['…']).collect()
}

fn tell(line: &str) {
    use std::io::Write as _;
    // Who closed standard error does not want to know.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn welcome(places: &[Place], hello: &Path) -> String {
    let endpoint = endpoints(places);
    let is_default = places.first().is_some_and(|place| place.port == 7070);
    let export = if is_default { String::new() } else { format!("\n  export MATINS_ENDPOINT={endpoint}") };
    format!(
        "\na cluster of {} nodes is ready at {endpoint}; Ctrl-C ends it, its data is kept\n\
         try, in another terminal:{export}\n  \
         matins cluster status\n  \
         matins apply {}\n  \
         matins start hello -p name=Ada --wait && matins logs latest:hello\n",
        places.len(),
        hello.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(folder: &Path, nodes: u16, port: u16) -> DevArgs {
        DevArgs { nodes, data_dir: folder.to_owned(), port, quiet: true }
    }

    #[test]
    fn places_are_kept_between_starts() {
        let folder = tempfile::tempdir().unwrap();
        let first = places(&args(folder.path(), 3, 17_070)).unwrap();
        assert_eq!(first.iter().map(|place| place.port).collect::<Vec<_>>(), [17_070, 17_071, 17_072]);
        assert!(first.iter().all(|place| place.cluster_port >= 17_170));
        assert_eq!(places(&args(folder.path(), 3, 17_070)).unwrap(), first);
        let fault = places(&args(folder.path(), 5, 17_070)).unwrap_err();
        assert_eq!(fault.exit(), Exit::Refused);
        assert!(fault.report().contains("--nodes 3 --port 17070"), "{}", fault.report());
    }

    #[test]
    fn log_lines_are_short() {
        assert_eq!(short("2026-11-22T05:00:00.000000Z  INFO leader term=3"), "INFO leader term=3");
        assert_eq!(short("error: port in use"), "error: port in use");
        assert_eq!(short(&"x".repeat(500)).chars().count(), 160);
    }
}
