//! Images out of containers and into registries: commit, push.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use http::HeaderMap;
use pouch_docker_types::IdResponse;
use pouch_docker_types::container::ContainerConfig;
use pouch_engine::{CommitRequest, ImageNews, WhileCommitting};
use pouch_image::{Changes, Owner, Progress, PushRequest, PushWhat};

use super::image::{is_named, reference};
use super::progress;
use super::remote::credentials;
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, Json, Query, created};
use crate::translate::{image, platform};

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/commit", post(commit))
}

async fn commit(
    State(api): State<Shared>,
    query: Query,
    Json(config): Json<Option<ContainerConfig>>,
) -> ApiResult<Response> {
    let container = query.required("container")?.to_owned();
    let reference = query.get("repo").map(|repo| reference(repo, query.get("tag"))).transpose()?;
    let pause = query.flag_or("pause", true);
    let request = CommitRequest {
        reference,
        author: query.get("author").unwrap_or_default().to_owned(),
        message: query.get("comment").unwrap_or_default().to_owned(),
        changes: Changes::parse(query.all("changes").flat_map(str::lines))?,
        config: config.map(image::read_config).transpose()?.unwrap_or_default(),
        processes: if pause { WhileCommitting::Pause } else { WhileCommitting::Run },
    };
    let engine = api.engine.clone();
    let image = api.carry_out(async move { engine.commit(&container, request).await }).await?;
    created(&IdResponse { id: image.to_string() })
}

/// `POST /images/{name}/push`.
pub(super) async fn push(
    api: &Shared,
    name: &str,
    version: ApiVersion,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let chosen = platform::chosen(query, version, 46)?;
    let what = match query.get("tag") {
        Some(tag) => PushWhat::Tag(reference(name, Some(tag))?),
        None => {
            let any = reference(name, None)?;
            if is_named(name) { PushWhat::Tag(any) } else { PushWhat::AllTags(any) }
        }
    };
    if what.reference().digest().is_some() {
        return Err(ApiError::invalid("cannot push a digest reference"));
    }
    match (&what, &chosen) {
        (PushWhat::AllTags(_), Some(_)) => {
            return Err(ApiError::unsupported("platform is not supported for all tags at once"));
        }
        (PushWhat::Tag(name), Some(_)) => {
            let name = name.familiar();
            if let Ok(image) = api.engine.images().resolve(&name) {
                platform::check(&name, &image, chosen.as_ref())?;
            }
        }
        (_, None) => {}
    }
    let request = PushRequest { what, credentials: credentials(headers), owner: Owner::Docker };
    let engine = api.engine.clone();
    let (sender, news) = Progress::channel();
    let task = Box::pin(async move {
        for (name, image) in engine.images().push(request, &sender).await? {
            engine.announce_image(ImageNews::Pushed(&name, &image));
        }
        Ok(())
    });
    progress::respond(task, news, |_| true, api.closing()).await
}
