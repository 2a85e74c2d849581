//! What the binary says without any server: help, `check`, `schedule next`, usage faults and exit codes.
//!
//! Each line after `>` in `tests/scripts/*` is given to a shell in `tests/data` and answered with all that was printed, what
//! went to standard error after `stderr:`, and the exit code if it is not 0.

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

struct Shell;

impl goldenscript::Runner for Shell {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        command: &goldenscript::Command,
        _: &goldenscript::Context,
    ) -> Result<String, Box<dyn Error>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let binaries = Path::new(env!("CARGO_BIN_EXE_matins")).parent().expect("it lies in a folder");
        let output = Command::new("sh")
            .args(["-c", &command.name])
            .current_dir(folder)
            // Nothing of who runs the tests may show.
            .env_clear()
            .env("PATH", format!("{}:/usr/bin:/bin", binaries.display()))
            .output()?;
        let mut text = String::from_utf8(output.stdout)?;
        let errors = String::from_utf8(output.stderr)?;
        if !errors.is_empty() {
            text.push_str("stderr:\n");
            text.push_str(&errors);
        }
        match output.status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "exit {code}")?,
            None => text.push_str("ended by a signal\n"),
        }
        // A blank line would end the answer in the script.
        Ok(text.lines().flat_map(|line| [if line.is_empty() { "." } else { line }, "\n"]).collect())
    }
}

macro_rules! script {
    ($name:ident) => {
        #[test]
        fn $name() {
            goldenscript::run(&mut Shell, concat!("tests/scripts/", stringify!($name))).unwrap();
        }
    };
}

script!(help);
script!(next);
script!(check);
script!(usage);
