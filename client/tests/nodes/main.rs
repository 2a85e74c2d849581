//! The client against nodes in this process that fail in the ways nodes fail.

#[expect(clippy::unwrap_used, reason = "a fake that fails is a test that fails")]
mod fake;
mod follow;
mod walk;
