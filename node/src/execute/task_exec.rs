//! The trampoline between a supervisor and a task: `matins task-exec PARENT NOTE CGROUP PROGRAM ARGUMENTS...`.
//!
//! A program of the task's own cannot tie itself to its supervisor, and doing it between fork and exec (`pre_exec`) would
//! make the standard library fork. So this program is spawned instead; it asks to die with its parent, joins its cgroup,
//! and becomes the task. It must be the first thing that `main` looks for: each task pays for what comes before.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::process::Signal;

/// Becomes the task. Comes back only if that failed: then the note says why.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = arguments.into_iter();
    let parent = arguments.next().and_then(|parent| parent.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(note), Some(cgroup), Some(program)) =
        (parent, arguments.next(), arguments.next(), arguments.next())
    else {
        return ExitCode::from(2);
    };
    let program = PathBuf::from(program);
    let why = match prepare(parent, Path::new(&cgroup)) {
        Ok(()) => describe(&program, &Command::new(&program).args(arguments).exec()),
        Err(error) => format!("cannot tie the task to its supervisor: {error}"),
    };
    // Nobody reads an exit code as long as there is a note; if the note fails too, 127 is what a shell would say.
    let _ = fs::write(note, why);
    ExitCode::from(127)
}

fn prepare(parent: i32, cgroup: &Path) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that call, and then nobody would end this task.
    if rustix::process::getppid().map(rustix::process::Pid::as_raw_pid) != Some(parent) {
        return Err(io::Error::other("it is gone"));
    }
    if cgroup != Path::new("-") {
        fs::write(cgroup.join("cgroup.procs"), "0")?;
    }
    Ok(())
}

/// Says why a program cannot run; the kernel says ENOENT also when only the interpreter of a script is missing.
fn describe(program: &Path, error: &io::Error) -> String {
    let name = program.display();
    let mut head = [0; 256];
    let read = fs::File::open(program).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    let first_line = head[..read].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let interpreter = first_line.strip_prefix(b"#!").map(String::from_utf8_lossy);
    match (error.kind(), interpreter) {
        (io::ErrorKind::NotFound, Some(interpreter)) => {
            let interpreter = interpreter.split_whitespace().next().unwrap_or_default().to_owned();
            format!("cannot run `{name}`: its interpreter `{interpreter}` does not exist")
        }
        (io::ErrorKind::ArgumentListTooLong, _) => format!(
            "cannot run `{name}`: arguments and environment are longer than Linux allows; pass large values by `with`"
        ),
        _ => format!("cannot run `{name}`: {error}"),
    }
}
