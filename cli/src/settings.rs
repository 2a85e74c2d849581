//! Settings of what runs as a service: flags over the environment, over a TOML file, over the defaults.
//!
//! `matins server` and `matins executor run` have a struct of settings each, a [`Layer`]; what is the same for both is here:
//! how the layers are read, that a setting nobody knows is a fault wherever it stands, that all faults are told at once, and
//! the types of their values. It never says what a setting means. Start at [`read`].

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::CommandFactory as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tracing_subscriber::EnvFilter;

use crate::fault::Fault;
use crate::run::parse_span;

/// Begins the names of all settings in the environment.
const PREFIX: &str = "MATINS_NODE_";

/// Settings of one service, none of which must be given in the same place.
pub(crate) trait Layer: Default + DeserializeOwned {
    /// What they come to: every value is there, and fits the others.
    type Settled;

    /// The verb that takes them, as it is typed after `matins`.
    const VERB: &'static str;

    /// What is given here, and below it what is given there.
    fn over(self, below: Self) -> Self;

    /// Fills in the defaults and checks everything. Faults are added to those of the caller.
    fn settle(self, faults: &mut Faults) -> Self::Settled;
}

/// What is wrong with settings, a line for each.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<String>);

impl Faults {
    /// Adds some.
    pub(crate) fn extend(&mut self, faults: impl IntoIterator<Item = String>) {
        self.0.extend(faults);
    }

    /// An address to listen on; where it is none, the default, so that the other faults can be found too.
    pub(crate) fn address(
        &mut self,
        key: &str,
        given: Option<String>,
        default: impl Into<SocketAddr>,
    ) -> SocketAddr {
        let Some(text) = given else { return default.into() };
        text.parse().unwrap_or_else(|_| {
            self.0.push(format!("{key}: `{text}` is no address; write IP:PORT, as in 10.0.0.1:7070"));
            default.into()
        })
    }

    /// What is logged, and how.
    pub(crate) fn log(
        &mut self,
        (filter, default): (Option<String>, &str),
        format: Option<&str>,
    ) -> LogSettings {
        let filter = filter.unwrap_or_else(|| default.to_owned());
        if let Err(error) = filter.parse::<EnvFilter>() {
            self.0.push(format!("log: {error}"));
        }
        let format = match format {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => {
                self.0.push(format!("log_format: `{other}` is neither text nor json"));
                LogFormat::Text
            }
        };
        LogSettings { filter, format }
    }
}

/// Reads all layers: `flags` have the environment in them already, the file lies below.
pub(crate) fn read<L: Layer>(config: Option<PathBuf>, flags: L) -> Result<L::Settled, Fault> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let unknown = unknown_variables(L::VERB, names);
    if !unknown.is_empty() {
        return Err(Fault::usage(format!("there is no setting {}", unknown.join(", ")))
            .hint(format!("`matins {} -h` lists all settings", L::VERB)));
    }
    let file = match config {
        None => L::default(),
        Some(path) => {
            let text = fs::read_to_string(&path).map_err(|error| Fault::unreadable(&path, error))?;
            toml::from_str(&text).map_err(|error| {
                Fault::machine(format!("`{}` has a fault", path.display()), error)
                    .hint(format!("`matins {} -h` lists all settings; keys have _ for -", L::VERB))
            })?
        }
    };
    settle(flags.over(file)).map_err(|faults| {
        Fault::usage(format!("the settings do not fit:\n  {}", faults.join("\n  ")))
            .hint(format!("`matins {} -h` explains every setting", L::VERB))
    })
}

/// Fills in the defaults and checks everything; all faults at once.
pub(crate) fn settle<L: Layer>(layer: L) -> Result<L::Settled, Vec<String>> {
    let mut faults = Faults::default();
    let settled = layer.settle(&mut faults);
    if faults.0.is_empty() { Ok(settled) } else { Err(faults.0) }
}

/// Names in the environment that look like settings and are none.
fn unknown_variables(verb: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let tree = crate::args::Cli::command();
    let command = verb.split(' ').fold(&tree, |command, word| {
        command.find_subcommand(word).expect("a service is in the tree of verbs")
    });
    let known: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    names.filter(|name| name.starts_with(PREFIX) && !known.contains(&name.as_str())).collect()
}

/// What is logged, and how.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    /// Can be parsed.
    filter: String,
    format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogSettings {
    /// Logs to stderr from now on what the filter lets through.
    pub(crate) fn start(&self) {
        let filter: EnvFilter = self.filter.parse().expect("it was parsed when it was checked");
        let builder =
            tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
        match self.format {
            LogFormat::Text => builder.init(),
            LogFormat::Json => builder.json().init(),
        }
    }
}

/// Labels: a table in a file, `key=value,..` elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Labels(BTreeMap<String, String>);

impl From<Labels> for BTreeMap<String, String> {
    fn from(Labels(labels): Labels) -> Self {
        labels
    }
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |part: &str| match part.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            Some(_) | None => Err(format!("`{part}` is no label: write key=value")),
        };
        text.split(',').filter(|part| !part.is_empty()).map(pair).collect::<Result<_, _>>().map(Self)
    }
}

/// A length of time, as the language writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Span(Duration);

impl From<Span> for Duration {
    fn from(Span(span): Span) -> Self {
        span
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_span(text).map(Self)
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// Slots of an executor for which nobody said how many.
pub(crate) fn default_slots() -> u32 {
    std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32 * 2)
}

/// The name of this machine.
pub(crate) fn machine() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_no_setting_of_the_verb_is_a_fault() {
        let names = ["MATINS_NODE_SLOTS", "MATINS_NODE_SLOT", "MATINS_NODE_JOIN", "PATH"].map(str::to_owned);
        assert_eq!(
            unknown_variables("server", names.clone().into_iter()),
            ["MATINS_NODE_SLOT", "MATINS_NODE_JOIN"]
        );
        assert_eq!(unknown_variables("executor run", names.into_iter()), ["MATINS_NODE_SLOT"]);
    }
}
