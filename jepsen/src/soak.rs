//! Everything, over and over with new seeds, until the time is up; then one report that says what was run and what broke.
//!
//! A soak has no upper limit. It runs the other verbs as children, one after the other, with seeds that nobody has chosen
//! before; a failure is noted with its one command and the soak goes on. What it found is written after every part, so
//! that a soak that is cut short has said what it knows. Start reading at [`PARTS`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::child;
use crate::report::{Report, Verdict};

/// What `soak` takes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// For how long; the part under way is finished
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The first seed; the soaks before say in their reports how far they came
    #[arg(long, default_value_t = 1_000_000)]
    from: u64,
    /// Only these parts, with commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Write what was found to this file, in words, after every part
    #[arg(long)]
    report: Option<PathBuf>,
}

/// One part of a round.
struct Part {
    name: &'static str,
    /// Its command, but for the seed.
    arguments: &'static [&'static str],
    /// What its seed is called.
    seed: &'static str,
    /// How many seeds it uses up.
    seeds: u64,
    /// Longer than this is a fault of its own.
    within: Duration,
}

/// A round. The short ones first, so that a short soak has seen them all.
const PARTS: &[Part] = &[
    Part {
        name: "sim",
        arguments: &["sim", "--seeds", "400"],
        seed: "--from",
        seeds: 400,
        within: Duration::from_secs(900),
    },
    Part {
        name: "whole",
        arguments: &["whole", "--seeds", "20", "--twice", "2"],
        seed: "--from",
        seeds: 20,
        within: Duration::from_secs(1_800),
    },
    Part {
        name: "crash",
        arguments: &["crash", "--seeds", "2"],
        seed: "--seed",
        seeds: 2,
        within: Duration::from_secs(900),
    },
    Part {
        name: "cluster",
        arguments: &["cluster", "--all", "--mixed", "--seconds", "60"],
        seed: "--seed",
        seeds: 1,
        within: Duration::from_secs(1_800),
    },
];

/// What the rounds of one part came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    seeds: Option<(u64, u64)>,
    seconds: f64,
    figures: BTreeMap<String, u64>,
}

/// Runs rounds until the time is up.
pub(crate) fn run(arguments: &Arguments) -> Report {
    let mut report = Report::new("soak");
    let until = Instant::now() + Duration::from_secs(60 * arguments.minutes);
    let parts: Vec<&Part> = PARTS
        .iter()
        .filter(|part| arguments.only.is_empty() || arguments.only.iter().any(|name| name == part.name))
        .collect();
    if parts.is_empty() {
        let names: Vec<&str> = PARTS.iter().map(|part| part.name).collect();
        report.invalid.push(format!("no part is called so; there are {}", names.join(", ")));
        return report;
    }
    let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
    let mut seed = arguments.from;
    for part in parts.iter().cycle() {
        if Instant::now() >= until {
            break;
        }
        run_part(part, seed, sums.entry(part.name).or_default(), &mut report);
        seed += part.seeds;
        if let Some(file) = &arguments.report {
            keep(file, &sums, &mut report);
        }
    }
    for (part, sum) in &sums {
        report.needs(format!("{part}: times run"), sum.runs, 1);
        for (name, value) in &sum.figures {
            report.figure(format!("{part}: {name}"), *value);
        }
    }
    report.notes.push(format!("the next soak may begin with --from {seed}"));
    report
}

fn run_part(part: &Part, seed: u64, sum: &mut Sum, report: &mut Report) {
    let seed_text = [part.seed.to_owned(), seed.to_string()];
    let arguments: Vec<String> =
        part.arguments.iter().map(|word| (*word).to_owned()).chain(seed_text).collect();
    let command = format!("matins-jepsen {}", arguments.join(" "));
    match child::run(&arguments, part.within) {
        Ok(found) => {
            sum.runs += 1;
            sum.seconds += found.seconds;
            let last = seed + part.seeds - 1;
            sum.seeds = Some(sum.seeds.map_or((seed, last), |(first, _)| (first, last)));
            for figure in &found.figures {
                let value = sum.figures.entry(figure.name.clone()).or_default();
                *value = joined(&figure.name, *value, figure.value);
            }
            if found.verdict() == Verdict::Invalid {
                report.invalid.push(format!("`{command}` says nothing: {found}"));
            }
            report.failures.extend(found.failures);
        }
        Err(error) => report.invalid.push(format!("`{command}`: {error}")),
    }
}

/// Two rounds of one figure: counts add up, extremes do not.
fn joined(name: &str, before: u64, now: u64) -> u64 {
    if ["longest", "worst", "most", "median"].iter().any(|word| name.contains(word)) {
        before.max(now)
    } else {
        before + now
    }
}

fn keep(file: &Path, sums: &BTreeMap<&str, Sum>, report: &mut Report) {
    if let Err(error) = std::fs::write(file, words(sums, report)) {
        report.invalid.push(format!("cannot write {}: {error}", file.display()));
    }
}

/// The report in words, for `jepsen/reports`.
fn words(sums: &BTreeMap<&str, Sum>, report: &Report) -> String {
    let today = jiff::Zoned::now().date();
    let mut text = format!("# Soak of {today}, version {}\n", report.version);
    for (part, sum) in sums {
        let (first, last) = sum.seeds.unwrap_or_default();
        writeln!(
            text,
            "\n## {part}\n\nRun {} times in {:.0} s, seeds {first} to {last}.\n",
            sum.runs, sum.seconds
        )
        .expect("text takes what is written");
        text.push_str("| what | figure |\n|---|---:|\n");
        for (name, value) in &sum.figures {
            writeln!(text, "| {name} | {value} |").expect("text takes what is written");
        }
    }
    text.push_str("\n## What broke\n\n");
    if report.failures.is_empty() {
        text.push_str("Nothing.\n");
    }
    for failure in &report.failures {
        writeln!(text, "- {}\n  Repeat it with: `{}`", failure.what.trim_end(), failure.repeat)
            .expect("text takes what is written");
    }
    if !report.invalid.is_empty() {
        text.push_str("\n## What says nothing\n\n");
    }
    for reason in &report.invalid {
        writeln!(text, "- {}", reason.trim_end().replace('\n', "\n  ")).expect("text takes what is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_stands_in_the_words_with_its_command() {
        let mut report = Report::new("soak");
        report.fail("I6: two processes", "matins-jepsen sim --from 7 --seeds 1");
        let sum = Sum { runs: 2, seeds: Some((7, 8)), seconds: 3.0, figures: BTreeMap::new() };
        let text = words(&BTreeMap::from([("sim", sum)]), &report);
        assert!(text.contains("seeds 7 to 8"), "{text}");
        assert!(text.contains("`matins-jepsen sim --from 7 --seeds 1`"), "{text}");
    }

    #[test]
    fn counts_add_up_and_extremes_do_not() {
        assert_eq!(joined("attempts", 3, 4), 7);
        assert_eq!(joined("without a leader, longest (ms)", 3, 4), 4);
    }
}
