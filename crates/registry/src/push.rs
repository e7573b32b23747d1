//! To a registry: what it lacks, and then the documents that name it.
//!
//! A push goes to one host, the first that may be pushed to, because half an image at each of two
//! hosts is an image at neither. Blobs are in [`crate::upload`].

use bytes::Bytes;
use pouch_types::Digest;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::OnceCell;

use crate::Repository;
use crate::auth::Credentials;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::repository::CONTENT_DIGEST;
use crate::source::{Kind, Source};
use crate::token::Authorizer;
use crate::transport::{
    PATIENCE, Payload, Request, bare, is_passing, retry_after, same_origin, verb,
};

/// Where a pushed document is to be found afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PushTo {
    /// Under the tag of the session's reference.
    Tag,
    /// Under its digest alone, as an entry of an index.
    Digest,
}

/// The right to push, of one session.
#[derive(Debug)]
pub(crate) struct Push {
    credentials: Credentials,
    target: OnceCell<Target>,
}

/// The host that takes the push.
#[derive(Debug)]
pub(crate) struct Target {
    source: Source,
    pub(crate) endpoint: Endpoint,
    pub(crate) authorizer: Authorizer,
    credentials: Credentials,
}

impl Push {
    pub(crate) fn new(credentials: Credentials) -> Self {
        Self { credentials, target: OnceCell::new() }
    }
}

impl Target {
    /// A request below `path` of the repository.
    pub(crate) fn request(
        &self,
        method: Method,
        repository: &str,
        path: &str,
    ) -> Result<Request, RegistryError> {
        let url = self.source.url(&self.endpoint, &format!("{repository}/{path}"))?;
        let mut request = Request::new(method, url);
        request.headers = self.source.headers.clone();
        Ok(request)
    }

    /// Rights for a mount: also to read the other repository.
    pub(crate) fn with_scope(&self, repository: &str, from: &str) -> Authorizer {
        let scopes =
            vec![format!("repository:{repository}:pull,push"), format!("repository:{from}:pull")];
        Authorizer::new(self.credentials.clone(), scopes)
    }
}

impl Repository {
    pub(crate) async fn target(&self) -> Result<&Target, RegistryError> {
        let make = || async {
            let session = self.session();
            let able =
                |source: &&Source| source.kind != Kind::Dragonfly && source.capabilities.push;
            let source = session
                .sources()
                .map(|(source, _)| source)
                .find(able)
                .ok_or_else(|| RegistryError::NoPush(self.reference().domain().to_owned()))?;
            let endpoint = source.endpoint(session.inner()).await?;
            let home = source.is_home_of(self.reference().domain());
            let credentials =
                if home { self.push.credentials.clone() } else { Credentials::Anonymous };
            let scopes = vec![format!("repository:{}:pull,push", self.reference().path())];
            let authorizer = Authorizer::new(credentials.clone(), scopes);
            Ok(Target { source: source.clone(), endpoint, authorizer, credentials })
        };
        self.push.target.get_or_try_init(make).await
    }

    /// Sends a request of a push, again after a passing failure.
    pub(crate) async fn ask(
        &self,
        target: &Target,
        authorizer: &Authorizer,
        request: &Request,
    ) -> Result<Response, RegistryError> {
        let session = self.session();
        let transport = session.transport();
        let ours = same_origin(&request.url, &target.endpoint.base);
        let mut attempt = 1;
        loop {
            let outcome = if ours {
                session.authorized(&target.endpoint, authorizer, request.clone()).await
            } else {
                let tls = transport.tls_of(&request.url).await?;
                transport.follow(&tls, request.clone()).await
            };
            let wait = match &outcome {
                Ok(response) if is_passing(response.status()) => retry_after(response),
                Err(error) if error.is_transient() => None,
                _ => return outcome,
            };
            let wait = wait.unwrap_or_else(|| transport.back_off(attempt));
            if attempt >= transport.config.attempts || wait > PATIENCE {
                return outcome;
            }
            drop(outcome);
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// The error that the answer to a push amounts to.
    pub(crate) async fn refusal(&self, method: &Method, response: Response) -> RegistryError {
        let transport = self.session().transport();
        let (status, url) = (response.status().as_u16(), bare(response.url()));
        let complaint = transport.complaint(response, transport.patient()).await;
        let message = complaint.message;
        let repository = self.reference().familiar_repository();
        match (status, complaint.code.as_str()) {
            (_, "DENIED") | (403, _) => {
                RegistryError::PushDenied { repository, message: format!("denied: {message}") }
            }
            (_, "UNAUTHORIZED") | (401, _) if self.push.credentials == Credentials::Anonymous => {
                let message = format!("unauthorized: {message}");
                RegistryError::PushDenied { repository, message }
            }
            (_, "UNAUTHORIZED") | (401, _) => RegistryError::Unauthorized { message },
            (_, "TOOMANYREQUESTS") | (429, _) => RegistryError::RateLimited { message },
            (_, "NAME_UNKNOWN") => RegistryError::NameUnknown { repository, message },
            _ => RegistryError::Status { method: verb(method), url, status, message },
        }
    }

    async fn has(&self, path: &str) -> Result<bool, RegistryError> {
        let target = self.target().await?;
        let mut request = target.request(Method::HEAD, self.reference().path(), path)?;
        if path.starts_with("manifests/") {
            use crate::document::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
            for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST] {
                request.headers.append(ACCEPT, HeaderValue::from_static(media_type));
            }
        }
        let response = self.ask(target, &target.authorizer, &request).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            _ => Err(self.refusal(&request.method, response).await),
        }
    }

    /// Whether the repository has a blob.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.has(&format!("blobs/{digest}")).await
    }

    /// Whether the repository has a manifest or index.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        self.has(&format!("manifests/{digest}")).await
    }

    /// Puts a manifest or index, whose blobs and entries are there already. Gives its digest.
    ///
    /// # Errors
    /// [`RegistryError::NoTag`], [`RegistryError::PushDenied`], [`RegistryError::Digest`] when the
    /// registry understood other bytes, and all others.
    pub async fn push_manifest(
        &self,
        raw: Bytes,
        media_type: &str,
        to: PushTo,
    ) -> Result<Digest, RegistryError> {
        let digest = Digest::of(&raw);
        let name = match (to, self.reference().tag()) {
            (PushTo::Digest, _) => digest.to_string(),
            (PushTo::Tag, Some(tag)) => tag.to_owned(),
            (PushTo::Tag, None) => return Err(RegistryError::NoTag(self.reference().familiar())),
        };
        let target = self.target().await?;
        let path = format!("manifests/{name}");
        let mut request = target.request(Method::PUT, self.reference().path(), &path)?;
        let kind = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Protocol {
            host: self.reference().domain().to_owned(),
            why: format!("takes no media type {media_type:?}"),
        })?;
        request.headers.insert(CONTENT_TYPE, kind);
        request.payload = Payload::Bytes(raw);
        let response = self.ask(target, &target.authorizer, &request).await?;
        if !response.status().is_success() {
            return Err(self.refusal(&request.method, response).await);
        }
        check_stored("manifest", &response, &digest)?;
        Ok(digest)
    }
}

/// Compares what the registry says that it stored.
pub(crate) fn check_stored(
    what: &'static str,
    response: &Response,
    expected: &Digest,
) -> Result<(), RegistryError> {
    let claimed = response.headers().get(CONTENT_DIGEST).and_then(|value| value.to_str().ok());
    match claimed.and_then(|text| text.parse::<Digest>().ok()) {
        Some(actual) if actual != *expected => Err(RegistryError::Digest {
            what,
            expected: Box::new(*expected),
            actual: Box::new(actual),
        }),
        _ => Ok(()),
    }
}
