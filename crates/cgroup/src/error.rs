//! What can go wrong with a control group.

use std::io;
use std::path::PathBuf;

use pouch_types::error::io_kind;
use pouch_types::{Classified, ErrorKind};

/// A failed operation on a control group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory of the kernel could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, `create`, `remove`, `open`.
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a limit.
    #[error("the kernel refuses {value:?} for {field} ({})", path.display())]
    Refused {
        /// The field of [`pouch_types::spec::Resources`].
        field: &'static str,
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A limit that cannot be meant.
    #[error("invalid {field}: {detail}")]
    Invalid {
        /// The field of [`pouch_types::spec::Resources`].
        field: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// A limit that needs a controller which is not there.
    #[error("{field} needs the {controller} controller, which is not mounted")]
    NoController {
        /// The field of [`pouch_types::spec::Resources`].
        field: &'static str,
        /// Name of the controller in the kernel's spelling of v1.
        controller: &'static str,
    },
    /// A file of the kernel has a form that this build does not know.
    #[error("unexpected content of {}: {detail}", path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Not an absolute, clean path below the root of the hierarchies.
    #[error("invalid cgroup path {0:?}")]
    BadPath(String),
    /// The process is in no group of its own.
    #[error("process {0} is in the root group")]
    InRoot(u32),
    /// The group does not exist in any hierarchy.
    #[error("no such cgroup {0}")]
    NotFound(String),
    /// No control groups at all.
    #[error("no cgroup file system is mounted")]
    Unmounted,
    /// The wait ended before the group was as asked.
    #[error("cgroup {group}: deadline passed while waiting to {stage}")]
    Deadline {
        /// Path of the group.
        group: String,
        /// `freeze`, `thaw`, `kill`, `remove`.
        stage: &'static str,
    },
}

impl Error {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn malformed(path: impl Into<PathBuf>, detail: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), detail: detail.into() }
    }
}

impl Classified for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => io_kind(source),
            Self::Refused { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                io::ErrorKind::ResourceBusy => ErrorKind::Conflict,
                _ => ErrorKind::Invalid,
            },
            Self::Invalid { .. } | Self::BadPath(_) => ErrorKind::Invalid,
            Self::NoController { .. } | Self::Unmounted => ErrorKind::Unsupported,
            Self::Malformed { .. } | Self::InRoot(_) => ErrorKind::Internal,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
        }
    }
}
