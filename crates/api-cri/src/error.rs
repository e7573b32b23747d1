//! Failures of the engine as statuses of gRPC, in one place.

use pouch_types::{Classified, ErrorKind};
use tonic::{Code, Status};

/// The code that kubelet decides by.
const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::Conflict | ErrorKind::NotModified => Code::FailedPrecondition,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Denied => Code::PermissionDenied,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::ResourceExhausted => Code::ResourceExhausted,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The status of a failure, with its causes.
pub(crate) fn status<E>(error: E) -> Status
where
    E: Classified + Send + Sync + 'static,
{
    Status::new(code(error.kind()), pouch_types::error::chain(&error))
}

/// A request that cannot be meant; `field` in the contract's words.
pub(crate) fn invalid(field: &str, why: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {why}"))
}

/// A known option that is not supported.
pub(crate) fn unsupported(field: &str, why: impl std::fmt::Display) -> Status {
    Status::unimplemented(format!("{field}: {why}"))
}
