//! Indexes over the blocks of finished runs (PROTOCOL 6.5): by run, by workflow and logical time, by workflow, state and
//! run.
//!
//! Nothing lives only here. The blocks are blobs; this tells where in them a run stands, and is built again from them
//! whenever there is doubt: sled's `flush` does not fsync on Linux, so an index that was open when the machine went
//! down is not believed, nor one whose open did not come back. An error of this module is therefore never a fault:
//! close, [`History::wipe`], open, add the blocks. Start reading at [`History::open`].

mod keys;
mod lists;
#[cfg(feature = "simulation")]
pub mod memory;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use matins_core::id::Digest;
use serde::{Deserialize, Serialize};

pub use self::lists::{Among, Listed, MERGED_MAX};

use super::files::{Disk, Files as _};
use super::{Result, StoreError, checked};
use crate::system;

/// sled's page cache.
const CACHE_BYTES: u64 = 16 << 20;
/// How long sled may keep writes from the page cache of the system.
const FLUSH_EVERY_MS: u64 = 500;
/// The most bytes of one value: sled puts larger ones into files that it never syncs.
pub const VALUE_BYTES_MAX: u64 = 60 << 10;
/// The runs that one row of a block's members names at most: ten bytes each, so far below [`VALUE_BYTES_MAX`]. sled keeps
/// some 250 bytes in memory for each eight rows, whatever their size, so a row of its own for each run is worth avoiding.
const MEMBERS_MAX: usize = 4096;
/// The most rows that one page looks at. A rare match may thus give a short page, with a token to go on.
pub const ROWS_READ_MAX: usize = 10_000;

/// A finished run, as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedRun {
    /// Its number.
    pub run: u64,
    /// `namespace/workflow`.
    pub workflow: String,
    /// How it ended.
    pub state: String,
    /// The schedule that made it, if one did.
    pub schedule: Option<String>,
    /// What it was for, in milliseconds since 1970.
    pub logical_time: i64,
    /// The run that it retried.
    pub retry_of: Option<u64>,
    /// The first run of its chain of retries, itself if it is none.
    pub retry_root: u64,
    /// The block that it is in.
    pub block: Digest,
    /// Where in the block, in bytes.
    pub offset: u32,
    /// How many bytes there.
    pub length: u32,
    /// Their checksum, so that they can be read without the rest of the block.
    pub sum: u32,
}

/// Which runs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Of this workflow, `namespace/workflow`.
    pub workflow: String,
    /// Made by this schedule; `None`: by any, or by none.
    pub schedule: Option<String>,
    /// With a logical time of this or later.
    pub from: Option<i64>,
    /// With a logical time before this.
    pub until: Option<i64>,
}

impl Filter {
    fn matches(&self, run: &IndexedRun) -> bool {
        self.workflow == run.workflow && (self.schedule.is_none() || self.schedule == run.schedule)
    }
}

/// The order of a list, by logical time, then run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    NewestFirst,
    /// The oldest first.
    OldestFirst,
}

/// Where a list goes on: behind this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageToken {
    /// Its logical time.
    pub logical_time: i64,
    /// Its number.
    pub run: u64,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The runs, in order.
    pub runs: Vec<IndexedRun>,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<PageToken>,
}

/// The index of a node's history.
pub struct History {
    dir: PathBuf,
    db: sled::Db,
    /// Run to `IndexedRun`.
    runs: sled::Tree,
    /// The orders: see `keys`.
    orders: sled::Tree,
    /// Block and part to the runs of that part, so that a block can be taken out.
    block_runs: sled::Tree,
    /// The blocks, each [`WHOLE`] or [`IN_PART`].
    blocks: sled::Tree,
}

impl History {
    /// Opens the index in `dir` and makes it agree with the blocks that `State` lists: what is not expected is taken
    /// out, and what is missing is answered, for the caller to [`History::add_block`]. After a power cut, or when it
    /// does not open, all of it is missing.
    pub fn open(dir: &Path, expected: &BTreeSet<Digest>) -> Result<(Self, BTreeSet<Digest>)> {
        // Where the boot cannot be known no index is believed that was open.
        Self::open_in_boot(dir, &system::boot_id().unwrap_or_default(), expected)
    }

    /// Opens a copy of an index to look at it, whatever it was left like. An index that does not open is an error here.
    pub fn open_as_it_is(dir: &Path) -> Result<Self> {
        Self::open_trees(dir).map_err(failed("open", dir))
    }

    fn open_in_boot(dir: &Path, boot: &str, expected: &BTreeSet<Digest>) -> Result<(Self, BTreeSet<Digest>)> {
        Disk.create_dir(dir).map_err(StoreError::io("create", dir))?;
        let open = format!("{FORM} open in boot {boot}");
        let is_sound = match checked::load(&Disk, &dir.join(CONDITION)) {
            Ok(Some(condition)) => condition == CLOSED || (!boot.is_empty() && condition == open.as_bytes()),
            Ok(None) | Err(_) => false,
        };
        if !is_sound {
            if dir.join(DATABASE).exists() {
                tracing::info!(
                    blocks = expected.len(),
                    "the index of history is built again: the machine went down while it was open, or another release made it"
                );
            }
            Self::wipe(dir)?;
        }
        // Were sled to panic while it opens, this would be found at the next start.
        checked::save(&Disk, &dir.join(CONDITION), b"opening")?;
        let history = match Self::open_trees(dir) {
            Ok(history) => history,
            Err(error) => {
                tracing::warn!(%error, "the history index does not open and is built again");
                Self::wipe(dir)?;
                Self::open_trees(dir).map_err(failed("open", dir))?
            }
        };
        checked::save(&Disk, &dir.join(CONDITION), open.as_bytes())?;
        history.keep_only(expected)?;
        let indexed = history.indexed_blocks()?.into_iter().collect();
        Ok((history, expected - &indexed))
    }

    fn open_trees(dir: &Path) -> sled::Result<Self> {
        let config = sled::Config::new().path(dir.join(DATABASE)).cache_capacity(CACHE_BYTES);
        let db = config.mode(sled::Mode::LowSpace).flush_every_ms(Some(FLUSH_EVERY_MS)).open()?;
        let (runs, orders) = (db.open_tree("runs")?, db.open_tree("orders")?);
        let (block_runs, blocks) = (db.open_tree("block_runs")?, db.open_tree("blocks")?);
        Ok(Self { dir: dir.into(), db, runs, orders, block_runs, blocks })
    }

    /// Throws an index away that is not open; the next [`History::open`] begins anew.
    pub fn wipe(dir: &Path) -> Result<()> {
        let database = dir.join(DATABASE);
        match fs::remove_dir_all(&database) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(StoreError::io("remove", &database)),
        }
    }

    /// Closes the index so that the next open believes it even after a power cut.
    pub fn close(self) -> Result<()> {
        self.db.flush().map_err(failed("flush", &self.dir))?;
        let dir = self.dir.clone();
        drop(self);
        sync_all(&dir.join(DATABASE)).map_err(StoreError::io("sync", &dir))?;
        checked::save(&Disk, &dir.join(CONDITION), CLOSED)
    }

    /// Puts in a block and the runs that are in it. Once it returns, [`History::is_indexed`] says so; a crash before
    /// that leaves the block missing.
    pub fn add_block(&self, block: &Digest, runs: &[IndexedRun]) -> Result<()> {
        let (mut rows, mut orders, mut members) =
            (sled::Batch::default(), sled::Batch::default(), sled::Batch::default());
        for run in runs {
            let value = postcard::to_allocvec(run).expect("plain fields always encode");
            let asked = value.len() as u64;
            if asked > VALUE_BYTES_MAX {
                let (what, limit) = ("what the index has of a run", "VALUE_BYTES_MAX");
                return Err(StoreError::TooLarge { what, limit, value: VALUE_BYTES_MAX, asked });
            }
            rows.insert(&run.run.to_be_bytes(), value);
            for key in keys::of_run(run) {
                orders.insert(key, &[]);
            }
        }
        for (part, runs) in (0..).zip(runs.chunks(MEMBERS_MAX)) {
            let numbers: Vec<u64> = runs.iter().map(|run| run.run).collect();
            let value = postcard::to_allocvec(&numbers).expect("numbers always encode");
            members.insert(keys::members(block, part), value);
        }
        let fail = || failed("write", &self.dir);
        // How a block that came in only in part is known, and taken out.
        self.blocks.insert(block.0, IN_PART).map_err(fail())?;
        self.block_runs.apply_batch(members).map_err(fail())?;
        self.runs.apply_batch(rows).map_err(fail())?;
        self.orders.apply_batch(orders).map_err(fail())?;
        self.db.flush().map_err(fail())?;
        self.blocks.insert(block.0, WHOLE).map_err(fail())?;
        Ok(())
    }

    /// Takes out the blocks that retention took off the list, and those that never came in as a whole.
    pub fn keep_only(&self, expected: &BTreeSet<Digest>) -> Result<()> {
        for (block, is_whole) in self.blocks()? {
            if !is_whole || !expected.contains(&block) {
                self.remove_block(&block)?;
            }
        }
        Ok(())
    }

    fn remove_block(&self, block: &Digest) -> Result<()> {
        let fail = || failed("write", &self.dir);
        self.blocks.insert(block.0, IN_PART).map_err(fail())?;
        for members in self.block_runs.scan_prefix(block.0) {
            let (part, members) = members.map_err(fail())?;
            let members: Vec<u64> =
                postcard::from_bytes(&members).map_err(|_| self.damaged("a block's members"))?;
            for run in members {
                self.remove_run_of(run, block)?;
            }
            self.block_runs.remove(part).map_err(fail())?;
        }
        self.blocks.remove(block.0).map_err(fail())?;
        Ok(())
    }

    /// Takes a run out, unless another block holds it by now: then it is that block's.
    fn remove_run_of(&self, run: u64, block: &Digest) -> Result<()> {
        let fail = || failed("write", &self.dir);
        let Some(row) = self.find(run)?.filter(|row| row.block == *block) else { return Ok(()) };
        for key in keys::of_run(&row) {
            self.orders.remove(key).map_err(fail())?;
        }
        self.runs.remove(run.to_be_bytes()).map_err(fail())?;
        Ok(())
    }

    /// Whether a block is in as a whole.
    pub fn is_indexed(&self, block: &Digest) -> Result<bool> {
        let mark = self.blocks.get(block.0).map_err(failed("read", &self.dir))?;
        Ok(mark.is_some_and(|mark| mark == WHOLE))
    }

    /// The blocks that are in as a whole, by digest.
    pub fn indexed_blocks(&self) -> Result<Vec<Digest>> {
        Ok(self.blocks()?.into_iter().filter_map(|(block, is_whole)| is_whole.then_some(block)).collect())
    }

    /// All blocks, by digest, and whether they are in as a whole.
    fn blocks(&self) -> Result<Vec<(Digest, bool)>> {
        let block = |row: sled::Result<(sled::IVec, sled::IVec)>| {
            let (block, mark) = row.map_err(failed("read", &self.dir))?;
            let block = block.as_ref().try_into().map_err(|_| self.damaged("a block's key"))?;
            Ok((Digest(block), mark == WHOLE))
        };
        self.blocks.iter().map(block).collect()
    }

    /// A run by its number. `None` if no indexed block has it.
    pub fn find(&self, run: u64) -> Result<Option<IndexedRun>> {
        let Some(row) = self.runs.get(run.to_be_bytes()).map_err(failed("read", &self.dir))? else {
            return Ok(None);
        };
        self.decoded(&row).map(Some)
    }

    /// The run that an order's key leads to; `None` if retention took both out since the key was read.
    fn led_to(&self, key: &[u8]) -> Result<Option<IndexedRun>> {
        let damaged = || self.damaged("an order's key");
        let run = self.find(keys::run_of(key).ok_or_else(damaged)?)?;
        if run.is_none() && self.orders.contains_key(key).map_err(failed("read", &self.dir))? {
            return Err(damaged());
        }
        Ok(run)
    }

    fn decoded(&self, row: &[u8]) -> Result<IndexedRun> {
        postcard::from_bytes(row).map_err(|_| self.damaged("a run's row"))
    }

    /// The runs that match, by logical time, `limit` at most; `after` goes on behind an earlier page.
    pub fn scan(
        &self,
        filter: &Filter,
        after: Option<PageToken>,
        order: Order,
        limit: usize,
    ) -> Result<Page> {
        let range = keys::range(filter, after, order);
        let mut page = Page { runs: Vec::new(), next: None };
        if range.0 >= range.1 {
            return Ok(page);
        }
        let mut found = self.orders.range(range.0..range.1).keys();
        for _ in 0..ROWS_READ_MAX {
            let next = match order {
                Order::NewestFirst => found.next_back(),
                Order::OldestFirst => found.next(),
            };
            let Some(key) = next else { return Ok(Page { next: None, ..page }) };
            let key = key.map_err(failed("read", &self.dir))?;
            let Some(run) = self.led_to(&key)? else { continue };
            page.next = Some(PageToken { logical_time: run.logical_time, run: run.run });
            if filter.matches(&run) {
                page.runs.push(run);
            }
            if page.runs.len() >= limit {
                break;
            }
        }
        Ok(page)
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::corrupt(&self.dir, 0, format!("{what} does not lead to a run"))
    }
}

/// The file that says how the index was left.
const CONDITION: &str = "condition";
/// Raised with each change of what is in an index: one of another form is built again.
const FORM: &str = "form 3";
const CLOSED: &[u8] = b"form 3 closed";
const DATABASE: &str = "index";
/// The mark of a block all of whose runs are in.
const WHOLE: &[u8] = b"whole";
/// The mark of a block that is being put in or taken out.
const IN_PART: &[u8] = b"part";

/// Turns an error of sled into ours.
fn failed(doing: &'static str, dir: &Path) -> impl FnOnce(sled::Error) -> StoreError {
    move |error| StoreError::io(doing, dir)(error.into())
}

fn sync_all(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        } else {
            fs::File::open(entry.path())?.sync_all()?;
        }
    }
    fs::File::open(dir)?.sync_all()
}
