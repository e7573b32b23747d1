//! Listing a pinned directory.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType};

use crate::error::{Error, Result};

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// The name: one component, never `.` or `..`.
    pub name: OsString,
    /// What it was when it was listed; some file systems do not tell
    /// ([`FileType::Unknown`]).
    pub file_type: FileType,
}

/// The entries of a directory, in the file system's order, without `.` and `..`.
#[derive(Debug)]
pub struct ReadDir {
    dir: Dir,
    path: PathBuf,
}

impl ReadDir {
    pub(crate) fn new(dir: Dir, path: &Path) -> Self {
        Self { dir, path: path.to_owned() }
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.dir.next()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(Error::io("getdents", &self.path, errno))),
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let name = OsStr::from_bytes(name).to_owned();
            return Some(Ok(DirEntry { name, file_type: entry.file_type() }));
        }
    }
}
