//! How a workflow of ours calls the verb `task`: its program and arguments as YAML.
//!
//! Start at [`Call`]; `task.rs` has what is called.

use std::path::PathBuf;

use super::{Site, Trouble};

/// A call of the verb `task`. Texts may hold templates of the language.
#[derive(Clone, Debug, Default)]
pub(crate) struct Call {
    /// Milliseconds.
    pub(crate) hold: u64,
    /// Name of the lock file.
    pub(crate) lock: Option<String>,
    /// Name of the register.
    pub(crate) register: Option<String>,
    /// Exit codes with commas.
    pub(crate) codes: Option<String>,
    /// Outputs as JSON.
    pub(crate) output: Option<String>,
    /// It does not listen to TERM.
    pub(crate) is_stubborn: bool,
}

impl Call {
    /// One that holds so long, in milliseconds.
    pub(crate) fn hold(millis: u64) -> Self {
        Self { hold: millis, ..Self::default() }
    }

    /// The value of a task's `run`, as YAML that is also JSON.
    pub(crate) fn run(&self, site: &Site, workload: &str) -> Result<String, Trouble> {
        let program = std::env::current_exe().map_err(|error| Trouble(format!("who am I? {error}")))?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let mut argv =
            vec![text(program), "task".into(), "--records".into(), text(site.record_file(workload))];
        if self.hold > 0 {
            argv.extend(["--hold".into(), self.hold.to_string()]);
        }
        for (flag, file) in [("--lock", &self.lock), ("--register", &self.register)] {
            if let Some(file) = file {
                argv.extend([flag.into(), text(site.records.join(format!("{workload}-{file}")))]);
            }
        }
        for (flag, value) in [("--codes", &self.codes), ("--output", &self.output)] {
            if let Some(value) = value {
                argv.extend([flag.into(), value.clone()]);
            }
        }
        if self.is_stubborn {
            // A signal that is ignored stays so for the program that takes the shell's place.
            let shell = ["sh", "-c", "trap '' TERM; exec \"$@\"", "stubborn"].map(str::to_owned);
            argv.splice(0..0, shell);
        }
        serde_json::to_string(&argv).map_err(|error| Trouble(error.to_string()))
    }
}
