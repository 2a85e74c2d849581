//! Waiting for many things at once: epoll, with a name for each source.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use matins_core::id::Fence;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// What can have something to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Timer,
    Listener,
    Connection(u64),
    Stdout(Fence),
    Stderr(Fence),
    /// A first process exited.
    First(Fence),
    /// A process that outlived the first one exited.
    Leftover(Fence, i32),
}

/// An epoll, and the names of what it watches by file descriptor.
#[derive(Debug)]
pub(super) struct Reactor {
    epoll: OwnedFd,
    /// A descriptor that was closed leaves its name until its number is used again; epoll has forgotten it by then.
    sources: std::cell::RefCell<BTreeMap<u64, Source>>,
}

impl Reactor {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)?, sources: <_>::default() })
    }

    pub(super) fn watch(&self, fd: &impl AsFd, source: Source, flags: EventFlags) -> io::Result<()> {
        let key = fd.as_fd().as_raw_fd() as u64;
        epoll::add(&self.epoll, fd, EventData::new_u64(key), flags)?;
        self.sources.borrow_mut().insert(key, source);
        Ok(())
    }

    /// Also wants to know when `fd`, which is watched, can be written to.
    pub(super) fn change(&self, fd: &impl AsFd, flags: EventFlags) -> io::Result<()> {
        let key = fd.as_fd().as_raw_fd() as u64;
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(key), flags)?)
    }

    /// Stops watching one that stays open.
    pub(super) fn forget(&self, fd: &impl AsFd) {
        // ENOENT: it was not watched, which is what is wanted.
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Waits until something has something to say.
    pub(super) fn wait(&self) -> io::Result<Vec<(Source, EventFlags)>> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(64);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let sources = self.sources.borrow();
        let named = |event: &epoll::Event| {
            let (data, flags) = (event.data, event.flags);
            sources.get(&data.u64()).map(|source| (*source, flags))
        };
        Ok(events.iter().filter_map(named).collect())
    }
}
