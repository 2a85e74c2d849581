//! Small files that are replaced as a whole: temp file, fsync, rename, fsync of the directory.
//!
//! So a crash leaves the old content or the new one, never a mixture, and a damaged file is told from a torn one:
//! there are no torn ones.

use std::path::{Path, PathBuf};

use matins_core::mutation::{Mutation, planted};

use super::files::{Files, Open};
use super::{Result, StoreError};

const MAGIC: &[u8; 4] = b"MATF";
const VERSION: u32 = 1;
/// Magic, version, length, crc32 of the payload.
const HEAD_BYTES: usize = 16;

/// Writes `payload` as the new content of `path`, durably.
pub(crate) fn save(files: &dyn Files, path: &Path, payload: &[u8]) -> Result<()> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(payload).to_le_bytes());
    bytes.extend_from_slice(payload);
    replace(files, path, &bytes)
}

/// Reads what `save` wrote. `None` if there is no such file.
///
/// What it answers is durable: a process killed between rename and fsync left a name that only the cache knew.
pub(crate) fn load(files: &dyn Files, path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(bytes) = read_whole(files, path)? else { return Ok(None) };
    files.sync_dir(parent(path)).map_err(StoreError::io("sync the directory of", path))?;
    let corrupt = |at, why: &str| Err(StoreError::corrupt(path, at, why));
    let field = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().expect("4 bytes")));
    let (Some(version), Some(len), Some(crc)) = (field(4), field(8), field(12)) else {
        return corrupt(bytes.len() as u64, "it ends inside its head");
    };
    if !bytes.starts_with(MAGIC) {
        return corrupt(0, "it does not begin with its mark");
    }
    // No release wrote it: the sum does not cover this field.
    if version == 0 {
        return corrupt(4, "it has no version");
    }
    if version > VERSION {
        return Err(StoreError::Newer { path: path.into(), found: version, known: VERSION });
    }
    let payload = &bytes[HEAD_BYTES..];
    if payload.len() != len as usize || crc32fast::hash(payload) != crc {
        return corrupt(HEAD_BYTES as u64, "its checksum does not match");
    }
    Ok(Some(payload.to_vec()))
}

/// Replaces a file by `bytes`, durably and as a whole.
pub(crate) fn replace(files: &dyn Files, path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = if planted(Mutation::VoteWrittenInPlace) { path.into() } else { temp_of(path) };
    let file = files.open(&temp, Open::Truncated).map_err(StoreError::io("create", &temp))?;
    file.write_at(bytes, 0).map_err(StoreError::io("write", &temp))?;
    file.sync().map_err(StoreError::io("sync", &temp))?;
    files.rename(&temp, path).map_err(StoreError::io("replace", path))?;
    files.sync_dir(parent(path)).map_err(StoreError::io("sync the directory of", path))
}

/// The whole file. `None` if there is none.
pub(crate) fn read_whole(files: &dyn Files, path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match files.open(path, Open::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(StoreError::io("open", path))?,
    };
    let mut bytes = vec![0; file.len().map_err(StoreError::io("read", path))? as usize];
    let read = file.read_at(&mut bytes, 0).map_err(StoreError::io("read", path))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// The directory of a file of the store.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().expect("a file of the store lies in a directory of the store")
}

fn temp_of(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}
