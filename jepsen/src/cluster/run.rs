//! One run: a fresh cluster, one workload, faults, and what came of it. Start at [`run`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use matins_client::{Client, ClientError, Limits};
use matins_proto::v1::{AddNodeRequest, ClusterStatusRequest, InitClusterRequest};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::clean::Folder;
use super::faults::Faults;
use super::machine;
use super::nemesis::haunt::{self, Order};
use super::nemesis::{Field, Kind, Need};
use super::nodes::{Nodes, Plan};
use super::observer::Observer;
use super::shell::call;
use super::verdict::Evidence;
use super::workload::{ALL, Site, Trouble, Until, Workload};
use crate::report::{Report, Verdict};

/// A node that was started answers within this, on a machine that is busy.
const READY_MAX: Duration = Duration::from_secs(60);
/// What is under way when the faults are over has ended within this (I15).
const SETTLE_MAX: Duration = Duration::from_secs(120);
/// A fault is seen within this, or it does not act.
const PROOF_MAX: Duration = Duration::from_secs(12);
/// By how much bounds of log and history may be made smaller.
const SHRINKS: [u64; 4] = [1, 100, 300, 1_000];
/// How many nodes stand by where the cluster is to grow.
const SPARES: usize = 2;
/// How often the keeper looks at the nodes.
const KEEP: Duration = Duration::from_millis(50);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(50);

/// What a run is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) binary: PathBuf,
    pub(crate) nodes: usize,
    pub(crate) seconds: u64,
    pub(crate) seed: u64,
    /// Faults that were asked for; `None`: mixed.
    pub(crate) kinds: Option<Vec<Kind>>,
    /// Where everything of the run is kept; `None`: only if something is wrong.
    pub(crate) keep: Option<PathBuf>,
    /// The command that does it again, without the workload.
    pub(crate) repeat: String,
}

/// Runs one workload on a cluster of its own.
pub(crate) fn run(settings: &Settings, workload: Box<dyn Workload>, number: u32) -> Report {
    let name = workload.name();
    let mut report = Report::new(format!("cluster {name}"));
    let folder = match Folder::make(number) {
        Ok(folder) => folder,
        Err(trouble) => {
            report.invalid.push(trouble.0);
            return report;
        }
    };
    let outcome = perform(settings, workload, (&folder, number), &mut report);
    if let Err(trouble) = outcome {
        report.invalid.push(trouble.0);
    }
    for failure in &mut report.failures {
        // A checker knows nothing of faults, and so not the whole of it.
        failure.repeat = format!("{} --workload {name}", settings.repeat);
    }
    report
}

/// The stage of a run, and who works on it.
fn perform(
    settings: &Settings,
    workload: Box<dyn Workload>,
    (folder, number): (&Folder, u32),
    report: &mut Report,
) -> Result<(), Trouble> {
    let name = workload.name();
    let wanted = settings.kinds.clone();
    let with_disks =
        wanted.as_ref().is_none_or(|kinds| kinds.iter().any(|kind| kind.need() == Some(Need::Disks)));
    let with_spares = wanted.as_ref().is_none_or(|kinds| kinds.contains(&Kind::Resize));
    // Swarm testing: snapshots every few seconds in one run, none in another.
    let shrink = SHRINKS[StdRng::seed_from_u64(own_seed(settings, name)).random_range(0..SHRINKS.len())];
    if shrink > 1 {
        report.notes.push(format!("bounds of log and history are {shrink} times smaller in debug builds"));
    }
    let plan = Plan {
        binary: settings.binary.clone(),
        folder: folder.path().into(),
        nodes: settings.nodes,
        spares: if with_spares { SPARES } else { 0 },
        number,
        shrink,
        with_disks,
    };
    let runtime = Runtime::new().map_err(|error| Trouble(format!("no runtime: {error}")))?;
    let nodes = Arc::new(Nodes::prepare(&plan, &mut report.notes)?);
    let is_over = Arc::new(AtomicBool::new(false));
    let keeper = keep(Arc::clone(&nodes), Arc::clone(&is_over));
    let scene = Scene {
        settings: settings.clone(),
        nodes: Arc::clone(&nodes),
        is_over: Arc::clone(&is_over),
        haunter: Arc::default(),
    };
    let haunter = Arc::clone(&scene.haunter);
    let outcome = runtime.block_on(async {
        let played = tokio::spawn(play(scene, workload, Report::new(format!("cluster {name}"))));
        let abort = played.abort_handle();
        tokio::select! {
            played = played => played.map_err(|error| Trouble(format!("the harness failed: {error}"))),
            name = interrupted() => {
                abort.abort();
                Err(Trouble(format!("interrupted by {name}")))
            }
        }
    });
    is_over.store(true, Ordering::Release);
    let thread = haunter.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(thread) = thread {
        thread.join().map_err(|_| Trouble("the thread of the nemeses panicked".into()))?;
    }
    nodes.end();
    let kept = keeper.join().map_err(|_| Trouble("the keeper panicked".into()))?;
    drop(runtime);
    let notes = std::mem::take(&mut report.notes);
    *report = outcome?;
    report.notes.extend(notes);
    save(settings, folder.path(), name, report);
    kept
}

/// Comes back when this process is asked to end.
async fn interrupted() -> &'static str {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be installed");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can be installed");
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// Looks after the nodes on a thread of its own, which nothing can hold up.
fn keep(nodes: Arc<Nodes>, is_over: Arc<AtomicBool>) -> JoinHandle<Result<(), Trouble>> {
    std::thread::spawn(move || {
        while !is_over.load(Ordering::Acquire) {
            nodes.keep()?;
            std::thread::sleep(KEEP);
        }
        Ok(())
    })
}

/// What a play needs.
struct Scene {
    settings: Settings,
    nodes: Arc<Nodes>,
    is_over: Arc<AtomicBool>,
    /// The thread of the nemeses, while there is one.
    haunter: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Everything, in its order. Trouble goes into the report, which is kept whole.
async fn play(scene: Scene, mut workload: Box<dyn Workload>, mut report: Report) -> Report {
    if let Err(trouble) = play_all(&scene, workload.as_mut(), &mut report).await {
        report.invalid.push(trouble.0);
    }
    report
}

async fn play_all(scene: &Scene, workload: &mut dyn Workload, report: &mut Report) -> Result<(), Trouble> {
    let Scene { settings, nodes, .. } = scene;
    nodes.start()?;
    make_cluster(nodes).await?;
    let observer = Arc::new(Observer::start(nodes)?);
    until_whole(&observer).await?;
    let records = nodes.folder.join("records");
    fs::create_dir_all(&records).map_err(|error| Trouble(format!("{}: {error}", records.display())))?;
    let faults = Faults::default();
    let site = Site { endpoints: nodes.endpoints(), records, seed: settings.seed, faults: faults.clone() };
    let field = Arc::new(Field {
        nodes: Arc::clone(nodes),
        observer: Arc::clone(&observer),
        faults: faults.clone(),
        runtime: Handle::current(),
        failures: Mutex::default(),
        counts: Mutex::default(),
        is_over: Arc::clone(&scene.is_over),
        patience: PROOF_MAX,
    });
    let order = choose((settings, workload.name()), &field, report).await?;
    workload.set_up(&site).await?;
    let began = Instant::now();
    let until = Until::after(Duration::from_secs(settings.seconds));
    let seed = own_seed(settings, workload.name());
    let haunted = start_haunting(scene, Arc::clone(&field), (order, seed));
    let haunted = async {
        let haunted = haunted.await;
        until.set_calm();
        haunted.unwrap_or_else(|_| Err(Trouble("the thread of the nemeses panicked".into())))
    };
    let (driven, haunted) = tokio::join!(workload.drive(&site, &until), haunted);
    let worked = began.elapsed();
    let sight = observer.stop();
    let evidence = Evidence {
        faults: faults.all(),
        voids: faults.voids(),
        asked: settings.kinds.clone().unwrap_or_default(),
        sight,
        left: nodes.left(),
        panics: nodes.panics(),
        counts: field.counts.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        failures: std::mem::take(&mut *field.failures.lock().unwrap_or_else(PoisonError::into_inner)),
        worked,
        repeat: format!("{} --workload {}", settings.repeat, workload.name()),
    };
    evidence.tell(report);
    driven?;
    haunted?;
    workload.settle(&site, SETTLE_MAX, report).await?;
    workload.check(&site, report).await
}

/// Where a workload stands among all of them.
fn place(name: &str) -> usize {
    ALL.iter().position(|it| *it == name).expect("a workload that runs is one of them")
}

/// A seed that no other workload has under the same seed of the command: else they would all meet the same faults.
fn own_seed(settings: &Settings, name: &str) -> u64 {
    settings.seed ^ ((place(name) as u64) << 32)
}

/// Lets the nemeses act on a thread of their own: what they do blocks.
fn start_haunting(
    scene: &Scene,
    field: Arc<Field>,
    (order, seed): (Order, u64),
) -> oneshot::Receiver<Result<(), Trouble>> {
    let (done, is_done) = oneshot::channel();
    let until = Instant::now() + Duration::from_secs(scene.settings.seconds);
    let thread = std::thread::spawn(move || {
        // Nobody waits any more if the run was interrupted.
        let _ = done.send(haunt::act(&field, &order, seed, until));
    });
    *scene.haunter.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    is_done
}

/// The faults that this machine allows. One that was asked for by name and is not possible is trouble.
async fn choose(
    (settings, name): (&Settings, &str),
    field: &Arc<Field>,
    report: &mut Report,
) -> Result<Order, Trouble> {
    let asked = settings.kinds.clone();
    let wanted: Vec<Kind> = asked.clone().unwrap_or_else(machine::mixed);
    let needs: Vec<Need> = wanted.iter().filter_map(|kind| kind.need()).collect();
    let field = Arc::clone(field);
    let lacking = tokio::task::spawn_blocking(move || machine::lacking(&field, needs)).await;
    let lacking = lacking.map_err(|error| Trouble(format!("the machine cannot be looked at: {error}")))??;
    let is_possible = |kind: &Kind| kind.need().is_none_or(|need| !lacking.iter().any(|lack| lack.0 == need));
    let Some(kinds) = asked else {
        let mut without: Vec<String> =
            lacking.iter().map(|(need, why)| format!("no {} faults: {why}", need.name())).collect();
        report.notes.append(&mut without);
        let kinds = wanted.into_iter().filter(is_possible).collect();
        return Ok(haunt::mixed(kinds, settings.seed, (place(name), ALL.len())));
    };
    let impossible: Vec<String> =
        kinds.iter().filter(|kind| !is_possible(kind)).map(|kind| kind.name()).collect();
    if impossible.is_empty() {
        return Ok(Order::Named(kinds));
    }
    let why: Vec<&str> = lacking.iter().map(|(_, why)| why.as_str()).collect();
    Err(Trouble(format!("{} cannot be done here: {}", impossible.join(", "), why.join("; "))))
}

/// Waits until every node answers, and makes one cluster of them.
async fn make_cluster(nodes: &Nodes) -> Result<(), Trouble> {
    let limits = Limits { attempt_max: Duration::from_secs(5), total_max: READY_MAX, ..Limits::default() };
    let wrong = |error: ClientError| Trouble(format!("no cluster: {error}"));
    let first = Client::new(&nodes.all[0].public.to_string(), limits).map_err(wrong)?;
    first.call(InitClusterRequest::default()).await.map_err(wrong)?;
    for node in &nodes.members()[1..] {
        let client = Client::new(&node.public.to_string(), limits).map_err(wrong)?;
        client.call(ClusterStatusRequest {}).await.map_err(wrong)?;
        let ask = AddNodeRequest { address: node.cluster.to_string(), ..AddNodeRequest::default() };
        first.call(ask).await.map_err(wrong)?;
    }
    Ok(())
}

/// Waits until every node is a member in reach, with an executor that gets work.
pub(crate) async fn until_whole(observer: &Observer) -> Result<(), Trouble> {
    let deadline = Instant::now() + READY_MAX;
    while let Some(missing) = observer.what_is_missing().await {
        if Instant::now() > deadline {
            return Err(Trouble(format!("the cluster is not whole after {READY_MAX:?}: {missing}")));
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Keeps what a person needs to find out more: all of it if asked, logs and records if something is wrong.
fn save(settings: &Settings, folder: &Path, name: &str, report: &mut Report) {
    let (to, what) = match &settings.keep {
        Some(keep) => (keep.join(name), "."),
        None if report.verdict() == Verdict::Held => return,
        None => (std::env::temp_dir().join(format!("matins-kept-{}-{name}", std::process::id())), "logs"),
    };
    let mut sources = vec![format!("{}/.", folder.display())];
    if what == "logs" {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let entries = entries.filter(|path| path.is_file() || path.ends_with("records"));
        sources = entries.map(|path| path.display().to_string()).collect();
    }
    let target = to.display().to_string();
    let mut args = vec!["-a", "--sparse=always"];
    args.extend(sources.iter().map(String::as_str));
    args.push(&target);
    let saved = fs::create_dir_all(&to).map_err(|error| Trouble(error.to_string()));
    match saved.and_then(|()| call("cp", &args)) {
        Ok(_) => report.notes.push(format!("logs and records are kept in {target}")),
        Err(trouble) => report.notes.push(format!("logs are lost: {}", trouble.0)),
    }
}
