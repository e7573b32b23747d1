//! `/images`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pouch_docker_types::Filters;
use pouch_docker_types::IdResponse;
use pouch_docker_types::auth::{AuthConfig, AuthResponse};
use pouch_docker_types::image::{
    ImageDelete, ImageHistory, ImageInspect, ImagePrune, ImageSummary, OciPlatform, SearchResult,
};
use pouch_docker_types::progress::ProgressMessage;
use tokio::io::AsyncRead;

use crate::body::{self, ReplyBody};
use crate::client::{Call, Client};
use crate::error::ClientError;
use crate::ndjson::Ndjson;
use crate::query::{Query, segment};

const REGISTRY_AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

/// What `GET /images/json` lists.
#[derive(Debug, Clone, Default)]
pub struct ListImages {
    /// Also intermediate ones.
    pub all: bool,
    /// With digests.
    pub digests: bool,
    /// Which.
    pub filters: Filters,
}

/// How an image is removed.
#[derive(Debug, Clone, Default)]
pub struct RemoveImage {
    /// Although stopped containers use it or it has other names.
    pub force: bool,
    /// Keep parents without a name.
    pub no_prune: bool,
    /// Only if it is for these machines (API 1.50).
    pub platforms: Vec<OciPlatform>,
}

/// What an image is made of, `POST /commit`.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Name or id.
    pub container: String,
    /// Name for the image; empty for none.
    pub repository: String,
    /// Its tag.
    pub tag: String,
    /// Who made it.
    pub author: String,
    /// What for.
    pub message: String,
    /// Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// Let the container's processes run meanwhile.
    pub running: bool,
}

/// What `GET /images/search` looks for.
#[derive(Debug, Clone, Default)]
pub struct SearchImages {
    /// A word, or `host/word`.
    pub term: String,
    /// Hits at most; the daemon's choice when not given.
    pub limit: Option<i64>,
    /// `is-official`, `stars`.
    pub filters: Filters,
}

/// Where an image comes from, `POST /images/create`.
#[derive(Debug, Clone, Default)]
pub struct CreateImage {
    /// Pull: name in the registry.
    pub from_image: String,
    /// Import: a URL, or `-` for the request's body.
    pub from_source: String,
    /// Import: name for the result.
    pub repository: String,
    /// Tag or digest; for a pull, empty means all tags.
    pub tag: String,
    /// Import: commit message.
    pub message: String,
    /// Import: Dockerfile instructions to apply.
    pub changes: Vec<String>,
    /// `os[/arch[/variant]]`.
    pub platform: String,
}

/// The value of `X-Registry-Auth`.
///
/// # Errors
/// Does not happen: the JSON of credentials always encodes.
pub fn encode_auth(auth: &AuthConfig) -> Result<String, ClientError> {
    let json = serde_json::to_vec(auth)
        .map_err(|source| ClientError::Decode { what: "credentials".to_owned(), source })?;
    Ok(URL_SAFE.encode(json))
}

fn path(name: &str, rest: &str) -> String {
    format!("/images/{}{rest}", segment(name))
}

impl CreateImage {
    fn call(&self, auth: Option<&AuthConfig>) -> Result<Call, ClientError> {
        let mut query = Query::new()
            .with_text("fromImage", &self.from_image)
            .with_text("fromSrc", &self.from_source)
            .with_text("repo", &self.repository)
            .with_text("tag", &self.tag)
            .with_text("message", &self.message)
            .with_text("platform", &self.platform);
        for change in &self.changes {
            query = query.with("changes", change);
        }
        with_auth(Call::post("/images/create").query(query), auth)
    }
}

/// Adds the choice of one machine, which only a daemon of a late enough version reads.
fn with_platform(query: Query, platform: Option<&OciPlatform>) -> Result<Query, ClientError> {
    match platform {
        Some(platform) => Ok(query.with("platform", &encode_platform(platform)?)),
        None => Ok(query),
    }
}

fn encode_platform(platform: &OciPlatform) -> Result<String, ClientError> {
    serde_json::to_string(platform)
        .map_err(|source| ClientError::Decode { what: "platform".to_owned(), source })
}

fn with_auth(call: Call, auth: Option<&AuthConfig>) -> Result<Call, ClientError> {
    let Some(auth) = auth else { return Ok(call) };
    let mut value = HeaderValue::from_str(&encode_auth(auth)?).map_err(|source| {
        ClientError::Request { what: "credentials".to_owned(), source: source.into() }
    })?;
    value.set_sensitive(true);
    Ok(call.header(REGISTRY_AUTH, value))
}

impl Client {
    /// `GET /images/json`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn images(&self, list: &ListImages) -> Result<Vec<ImageSummary>, ClientError> {
        let query = Query::new()
            .with_switch("all", list.all)
            .with_switch("digests", list.digests)
            .with_filters(&list.filters);
        self.json(Call::get("/images/json").query(query)).await
    }

    /// `GET /images/{name}/json`.
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageInspect, ClientError> {
        self.json(Call::get(path(name, "/json"))).await
    }

    /// [`Client::inspect_image`] undecoded; only if it is for `platform` (API 1.49).
    ///
    /// # Errors
    /// 404.
    pub async fn inspect_image_raw(
        &self,
        name: &str,
        platform: Option<&OciPlatform>,
    ) -> Result<Bytes, ClientError> {
        let query = with_platform(Query::new(), platform)?;
        self.bytes(Call::get(path(name, "/json")).query(query)).await
    }

    /// `POST /images/create` for a pull. A failure after the first byte comes as the last message.
    ///
    /// # Errors
    /// 404 when the registry does not have it.
    pub async fn pull_image(
        &self,
        create: &CreateImage,
        auth: Option<&AuthConfig>,
    ) -> Result<Ndjson<ProgressMessage>, ClientError> {
        self.ndjson(create.call(auth)?).await
    }

    /// `POST /images/create` for an import of `tar`, the body when `from_source` is `-`.
    ///
    /// # Errors
    /// 400 for a change that cannot be applied.
    pub async fn import_image<R: AsyncRead + Send + 'static>(
        &self,
        create: &CreateImage,
        tar: R,
    ) -> Result<Ndjson<ProgressMessage>, ClientError> {
        self.ndjson(create.call(None)?.body(body::stream(tar), "text/plain")).await
    }

    /// `POST /images/{name}/push`; only if it is for `platform` (API 1.46). The API wants
    /// credentials even when there are none.
    ///
    /// # Errors
    /// 404.
    pub async fn push_image(
        &self,
        name: &str,
        tag: &str,
        platform: Option<&OciPlatform>,
        auth: &AuthConfig,
    ) -> Result<Ndjson<ProgressMessage>, ClientError> {
        let query = with_platform(Query::new().with_text("tag", tag), platform)?;
        let call = Call::post(path(name, "/push")).query(query);
        self.ndjson(with_auth(call, Some(auth))?).await
    }

    /// `POST /images/{name}/tag`.
    ///
    /// # Errors
    /// 404; 400 for a malformed reference.
    pub async fn tag_image(
        &self,
        name: &str,
        repository: &str,
        tag: &str,
    ) -> Result<(), ClientError> {
        let query = Query::new().with("repo", repository).with_text("tag", tag);
        self.unit(Call::post(path(name, "/tag")).query(query)).await
    }

    /// `DELETE /images/{name}`.
    ///
    /// # Errors
    /// 404; 409 when it is in use.
    pub async fn remove_image(
        &self,
        name: &str,
        remove: &RemoveImage,
    ) -> Result<Vec<ImageDelete>, ClientError> {
        let mut query =
            Query::new().with_switch("force", remove.force).with_switch("noprune", remove.no_prune);
        for platform in &remove.platforms {
            query = query.with("platforms", &encode_platform(platform)?);
        }
        self.json(Call::delete(path(name, "")).query(query)).await
    }

    /// `GET /images/{name}/history`; only if it is for `platform` (API 1.48).
    ///
    /// # Errors
    /// 404.
    pub async fn image_history(
        &self,
        name: &str,
        platform: Option<&OciPlatform>,
    ) -> Result<Vec<ImageHistory>, ClientError> {
        let query = with_platform(Query::new(), platform)?;
        self.json(Call::get(path(name, "/history")).query(query)).await
    }

    /// `POST /images/load` of the tar archive of a save, of which only what is for `platform` is
    /// taken (API 1.48). The reply is a progress stream.
    ///
    /// # Errors
    /// 400 when it is no image archive.
    pub async fn load_images<R: AsyncRead + Send + 'static>(
        &self,
        tar: R,
        progress: Progress,
        platform: Option<&OciPlatform>,
    ) -> Result<Ndjson<ProgressMessage>, ClientError> {
        let quiet = if progress == Progress::Quiet { "1" } else { "0" };
        let call = Call::post("/images/load")
            .query(with_platform(Query::new().with("quiet", quiet), platform)?)
            .body(body::stream(tar), "application/x-tar");
        self.ndjson(call).await
    }

    /// `GET /images/get`: an archive of all the named images, if they are for `platform` (API
    /// 1.48).
    ///
    /// # Errors
    /// 404.
    pub async fn save_images(
        &self,
        names: &[String],
        platform: Option<&OciPlatform>,
    ) -> Result<ReplyBody, ClientError> {
        let query = names.iter().fold(Query::new(), |query, name| query.with("names", name));
        let query = with_platform(query, platform)?;
        Ok(self.send(Call::get("/images/get").query(query)).await?.body)
    }

    /// `POST /images/prune`.
    ///
    /// # Errors
    /// 400 for a filter that it does not know.
    pub async fn prune_images(&self, filters: &Filters) -> Result<ImagePrune, ClientError> {
        self.json(Call::post("/images/prune").query(Query::new().with_filters(filters))).await
    }

    /// `POST /commit`: an image of a container's files. Returns its id.
    ///
    /// # Errors
    /// 404; 400 for a change that cannot be applied.
    pub async fn commit(&self, commit: &Commit) -> Result<String, ClientError> {
        let mut query = Query::new()
            .with("container", &commit.container)
            .with_text("repo", &commit.repository)
            .with_text("tag", &commit.tag)
            .with_text("author", &commit.author)
            .with_text("comment", &commit.message);
        if commit.running {
            query = query.with("pause", "0");
        }
        for change in &commit.changes {
            query = query.with("changes", change);
        }
        let call = Call::post("/commit").query(query).json(&serde_json::Value::Null)?;
        Ok(self.json::<IdResponse>(call).await?.id)
    }

    /// `GET /images/search`.
    ///
    /// # Errors
    /// 400 for a filter or limit that cannot be; 501 for a registry without a search.
    pub async fn search_images(
        &self,
        search: &SearchImages,
        auth: Option<&AuthConfig>,
    ) -> Result<Vec<SearchResult>, ClientError> {
        let query = Query::new()
            .with("term", &search.term)
            .with_number("limit", search.limit)
            .with_filters(&search.filters);
        self.json(with_auth(Call::get("/images/search").query(query), auth)?).await
    }

    /// `POST /auth`: checks credentials with the registry.
    ///
    /// # Errors
    /// 401 when they are wrong.
    pub async fn login(&self, auth: &AuthConfig) -> Result<AuthResponse, ClientError> {
        self.json(Call::post("/auth").json(auth)?).await
    }
}

/// Whether a load reports its progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Layer by layer.
    Reported,
    /// Only what was loaded.
    Quiet,
}
