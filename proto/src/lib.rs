//! The wire types of Matins: `matins.v1`.
