//! Failures of a backend, with the stage at which something hung.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use pouch_containerd_grpc::{Code, Status};
use pouch_types::{Classified, ErrorKind};

/// A failed call of a backend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shim or containerd refused.
    #[error("{message}")]
    Refused {
        /// Class of the refusal.
        kind: ErrorKind,
        /// What it said.
        message: String,
    },
    /// No answer in time.
    #[error("{stage} of container {container} did not answer within {} s", after.as_secs_f32())]
    Deadline {
        /// What was waited for.
        stage: &'static str,
        /// The container.
        container: String,
        /// How long.
        after: Duration,
    },
    /// The connection to the supervisor broke.
    #[error("{stage} of container {container}: connection to its shim lost ({message})")]
    Disconnected {
        /// What was under way.
        stage: &'static str,
        /// The container.
        container: String,
        /// What the transport said.
        message: String,
    },
    /// containerd cannot be reached or does not answer.
    #[error("containerd unavailable: {stage}: {message}")]
    Unreachable {
        /// What was under way; it may have been done or not.
        stage: &'static str,
        /// What the transport said.
        message: String,
    },
    /// What answers at the socket is no containerd, or one that cannot do what is needed.
    #[error("{socket} is not a containerd that can be used: {message}")]
    NotContainerd {
        /// Where it answers.
        socket: PathBuf,
        /// What it said.
        message: String,
    },
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// Verb phrase.
        doing: &'static str,
        /// What it concerned.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A reply or request that cannot be encoded or decoded.
    #[error("{0}")]
    Codec(String),
}

impl Error {
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }

    pub(crate) fn rpc(stage: &'static str, container: &str, error: ttrpc::Error) -> Self {
        match error {
            ttrpc::Error::RpcStatus(status) => {
                Self::Refused { kind: kind_of(status.code()), message: status.message().to_owned() }
            }
            other => Self::Disconnected {
                stage,
                container: container.to_owned(),
                message: other.to_string(),
            },
        }
    }
}

/// What containerd's Go code adds to an error that has no better class.
const UNCLASSED: &str = ": unknown";

impl Error {
    /// What a call came to at `stage`.
    #[must_use]
    pub fn grpc(stage: &'static str, status: &Status) -> Self {
        if pouch_containerd_grpc::is_unreachable(status) && status.code() != Code::PermissionDenied
        {
            return Self::Unreachable { stage, message: status.message().to_owned() };
        }
        let message = status.message();
        let message = message.strip_suffix(UNCLASSED).unwrap_or(message);
        Self::Refused { kind: kind_of_grpc(status.code()), message: message.to_owned() }
    }
}

fn kind_of_grpc(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::FailedPrecondition => ErrorKind::Conflict,
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::Invalid,
        Code::Unimplemented => ErrorKind::Unsupported,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
        Code::Unavailable => ErrorKind::Unavailable,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Cancelled | Code::Aborted => ErrorKind::Cancelled,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}

fn kind_of(code: ttrpc::Code) -> ErrorKind {
    use ttrpc::Code;
    match code {
        Code::NOT_FOUND => ErrorKind::NotFound,
        Code::ALREADY_EXISTS => ErrorKind::AlreadyExists,
        Code::FAILED_PRECONDITION => ErrorKind::Conflict,
        Code::INVALID_ARGUMENT | Code::OUT_OF_RANGE => ErrorKind::Invalid,
        Code::UNIMPLEMENTED => ErrorKind::Unsupported,
        Code::PERMISSION_DENIED | Code::UNAUTHENTICATED => ErrorKind::Denied,
        Code::UNAVAILABLE => ErrorKind::Unavailable,
        Code::RESOURCE_EXHAUSTED => ErrorKind::ResourceExhausted,
        Code::DEADLINE_EXCEEDED => ErrorKind::DeadlineExceeded,
        Code::CANCELLED | Code::ABORTED => ErrorKind::Cancelled,
        _ => ErrorKind::Internal,
    }
}

impl Classified for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { kind, .. } => *kind,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::Disconnected { .. } | Self::Unreachable { .. } => ErrorKind::Unavailable,
            Self::NotContainerd { .. } => ErrorKind::Unsupported,
            Self::Io { source, .. } => pouch_types::error::io_kind(source),
            Self::Codec(_) => ErrorKind::Internal,
        }
    }
}
