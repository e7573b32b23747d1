//! What a call to the daemon can fail with.
//!
//! The daemon's own refusals keep status and message apart, so that a caller decides by
//! [`ClientError::status`] and prints the message; everything else says what the user can do.

use std::path::PathBuf;

use http::StatusCode;
use pouch_types::{Classified, ErrorKind};

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an error status.
    #[error("{message}")]
    Api {
        /// HTTP status.
        status: StatusCode,
        /// `message` of the body, or the body itself when it is not the API's JSON.
        message: String,
    },
    /// The daemon reported a failure inside a stream that had begun with success.
    #[error("{message}")]
    InBand {
        /// The daemon's text.
        message: String,
    },
    /// Nobody answers at the endpoint.
    #[error("cannot connect to the pouch daemon at {endpoint}: {hint}")]
    Connect {
        /// As the user named it.
        endpoint: String,
        /// What to check.
        hint: String,
        /// The failed step.
        #[source]
        source: std::io::Error,
    },
    /// A host specification that is not one of unix, tcp, http, https, ssh.
    #[error("invalid host {host:?}: {reason}")]
    Endpoint {
        /// As given.
        host: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A certificate or key that cannot be used.
    #[error("cannot use {what} {path}: {reason}")]
    TlsFile {
        /// Which of the files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS parameters that do not fit together.
    #[error("cannot set up tls")]
    Tls(#[from] rustls::Error),
    /// A request that cannot be put into HTTP.
    #[error("cannot build the request {what}")]
    Request {
        /// Method and path.
        what: String,
        /// What http refused.
        #[source]
        source: http::Error,
    },
    /// The connection broke after it had been made.
    #[error("connection to the daemon lost during {what}")]
    Transport {
        /// Method and path.
        what: String,
        /// What hyper saw.
        #[source]
        source: hyper::Error,
    },
    /// A stream broke.
    #[error("stream of {what} broke")]
    Stream {
        /// Method and path.
        what: String,
        /// What was seen.
        #[source]
        source: std::io::Error,
    },
    /// A reply that is not what the API promises.
    #[error("unexpected reply to {what}")]
    Decode {
        /// Method and path.
        what: String,
        /// Where the JSON went wrong.
        #[source]
        source: serde_json::Error,
    },
    /// A reply without a part that the API promises.
    #[error("unexpected reply to {what}: {reason}")]
    Protocol {
        /// Method and path.
        what: String,
        /// What is missing.
        reason: &'static str,
    },
    /// A reply beyond the cap.
    #[error("reply to {what} is larger than {limit} bytes")]
    TooLarge {
        /// Method and path.
        what: String,
        /// The cap, bytes.
        limit: usize,
    },
    /// A wait ended by its deadline.
    #[error("no answer from the daemon within {seconds} s while {stage}")]
    Deadline {
        /// What was waited for.
        stage: String,
        /// The deadline.
        seconds: u64,
    },
}

impl ClientError {
    /// Status of the daemon's answer, when it answered.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Api { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the daemon said that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(StatusCode::NOT_FOUND)
    }

    /// Whether the text is the daemon's own.
    #[must_use]
    pub const fn is_from_daemon(&self) -> bool {
        matches!(self, Self::Api { .. } | Self::InBand { .. })
    }
}

impl Classified for ClientError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Api { status, .. } => match *status {
                StatusCode::NOT_FOUND => ErrorKind::NotFound,
                StatusCode::CONFLICT => ErrorKind::Conflict,
                StatusCode::NOT_MODIFIED => ErrorKind::NotModified,
                StatusCode::BAD_REQUEST => ErrorKind::Invalid,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::Denied,
                StatusCode::NOT_IMPLEMENTED => ErrorKind::Unsupported,
                StatusCode::SERVICE_UNAVAILABLE => ErrorKind::Unavailable,
                StatusCode::GATEWAY_TIMEOUT => ErrorKind::DeadlineExceeded,
                StatusCode::INSUFFICIENT_STORAGE => ErrorKind::ResourceExhausted,
                _ => ErrorKind::Internal,
            },
            Self::Connect { .. } | Self::Transport { .. } | Self::Stream { .. } => {
                ErrorKind::Unavailable
            }
            Self::Endpoint { .. } | Self::TlsFile { .. } | Self::Tls(_) | Self::Request { .. } => {
                ErrorKind::Invalid
            }
            Self::TooLarge { .. } => ErrorKind::ResourceExhausted,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::InBand { .. } | Self::Decode { .. } | Self::Protocol { .. } => {
                ErrorKind::Internal
            }
        }
    }
}
