//! Deletion in the background: ext4 takes seconds for a hundred thousand files, and nobody needs
//! to wait for that.
//!
//! **Large trees on ext4 without a journal** are deleted late. Such a file system does not reuse
//! an inode for one to six minutes after its deletion, but finds that out one by one at each
//! creation (`recently_deleted` in the kernel's `fs/ext4/ialloc.c`): after 30,000 deletions each
//! new file costs seven times what it did, and `rmi` followed by `pull` crawls. So they lie aside
//! until no layer came or went for [`QUIET`], or until the disk gets full.

use std::fs;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pouch_rootfd::{PinnedFd, RootFd};
use rustix::fs::FileType;

use crate::error::{Result, SnapshotError};

/// Entries of a layer from which on it counts as large.
const LARGE: u64 = 1000;
/// How long nothing may have come or gone before large trees are deleted.
const QUIET: Duration = Duration::from_secs(10 * 60);
/// Between two looks at the disk while large trees lie aside.
const CHECK: Duration = Duration::from_secs(20);
/// Names of what is deleted late begin with this.
const LATE: &str = "late-";
/// Names of what is to be counted first begin with this.
const BY_SIZE: &str = "count-";
/// Directories that are kept in mind while a tree is counted; one with more is large.
const WIDTH: usize = 128;
/// `f_type` of ext2, ext3 and ext4.
const EXT_MAGIC: i64 = 0xef53;

/// When something is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    /// When the file system has time for it.
    Late,
    /// Now or late, when somebody has counted what is in it.
    BySize,
}

impl When {
    /// What to put before the name in the trash.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Now => "",
            Self::Late => LATE,
            Self::BySize => BY_SIZE,
        }
    }
}

/// Wakes the thread that empties the trash directory. The thread ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    wake: SyncSender<()>,
    /// When a layer last came or went.
    active: Arc<Mutex<Instant>>,
    forgets_slowly: bool,
}

impl Reaper {
    /// Starts the thread; it empties what an earlier process left.
    pub(crate) fn start(root: RootFd) -> Result<Self> {
        // One slot: a wake-up that is waiting covers everything that was moved before it is taken.
        let (wake, awakened) = sync_channel(1);
        let active = Arc::new(Mutex::new(Instant::now()));
        let forgets_slowly = forgets_slowly(&root);
        let reaper = Self { wake, active: Arc::clone(&active), forgets_slowly };
        reaper.wake();
        std::thread::Builder::new()
            .name("snapshot-reaper".into())
            .spawn(move || run(&root, &awakened, &active, forgets_slowly))
            .map_err(|source| SnapshotError::io("start thread", "snapshot-reaper", source))?;
        Ok(reaper)
    }

    /// Something was moved into the trash.
    pub(crate) fn wake(&self) {
        // Full means that a wake-up is waiting already.
        let _ = self.wake.try_send(());
    }

    /// A layer comes or goes.
    pub(crate) fn note_activity(&self) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When a layer of so many entries is to be deleted.
    pub(crate) fn when(&self, entries: u64) -> When {
        if self.forgets_slowly && entries >= LARGE { When::Late } else { When::Now }
    }
}

fn run(root: &RootFd, awakened: &Receiver<()>, active: &Mutex<Instant>, forgets_slowly: bool) {
    let mut aside = false;
    loop {
        let woken = if aside {
            awakened.recv_timeout(CHECK)
        } else {
            awakened.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        if woken == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        let quiet = active.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= QUIET;
        let what = if !forgets_slowly || quiet || is_nearly_full(root) {
            What::Everything
        } else {
            What::Small
        };
        match empty(root, what) {
            Ok(left) => aside = left,
            Err(error) => {
                tracing::warn!(error = %pouch_types::error::chain(&error), "list trash directory");
            }
        }
    }
}

/// What is deleted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Everything,
    /// What the file system does not remember for long.
    Small,
}

/// Deletes what is due; whether anything lies aside.
fn empty(root: &RootFd, what: What) -> pouch_rootfd::Result<bool> {
    let trash = root.resolve("t")?;
    let mut aside = false;
    for entry in trash.read_dir()? {
        let name = entry?.name;
        let begins = |prefix: &str| name.as_encoded_bytes().starts_with(prefix.as_bytes());
        // One that cannot be counted is deleted, which tells why.
        let is_large =
            || begins(LATE) || begins(BY_SIZE) && trash.pin_dir(&name).is_ok_and(is_large);
        if what == What::Small && is_large() {
            aside = true;
            continue;
        }
        // What cannot go now (a mount that still exists somewhere) goes at the next start.
        if let Err(error) = trash.remove_tree(&name) {
            tracing::warn!(
                error = %pouch_types::error::chain(&error),
                "delete {}", name.display()
            );
        }
    }
    Ok(aside)
}

/// Whether a tree is worth waiting with.
fn is_large(tree: PinnedFd) -> bool {
    let (mut entries, mut left) = (0, vec![tree]);
    while let Some(directory) = left.pop() {
        let Ok(list) = directory.read_dir() else { continue };
        for entry in list.flatten() {
            entries += 1;
            if entries >= LARGE || left.len() >= WIDTH {
                return true;
            }
            if entry.file_type == FileType::Directory {
                left.extend(directory.pin_dir(&entry.name));
            }
        }
    }
    false
}

/// Whether less than a tenth of the blocks or inodes is left, or that cannot be told.
fn is_nearly_full(root: &RootFd) -> bool {
    rustix::fs::fstatvfs(root.as_fd()).map_or(true, |stat| {
        stat.f_bavail < stat.f_blocks / 10
            || (stat.f_files > 0 && stat.f_favail < stat.f_files / 10)
    })
}

/// Whether `root` lies on ext4 without a journal.
fn forgets_slowly(root: &RootFd) -> bool {
    let kind = rustix::fs::fstatfs(root.as_fd()).map(|stat| stat.f_type);
    if kind != Ok(EXT_MAGIC) {
        return false;
    }
    let Ok(device) = rustix::fs::fstat(root.as_fd()).map(|stat| stat.st_dev) else { return false };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let Ok(link) = fs::read_link(format!("/sys/dev/block/{major}:{minor}")) else { return false };
    let Some(name) = link.file_name().and_then(|name| name.to_str()) else { return false };
    // `/proc/fs/jbd2/<name>-<inode of the journal>`.
    let prefix = format!("{name}-");
    let journal = fs::read_dir("/proc/fs/jbd2").is_ok_and(|mut journals| {
        journals.any(|entry| {
            entry.is_ok_and(|entry| {
                entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes())
            })
        })
    });
    fs::exists(format!("/proc/fs/ext4/{name}")).unwrap_or_default() && !journal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_trees_lie_aside_until_all_goes() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["now", "late-x", "count-small", "count-large"] {
            fs::create_dir_all(dir.path().join("t").join(name).join("sub")).unwrap();
        }
        for number in 0..LARGE {
            fs::write(dir.path().join(format!("t/count-large/sub/{number}")), "").unwrap();
        }
        let root = RootFd::open(dir.path()).unwrap();
        let left = || {
            let entries = fs::read_dir(dir.path().join("t")).unwrap();
            let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert!(empty(&root, What::Small).unwrap());
        assert_eq!(left(), ["count-large", "late-x"]);
        assert!(!empty(&root, What::Everything).unwrap());
        assert!(left().is_empty());
    }

    #[test]
    fn only_large_layers_and_only_where_it_helps() {
        let (wake, _awakened) = sync_channel(1);
        let active = Arc::new(Mutex::new(Instant::now()));
        let mut reaper = Reaper { wake, active, forgets_slowly: true };
        assert_eq!((reaper.when(LARGE), reaper.when(LARGE - 1)), (When::Late, When::Now));
        reaper.forgets_slowly = false;
        assert_eq!(reaper.when(LARGE), When::Now);
    }
}
