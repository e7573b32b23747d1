//! What can go wrong with volumes.

use std::io;
use std::path::PathBuf;

use pouch_store::StoreError;
use pouch_types::{Classified, ContainerId, ErrorKind, VolumeName};

/// Result of every operation of this crate.
pub type Result<T> = std::result::Result<T, VolumeError>;

/// A failed operation on a volume.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No such volume.
    #[error("get {0}: no such volume")]
    NotFound(VolumeName),
    /// The name belongs to a volume of another kind.
    #[error("volume {name} exists with other {what}")]
    Differs {
        /// The volume.
        name: VolumeName,
        /// `driver` or `options`.
        what: &'static str,
    },
    /// Containers use it.
    #[error("volume {name} is in use by {}", list(containers))]
    InUse {
        /// The volume.
        name: VolumeName,
        /// Who uses it.
        containers: Vec<ContainerId>,
    },
    /// Containers that this process does not record hold a mount of it.
    #[error("volume {0} is mounted")]
    Mounted(VolumeName),
    /// No such driver.
    #[error("error looking up volume plugin {0}: plugin {0:?} not found")]
    NoDriver(String),
    /// An option that `local` does not know.
    #[error("invalid option: {0:?}")]
    UnknownOption(String),
    /// An option that `local` knows and cannot honour.
    #[error("option {name:?}: {reason}")]
    BadOption {
        /// The option.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// One of `type`, `device` is missing.
    #[error("missing required option: {0:?}")]
    MissingOption(&'static str),
    /// A path below a volume that is absolute or leads out of it.
    #[error("invalid volume subpath {0:?}: must be relative and without \"..\"")]
    Subpath(String),
    /// Mounting what the options name.
    #[error("failed to mount local volume {name} ({device})")]
    Mount {
        /// The volume.
        name: VolumeName,
        /// As in the options.
        device: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A mount or unmount did not come back.
    #[error("{stage} volume {name} takes longer than {seconds} s")]
    Deadline {
        /// `mounting` or `unmounting`.
        stage: &'static str,
        /// The volume.
        name: VolumeName,
        /// The limit.
        seconds: u64,
    },
    /// The directory is not one that this crate made.
    #[error("{} does not hold a volume of this engine", path.display())]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The directory of volumes is open to others.
    #[error("{} is owned by another user or has mode {mode:o}, wider than 711", path.display())]
    Insecure {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file operation.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file operation below our directory.
    #[error(transparent)]
    Tree(#[from] pouch_rootfd::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record does not parse or cannot be written.
    #[error("record of a volume")]
    Record(#[from] serde_json::Error),
    /// A blocking task was dropped: the process is going down.
    #[error("cancelled")]
    Cancelled,
}

fn list(containers: &[ContainerId]) -> String {
    let mut short: Vec<_> = containers.iter().take(10).map(|id| id.short().to_owned()).collect();
    if containers.len() > short.len() {
        short.push(format!("and {} more", containers.len() - short.len()));
    }
    short.join(", ")
}

impl From<rusqlite::Error> for VolumeError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Classified for VolumeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::NoDriver(_) => ErrorKind::NotFound,
            Self::Differs { .. } | Self::InUse { .. } | Self::Mounted(_) => ErrorKind::Conflict,
            Self::UnknownOption(_)
            | Self::BadOption { .. }
            | Self::MissingOption(_)
            | Self::Subpath(_) => ErrorKind::Invalid,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::NotOurs { .. } | Self::Insecure { .. } | Self::Record(_) => ErrorKind::Internal,
            Self::Mount { source, .. } | Self::Io { source, .. } => {
                pouch_types::error::io_kind(source)
            }
            Self::Tree(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}
