//! Matins.
fn main() {}
