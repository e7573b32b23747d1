//! The accept loop and what surrounds each connection.
//!
//! Our own loop instead of a framework's: it caps connections over all listeners, keeps a place
//! taken until the last byte of a hijacked connection, notices departed clients, and ends in
//! order: first no new requests, then what runs gets [`limits::DRAIN`], then the rest is cut.
//! Only HTTP/1.1 is spoken, which no client of this API minds and which HTTP/2's families of
//! resource attacks (SEC-46) do not reach.

mod connection;
mod listener;
mod scrape;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use connection::{Hangup, Transport};
pub use listener::{ListenError, Listener};
pub use scrape::serve_metrics;
pub use tls::{TlsError, server_config};

use crate::limits;
use crate::service::Service;

/// Pause after a failed accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves `service` on all listeners until `closing` is cancelled, then drains.
pub(crate) async fn serve(
    service: Service,
    listeners: Vec<Listener>,
    tracker: TaskTracker,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits::CONNECTIONS));
    // Cut apart from `closing`, so that running requests can finish in between.
    let cut = CancellationToken::new();
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners {
        let shared = connection::Shared {
            service: service.clone(),
            tracker: tracker.clone(),
            closing: closing.clone(),
            cut: cut.clone(),
        };
        loops.spawn(accept(listener, shared, Arc::clone(&places)));
    }
    while let Some(ended) = loops.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a listener ended");
        }
    }
    tracker.close();
    if tokio::time::timeout(limits::DRAIN, tracker.wait()).await.is_err() {
        tracing::info!(tasks = tracker.len(), "cutting connections that did not end in time");
        cut.cancel();
        let _ = tokio::time::timeout(limits::DRAIN, tracker.wait()).await;
    }
}

async fn accept(mut listener: Listener, shared: connection::Shared, places: Arc<Semaphore>) {
    loop {
        // All branches are cancel-safe: a permit or a connection is either taken or left.
        let place = tokio::select! {
            () = shared.closing.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        // The semaphore is never closed.
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            () = shared.closing.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                shared.tracker.spawn(connection::run(socket, shared.clone(), place));
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
