//! The calls. A handler reads the request, asks the engine once, and renders its answer.

mod absent;
mod archive;
mod container;
mod exec;
mod image;
mod lifecycle;
mod network;
mod output;
mod progress;
mod remote;
mod system;
mod transfer;
mod volume;

use axum::Router;

use crate::api::Shared;

/// Every route of the API, without version prefixes.
pub(crate) fn routes(api: Shared) -> Router {
    Router::new()
        .merge(archive::routes())
        .merge(container::routes())
        .merge(exec::routes())
        .merge(image::routes())
        .merge(lifecycle::routes())
        .merge(network::routes())
        .merge(output::routes())
        .merge(remote::routes())
        .merge(system::routes())
        .merge(transfer::routes())
        .merge(volume::routes())
        .with_state(api)
        .merge(absent::routes())
}
