//! What every verb is given: the cluster to ask, the namespace, and how to answer the person or program that called.
//!
//! Data goes to standard output by [`Context::print`] and its kin, all else to standard error by [`Context::say`].

use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use matins_client::{Client, Limits};
use matins_proto::Timestamp;
use serde::Serialize;

use crate::exit::Exit;
use crate::fault::Fault;
use crate::output::{Look, Row, as_json, as_jsonl, as_names, as_yaml, table, terminal_columns};

/// How long a person waits for an answer: three changes of leader at worst (PROTOCOL 2.5).
const PATIENCE: Duration = Duration::from_secs(15);

/// After so long without an answer a person is told what the nodes said.
const SILENT_MAX: Duration = Duration::from_secs(2);

/// What a verb comes to.
pub(crate) type Outcome = Result<Exit, Fault>;

/// Flags that every verb takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Public addresses of nodes; with several, the next one is asked when one does not answer.
    #[arg(long, env = "MATINS_ENDPOINT", default_value = "127.0.0.1:7070", value_name = "HOST:PORT,..")]
    #[arg(global = true, help_heading = "Everywhere", hide_env_values = true)]
    pub(crate) endpoint: String,

    /// Namespace of names that have none, and the only one that lists show.
    #[arg(short, long, env = "MATINS_NAMESPACE", global = true, help_heading = "Everywhere")]
    #[arg(hide_env_values = true)]
    pub(crate) namespace: Option<String>,

    /// How to print. A list is a bare JSON array, one thing an object.
    #[arg(short, long, value_enum, default_value = "table", global = true, help_heading = "Everywhere")]
    pub(crate) output: Format,

    /// Do not ask before something is deleted or given up.
    #[arg(short, long, global = true, help_heading = "Everywhere")]
    pub(crate) yes: bool,
}

/// The flag that makes a repeat of a command safe.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Repeat {
    /// Names this command: a repeat with the same ID gets the first answer again, for an hour after the last.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true, hide_short_help = true)]
    pub(crate) request_id: String,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For people with wide screens.
    Wide,
    /// One document.
    Json,
    /// One document.
    Yaml,
    /// Only names, one a line.
    Name,
    /// One JSON document a line.
    Jsonl,
}

/// What every verb is given.
pub(crate) struct Context {
    global: Global,
    screen: Screen,
    /// A person was told that an answer takes long; once is enough for one call of the program.
    is_told: Arc<AtomicBool>,
}

/// What is behind the three standard streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    /// A person reads standard output.
    pub(crate) out: bool,
    /// A person reads standard error: progress may be drawn.
    pub(crate) err: bool,
    /// A person can be asked.
    pub(crate) input: bool,
    /// `NO_COLOR` is not set, and the terminal is not `dumb`.
    pub(crate) colours: bool,
}

impl Screen {
    fn new() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            out: io::stdout().is_terminal(),
            err: io::stderr().is_terminal(),
            input: io::stdin().is_terminal(),
            colours: !is_set("NO_COLOR") && !dumb,
        }
    }
}

impl Context {
    /// For one call of the program.
    pub(crate) fn new(global: Global) -> Self {
        Self { global, screen: Screen::new(), is_told: Arc::default() }
    }

    /// A client of the cluster, which says so on standard error when an answer takes long. Connects when something is asked.
    pub(crate) fn client(&self) -> Result<Client, Fault> {
        let client = self.client_of_screen()?;
        let is_told = Arc::clone(&self.is_told);
        client.tell_of_delays(SILENT_MAX, move |delay| {
            if !is_told.swap(true, Ordering::Relaxed) {
                say(format!("note: {delay}"));
            }
        });
        Ok(client)
    }

    /// As [`Self::client`], for a verb that draws on the whole screen: it says nothing beside that.
    pub(crate) fn client_of_screen(&self) -> Result<Client, Fault> {
        let limits = Limits { total_max: PATIENCE, ..Limits::default() };
        Ok(Client::new(&self.global.endpoint, limits)?)
    }

    pub(crate) fn format(&self) -> Format {
        self.global.output
    }

    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    /// How to print for people, on standard output.
    pub(crate) fn look(&self) -> Look {
        let now = self.screen.out.then(now);
        Look {
            colour: self.screen.out && self.screen.colours,
            now,
            wide: self.format() == Format::Wide,
            columns: if self.screen.out { terminal_columns() } else { None },
        }
    }

    /// The namespace that lists show; empty for all.
    pub(crate) fn namespace(&self) -> String {
        self.global.namespace.clone().unwrap_or_default()
    }

    /// The full name of a workflow.
    pub(crate) fn workflow(&self, name: &str) -> String {
        match &self.global.namespace {
            Some(namespace) if !name.contains('/') => format!("{namespace}/{name}"),
            Some(_) | None => name.to_owned(),
        }
    }

    /// Prints text as it is. The text brings its line ends.
    #[expect(clippy::unused_self, reason = "only who has a context may print")]
    pub(crate) fn print(&self, text: &str) -> Result<(), Fault> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Fault::Output)
    }

    /// Tells a person something that is not the result.
    #[expect(clippy::unused_self, reason = "only who has a context may print")]
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        say(text);
    }

    /// Prints a list.
    pub(crate) fn list<R: Row>(&self, rows: &[R]) -> Result<(), Fault> {
        let text = match self.format() {
            Format::Table | Format::Wide if rows.is_empty() => {
                self.say(format!("no {}", R::PLURAL));
                return Ok(());
            }
            Format::Table | Format::Wide => table(rows, &self.look()),
            Format::Json => as_json(&rows),
            Format::Yaml => as_yaml(&rows),
            Format::Name => as_names(rows.iter().map(Row::name)),
            Format::Jsonl => rows.iter().map(as_jsonl).collect(),
        };
        self.print(&text)
    }

    /// Prints one thing; `text` shows it to people, line ends included.
    pub(crate) fn one<T: Serialize>(
        &self,
        thing: &T,
        name: &str,
        text: impl FnOnce(&Look) -> String,
    ) -> Result<(), Fault> {
        let text = match self.format() {
            Format::Table | Format::Wide => text(&self.look()),
            Format::Json => as_json(thing),
            Format::Yaml => as_yaml(thing),
            Format::Name => format!("{name}\n"),
            Format::Jsonl => as_jsonl(thing),
        };
        self.print(&text)
    }

    /// Tells that a command was carried out: a sentence for people, the answer for programs.
    pub(crate) fn done<T: Serialize>(&self, answer: &T, sentence: impl AsRef<str>) -> Outcome {
        match self.format() {
            Format::Table | Format::Wide | Format::Name => self.say(sentence),
            Format::Json => self.print(&as_json(answer))?,
            Format::Yaml => self.print(&as_yaml(answer))?,
            Format::Jsonl => self.print(&as_jsonl(answer))?,
        }
        Ok(Exit::Done)
    }

    /// Asks a person before something that cannot be undone. Programs are not asked.
    pub(crate) fn confirm(&self, question: &str) -> Result<(), Fault> {
        if self.global.yes || !self.screen.input || !self.screen.err {
            return Ok(());
        }
        let mut err = io::stderr();
        let _ = write!(err, "{question} [y/N] ");
        let _ = err.flush();
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Fault::machine("cannot read the answer", error))?;
        if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) {
            return Ok(());
        }
        Err(Fault::own(Exit::Refused, "not confirmed, nothing was done").hint("answer `y`, or give `-y`"))
    }
}

/// Does `work` unless Ctrl-C comes first; `goes_on` is what is said then.
pub(crate) async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Fault>>,
    goes_on: impl FnOnce() -> String,
) -> Result<T, Fault> {
    tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Fault::Interrupted(goes_on())),
    }
}

/// The time by the clock of this machine.
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

fn say(text: impl AsRef<str>) {
    // Who closed standard error does not want to know.
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}
