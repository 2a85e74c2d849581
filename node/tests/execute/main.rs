//! The executor with real processes, against a leader of the test (PROTOCOL 5, the "bad days").

mod deaths;
mod leader;
mod setup;
mod tasks;
