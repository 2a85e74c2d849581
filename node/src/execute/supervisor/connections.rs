//! The supervisor's socket: executors that are connected, what they sent in part, what they have not read yet.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::epoll::EventFlags;

use super::SOCKET;
use super::reactor::{Reactor, Source};
use super::wire::{self, FromSupervisor, ToSupervisor};

/// An executor that does not read (it may be frozen) is let go at this; it connects again and asks for a list.
const UNREAD_BYTES_MAX: usize = 4 << 20;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct From(pub(super) u64);

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Connections {
    listener: UnixListener,
    open: BTreeMap<From, Connection>,
    /// Made so far.
    count: u64,
}

impl Connections {
    pub(super) fn listen(dir: &Path, reactor: &Reactor) -> io::Result<Self> {
        let (_dir, path) = short_path(dir)?;
        // Left by an earlier supervisor of this folder, whose lock we hold now.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        reactor.watch(&listener, Source::Listener, EventFlags::IN)?;
        Ok(Self { listener, open: BTreeMap::new(), count: 0 })
    }

    pub(super) fn ever_connected(&self) -> bool {
        self.count > 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn accept(&mut self, reactor: &Reactor) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let id = self.count;
        let watched = stream
            .set_nonblocking(true)
            .and_then(|()| reactor.watch(&stream, Source::Connection(id), EventFlags::IN));
        if watched.is_ok() {
            self.count += 1;
            self.open.insert(From(id), Connection { stream, received: Vec::new(), unsent: Vec::new() });
        }
    }

    /// Reads and writes what can be read and written, and gives the whole messages.
    pub(super) fn deal_with(&mut self, id: u64, flags: EventFlags, reactor: &Reactor) -> Vec<ToSupervisor> {
        let Some(connection) = self.open.get_mut(&From(id)) else { return Vec::new() };
        let mut messages = Vec::new();
        let mut outcome = if flags.contains(EventFlags::OUT) { connection.flush(reactor) } else { Ok(()) };
        if outcome.is_ok() && flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            outcome = connection.receive(&mut messages);
        }
        if outcome.is_err() {
            self.open.remove(&From(id));
        }
        messages
    }

    pub(super) fn send(&mut self, to: From, message: &FromSupervisor, reactor: &Reactor) {
        let Some(connection) = self.open.get_mut(&to) else { return };
        connection.unsent.extend(wire::encode(message));
        if connection.flush(reactor).is_err() || connection.unsent.len() > UNREAD_BYTES_MAX {
            self.open.remove(&to);
        }
    }

    pub(super) fn send_all(&mut self, message: &FromSupervisor, reactor: &Reactor) {
        let all: Vec<From> = self.open.keys().copied().collect();
        for to in all {
            self.send(to, message, reactor);
        }
    }
}

impl Connection {
    fn receive(&mut self, messages: &mut Vec<ToSupervisor>) -> io::Result<()> {
        let mut buffer = [0; 16 << 10];
        // A few pieces at most: other sources wait, and what is left makes the socket readable again.
        for _ in 0..64 {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(message) = wire::decode(&mut self.received)? {
            messages.push(message);
        }
        Ok(())
    }

    fn flush(&mut self, reactor: &Reactor) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(written) => {
                    self.unsent.drain(..written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let out = if self.unsent.is_empty() { EventFlags::empty() } else { EventFlags::OUT };
        reactor.change(&self.stream, EventFlags::IN | out)
    }
}

/// A path to the socket that fits the 108 bytes of a socket address, however deep the folder lies. It holds as long as
/// the file that is given with it stays open.
pub(crate) fn short_path(dir: &Path) -> io::Result<(File, PathBuf)> {
    let dir = File::open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()));
    Ok((dir, path))
}
