//! `top`: runs, queues, executors and pools, live in a terminal.
//!
//! `model` holds what is shown and what keys do to it, `draw` makes a picture of it; both are pure. Here the cluster is
//! asked once a second and keys are read. Start at [`top`].

mod draw;
mod model;

use std::io;
use std::time::Duration;

use clap::Args;
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use matins_client::Client;
use matins_proto::v1::{
    ClusterStatusRequest, ListExecutorsRequest, ListPoolsRequest, ListRunsRequest, WhyRequest, run,
};
use tokio::sync::mpsc;

use crate::context::{Context, Outcome, now};
use crate::exit::Exit;
use crate::fault::Fault;
use model::{Key, Model, Seen, Wish};

/// How often the cluster is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Runs that are shown at most: the newest that have not ended.
const RUNS_MAX: u32 = 500;
/// Keys that wait to be looked at.
const KEYS_MAX: usize = 32;

/// Show runs, queues, executors and pools, live
///
/// Arrows and page keys move, Enter says why the chosen run waits, `s` sorts by the next column, `r` turns the order round, `q`
/// leaves. Works without a leader, from what the node that answers knows.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  matins top")]
pub(crate) struct TopArgs {}

/// `matins top`.
pub(crate) async fn top(context: &Context) -> Outcome {
    if !context.screen().out || !context.screen().input {
        return Err(
            Fault::usage("there is no terminal to draw on").hint("`matins run list -w` works in a pipe")
        );
    }
    let client = context.client_of_screen()?;
    // What is wrong from the start is said on the plain screen.
    let mut model = Model::new(see(&client, context).await?);
    let mut keys = keys();
    let mut terminal = ratatui::init();
    let shown = show(&mut terminal, (&client, context), &mut model, &mut keys).await;
    ratatui::restore();
    shown
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    (client, context): (&Client, &Context),
    model: &mut Model,
    keys: &mut mpsc::Receiver<Key>,
) -> Outcome {
    let broken = |error: io::Error| Fault::machine("cannot draw on the terminal", error);
    loop {
        terminal.draw(|frame| draw::draw(frame, model)).map_err(broken)?;
        // An answer may take long while nobody leads; keys are heard all the same.
        let asked = async {
            tokio::time::sleep(ASK_EVERY).await;
            see(client, context).await
        };
        tokio::pin!(asked);
        loop {
            tokio::select! {
                seen = &mut asked => {
                    match seen {
                        Ok(seen) => model.saw(seen),
                        Err(fault) => model.failed(fault.to_string()),
                    }
                    break;
                }
                key = keys.recv() => match key.map(|key| model.press(key)) {
                    None | Some(Wish::Leave) => return Ok(Exit::Done),
                    Some(Wish::Why(run)) => {
                        let ask = WhyRequest { stale: true, run, ..WhyRequest::default() };
                        match client.call(ask).await {
                            Ok(why) => model.explain(crate::why::text(&why, &context.look())),
                            Err(error) => model.failed(error.to_string()),
                        }
                    }
                    Some(Wish::Nothing) => {}
                },
            }
            terminal.draw(|frame| draw::draw(frame, model)).map_err(broken)?;
        }
    }
}

/// Asks for all that is shown. From what the node has, so that the leader is not asked by every screen.
async fn see(client: &Client, context: &Context) -> Result<Seen, Fault> {
    let states = [run::State::Running, run::State::Queued, run::State::Stopping];
    let runs = ListRunsRequest {
        stale: true,
        namespace: context.namespace(),
        states: states.map(Into::into).to_vec(),
        page_size: RUNS_MAX,
        ..ListRunsRequest::default()
    };
    let status = client.call(ClusterStatusRequest {}).await?;
    let runs = client.call(runs).await?.runs;
    let executors = client.call(ListExecutorsRequest { stale: true }).await?.executors;
    let pools = ListPoolsRequest { stale: true, page_size: 100, ..ListPoolsRequest::default() };
    let pools = client.call(pools).await?.pools;
    Ok(Seen { at: now(), status, runs, executors, pools })
}

/// Keys as they are pressed. Reading them blocks, so a thread of its own does it; it ends with the process.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.blocking_send(key_of(&event)).is_err() {
                return;
            }
        }
    });
    receiver
}

fn key_of(event: &Event) -> Key {
    let Event::Key(key) = event else { return Key::Other };
    if key.kind == KeyEventKind::Release {
        return Key::Other;
    }
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    #[expect(clippy::wildcard_enum_match_arm, reason = "a terminal has many keys, and we know a few")]
    match key.code {
        KeyCode::Char('c' | 'd') if with_control => Key::Quit,
        KeyCode::Char('q') => Key::Quit,
        KeyCode::Esc => Key::Back,
        KeyCode::Char('s') => Key::Sort,
        KeyCode::Char('r') => Key::Turn,
        KeyCode::Char('k') | KeyCode::Up => Key::Up,
        KeyCode::Char('j') | KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::First,
        KeyCode::End => Key::Last,
        KeyCode::Enter => Key::Why,
        _ => Key::Other,
    }
}
