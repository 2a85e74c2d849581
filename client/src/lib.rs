//! Matins.
