//! Makes the list of a failing seed short: what can be taken out while it still fails is taken out.

use std::time::{Duration, Instant};

use super::happening::Happening;
use super::{drawn, run_with};

/// Runs that the search may cost.
const TRIES_MAX: usize = 120;
/// And so long it may take.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Of a longer list only the beginning is shown.
const SHOWN_MAX: usize = 25;

/// The shortest list of happenings found with which the seed still breaks something, one line each.
pub(super) fn shortest(seed: u64, first: &str) -> Vec<String> {
    let (knobs, all) = drawn(seed);
    let mut list = all.clone();
    let mut broken = first.to_owned();
    let (mut tries, began) = (0, Instant::now());
    // What is left must break the same promise, not just any.
    let promise = |what: &str| what.split(':').next().map(str::to_owned);
    let wanted = promise(first);
    let mut fails = |list: &[Happening]| {
        tries += 1;
        let has_time = tries <= TRIES_MAX && began.elapsed() < TIME_MAX;
        let told = has_time.then(|| run_with(seed, knobs.clone(), list.to_vec()));
        told.and_then(|told| told.broken).filter(|what| promise(what) == wanted)
    };
    let mut part = list.len().div_ceil(2);
    while part > 0 {
        let mut from = 0;
        while from < list.len() {
            let mut shorter = list.clone();
            shorter.drain(from..(from + part).min(list.len()));
            match fails(&shorter) {
                Some(what) => {
                    list = shorter;
                    broken = what;
                }
                None => from += part,
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    let mut told = vec![format!("of {} happenings these {} are enough: {broken}", all.len(), list.len())];
    let line = |happening: &Happening| format!("{:>10.3} s {:?}", happening.at as f64 / 1e9, happening.what);
    told.extend(list.iter().take(SHOWN_MAX).map(line));
    told
}
