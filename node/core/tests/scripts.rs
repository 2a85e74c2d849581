//! Golden scripts: each rule of PROTOCOL as a short story, text in, text out. `UPDATE_GOLDENFILES=1` writes the answers.
//!
//! After every line the state is held to the invariants of DESIGN 6, a refusal to leaving no trace, and a second replica
//! to the same result.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "scripts show what is worth a word, and the parser's enum may grow"
)]

mod common;

use std::path::Path;

#[test]
fn rules_hold_as_their_scripts_tell() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(scripts).expect("scripts").map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        println!("{}", path.display());
        goldenscript::run(&mut common::Script::founded(), &path).expect("the script can be read");
    }
}
