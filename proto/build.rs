//! Compiles `proto/matins/v1/*.proto` into Rust: messages, clients, servers, JSON and a descriptor set.
//!
//! protox reads the files, so neither `protoc` nor any other C or C++ program is needed. Every file of the folder is
//! taken; those named in `INTERNAL` are for nodes and executors only, and get neither JSON nor reflection.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use prost::Message as _;

/// Links between the parts of a cluster. They may change from release to release, so clients are not shown them.
const INTERNAL: [&str; 2] = ["executor.proto", "peer.proto"];

/// Types that have a form of their own in JSON, written by hand in `src/`.
const BY_HAND: [(&str, &str); 3] = [
    (".google.protobuf.Timestamp", "crate::Timestamp"),
    (".google.protobuf.Duration", "crate::Duration"),
    (".matins.v1.Json", "crate::Json"),
];

/// Bytes that pass through a node and are not copied on their way.
const SHARED_BYTES: [&str; 9] = [
    ".matins.v1.LogLine.text",
    ".matins.v1.UploadBlobRequest.chunk",
    ".matins.v1.PeerRecord",
    ".matins.v1.PeerSnapshotPart",
    ".matins.v1.PeerBlobPart",
    ".matins.v1.PeerForwardRequest",
    ".matins.v1.PeerForwardResponse",
    ".matins.v1.PeerStatusResponse",
    ".matins.v1.PeerGetBlobRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new("proto/matins/v1");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    // The order of a directory is not the same everywhere, that of the generated code should be.
    files.sort();

    let mut builder = tonic_prost_build::configure().emit_rerun_if_changed(false).btree_map(".");
    for path in SHARED_BYTES {
        builder = builder.bytes(path);
    }
    for (proto, rust) in BY_HAND {
        builder = builder.extern_path(proto, rust);
    }
    builder.compile_fds(protox::compile(&files, ["proto"])?)?;

    files.retain(|path| !INTERNAL.iter().any(|name| path.ends_with(name)));
    describe_public(&files)
}

/// Writes the descriptor set of the public files, for reflection, and their JSON form.
fn describe_public(files: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(files, ["proto"])?.encode_to_vec();
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out_dir.join("matins.v1.bin"), &descriptors)?;

    let mut json = pbjson_build::Builder::new();
    json.register_descriptors(&descriptors)?;
    for (proto, rust) in BY_HAND {
        json.extern_path(proto, rust);
    }
    // Zeros and empty lists are written: what a reader of JSON does not see is not there.
    json.emit_fields().btree_map([".matins.v1"]).exclude([".matins.v1.Json"]).build(&[".matins.v1"])?;
    Ok(())
}
