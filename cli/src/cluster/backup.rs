//! `cluster backup`, `cluster restore` and `cluster resume`: a copy of a cluster, and a new one from it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use matins_client::Backup;
use matins_core::command::After;
use matins_node::offline::{Contents, OfflineError, read_backup, restore as restore_into};
use matins_node::store::backup::{Part, Scan};
use matins_proto::v1::ResumeHeldRequest;
use serde::Serialize;

use crate::context::{Context, Outcome, Repeat, until_interrupted};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Cell, fields};

/// Write a backup of the whole cluster to a file, while it works
///
/// It holds the state at one moment, history, and every file, output and log that they name. Any node gives it; a copy that
/// was cut or damaged is told when it is read.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster backup /backups/nightly.matins
  matins cluster backup - | ssh vault 'cat > nightly.matins'
  matins cluster backup --verify /backups/nightly.matins")]
pub(crate) struct BackupArgs {
    /// The file, which is not there yet; `-` for standard output, or with --verify for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Read a backup through instead, and say whether it is whole
    #[arg(long)]
    verify: bool,
}

/// Make a data directory for the first node of a new cluster, from a backup
///
/// The cluster has a new id, and no number that the old one gave out is given out again. Schedules and backfills are held
/// until `matins cluster resume`; runs that had not finished are cancelled, since the old cluster may have finished them.
/// Start `matins server` with the directory, then `matins cluster add` the others.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins cluster restore /backups/nightly.matins --data-dir /var/lib/matins
  matins server --data-dir /var/lib/matins
  matins cluster add 10.0.0.2:7071
  matins cluster resume")]
pub(crate) struct RestoreArgs {
    /// The backup; `-` for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Where the node will keep everything; empty, or not there yet
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,

    /// Let schedules and backfills go on by themselves, catch-up included
    #[arg(long)]
    resume_schedules: bool,

    /// Let runs go on that had not finished: what the old cluster did after the backup is done again
    #[arg(long)]
    resume_runs: bool,
}

/// Let the schedules go on that a restore holds
///
/// Ticks between the backup and this moment count as paused and make no runs; a backfill makes those that are wanted.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins cluster resume")]
pub(crate) struct ResumeArgs {
    #[command(flatten)]
    repeat: Repeat,
}

/// What a backup holds, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    cluster_id: String,
    version: String,
    index: u64,
    time: String,
    live_runs: u64,
    finished_runs: u64,
    blobs: u64,
    blob_bytes: u64,
    missing_blobs: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    restored: Option<RestoredTo>,
}

/// What a restore made, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RestoredTo {
    cluster_id: String,
    node: String,
    held_workflows: usize,
    cancelled_runs: u64,
}

impl Told {
    fn of(contents: &Contents) -> Self {
        Self {
            cluster_id: format!("{:016x}", contents.head.cluster),
            version: contents.head.version.clone(),
            index: contents.head.index,
            time: matins_proto::Timestamp::from_millis(contents.head.now).to_string(),
            live_runs: contents.live_runs,
            finished_runs: contents.finished_runs,
            blobs: contents.totals.blobs,
            blob_bytes: contents.totals.blob_bytes,
            missing_blobs: contents.missing.len(),
            restored: None,
        }
    }

    fn cells(&self) -> Vec<(&'static str, Cell)> {
        let blobs = format!("{} of {}", self.blobs, HumanBytes(self.blob_bytes));
        vec![
            ("Cluster", Cell::text(&self.cluster_id)),
            ("Made by", Cell::text(format!("matins {}", self.version))),
            ("Index", Cell::Number(self.index)),
            ("Leader time", Cell::text(&self.time)),
            ("Runs", Cell::text(format!("{} live, {} finished", self.live_runs, self.finished_runs))),
            ("Blobs", Cell::text(blobs)),
            ("Missing blobs", Cell::Number(self.missing_blobs as u64)),
        ]
    }
}

/// `cluster backup`.
pub(crate) async fn backup(args: BackupArgs, context: &Context) -> Outcome {
    if args.verify {
        return verify(&args.file, context);
    }
    let is_stdout = args.file.as_os_str() == "-";
    let client = context.client()?;
    let stream = client.backup().await?;
    let node = stream.endpoint().to_owned();
    let bar = progress(context);
    let gives_up = || "interrupted: the backup is not whole, and was not kept".to_owned();
    let scan = if is_stdout {
        until_interrupted(receive(stream, &mut io::stdout().lock(), &bar), gives_up).await?
    } else {
        let part = part_of(&args.file);
        let received = receive_file(stream, (&args.file, &part), &bar);
        let received = until_interrupted(received, gives_up).await;
        // What is not whole must not be taken for a backup.
        received.inspect_err(|_| drop(fs::remove_file(&part)))?
    };
    bar.finish_and_clear();
    let bytes = scan.bytes();
    let (head, totals) = scan.finish().map_err(|error| unusable(OfflineError::Backup(error)))?;
    if totals.missing > 0 {
        context.say(format!("warning: {} blobs are on no node any more, and in no backup", totals.missing));
    }
    context.say(format!(
        "backed up cluster {:016x} at index {} from {node}: {} blobs, {}",
        head.cluster,
        head.index,
        totals.blobs,
        HumanBytes(bytes)
    ));
    Ok(Exit::Done)
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Writes beside the file, and gives it its name once all of it is durable.
async fn receive_file(
    stream: Backup,
    (file, part): (&Path, &Path),
    bar: &ProgressBar,
) -> Result<Scan, Fault> {
    let failed = |error| Fault::machine(format!("cannot write `{}`", file.display()), error);
    if file.exists() {
        return Err(Fault::usage(format!("`{}` is there already", file.display())).hint("give another name"));
    }
    let mut out = BufWriter::new(File::create(part).map_err(failed)?);
    let scan = receive(stream, &mut out, bar).await?;
    let out = out.into_inner().map_err(|error| failed(error.into_error()))?;
    out.sync_all().and_then(|()| fs::rename(part, file)).map_err(failed)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
    Ok(scan)
}

/// Takes the frames, holds each to its checksum, and writes them. Comes back once the last one says that it is the last.
async fn receive(mut stream: Backup, out: &mut impl Write, bar: &ProgressBar) -> Result<Scan, Fault> {
    let mut scan = Scan::default();
    let mut is_whole = false;
    while let Some(frame) = stream.next().await? {
        let part = scan.add(&frame).map_err(|error| unusable(OfflineError::Backup(error)))?;
        out.write_all(&frame).map_err(Fault::Output)?;
        is_whole = matches!(part, Part::End { .. });
        show(bar, &scan, &part);
    }
    out.flush().map_err(Fault::Output)?;
    if is_whole {
        return Ok(scan);
    }
    Err(Fault::own(Exit::NoAnswer, "the node stopped in the middle of the backup")
        .hint("ask again; it begins anew"))
}

fn progress(context: &Context) -> ProgressBar {
    let target =
        if context.screen().err { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{spinner} {pos}/{len} blobs, {msg}");
    let bar = ProgressBar::with_draw_target(Some(0), target);
    bar.with_style(style.expect("the template is a constant"))
}

fn show(bar: &ProgressBar, scan: &Scan, part: &Part) {
    match part {
        Part::Head(head) => bar.set_length(head.blobs),
        Part::Blob { .. } | Part::Missing(_) => bar.inc(1),
        Part::State(_) | Part::Chunk(_) | Part::End { .. } => {}
    }
    bar.set_message(HumanBytes(scan.bytes()).to_string());
}

/// Opens a backup that the user named.
fn open(file: &Path) -> Result<Box<dyn Read>, Fault> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin()));
    }
    let opened = File::open(file).map_err(|error| Fault::unreadable(file, error))?;
    Ok(Box::new(BufReader::new(opened)))
}

/// A fault of an offline step, as the command line tells it.
pub(super) fn unusable(error: OfflineError) -> Fault {
    let hint = error.hint().to_owned();
    let exit = match &error {
        OfflineError::Backup(_) | OfflineError::Unreadable => Exit::NotSuccess,
        OfflineError::NotEmpty(_)
        | OfflineError::Refused(_)
        | OfflineError::Directory(_)
        | OfflineError::BegunOtherwise { .. }
        | OfflineError::Store(_) => Exit::Refused,
        OfflineError::Nothing(_) | OfflineError::NotOfNode(_) => Exit::NotFound,
    };
    Fault::Own { exit, message: error.to_string(), hint: Some(hint), source: source_of(error) }
}

fn source_of(error: OfflineError) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    match error {
        OfflineError::Refused(refusal) => Some(refusal.to_string().into()),
        OfflineError::Directory(_)
        | OfflineError::BegunOtherwise { .. }
        | OfflineError::Store(_)
        | OfflineError::Backup(_)
        | OfflineError::NotEmpty(_)
        | OfflineError::Nothing(_)
        | OfflineError::NotOfNode(_)
        | OfflineError::Unreadable => None,
    }
}

fn verify(file: &Path, context: &Context) -> Outcome {
    let bar = progress(context);
    let contents = read_backup(open(file)?, &mut |bytes| bar.set_message(HumanBytes(bytes).to_string()));
    bar.finish_and_clear();
    let told = Told::of(&contents.map_err(unusable)?);
    context.one(&told, &told.cluster_id, |look| fields(&told.cells(), look))?;
    context.say("the backup is whole");
    Ok(Exit::Done)
}

/// `cluster restore`.
pub(crate) fn restore(args: &RestoreArgs, context: &Context) -> Outcome {
    let after = |goes_on: bool| if goes_on { After::GoesOn } else { After::Ends };
    let (schedules, runs) = (after(args.resume_schedules), after(args.resume_runs));
    let dir = std::path::absolute(&args.data_dir).unwrap_or_else(|_| args.data_dir.clone());
    let bar = progress(context);
    let mut on_bytes = |bytes| bar.set_message(HumanBytes(bytes).to_string());
    let restored = restore_into(open(&args.file)?, &dir, (schedules, runs), &mut on_bytes);
    bar.finish_and_clear();
    let restored = restored.map_err(unusable)?;
    let mut told = Told::of(&restored.contents);
    let cluster = format!("{:016x}", restored.cluster);
    told.restored = Some(RestoredTo {
        cluster_id: cluster.clone(),
        node: restored.node.to_string(),
        held_workflows: restored.held,
        cancelled_runs: restored.cancelled,
    });
    context.one(&told, &cluster, |look| fields(&told.cells(), look))?;
    context.say(format!(
        "restored into {} as cluster {cluster}, whose first node is {}: {} runs were cancelled, the schedules of {} workflows \
         are held\nnext: `matins server --data-dir {}`, `matins cluster add` for the others, then `matins cluster resume`",
        dir.display(),
        restored.node,
        restored.cancelled,
        restored.held,
        dir.display()
    ));
    Ok(Exit::Done)
}

/// `cluster resume`.
pub(crate) async fn resume(args: ResumeArgs, context: &Context) -> Outcome {
    let client = context.client()?;
    let mut request_id = args.repeat.request_id;
    let mut resumed = Vec::new();
    loop {
        // Each call finds what the one before has left, so only the first needs the caller's id.
        let ask = ResumeHeldRequest { request_id: std::mem::take(&mut request_id), not_after: None };
        let mut answer = client.call(ask).await?;
        resumed.append(&mut answer.resumed);
        if answer.left == 0 {
            answer.resumed = resumed;
            let sentence = match answer.resumed.len() {
                0 => "no schedules are held".to_owned(),
                count => format!("the schedules of {count} workflows go on"),
            };
            return context.done(&answer, sentence);
        }
    }
}
