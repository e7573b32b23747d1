//! Failures of the registry protocol, with the words that Docker's clients know.

use std::io;
use std::path::PathBuf;
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
    /// Bytes, but too few.
    #[error("{host} sent only {bytes} bytes in {} s", .after.as_secs_f32())]
    Slow {
        /// Registry or mirror.
        host: String,
        /// What came.
        bytes: u64,
        /// While it was waited for.
        after: Duration,
    },
    /// A body ended before its end.
    #[error("{host} ended a blob after {got} of {size} bytes")]
    Short {
        /// Registry or mirror.
        host: String,
        /// Offset that was reached.
        got: u64,
        /// The blob's size.
        size: u64,
    },
    /// No byte for too long.
    #[error("{host} sent nothing for {} s", .after.as_secs_f32())]
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
    /// A setting that makes no sense.
    #[error("{key}: {value:?} {why}")]
    Config {
        /// The key in the configuration.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A `hosts.toml` that cannot be used.
    #[error("{path}")]
    Hosts {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        why: HostsError,
    },
    /// Certificates of a host that cannot be used.
    #[error("{path}")]
    Certs {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        why: CertsError,
    },
    /// What should be uploaded cannot be read.
    #[error("cannot read blob {digest} at {offset}")]
    Read {
        /// Of the blob.
        digest: Box<Digest>,
        /// Where in it.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The blob that should be uploaded is shorter than it should be.
    #[error("blob {digest} ends after {size} bytes")]
    Truncated {
        /// Of the blob.
        digest: Box<Digest>,
        /// What there is.
        size: u64,
    },
    /// The registry does not take a push from us.
    #[error("push access denied for {repository}, it may require 'docker login': {message}")]
    PushDenied {
        /// The repository as people know it.
        repository: String,
        /// The registry's words.
        message: String,
    },
    /// The host does not let us push.
    #[error("no host of {0} takes a push")]
    NoPush(String),
    /// The reference has a digest but no tag to push to.
    #[error("cannot push {0}: it has no tag")]
    NoTag(String),
    /// The HTTP client cannot be made, for example for want of CA certificates.
    #[error("set up of the TLS client")]
    Client(#[source] reqwest::Error),
}

/// Why a `hosts.toml` was refused.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// I/O.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// It is not TOML.
    #[error("line {line}: {message}")]
    Parse {
        /// From 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key has a value that makes no sense.
    #[error("{key} {why}")]
    Key {
        /// With the tables around it.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// Why certificates were refused.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// I/O.
    #[error("cannot be read")]
    Read(#[source] io::Error),
    /// A `*.crt` without a certificate.
    #[error("holds no certificate in PEM")]
    NoCertificate,
    /// A `*.cert` or `*.key` that TLS cannot use.
    #[error("holds no certificate with its key in PEM")]
    NoIdentity,
    /// A certificate without its key.
    #[error("has no key {}", .0.display())]
    NoKey(PathBuf),
    /// A key without its certificate.
    #[error("has no certificate {}", .0.display())]
    NoCert(PathBuf),
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
            Self::Unauthorized { .. } | Self::PushDenied { .. } | Self::Unsafe { .. } => {
                ErrorKind::Denied
            }
            Self::Platform(_)
            | Self::Document { .. }
            | Self::Digest { .. }
            | Self::TooLarge { .. } => ErrorKind::Invalid,
            Self::NoTag(_) => ErrorKind::Invalid,
            Self::Schema1(_) | Self::NoPush(_) => ErrorKind::Unsupported,
            Self::RateLimited { .. } => ErrorKind::ResourceExhausted,
            Self::Status { .. } | Self::Transport { .. } => ErrorKind::Unavailable,
            Self::Idle { .. } | Self::Slow { .. } => ErrorKind::DeadlineExceeded,
            Self::Protocol { .. } | Self::Short { .. } => ErrorKind::Unavailable,
            Self::Config { .. } | Self::Hosts { .. } | Self::Certs { .. } => ErrorKind::Invalid,
            Self::Client(_) | Self::Read { .. } | Self::Truncated { .. } => ErrorKind::Internal,
        }
    }
}

impl RegistryError {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transport { .. }
            | Self::Idle { .. }
            | Self::Slow { .. }
            | Self::Short { .. }
            | Self::RateLimited { .. } => true,
            Self::Status { status, .. } => matches!(status, 500 | 502 | 503 | 504 | 408),
            _ => false,
        }
    }
}
