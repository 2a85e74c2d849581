//! The references that people read, made from what the program itself goes by: `docs/commands.md` from the tree of verbs,
//! `docs/configuration.md` from the settings. Tests hold both, and `UPDATE_GOLDENFILES=1` writes them anew.
//!
//! It is a module of ours because `clap-markdown` (0.1.5) leaves environment variables out and takes examples for prose.
//! Start at [`commands`] and [`configuration`].

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _, Parser as _};

use crate::args::Cli;
use crate::executor::ExecutorLayer;
use crate::server::ServerLayer;
use crate::settings::{Layer, settle};

const ANEW: &str =
    "This page is made from the code: `UPDATE_GOLDENFILES=1 cargo test -p matins reference` writes it anew.";

/// A verb with the words that come before it.
struct Verb<'a> {
    command: &'a Command,
    /// As it is typed: `matins run start`.
    path: String,
    depth: usize,
}

/// The reference of the command line.
fn commands() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = format!(
        "# The command line\n\n{}. {ANEW}\n\nWhat is common to all verbs (forms of output, names, filters, exit codes) is \
         told in [language.md](language.md#4-the-command-line), settings of servers by name in \
         [configuration.md](configuration.md).\n\n",
        root.get_about().expect("the program says what it does")
    );
    let verbs = verbs(&root);
    let _ = writeln!(text, "| command | what it does |\n|---|---|");
    for Verb { command, path, .. } in &verbs {
        let about = cell(&command.get_about().map(ToString::to_string).unwrap_or_default());
        let _ = writeln!(text, "| [`{path}`](#{}) | {about} |", path.replace(' ', "-"));
    }
    text.push_str("\n## Everywhere\n\nThese options stand after any verb.\n\n");
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        text.push_str(&item(arg));
    }
    for verb in &verbs {
        text.push_str(&section(verb, &root));
    }
    text
}

/// All verbs that help shows, each noun before its verbs.
fn verbs(root: &Command) -> Vec<Verb<'_>> {
    fn below<'a>(command: &'a Command, path: &str, depth: usize, to: &mut Vec<Verb<'a>>) {
        for command in command.get_subcommands() {
            if command.is_hide_set() || command.get_name() == "help" {
                continue;
            }
            let path = format!("{path} {}", command.get_name());
            to.push(Verb { command, path: path.clone(), depth });
            below(command, &path, depth + 1, to);
        }
    }
    let mut verbs = Vec::new();
    below(root, root.get_name(), 0, &mut verbs);
    verbs
}

fn section(verb: &Verb<'_>, root: &Command) -> String {
    let mut text = format!("\n{} `{}`\n\n", "#".repeat(verb.depth + 2), verb.path);
    match stands_for(verb, root) {
        Some(full) => {
            let _ = writeln!(text, "Short for [`{full}`](#{}).", full.replace(' ', "-"));
        }
        None => text.push_str(&body(verb.command)),
    }
    text
}

/// The noun's verb of which a verb at the top is an alias: both are of one type.
fn stands_for(verb: &Verb<'_>, root: &Command) -> Option<String> {
    let name = verb.command.get_name();
    let nouns = root.get_subcommands().filter(|noun| verb.depth == 0 && noun.get_name() != "help");
    let mut same = nouns.filter_map(|noun| Some((noun, noun.find_subcommand(name)?)));
    let about = |command: &Command| command.get_about().map(ToString::to_string);
    let (noun, _) = same.find(|(_, other)| about(other) == about(verb.command))?;
    Some(format!("{} {} {name}", root.get_name(), noun.get_name()))
}

fn body(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about()).expect("every verb says what it does");
    // `render_usage` needs a command of its own.
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage: ");
    let about: Vec<String> = about.to_string().split("\n\n").map(ended).collect();
    let mut text = format!("{}\n\n```text\n{usage}\n```\n", about.join("\n\n"));
    let own = || command.get_arguments().filter(|arg| is_told(arg) && !arg.is_global_set());
    let items: String = own().filter(|arg| arg.is_positional()).map(item).collect();
    let items = items + &own().filter(|arg| !arg.is_positional()).map(item).collect::<String>();
    if !items.is_empty() {
        let _ = write!(text, "\n{items}");
    }
    if let Some(after) = command.get_after_long_help().or(command.get_after_help()) {
        let _ = write!(text, "\n```text\n{}\n```\n", after.to_string().trim());
    }
    text
}

fn is_told(arg: &Arg) -> bool {
    !arg.is_hide_set() && arg.get_id() != "help" && arg.get_id() != "version"
}

/// One argument or option, as a line of a list.
fn item(arg: &Arg) -> String {
    let values = value_name(arg);
    let mut names: Vec<String> = arg.get_short().map(|short| format!("`-{short}`")).into_iter().collect();
    match arg.get_long() {
        Some(long) if values.is_empty() => names.push(format!("`--{long}`")),
        Some(long) => names.push(format!("`--{long} {values}`")),
        None => names.push(format!("`{values}`")),
    }
    let (mut meaning, default) = meaning(arg);
    if let Some(default) = default {
        let _ = write!(meaning, " Default: {default}.");
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(meaning, " Variable: `{}`.", variable.to_string_lossy());
    }
    format!("- {}: {meaning}\n", names.join(", "))
}

/// What stands for the values of an argument; empty for a flag.
fn value_name(arg: &Arg) -> String {
    if !arg.get_action().takes_values() {
        return String::new();
    }
    match arg.get_value_names() {
        Some(names) => names.join(" "),
        None => arg.get_id().as_str().to_uppercase(),
    }
}

/// What an argument is for, with the words that it takes, and its default.
fn meaning(arg: &Arg) -> (String, Option<String>) {
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    // Defaults that are no words of clap's stand at the end of the help.
    let (help, told) = match help.strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
        Some((help, default)) => (help.to_owned(), Some(default.to_owned())),
        None => (help, None),
    };
    let paragraphs: Vec<String> = help.split("\n\n").map(ended).collect();
    let mut text = paragraphs.join(" ");
    let is_flag = !arg.get_action().takes_values();
    // What is true or false says so by the name of its value.
    let is_bool = value_name(arg) == "BOOL";
    let words = if is_flag || is_bool { Vec::new() } else { arg.get_possible_values() };
    let told_words: Vec<String> = words
        .iter()
        .map(|word| match word.get_help() {
            Some(help) => {
                let help = help.to_string();
                let (first, rest) = help.split_at(1);
                let rest = rest.trim_end_matches('.');
                format!("`{}` ({}{rest})", word.get_name(), first.to_lowercase())
            }
            None => format!("`{}`", word.get_name()),
        })
        .collect();
    if !told_words.is_empty() {
        let _ = write!(text, " One of {}.", told_words.join(", "));
    }
    let of_clap: Vec<String> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let of_clap = Some(of_clap.join(","))
        .filter(|default| !is_flag && !default.is_empty() && !arg.is_hide_default_value_set());
    (text, told.map(told_default).or(of_clap.map(|value| format!("`{value}`"))))
}

/// A value in backquotes, words as they are.
fn told_default(default: String) -> String {
    if default.contains(' ') { default } else { format!("`{default}`") }
}

/// With a full stop, as sentences of a document have.
fn ended(text: &str) -> String {
    let text = text.trim().replace('<', "&lt;");
    if text.is_empty() || text.ends_with(['.', '?', '!']) { text } else { text + "." }
}

/// As it stands in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// The reference of all settings.
fn configuration() -> String {
    let mut text = format!(
        "# Configuration\n\nA node and an executor have settings of their own, which are read once, when the process starts. \
         The cluster has rules, which it keeps itself and which are changed while it works. {ANEW}\n\n\
         ## Where settings stand\n\nA flag goes over a variable of the environment, which goes over the TOML file that \
         `--config` or `MATINS_NODE_CONFIG` names, which goes over the default. A key of the file, or a variable \
         `MATINS_NODE_*`, that is not below is a fault, and so is a value that does not fit; all faults are told at once, and \
         nothing starts. The first line of the log says what came of the main ones, by name; the others are told at `debug`, and \
         secrets never.\n\n\
         | value | how it is written |\n|---|---|\n\
         | `SPAN` | a number and its unit, as in `500ms`, `2s`, `1m30s`; text in a file |\n\
         | `PERCENT`, `N` | a whole number |\n\
         | `BOOL` | `true` or `false` |\n\
         | `IP:PORT`, `HOST:PORT` | `10.0.0.1:7070`, `[::1]:7070`; text in a file |\n\
         | `HOST:PORT,..`, `HOST,..` | several with commas; a list of texts in a file |\n\
         | `KEY=VALUE,..` | several with commas; a table in a file: `labels = {{ zone = \"a\" }}` |\n\
         | `FILTER` | levels, of all or by part: `info`, `matins_node=debug,warn` |\n"
    );
    text.push_str(&settings::<ServerLayer>("A node", "node.toml"));
    text.push_str(&settings::<ExecutorLayer>("An executor without a node", "executor.toml"));
    text.push_str(
        "\n## The cluster\n\nThese are the same on all nodes. `matins cluster settings` shows what is in force, and \
         `matins cluster settings set KEY=VALUE` changes it, at once and without a restart. Spans are written as `400d`, bytes as \
         `20Gi` (`Ki`, `Mi`, `Gi`, `Ti`).\n\n| key | default | meaning |\n|---|---|---|\n",
    );
    for setting in matins_node::serve::usual_settings() {
        let _ =
            writeln!(text, "| `{}` | `{}` | {} |", setting.key, setting.usual, cell(&setting.description));
    }
    text.push_str("\n## Clients\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n");
    let root = Cli::command();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        let Some(variable) = arg.get_env() else { continue };
        let (meaning, default) = meaning(arg);
        let flag = arg.get_long().unwrap_or_default();
        let (variable, default) = (variable.to_string_lossy(), default.unwrap_or_default());
        let _ = writeln!(text, "| `{variable}` | `--{flag}` | {default} | {} |", cell(&meaning));
    }
    text.push_str(
        "\nColours are left out if `NO_COLOR` is set. Where spans of traces go is told by the variables of OpenTelemetry \
         ([operations.md](operations.md#traces)).\n",
    );
    text
}

/// The settings of one service, as a table.
fn settings<L: Layer + clap::Args>(what: &str, file: &str) -> String {
    let verb = L::VERB;
    let mut text = format!(
        "\n## {what}\n\n[`matins {verb}`](commands.md#matins-{}); `deploy/config/{file}` is a file to start from.\n\n\
         | key in a file | flag | variable | value | default | meaning |\n|---|---|---|---|---|---|\n",
        verb.replace(' ', "-")
    );
    for arg in L::augment_args(Command::new(verb)).get_arguments() {
        let (meaning, default) = meaning(arg);
        let variable = arg.get_env().expect("every setting can be given in the environment");
        let _ = writeln!(
            text,
            "| `{}` | `--{}` | `{}` | `{}` | {} | {} |",
            arg.get_id(),
            arg.get_long().expect("every setting is a flag"),
            variable.to_string_lossy(),
            value_name(arg),
            default.unwrap_or_default(),
            cell(&meaning)
        );
    }
    text
}

/// Compares a reference with the file that people read.
fn hold(path: &str, now: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
        std::fs::write(&file, now).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(kept == now, "{path} is not of this code: UPDATE_GOLDENFILES=1 writes it anew");
}

#[test]
fn the_reference_of_commands_is_the_one_in_the_documents() {
    hold("docs/commands.md", &commands());
}

#[test]
fn the_reference_of_settings_is_the_one_in_the_documents() {
    hold("docs/configuration.md", &configuration());
}

/// What a reader copies from the reference can be typed.
#[test]
fn every_example_of_every_verb_is_understood() {
    let mut root = Cli::command();
    root.build();
    let mut seen = 0;
    for Verb { command, path, .. } in verbs(&root) {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // What stands after three blanks is for the reader.
        let lines = after.lines().filter_map(|line| line.strip_prefix("  ")?.split("   ").next());
        let typed = lines.flat_map(|line| line.split([';', '|', '>', '#'])).flat_map(|line| line.split("&&"));
        for line in typed {
            let words: Vec<String> = line
                .split(['"', '\''])
                .enumerate()
                .flat_map(|(at, part)| match at % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                })
                .collect();
            let words: Vec<&String> = words.iter().skip_while(|word| word.contains('=')).collect();
            if words.first().is_none_or(|word| *word != "matins") {
                continue;
            }
            seen += 1;
            let read = Cli::try_parse_from(&words);
            assert!(read.is_ok(), "{path}: {line}: {}", read.unwrap_err());
        }
    }
    assert!(seen > 60, "only {seen} examples were found");
}

#[test]
fn the_defaults_that_are_told_are_those_in_force() {
    let seen = defaults_hold::<ServerLayer>() + defaults_hold::<ExecutorLayer>();
    assert!(seen > 12, "only {seen} defaults are values");
}

/// Whoever writes a default into the file changes nothing. Gives how many could be tried.
fn defaults_hold<L: Layer + clap::Args>() -> usize
where
    L::Settled: std::fmt::Debug,
{
    // What a node or executor needs besides.
    let needed = "join = [\"127.0.0.1:7071\"]\n";
    let needed = if toml::from_str::<L>(needed).is_ok() { needed } else { "" };
    let settled = |text: &str| {
        let layer: L =
            toml::from_str(&format!("{needed}{text}")).unwrap_or_else(|error| panic!("{text}: {error}"));
        format!("{:?}", settle(layer).unwrap_or_else(|faults| panic!("{text}: {faults:?}")))
    };
    let mut seen = 0;
    for arg in L::augment_args(Command::new(L::VERB)).get_arguments() {
        let (_, default) = meaning(arg);
        // Defaults in words depend on the machine, or on another setting.
        let Some(value) = default.as_deref().and_then(|value| value.strip_prefix('`')?.strip_suffix('`'))
        else {
            continue;
        };
        let is_bare = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
        let value = if is_bare { value.to_owned() } else { format!("\"{value}\"") };
        assert_eq!(settled(&format!("{} = {value}\n", arg.get_id())), settled(""), "{}", arg.get_id());
        seen += 1;
    }
    seen
}
