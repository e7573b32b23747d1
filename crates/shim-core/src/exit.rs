//! How a process ended, and the file that says so.
//!
//! The file, not the event, is the truth: it is durable before anybody is told, so a daemon that
//! was away finds the exact code and time. Written beside its final name, synced, renamed, and
//! the directory synced.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

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
    /// Writes it to `path`, durably.
    ///
    /// # Errors
    /// Any of the calls named above; the file is then absent or as before.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = path.with_extension("tmp");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&temporary, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
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
