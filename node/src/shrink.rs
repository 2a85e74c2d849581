//! Bounds of log and history that tests make smaller, so that what otherwise takes an hour or 64 MiB happens within
//! seconds: checkpoints, snapshots, purges, blocks of history, watches that cannot go on where they were.
//!
//! They are divided by the number in `MATINS_TEST_SHRINK`. Only builds for development look; a release knows no such thing.

/// A bound as this process keeps it: bytes, records or milliseconds. Never zero.
pub(crate) fn shrunk(bound: u64) -> u64 {
    (bound / factor()).max(1)
}

#[cfg(debug_assertions)]
fn factor() -> u64 {
    static FACTOR: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *FACTOR.get_or_init(|| {
        let given = std::env::var("MATINS_TEST_SHRINK").ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
    })
}

#[cfg(not(debug_assertions))]
const fn factor() -> u64 {
    1
}
