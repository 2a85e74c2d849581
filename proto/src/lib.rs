//! The wire types of Matins: `matins.v1`, made by `build.rs` from the `.proto` files beside it.

/// Messages and services of `matins.v1`.
pub mod v1 {
    #![expect(missing_docs, clippy::all, clippy::pedantic, unused_qualifications, reason = "generated code")]

    tonic::include_proto!("matins.v1");
}
