//! What happens to every request before and after its handler: the version prefix, `/_ping`,
//! the checks of network clients, the fixed headers, the measurement.
//!
//! `/_ping` is answered here, from constants: it says that the daemon lives, whatever else hangs,
//! and every command of the docker CLI begins with it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tower_service::Service as _;

use crate::http::{ApiError, ApiVersion, Lingering};
use crate::server::Transport;

const API_VERSION: HeaderName = HeaderName::from_static("api-version");
const OSTYPE: HeaderName = HeaderName::from_static("ostype");
const EXPERIMENTAL: HeaderName = HeaderName::from_static("docker-experimental");
const BUILDER_VERSION: HeaderName = HeaderName::from_static("builder-version");
const SWARM: HeaderName = HeaderName::from_static("swarm");

/// Takes one measurement.
pub type Record = dyn Fn(&str, u16, Duration) + Send + Sync;

/// Makes the text of all metrics, in the OpenMetrics format.
pub type Encode = dyn Fn() -> BoxFuture<'static, String> + Send + Sync;

/// Where measurements go. The registry itself is not this face's business.
#[derive(Clone)]
pub struct Telemetry {
    /// Takes the method and route template of a call, its status, and the time until its reply
    /// began (a stream goes on after that).
    pub record: Arc<Record>,
    /// Makes the text of `GET /metrics`.
    pub encode: Arc<Encode>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

/// The whole face as one function from request to response.
#[derive(Debug, Clone)]
pub(crate) struct Service(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    router: Router,
    server: HeaderValue,
    version: HeaderValue,
    telemetry: Option<Telemetry>,
    origins: Vec<String>,
}

/// Where a handler was found, for the measurement.
#[derive(Debug, Clone)]
struct Operation(String);

impl Service {
    /// `product` is the daemon's version, for the `Server` header.
    pub(crate) fn new(
        router: Router,
        product: &str,
        telemetry: Option<Telemetry>,
        origins: Vec<String>,
    ) -> Self {
        let server = format!("Docker/{product} (linux)");
        let router = router
            .route_layer(axum::middleware::from_fn(name_operation))
            .fallback(page_not_found)
            .method_not_allowed_fallback(page_not_found);
        Self(Arc::new(Inner {
            router,
            server: HeaderValue::try_from(server)
                .unwrap_or_else(|_| HeaderValue::from_static("Docker")),
            version: HeaderValue::try_from(ApiVersion::MAX.to_string())
                .unwrap_or_else(|_| HeaderValue::from_static("1.51")),
            telemetry,
            origins,
        }))
    }

    /// Answers one request.
    pub(crate) async fn call<B>(&self, request: http::Request<B>) -> Response
    where
        B: http_body::Body<Data = bytes::Bytes> + Send + Unpin + 'static,
        B::Error: Into<axum::BoxError>,
    {
        let begun = Instant::now();
        let method = request.method().clone();
        let mut response = self.dispatch(request.map(|body| Body::new(Lingering::new(body)))).await;
        if let Some(telemetry) = &self.0.telemetry
            && let Some(Operation(route)) = response.extensions_mut().remove()
        {
            let name = format!("{method} {route}");
            (telemetry.record)(&name, response.status().as_u16(), begun.elapsed());
        }
        let headers = response.headers_mut();
        headers.insert(header::SERVER, self.0.server.clone());
        headers.insert(API_VERSION, self.0.version.clone());
        headers.insert(OSTYPE, HeaderValue::from_static("linux"));
        headers.insert(EXPERIMENTAL, HeaderValue::from_static("false"));
        response
    }

    async fn dispatch(&self, mut request: Request) -> Response {
        if let Err(error) = self.admit(&request) {
            return error.into_response();
        }
        let (version, rest) = match ApiVersion::strip(request.uri().path()) {
            Ok(found) => found,
            Err(message) => return ApiError::invalid(message).into_response(),
        };
        if rest == "/_ping" && matches!(*request.method(), Method::GET | Method::HEAD) {
            return ping(request.method());
        }
        if rest == "/metrics"
            && request.method() == Method::GET
            && let Some(telemetry) = &self.0.telemetry
        {
            return metrics((telemetry.encode)().await);
        }
        let target = match request.uri().query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        // A part of a valid target is one too.
        if let Ok(target) = PathAndQuery::try_from(target) {
            *request.uri_mut() = Uri::from(target);
        }
        request.extensions_mut().insert(version);
        match self.0.router.clone().call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Cross-site requests (SEC-44). A browser can hold the client certificate that lets it in, and
    /// then any page may post; its requests carry `Origin`. Rebinding a name does not get past the
    /// check of our certificate. A unix socket is out of a page's reach, and proxies in front of
    /// one do pass `Origin` on.
    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        if request.extensions().get::<Transport>() != Some(&Transport::Network) {
            return Ok(());
        }
        let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
        let known = self.0.origins.iter().any(|allowed| origin.as_bytes() == allowed.as_bytes());
        if known {
            return Ok(());
        }
        Err(ApiError::new(StatusCode::FORBIDDEN, "requests of this origin are not allowed"))
    }
}

fn ping(method: &Method) -> Response {
    let body = if method == Method::HEAD { Body::empty() } else { Body::from("OK") };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if method == Method::HEAD {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (header::PRAGMA, "no-cache"),
        // Classic: `2` would send the CLI's builds to BuildKit over `/session`.
        (BUILDER_VERSION, "1"),
        (SWARM, "inactive"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

pub(crate) fn metrics(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}

async fn name_operation(matched: MatchedPath, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.extensions_mut().insert(Operation(matched.as_str().to_owned()));
    response
}

async fn page_not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "page not found")
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
