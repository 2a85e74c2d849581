//! Programs of the machine that the harness calls: `ip`, `nft`, `mount`, `strace`. Start at [`call`].

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use super::workload::Trouble;

/// Runs a program to its end, and gives what it printed. Anything but success is trouble.
pub(crate) fn call(program: &str, args: &[&str]) -> Result<String, Trouble> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    judge(program, args, output)
}

/// As [`call`], with this on its standard input.
pub(crate) fn feed(program: &str, args: &[&str], input: &str) -> Result<String, Trouble> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = command.spawn().and_then(|mut child| {
        // Its standard input is closed here, so that the program comes to an end.
        child.stdin.take().expect("it is piped").write_all(input.as_bytes())?;
        child.wait_with_output()
    });
    judge(program, args, output)
}

/// Whether a program is there and does this.
pub(crate) fn can(program: &str, args: &[&str]) -> bool {
    call(program, args).is_ok()
}

fn judge(program: &str, args: &[&str], output: std::io::Result<Output>) -> Result<String, Trouble> {
    let said = format!("{program} {}", args.join(" "));
    let output = output.map_err(|error| Trouble(format!("cannot run `{said}`: {error}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Trouble(format!("`{said}` failed ({}): {why}", output.status)))
}
