//! The protocol around the calls: versions, queries, bodies, errors and the fixed headers.

pub(crate) mod body;
pub(crate) mod error;
pub(crate) mod query;
pub(crate) mod version;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

pub(crate) use body::{Json, Lingering};
pub(crate) use error::{ApiError, ApiResult};
pub(crate) use query::Query;
pub use version::ApiVersion;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A JSON reply; ends with a newline as Go's encoder writes it.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> ApiResult<Response> {
    let mut text = serde_json::to_vec(value).map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the reply: {error}"))
    })?;
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

/// `200` with JSON.
pub(crate) fn ok<T: Serialize>(value: &T) -> ApiResult<Response> {
    json(StatusCode::OK, value)
}

/// `201` with JSON.
pub(crate) fn created<T: Serialize>(value: &T) -> ApiResult<Response> {
    json(StatusCode::CREATED, value)
}

/// A reply without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// `204`.
pub(crate) fn no_content() -> ApiResult<Response> {
    Ok(empty(StatusCode::NO_CONTENT))
}
