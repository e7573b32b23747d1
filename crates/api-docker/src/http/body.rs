//! JSON bodies: content type and cap.
//!
//! Archives (load, import, cp, build) are taken under any type: the docker CLI sends them as
//! `text/plain`. What keeps foreign pages from posting them is the check of `Origin`.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::error::{ApiError, ApiResult};
use crate::limits;

/// A JSON body. An empty one is the zero value, as dockerd takes it.
#[derive(Debug)]
pub(crate) struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        check_json(&parts.headers)?;
        pouch_docker_types::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))
    }
}

/// The whole body, at most [`limits::JSON_BODY`] bytes.
async fn collect(body: Body) -> ApiResult<Bytes> {
    let read = Limited::new(body, limits::JSON_BODY).collect();
    let read = tokio::time::timeout(limits::BODY_READ, read).await.map_err(|_| {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request body did not arrive in time")
    })?;
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than {} bytes", limits::JSON_BODY),
        )),
        Err(error) => Err(ApiError::invalid(format!("reading the request body: {error}"))),
    }
}

/// A body is JSON only if it says so: a form that a browser posts across sites cannot.
fn check_json(headers: &HeaderMap) -> ApiResult<()> {
    let given = headers.get(header::CONTENT_TYPE).map(|v| v.to_str().unwrap_or("?")).unwrap_or("");
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        format!("unsupported Content-Type header ({given}): must be 'application/json'"),
    ))
}

/// A request body that is read on when its handler has had enough.
///
/// Closing a connection on which the client still writes resets it, and the client then reports
/// the broken write instead of the reply that says why (`docker cp` into a container that does not
/// exist). So what is left is thrown away for a while, in which the client sees the reply.
#[derive(Debug)]
pub(crate) struct Lingering<B>(Option<B>)
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static;

impl<B> Lingering<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(crate) const fn new(body: B) -> Self {
        Self(Some(body))
    }
}

impl<B> http_body::Body for Lingering<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.as_ref().map_or_else(Default::default, http_body::Body::size_hint)
    }
}

impl<B> Drop for Lingering<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let rest = async { while matches!(body.frame().await, Some(Ok(_))) {} };
            // A longer body has had its time.
            let _ = tokio::time::timeout(limits::LINGER, rest).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use pouch_docker_types::exec::ExecStart;

    use super::*;

    async fn read(content_type: Option<&str>, body: Body) -> ApiResult<Json<ExecStart>> {
        let mut request = Request::post("/");
        if let Some(value) = content_type {
            request = request.header("content-type", value);
        }
        Json::from_request(request.body(body).unwrap(), &()).await
    }

    #[tokio::test]
    async fn content_types() {
        let body = || Body::from(r#"{"Tty":true}"#);
        for good in ["application/json", "Application/JSON; charset=utf-8"] {
            assert!(read(Some(good), body()).await.unwrap().0.tty, "{good}");
        }
        for bad in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            let status = read(bad, body()).await.unwrap_err().status();
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        assert!(!read(Some("text/plain"), Body::empty()).await.unwrap().0.tty);
    }

    #[tokio::test]
    async fn caps_and_syntax() {
        let json = Some("application/json");
        let error = read(json, Body::from("{")).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        assert!(error.message().starts_with("invalid JSON: "));
        let at = |size: usize| Body::from(vec![b' '; size]);
        assert!(read(json, at(limits::JSON_BODY)).await.is_ok());
        let error = read(json, at(limits::JSON_BODY + 1)).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
}
