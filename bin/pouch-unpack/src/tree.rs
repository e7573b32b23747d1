//! `tree`: copies a directory of an image into an empty volume, with owners, modes, times and
//! attributes, and never following a link out of either.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use pouch_rootfd::{FileType, Metadata, PinnedFd, RootFd};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::failure::{Failure, Result};

/// What was copied.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    entries: u64,
    /// The volume had content, so nothing was touched.
    skipped: bool,
}

/// Copies what is in the directory `path` of `from` into `to`.
pub(crate) fn copy(from: &RootFd, path: &Path, to: &RootFd) -> Result<Report> {
    let source = from.resolve(Path::new("/").join(path))?;
    let meta = source.metadata()?;
    if !meta.is_dir() {
        return Err(Failure::NotADirectory(path.display().to_string()));
    }
    if to.read_dir("/")?.next().is_some() {
        return Ok(Report { entries: 0, skipped: true });
    }
    let mut copy = Copy { to, links: HashMap::new(), entries: 0 };
    copy.run(Level::open(source, meta, to.pin()?)?)?;
    Ok(Report { entries: copy.entries, skipped: false })
}

struct Level {
    from: PinnedFd,
    meta: Metadata,
    to: PinnedFd,
    names: std::vec::IntoIter<OsString>,
}

impl Level {
    fn open(from: PinnedFd, meta: Metadata, to: PinnedFd) -> Result<Self> {
        let mut names = Vec::new();
        for entry in from.read_dir()? {
            names.push(entry?.name);
        }
        Ok(Self { from, meta, to, names: names.into_iter() })
    }
}

struct Copy<'a> {
    to: &'a RootFd,
    /// Where the first name of a file with several names went.
    links: HashMap<((u32, u32), u64), PathBuf>,
    entries: u64,
}

impl Copy<'_> {
    fn run(&mut self, top: Level) -> Result<()> {
        let mut levels = vec![top];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                // Attributes last: filling a directory changes its times.
                attributes(&level.from, &level.meta, &level.to)?;
                levels.pop();
                continue;
            };
            let from = level.from.pin(&name)?;
            let meta = from.metadata()?;
            self.entries += 1;
            if !meta.is_dir() {
                self.file(level, &name, &from, &meta)?;
                continue;
            }
            level.to.create_dir(&name, 0o700)?;
            let to = level.to.pin_dir(&name)?;
            if meta.same_mount(&level.meta) {
                let next = Level::open(from, meta, to)?;
                levels.push(next);
            } else {
                attributes(&from, &meta, &to)?;
            }
        }
        Ok(())
    }

    fn file(
        &mut self,
        level: &Level,
        name: &OsStr,
        from: &PinnedFd,
        meta: &Metadata,
    ) -> Result<()> {
        if meta.links() > 1 {
            let key = (meta.device(), meta.inode());
            if let Some(first) = self.links.get(&key) {
                let object = self.to.resolve_nofollow(first)?;
                return Ok(level.to.hard_link(&object, name)?);
            }
            self.links.insert(key, level.to.path().join(name));
        }
        match meta.file_type() {
            FileType::RegularFile => {
                let mut target = level.to.create_file_excl(name, 0o600)?;
                let mut source = from.open(OFlags::RDONLY)?;
                io::copy(&mut source, &mut target)
                    .map_err(|source| Failure::Io { what: "copy file", source })?;
            }
            FileType::Symlink => {
                level.to.symlink(from.read_link()?, name)?;
                level.to.chown_entry(name, Some(meta.uid()), Some(meta.gid()))?;
                let times = (Some(meta.accessed()), Some(meta.modified()));
                return Ok(level.to.set_times_of(name, times.0, times.1)?);
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                level.to.mknod(name, meta.file_type(), 0o600, meta.special_device())?;
            }
            // A socket without its server is of no use.
            FileType::Socket | FileType::Unknown | FileType::Directory => return Ok(()),
        }
        attributes(from, meta, &level.to.pin(name)?)
    }
}

/// Gives `to` the owner, mode, attributes and times of `from`.
fn attributes(from: &PinnedFd, meta: &Metadata, to: &PinnedFd) -> Result<()> {
    to.chown(Some(meta.uid()), Some(meta.gid()))?;
    to.chmod(meta.mode())?;
    if matches!(meta.file_type(), FileType::RegularFile | FileType::Directory) {
        for (key, value) in crate::pack::kept_xattrs(from)? {
            to.set_xattr(OsStr::from_bytes(&key), &value)?;
        }
    }
    Ok(to.set_times(Some(meta.accessed()), Some(meta.modified()))?)
}
