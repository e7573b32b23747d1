//! Removing a tree that somebody else filled.
//!
//! No recursion on the call stack and no `..`: a stack of directory descriptors, at most
//! [`MAX_DEPTH`] of them. A directory deeper than that is renamed up into the top of the tree and
//! taken from there, so that neither a tree of a million levels nor one that is moved about while
//! it goes can make the walk leave it or exhaust descriptors.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::Metadata;

/// Open directories at a time.
const MAX_DEPTH: usize = 48;
/// Passes over one directory that make no progress (somebody keeps filling it).
const MAX_IDLE_PASSES: u32 = 16;

struct Level {
    dir: Dir,
    name: OsString,
    removed_in_pass: bool,
    idle_passes: u32,
}

/// Removes `name` below `parent`; `path` is the parent's, for messages.
pub(crate) fn tree(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(errno) => return Err(Error::io("unlink", path.join(name), errno)),
    }
    let outside = Metadata::of(parent, OsStr::new("")).map_err(|e| Error::io("statx", path, e))?;
    let mut walk = Walk { outside, path: path.to_owned(), levels: Vec::new(), hoisted: 0 };
    if walk.enter(parent, name)? {
        walk.run(parent)?;
    }
    Ok(())
}

struct Walk {
    /// The directory that holds the tree: its mount must never be left.
    outside: Metadata,
    /// Path of the innermost open directory, for messages.
    path: PathBuf,
    levels: Vec<Level>,
    hoisted: u64,
}

impl Walk {
    /// Opens `name` below `parent` as the next level; false when it is gone.
    fn enter(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
        let path = self.path.join(name);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(Error::io("open", path, errno)),
        };
        let here = Metadata::of(&fd, OsStr::new("")).map_err(|e| Error::io("statx", &path, e))?;
        if !here.same_mount(&self.outside) {
            return Err(Error::MountPoint { path });
        }
        let dir = Dir::new(fd).map_err(|e| Error::io("opendir", &path, e))?;
        self.levels.push(Level {
            dir,
            name: name.to_owned(),
            removed_in_pass: false,
            idle_passes: 0,
        });
        self.path = path;
        Ok(true)
    }

    fn run(&mut self, parent: BorrowedFd<'_>) -> Result<()> {
        while let Some(level) = self.levels.last_mut() {
            let entry = match level.dir.next() {
                None => {
                    self.leave(parent)?;
                    continue;
                }
                Some(Err(errno)) => return Err(Error::io("getdents", &self.path, errno)),
                Some(Ok(entry)) => entry,
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            self.take(name)?;
        }
        Ok(())
    }

    /// Removes the entry `name` of the innermost level, or descends into it.
    fn take(&mut self, name: &OsStr) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let fd = level.dir.fd().map_err(|e| Error::io("dirfd", &self.path, e))?;
        match rustix::fs::unlinkat(fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                level.removed_in_pass = true;
                return Ok(());
            }
            Err(Errno::ISDIR) => {}
            Err(Errno::BUSY) => return Err(Error::MountPoint { path: self.path.join(name) }),
            Err(errno) => return Err(Error::io("unlink", self.path.join(name), errno)),
        }
        level.removed_in_pass = true;
        if self.levels.len() < MAX_DEPTH {
            // A second descriptor: the level's own is borrowed from the stack that grows.
            let fd = self.duplicate()?;
            self.enter(std::os::fd::AsFd::as_fd(&fd), name)?;
            return Ok(());
        }
        self.hoist(name)
    }

    fn duplicate(&self) -> Result<std::os::fd::OwnedFd> {
        let Some(level) = self.levels.last() else {
            return Err(Error::io("dup", &self.path, Errno::BADF));
        };
        let fd = level.dir.fd().map_err(|e| Error::io("dirfd", &self.path, e))?;
        rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|e| Error::io("dup", &self.path, e))
    }

    /// Renames the directory `name` of the innermost level into the top level.
    fn hoist(&mut self, name: &OsStr) -> Result<()> {
        let (Some(top), Some(level)) = (self.levels.first(), self.levels.last()) else {
            return Ok(());
        };
        let from = level.dir.fd().map_err(|e| Error::io("dirfd", &self.path, e))?;
        let to = top.dir.fd().map_err(|e| Error::io("dirfd", &self.path, e))?;
        loop {
            let target = format!(".removing-{}", self.hoisted);
            self.hoisted += 1;
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(from, name, to, target.as_str(), flags) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::EXIST) => {}
                Err(Errno::BUSY) => return Err(Error::MountPoint { path: self.path.join(name) }),
                Err(errno) => return Err(Error::io("rename", self.path.join(name), errno)),
            }
        }
    }

    /// Removes the innermost level, whose entries are all taken, and steps out of it.
    fn leave(&mut self, parent: BorrowedFd<'_>) -> Result<()> {
        let Some(mut level) = self.levels.pop() else { return Ok(()) };
        let above = match self.levels.last() {
            Some(above) => above.dir.fd().map_err(|e| Error::io("dirfd", &self.path, e))?,
            None => parent,
        };
        match rustix::fs::unlinkat(above, &level.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                self.path.pop();
                Ok(())
            }
            // Entries that were hoisted here, or that the listing missed because the directory
            // changed under it: once more from the start.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                level.idle_passes = if level.removed_in_pass { 0 } else { level.idle_passes + 1 };
                if level.idle_passes > MAX_IDLE_PASSES {
                    return Err(Error::Unstable { path: self.path.clone() });
                }
                level.removed_in_pass = false;
                level.dir.rewind();
                self.levels.push(level);
                Ok(())
            }
            Err(Errno::BUSY) => Err(Error::MountPoint { path: self.path.clone() }),
            Err(errno) => Err(Error::io("rmdir", &self.path, errno)),
        }
    }
}
