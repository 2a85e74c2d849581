//! Whatever a file holds, compiling it ends with diagnostics, never with a panic; and without errors only with
//! workflows that encode to the same bytes each time.

use matins_workflow::compile::{NoFiles, Options};
use matins_workflow::{Colour, SourceFile, compile};
use proptest::prelude::*;

const SEEDS: &[&str] = &[
    include_str!("good/nightly-flights.yaml"),
    include_str!("bad/language-later.yaml"),
    include_str!("bad/params.yaml"),
    include_str!("bad/template-names.yaml"),
    include_str!("bad/conditions.yaml"),
    include_str!("bad/aliases.yaml"),
    include_str!("bad/unicode.yaml"),
];

/// Pieces that mean something in YAML, in templates or in both.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "\"",
    "'",
    "\n",
    "  ",
    "- ",
    ": ",
    "&a ",
    "*a",
    "<<: ",
    "|",
    ">-\n",
    "[",
    "]",
    "{",
    "}",
    "#",
    "~",
    "!",
    "---\n",
    "\t",
    "ä",
    "\u{1F980}",
    "{{ params.day }}",
    "run: ",
    "needs: ",
    "\\u00e9",
    "%",
    "0x1",
    "\r\n",
    "?",
];

fn check(text: impl Into<Vec<u8>>) {
    let text = text.into();
    let source = || [SourceFile { name: "f".into(), text: text.clone() }];
    let compiled = compile(&source(), &NoFiles, &Options::default());
    for one in &compiled.diagnostics {
        assert!(!one.render(Colour::Never).is_empty());
        assert!(one.render(Colour::Always).contains(&one.code));
        let range = one.place.range.start as usize..one.place.range.end as usize;
        assert!(one.place.source_line.get(range).is_some(), "{one:?}");
    }
    assert_eq!(compiled, compile(&source(), &NoFiles, &Options::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(bytes);
    }

    #[test]
    fn pieces_of_the_language(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..40)) {
        check(pieces.concat());
        check(format!("workflow: w\ntasks:\n  a:\n    run: {}\n", pieces.concat()));
        check(format!("workflow: w\ntasks:\n  a:\n    run: [x]\n    when: \"{}\"\n", pieces.concat()));
    }

    #[test]
    fn mutated_files(
        seed in prop::sample::select(SEEDS),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..20_usize, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut text = seed.as_bytes().to_vec();
        for (at, removed, piece) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.bytes());
        }
        check(text);
    }
}
