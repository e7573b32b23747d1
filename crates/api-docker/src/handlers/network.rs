//! Networks. Those that every engine has can be looked at; networks of users come later.

use axum::Router;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use http::StatusCode;
use pouch_docker_types::network::NetworkPrune;
use pouch_engine::EventKind;

use super::absent::not_supported;
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, Query, ok};
use crate::translate::list::{found, patterns};
use crate::translate::object::{Detail, network};

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/networks", get(list))
        .route("/networks/prune", post(prune))
        .route("/networks/create", post(not_supported))
        .route("/networks/{id}", get(inspect).delete(remove))
        .route("/networks/{id}/connect", post(not_supported))
        .route("/networks/{id}/disconnect", post(not_supported))
}

async fn list(State(api): State<Shared>, version: ApiVersion, query: Query) -> ApiResult<Response> {
    let filters = query.filters(&["dangling", "driver", "id", "label", "name", "scope", "type"])?;
    let (names, ids) = (patterns(&filters, "name")?, patterns(&filters, "id")?);
    let dangling = filters.flag("dangling").map_err(crate::http::error::bad_filter)?;
    for kind in filters.get("type") {
        if !matches!(kind, "builtin" | "custom") {
            return Err(ApiError::invalid(format!("invalid filter: 'type'='{kind}'")));
        }
    }
    let networks: Vec<_> = api
        .engine
        .networks()
        .list()
        .await?
        .iter()
        .filter(|view| {
            found(names.as_ref(), &[&view.name])
                && found(ids.as_ref(), &[view.id.as_str()])
                && filters.exact("driver", view.driver.as_str())
                && filters.exact("scope", "local")
                && filters.exact("type", "builtin")
                && filters.labels("label", &Default::default())
                // What every engine has is never left over.
                && dangling.is_none_or(|dangling| !dangling)
        })
        .map(|view| network(view, Detail::Listed, version))
        .collect();
    ok(&networks)
}

async fn inspect(
    State(api): State<Shared>,
    Path(id): Path<String>,
    version: ApiVersion,
) -> ApiResult<Response> {
    let view = api.engine.networks().inspect(&id).await?;
    ok(&network(&view, Detail::Inspected, version))
}

async fn remove(State(api): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    let view = api.engine.networks().inspect(&id).await?;
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        format!("{} is a pre-defined network and cannot be removed", view.name),
    ))
}

/// Nothing but networks of users is ever pruned.
async fn prune(State(api): State<Shared>, query: Query) -> ApiResult<Response> {
    query.filters(&["label", "label!", "until"])?;
    api.engine.announce_prune(EventKind::Network, 0);
    ok(&NetworkPrune { networks_deleted: None })
}
