//! Starting, stopping and waiting for containers.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::post;
use futures::{StreamExt, stream};
use http::{HeaderMap, header};
use pouch_docker_types::container::{ContainerWait, WaitError};
use pouch_engine::{StopOptions, WaitCondition, WaitResult};
use pouch_types::Signal;

use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, JSON, Query, no_content, ok};
use crate::stream::ndjson::{Ending, line};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/wait", post(wait))
}

/// The shortest body that could be the configuration that clients before 1.22 sent.
const HOST_CONFIG_MIN: u64 = 7;

async fn start(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
    let chunked = headers.contains_key(header::TRANSFER_ENCODING);
    if chunked || length.is_some_and(|length: u64| length > HOST_CONFIG_MIN) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and \
             removed in v1.24",
        ));
    }
    if query.get("checkpoint").is_some() {
        return Err(ApiError::unsupported("starting from a checkpoint is not supported yet"));
    }
    let engine = api.engine.clone();
    api.carry_out(async move { engine.start(&id).await }).await?;
    no_content()
}

fn read_signal(text: &str) -> ApiResult<Signal> {
    text.parse().map_err(|_| ApiError::invalid(format!("Invalid signal: {text}")))
}

fn stop_options(query: &Query, version: ApiVersion) -> ApiResult<StopOptions> {
    let signal = query.get("signal").filter(|_| !version.below(42)).map(read_signal).transpose()?;
    Ok(StopOptions { timeout: query.number("t")?, signal })
}

async fn stop(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    api.engine.stop(&id, stop_options(&query, version)?).await?;
    no_content()
}

async fn restart(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    api.engine.restart(&id, stop_options(&query, version)?).await?;
    no_content()
}

async fn kill(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let signal = query.get("signal").map_or(Ok(Signal::KILL), read_signal)?;
    api.engine.kill(&id, signal).await?;
    no_content()
}

async fn pause(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    api.engine.pause(&id).await?;
    no_content()
}

async fn unpause(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    api.engine.unpause(&id).await?;
    no_content()
}

fn wait_reply(result: WaitResult) -> ContainerWait {
    let error = (!result.error.is_empty()).then_some(WaitError { message: result.error });
    ContainerWait { error, status_code: i64::from(result.exit_code) }
}

/// The header goes out at once: the CLI waits for it before it starts the container.
async fn wait(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let condition = match query.get("condition").filter(|_| !version.below(30)) {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(ApiError::invalid(format!("invalid condition: {other:?}"))),
    };
    let waiting = api.engine.wait(&id, condition)?;
    if version.below(30) {
        return ok(&wait_reply(waiting.await));
    }
    // The only way to tell clients before 1.34 of a failed removal is an empty reply.
    let silent = condition == WaitCondition::Removed && version.below(34);
    let reply = stream::once(waiting).filter_map(move |result| async move {
        let told = result.error.is_empty() || !silent;
        told.then(|| Ok::<_, std::convert::Infallible>(line(&wait_reply(result), Ending::Line)))
    });
    let reply = reply.take_until(api.closing().cancelled_owned());
    let mut response = Response::new(Body::from_stream(reply));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}
