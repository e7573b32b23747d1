//! Why a request cannot become a runtime specification.

use std::io;

use pouch_types::error::io_kind;
use pouch_types::{Classified, ErrorKind};

/// A request that cannot be honoured. `field` is the name in the Docker API's request, so that the
/// face can pass it on as it stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The value can never be meant.
    #[error("invalid {field}: {detail}")]
    Invalid {
        /// `HostConfig.Sysctls` …
        field: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The value is known but not possible on this machine or in this build.
    #[error("unsupported {field}: {detail}")]
    Unsupported {
        /// `HostConfig.SecurityOpt` …
        field: &'static str,
        /// What is missing.
        detail: String,
    },
    /// A device of the host cannot be looked at.
    #[error("{field}: cannot use device {path}")]
    Device {
        /// `HostConfig.Devices` …
        field: &'static str,
        /// On the host.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A seccomp profile that is no JSON of the known form.
    #[error("invalid seccomp profile")]
    Seccomp(#[source] serde_json::Error),
}

impl SpecError {
    pub(crate) fn invalid(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { field, detail: detail.into() }
    }

    pub(crate) fn unsupported(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Unsupported { field, detail: detail.into() }
    }
}

impl Classified for SpecError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::Seccomp(_) => ErrorKind::Invalid,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            // A device that is not there is a wrong request, not a missing container.
            Self::Device { source, .. } => match io_kind(source) {
                ErrorKind::NotFound => ErrorKind::Invalid,
                kind => kind,
            },
        }
    }
}

/// Why `user[:group]` names nobody.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// Not in the image's passwd file.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// Not in the image's group file.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that a 32-bit signed id cannot hold.
    #[error("uids and gids must be in range 0-2147483647")]
    OutOfRange,
    /// Bytes that end a line or a field of the files.
    #[error("invalid user {0:?}")]
    Malformed(String),
    /// Longer than anybody needs.
    #[error("more than {limit} {what}")]
    TooMany {
        /// `groups` …
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// `/etc/passwd` or `/etc/group` is there and cannot be read.
    #[error("cannot read the container's {path}")]
    File {
        /// In the container.
        path: &'static str,
        /// Why.
        #[source]
        source: pouch_rootfd::Error,
    },
}

impl Classified for UserError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::File { source, .. } => match source.kind() {
                ErrorKind::NotFound => ErrorKind::Invalid,
                kind => kind,
            },
            _ => ErrorKind::Invalid,
        }
    }
}
