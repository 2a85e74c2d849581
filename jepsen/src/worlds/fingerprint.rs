//! Hashes of states: fast, the same in every process, and blind to what nothing decides on.
//!
//! Readings of a boot-time clock count from the present of that clock, so that two states that differ only in when they
//! are reached are one; to be told apart from other numbers, the clocks of these worlds begin at [`EPOCH`]. A `State` is
//! hashed through serde without the fields that only people read.

use std::hash::{Hash, Hasher};

use matins_core::State;
use matins_core::time::BootTime;
use serde::Serialize;

/// The boot-time clocks begin here, in nanoseconds.
pub(crate) const EPOCH: u64 = 1 << 60;
/// No clock runs longer than this.
const SPAN: u64 = 1 << 52;
/// What lies farther back than this is past for every rule: no session or answer is waited for longer.
const LONG_AGO: u64 = 3_600_000_000_000;

/// Fields that nothing decides on, or that follow from others.
const FOR_PEOPLE: &[&str] = &[
    "transitions",
    "index",
    "definitions",
    "created_at",
    "seen_at",
    "opened_at",
    "since",
    "started_at",
    "leader",
];

/// A fast hasher without secrets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    mixed: u64,
    now: u64,
}

impl Fingerprint {
    /// Takes in what belongs to a machine whose clock reads `now`.
    pub(crate) const fn at(now: BootTime) -> Self {
        Self { mixed: 0x9e37_79b9_7f4a_7c15, now: now.0 }
    }

    fn mix(&mut self, value: u64) {
        let product =
            u128::from(self.mixed ^ value.wrapping_add(0x2d35_8dcc_aa6c_78a5)) * 0x8bb8_4b93_962e_acc9_u128;
        self.mixed = (product as u64) ^ ((product >> 64) as u64).rotate_left(29) ^ self.mixed.rotate_left(23);
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        let mut end = *self;
        end.mix(0x51_7c_c1);
        end.mixed
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(bytes.len() as u64);
    }

    fn write_u64(&mut self, value: u64) {
        if value.abs_diff(EPOCH) > SPAN {
            return self.mix(value);
        }
        // Odd numbers lie ahead, even ones behind.
        let relative = if value > self.now {
            (value - self.now) << 1 | 1
        } else {
            (self.now - value).min(LONG_AGO) << 1
        };
        self.mix(relative);
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
}

/// The fingerprint of anything at one reading of a clock.
pub(crate) fn of(what: &impl Hash, now: BootTime) -> u64 {
    let mut hasher = Fingerprint::at(now);
    what.hash(&mut hasher);
    hasher.finish()
}

/// The fingerprint of a state, without what only people read.
pub(crate) fn of_state(state: &State) -> u64 {
    of_rows(state)
}

/// The fingerprint of whatever serde can write.
pub(crate) fn of_rows(rows: &impl Serialize) -> u64 {
    let mut writer = Writer { hasher: Fingerprint::at(BootTime(0)) };
    rows.serialize(&mut writer).expect("our rows have no sequence of unknown length and no custom error");
    writer.hasher.finish()
}

mod writer;
use writer::Writer;
