//! Every id is a type with one spelling, parsed at the edge (STYLE 12).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that is not the id it should be, and what it should look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAnId {
    /// What was given.
    pub text: String,
    /// What was expected, as a phrase: "a run such as `run-42`".
    pub expected: &'static str,
}

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not {}", self.text, self.expected)
    }
}

impl core::error::Error for NotAnId {}

/// Defines ids that are a number behind a prefix: `run-42`.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let id = text.strip_prefix($prefix).and_then(|digits| digits.parse().ok()).map(Self);
                // `parse` also takes `+7` and `007`, but one id has one spelling.
                id.filter(|id| id.to_string() == text)
                    .ok_or_else(|| NotAnId { text: text.to_owned(), expected: $expected })
            }
        }
    };
}

numbered!(
    /// Names one run of a workflow, for good. Written `run-42`.
    ///
    /// The number comes from a counter in `State`: every replica counts alike without a random source, and ids sort
    /// by age. Its upper 16 bits are the Raft group, which is 0 and not shown (DESIGN 4).
    RunId, "run-", "a run such as `run-42`"
);
numbered!(
    /// Names one backfill, for good. Written `backfill-7`.
    BackfillId, "backfill-", "a backfill such as `backfill-7`"
);
numbered!(
    /// A node, by the number drawn when its data directory was made; never used again (PROTOCOL 2.7).
    NodeId, "node-", "a node such as `node-7`"
);
numbered!(
    /// A cluster, by the number drawn by `init` (PROTOCOL 2.7).
    ClusterId, "cluster-", "a cluster such as `cluster-5`"
);
numbered!(
    /// The right of one attempt to act: a counter in `State`, never used twice (PROTOCOL 5.2). Written `fence-9`.
    Fence, "fence-", "a fence such as `fence-9`"
);
numbered!(
    /// Which session of one executor; rises with each (PROTOCOL 5.4). Written `session-3`.
    SessionNumber, "session-", "a session such as `session-3`"
);
numbered!(
    /// A position in the Raft log. `State` at an index is what entries up to it made.
    LogIndex, "", "a log index"
);
numbered!(
    /// A time of leadership, named by the log index of its `LeaderReady` (PROTOCOL 2.1).
    Leadership, "leadership-", "a leadership such as `leadership-12`"
);
numbered!(
    /// A number drawn by an executor when its journal was made: another journal, another number (PROTOCOL 5.4).
    JournalId, "journal-", "a journal id"
);

/// An executor is named by the node it belongs to.
pub type ExecutorId = NodeId;

/// The version of a workflow, counted from 1 in each name and never used again, not even after a delete.
pub type VersionNumber = u32;

/// Defines ids that are a name with a rule for its spelling.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident, $is_valid:path, $expected:literal) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                if $is_valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(NotAnId { text: text.to_owned(), expected: $expected })
                }
            }
        }
    };
}

named!(
    /// A namespace: the unit of ownership and access.
    Namespace, is_lower_name, "a namespace (lower case letters, digits, `-`, `.`, `_`)"
);
named!(
    /// A schedule of one workflow.
    ScheduleName, is_lower_name, "a schedule (lower case letters, digits, `-`, `.`, `_`)"
);
named!(
    /// A pool of slots.
    PoolName, is_lower_name, "a pool (lower case letters, digits, `-`, `.`, `_`)"
);
named!(
    /// A task in a workflow's graph.
    TaskName, is_task_name, "a task name (a letter, then letters, digits or `_`, 63 at most)"
);
named!(
    /// Given by a client, the same in each repeat of a command (PROTOCOL 4.6).
    RequestId, is_request_id, "a request id (1 to 128 printable characters without spaces)"
);

impl ScheduleName {
    /// No name comes before it: where the schedules of a workflow begin.
    pub fn least() -> Self {
        Self("0".into())
    }
}

/// A workflow's name in its namespace. Written `namespace/workflow`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WorkflowName {
    /// Who owns it.
    pub namespace: Namespace,
    /// Its name there; the same rule of spelling as a namespace's.
    pub name: Namespace,
}

impl fmt::Display for WorkflowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for WorkflowName {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let expected = "a workflow such as `namespace/workflow`";
        let (namespace, name) =
            text.split_once('/').ok_or_else(|| NotAnId { text: text.to_owned(), expected })?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

/// A schedule of a workflow. Written `namespace/workflow:schedule`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ScheduleId {
    /// The workflow whose runs it makes.
    pub workflow: WorkflowName,
    /// Its name there.
    pub schedule: ScheduleName,
}

impl ScheduleId {
    /// No schedule comes before this one: where a range over all of them begins.
    pub fn least() -> Self {
        let name = Namespace("0".into());
        Self { workflow: WorkflowName { namespace: name.clone(), name }, schedule: ScheduleName::least() }
    }
}

impl WorkflowName {
    /// No schedule of this workflow comes before this one.
    pub fn first_schedule(&self) -> ScheduleId {
        ScheduleId { workflow: self.clone(), schedule: ScheduleName::least() }
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.workflow, self.schedule)
    }
}

/// A task of a run, by its place in the version's list of tasks; `item` names one item of a fan-out.
///
/// The order is the order of work: by run, then task, then item; the fan-out task itself comes before its items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId {
    /// The run it belongs to.
    pub run: RunId,
    /// Its index in the list of tasks of the run's version.
    pub task: u16,
    /// The item, from 0; `None` for a task without `for_each` and for the fan-out as a whole.
    pub item: Option<u32>,
}

/// A SHA-256 digest: the name of a blob, of a block and of a version. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twelve digits tell digests apart in a test's output; all 64 would hide the rest.
        f.write_str(&format!("{self}")[..12])
    }
}

impl FromStr for Digest {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let bad = || NotAnId { text: text.to_owned(), expected: "a digest (64 hexadecimal digits)" };
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 64 || !text.bytes().all(is_hex) {
            return Err(bad());
        }
        let mut digest = [0; 32];
        for (byte, at) in digest.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(digest))
    }
}

/// LANGUAGE 1.7: lower case letters, digits, `-`, `.`, `_`, 63 at most, and never of the form `run-42`.
fn is_lower_name(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    // A name of dots alone would be a path, and one that begins with `-` a flag.
    let begins_well =
        text.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    begins_well && text.len() <= 63 && text.bytes().all(is_allowed) && text.parse::<RunId>().is_err()
}

/// LANGUAGE 1.7: `[A-Za-z][A-Za-z0-9_]*`, 63 at most.
fn is_task_name(text: &str) -> bool {
    let begins_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
    begins_well && text.len() <= 63 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_id_has_one_spelling() {
        assert_eq!("run-42".parse(), Ok(RunId(42)));
        for wrong in ["run-042", "run-+4", "run-", "42", "Run-42", "run-99999999999999999999"] {
            assert!(wrong.parse::<RunId>().is_err(), "{wrong}");
        }
        assert_eq!("a/b".parse::<WorkflowName>().expect("two names").to_string(), "a/b");
    }

    #[test]
    fn names_keep_out_what_would_be_read_as_something_else() {
        for wrong in ["", "run-42", "Load", "a b", "-x", "..", "ä"] {
            assert!(wrong.parse::<PoolName>().is_err(), "{wrong}");
        }
        for right in ["source-db", "a.b_c", "0", "run-x"] {
            assert!(right.parse::<PoolName>().is_ok(), "{right}");
        }
        assert!("load-eu".parse::<TaskName>().is_err());
        assert!("load_eu".parse::<TaskName>().is_ok());
    }

    #[test]
    fn no_name_comes_before_the_least() {
        // A name begins with a digit or a letter, and of two names the shorter comes first.
        for name in ["00", "0-", "1", "a"] {
            assert!(name.parse::<ScheduleName>().is_ok_and(|name| ScheduleName::least() < name), "{name}");
        }
        assert_eq!("0".parse(), Ok(ScheduleName::least()));
    }

    #[test]
    fn a_digest_reads_back() {
        let digest = Digest::of(b"matins");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("AB".parse::<Digest>().is_err());
    }
}
