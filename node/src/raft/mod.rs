//! Consensus: everything of openraft is behind this module.
