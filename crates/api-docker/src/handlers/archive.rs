//! Files in and out of a container: `docker cp`, `docker export`.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pouch_docker_types::archive::PathStat;
use pouch_engine::PutOptions;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::api::Shared;
use crate::http::{ApiError, ApiResult, Query, empty};

const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");
const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

/// Bytes read from an archive at once.
const CHUNK: usize = 64 * 1024;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/{id}/archive", get(fetch).head(stat).put(put))
        .route("/containers/{id}/export", get(export))
}

fn path(query: &Query) -> ApiResult<&str> {
    query.required("path")
}

fn stat_header(stat: pouch_snapshot::PathStat) -> ApiResult<HeaderValue> {
    let wire = PathStat {
        name: stat.name,
        size: i64::try_from(stat.size).unwrap_or(i64::MAX),
        mode: stat.mode,
        mtime: stat.mtime,
        link_target: stat.link_target,
    };
    let broken = || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding the path's status");
    let text = serde_json::to_vec(&wire).map_err(|_| broken())?;
    HeaderValue::try_from(STANDARD.encode(text)).map_err(|_| broken())
}

fn tar_reply(reader: impl AsyncRead + Send + 'static) -> Response {
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(reader, CHUNK)));
    response.headers_mut().insert(header::CONTENT_TYPE, TAR);
    response
}

async fn stat(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let stat = api.engine.archive_stat(&id, path(&query)?).await?;
    let mut response = empty(StatusCode::OK);
    response.headers_mut().insert(PATH_STAT, stat_header(stat)?);
    Ok(response)
}

async fn fetch(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let (stat, reader) = api.engine.archive_get(&id, path(&query)?).await?;
    let mut response = tar_reply(reader);
    response.headers_mut().insert(PATH_STAT, stat_header(stat)?);
    Ok(response)
}

async fn put(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
    body: Body,
) -> ApiResult<Response> {
    let path = path(&query)?;
    let options = PutOptions {
        no_overwrite_dir_non_dir: query.flag("noOverwriteDirNonDir"),
        copy_uid_gid: query.flag("copyUIDGID"),
    };
    let stream = body.into_data_stream().map_err(std::io::Error::other);
    // Not run on without its client: half an archive is what the client has sent.
    api.engine.archive_put(&id, path, options, StreamReader::new(stream)).await?;
    Ok(empty(StatusCode::OK))
}

async fn export(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    Ok(tar_reply(api.engine.export(&id).await?))
}
