//! Deletion in the background: ext4 takes seconds for a hundred thousand files, and nobody needs
//! to wait for that.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use pouch_rootfd::RootFd;

use crate::error::{Result, SnapshotError};

/// Wakes the thread that empties the trash directory. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Reaper(SyncSender<()>);

impl Reaper {
    /// Starts the thread; it empties what an earlier process left.
    pub(crate) fn start(root: RootFd) -> Result<Self> {
        // One slot: a wake-up that is waiting covers everything that was moved before it is taken.
        let (wake, awakened) = sync_channel(1);
        let reaper = Self(wake);
        reaper.wake();
        std::thread::Builder::new()
            .name("snapshot-reaper".into())
            .spawn(move || run(&root, &awakened))
            .map_err(|source| SnapshotError::io("start thread", "snapshot-reaper", source))?;
        Ok(reaper)
    }

    /// Something was moved into the trash.
    pub(crate) fn wake(&self) {
        // Full means that a wake-up is waiting already.
        let _ = self.0.try_send(());
    }
}

fn run(root: &RootFd, awakened: &Receiver<()>) {
    while awakened.recv().is_ok() {
        if let Err(error) = empty(root) {
            tracing::warn!(error = %pouch_types::error::chain(&error), "list trash directory");
        }
    }
}

fn empty(root: &RootFd) -> pouch_rootfd::Result<()> {
    let trash = root.resolve("t")?;
    for entry in trash.read_dir()? {
        let name = entry?.name;
        // What cannot go now (a mount that still exists somewhere) goes at the next start.
        if let Err(error) = trash.remove_tree(&name) {
            tracing::warn!(
                error = %pouch_types::error::chain(&error),
                "delete {}", name.display()
            );
        }
    }
    Ok(())
}
