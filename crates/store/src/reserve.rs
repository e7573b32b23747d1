//! Space held back for the day the disk is full.
//!
//! Removing a container frees space, but first needs some for the write-ahead log. A few megabytes
//! are kept allocated; when the file system has next to nothing left they are released, and taken
//! again once there is plenty.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// Bytes held back: more than a WAL grows to between checkpoints.
const HELD: u64 = 8 << 20;
/// Below this the reserve is released.
const NEARLY_FULL: u64 = 1 << 20;
/// Above this it is taken again.
const PLENTY: u64 = 64 << 20;

#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    pub(crate) fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".reserve");
        let path = PathBuf::from(name);
        let held = std::fs::metadata(&path).is_ok_and(|m| m.len() >= HELD);
        Self { path, held }
    }

    /// Releases or takes the reserve by what is free now. Called before each commit: one statvfs.
    pub(crate) fn adjust(&mut self) {
        let Some(directory) = self.path.parent() else { return };
        let Ok(fs) = statvfs(directory) else { return };
        let free = fs.f_bavail.saturating_mul(fs.f_frsize);
        if self.held && free < NEARLY_FULL {
            tracing::warn!(path = %self.path.display(), "the disk is full: releasing the reserve");
            // Failure leaves things as they are; the commit will say what is full.
            let _ = File::create(&self.path);
            self.held = false;
        } else if !self.held && free > PLENTY {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path);
            self.held =
                file.is_ok_and(|file| fallocate(&file, FallocateFlags::empty(), 0, HELD).is_ok());
        }
    }
}
