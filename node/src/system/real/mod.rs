//! The machine that this process runs on.

pub(super) mod clock;
pub(super) mod net;
pub(super) mod process;
