//! What people read when a file is wrong: each `bad/NAME.yaml` gives what `bad/NAME.txt` says, and nothing but
//! warnings and notes comes of `good/`. `UPDATE_GOLDENFILES=1` writes the texts anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use matins_workflow::compile::{FileLookup, FoundFile, Options, glob_matches};
use matins_workflow::{Colour, Compiled, CompiledWorkflow, Severity, SourceFile, compile};

/// Files that exist beside every source.
struct Beside;

impl FileLookup for Beside {
    fn find(&self, _: &str, glob: &str) -> Result<Vec<FoundFile>, String> {
        let file = |path: &str, bytes| FoundFile {
            path: path.to_owned(),
            digest: matins_core::id::Digest::of(path.as_bytes()),
            bytes,
            is_executable: false,
        };
        let all =
            [file("scripts/load.py", 100), file("scripts/extract.py", 200), file("large.bin", 100 << 20)];
        Ok(all.into_iter().filter(|file| glob_matches(glob, &file.path)).collect())
    }
}

fn folder(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let entries = fs::read_dir(folder).expect("the folder is part of the crate");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

fn compiled(path: &Path) -> Compiled {
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    let text = fs::read(path).expect("a readable file");
    compile(&[SourceFile { name, text }], &Beside, &Options::default())
}

fn rendered(compiled: &Compiled) -> String {
    let pools = compiled.unknown_pools(&BTreeSet::new());
    compiled.diagnostics.iter().chain(&pools).map(|one| one.render(Colour::Never) + "\n").collect()
}

#[test]
fn faults_are_said_as_written_down() {
    let mut wrong = Vec::new();
    for path in folder("bad") {
        let compiled = compiled(&path);
        let text = rendered(&compiled);
        assert!(!text.is_empty(), "{} has no fault", path.display());
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            fs::write(&golden, &text).expect("the golden file is writable");
        } else if fs::read_to_string(&golden).ok().as_deref() != Some(text.as_str()) {
            wrong.push(format!("{}:\n{text}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn good_files_have_no_faults() {
    for path in folder("good") {
        let compiled = compiled(&path);
        assert!(!compiled.has_errors(), "{}:\n{}", path.display(), rendered(&compiled));
        assert!(!compiled.workflows.is_empty(), "{}", path.display());
        assert!(
            compiled.diagnostics.iter().all(|one| one.severity == Severity::Note),
            "{}",
            rendered(&compiled)
        );
    }
}

/// The compiled form and its digest are kept for ever: a change here makes new versions of everybody's workflows.
#[test]
fn the_compiled_form_stays_as_it_is() {
    for path in folder("good") {
        let mut text = String::new();
        for workflow in &compiled(&path).workflows {
            let ir = serde_json::to_string_pretty(&workflow.ir).expect("the IR has JSON");
            let (bytes, digest) = (workflow.encode().len(), workflow.digest());
            writeln!(text, "{ir}\n{bytes} bytes, digest {digest}").expect("a String takes all");
        }
        let golden = path.with_extension("ir");
        if std::env::var_os("UPDATE_GOLDENFILES").is_some() {
            fs::write(&golden, &text).expect("the golden file is writable");
        }
        assert_eq!(text, fs::read_to_string(&golden).expect("the golden file"), "{}", path.display());
    }
}

#[test]
fn line_ends_and_byte_order_mark_change_nothing() {
    for path in folder("good") {
        let text = fs::read_to_string(&path).expect("a readable file");
        let other = format!("\u{feff}{}", text.replace('\n', "\r\n"));
        let version = |text: String| {
            let source = SourceFile { name: "w".into(), text: text.into() };
            let compiled = compile(&[source], &Beside, &Options::default());
            assert!(!compiled.has_errors(), "{}", rendered(&compiled));
            compiled.workflows.iter().map(CompiledWorkflow::digest).collect::<Vec<_>>()
        };
        assert_eq!(version(text), version(other), "{}", path.display());
    }
}

#[test]
fn compiling_twice_gives_the_same_bytes() {
    for path in folder("good") {
        let (one, other) = (compiled(&path), compiled(&path));
        for (one, other) in one.workflows.iter().zip(&other.workflows) {
            assert_eq!(one.encode(), other.encode());
            assert_eq!(one.digest(), other.digest());
        }
    }
}

#[test]
fn a_comment_makes_no_new_version() {
    let source = |text: &str| SourceFile { name: "a".into(), text: text.into() };
    let plain = source("workflow: a\ntasks: { x: { run: [echo, \"1\"] } }\n");
    let other = source("# why\nworkflow: a\n\ntasks:\n  x:\n    run: [echo, '1']   # what\n");
    let version = |source: SourceFile| compile(&[source], &Beside, &Options::default()).workflows[0].digest();
    assert_eq!(version(plain), version(other));
}
