//! What a container changed in the image's file system (`docker diff`).

use std::collections::HashSet;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use pouch_rootfd::{Metadata, PinnedFd, RootFd};
use pouch_types::ContainerId;

use crate::container::is_whiteout;
use crate::error::{Result, SnapshotError};
use crate::layout::{Snapshotter, blocking};
use crate::usage::MAX_DEPTH;

/// Marks of a layer (OCI image-spec, layer.md): a removed path.
const WHITEOUT: &str = ".wh.";
/// And a directory that hides what lies below it.
const OPAQUE: &str = ".wh..wh..opq";

/// Longest list of changes.
const MAX_CHANGES: usize = 1_000_000;

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Content or attributes.
    Modified,
    /// Not in the image.
    Added,
    /// In the image only.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute path in the container.
    pub path: PathBuf,
    /// How it changed.
    pub kind: ChangeKind,
}

impl Snapshotter {
    /// The changes of container `key`, by path.
    ///
    /// # Errors
    /// [`SnapshotError::NoContainer`], [`SnapshotError::TooManyChanges`],
    /// [`SnapshotError::TooDeep`], I/O errors.
    pub async fn changes(&self, key: &ContainerId) -> Result<Vec<Change>> {
        let upper = self.upper(key)?;
        let (this, id) = (self.clone(), key.clone());
        blocking(move || {
            let lower = this.lower_view(&id)?;
            let mut diff = Diff { lower, changes: Vec::new() };
            diff.run(upper.pin()?)?;
            diff.changes.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(diff.changes)
        })
        .await
    }
}

/// The changes that a layer makes to `lower`, by path. Blocking.
///
/// # Errors
/// [`SnapshotError::TooManyChanges`], I/O errors, and a layer that cannot be read.
pub fn changes_in(layer: impl Read, lower: Option<RootFd>) -> Result<Vec<Change>> {
    let unreadable = |e| SnapshotError::io("read", "layer", e);
    let mut diff = Diff { lower, changes: Vec::new() };
    let mut archive = tar::Archive::new(layer);
    let mut gone = HashSet::new();
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let path = entry.path().map_err(unreadable)?;
        // By its parts: directories are named with a slash at the end.
        let parts = path.components().filter(|part| matches!(part, Component::Normal(_)));
        let path: PathBuf = std::iter::once(Component::RootDir).chain(parts).collect();
        let Some(name) = path.file_name() else { continue };
        if name == OPAQUE {
            continue;
        }
        if let Some(removed) = name.to_str().and_then(|name| name.strip_prefix(WHITEOUT)) {
            let path = path.with_file_name(removed);
            // Marked and made anew is changed; the layer says both.
            if gone.insert(path.clone()) {
                diff.add(path, ChangeKind::Deleted)?;
            }
            continue;
        }
        let header = entry.header();
        let kind = match diff.lower_metadata(&path)? {
            None => ChangeKind::Added,
            Some(below) if header.entry_type().is_dir() && is_as(header, &below) => continue,
            Some(_) => ChangeKind::Modified,
        };
        diff.add(path, kind)?;
    }
    let mut changes = diff.changes;
    let kept: HashSet<PathBuf> = changes
        .iter()
        .filter(|change| change.kind != ChangeKind::Deleted)
        .map(|change| change.path.clone())
        .collect();
    changes.retain(|c| c.kind != ChangeKind::Deleted || !kept.contains(&c.path));
    changes.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}

/// Whether a directory of a layer, which may be there for what is in it alone, is as it was.
fn is_as(header: &tar::Header, below: &Metadata) -> bool {
    let mode = header.mode().map(|mode| mode & 0o7777).ok();
    let uid = header.uid().ok().and_then(|uid| u32::try_from(uid).ok());
    let gid = header.gid().ok().and_then(|gid| u32::try_from(gid).ok());
    let modified = header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok());
    below.is_dir()
        && mode == Some(below.mode() & 0o7777)
        && (uid, gid) == (Some(below.uid()), Some(below.gid()))
        && modified == Some(below.modified().seconds)
}

struct Diff {
    lower: Option<RootFd>,
    changes: Vec<Change>,
}

impl Diff {
    fn run(&mut self, top: PinnedFd) -> Result<()> {
        let mut levels = vec![(top.read_dir()?, top, PathBuf::from("/"))];
        while let Some((entries, directory, path)) = levels.last_mut() {
            let Some(entry) = entries.next() else {
                levels.pop();
                continue;
            };
            let name = entry?.name;
            let meta = match directory.metadata_of(&name) {
                Ok(meta) => meta,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let path = path.join(&name);
            let below = self.lower_metadata(&path)?;
            if is_whiteout(&meta) {
                self.add(path, ChangeKind::Deleted)?;
                continue;
            }
            match below {
                None => self.add(path.clone(), ChangeKind::Added)?,
                // Copied up only because something below it changed.
                Some(below) if meta.is_dir() && same_directory(&meta, &below) => {}
                Some(_) => self.add(path.clone(), ChangeKind::Modified)?,
            }
            if !meta.is_dir() {
                continue;
            }
            let next = match directory.pin_dir(&name) {
                Ok(next) => next,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            if below.is_some_and(|below| below.is_dir())
                && next.xattr("trusted.overlay.opaque")?.as_deref() == Some(b"y")
            {
                self.hidden(&next, &path)?;
            }
            if levels.len() == MAX_DEPTH {
                return Err(SnapshotError::TooDeep(MAX_DEPTH));
            }
            levels.push((next.read_dir()?, next, path));
        }
        Ok(())
    }

    /// The directory was removed and made anew: what it does not hold any more is deleted.
    fn hidden(&mut self, upper: &PinnedFd, path: &Path) -> Result<()> {
        let Some(lower) = &self.lower else { return Ok(()) };
        let mut gone = Vec::new();
        for entry in lower.resolve_nofollow(path)?.read_dir()? {
            let name = entry?.name;
            match upper.metadata_of(&name) {
                Err(error) if error.is_not_found() => gone.push(path.join(name)),
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
        gone.into_iter().try_for_each(|path| self.add(path, ChangeKind::Deleted))
    }

    /// Attributes of `path` in the image. The directory part is not followed through links: in
    /// an upper directory it consists of directories.
    fn lower_metadata(&self, path: &Path) -> Result<Option<Metadata>> {
        let Some(lower) = &self.lower else { return Ok(None) };
        match lower.symlink_metadata(path) {
            Ok(meta) if is_whiteout(&meta) => Ok(None),
            Ok(meta) => Ok(Some(meta)),
            Err(error) => match error.errno().map(rustix::io::Errno::from_raw_os_error) {
                Some(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
                _ => Err(error.into()),
            },
        }
    }

    fn add(&mut self, path: PathBuf, kind: ChangeKind) -> Result<()> {
        if self.changes.len() >= MAX_CHANGES {
            return Err(SnapshotError::TooManyChanges(MAX_CHANGES));
        }
        self.changes.push(Change { path, kind });
        Ok(())
    }
}

fn same_directory(a: &Metadata, b: &Metadata) -> bool {
    b.is_dir()
        && (a.mode(), a.uid(), a.gid(), a.modified()) == (b.mode(), b.uid(), b.gid(), b.modified())
}
