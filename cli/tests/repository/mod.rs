//! The files of this repository, for the tests that read it. Never asks git, the network or the environment.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the repository; `path` is relative to its root.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Where the workspace lies.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli lies in the workspace").to_owned()
}

/// The text files of the repository in order of their paths, but for hidden folders and what is built.
pub(crate) fn files(extensions: &[&str]) -> Vec<File> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be read") {
            let path = entry.expect("its entries too").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            if name.starts_with('.') || ["target", "__pycache__", "node_modules"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if extensions.contains(&path.extension().unwrap_or_default().to_string_lossy().as_ref()) {
                let shown = path.strip_prefix(&root).expect("found below the root").display().to_string();
                // Golden files may hold bad UTF-8 on purpose.
                let text =
                    String::from_utf8_lossy(&fs::read(&path).expect("a file can be read")).into_owned();
                found.push(File { path: shown, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}
