//! The Docker Engine API over HTTP: translation, protocol and streaming in front of the engine.
//!
//! Floors inside: `server` accepts and ends connections, `service` does what every request needs,
//! `handlers` hold one function per call, `translate` turns the API's words into the engine's and
//! back, `stream` carries what does not end at once. No rule about containers lives here.

#![forbid(unsafe_code)]

mod api;
mod handlers;
mod http;
pub mod limits;
mod server;
mod service;
mod stream;
mod translate;

use std::sync::Arc;

use pouch_engine::Engine;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use crate::api::Config;
pub use crate::http::ApiVersion;
pub use crate::server::serve_metrics;
pub use crate::server::{ListenError, Listener, TlsError, server_config};
pub use crate::service::{Encode, Record, Telemetry};

/// Serves the API on all listeners until `closing` is cancelled; then takes no new requests, gives
/// running ones [`limits::DRAIN`] and returns.
pub async fn serve(
    engine: Engine,
    config: Config,
    listeners: Vec<Listener>,
    closing: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let (telemetry, origins) = (config.telemetry.clone(), config.allowed_origins.clone());
    let product = engine.version().version.clone();
    let api = Arc::new(api::Api::new(engine, config, tracker.clone(), closing.clone()));
    let router = handlers::routes(api);
    let service = service::Service::new(router, &product, telemetry, origins);
    server::serve(service, listeners, tracker, closing).await;
}
