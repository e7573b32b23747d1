//! How an operation fails, and the line that tells the caller.

use std::io;

use pouch_types::{Classified, ErrorKind};
use serde::Serialize;

use crate::limits::DIRECTORY_NAMES;
use crate::stream::LimitError;
use crate::tar::{Broken, Place, TarError};

/// Result of every verb.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("cannot confine the process: {what}")]
    Sandbox {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tree(#[from] pouch_rootfd::Error),
    #[error(transparent)]
    Archive(#[from] TarError),
    #[error("entry {path:?}")]
    Entry {
        path: String,
        #[source]
        source: Box<Self>,
    },
    #[error("behind entry {path:?}")]
    Behind {
        path: String,
        #[source]
        source: Box<Self>,
    },
    #[error("begin of the archive")]
    Start(#[source] Box<Self>),
    #[error("{0}")]
    Refused(String),
    #[error("{0} is not a directory")]
    NotADirectory(String),
    #[error("{what}")]
    Io {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("archive has more than {0} entries")]
    TooManyEntries(u64),
    #[error("archive has more than {DIRECTORY_NAMES} bytes of directory names")]
    TooManyNames,
    #[error("extended attribute {0:?}")]
    Xattr(String, #[source] Box<Self>),
}

impl Failure {
    /// Names the entry at which it failed.
    pub(crate) fn at(self, path: &[u8]) -> Self {
        Self::Entry { path: shortened(path), source: Box::new(self) }
    }

    /// Names the entry after which it failed, if there was one.
    pub(crate) fn behind(self, path: Option<Vec<u8>>) -> Self {
        let source = Box::new(self);
        match path {
            Some(path) => Self::Behind { path: shortened(&path), source },
            None => Self::Start(source),
        }
    }

    fn io_source(&self) -> Option<&io::Error> {
        match self {
            Self::Io { source, .. } | Self::Archive(TarError::Io(source)) => Some(source),
            Self::Entry { source, .. }
            | Self::Behind { source, .. }
            | Self::Start(source)
            | Self::Xattr(_, source) => source.io_source(),
            _ => None,
        }
    }

    fn limit(&self) -> Option<&LimitError> {
        self.io_source()?.get_ref()?.downcast_ref()
    }
}

/// What of a name goes into a message.
pub(crate) fn shortened(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        let failure = Self::Archive(broken.error);
        match broken.place {
            Place::In(path) => failure.at(&path),
            Place::Behind(path) => failure.behind(Some(path)),
            Place::Start => failure.behind(None),
        }
    }
}

impl Classified for Failure {
    fn kind(&self) -> ErrorKind {
        if self.limit().is_some() {
            return ErrorKind::ResourceExhausted;
        }
        match self {
            Self::Usage(_) | Self::Refused(_) | Self::NotADirectory(_) => ErrorKind::Invalid,
            Self::Sandbox { .. } => ErrorKind::Unsupported,
            Self::Tree(error) => match error.kind() {
                // An object in the way of an archive's entry is a conflict, not a duplicate.
                ErrorKind::AlreadyExists => ErrorKind::Conflict,
                kind => kind,
            },
            Self::Archive(TarError::Io(source)) | Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::UnexpectedEof => ErrorKind::Invalid,
                // Decoders report damage with codes of their own.
                io::ErrorKind::Other => ErrorKind::Invalid,
                _ => pouch_types::error::io_kind(source),
            },
            Self::Archive(_) => ErrorKind::Invalid,
            Self::Entry { source, .. } => match source.kind() {
                // The archive names something that is not there; the target of the whole call is.
                ErrorKind::NotFound => ErrorKind::Invalid,
                kind => kind,
            },
            Self::Behind { source, .. } | Self::Start(source) | Self::Xattr(_, source) => {
                source.kind()
            }
            Self::TooManyEntries(_) | Self::TooManyNames => ErrorKind::ResourceExhausted,
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    error: Body<'a>,
}

#[derive(Serialize)]
struct Body<'a> {
    kind: ErrorKind,
    message: &'a str,
}

/// The failure as one line of JSON.
pub(crate) fn to_json(failure: &Failure) -> String {
    // Names in it are short already; the caller reads 64 KiB.
    let message: String = pouch_types::error::chain(failure).chars().take(4096).collect();
    let line = Line { error: Body { kind: failure.kind(), message: &message } };
    serde_json::to_string(&line).unwrap_or_default()
}
