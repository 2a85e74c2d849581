//! Making an attempt ready to run: its folder, its files, its environment, its program (LANGUAGE 1.1, 1.2, 1.13, 1.14).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use matins_core::id::{Digest, Fence};
use matins_core::time::Millis;
use matins_proto::v1;
use rustix::process::Resource;

use super::files::overwrite;
use super::journal::Journal;
use super::supervisor::wire::SpawnTask;

/// The longest argument or `NAME=value` that Linux takes, without the byte that ends it.
const STRING_BYTES_MAX: usize = 131_071;
/// Room for what the trampoline adds.
const ARGUMENTS_SLACK: usize = 16 << 10;

/// What a machine gives all its tasks.
#[derive(Clone, Debug, Default)]
pub struct TaskEnvironment {
    /// PATH of tasks; `None`: this process's own.
    pub path: Option<String>,
    /// Further variables; tasks may replace them.
    pub variables: Vec<(String, String)>,
}

/// A blob that was fetched for a file of the job.
pub(crate) type Fetched = BTreeMap<Digest, PathBuf>;

/// Digests of the blobs that a job's files are copied from.
pub(crate) fn digests(job: &v1::Job) -> Result<Vec<Digest>, String> {
    job.files.iter().map(digest_of).collect()
}

/// Makes everything ready on disk, and says what the supervisor is to run. The error is why it could not start.
pub(crate) fn prepare(
    journal: &Journal,
    fence: Fence,
    job: &v1::Job,
    machine: &TaskEnvironment,
    fetched: &Fetched,
) -> Result<SpawnTask, String> {
    let attempt = journal.attempt(fence);
    let folders = Folders::make(&attempt).map_err(|error| cannot("make its folders", &error))?;
    for file in &job.files {
        copy_file(&folders.work, file, fetched)?;
    }
    let input = if job.with_json.is_empty() { "null" } else { &job.with_json };
    overwrite(&folders.input, input.as_bytes()).map_err(|error| cannot("write its input file", &error))?;
    let env = environment(fence, job, machine, &folders);
    let path = env.get("PATH").map_or("", String::as_str);
    let (program, arguments) = command(job, &attempt, path, &folders.work)?;
    check_lengths(&program, &arguments, &env)?;
    Ok(SpawnTask {
        on_disconnect: Millis(job.on_disconnect_ms),
        program,
        arguments,
        env: env.into_iter().collect(),
        directory: folders.work,
        attempt,
        log: journal.log(fence),
        log_bytes_max: job.log_bytes_max,
    })
}

/// Where an attempt finds the output file.
pub(crate) fn output_path(attempt: &Path) -> PathBuf {
    attempt.join("output")
}

struct Folders {
    work: PathBuf,
    home: PathBuf,
    temporary: PathBuf,
    input: PathBuf,
    output: PathBuf,
}

impl Folders {
    fn make(attempt: &Path) -> io::Result<Self> {
        let folders = Self {
            work: attempt.join("work"),
            home: attempt.join("home"),
            temporary: attempt.join("tmp"),
            input: attempt.join("input"),
            output: output_path(attempt),
        };
        for folder in [&folders.work, &folders.home, &folders.temporary] {
            fs::create_dir_all(folder)?;
        }
        Ok(folders)
    }
}

/// A copy, never a link: a task that is root may write to a file whatever its mode says.
fn copy_file(work: &Path, file: &v1::JobFile, fetched: &Fetched) -> Result<(), String> {
    let relative = Path::new(&file.path);
    if file.path.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(format!("file `{}` does not lie in the working directory", file.path));
    }
    let blob =
        fetched.get(&digest_of(file)?).ok_or_else(|| format!("file `{}` was not fetched", file.path))?;
    let target = work.join(relative);
    let copied = fs::create_dir_all(target.parent().unwrap_or(work))
        .and_then(|()| fs::copy(blob, &target))
        .and_then(|_| {
            let mode = if file.executable { 0o555 } else { 0o444 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))
        });
    copied.map_err(|error| cannot(&format!("copy its file `{}`", file.path), &error))
}

fn digest_of(file: &v1::JobFile) -> Result<Digest, String> {
    let digest = file.digest.as_slice().try_into().map(Digest);
    digest.map_err(|_| format!("file `{}` has a digest of {} bytes", file.path, file.digest.len()))
}

/// LANGUAGE 1.14: clean, closed, and in this order; later ones win.
fn environment(
    fence: Fence,
    job: &v1::Job,
    machine: &TaskEnvironment,
    folders: &Folders,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let own_path = || std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), machine.path.clone().unwrap_or_else(own_path)),
        ("HOME".to_owned(), text(&folders.home)),
        ("TMPDIR".to_owned(), text(&folders.temporary)),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    env.extend(machine.variables.iter().cloned());
    env.extend(job.matins.iter().map(|pair| (format!("MATINS_{}", pair.name), pair.value.clone())));
    env.extend(job.env.iter().map(|pair| (pair.name.clone(), pair.value.clone())));
    // These three are what attempts are found and read by: no task may give itself others.
    env.insert("MATINS_FENCE".to_owned(), fence.0.to_string());
    env.insert("MATINS_INPUT".to_owned(), text(&folders.input));
    env.insert("MATINS_OUTPUT".to_owned(), text(&folders.output));
    env
}

/// The program, found beforehand, and its arguments.
fn command(job: &v1::Job, attempt: &Path, path: &str, work: &Path) -> Result<(PathBuf, Vec<String>), String> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let mut argv = match job.command.as_ref().ok_or("the job has no command")? {
        v1::job::Command::Argv(argv) => argv.arguments.clone(),
        v1::job::Command::Shell(shell) => {
            let mut argv = match shell.shell() {
                v1::ShellKind::Bash => words(&["bash", "-eo", "pipefail", "-c"]),
                v1::ShellKind::Sh | v1::ShellKind::Unspecified => words(&["sh", "-e", "-c"]),
            };
            argv.push(shell.text.clone());
            argv
        }
        v1::job::Command::Script(script) => {
            let file = attempt.join("script");
            fs::write(&file, &script.text)
                .and_then(|()| fs::set_permissions(&file, fs::Permissions::from_mode(0o700)))
                .map_err(|error| cannot("write its script", &error))?;
            let mut argv = script.interpreter.clone();
            if argv.is_empty() && !script.text.starts_with("#!") {
                argv = words(&["sh", "-e"]);
            }
            argv.push(file.to_string_lossy().into_owned());
            argv
        }
    };
    if argv.is_empty() {
        return Err("the command is empty".to_owned());
    }
    if let Some(argument) = argv.iter().find(|argument| argument.contains('\0')) {
        return Err(format!("argument `{}` holds a NUL byte", argument.escape_debug()));
    }
    let program = resolve(&argv.remove(0), path, work)?;
    Ok((program, argv))
}

/// Finds a program in the task's own PATH, as a shell would. A relative path is below the working directory.
fn resolve(name: &str, path: &str, work: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        let program = work.join(name);
        return if program.exists() { Ok(program) } else { Err(format!("`{name}` does not exist")) };
    }
    let is_program = |file: &PathBuf| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let mut folders = path.split(':').map(|folder| work.join(folder).join(name));
    folders
        .find(is_program)
        .filter(|_| !name.is_empty())
        .ok_or_else(|| format!("cannot find `{name}` in PATH ({path})"))
}

/// Says before the kernel does, and more clearly, that something is too long to be handed to a program.
fn check_lengths(program: &Path, arguments: &[String], env: &BTreeMap<String, String>) -> Result<(), String> {
    let hint = "Linux takes 131071 bytes in one; pass large values by `with`";
    if let Some((argument, number)) =
        arguments.iter().zip(1..).find(|(argument, _)| argument.len() > STRING_BYTES_MAX)
    {
        return Err(format!("argument {number} has {} bytes: {hint}", argument.len()));
    }
    let pair_bytes = |(name, value): (&String, &String)| name.len() + value.len() + 1;
    if let Some((name, value)) = env.iter().find(|pair| pair_bytes(*pair) > STRING_BYTES_MAX) {
        return Err(format!("environment variable `{name}` has {} bytes: {hint}", value.len()));
    }
    // Each string costs its bytes, a NUL and a pointer.
    let strings = arguments.iter().map(String::len).chain(env.iter().map(pair_bytes));
    let total = strings.map(|bytes| bytes + 9).sum::<usize>() + program.as_os_str().len() + ARGUMENTS_SLACK;
    let stack = rustix::process::getrlimit(Resource::Stack).current.unwrap_or(u64::MAX);
    let total_max = (stack / 4).clamp(128 << 10, 6 << 20) as usize;
    if total > total_max {
        return Err(format!(
            "arguments and environment have {total} bytes, this machine takes {total_max}; \
             pass large values by `with`"
        ));
    }
    Ok(())
}

fn cannot(what: &str, error: &io::Error) -> String {
    format!("cannot {what}: {error}")
}

#[cfg(test)]
mod tests;
