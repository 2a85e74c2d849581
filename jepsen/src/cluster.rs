//! Real processes, real faults: a cluster of `matins server` processes under a workload and a nemesis, and checkers of
//! what came of it.
//!
//! A workload knows nothing of faults and a nemesis nothing of work; both see the cluster from outside, as a user does.
//! Start reading at [`workload::Workload`].

pub(crate) mod trial;
pub(crate) mod workload;
