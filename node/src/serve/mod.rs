//! The public port: gRPC in, commands and reads out.
