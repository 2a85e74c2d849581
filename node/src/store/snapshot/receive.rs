//! A snapshot that comes from a peer, piece by piece, over restarts of either side.

use std::path::PathBuf;
use std::sync::Arc;

use super::super::files::{File, Files, Open};
use super::super::{Position, Result, StoreError};
use super::UnpublishedSnapshot;
use super::pieces::Scan;

/// A snapshot under way from a peer.
pub struct SnapshotReceiver {
    files: Arc<dyn Files>,
    path: PathBuf,
    file: Arc<dyn File>,
    last: Position,
    scan: Scan,
}

impl SnapshotReceiver {
    /// Keeps the valid pieces of an earlier receive.
    pub(super) fn open(files: Arc<dyn Files>, path: PathBuf, last: Position) -> Result<Self> {
        let file = files.open(&path, Open::OrCreate).map_err(StoreError::io("open", &path))?;
        let scan = Scan::of_file(&*file, &path)?;
        let mut receiver = Self { files, path, file, last, scan };
        if receiver.scan.meta.as_ref().is_some_and(|meta| meta.last != last) {
            receiver.scan = Scan::default();
        }
        receiver.cut()?;
        Ok(receiver)
    }

    /// The number of the piece to ask for next.
    pub fn next_piece(&self) -> u64 {
        self.scan.ends.len() as u64
    }

    /// Whether all pieces are here.
    pub fn is_complete(&self) -> bool {
        self.scan.is_complete
    }

    /// Takes a piece. `OutOfOrder` if it is not the next one; `BadTransfer` if it is damaged or of another snapshot:
    /// ask for it again, or [`SnapshotReceiver::discard`] what is here if that does not help.
    pub fn add(&mut self, number: u64, piece: &[u8]) -> Result<()> {
        let expected = self.next_piece();
        if number != expected {
            return Err(StoreError::OutOfOrder { what: "receiving a snapshot", expected, got: number });
        }
        let at = self.scan.end();
        let bad = |why: &str| {
            let what = format!("piece {number} of the snapshot of index {}", self.last.index);
            Err(StoreError::BadTransfer { what, why: why.into() })
        };
        if self.scan.add(piece).is_err() {
            return bad("its checksum or its place is wrong");
        }
        if self.scan.meta.as_ref().is_some_and(|meta| meta.last != self.last) {
            self.scan = Scan::default();
            self.cut()?;
            return bad("it is of another index");
        }
        if let Err(error) = self.file.write_at(piece, at) {
            // What is in memory must not run ahead of the file.
            self.scan = Scan::of_file(&*self.file, &self.path)?;
            self.cut()?;
            return Err(StoreError::io("write", &self.path)(error));
        }
        Ok(())
    }

    /// Reads the whole back, makes it durable, and answers what [`super::Snapshots::publish`] takes.
    pub fn finish(self) -> Result<UnpublishedSnapshot> {
        if let Err(error) = self.file.sync() {
            let path = self.path.clone();
            // The pages count as clean now: the next sync would say yes to bytes that never reach the disk.
            self.discard()?;
            return Err(StoreError::io("sync", &path)(error));
        }
        let scan = Scan::of_file(&*self.file, &self.path)?;
        if !scan.is_complete {
            let expected = scan.ends.len() as u64;
            return Err(StoreError::OutOfOrder {
                what: "the end of a snapshot",
                expected,
                got: self.next_piece(),
            });
        }
        Ok(UnpublishedSnapshot { files: self.files, path: self.path, file: self.file, scan })
    }

    /// Throws away what was received.
    pub fn discard(self) -> Result<()> {
        self.files.remove(&self.path).map_err(StoreError::io("remove", &self.path))
    }

    fn cut(&self) -> Result<()> {
        self.file.truncate(self.scan.end()).map_err(StoreError::io("cut", &self.path))
    }
}
