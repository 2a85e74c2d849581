//! A machine that is simulated, for the proof (`jepsen`): whole nodes run in one process and one thread, by turmoil's
//! time and network, and everything that happens follows from one seed.
//!
//! Code that runs under turmoil finds its machine by the runtime that it runs on, so that a node needs to be told
//! nothing. Start reading at [`Machine::enter`].

pub(super) mod clock;
pub(super) mod net;
pub(super) mod process;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use matins_core::time::{BootTime, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore, SeedableRng as _};
use tokio::runtime::{Handle, Id};

use crate::store::files::MemoryDisk;

thread_local! {
    /// Which machine a runtime belongs to. Only looked up, never walked through, so its order is of no account.
    static MACHINES: RefCell<HashMap<Id, Machine>> = RefCell::default();
}

/// A simulated machine. It outlives the processes that run on it; clones are handles to the same one.
#[derive(Clone)]
pub struct Machine(Arc<Mutex<Inner>>);

struct Inner {
    disk: MemoryDisk,
    random: StdRng,
    clocks: Clocks,
    disk_wait: (Duration, Duration),
    /// The exit code of the process that ran here and why it ended itself, once it has.
    ended: Option<(i32, String)>,
}

/// How the clocks of a machine differ from the time of the simulation.
#[derive(Clone, Copy, Debug)]
pub struct Clocks {
    /// The boot-time clock when the simulation began.
    pub boot: BootTime,
    /// By how much the boot-time clock is faster than it should be, in millionths.
    pub boot_ppm: i64,
    /// The wall clock when the simulation began.
    pub wall: Timestamp,
}

impl Machine {
    /// A machine with an empty disk. All that is drawn on it follows from `seed`.
    pub fn new(seed: u64, clocks: Clocks) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            disk: MemoryDisk::new(),
            random: StdRng::seed_from_u64(seed),
            clocks,
            disk_wait: (Duration::ZERO, Duration::ZERO),
            ended: None,
        })))
    }

    /// Begins a process on this machine: whatever runs on the present runtime runs here from now on.
    pub fn enter(&self) {
        self.inner().ended = None;
        MACHINES.with_borrow_mut(|machines| machines.insert(Handle::current().id(), self.clone()));
    }

    /// The machine that runs this code.
    fn current() -> Self {
        let id = Handle::try_current().expect("a simulated node runs under turmoil only").id();
        let machine = MACHINES.with_borrow(|machines| machines.get(&id).cloned());
        machine.expect("a simulated process enters its machine before it does anything else")
    }

    /// Its disk.
    pub fn disk(&self) -> MemoryDisk {
        self.inner().disk.clone()
    }

    /// The exit code of the process here and why it ended itself, if it has. Nothing that it does counts any more.
    pub fn ended(&self) -> Option<(i32, String)> {
        self.inner().ended.clone()
    }

    fn has_ended(&self) -> bool {
        self.inner().ended.is_some()
    }

    /// How its clocks differ.
    pub fn clocks(&self) -> Clocks {
        self.inner().clocks
    }

    /// Sets its clocks otherwise. The rate counts from the beginning of the simulation, so it is set before that.
    pub fn set_clocks(&self, clocks: Clocks) {
        self.inner().clocks = clocks;
    }

    /// How long a call of the disk takes, at least and at most.
    pub fn set_disk_wait(&self, least: Duration, most: Duration) {
        self.inner().disk_wait = (least, most);
    }

    fn draw_disk_wait(&self) -> Duration {
        let mut inner = self.inner();
        let (least, most) = inner.disk_wait;
        if most <= least { least } else { inner.random.random_range(least..=most) }
    }

    /// Ends the process here.
    pub fn end(&self, code: i32, reason: &str) {
        self.inner().ended.get_or_insert_with(|| (code, reason.to_owned()));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The random numbers of a machine.
pub struct Random(Machine);

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        self.0.inner().random.next_u32()
    }

    fn next_u64(&mut self) -> u64 {
        self.0.inner().random.next_u64()
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.0.inner().random.fill_bytes(bytes);
    }
}
