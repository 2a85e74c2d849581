//! What the tasks of all workloads do: the hidden verb `task`, run by the cluster under test.
//!
//! It writes down when it runs and by which fence, holds a lock that the kernel frees at its death, and exits with the
//! code that was fixed in advance. It never talks to the cluster. Start at [`run`].

use std::env;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::record::{Event, Line, append, boot_time};

/// How often a task says that it is alive. An interval whose end nobody wrote is known that exactly.
pub(crate) const ALIVE: Duration = Duration::from_millis(50);

/// Bytes of one line of a register: 20 digits.
const REGISTER_LINE: u64 = 21;

/// What a task is told.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The file to which it appends
    #[arg(long)]
    records: PathBuf,
    /// How long it works, in milliseconds
    #[arg(long, default_value_t = 0)]
    hold: u64,
    /// A file that nobody else may hold at the same time
    #[arg(long)]
    lock: Option<PathBuf>,
    /// A register outside of the cluster that takes only rising fences; it is written to each 50 ms
    #[arg(long)]
    register: Option<PathBuf>,
    /// Exit codes of the attempts, in order; the last one is for all that follow
    #[arg(long, value_delimiter = ',', default_value = "0")]
    codes: Vec<i32>,
    /// What is put out, as JSON
    #[arg(long)]
    output: Option<String>,
}

/// Does it. The exit code is 125 if the harness itself fails, which no workload asks for.
#[expect(clippy::print_stderr, reason = "the log of a task is where a person looks")]
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match work(arguments) {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(125)),
        Err(error) => {
            eprintln!("the harness failed: {error}");
            ExitCode::from(125)
        }
    }
}

fn work(arguments: &Arguments) -> io::Result<i32> {
    let line = myself()?;
    let mut records = File::options().create(true).append(true).open(&arguments.records)?;
    let mut note = |event| append(&mut records, &Line { event, at: boot_time(), ..line.clone() });
    // Held until the process is gone, however it goes: so a process that is still there cannot be overlooked.
    let lock = arguments
        .lock
        .as_ref()
        .map(|path| File::options().create(true).append(true).open(path))
        .transpose()?;
    let is_free = lock.as_ref().map_or(Ok(true), try_lock)?;
    note(Event::Start)?;
    if !is_free {
        note(Event::Held)?;
    }
    let until = Instant::now() + Duration::from_millis(arguments.hold);
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if let Some(register) = &arguments.register {
            note(write_register(register, line.fence)?)?;
        }
        sleep(left.min(ALIVE));
        note(Event::Alive)?;
    }
    if let (Some(output), Some(path)) = (&arguments.output, env::var_os("MATINS_OUTPUT")) {
        fs::write(path, output)?;
    }
    let code = code_of(&arguments.codes, line.attempt);
    note(Event::End(code))?;
    Ok(code)
}

/// The code of an attempt, from 1.
pub(crate) fn code_of(codes: &[i32], attempt: u32) -> i32 {
    let at = (attempt as usize).max(1) - 1;
    codes.get(at).or(codes.last()).copied().unwrap_or(0)
}

/// Who it is, by its environment.
fn myself() -> io::Result<Line> {
    let text = |name: &str| env::var(name).map_err(|error| io::Error::other(format!("{name}: {error}")));
    let number =
        |name: &str| text(name)?.parse().map_err(|error| io::Error::other(format!("{name}: {error}")));
    // An item has its index beside the name of its task.
    let index = env::var("MATINS_ITEM_INDEX").ok().filter(|index| !index.is_empty());
    let name = text("MATINS_TASK")?;
    let task = match index {
        Some(index) if !name.contains('.') => format!("{name}.{index}"),
        Some(_) | None => name,
    };
    Ok(Line {
        event: Event::Start,
        at: 0,
        fence: number("MATINS_FENCE")?,
        workflow: format!("{}/{}", text("MATINS_NAMESPACE")?, text("MATINS_WORKFLOW")?),
        run: text("MATINS_RUN_ID")?,
        task,
        attempt: u32::try_from(number("MATINS_ATTEMPT")?).map_err(io::Error::other)?,
        logical_time: text("MATINS_LOGICAL_TIME")?,
    })
}

fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes to the register: a file with all fences that it took, one to a line, changed under its lock.
fn write_register(path: &Path, fence: u64) -> io::Result<Event> {
    let mut file = File::options().create(true).append(true).read(true).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut text = String::new();
    // Lines have one length, so that the last one is found without reading the rest.
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(REGISTER_LINE)))?;
    file.read_to_string(&mut text)?;
    let highest = if text.is_empty() { 0 } else { text.trim().parse().map_err(io::Error::other)? };
    if fence < highest {
        return Ok(Event::Rejected(highest));
    }
    file.write_all(format!("{fence:020}\n").as_bytes())?;
    Ok(Event::Accepted(fence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_takes_rising_fences_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("register");
        let write = |fence| write_register(&path, fence).unwrap();
        assert_eq!(write(7), Event::Accepted(7));
        assert_eq!(write(7), Event::Accepted(7));
        assert_eq!(write(12), Event::Accepted(12));
        assert_eq!(write(7), Event::Rejected(12));
    }

    #[test]
    fn a_lock_that_is_held_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let open = || File::options().create(true).append(true).open(&path).unwrap();
        let (first, second) = (open(), open());
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        drop(first);
        assert!(try_lock(&second).unwrap());
    }

    #[test]
    fn the_last_code_is_for_all_that_follow() {
        assert_eq!([1, 2, 3, 9].map(|attempt| code_of(&[1, 2, 0], attempt)), [1, 2, 0, 0]);
    }
}
