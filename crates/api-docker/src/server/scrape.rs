//! `metrics-addr`: the metrics, and nothing else, for a scraper that has no client certificate.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::limits;
use crate::service::{Telemetry, metrics};

/// Scrapers at a time.
const CONNECTIONS: usize = 16;
/// Longest life of a connection; scrapers open another one.
const LIFETIME: Duration = Duration::from_secs(300);

/// Serves `GET /metrics` over plain HTTP until `closing` is cancelled. Whoever reaches the address
/// may read names and use of resources of all containers, as with dockerd.
pub async fn serve_metrics(
    listener: TcpListener,
    telemetry: Telemetry,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(super::ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (telemetry, closing) = (telemetry.clone(), closing.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = closing.cancelled() => {}
                _ = tokio::time::timeout(LIFETIME, connection(stream, telemetry)) => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, telemetry: Telemetry) {
    let handler = hyper::service::service_fn(move |request: Request<Incoming>| {
        let telemetry = telemetry.clone();
        async move { Ok::<_, Infallible>(answer(&request, &telemetry).await) }
    });
    let ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_header_size(limits::HEADERS)
        .serve_connection(TokioIo::new(stream), handler)
        .await;
    if let Err(error) = ended {
        tracing::debug!(%error, "metrics connection ended");
    }
}

async fn answer(request: &Request<Incoming>, telemetry: &Telemetry) -> Response {
    if request.method() == Method::GET && request.uri().path() == "/metrics" {
        return metrics((telemetry.encode)().await);
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
