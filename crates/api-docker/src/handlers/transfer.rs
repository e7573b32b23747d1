//! Images out of containers and into registries: commit, push, login.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use pouch_docker_types::IdResponse;
use pouch_docker_types::auth::{AuthConfig, AuthResponse};
use pouch_docker_types::container::ContainerConfig;
use pouch_engine::{CommitRequest, ImageNews, WhileCommitting};
use pouch_image::{Changes, Owner, Progress, PushRequest, PushWhat};
use pouch_registry::{AuthFields, Credentials};
use pouch_types::{Classified, ErrorKind};

use super::image::reference;
use super::progress;
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, Json, Query, created, ok};
use crate::translate::image;

/// Where `docker login` goes without a server.
const HUB: &str = "https://index.docker.io/v1/";

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/commit", post(commit)).route("/auth", post(login))
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
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    if query.get("platform").is_some() {
        return Err(ApiError::unsupported("pushing one platform of an image is not supported"));
    }
    let auth = headers.get("x-registry-auth").map(|value| value.to_str().unwrap_or_default());
    // As of a pull: what cannot be read counts as nobody, whom the registry will refuse.
    let credentials = Credentials::from_header(auth.unwrap_or_default()).unwrap_or_default();
    let what = match query.get("tag") {
        Some(tag) => PushWhat::Tag(reference(name, Some(tag))?),
        None => {
            let named = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
            let reference = reference(name, None)?;
            if named { PushWhat::Tag(reference) } else { PushWhat::AllTags(reference) }
        }
    };
    if what.reference().digest().is_some() {
        return Err(ApiError::invalid("cannot push a digest reference"));
    }
    let request = PushRequest { what, credentials, owner: Owner::Docker };
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

/// Tries credentials at a registry; they are kept by the client, not here.
async fn login(State(api): State<Shared>, Json(asked): Json<AuthConfig>) -> ApiResult<Response> {
    let server = Some(asked.serveraddress.as_str()).filter(|server| !server.is_empty());
    let credentials = Credentials::from_fields(AuthFields {
        username: asked.username.clone(),
        password: asked.password.expose().to_owned(),
        auth: asked.auth.expose().to_owned(),
        identity_token: asked.identitytoken.expose().to_owned(),
        registry_token: asked.registrytoken.expose().to_owned(),
    })?;
    let host = server.unwrap_or(HUB);
    let login = api.engine.images().check_login(host, &credentials).await;
    let login = login.map_err(|error| match error.kind() {
        // What `docker login` takes for wrong words and asks for again.
        ErrorKind::Denied | ErrorKind::NotFound => {
            ApiError::new(StatusCode::UNAUTHORIZED, pouch_types::error::chain(&error))
        }
        _ => error.into(),
    })?;
    ok(&AuthResponse {
        identity_token: login.identity_token.unwrap_or_default(),
        status: "Login Succeeded".to_owned(),
    })
}

pub(super) async fn search() -> ApiError {
    ApiError::unsupported(
        "searching is not supported: no registry but Docker Hub can be searched, and that has a \
         page for it",
    )
}
