//! `files` of a workflow: globs become blobs with paths.

use std::collections::BTreeMap;

use matins_core::id::Digest;
use matins_core::ir::File;

use super::read;
use crate::diagnostic::Reporter;
use crate::yaml::Node;

/// DESIGN 5: the files of one workflow together.
pub const FILES_BYTES_MAX: u64 = 64 << 20;

/// A file that a glob found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    /// Relative to the directory of the source file, with `/`, without `..`.
    pub path: String,
    /// Of its content.
    pub digest: Digest,
    /// Of its content.
    pub bytes: u64,
    /// Whether its owner may execute it.
    pub is_executable: bool,
}

/// Finds the files that a workflow names. The compiler itself knows no file system.
pub trait FileLookup {
    /// The files that match `glob` ([`glob_matches`]), relative to the directory of `source` (as [`super::SourceFile`]
    /// names it), in any order. An error is a sentence for the person who wrote the file.
    fn find(&self, source: &str, glob: &str) -> Result<Vec<FoundFile>, String>;
}

/// For sources that have no directory around them: every glob is an error.
#[derive(Clone, Copy, Debug)]
pub struct NoFiles;

impl FileLookup for NoFiles {
    fn find(&self, _: &str, _: &str) -> Result<Vec<FoundFile>, String> {
        Err("this source has no directory in which files could be found".to_owned())
    }
}

/// Whether `path` matches `glob`: `*` and `?` within a name, `**` for any number of directories. Names that begin
/// with a dot match only where the glob says the dot.
pub fn glob_matches(glob: &str, path: &str) -> bool {
    let glob: Vec<_> = glob.split('/').filter(|part| *part != ".").collect();
    let path: Vec<_> = path.split('/').collect();
    // Which beginnings of the path match the parts of the glob so far.
    let mut reach = vec![false; path.len() + 1];
    reach[0] = true;
    for part in glob {
        let mut next = vec![false; path.len() + 1];
        for at in 0..=path.len() {
            if part == "**" {
                next[at] = reach[at] || (at > 0 && next[at - 1] && !path[at - 1].starts_with('.'));
            } else if at > 0 {
                next[at] = reach[at - 1] && name_matches(part, path[at - 1]);
            }
        }
        reach = next;
    }
    reach[path.len()]
}

fn name_matches(glob: &str, name: &str) -> bool {
    if name.starts_with('.') && !glob.starts_with('.') {
        return false;
    }
    let name: Vec<_> = name.chars().collect();
    let mut reach = vec![false; name.len() + 1];
    reach[0] = true;
    for letter in glob.chars() {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match letter {
                '*' => reach[at] || (at > 0 && next[at - 1]),
                '?' => at > 0 && reach[at - 1],
                letter => at > 0 && reach[at - 1] && name[at - 1] == letter,
            };
        }
        reach = next;
    }
    reach[name.len()]
}

pub(crate) fn files(
    reporter: &mut Reporter<'_>,
    node: &Node,
    source: &str,
    lookup: &dyn FileLookup,
) -> Vec<File> {
    let mut found: BTreeMap<String, File> = BTreeMap::new();
    for node in read::one_or_more(node) {
        let Some(glob) = read::text(reporter, node, "`files`") else { continue };
        if glob.starts_with('/') || glob.split('/').any(|part| part == "..") {
            reporter
                .error(node.span, "files", format!("`{glob}` leaves the directory of this file"))
                .hint("files lie beside or below the file that names them");
            continue;
        }
        match lookup.find(source, &glob) {
            Ok(files) if files.is_empty() => {
                reporter.error(node.span, "files", format!("no file matches `{glob}`"));
            }
            Ok(files) => found.extend(files.into_iter().map(|file| {
                let FoundFile { path, digest, bytes, is_executable } = file;
                (path.clone(), File { path, digest, bytes, is_executable })
            })),
            Err(message) => {
                reporter.error(node.span, "files", format!("`{glob}`: {message}"));
            }
        }
    }
    let bytes: u64 = found.values().map(|file| file.bytes).sum();
    if bytes > FILES_BYTES_MAX {
        let message =
            format!("the files of a workflow have {FILES_BYTES_MAX} bytes at most, these have {bytes}");
        reporter
            .error(node.span, "limit-files", message)
            .hint("name fewer files; large data belongs in a store of its own");
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_within_a_name_and_over_directories() {
        for (glob, path) in [
            ("scripts/*.py", "scripts/load.py"),
            ("**/*.sql", "a.sql"),
            ("**/*.sql", "a/b/c.sql"),
            ("./a?c", "abc"),
            ("a/**", "a/b/c"),
            (".env", ".env"),
        ] {
            assert!(glob_matches(glob, path), "{glob} {path}");
        }
        for (glob, path) in
            [("*.py", "scripts/load.py"), ("scripts/*.py", "scripts/.x.py"), ("a?c", "ac"), ("**", ".git/x")]
        {
            assert!(!glob_matches(glob, path), "{glob} {path}");
        }
    }
}
