//! The messages between executor and supervisor, frozen: a new executor goes on with the supervisors of older binaries
//! (PROTOCOL 5.1). Each is postcard in a frame of its length (four bytes, little-endian).
//!
//! Nothing may be changed here, not even the order of variants; `tests` holds the bytes.

use std::io;
use std::path::PathBuf;

use matins_core::id::{Fence, SessionNumber};
use matins_core::supervisor::{Exit, Held, Refusal};
use matins_core::time::{BootTime, Millis};
use serde::{Deserialize, Serialize};

/// The largest message: arguments and environment of one task, which Linux limits to 6 MiB.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// What an executor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToSupervisor {
    /// From now on spawn nothing for an older session. Answered by `Session`.
    Session { number: SessionNumber },
    /// Run a task, once a deadline of this session lies ahead.
    Spawn { session: SessionNumber, fence: Fence, task: Box<SpawnTask> },
    /// A renewal was granted until `at`; from TERM to KILL it is `kill_after` then.
    Deadline { session: SessionNumber, at: BootTime, kill_after: Millis },
    /// Stop one; zero is KILL at once.
    Stop { session: SessionNumber, fence: Fence, grace: Millis },
    /// Say what is held. Answered by `List`.
    List { session: SessionNumber },
    /// These ends are recorded.
    Statuses { session: SessionNumber, acknowledged: Vec<Fence> },
}

/// What a supervisor says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromSupervisor {
    /// Whether the number was taken, and the highest heard.
    Session { number: SessionNumber, taken: bool, highest: SessionNumber },
    /// What is held.
    List { session: SessionNumber, held: Vec<(Fence, Held)> },
    /// Something happened to one fence.
    Status { fence: Fence, status: Status },
}

/// What happened to one fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Status {
    /// Its first process was made.
    Started,
    /// It was not taken.
    Refused(Refusal),
    /// KILL did not help.
    Unkillable,
    /// Its whole group is gone, and the status file says how it ended.
    Ended(Exit),
}

/// All that a supervisor needs to run a task. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpawnTask {
    /// How much later than its session it ends.
    pub(crate) on_disconnect: Millis,
    /// The program, resolved against the task's own PATH beforehand.
    pub(crate) program: PathBuf,
    /// Its arguments, without the program.
    pub(crate) arguments: Vec<String>,
    /// All of its environment.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) directory: PathBuf,
    /// The folder of the attempt: status file and notes about the start go there.
    pub(crate) attempt: PathBuf,
    /// The log file.
    pub(crate) log: PathBuf,
    /// More than this is dropped, and the log says so.
    pub(crate) log_bytes_max: u64,
}

/// A message in its frame.
pub(crate) fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    let body = postcard::to_allocvec(message).expect("messages hold nothing that postcard cannot write");
    let length = u32::try_from(body.len()).expect("a message is checked to be far below 4 GiB");
    [&length.to_le_bytes()[..], &body].concat()
}

/// Takes the first whole message out of what was received, if there is one.
pub(crate) fn decode<M: for<'de> Deserialize<'de>>(received: &mut Vec<u8>) -> io::Result<Option<M>> {
    let Some((length, rest)) = received.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > MESSAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = postcard::from_bytes(body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    received.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write as _;
        bytes.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes all");
            text
        })
    }

    #[test]
    fn the_bytes_are_frozen() {
        let session = SessionNumber(3);
        let task = SpawnTask {
            on_disconnect: Millis(1),
            program: "/bin/sh".into(),
            arguments: vec!["-e".into()],
            env: vec![("A".into(), "b".into())],
            directory: "/w".into(),
            attempt: "/a".into(),
            log: "/l".into(),
            log_bytes_max: 300,
        };
        let to = [
            (ToSupervisor::Session { number: session }, "020000000003"),
            (
                ToSupervisor::Spawn { session, fence: Fence(9), task: Box::new(task) },
                "2000000001030901072f62696e2f736801022d6501014101\
                 62022f77022f61022f6cac02",
            ),
            (
                ToSupervisor::Deadline { session, at: BootTime(500), kill_after: Millis(2000) },
                "060000000203f403d00f",
            ),
            (ToSupervisor::Stop { session, fence: Fence(9), grace: Millis(0) }, "0400000003030900"),
            (ToSupervisor::List { session }, "020000000403"),
            (ToSupervisor::Statuses { session, acknowledged: vec![Fence(9)] }, "0400000005030109"),
        ];
        for (message, bytes) in to {
            assert_eq!(hex(&encode(&message)), bytes.replace(' ', ""), "{message:?}");
            assert_eq!(decode(&mut encode(&message)).unwrap(), Some(message));
        }
        let status = |status| FromSupervisor::Status { fence: Fence(9), status };
        let from = [
            (FromSupervisor::Session { number: session, taken: true, highest: session }, "0400000000030103"),
            (FromSupervisor::List { session, held: vec![(Fence(9), Held::Running)] }, "050000000103010900"),
            (status(Status::Started), "03000000020900"),
            (status(Status::Refused(Refusal::SessionOver)), "0400000002090101"),
            (status(Status::Unkillable), "03000000020902"),
            (status(Status::Ended(Exit::Signal(9))), "050000000209030112"),
        ];
        for (message, bytes) in from {
            assert_eq!(hex(&encode(&message)), bytes, "{message:?}");
            assert_eq!(decode(&mut encode(&message)).unwrap(), Some(message));
        }
    }

    #[test]
    fn a_message_in_pieces_waits_for_the_rest() {
        let bytes = encode(&ToSupervisor::List { session: SessionNumber(3) });
        let mut received = Vec::new();
        for byte in &bytes[..bytes.len() - 1] {
            received.push(*byte);
            assert_eq!(decode::<ToSupervisor>(&mut received).unwrap(), None);
        }
        assert!(decode::<ToSupervisor>(&mut u32::MAX.to_le_bytes().to_vec()).is_err());
    }

    proptest! {
        #[test]
        fn messages_of_any_bytes_are_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..120), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let framed = [&(bytes.len() as u32).to_le_bytes()[..], &bytes].concat();
            let held = vec![(Fence(9), Held::Running), (Fence(300), Held::Ended(Exit::Code(1)))];
            let mut damaged = encode(&FromSupervisor::List { session: SessionNumber(3), held });
            let at = at.index(damaged.len());
            damaged[at] ^= flip;
            for bytes in [bytes.clone(), framed, damaged] {
                if let Ok(Some(read)) = decode::<ToSupervisor>(&mut bytes.clone()) {
                    prop_assert_eq!(decode(&mut encode(&read)).unwrap(), Some(read));
                }
                if let Ok(Some(read)) = decode::<FromSupervisor>(&mut bytes.clone()) {
                    prop_assert_eq!(decode(&mut encode(&read)).unwrap(), Some(read));
                }
            }
        }
    }
}
