//! What a request to the shim can fail with, and the one mapping to ttrpc's codes.

use std::path::PathBuf;

use pouch_types::error::{Classified, ErrorKind, chain, io_kind};

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The container is not in this shim.
    #[error("no such container: {0}")]
    NoContainer(String),
    /// The exec is not in this container.
    #[error("no such exec: {0}")]
    NoExec(String),
    /// The process exited before.
    #[error("process already finished")]
    Finished,
    /// The id is taken.
    #[error("{0} already exists")]
    Exists(String),
    /// The state does not allow it.
    #[error("cannot {action} a {state} process")]
    State {
        /// What was asked.
        action: &'static str,
        /// What it is.
        state: &'static str,
    },
    /// The request makes no sense.
    #[error("invalid {what}: {detail}")]
    Invalid {
        /// Which part.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A part of the contract that this shim does not implement.
    #[error("{0} is not supported by this shim")]
    Unsupported(&'static str),
    /// The OCI runtime failed; its own last words.
    #[error("OCI runtime {command} failed: {message}")]
    Runtime {
        /// Its command.
        command: &'static str,
        /// The last error of its log.
        message: String,
    },
    /// A stage did not end in its time.
    #[error("{stage} did not end within {seconds} s")]
    Deadline {
        /// Which.
        stage: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A file, socket or process could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file system of the container could not be mounted.
    #[error("cannot mount {fstype} at {}", target.display())]
    Mount {
        /// Its type.
        fstype: String,
        /// Where.
        target: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The control group could not be used.
    #[error("cannot {action} the container")]
    Cgroup {
        /// What was tried.
        action: &'static str,
        /// Why not.
        #[source]
        source: pouch_cgroup::Error,
    },
    /// The log could not be opened.
    #[error("cannot begin the container's log")]
    Log(#[source] pouch_logfile::LogError),
    /// The runtime's binary could not be protected.
    #[error("cannot protect the runtime's binary")]
    Sealed(#[source] pouch_sealed_exe::SealError),
    /// The shim was told to end.
    #[error("the shim is shutting down")]
    ShuttingDown,
    /// The shim is in no state to go on.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl TaskError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn errno(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source: source.into() }
    }
}

impl Classified for TaskError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoContainer(_) | Self::NoExec(_) | Self::Finished => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::State { .. } => ErrorKind::Conflict,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::ShuttingDown => ErrorKind::Unavailable,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Io { source, .. } | Self::Mount { source, .. } => io_kind(source),
            Self::Cgroup { source, .. } => source.kind(),
            Self::Log(source) => source.kind(),
            Self::Runtime { .. } | Self::Sealed(_) | Self::Internal(_) => ErrorKind::Internal,
        }
    }
}

/// The code that containerd's clients decide by.
fn code(kind: ErrorKind) -> ttrpc::Code {
    match kind {
        ErrorKind::NotFound => ttrpc::Code::NOT_FOUND,
        ErrorKind::AlreadyExists => ttrpc::Code::ALREADY_EXISTS,
        ErrorKind::Conflict | ErrorKind::NotModified => ttrpc::Code::FAILED_PRECONDITION,
        ErrorKind::Invalid => ttrpc::Code::INVALID_ARGUMENT,
        ErrorKind::Unsupported => ttrpc::Code::UNIMPLEMENTED,
        ErrorKind::Denied => ttrpc::Code::PERMISSION_DENIED,
        ErrorKind::Unavailable => ttrpc::Code::UNAVAILABLE,
        ErrorKind::ResourceExhausted => ttrpc::Code::RESOURCE_EXHAUSTED,
        ErrorKind::DeadlineExceeded => ttrpc::Code::DEADLINE_EXCEEDED,
        ErrorKind::Cancelled => ttrpc::Code::CANCELLED,
        // An I/O failure that io_kind cannot name, or the runtime's: containerd's own shim
        // answers so.
        ErrorKind::Internal => ttrpc::Code::UNKNOWN,
    }
}

/// `error` with its causes, for the wire.
pub(crate) fn status(error: &TaskError) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind()), chain(error)))
}
