//! The record of an end for containers whose shim is not ours, in the form that ours writes.
//!
//! It is durable before the end is reported and the task deleted, after which nobody else knows.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::Serialize;

use crate::ExitStatus;

/// Where and as what an end is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recorder {
    /// The file.
    pub(crate) path: PathBuf,
    /// Number of the run.
    pub(crate) generation: u64,
}

#[derive(Serialize)]
struct Record {
    generation: u64,
    pid: u32,
    exit_status: i32,
    exited_at: Timestamp,
    oom_killed: bool,
}

impl Recorder {
    /// Writes the record whole or not at all, durably. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write(&self, pid: u32, status: ExitStatus) -> io::Result<()> {
        let record = Record {
            generation: self.generation,
            pid,
            exit_status: status.code,
            exited_at: status.at,
            oom_killed: status.oom_killed,
        };
        let mut text = serde_json::to_vec(&record)?;
        text.push(b'\n');
        let directory = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let temporary = self.path.with_extension("tmp");
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        File::open(directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_form_that_our_shim_writes() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder { path: dir.path().join("exit.json"), generation: 3 };
        let at = "2026-01-02T03:04:05.000000006Z".parse().unwrap();
        recorder.write(42, ExitStatus { code: 137, at, oom_killed: true }).unwrap();
        assert_eq!(
            std::fs::read_to_string(&recorder.path).unwrap(),
            "{\"generation\":3,\"pid\":42,\"exit_status\":137,\
             \"exited_at\":\"2026-01-02T03:04:05.000000006Z\",\"oom_killed\":true}\n"
        );
    }
}
