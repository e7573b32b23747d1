//! Volumes.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use pouch_docker_types::volume::{VolumeCreate, VolumeList, VolumePrune};
use pouch_types::VolumeName;
use pouch_types::spec::MountKind;

use super::absent::not_a_manager;
use super::container::labels;
use crate::api::{Api, Shared};
use crate::http::{ApiError, ApiResult, ApiVersion, Json, Query, created, no_content, ok};
use crate::translate::list::{found, patterns};
use crate::translate::object::volume;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(not_a_manager))
}

/// Whether a container's mounts name the volume.
fn is_used(api: &Api, name: &VolumeName) -> bool {
    let names =
        |kind: &MountKind| matches!(kind, MountKind::Volume { name: Some(n), .. } if n == name);
    api.engine.list().iter().any(|view| {
        view.mounts
            .iter()
            .any(|mount| mount.volume.as_deref() == Some(name.as_str()) || names(&mount.spec.kind))
    })
}

async fn list(State(api): State<Shared>, query: Query) -> ApiResult<Response> {
    let filters = query.filters(&["dangling", "driver", "label", "label!", "name"])?;
    let names = patterns(&filters, "name")?;
    let dangling = filters.flag("dangling").map_err(crate::http::error::bad_filter)?;
    let volumes = api
        .engine
        .list_volumes()
        .await?
        .iter()
        .filter(|volume| {
            found(names.as_ref(), &[volume.name.as_str()])
                && filters.exact("driver", &volume.driver)
                && filters.labels("label", &volume.labels)
                && !filters.any_label("label!", &volume.labels)
                && dangling.is_none_or(|dangling| dangling != is_used(&api, &volume.name))
        })
        .map(volume)
        .collect();
    ok(&VolumeList { volumes, warnings: None })
}

/// A name in a path: one that cannot be a volume's is none that exists, which clients that try
/// several kinds of objects rely on.
fn existing(name: &str) -> ApiResult<VolumeName> {
    name.parse().map_err(|_| {
        let shown: String = name.chars().take(80).collect();
        ApiError::new(StatusCode::NOT_FOUND, format!("get {shown}: no such volume"))
    })
}

async fn inspect(State(api): State<Shared>, Path(name): Path<String>) -> ApiResult<Response> {
    ok(&volume(&api.engine.volume(&existing(&name)?).await?))
}

async fn create(State(api): State<Shared>, Json(body): Json<VolumeCreate>) -> ApiResult<Response> {
    if body.cluster_volume_spec.is_some() {
        return Err(ApiError::unsupported("ClusterVolumeSpec is not supported: it needs swarm"));
    }
    let name = match body.name.as_str() {
        "" => None,
        name => Some(name.parse::<VolumeName>()?),
    };
    let engine = api.engine.clone();
    let made = api
        .carry_out(async move {
            engine.create_volume(name, &body.driver, body.driver_opts, body.labels).await
        })
        .await?;
    created(&volume(&made))
}

async fn remove(
    State(api): State<Shared>,
    Path(name): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let (name, force) = (existing(&name)?, query.flag("force"));
    let engine = api.engine.clone();
    api.carry_out(async move { engine.remove_volume(&name, force).await }).await?;
    no_content()
}

async fn prune(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let filters = query.filters(&["all", "label", "label!"])?;
    // Before 1.42 a prune took volumes with names too.
    let all = filters.flag("all").map_err(crate::http::error::bad_filter)?;
    let all = all.unwrap_or_default() || version.below(42);
    let labels = labels(&filters);
    let engine = api.engine.clone();
    let pruned = api.carry_out(async move { engine.prune_volumes(all, &labels).await }).await?;
    ok(&VolumePrune {
        volumes_deleted: (!pruned.deleted.is_empty()).then_some(pruned.deleted),
        space_reclaimed: pruned.reclaimed,
    })
}
