//! Texts that come from people and files: cron, durations, sizes, zones, moments, parameters, templates. Each is read or
//! refused with words, and never with a panic. (Whole files are in `never_panics`.)

use matins_core::time::Timestamp;
use matins_workflow::calendar::{Cron, Zone, parse_duration, parse_signed_duration, parse_size};
use matins_workflow::compile::{NoFiles, Options};
use matins_workflow::template::{Scope, Times, eval_condition, eval_for_each, render_json, render_text};
use matins_workflow::{SourceFile, compile, resolve_params};
use proptest::prelude::*;

proptest! {
    #[test]
    fn a_cron_of_any_text_is_read_or_refused(text in "[-*/,?#@A-Za-z0-9 ]{0,40}", other in ".{0,30}") {
        for text in [&text, &other] {
            if let Ok(cron) = Cron::parse(text) {
                prop_assert_eq!(Cron::parse(cron.as_str()).map(|again| again.as_str().to_owned()), Ok(cron.as_str().to_owned()));
            }
        }
    }

    #[test]
    fn literals_of_any_text_are_read_or_refused(text in "[-+.0-9a-zA-Z ]{0,30}", other in ".{0,30}") {
        for text in [&text, &other] {
            if let Ok(span) = parse_duration(text) {
                prop_assert_eq!(parse_duration(&span.to_string()), Ok(span));
            }
            drop(parse_signed_duration(text));
            drop(parse_size(text));
            drop(Zone::parse(text));
        }
    }

    #[test]
    fn templates_of_any_text_are_rendered_or_refused(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..14), other in ".{0,40}",
    ) {
        let scope = scope();
        for text in [pieces.concat(), format!("{{{{ {} }}}}", pieces.concat()), other] {
            drop(render_text(&text, &scope));
            drop(render_json(&text, &scope));
            drop(eval_condition(&text, &scope));
            drop(eval_for_each(&text, &scope));
        }
    }

    #[test]
    fn params_of_any_json_are_typed_or_refused(values in prop::collection::vec(prop::sample::select(VALUES), 7)) {
        let source = SourceFile { name: "f".into(), text: DECLARED.into() };
        let compiled = compile(&[source], &NoFiles, &Options::default());
        prop_assert!(!compiled.has_errors(), "{:?}", compiled.diagnostics);
        let names = ["s", "i", "f", "b", "d", "l", "unknown"];
        let given = names.iter().zip(values).map(|(name, text)| {
            ((*name).to_owned(), serde_json::from_str(text).expect("a value is JSON"))
        });
        drop(resolve_params(&compiled.workflows[0].ir, None, &given.collect(), &scope()));
    }
}

fn scope() -> Scope {
    let times = Times { logical: Timestamp::from_millis(1_362_983_400_000), interval_start: Timestamp::ZERO };
    Scope::new(times, Zone::utc())
}

const DECLARED: &str = "
workflow: w
params:
  s: { type: string, default: x }
  i: { type: int, default: 1 }
  f: { type: float, default: 1.5 }
  b: { type: bool, default: true }
  d: { type: date, default: 2026-01-01 }
  l: { type: list, default: [] }
tasks: { a: { run: [x] } }
";

/// Values at the ends of what JSON can say.
const VALUES: &[&str] = &[
    "null",
    "true",
    "0",
    "-1",
    "1e300",
    "9223372036854775808",
    "-9223372036854775808",
    "0.1",
    "\"\"",
    "\"9999-12-31\"",
    "\"-009999-01-01\"",
    "\"[1,2\"",
    "\"[1,2]\"",
    "[]",
    "[[[[]]]]",
    "{}",
    "{\"a\":{}}",
    "\"\\u0000\"",
];

/// Pieces that mean something in a template.
const PIECES: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "|",
    "(",
    ")",
    "[",
    "]",
    ".",
    ",",
    "\"",
    "'",
    " ",
    "params",
    "run",
    "tasks",
    "item",
    "range",
    "range(1000000000)",
    "for x in range(9)",
    "endfor",
    "if true",
    "endif",
    "set x = 1",
    "==",
    "+",
    "*",
    "~",
    "-1",
    "99999999999999999999",
    "default(1)",
    "tojson",
    "format_time",
    "not ",
    "and ",
    "ä",
    "\u{0}",
];
