//! The files of one log, found while a writer may be renaming them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::LogError;

/// A file's identity for as long as it is held open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// An open file of the log.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: FileId,
    pub(crate) file: File,
}

/// Files that one log may have; guards against a directory full of names like ours.
const MAX_FILES: u32 = 1000;

/// `path`, or `path.index` for the `index`-th older file.
pub(crate) fn name(path: &Path, index: u32) -> PathBuf {
    if index == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    name.into()
}

/// Opens without following a symbolic link in the last component: the directory is ours, but a
/// log's name must not lead out of it.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::open(path, flags, Mode::empty())?))
}

/// All files of the log, the newest first.
///
/// Looks in the direction in which rotation moves files, so a file that is renamed meanwhile may
/// be met twice (and is dropped the second time), but never missed. One name at a time can be
/// vacant during a rotation; two in a row are the end.
pub(crate) fn scan(path: &Path) -> Result<Vec<Link>, LogError> {
    let mut links: Vec<Link> = Vec::new();
    let mut vacant = 0;
    for index in 0..MAX_FILES {
        let name = name(path, index);
        let failed = |source| LogError { action: "open", path: name.clone(), source };
        match open(&name) {
            Ok(file) => {
                vacant = 0;
                let metadata = file.metadata().map_err(failed)?;
                let id = FileId { device: metadata.dev(), inode: metadata.ino() };
                if links.iter().all(|link| link.id != id) {
                    links.push(Link { id, file });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                vacant += 1;
                if vacant == 2 {
                    break;
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(links)
}

/// Whether `path` still names the file `id`.
pub(crate) fn is_current(path: &Path, id: FileId) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|metadata| FileId { device: metadata.dev(), inode: metadata.ino() } == id)
}
