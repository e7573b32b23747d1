//! The classes of failure that a caller can act on.
//!
//! Each operation group keeps an error enum of its own; it implements [`Classified`], and the two
//! faces map [`ErrorKind`] to HTTP and to gRPC in one place each. Nothing ever decides by text.

use serde::{Deserialize, Serialize};

/// What a failure means to the caller, whatever its cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// An object of that name or id exists.
    AlreadyExists,
    /// The object's state or another object's use forbids it; it may work later.
    Conflict,
    /// Nothing to do: the object is already as asked (HTTP 304).
    NotModified,
    /// The request is malformed; repeating it cannot help.
    Invalid,
    /// A known option or call that this build, machine or kernel does not support.
    Unsupported,
    /// Refused for lack of right.
    Denied,
    /// A needed service (registry, shim, containerd) does not answer now.
    Unavailable,
    /// Disk, addresses, ports, descriptors or a quota are used up.
    ResourceExhausted,
    /// A wait ended by its deadline; the message names the stage.
    DeadlineExceeded,
    /// The caller gave up.
    Cancelled,
    /// A defect or a condition that nobody planned for.
    Internal,
}

/// An error that knows its [`ErrorKind`].
pub trait Classified: std::error::Error {
    /// The class of this failure.
    fn kind(&self) -> ErrorKind;
}

/// The text of an error and its causes, `outer: inner: innermost`, as users and logs read it.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The kind that an I/O failure amounts to when nothing better is known.
#[must_use]
pub fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::PermissionDenied => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory => ErrorKind::ResourceExhausted,
        Io::TimedOut => ErrorKind::DeadlineExceeded,
        Io::ConnectionRefused | Io::ConnectionReset | Io::ConnectionAborted | Io::NotConnected => {
            ErrorKind::Unavailable
        }
        _ => ErrorKind::Internal,
    }
}
