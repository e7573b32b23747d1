//! What can go wrong in any command, as one enum: a command prints one line and exits with 1.

use std::io;
use std::path::{Path, PathBuf};

use pouch_types::{Classified, ErrorKind};

/// A failed command.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The request or the bundle contradicts the OCI runtime specification or our limits.
    #[error("{0}")]
    Invalid(String),
    /// A valid request for something that this runtime does not do.
    #[error("{0} is not supported")]
    Unsupported(String),
    /// No container of that id below the root directory.
    #[error("container {id} does not exist")]
    NotFound {
        /// The id as given.
        id: String,
    },
    /// The id is taken.
    #[error("container with id {id} exists already")]
    Exists {
        /// The id as given.
        id: String,
    },
    /// The container has no process to signal.
    #[error("container not running")]
    NotRunning,
    /// The container's state forbids the operation.
    #[error("cannot {operation} a container that is {status}")]
    Status {
        /// What was asked.
        operation: &'static str,
        /// The state it is in.
        status: crate::state::Status,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb of the operation.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A system call that concerns no file failed.
    #[error("{call} failed")]
    System {
        /// What was attempted.
        call: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A file is not the JSON that it should be.
    #[error("cannot parse {path}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A mount of the specification could not be made.
    #[error("cannot mount {from:?} at {to:?} in the container{}", parenthesis(.hint))]
    Mount {
        /// The source, or the type of the file system.
        from: PathBuf,
        /// The destination, as the specification has it.
        to: PathBuf,
        /// What the kernel said, or what may help; empty for nothing.
        hint: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A step of a library we build on failed.
    #[error("{step}")]
    Library {
        /// The step.
        step: &'static str,
        /// The library's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The container's process reported this before it could execute its program.
    #[error("unable to start container process: {0}")]
    Process(String),
    /// A wait ran into its deadline.
    #[error("{stage} did not finish within {seconds} s")]
    Deadline {
        /// What was waited for.
        stage: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// The runtime binary could not be protected.
    #[error("cannot protect the runtime binary")]
    Seal(#[from] pouch_sealed_exe::SealError),
}

fn parenthesis(hint: &str) -> String {
    if hint.is_empty() { String::new() } else { format!(" ({hint})") }
}

impl RuntimeError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }

    pub(crate) fn system(call: &'static str, source: impl Into<io::Error>) -> Self {
        Self::System { call, source: source.into() }
    }

    pub(crate) fn library(
        step: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Library { step, source: source.into() }
    }
}

impl Classified for RuntimeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid(_) | Self::Json { .. } => ErrorKind::Invalid,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::Exists { .. } => ErrorKind::AlreadyExists,
            Self::NotRunning | Self::Status { .. } => ErrorKind::Conflict,
            Self::Io { source, .. } | Self::System { source, .. } | Self::Mount { source, .. } => {
                pouch_types::error::io_kind(source)
            }
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Library { .. } | Self::Process(_) | Self::Seal(_) => ErrorKind::Internal,
        }
    }
}

/// Adds the file and the verb to an I/O result.
pub(crate) trait IoContext<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, RuntimeError>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::io(action, path, source))
    }
}

/// Adds the name of the call to a system result.
pub(crate) trait SystemContext<T> {
    fn call(self, call: &'static str) -> Result<T, RuntimeError>;
}

impl<T, E: Into<io::Error>> SystemContext<T> for Result<T, E> {
    fn call(self, call: &'static str) -> Result<T, RuntimeError> {
        self.map_err(|source| RuntimeError::system(call, source))
    }
}
