use std::fmt::Write as _;

use super::*;

fn read(text: &str) -> (Vec<Node>, Vec<String>) {
    let mut reporter = Reporter::new("t", text);
    let documents = parse(&mut reporter);
    let faults = reporter.into_diagnostics();
    (
        documents,
        faults.iter().map(|one| format!("{}:{} {}", one.place.line, one.place.column, one.code)).collect(),
    )
}

/// The source under each scalar, as the tree says where it stands.
fn scalars<'s>(source: &'s str, node: &Node, found: &mut Vec<(String, &'s str)>) {
    match &node.value {
        Value::Scalar(scalar) => found.push((scalar.text.clone(), &source[node.span.start..node.span.end])),
        Value::List(items) => items.iter().for_each(|item| scalars(source, item, found)),
        Value::Map(entries) => entries.iter().for_each(|entry| scalars(source, &entry.value, found)),
    }
}

#[test]
fn scalars_keep_text_and_place() {
    let text = "a: 1.10\nb: 'it''s'\nc: \"ä\\tx\"\nd: |\n  one\n  two\ne: [0123, no]\n";
    let (documents, faults) = read(text);
    assert_eq!(faults, Vec::<String>::new());
    let mut found = Vec::new();
    scalars(text, &documents[0], &mut found);
    assert_eq!(found[0], ("1.10".into(), "1.10"));
    assert_eq!(found[1], ("it's".into(), "'it''s'"));
    assert_eq!(found[2], ("ä\tx".into(), "\"ä\\tx\""));
    assert_eq!(found[3].0, "one\ntwo\n");
    assert_eq!(found[4], ("0123".into(), "0123"));
    assert_eq!(found[5], ("no".into(), "no"));
}

#[test]
fn a_piece_of_a_scalar_is_found_in_the_source() {
    let sources = [
        "a: one NAME two\n",
        "a: 'it''s NAME two'\n",
        "a: \"\\\"\\u00e9\\n NAME two\"\n",
        "a: |\n    if x\n      then NAME\n",
        "a: >-\n    folded\n    text\n\n    with NAME\n",
        "a: plain over\n   two NAME lines\n",
        "a: |2\n    deep\n   NAME\n",
    ];
    for source in sources {
        let (documents, faults) = read(source);
        assert_eq!(faults, Vec::<String>::new(), "{source}");
        let Value::Map(entries) = &documents[0].value else { panic!("a map") };
        let Value::Scalar(scalar) = &entries[0].value.value else { panic!("a scalar") };
        let at = scalar.text.find("NAME").expect("it holds NAME");
        let span = span_within(source, &entries[0].value, Span::new(at, at + 4));
        assert_eq!(&source[span.start..span.end], "NAME", "{source}");
    }
}

#[test]
fn duplicate_keys_and_merges() {
    let (_, faults) = read("a: 1\nb: 2\na: 3\n");
    assert_eq!(faults, ["3:1 duplicate-key"]);
    let (documents, faults) = read("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\n");
    assert_eq!(faults, Vec::<String>::new());
    let Value::Map(entries) = &documents[0].value else { panic!("a map") };
    let Value::Map(merged) = &entries[1].value.value else { panic!("a map") };
    let texts: Vec<_> = merged.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(texts, ["a", "b"]);
}

#[test]
fn bombs_meet_a_limit() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{aliases}]").expect("a String takes all");
    }
    let (_, faults) = read(&text);
    assert_eq!(faults.len(), 1);
    assert!(faults[0].ends_with("limit-yaml-aliases"), "{faults:?}");
    let (_, faults) = read(&format!("{}{}", "[".repeat(100), "]".repeat(100)));
    assert!(faults[0].ends_with("limit-yaml-depth"), "{faults:?}");
    let (_, faults) = read("a: &a [*a]\n");
    assert_eq!(faults, ["1:8 unknown-anchor"]);
    let (_, faults) = read("a: *b\nc: !!str d\n");
    assert_eq!(faults, ["1:4 unknown-anchor", "2:10 yaml-tag"]);
}
