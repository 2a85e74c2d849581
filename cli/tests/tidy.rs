//! What no lint knows about this repository: sizes, heads, arrows between crates, one place per outside library.
//!
//! Each check gathers all its faults and fails once, with `path: what is wrong`, so that one run shows everything.
//! It never asks git or the network. Rules: STYLE 1.5 to 1.7, 4.26 and 4.30, DESIGN 2 and 3.1. Start at the tests.

use std::fs;

mod repository;

use repository::{File, files, root};

/// Lines of code that a file may have: no blank lines, comments or tests.
const CODE_LINES_MAX: usize = 500;

/// Our crates, the folder of each, and which of the others it may import. A new arrow is a design decision.
const ARROWS: [(&str, &str, &[&str]); 8] = [
    ("matins-proto", "proto", &[]),
    ("matins-core", "node/core", &[]),
    ("matins-workflow", "node/workflow", &["matins-core"]),
    ("matins-node", "node", &["matins-core", "matins-workflow", "matins-proto"]),
    ("matins-client", "client", &["matins-proto"]),
    ("matins", "cli", &["matins-client", "matins-proto", "matins-node", "matins-workflow", "matins-core"]),
    (
        "matins-jepsen",
        "jepsen",
        &["matins", "matins-client", "matins-proto", "matins-node", "matins-workflow", "matins-core"],
    ),
    // It measures as a client does; the bare commit and large states it takes from the engine itself.
    ("matins-bench", "bench", &["matins-client", "matins-proto", "matins-node", "matins-core"]),
];

/// Libraries that only one place may know, so that replacing them stays local.
const ONE_PLACE: [(&str, &str); 4] = [
    ("openraft::", "node/src/raft/"),
    ("sled::", "node/src/store/"),
    ("minijinja::", "node/workflow/src/"),
    ("serde_saphyr::", "node/workflow/src/"),
];

#[test]
fn no_file_is_longer_than_500_lines_of_code() {
    check(&["rs"], |file| {
        let lines = if is_test(file) { 0 } else { code_lines(&file.text) };
        (lines > CODE_LINES_MAX)
            .then(|| format!("{lines} lines of code, {CODE_LINES_MAX} are allowed"))
            .into_iter()
            .collect()
    });
}

#[test]
fn code_lines_leave_out_comments_and_tests() {
    let text = "//! Head.\n\nfn one() {}\n// why\n/// what\nfn two() {}\n#[cfg(test)]\nmod tests {\nfn three() {}\n}\n";
    assert_eq!(code_lines(text), 2);
    // A test module in a file of its own does not end the count.
    assert_eq!(code_lines("#[cfg(test)]\nmod tests;\nfn one() {}\n"), 3);
}

#[test]
fn every_module_says_what_it_is_for() {
    check(&["rs"], |file| {
        let bare = !is_test(file) && !file.text.starts_with("//!");
        bare.then(|| "no `//!` head: what is it for, what does it never do, where to start?".to_owned())
            .into_iter()
            .collect()
    });
}

#[test]
fn unfinished_work_names_its_issue() {
    // Written apart, so that this file does not find itself.
    let marks = ["TO", "FIX", "XX"].iter().zip(["DO", "ME", "X"]).map(|(a, b)| format!("{a}{b}"));
    let marks: Vec<String> = marks.collect();
    check(&["rs", "py", "proto", "sh", "toml", "yaml", "yml"], |file| {
        let unfinished = |line: &str| {
            line.split(|c: char| !c.is_alphanumeric()).any(|word| marks.iter().any(|mark| mark == word))
        };
        lines_where(file, |line| unfinished(line) && !names_an_issue(line), "names no issue, as in `(#12)`")
    });
}

#[test]
fn imports_point_one_way() {
    let mut faults = Vec::new();
    for (krate, folder, allowed) in ARROWS {
        let manifest = root().join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("every crate of the table has a manifest");
        assert!(text.contains(&format!("name = \"{krate}\"")), "{folder} is not {krate}: mend the table");
        faults.extend(
            imports(&text)
                .filter(|import| *import != krate && !allowed.contains(import))
                .map(|import| format!("{folder}/Cargo.toml: {krate} may not import {import}")),
        );
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    let members = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace has a manifest");
    let members = members.lines().find(|line| line.starts_with("members = ")).expect("it lists its members");
    assert_eq!(members.matches('"').count() / 2, ARROWS.len(), "a crate is missing in the table");
}

#[test]
fn core_is_without_std() {
    let text = fs::read_to_string(root().join("node/core/src/lib.rs")).expect("core has a lib.rs");
    assert!(text.contains("#![no_std]"), "clocks, files and hash maps must stay out of reach of `apply`");
}

#[test]
fn each_library_has_one_place() {
    // It parses the YAML of `deploy/`, which is no workflow.
    let exempt = ["cli/tests/tidy.rs", "cli/tests/monitoring.rs"];
    check(&["rs"], |file| {
        let strange = ONE_PLACE.iter().filter(|(library, place)| {
            !exempt.contains(&file.path.as_str())
                && !file.path.starts_with(place)
                && uses(&file.text, library)
        });
        strange.map(|(library, place)| format!("`{library}` belongs in {place}")).collect()
    });
}

#[test]
fn nothing_points_outside_the_repository() {
    let outside = ["../", "/work/"].map(|up| format!("{up}shared"));
    check(&["rs", "py", "proto", "sh", "toml", "yaml", "yml", "md", "tsv", ""], |file| {
        let strange = |line: &str| outside.iter().any(|path| line.contains(path));
        lines_where(file, strange, "names a file that a fresh clone has not")
    });
}

/// Whether all of it is test code.
fn is_test(file: &File) -> bool {
    let path = &file.path;
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// `line N <fault>` for each line for which `wrong` holds.
fn lines_where(file: &File, wrong: impl Fn(&str) -> bool, fault: &str) -> Vec<String> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| wrong(line));
    lines.map(|(index, _)| format!("line {} {fault}", index + 1)).collect()
}

/// Fails with all faults that `faults_of` finds in the files with one of these extensions.
fn check(extensions: &[&str], faults_of: impl Fn(&File) -> Vec<String>) {
    let files = files(extensions);
    assert!(!files.is_empty(), "found no files with extensions {extensions:?}: nothing was checked");
    let faults: Vec<String> = files
        .iter()
        .flat_map(|file| faults_of(file).into_iter().map(|fault| format!("{}: {fault}", file.path)))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Lines that are neither blank nor comments, up to the file's own test module.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_tests =
        |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
    lines[..end].iter().filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

/// Our own crates that a manifest names as dependencies of any kind.
fn imports(manifest: &str) -> impl Iterator<Item = &str> {
    let names = manifest.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| name.starts_with("matins"))
}

/// Whether code, not a comment, names `library::` from its root.
fn uses(text: &str, library: &str) -> bool {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        line.match_indices(library).any(|(at, _)| {
            !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
        })
    })
}

fn names_an_issue(line: &str) -> bool {
    line.split('#').skip(1).any(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()))
}
