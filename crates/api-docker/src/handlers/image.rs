//! Images. Their names may hold slashes, escaped or not, so the part behind `/images/` is taken
//! apart here and not by the router.

use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures::TryStreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use pouch_docker_types::Filters;
use pouch_docker_types::image::ImagePrune;
use pouch_docker_types::progress::ProgressMessage;
use pouch_engine::ImageNews;
use pouch_image::{
    Changes, Event, ImportOptions, ListFilter, Owner, Progress, PruneFilter, PullRequest,
    RemoveOptions,
};
use pouch_registry::{Platform, Wanted};
use pouch_types::ImageRef;

use super::container::until;
use super::remote::{self, credentials};
use super::{progress, transfer};
use crate::api::Shared;
use crate::http::{ApiError, ApiResult, ApiVersion, JSON, Query, empty, ok};
use crate::stream::ndjson::{Ending, line};
use crate::translate::{image, platform as machine};

const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/images/json", get(list).delete(remove))
        .route("/images/create", post(create).delete(remove))
        .route("/images/load", post(load).delete(remove))
        .route("/images/prune", post(prune).delete(remove))
        .route("/images/get", get(save_named).delete(remove))
        .route("/images/search", get(remote::search).delete(remove))
        .route("/images/{*rest}", get(read).post(change).delete(remove))
}

async fn absent(method: Method, uri: Uri) -> ApiError {
    ApiError::unsupported(format!("{method} {} is not supported yet", uri.path()))
}

/// The image's name in a path, unescaped.
fn name_of(path: &str) -> ApiResult<String> {
    unescaped(path.strip_prefix("/images/").unwrap_or(path))
}

/// A part of a path without its escapes.
pub(super) fn unescaped(raw: &str) -> ApiResult<String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                match (digit(), digit()) {
                    (Some(high), Some(low)) => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                    _ => return Err(ApiError::invalid("invalid URL escape in path")),
                }
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid("path is not UTF-8"))
}

fn page_not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "page not found")
}

/// `GET /images/{name}/…`.
async fn read(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    uri: Uri,
) -> ApiResult<Response> {
    let path = name_of(uri.path())?;
    let (name, verb) = path.rsplit_once('/').ok_or_else(page_not_found)?;
    match verb {
        "json" => inspect(&api, name, &query, version),
        "history" => history(&api, name, &query, version),
        "get" => save(&api, &[name.to_owned()], &query, version).await,
        "attestations" => Ok(absent(Method::GET, uri).await.into_response()),
        _ => Err(page_not_found()),
    }
}

/// `POST /images/{name}/…`.
async fn change(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    headers: HeaderMap,
    uri: Uri,
) -> ApiResult<Response> {
    let path = name_of(uri.path())?;
    let (name, verb) = path.rsplit_once('/').ok_or_else(page_not_found)?;
    match verb {
        "tag" => tag(&api, name, &query).await,
        "push" => transfer::push(&api, name, version, &query, &headers).await,
        _ => Err(page_not_found()),
    }
}

fn history(api: &Shared, name: &str, query: &Query, version: ApiVersion) -> ApiResult<Response> {
    let images = api.engine.images();
    let chosen = machine::chosen(query, version, 48)?;
    machine::check(name, &*images.resolve(name)?, chosen.as_ref())?;
    ok(&images.history(name)?.iter().map(image::history).collect::<Vec<_>>())
}

fn inspect(api: &Shared, name: &str, query: &Query, version: ApiVersion) -> ApiResult<Response> {
    let chosen = machine::chosen(query, version, 49)?;
    if chosen.is_some() && query.flag("manifests") {
        let why = "conflicting options: manifests and platform options cannot both be set";
        return Err(ApiError::invalid(why));
    }
    let found = api.engine.images().resolve(name)?;
    machine::check(name, &found, chosen.as_ref())?;
    let reply = serde_json::to_value(image::inspect(&found, version));
    let mut reply = reply.map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the image: {error}"))
    })?;
    let mut config = image::always_shown(version);
    if let (Some(all), Some(set)) =
        (config.as_object_mut(), reply.get_mut("Config").and_then(|c| c.as_object_mut()))
    {
        all.append(set);
    }
    reply["Config"] = config;
    if version.below(45) {
        // Of the container that the classic builder made an image from; other builders have none.
        reply["Container"] = "".into();
        reply["ContainerConfig"] = image::always_shown(version);
    }
    ok(&reply)
}

const LIST_KEYS: [&str; 7] =
    ["before", "dangling", "label", "label!", "reference", "since", "until"];

fn list_filter(filters: &Filters, query: &Query) -> ApiResult<ListFilter> {
    let texts = |key: &str| filters.get(key).map(str::to_owned).collect::<Vec<_>>();
    Ok(ListFilter {
        intermediate: query.flag("all"),
        dangling: filters.flag("dangling").map_err(crate::http::error::bad_filter)?,
        labels: image::labels(filters, "label"),
        without_labels: image::labels(filters, "label!"),
        references: texts("reference"),
        before: texts("before"),
        since: texts("since"),
        until: until(filters)?,
    })
}

async fn list(State(api): State<Shared>, version: ApiVersion, query: Query) -> ApiResult<Response> {
    let filter = list_filter(&query.filters(&LIST_KEYS)?, &query)?;
    let images = api.engine.images();
    let found = images.list(&filter)?;
    let shared: HashMap<_, _> = if query.flag("shared-size") {
        images.usage().images.into_iter().map(|(image, bytes)| (image.id.clone(), bytes)).collect()
    } else {
        HashMap::new()
    };
    let summaries: Vec<_> = found
        .iter()
        .map(|found| {
            let shared = shared.get(&found.id).and_then(|bytes| i64::try_from(*bytes).ok());
            image::summary(found, shared.unwrap_or(-1), -1, version)
        })
        .collect();
    ok(&summaries)
}

/// Whether a name says which of the repository's images it means.
pub(super) fn is_named(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.contains('@') || last.split_once(':').is_some_and(|(_, tag)| !tag.is_empty())
}

/// A tag for what has none; the tag may be a digest.
pub(super) fn reference(name: &str, tag: Option<&str>) -> ApiResult<ImageRef> {
    // `docker pull -a` once sent the colon without a tag.
    let parsed: ImageRef = name.strip_suffix(':').unwrap_or(name).parse()?;
    Ok(match tag {
        None => parsed,
        Some(tag) if tag.contains(':') => parsed.with_digest(
            tag.parse().map_err(|_| ApiError::invalid(format!("invalid digest {tag:?}")))?,
        ),
        Some(tag) => parsed.with_tag(tag)?,
    })
}

async fn tag(api: &Shared, name: &str, query: &Query) -> ApiResult<Response> {
    let reference = reference(query.required("repo")?, query.get("tag"))?;
    let (engine, name) = (api.engine.clone(), name.to_owned());
    api.carry_out(async move { engine.tag_image(&name, &reference).await }).await?;
    Ok(empty(StatusCode::CREATED))
}

async fn remove(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    uri: Uri,
) -> ApiResult<Response> {
    let name = name_of(uri.path())?;
    if let Some(chosen) = machine::chosen_of_many(&query, version)? {
        machine::check(&name, &*api.engine.images().resolve(&name)?, Some(&chosen))?;
    }
    let options = RemoveOptions { force: query.flag("force"), no_prune: query.flag("noprune") };
    let engine = api.engine.clone();
    let removed = api.carry_out(async move { engine.remove_image(&name, options).await }).await?;
    ok(&removed.iter().map(image::removed).collect::<Vec<_>>())
}

async fn prune(State(api): State<Shared>, query: Query) -> ApiResult<Response> {
    let filters = query.filters(&["dangling", "label", "label!", "until"])?;
    // `dangling=false` is how clients say `--all`.
    let dangling = filters.flag("dangling").map_err(crate::http::error::bad_filter)?;
    let filter = PruneFilter {
        all: dangling.is_some_and(|dangling| !dangling),
        labels: image::labels(&filters, "label"),
        without_labels: image::labels(&filters, "label!"),
        until: until(&filters)?,
    };
    let engine = api.engine.clone();
    let report = api.carry_out(async move { engine.prune_images(&filter).await }).await?;
    let deleted: Vec<_> = report.removed.iter().map(image::removed).collect();
    ok(&ImagePrune {
        images_deleted: (!deleted.is_empty()).then_some(deleted),
        space_reclaimed: report.reclaimed,
    })
}

fn platform(query: &Query, version: ApiVersion) -> ApiResult<Option<Platform>> {
    let text = query.get("platform").filter(|_| !version.below(32));
    Ok(text.map(str::parse).transpose()?)
}

/// Pull, or import when there is no `fromImage`.
async fn create(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let platform = platform(&query, version)?;
    match query.get("fromImage") {
        Some(name) => pull(&api, name, &query, platform, &headers).await,
        None => import(&api, &query, platform, body).await,
    }
}

async fn pull(
    api: &Shared,
    name: &str,
    query: &Query,
    platform: Option<Platform>,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    // As dockerd does: without a tag all of them, but clients that know no better name one.
    let all = query.get("tag").is_none() && !is_named(name);
    let request = PullRequest {
        reference: reference(name, query.get("tag"))?,
        credentials: credentials(headers),
        platform: platform.map_or(Wanted::Host, Wanted::Exactly),
        owner: Owner::Docker,
    };
    let engine = api.engine.clone();
    let (sender, news) = Progress::channel();
    let task = Box::pin(async move {
        let images = engine.images();
        if all {
            images
                .pull_all_tags(request, &sender, |name, image| {
                    engine.announce_image(ImageNews::Pulled(name, image));
                })
                .await?;
            return Ok(());
        }
        let name = request.reference.clone();
        let image = images.pull(request, &sender).await?;
        engine.announce_image(ImageNews::Pulled(&name, &image));
        Ok(())
    });
    progress::respond(task, news, |_| true, api.closing()).await
}

async fn import(
    api: &Shared,
    query: &Query,
    platform: Option<Platform>,
    body: Body,
) -> ApiResult<Response> {
    let source = query.get("fromSrc").unwrap_or_default();
    if source != "-" {
        return Err(ApiError::unsupported(format!(
            "fromSrc={source:?} is not supported: send the archive with fromSrc=-"
        )));
    }
    let reference = query.get("repo").map(|repo| reference(repo, query.get("tag"))).transpose()?;
    let options = ImportOptions {
        reference: reference.clone(),
        changes: Changes::parse(query.all("changes"))?,
        message: query.get("message").unwrap_or("Imported from -").to_owned(),
        platform,
    };
    let input = body.into_data_stream().map_err(std::io::Error::other);
    let image = api.engine.images().import(input, options, Owner::Docker).await?;
    api.engine.announce_image(ImageNews::Imported(&image, reference.as_ref()));
    let message = ProgressMessage { status: image.id.to_string(), ..ProgressMessage::default() };
    let mut response = Response::new(Body::from(line(&message, Ending::CarriageReturn)));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}

async fn load(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
    body: Body,
) -> ApiResult<Response> {
    let chosen = machine::chosen(&query, version, 48)?.map_or(Wanted::Host, Wanted::Exactly);
    let input = body.into_data_stream().map_err(std::io::Error::other);
    let engine = api.engine.clone();
    let (sender, news) = Progress::channel();
    let task = Box::pin(async move {
        for image in engine.images().load_for(chosen, input, Owner::Docker, &sender).await? {
            engine.announce_image(ImageNews::Loaded(&image));
        }
        Ok(())
    });
    let tell: fn(&Event) -> bool =
        if query.flag("quiet") { |event| matches!(event, Event::Loaded(_)) } else { |_| true };
    progress::respond(task, news, tell, api.closing()).await
}

async fn save_named(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let names: Vec<String> = query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("bad parameter: names is required"));
    }
    save(&api, &names, &query, version).await
}

async fn save(
    api: &Shared,
    names: &[String],
    query: &Query,
    version: ApiVersion,
) -> ApiResult<Response> {
    let images = api.engine.images();
    if let Some(chosen) = machine::chosen(query, version, 48)? {
        for name in names {
            machine::check(name, &*images.resolve(name)?, Some(&chosen))?;
        }
    }
    let archive = images.save(names).await?;
    for image in names.iter().filter_map(|name| images.resolve(name).ok()) {
        api.engine.announce_image(ImageNews::Saved(&image));
    }
    let mut response = Response::new(Body::from_stream(archive));
    response.headers_mut().insert(header::CONTENT_TYPE, TAR);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths() {
        for (path, name) in [
            ("/images/busybox/json", "busybox/json"),
            ("/images/library%2Fx/json", "library/x/json"),
            ("/images/localhost:5000/a/b:1/tag", "localhost:5000/a/b:1/tag"),
            ("/images/sha256%3Aab", "sha256:ab"),
            ("/images/a+b", "a+b"),
        ] {
            assert_eq!(name_of(path).unwrap(), name);
        }
        for bad in ["/images/%", "/images/%2", "/images/%zz", "/images/%ff"] {
            assert!(name_of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_with_and_without_a_tag() {
        for named in ["a:1", "box:5000/a:1", "a@sha256:x", "a:1@sha256:x"] {
            assert!(is_named(named), "{named}");
        }
        for bare in ["a", "box:5000/a", "a:"] {
            assert!(!is_named(bare), "{bare}");
        }
    }

    #[test]
    fn tags_and_digests() {
        let read = |name, tag| reference(name, tag).unwrap().familiar();
        assert_eq!(read("busybox", None), "busybox:latest");
        assert_eq!(read("busybox:1", None), "busybox:1");
        assert_eq!(read("busybox:", Some("2")), "busybox:2");
        assert_eq!(read("localhost:5000/a", Some("2")), "localhost:5000/a:2");
        let digest = pouch_types::Digest::of(b"x").to_string();
        assert_eq!(read("busybox", Some(digest.as_str())), format!("busybox@{digest}"));
        for (name, tag) in [("Bad", None), ("a", Some("..")), ("a", Some("sha256:1"))] {
            assert!(reference(name, tag).is_err(), "{name}");
        }
    }
}
