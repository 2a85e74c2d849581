//! Workflow files as they lie on this machine: found, read, and packed for the API with the files that they name.
//!
//! A definition with errors never leaves this machine: the checker of the server is the same and would say the same.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use matins_client::Client;
use matins_core::id::Digest;
use matins_proto::v1::{self, Source, source_file::Content};
use matins_workflow::compile::{FILES_BYTES_MAX, FileLookup, FoundFile, Options, glob_matches};
use matins_workflow::{Colour, Compiled, Severity, SourceFile, compile};

use crate::context::Context;
use crate::exit::Exit;
use crate::fault::Fault;

/// What a folder's workflow files are called.
pub(crate) const SUFFIX: &str = ".matins.yaml";

/// Files of one request that travel in it; a request has 4 MiB at most. Others are uploaded before it.
const INLINE_BYTES_MAX: u64 = 2 << 20;

/// Folders below a workflow file are searched this deep: no glob of a reasonable file reaches further.
const DEPTH_MAX: usize = 32;

/// The workflow files that `paths` name: files as they are, of folders those called `*.matins.yaml`.
pub(crate) fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Fault> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let entries = fs::read_dir(path).map_err(|error| Fault::unreadable(path, error))?;
        let entries: Result<Vec<_>, _> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut entries = entries.map_err(|error| Fault::unreadable(path, error))?;
        entries.retain(|entry| entry.to_string_lossy().ends_with(SUFFIX) && entry.is_file());
        if entries.is_empty() {
            return Err(Fault::not_found(format!("`{}` has no file called *{SUFFIX}", path.display()))
                .hint("name the files themselves, or the folder that they lie in"));
        }
        entries.sort();
        found.append(&mut entries);
    }
    Ok(found)
}

/// Reads workflow files; `-` is standard input.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<SourceFile>, Fault> {
    let read = |path: &PathBuf| {
        let text = if path.as_os_str() == "-" {
            let mut text = Vec::new();
            io::stdin().read_to_end(&mut text).map(|_| text)
        } else {
            fs::read(path)
        };
        let text = text.map_err(|error| Fault::unreadable(path, error))?;
        Ok(SourceFile { name: path.display().to_string(), text })
    };
    paths.iter().map(read).collect()
}

/// Checks workflow files as `check` and `apply` do.
pub(crate) fn check(sources: &[SourceFile], context: &Context) -> Result<(Compiled, LocalFiles), Fault> {
    let namespace = context.namespace();
    let namespace = (!namespace.is_empty()).then(|| namespace.parse()).transpose();
    let namespace = namespace.map_err(|error| Fault::machine("-n gives no namespace", error))?;
    let files = LocalFiles::default();
    let compiled = compile(sources, &files, &Options { namespace });
    Ok((compiled, files))
}

/// Shows every diagnostic on standard error, and fails if one is an error.
pub(crate) fn show(compiled: &Compiled, context: &Context) -> Result<(), Fault> {
    let screen = context.screen();
    let colour = if screen.err && screen.colours { Colour::Always } else { Colour::Never };
    for diagnostic in &compiled.diagnostics {
        context.say(diagnostic.render(colour));
    }
    let errors = compiled.diagnostics.iter().filter(|one| one.severity == Severity::Error).count();
    match errors {
        0 => Ok(()),
        1 => Err(Fault::usage("there is an error, so nothing was sent").hint("mend it and try again")),
        _ => {
            let message = format!("there are {errors} errors, so nothing was sent");
            Err(Fault::usage(message).hint("mend them and try again"))
        }
    }
}

/// Shows what only the server knows; warnings were shown when the file was checked here.
pub(crate) fn tell_notes(diagnostics: &[v1::Diagnostic], context: &Context) {
    let is_note = |one: &&v1::Diagnostic| one.severity() == v1::diagnostic::Severity::Note;
    for one in diagnostics.iter().filter(is_note) {
        let place = match (one.path.as_str(), one.line, one.column) {
            ("", _, _) => String::new(),
            (path, 0, _) => format!("{path}: "),
            (path, line, 0) => format!("{path}:{line}: "),
            (path, line, column) => format!("{path}:{line}:{column}: "),
        };
        context.say(format!("{}: {place}{}", one.severity().as_str_name(), one.message));
        if !one.hint.is_empty() {
            context.say(format!("hint: {}", one.hint));
        }
    }
}

/// Checks workflow files and packs them; uploads what is too large for the request itself.
pub(crate) async fn load(
    paths: &[PathBuf],
    context: &Context,
    client: &Client,
) -> Result<Vec<Source>, Fault> {
    let sources = read(&find(paths)?)?;
    let (compiled, files) = check(&sources, context)?;
    show(&compiled, context)?;
    pack(&sources, &files, client).await
}

/// As [`load`], for one file that is known to be right.
pub(crate) async fn load_one(path: &Path, client: &Client) -> Result<Source, Fault> {
    let sources = read(&[path.to_owned()])?;
    let files = LocalFiles::default();
    // Only to learn which files it names.
    let _ = compile(&sources, &files, &Options::default());
    let mut packed = pack(&sources, &files, client).await?;
    packed.pop().ok_or_else(|| Fault::own(Exit::Usage, "there is no file to submit"))
}

async fn pack(sources: &[SourceFile], files: &LocalFiles, client: &Client) -> Result<Vec<Source>, Fault> {
    let mut room = INLINE_BYTES_MAX;
    let mut packed = Vec::new();
    for source in sources {
        let text = String::from_utf8(source.text.clone())
            .map_err(|error| Fault::machine(format!("`{}` is not UTF-8", source.name), error))?;
        let found = files.of(&source.name);
        let mut out = Vec::new();
        for (path, file) in found {
            let content = if file.bytes <= room {
                room -= file.bytes;
                let bytes = fs::read(&file.place).map_err(|error| Fault::unreadable(&file.place, error))?;
                Content::Inline(bytes)
            } else {
                let bytes = fs::read(&file.place).map_err(|error| Fault::unreadable(&file.place, error))?;
                Content::Digest(client.upload(Bytes::from(bytes)).await?)
            };
            out.push(v1::SourceFile { path, content: Some(content), executable: file.is_executable });
        }
        packed.push(Source { path: source.name.clone(), text, files: out });
    }
    Ok(packed)
}

/// Finds the files that workflows name, beside and below each workflow file, and remembers which it found.
#[derive(Default)]
pub(crate) struct LocalFiles {
    /// By source and path.
    found: RefCell<BTreeMap<(String, String), LocalFile>>,
}

/// A file that a workflow names.
#[derive(Clone, Debug)]
struct LocalFile {
    /// Where it is from here.
    place: PathBuf,
    bytes: u64,
    is_executable: bool,
}

impl LocalFiles {
    /// What the globs of one source matched, by path.
    fn of(&self, source: &str) -> BTreeMap<String, LocalFile> {
        let found = self.found.borrow();
        let own = found.iter().filter(|((of, _), _)| of == source);
        own.map(|((_, path), file)| (path.clone(), file.clone())).collect()
    }
}

impl FileLookup for LocalFiles {
    fn find(&self, source: &str, glob: &str) -> Result<Vec<FoundFile>, String> {
        let folder = Path::new(source).parent().unwrap_or(Path::new(""));
        let mut paths = Vec::new();
        // Only the part of the glob without wildcards says where to look.
        let fixed: Vec<&str> = glob.split('/').take_while(|part| !part.contains(['*', '?'])).collect();
        let fixed =
            if fixed.len() == glob.split('/').count() { &fixed[..fixed.len() - 1] } else { &fixed[..] };
        walk(folder, &fixed.join("/"), DEPTH_MAX, &mut paths)?;
        let matching = paths.into_iter().filter(|path| glob_matches(glob, path));
        matching.map(|path| self.look_at(source, folder, path)).collect()
    }
}

impl LocalFiles {
    fn look_at(&self, source: &str, folder: &Path, path: String) -> Result<FoundFile, String> {
        let place = folder.join(&path);
        let fault = |error: io::Error| format!("cannot read `{}`: {error}", place.display());
        let meta = fs::metadata(&place).map_err(fault)?;
        if meta.len() > FILES_BYTES_MAX {
            // The compiler refuses it by its size; there is no need to read it.
            return Ok(FoundFile {
                path,
                digest: Digest::default(),
                bytes: meta.len(),
                is_executable: false,
            });
        }
        let content = fs::read(&place).map_err(fault)?;
        let is_executable = meta.permissions().mode() & 0o100 != 0;
        let (digest, bytes) = (Digest::of(&content), content.len() as u64);
        let key = (source.to_owned(), path.clone());
        self.found.borrow_mut().insert(key, LocalFile { place, bytes, is_executable });
        Ok(FoundFile { path, digest, bytes, is_executable })
    }
}

/// The files below `folder/within`, relative to `folder`, with `/`.
fn walk(folder: &Path, within: &str, depth: usize, paths: &mut Vec<String>) -> Result<(), String> {
    let place = folder.join(within);
    let here = if place.as_os_str().is_empty() { Path::new(".") } else { &place };
    let entries = match fs::read_dir(here) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("cannot read `{}`: {error}", here.display())),
    };
    for entry in entries {
        let entry = entry.map_err(|error| format!("cannot read `{}`: {error}", here.display()))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if within.is_empty() { name } else { format!("{within}/{name}") };
        // Follows links to files, and none to folders: they may go round.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth > 0 {
            walk(folder, &path, depth - 1, paths)?;
        } else if !is_folder && folder.join(&path).is_file() {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_beside_and_below_the_source() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        for path in ["w.matins.yaml", "scripts/a.py", "scripts/deep/b.py", "scripts/c.txt", "other/d.py"] {
            write(path);
        }
        let source = folder.path().join("w.matins.yaml").display().to_string();
        let files = LocalFiles::default();
        let names = |glob: &str| {
            let mut names: Vec<_> =
                files.find(&source, glob).unwrap().into_iter().map(|it| it.path).collect();
            names.sort();
            names
        };
        assert_eq!(names("scripts/*.py"), ["scripts/a.py"]);
        assert_eq!(names("**/*.py"), ["other/d.py", "scripts/a.py", "scripts/deep/b.py"]);
        assert_eq!(names("scripts/c.txt"), ["scripts/c.txt"]);
        assert_eq!(names("missing/*"), Vec::<String>::new());
        assert_eq!(files.of(&source).len(), 4);
    }

    #[test]
    fn a_folder_means_its_workflow_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(&[folder.path().to_owned()]).unwrap_err().exit(), Exit::NotFound);
        for name in ["b.matins.yaml", "a.matins.yaml", "c.yaml"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = find(&[folder.path().to_owned(), PathBuf::from("x.yaml")]).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.matins.yaml", "b.matins.yaml", "x.yaml"]);
    }
}
