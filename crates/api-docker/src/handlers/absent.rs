//! Calls that exist in the API and not (yet) here. Each says so by name: a client must be able to
//! tell a missing feature from a mistyped path.

use axum::Router;
use axum::extract::MatchedPath;
use axum::response::Response;
use axum::routing::{any, get, post};
use http::{Method, StatusCode};
use pouch_docker_types::system::BuildPrune;

use crate::http::{ApiError, ApiResult, ok};

/// dockerd's words; clients and people know them.
const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \
    \"docker swarm join\" to connect this node to swarm and try again.";

pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let mut router = Router::new()
        .route("/plugins", get(no_plugins))
        .route("/build/prune", post(nothing_cached));
    for path in [
        "/nodes",
        "/nodes/{*rest}",
        "/swarm",
        "/swarm/{*rest}",
        "/services",
        "/services/{*rest}",
        "/tasks",
        "/tasks/{*rest}",
        "/secrets",
        "/secrets/{*rest}",
        "/configs",
        "/configs/{*rest}",
    ] {
        router = router.route(path, any(not_a_manager));
    }
    for path in [
        "/build",
        "/build/cancel",
        "/session",
        "/grpc",
        "/plugins/{*rest}",
        "/containers/{id}/attach/ws",
        "/containers/{id}/checkpoints",
        "/containers/{id}/checkpoints/{*rest}",
    ] {
        router = router.route(path, any(not_supported));
    }
    router
}

pub(super) async fn not_supported(method: Method, path: MatchedPath) -> ApiError {
    ApiError::unsupported(format!("{method} {} is not supported yet", path.as_str()))
}

pub(super) async fn not_a_manager() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, NO_SWARM)
}

async fn no_plugins() -> ApiResult<Response> {
    ok::<[(); 0]>(&[])
}

/// There is no build cache, so `docker system prune` finds nothing in it.
async fn nothing_cached() -> ApiResult<Response> {
    ok(&BuildPrune { caches_deleted: None, space_reclaimed: 0 })
}
