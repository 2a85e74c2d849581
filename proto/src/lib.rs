//! The wire types of Matins: `matins.v1`.
//!
//! Everything in [`v1`] is generated from `proto/matins/v1/*.proto`, which is where to read: the comments there are the
//! API's reference, `common.proto` first (conventions), then `error.proto` (what an error consists of).
//! By hand there is only what has a form of its own in JSON ([`Timestamp`], [`Duration`], [`Json`]) and the table that
//! gives each error reason its status code. This crate decides nothing and opens no connection.
//!
//! Messages serialize with serde by proto3's JSON mapping; the links between the parts of a cluster do not.

mod json;
mod reason;
mod time;

pub use json::{Json, NotJson};
pub use reason::{ERROR_DOMAIN, HINT};
pub use time::{Duration, Timestamp};

/// Generated from `proto/matins/v1/*.proto`: messages, and a client and a server module for each service.
#[expect(unused_qualifications, clippy::pedantic, reason = "it is generated")]
pub mod v1 {
    tonic::include_proto!("matins.v1");
    include!(concat!(env!("OUT_DIR"), "/matins.v1.serde.rs"));
}

/// Describes the public services, for gRPC reflection: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/matins.v1.bin"));
