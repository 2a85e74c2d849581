//! Documents that stay true: what they name exists, what is cited is there, and their examples run.
//!
//! A name in backquotes is checked in all documents: `folder/file` must be there, and `folder/file::name` must be a
//! function, type or constant in a file whose path begins with `folder/file`. Never asks the network. Start at the tests.

use std::collections::BTreeSet;
use std::process::Command;

use matins_workflow::compile::{NoFiles, Options, SourceFile};
use matins_workflow::{Colour, compile};

mod repository;

use repository::{File, files, root};

/// Folders that a name in backquotes may begin with.
const FOLDERS: [&str; 10] =
    ["bench/", "client/", "cli/", "deploy/", "docs/", "examples/", "jepsen/", "node/", "proto/", ".ci/"];

/// What code cites, and the document that has it.
const CITED: [(&str, &str); 4] = [
    ("PROTOCOL", "node/PROTOCOL.md"),
    ("DESIGN", "node/ARCHITECTURE.md"),
    ("LANGUAGE", "docs/language.md"),
    ("STYLE", "docs/style.md"),
];

#[test]
fn what_documents_name_exists() {
    let sources = files(&["rs", "py"]);
    let mut seen = 0;
    check_documents(|document| {
        let names = backquoted(&document.text).into_iter().filter(|name| is_of_the_repository(name));
        let names: Vec<String> = names.collect();
        seen += names.len();
        names
            .into_iter()
            .filter(|name| !exists(name, &sources))
            .map(|name| format!("there is no `{name}`"))
            .collect()
    });
    assert!(seen > 100, "only {seen} names were found: nothing was checked");
}

#[test]
fn links_lead_somewhere() {
    check_documents(|document| {
        let folder = root().join(&document.path).parent().expect("a document lies in a folder").to_owned();
        let links = document.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let own = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        let path = |link: &str| folder.join(link.split('#').next().unwrap_or_default());
        own.filter(|link| !path(link).exists()).map(|link| format!("the link {link} leads nowhere")).collect()
    });
}

#[test]
fn every_rule_of_the_protocol_is_held_or_says_why_not() {
    let protocol = document("node/PROTOCOL.md");
    let rules: Vec<&str> = protocol.split("\n### ").skip(1).collect();
    assert!(rules.len() > 40, "only {} rules were found", rules.len());
    let open = rules.iter().filter(|rule| !rule.contains("\nHeld by: ") && !rule.contains("\nNot yet"));
    let open: Vec<&str> = open.filter_map(|rule| rule.lines().next()).collect();
    assert!(open.is_empty(), "nothing is said about what holds {open:?}");
}

#[test]
fn every_rule_that_is_cited_exists() {
    let mut faults = Vec::new();
    let mut seen = 0;
    let sources = files(&["rs", "py", "proto", "sh", "toml", "yaml", "md", ""]);
    for (word, path) in CITED {
        let rules = numbers_of(&document(path));
        for file in &sources {
            for number in citations(&file.text, word) {
                seen += 1;
                if !rules.contains(number) {
                    faults.push(format!("{} cites {word} {number}, which {path} has not", file.path));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} citations were found: nothing was checked");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn examples_of_the_language_say_what_they_say() {
    let text = document("docs/language.md");
    let (mut faults, mut seen) = (Vec::new(), 0);
    let blocks = fenced(&text);
    for (at, block) in blocks.iter().enumerate().filter(|(_, block)| block.language == "yaml") {
        seen += 1;
        let place = format!("docs/language.md, line {}", block.line);
        let told = diagnostics(&block.text);
        // A file that is refused, or warned about, is followed by what the checker says of it.
        let expected =
            blocks.get(at + 1).filter(|next| next.language == "text").map_or("", |next| next.text.as_str());
        if told.trim_end() != expected.trim_end() {
            faults.push(format!("{place}: the checker says\n{told}"));
        }
    }
    assert!(seen > 10, "only {seen} examples were found");
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn commands_of_documents_are_understood() {
    let mut seen = 0;
    check_documents(|document| {
        let blocks = fenced(&document.text).into_iter().filter(|block| block.language == "console");
        let lines: Vec<String> =
            blocks.flat_map(|block| block.text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        let asked =
            lines.iter().filter_map(|line| line.strip_prefix("$ ")).flat_map(|line| line.split(" && "));
        let mut faults = Vec::new();
        for command in asked {
            let words = words_of(command);
            let own = words.strip_prefix(["matins".to_owned()].as_slice());
            let demo = words.strip_prefix(["cargo", "run", "--release", "--"].map(str::to_owned).as_slice());
            let Some(arguments) = own.or(demo) else { continue };
            seen += 1;
            // Everything before `--help` is parsed, and then nothing is done.
            let asked = Command::new(env!("CARGO_BIN_EXE_matins")).args(arguments).arg("--help").output();
            let output = asked.expect("the binary can be run");
            if !output.status.success() {
                faults.push(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr)));
            }
        }
        faults
    });
    assert!(seen > 10, "only {seen} commands were found");
}

/// Words as a shell would take them, as far as documents use it.
fn words_of(command: &str) -> Vec<String> {
    let parts = command.split(['"', '\'']).enumerate();
    parts
        .flat_map(|(at, part)| {
            if at % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

/// All that the checker says of one file.
fn diagnostics(text: &str) -> String {
    let source = SourceFile { name: "example.yaml".to_owned(), text: text.as_bytes().to_vec() };
    let compiled = compile(&[source], &NoFiles, &Options::default());
    assert!(compiled.has_errors() || !compiled.workflows.is_empty() || !compiled.pools.is_empty());
    compiled.diagnostics.iter().map(|one| one.render(Colour::Never)).collect::<Vec<_>>().join("\n")
}

/// Fails with all faults that `faults_of` finds in the documents.
fn check_documents(mut faults_of: impl FnMut(&File) -> Vec<String>) {
    let faults: Vec<String> = files(&["md"])
        .iter()
        .flat_map(|file| {
            faults_of(file).into_iter().map(|fault| format!("{}: {fault}", file.path)).collect::<Vec<_>>()
        })
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn document(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("the document is there")
}

/// Words in backquotes outside of fenced blocks.
fn backquoted(text: &str) -> Vec<String> {
    let outside: Vec<&str> = lines(text).filter(|(inside, _)| !inside).map(|(_, line)| line).collect();
    outside.join("\n").split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn is_of_the_repository(name: &str) -> bool {
    FOLDERS.iter().any(|folder| name.starts_with(folder)) && !name.contains([' ', '*', '{', '<', '\n'])
}

fn exists(name: &str, sources: &[File]) -> bool {
    let Some((path, item)) = name.split_once("::") else { return root().join(name).exists() };
    let item = item.rsplit("::").next().unwrap_or(item);
    let kinds = ["fn", "struct", "enum", "trait", "const", "type", "def"];
    sources
        .iter()
        .filter(|file| file.path.starts_with(path))
        .any(|file| kinds.iter().any(|kind| has_word(&file.text, &format!("{kind} {item}"))))
}

/// Whether `text` has `words`, and no longer word that begins with them.
fn has_word(text: &str, words: &str) -> bool {
    let goes_on = |at: usize| text[at..].starts_with(|next: char| next.is_alphanumeric() || next == '_');
    text.match_indices(words).any(|(at, _)| !goes_on(at + words.len()))
}

/// `4.30` of `STYLE 4.30`, `3` of `DESIGN 3`.
fn citations<'t>(text: &'t str, word: &'t str) -> impl Iterator<Item = &'t str> {
    let begins = format!("{word} ");
    let places: Vec<usize> = text.match_indices(&begins).map(|(at, _)| at + begins.len()).collect();
    places.into_iter().filter_map(|at| {
        let rest = &text[at..];
        let end = rest.find(|next: char| !next.is_ascii_digit() && next != '.').unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches('.');
        (!number.is_empty()).then_some(number)
    })
}

/// The numbers of all headings (`## 3.`, `### 3.5`) and of items below them: item 5 below heading 3 is `5` and `3.5`.
fn numbers_of(text: &str) -> BTreeSet<String> {
    let mut numbers = BTreeSet::new();
    let mut section = None;
    for (_, line) in lines(text).filter(|(inside, _)| !inside) {
        let words = line.trim_start_matches('#');
        let first = words.split_whitespace().next().unwrap_or_default();
        let number = first.trim_end_matches('.');
        let is_number = number.starts_with(|first: char| first.is_ascii_digit());
        if words.len() < line.len() {
            section = is_number.then(|| number.to_owned());
            numbers.extend(section.clone());
        } else if let Some(section) = &section
            && is_number
            && first.ends_with('.')
            && line.starts_with(first)
        {
            numbers.extend([number.to_owned(), format!("{section}.{number}")]);
        }
    }
    numbers
}

/// A fenced block, without the indent of its fence.
struct Block {
    /// Of its first line, from 1.
    line: usize,
    language: String,
    text: String,
}

fn fenced(text: &str) -> Vec<Block> {
    let (mut blocks, mut indent): (Vec<Block>, usize) = (Vec::new(), 0);
    let mut was_inside = false;
    for (number, (inside, line)) in lines(text).enumerate() {
        if inside && !was_inside {
            let language = line.trim_start().trim_start_matches('`');
            indent = line.len() - line.trim_start().len();
            blocks.push(Block { line: number + 2, language: language.to_owned(), text: String::new() });
        } else if let Some(block) = blocks.last_mut().filter(|_| inside) {
            block.text += line.get(indent..).unwrap_or_default();
            block.text += "\n";
        }
        was_inside = inside;
    }
    blocks
}

/// Each line, and whether it belongs to a fenced block; its opening fence does, its closing one does not.
fn lines(text: &str) -> impl Iterator<Item = (bool, &str)> {
    let mut inside = false;
    text.lines().map(move |line| {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        }
        (inside, line)
    })
}

#[test]
fn citations_and_numbers_are_read_alike() {
    let cited: Vec<&str> = citations("see RULE 3.5, and RULE 12. RULE x", "RULE").collect();
    assert_eq!(cited, ["3.5", "12"]);
    let numbers =
        numbers_of("# Title\n1. of no section\n## 3. Ticks\n5. an item\n### 3.6 Quarantine\n7 is no item\n");
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), ["3", "3.5", "3.6", "5"]);
}
