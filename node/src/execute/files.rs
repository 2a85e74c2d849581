//! Small files that every attempt writes, in folders that serve one attempt after the other.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// Makes `bytes` the whole of the file at `path`, which may be a spare one with other bytes in it.
///
/// It is not emptied first, as [`fs::write`] would do. ext4 takes that for the way in which careless programs replace a file,
/// and begins to write it to the disk when it is closed (`auto_da_alloc` in ext4(5)): a write for each of four files of each
/// attempt, none of which outlives the machine's next start anyhow.
pub(crate) fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
    file.write_all(bytes)?;
    if file.metadata()?.len() > bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

/// Makes `bytes` the file at `path`, which is there as a whole or not at all, however the process dies.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    overwrite(&new, bytes)?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_before_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status");
        for text in ["short", "much longer", "", "shorter", "shorter"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            fs::rename(&path, path.with_extension("new")).unwrap();
            overwrite(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
