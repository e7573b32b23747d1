//! How much a container has written.

use std::collections::HashSet;

use pouch_rootfd::RootFd;
use pouch_types::ContainerId;

use crate::error::{Result, SnapshotError};
use crate::layout::{Snapshotter, blocking};

/// Levels of directories that are open at a time: a container must not be able to use up the
/// daemon's descriptors.
pub(crate) const MAX_DEPTH: usize = 256;

/// Disk use of a writable directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Bytes allocated on the disk.
    pub size: u64,
    /// Files, directories and links, without the top directory.
    pub inodes: u64,
}

impl Snapshotter {
    /// What container `key` has written, by walking its upper directory.
    ///
    /// # Errors
    /// [`SnapshotError::NoContainer`], [`SnapshotError::TooDeep`], I/O errors.
    pub async fn usage(&self, key: &ContainerId) -> Result<Usage> {
        let upper = self.upper(key)?;
        blocking(move || walk(&upper)).await
    }
}

fn walk(root: &RootFd) -> Result<Usage> {
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let top = root.pin()?;
    let mut levels = vec![(top.read_dir()?, top)];
    while let Some((entries, directory)) = levels.last_mut() {
        let Some(entry) = entries.next() else {
            levels.pop();
            continue;
        };
        let name = entry?.name;
        // The container runs meanwhile: what went away does not count.
        let meta = match directory.metadata_of(&name) {
            Ok(meta) => meta,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        if !meta.is_dir() && meta.links() > 1 && !seen.insert(meta.inode()) {
            continue;
        }
        usage.size += meta.allocated();
        usage.inodes += 1;
        if meta.is_dir() {
            if levels.len() == MAX_DEPTH {
                return Err(SnapshotError::TooDeep(MAX_DEPTH));
            }
            let Some((_, directory)) = levels.last() else { continue };
            match directory.pin_dir(&name) {
                Ok(next) => levels.push((next.read_dir()?, next)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(usage)
}
