//! What registries have: login, search, and a look at an image that is not here.

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode, Uri};
use pouch_docker_types::Filters;
use pouch_docker_types::auth::{AuthConfig, AuthResponse};
use pouch_docker_types::image::{DistributionInspect, OciDescriptor, SearchResult};
use pouch_registry::{AuthFields, Credentials, Hit};
use pouch_types::{Classified, ErrorKind};

use super::image::{reference, unescaped};
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, Json, Query, ok};
use crate::translate::platform;

/// Where `docker login` goes without a server.
const HUB: &str = "https://index.docker.io/v1/";
/// Hits of a search that names no limit.
const HITS: u32 = 25;

pub(super) fn routes() -> Router<Shared> {
    Router::new().route("/auth", post(login)).route("/distribution/{*rest}", get(distribution))
}

/// The credentials of `X-Registry-Auth`. Most calls need none, and some clients send what is none;
/// dockerd takes that for anonymous.
pub(super) fn credentials(headers: &HeaderMap) -> Credentials {
    let header = headers.get("x-registry-auth").and_then(|value| value.to_str().ok());
    Credentials::from_header(header.unwrap_or_default()).unwrap_or_default()
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

/// `GET /distribution/{name}/json`.
async fn distribution(
    State(api): State<Shared>,
    headers: HeaderMap,
    uri: Uri,
) -> ApiResult<Response> {
    let path = unescaped(uri.path().strip_prefix("/distribution/").unwrap_or_default())?;
    let name = path
        .strip_suffix("/json")
        .ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "page not found"))?;
    let offer = api.engine.images().offer(&reference(name, None)?, credentials(&headers)).await?;
    let descriptor = &offer.document.descriptor;
    let platforms = match (&offer.document.content, &offer.config) {
        (pouch_registry::Content::Index(_), _) => platform::of_index(&offer.document.raw),
        (_, Some(config)) => platform::of_config(config),
        _ => Vec::new(),
    };
    ok(&DistributionInspect {
        descriptor: OciDescriptor {
            media_type: descriptor.media_type.clone(),
            digest: descriptor.digest.to_string(),
            size: i64::try_from(descriptor.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        },
        platforms,
    })
}

/// `GET /images/search`.
pub(super) async fn search(
    State(api): State<Shared>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wanted = Wanted::read(&query.filters(&["is-automated", "is-official", "stars"])?)?;
    let limit = match query.get("limit").map(str::parse::<u32>) {
        None | Some(Ok(0)) => HITS,
        Some(Ok(limit)) => limit,
        Some(Err(error)) => {
            return Err(ApiError::invalid(format!("invalid limit specified: {error}")));
        }
    };
    let term = query.get("term").unwrap_or_default();
    let hits = api.engine.images().search(term, limit, &credentials(&headers)).await?;
    ok(&hits.into_iter().filter(|hit| wanted.takes(hit)).map(result).collect::<Vec<_>>())
}

/// The filters of a search.
struct Wanted {
    /// Automated builds, of which there are none any more.
    automated: bool,
    official: Option<bool>,
    /// At least.
    stars: i64,
}

impl Wanted {
    fn read(filters: &Filters) -> ApiResult<Self> {
        let flag = |name| filters.flag(name).map_err(crate::http::error::bad_filter);
        let mut stars = 0;
        for text in filters.get("stars") {
            let count: i64 = text.parse().map_err(|error| {
                ApiError::invalid(format!("invalid filter 'stars={text}': {error}"))
            })?;
            stars = stars.max(count);
        }
        Ok(Self {
            automated: flag("is-automated")? == Some(true),
            official: flag("is-official")?,
            stars,
        })
    }

    fn takes(&self, hit: &Hit) -> bool {
        !self.automated
            && self.official.is_none_or(|official| official == hit.official)
            && hit.stars >= self.stars
    }
}

fn result(hit: Hit) -> SearchResult {
    SearchResult {
        star_count: hit.stars,
        is_official: hit.official,
        name: hit.name,
        is_automated: Default::default(),
        description: hit.description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_of_a_search() {
        let wanted = |text: &str| Wanted::read(&Filters::parse(text).unwrap());
        let hit = |stars, official| Hit { stars, official, ..Hit::default() };
        let popular = wanted(r#"{"stars":["3","10"],"is-official":["true"]}"#).unwrap();
        assert!(popular.takes(&hit(10, true)));
        assert!(!popular.takes(&hit(9, true)) && !popular.takes(&hit(10, false)));
        assert!(wanted(r#"{"is-automated":["false"]}"#).unwrap().takes(&hit(0, false)));
        assert!(!wanted(r#"{"is-automated":["true"]}"#).unwrap().takes(&hit(0, false)));
        assert!(wanted(r#"{"stars":["many"]}"#).is_err());
        assert!(wanted(r#"{"is-official":["perhaps"]}"#).is_err());
    }
}
