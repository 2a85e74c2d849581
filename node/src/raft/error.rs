//! Why consensus could not do what it was asked.

use std::io;

use matins_core::id::{Digest, NodeId};
use thiserror::Error;

use super::times::TimesError;
use super::types::Member;
use crate::store::StoreError;
use crate::store::marker::MarkerError;

/// Why there is no answer to a proposal.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ProposeError {
    /// Another node leads, or nobody does. It was not proposed.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<(NodeId, Member)>,
    },
    /// The queue is full. It was not proposed.
    #[error("too many commands wait to be written ({limit} at most)")]
    Overloaded {
        /// How many may wait.
        limit: usize,
    },
    /// It does not fit into an entry. It was not proposed.
    #[error("the command takes {bytes} bytes, and an entry has {limit} at most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The size of an entry.
        limit: usize,
    },
    /// Its deadline passed, or the lead was lost. Whether it will be applied is UNKNOWN: repeat it with the same request
    /// id (PROTOCOL 2.4).
    #[error("no answer in time: it is unknown whether it was done")]
    Deadline,
    /// This node is stopping. Whether it will be applied is unknown, as with `Deadline`.
    #[error("this node is stopping")]
    Stopping,
}

/// Why there is no linearizable read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ReadError {
    /// Nobody leads, or the leader is not ready (PROTOCOL 2.1), or no majority confirmed it in time.
    #[error("no leader confirmed this read in time")]
    NoLeader,
    /// This node is stopping.
    #[error("this node is stopping")]
    Stopping,
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The times do not fit each other.
    #[error("the times of consensus do not fit each other")]
    Times(#[from] TimesError),
    /// The data directory is not this node's to use; its `hint` says what to do.
    #[error(transparent)]
    Directory(#[from] MarkerError),
    /// What is in it cannot be read; its `hint` says what to do.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused something else.
    #[error("cannot start")]
    Io(#[from] io::Error),
    /// openraft did not start.
    #[error("consensus did not start: {0}")]
    Raft(String),
}

/// Why the cluster was not made.
#[derive(Debug, Error)]
pub enum InitError {
    /// This node belongs to a cluster already.
    #[error("this node belongs to cluster {cluster:016x} already")]
    Member {
        /// Which one.
        cluster: u64,
    },
    /// It did not become ready in time.
    #[error("the new cluster did not become ready in time")]
    NotReady,
    /// Something failed underneath; the text says what.
    #[error("cannot make the cluster: {0}")]
    Failed(String),
}

/// Why the membership was not changed. Nothing was, unless it says otherwise.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ChangeError {
    /// Another node leads: ask it.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<(NodeId, Member)>,
    },
    /// The leader itself is to go: another node must lead first.
    #[error("this node leads, and does not take itself out")]
    Leads,
    /// No member has this id or name.
    #[error("no member of the cluster is `{0}`")]
    NoMember(String),
    /// It cannot be reached.
    #[error("cannot reach {address}: {why}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why not.
        why: String,
    },
    /// It belongs to another cluster: only an empty node can be added (PROTOCOL 2.7).
    #[error("{address} belongs to cluster {cluster:016x}")]
    Foreign {
        /// Where.
        address: String,
        /// Whose it is.
        cluster: u64,
    },
    /// Another change of membership is under way, or this one is still going on.
    #[error("a change of membership is under way")]
    Busy,
    /// It did not catch up in time; it stays a learner, and adding it again goes on from there.
    #[error("{address} did not catch up in time")]
    Behind {
        /// Where.
        address: String,
    },
    /// The voters that it leaves are too few, or may lack data that only the others have (PROTOCOL 2.7).
    #[error("{why}")]
    Unsafe {
        /// Which, and why.
        why: String,
        /// What to do.
        hint: String,
    },
    /// Something failed underneath; the text says what.
    #[error("cannot change the membership: {0}")]
    Failed(String),
}

/// Why the lead was not handed over. This node leads on, unless it says otherwise.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TransferError {
    /// Another node leads: ask it.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, as far as is known.
        leader: Option<(NodeId, Member)>,
    },
    /// No member has this id or name.
    #[error("no member of the cluster is `{0}`")]
    NoMember(String),
    /// The membership is being changed, or the lead is being handed over already.
    #[error("a change of membership is under way")]
    Busy,
    /// Nobody took it; the text says why.
    #[error("{0}")]
    NotTaken(String),
}

/// Why the feature level cannot be raised.
#[derive(Debug, Error)]
pub enum LevelError {
    /// A member did not answer, so nobody knows what it supports.
    #[error("{node} ({name}) does not answer, so nobody can tell what it supports")]
    Silent {
        /// Which one.
        node: NodeId,
        /// For people.
        name: String,
    },
    /// A member would not understand what is written from then on.
    #[error("{node} runs a release that supports feature level {max} at most, and {level} was asked for")]
    NotSupported {
        /// Which one.
        node: NodeId,
        /// What was asked for.
        level: u16,
        /// What it supports.
        max: u16,
    },
}

/// Why a blob was not stored or not read.
#[derive(Debug, Error)]
pub enum BlobError {
    /// Fewer than a majority of the voters have it, in the time there was.
    #[error("{stored} of {voters} voters took the blob, and a majority is needed")]
    NoMajority {
        /// How many took it.
        stored: usize,
        /// How many there are.
        voters: usize,
    },
    /// No node that could be reached has it.
    #[error("no node that answers has blob {0}")]
    Lost(Digest),
    /// The disk failed, or is full.
    #[error(transparent)]
    Store(#[from] StoreError),
}
