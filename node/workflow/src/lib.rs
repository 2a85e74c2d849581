//! The workflow language of Matins.
//!
//! YAML text becomes checked, positioned diagnostics and, without errors, the IR of `matins-core`. Templates and
//! conditions are rendered here, cron and zones are read here. Pure: knows no clock, file, socket or random source;
//! files named by a workflow are looked up through a trait.
pub mod calendar;
pub mod check;
pub mod compile;
mod diagnostic;
mod params;
pub mod template;
mod yaml;

pub use compile::{Compiled, CompiledWorkflow, SourceFile, compile};
pub use diagnostic::{Colour, Diagnostic, Place, Severity, nearest};
pub use params::{PARAMS_BYTES_MAX, ParamFault, resolve_params};
