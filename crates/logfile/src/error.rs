//! Failures of opening, reading and writing log files.

use std::path::PathBuf;

use pouch_types::error::{Classified, ErrorKind, io_kind};

/// A log file that could not be opened, read, written or rotated.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} log file {}", path.display())]
pub struct LogError {
    pub(crate) action: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: std::io::Error,
}

impl LogError {
    /// The system's error.
    #[must_use]
    pub fn io(&self) -> &std::io::Error {
        &self.source
    }
}

impl Classified for LogError {
    fn kind(&self) -> ErrorKind {
        io_kind(&self.source)
    }
}
