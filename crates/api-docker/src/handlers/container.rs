//! Containers as objects: list, create, inspect, update, rename, remove, prune.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, get, post};
use http::StatusCode;
use jiff::Timestamp;
use pouch_docker_types::Filters;
use pouch_docker_types::container::{
    ContainerCreate, ContainerCreated, ContainerPrune, ContainerSummary, ContainerUpdate,
    ContainerUpdated, FilesystemChange, Top,
};
use pouch_engine::{ContainerView, LabelFilter, RemoveOptions, UpdateOptions};
use pouch_registry::Platform;
use pouch_snapshot::ChangeKind;
use pouch_types::{Classified, ContainerName, ErrorKind, ImageId};

use crate::api::{Api, Shared};
use crate::http::{ApiError, ApiResult, ApiVersion, Json, Query, created, no_content, ok};
use crate::translate::resources::Purpose;
use crate::translate::{container, create, list, resources, restart, time};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/containers/json", get(containers))
        .route("/containers/create", post(make))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/update", post(update))
        .route("/containers/{id}", delete(remove))
}

/// How a container's image is called now: a name that moved on to another image is none any more.
fn image_name(api: &Api, view: &ContainerView) -> String {
    match api.engine.images().resolve(&view.spec.image_name) {
        Ok(image) if image.id == view.image => view.spec.image_name.clone(),
        _ => view.image.to_string(),
    }
}

/// An entry of a list.
pub(super) fn summary(api: &Api, view: &ContainerView, version: ApiVersion) -> ContainerSummary {
    container::summary(view, image_name(api, view), Timestamp::now(), version)
}

async fn containers(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let asked = list::Asked::read(&query)?;
    let family = |name: &str, image: &ImageId| is_family(&api, name, image);
    let chosen = asked.choose(api.engine.list(), family, |name| Ok(api.engine.view(name)?))?;
    let mut summaries = Vec::with_capacity(chosen.len());
    for view in &chosen {
        let mut summary = summary(&api, view, version);
        if asked.sizes {
            // One that vanishes meanwhile is shown without sizes.
            if let Ok((own, root)) = api.engine.size(view.id.as_str()).await {
                summary.size_rw = i64::try_from(own).unwrap_or(i64::MAX);
                summary.size_root_fs = i64::try_from(root).unwrap_or(i64::MAX);
            }
        }
        summaries.push(summary);
    }
    ok(&summaries)
}

/// Whether an image is the one of a name, or was made from it.
fn is_family(api: &Api, name: &str, image: &ImageId) -> bool {
    let Ok(ancestor) = api.engine.images().resolve(name) else { return Default::default() };
    let mut next = Some(image.clone());
    // Chains are short, and a damaged one must not be walked for ever.
    for _ in 0..128 {
        match next {
            Some(id) if id == ancestor.id => return true,
            Some(id) => next = api.engine.images().get(&id).and_then(|i| i.parent.clone()),
            None => break,
        }
    }
    Default::default()
}

/// A name in a query, which may have the slash that lists show.
fn read_name(text: &str) -> ApiResult<ContainerName> {
    Ok(text.strip_prefix('/').unwrap_or(text).parse::<ContainerName>()?)
}

async fn make(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    Json(body): Json<ContainerCreate>,
) -> ApiResult<Response> {
    let name = query.get("name").map(read_name).transpose()?;
    let asked = create::read(body, version, &api.defaults)?;
    if let Some(platform) = query.get("platform").filter(|_| !version.below(41)) {
        check_platform(&api, &asked.spec.image_name, platform)?;
    }
    let image = asked.spec.image_name.clone();
    let made = api.engine.create(name, asked.spec).await.map_err(|error| {
        let missing = error.kind() == ErrorKind::NotFound;
        match ApiError::from(error) {
            // Clients take 404 for a missing image, pull it and try again.
            other if missing && api.engine.images().resolve(&image).is_ok() => {
                ApiError::invalid(other.message())
            }
            error => error,
        }
    })?;
    let mut warnings = made.warnings;
    warnings.extend(asked.warnings);
    created(&ContainerCreated { id: made.id.to_string(), warnings })
}

/// An image for another machine counts as missing: clients then pull the right one.
fn check_platform(api: &Api, image: &str, platform: &str) -> ApiResult<()> {
    let wanted: Platform = platform.parse()?;
    let Ok(found) = api.engine.images().resolve(image) else { return Ok(()) };
    let config = &found.config;
    let variant = match (&wanted.variant, &config.variant) {
        (Some(wanted), Some(found)) => wanted == found,
        _ => true,
    };
    if wanted.os == config.os && wanted.architecture == config.architecture && variant {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        format!(
            "image with reference {image} was found but its platform ({}/{}) does not match the \
             specified platform ({platform})",
            config.os, config.architecture
        ),
    ))
}

async fn inspect(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let view = api.engine.view(&id)?;
    let mut reply = container::inspect(&view, &api.defaults, version);
    api.engine.storage_driver().clone_into(&mut reply.driver);
    reply.graph_driver.name.clone_from(&reply.driver);
    // One that vanishes meanwhile is shown without.
    if let Ok(dirs) = api.engine.layer_dirs(view.id.as_str()) {
        reply.graph_driver.data.get_or_insert_default().extend(dirs);
    }
    if query.flag("size") {
        let (own, root) = api.engine.size(view.id.as_str()).await?;
        reply.size_rw = i64::try_from(own).ok();
        reply.size_root_fs = i64::try_from(root).ok();
    }
    ok(&reply)
}

async fn top(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let top = api.engine.top(&id, query.get("ps_args").unwrap_or_default()).await?;
    ok(&Top { processes: top.processes, titles: top.titles })
}

async fn changes(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    let changes: Vec<_> = api
        .engine
        .changes(&id)
        .await?
        .into_iter()
        .map(|change| FilesystemChange {
            kind: match change.kind {
                ChangeKind::Modified => 0,
                ChangeKind::Added => 1,
                ChangeKind::Deleted => 2,
            },
            path: change.path.display().to_string(),
        })
        .collect();
    // `null` for none, as dockerd has it.
    ok(&(!changes.is_empty()).then_some(changes))
}

async fn rename(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let name = query
        .get("name")
        .ok_or_else(|| ApiError::invalid("Neither old nor new names may be empty"))
        .and_then(read_name)?;
    let engine = api.engine.clone();
    api.carry_out(async move { engine.rename(&id, name).await }).await?;
    no_content()
}

async fn update(
    State(api): State<Shared>,
    Path(id): Path<String>,
    Json(body): Json<ContainerUpdate>,
) -> ApiResult<Response> {
    let restart = match body.restart_policy.name.as_str() {
        "" => None,
        _ => Some(restart::read(&body.restart_policy)?),
    };
    let resources = resources::read(body.resources, Purpose::Update)?;
    let engine = api.engine.clone();
    let options = UpdateOptions { resources, restart };
    let warnings = api.carry_out(async move { engine.update(&id, options).await }).await?;
    ok(&ContainerUpdated { warnings: (!warnings.is_empty()).then_some(warnings) })
}

async fn remove(
    State(api): State<Shared>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    if query.flag("link") {
        return Err(ApiError::unsupported("removing a link of a container is not supported"));
    }
    let options = RemoveOptions { force: query.flag("force"), volumes: query.flag("v") };
    let engine = api.engine.clone();
    api.carry_out(async move { engine.remove(&id, options).await }).await?;
    no_content()
}

/// `label` and `label!` of a prune.
pub(super) fn labels(filters: &Filters) -> LabelFilter {
    let all = |key: &str| filters.get(key).map(str::to_owned).collect();
    LabelFilter { with: all("label"), without: all("label!") }
}

/// `until` of a prune: the earliest of those given.
pub(super) fn until(filters: &Filters) -> ApiResult<Option<Timestamp>> {
    let now = Timestamp::now();
    let times = filters
        .get("until")
        .map(|text| time::read("until", text, now))
        .collect::<ApiResult<Vec<_>>>()?;
    Ok(times.into_iter().min())
}

async fn prune(State(api): State<Shared>, query: Query) -> ApiResult<Response> {
    let filters = query.filters(&["label", "label!", "until"])?;
    let (until, labels) = (until(&filters)?, labels(&filters));
    let engine = api.engine.clone();
    let pruned =
        api.carry_out(async move { engine.prune_containers(until, &labels).await }).await?;
    ok(&ContainerPrune {
        containers_deleted: (!pruned.deleted.is_empty()).then_some(pruned.deleted),
        space_reclaimed: pruned.reclaimed,
    })
}
