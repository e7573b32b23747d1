//! The one place where a failure becomes an HTTP status, as dockerd maps its error classes.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use pouch_docker_types::ErrorResponse;
use pouch_docker_types::filters::FilterError;
use pouch_types::{Classified, ErrorKind};

/// Result of a handler.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

/// A refused or failed call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

/// The status that a class of failure has.
///
/// Classes that Docker has no status for are 500, which is what its clients expect of a full disk
/// or a deadline.
pub(crate) const fn status_of(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotModified => StatusCode::NOT_MODIFIED,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::ResourceExhausted
        | ErrorKind::DeadlineExceeded
        | ErrorKind::Cancelled
        | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// 400.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 501: known, and not there.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, message)
    }

    #[cfg(test)]
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl<E: Classified> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self::new(status_of(error.kind()), pouch_types::error::chain(&error))
    }
}

/// Filters belong to the request, so their faults are always 400.
pub(crate) fn bad_filter(error: FilterError) -> ApiError {
    ApiError::invalid(error.to_string())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return super::empty(self.status);
        }
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = self.message, "call failed");
        }
        let body = ErrorResponse { message: self.message };
        super::json(self.status, &body).unwrap_or_else(|_| super::empty(self.status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    impl Classified for Outer {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Unavailable
        }
    }

    #[test]
    fn causes_are_in_the_message() {
        let error = ApiError::from(Outer(std::io::Error::other("inner")));
        assert_eq!(error, ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "outer: inner"));
    }

    #[tokio::test]
    async fn not_modified_has_no_body() {
        let response = ApiError::new(StatusCode::NOT_MODIFIED, "already").into_response();
        assert!(response.headers().get("content-type").is_none());
        let body = axum::body::to_bytes(response.into_body(), 10).await.unwrap();
        assert!(body.is_empty());
    }
}
