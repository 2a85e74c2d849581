//! Matins.
pub mod calendar;
