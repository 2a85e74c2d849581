//! `matins demo`: a nightly ETL over real data, on three real nodes, whose leader is killed twice.
//!
//! `stage` sets everything up, `act` does what is to be seen, `heartbeat` counts the ticks of a live schedule, `probe` measures the
//! time without a leader, `report` says what came of it. Nothing is taken from the engine's word that can be counted from
//! outside. Start at [`demo`].

mod act;
mod heartbeat;
mod probe;
mod report;
mod stage;

use clap::Args;

use crate::context::{Context, Outcome};
use crate::exit::Exit;
use crate::fault::Fault;
use stage::Stage;

/// See a nightly ETL survive its leader being killed, twice
///
/// Starts three nodes on this machine, loads 31 days of flights out of New York, kills the leader in the middle of it, and
/// counts: rows, ticks, tasks that ran twice. Takes a minute or two, needs Python 3, and leaves nothing behind.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  matins demo
  matins demo --keep        leaves the cluster running, to look around

Exit codes: 0 all is right, 1 something is wrong, and the report says what.")]
pub(crate) struct DemoArgs {
    /// Leave the cluster running, and say how to use it
    #[arg(long)]
    keep: bool,
}

/// `matins demo`.
pub(crate) async fn demo(args: DemoArgs, context: &Context) -> Outcome {
    act::find_python().await?;
    let mut stage = Stage::build(args.keep)?;
    context.say(format!("everything lies in {}", stage.folder().display()));
    let played = tokio::select! {
        played = play(&mut stage, context) => played,
        _ = tokio::signal::ctrl_c() => Err(Fault::Interrupted("stopped; the nodes are being ended".into())),
    };
    let keeps = args.keep && !matches!(played, Err(Fault::Interrupted(_)));
    if keeps {
        context.say(stage.how_to_use());
        stage.leave();
    } else {
        if played.is_err() {
            stage.calm().await;
        }
        // A failed play is worth more than what ending it may bring.
        let ended = stage.end().await;
        if played.is_ok() {
            ended?;
        }
    }
    played
}

async fn play(stage: &mut Stage, context: &Context) -> Outcome {
    let found = act::perform(stage, context).await?;
    context.print(&report::in_words(&found))?;
    Ok(if found.wrong().is_empty() { Exit::Done } else { Exit::NotSuccess })
}
