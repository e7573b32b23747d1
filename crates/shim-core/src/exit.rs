//! How a process ended, and the file that says so.
//!
//! The file, not the event, is the truth: it is durable before anybody is told, so a daemon that
//! was away finds the exact code and time. Written beside its final name, synced, renamed, and
//! the directory synced. The space is taken when the task is made: a container that fills the disk
//! does not keep its own end from being recorded.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// More bytes than an exit file has, and one block at most.
const LARGEST: u64 = 1024;

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 and the number of the signal that killed it.
    pub status: u32,
    /// When the shim saw it.
    pub at: Timestamp,
}

/// The content of an exit file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFile {
    /// Of the task, from the options of its creation.
    pub generation: u64,
    /// Of the container's first process, in the shim's pid namespace.
    pub pid: u32,
    /// As [`Exit::status`].
    pub exit_status: u32,
    /// As [`Exit::at`].
    pub exited_at: Timestamp,
    /// The kernel killed a process of the container for want of memory.
    pub oom_killed: bool,
}

impl ExitFile {
    /// Takes the space that [`ExitFile::write`] to `path` will need, where the file system can.
    ///
    /// # Errors
    /// The file cannot be made, or there is no space.
    pub fn reserve(path: &Path) -> io::Result<()> {
        match fallocate(&open(path)?, FallocateFlags::empty(), 0, LARGEST) {
            Err(Errno::OPNOTSUPP) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes it to `path`, durably.
    ///
    /// # Errors
    /// Any of the calls named above; the file is then absent or as before.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let mut file = open(path)?;
        // Over what is reserved: emptied first, the file would give its space away.
        file.write_all(&text)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        std::fs::rename(temporary(path), path)?;
        File::open(directory)?.sync_all()
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// It is absent, or not such a file.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(temporary(path), flags, Mode::from_raw_mode(0o600))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_back_and_has_its_documented_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        let file = ExitFile {
            generation: 3,
            pid: 42,
            exit_status: 137,
            exited_at: "2026-01-02T03:04:05.000000006Z".parse().unwrap(),
            oom_killed: true,
        };
        ExitFile::reserve(&path).unwrap();
        assert!(!path.exists());
        file.write(&path).unwrap();
        assert_eq!(ExitFile::read(&path).unwrap(), file);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "{\"generation\":3,\"pid\":42,\"exit_status\":137,\
             \"exited_at\":\"2026-01-02T03:04:05.000000006Z\",\"oom_killed\":true}\n"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
