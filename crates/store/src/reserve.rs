//! Space held back for the day the disk is full.
//!
//! Removing a container frees space, but first needs some for the write-ahead log. Two things are
//! held. The log's own blocks are allocated beyond its end, where no container that goes on writing
//! can take them: several hundred small commits need no other space. And a file beside the database
//! is given up when the disk is nearly full and the log has outgrown its blocks, or the file system
//! knows no such allocation; it is taken again once there is plenty.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes held back in each way: more than the log grows to between checkpoints.
const HELD: u64 = 8 << 20;
/// What is left of the log's own blocks when the file is given up.
const MARGIN: u64 = 1 << 20;
/// Below this the disk is nearly full.
const NEARLY_FULL: u64 = 1 << 20;
/// Above this everything is taken again.
const PLENTY: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    log: PathBuf,
    held: bool,
}

impl Reserve {
    pub(crate) fn beside(database: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let path = beside(".reserve");
        let held = std::fs::metadata(&path).is_ok_and(|m| m.len() >= HELD);
        Self { path, log: beside("-wal"), held }
    }

    /// Releases the file when the disk is nearly full and the log, which an orderly end removes, has
    /// no blocks either. Called before the database is opened.
    pub(crate) fn make_room(&mut self) {
        let full = self.free().is_some_and(|free| free < NEARLY_FULL);
        if self.held && full && self.log_left() < MARGIN {
            self.release();
        }
    }

    /// Releases or takes what is held by what is free now. Called before each commit.
    pub(crate) fn adjust(&mut self) {
        let Some(free) = self.free() else { return };
        if self.held && free < NEARLY_FULL && self.log_left() < MARGIN {
            self.release();
        } else if free > PLENTY {
            if !self.held {
                let mut options = OpenOptions::new();
                let file = options.write(true).create(true).truncate(false).open(&self.path);
                let take = |file| fallocate(&file, FallocateFlags::empty(), 0, HELD).is_ok();
                self.held = file.is_ok_and(take);
            }
            self.extend_log();
        }
    }

    fn free(&self) -> Option<u64> {
        let fs = statvfs(self.path.parent()?).ok()?;
        Some(fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    fn release(&mut self) {
        tracing::warn!(path = %self.path.display(), "the disk is full: releasing the reserve");
        // Failure leaves things as they are; the commit will say what is full.
        let _ = File::create(&self.path);
        self.held = false;
    }

    /// Bytes of the log's blocks that were never written. Below its end the log is written over.
    fn log_left(&self) -> u64 {
        let Ok(log) = std::fs::metadata(&self.log) else { return 0 };
        // In units of 512 bytes, whatever the file system's are.
        (log.blocks() * 512).saturating_sub(log.len())
    }

    /// Takes the log's blocks. Opening the log beside SQLite is safe, unlike the database: it holds no locks on it.
    pub(crate) fn extend_log(&self) {
        let Ok(log) = std::fs::metadata(&self.log) else { return };
        if log.blocks() * 512 < HELD
            && let Ok(file) = OpenOptions::new().write(true).open(&self.log)
        {
            // A file system without this leaves the other reserve.
            let _ = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, HELD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_blocks_beyond_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let log = dir.path().join("db-wal");
        std::fs::write(&log, vec![1; 5000]).unwrap();
        let mut reserve = Reserve::beside(&database);
        reserve.adjust();
        let there = std::fs::metadata(&log).unwrap();
        assert_eq!(there.len(), 5000);
        assert!(there.blocks() * 512 >= HELD, "{} blocks", there.blocks());
        assert!(reserve.log_left() > HELD - MARGIN);
        assert!(reserve.held);
        assert_eq!(std::fs::metadata(dir.path().join("db.reserve")).unwrap().len(), HELD);
    }
}
