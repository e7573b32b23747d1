//! Failures of the content store.

use std::io;
use std::path::PathBuf;

use pouch_types::error::io_kind;
use pouch_types::{Classified, Digest, ErrorKind};

/// Why an operation on the content store failed.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// No blob of that digest.
    #[error("content {0} not found")]
    NotFound(Digest),
    /// Another writer holds the ingest.
    #[error("ingest {0} is being written")]
    Busy(IngestKey),
    /// The string is no ingest key.
    #[error("invalid ingest key {0:?}: want [a-z0-9-]{{1,128}}")]
    Key(String),
    /// The bytes are not what was asked for. They were thrown away.
    #[error("digest mismatch: expected {}, got {}", .0.expected, .0.actual)]
    DigestMismatch(Box<Mismatch>),
    /// Too few bytes. They are kept for [`ContentStore::resume`](crate::ContentStore::resume).
    #[error("content ended after {actual} of {expected} bytes")]
    Short {
        /// Size asked for, bytes.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// More bytes than the size asked for or than the cap.
    #[error("content is larger than {limit} bytes")]
    TooLarge {
        /// The size or the cap, bytes.
        limit: u64,
    },
    /// The blob on disk is damaged.
    #[error("content {0} is damaged on disk")]
    Corrupt(Digest),
    /// The file system refused.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store of somebody else failed.
    #[error("{action} content {digest}")]
    Elsewhere {
        /// Verb phrase.
        action: &'static str,
        /// The blob.
        digest: Digest,
        /// Its class.
        kind: ErrorKind,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel gave no random bytes for a name.
    #[error("random name for an ingest")]
    Random(#[source] getrandom::Error),
    /// A blocking thread panicked or the runtime is shutting down.
    #[error("the content store's thread is gone")]
    Thread,
}

/// Two digests that should be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch {
    /// What was asked for.
    pub expected: Digest,
    /// What came.
    pub actual: Digest,
}

impl ContentError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Classified for ContentError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Busy(_) => ErrorKind::Conflict,
            Self::Key(_) | Self::DigestMismatch(_) | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Short { .. } => ErrorKind::Unavailable,
            Self::Elsewhere { kind, .. } => *kind,
            Self::Io { source, .. } => match io_kind(source) {
                // A missing directory of the store itself is no "no such blob".
                ErrorKind::NotFound => ErrorKind::Internal,
                kind => kind,
            },
            Self::Corrupt(_) | Self::Random(_) | Self::Thread => ErrorKind::Internal,
        }
    }
}

/// Name of an ingest: `[a-z0-9-]{1,128}`, hence never a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IngestKey(Box<str>);

impl IngestKey {
    /// The key under which a blob of known digest is fetched, the same for every fetcher.
    #[must_use]
    pub fn of_blob(digest: &Digest) -> Self {
        Self(format!("blob-{}", digest.hex()).into())
    }

    /// A key of `prefix` and random digits, for bytes whose digest is not known yet. What such an
    /// ingest holds cannot be resumed.
    ///
    /// # Errors
    /// A bad prefix, or no random bytes.
    pub fn unique(prefix: &str) -> Result<Self, ContentError> {
        let random = pouch_types::id::random_hex().map_err(ContentError::Random)?;
        format!("{prefix}-{}", &random[..32]).parse()
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the bytes under this key are worth keeping after a crash: they are the beginning
    /// of a blob whose digest is in the name.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        self.0.starts_with("blob-")
    }
}

impl std::str::FromStr for IngestKey {
    type Err = ContentError;

    fn from_str(text: &str) -> Result<Self, ContentError> {
        let good = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if good {
            Ok(Self(text.into()))
        } else {
            Err(ContentError::Key(text.chars().take(80).collect()))
        }
    }
}

impl std::fmt::Display for IngestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
