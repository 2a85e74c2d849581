//! A client for a Matins cluster: one door to all of its nodes.
//!
//! [`Client::call`] sends any request message of `matins.v1` and gives its answer; the type of the request says
//! which method it is for. It walks the endpoints until one answers, remembers that one, and repeats a command under
//! the `request_id` that was drawn for it once, so that a leader that dies in the middle costs time and never does a
//! thing twice (PROTOCOL 4.6). All of that ends after [`Limits::total_max`].
//!
//! [`Client::watch_run`] and its like follow what changes and go on at the same log index on another node when theirs
//! fails (PROTOCOL 7); [`Client::read_logs`] does so with logs. Errors are [`ClientError`], which knows the exit code
//! that goes with it.
//!
//! Start reading at `client.rs`; `nodes.rs` has the walk, `call.rs` the table of methods.
//!
//! ```no_run
//! # async fn example() -> Result<(), matins_client::ClientError> {
//! use matins_client::{Client, Limits};
//! use matins_proto::v1::{StartRunRequest, WatchRunRequest};
//!
//! let client = Client::new("10.0.0.1:7070,10.0.0.2:7070", Limits::default())?;
//! let started = client.call(StartRunRequest { workflow: "nightly".into(), ..Default::default() }).await?;
//! let mut watch = client.watch_run(WatchRunRequest { run: started.run_id, after_index: 0 });
//! while watch.next().await?.is_some() {
//!     println!("{:?}", watch.run().state());
//! }
//! # Ok(())
//! # }
//! ```

mod call;
mod client;
mod cursor;
mod error;
mod follow;
mod nodes;
mod view;

pub use call::{Call, Command, Route};
pub use client::{Backup, Client};
pub use cursor::{BackfillCursor, Cursor, Heard, LogCursor, RunCursor, RunsCursor};
pub use error::{Answered, ClientError, Delay, ErrorClass, Failure, Violation};
pub use follow::Follow;
pub use nodes::Limits;
pub use view::{update_run, update_runs};
