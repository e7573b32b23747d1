//! Failures of the registry protocol, with the words that Docker's clients know.

use std::time::Duration;

use pouch_types::{Classified, Digest, ErrorKind};

/// Why a registry operation failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry has no such tag or digest.
    #[error("manifest for {reference} not found: manifest unknown: {message}")]
    ManifestUnknown {
        /// The reference as people know it.
        reference: String,
        /// The registry's words.
        message: String,
    },
    /// The registry refuses the repository: it may be missing or private, which it does not tell.
    #[error(
        "pull access denied for {repository}, repository does not exist or may require 'docker \
         login': {message}"
    )]
    Denied {
        /// The repository as people know it.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// The registry does not know the repository.
    #[error("repository {repository} not found: {message}")]
    NameUnknown {
        /// The repository as people know it.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// The credentials are wrong.
    #[error("unauthorized: {message}")]
    Unauthorized {
        /// The words of the registry or of its token service.
        message: String,
    },
    /// The registry lists a blob that it does not have.
    #[error("blob {0} is unknown to the registry")]
    BlobUnknown(Digest),
    /// No entry of the index fits.
    #[error("no matching manifest for {0} in the manifest list entries")]
    NoPlatform(String),
    /// A text that is no platform.
    #[error("{0:?} is an invalid OS/architecture specifier: want os[/arch[/variant]]")]
    Platform(String),
    /// Docker's first format, which carries no digest of the configuration.
    #[error(
        "{0} is a Docker schema 1 manifest, which is not supported: push the image again with a \
         current tool"
    )]
    Schema1(String),
    /// The document cannot be trusted or used.
    #[error("manifest of {reference}: {why}")]
    Document {
        /// The reference as people know it.
        reference: String,
        /// What is wrong.
        why: DocumentError,
    },
    /// The bytes are not those of the digest.
    #[error("{what} does not have the digest {expected}: got {actual}")]
    Digest {
        /// What was fetched.
        what: &'static str,
        /// Asked for.
        expected: Box<Digest>,
        /// Came.
        actual: Box<Digest>,
    },
    /// An answer over its limit.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was fetched.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A challenge or redirect that would take credentials where they do not belong.
    #[error("{host} {why}")]
    Unsafe {
        /// Registry.
        host: String,
        /// What it asked for.
        why: String,
    },
    /// Too many requests, and the registry wants more patience than we have.
    #[error("toomanyrequests: {message}")]
    RateLimited {
        /// The registry's words.
        message: String,
    },
    /// The registry answers with an error of its own.
    #[error("{method} {url}: unexpected status {status}: {message}")]
    Status {
        /// HTTP method.
        method: &'static str,
        /// Without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// The registry's words.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{method} {url}")]
    Transport {
        /// HTTP method.
        method: &'static str,
        /// Without query.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// No byte for too long.
    #[error("{host} sent nothing for {} s", .after.as_secs())]
    Idle {
        /// Registry.
        host: String,
        /// The wait.
        after: Duration,
    },
    /// An answer that makes no sense.
    #[error("{host} {why}")]
    Protocol {
        /// Registry.
        host: String,
        /// What is wrong.
        why: String,
    },
    /// The HTTP client cannot be made, for example for want of CA certificates.
    #[error("set up of the TLS client")]
    Client(#[source] reqwest::Error),
}

/// Why a manifest or index was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON of the right form.
    #[error("does not parse: {0}")]
    Json(String),
    /// It reads as a manifest and as an index (CVE-2021-41190).
    #[error("has both layers and manifests: ambiguous, refused")]
    Ambiguous,
    /// It reads as neither.
    #[error("is neither an image manifest nor an index")]
    Neither,
    /// The media type of the answer, of the descriptor and of the document differ.
    #[error("media types differ: {0:?} announced, {1:?} in the document")]
    MediaType(String, String),
    /// An index in an index in an index.
    #[error("indexes are nested too deep")]
    Nested,
    /// A media type that is no image.
    #[error("has media type {0:?}, which is not an image")]
    NotAnImage(String),
    /// More layers or entries than the limit.
    #[error("lists {0} entries, at most {1} are taken")]
    TooMany(usize, usize),
}

impl Classified for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            // Docker answers 404 to a denied pull: whether the repository exists is not told, and
            // clients look for that status.
            Self::ManifestUnknown { .. }
            | Self::Denied { .. }
            | Self::NameUnknown { .. }
            | Self::BlobUnknown(_)
            | Self::NoPlatform(_) => ErrorKind::NotFound,
            Self::Unauthorized { .. } | Self::Unsafe { .. } => ErrorKind::Denied,
            Self::Platform(_)
            | Self::Document { .. }
            | Self::Digest { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::Schema1(_) => ErrorKind::Unsupported,
            Self::RateLimited { .. } => ErrorKind::ResourceExhausted,
            Self::Status { .. } | Self::Transport { .. } => ErrorKind::Unavailable,
            Self::Idle { .. } => ErrorKind::DeadlineExceeded,
            Self::Protocol { .. } => ErrorKind::Unavailable,
            Self::Client(_) => ErrorKind::Internal,
        }
    }
}

impl RegistryError {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. } | Self::Idle { .. } | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 500 | 502 | 503 | 504 | 408),
            _ => false,
        }
    }
}
