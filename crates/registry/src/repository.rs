//! One client's session with one repository: manifests, blobs, and the token that opens them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use pouch_types::{Digest, ImageRef};
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE,
    WWW_AUTHENTICATE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::Inner;
use crate::auth::{Challenge, Credentials, secret, token_service};
use crate::document::{
    Content, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Document, INDEX_DEPTH, MANIFEST_BYTES,
    Manifest, OCI_INDEX, OCI_MANIFEST, Parsed, parse, select,
};
use crate::endpoint::Endpoint;
use crate::error::{DocumentError, RegistryError};
use crate::platform::Wanted;
use crate::transport::{Request, bare, expiry, host};

/// Bytes of a token service's answer.
const TOKEN_BYTES: u64 = 1 << 20;

#[derive(Debug, Clone)]
struct Authorization {
    value: HeaderValue,
    /// `None` for credentials that do not age.
    expires: Option<SystemTime>,
}

/// See the module.
#[derive(Debug)]
pub struct Repository {
    registry: Arc<Inner>,
    reference: ImageRef,
    endpoint: Endpoint,
    credentials: Credentials,
    authorization: Mutex<Option<Authorization>>,
}

/// One image of a reference.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// What the reference itself stands for: an index or the manifest.
    pub top: Descriptor,
    /// The manifest that was chosen.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub raw: Bytes,
    /// Its content.
    pub manifest: Manifest,
}

impl Repository {
    pub(crate) fn new(
        registry: Arc<Inner>,
        reference: &ImageRef,
        endpoint: Endpoint,
        credentials: Credentials,
    ) -> Self {
        let authorization = match &credentials {
            // Meant for this registry as it is; everything else waits for the challenge.
            Credentials::RegistryToken(token) => secret(&format!("Bearer {token}"))
                .map(|value| Authorization { value, expires: None }),
            _ => None,
        };
        Self {
            registry,
            reference: reference.clone(),
            endpoint,
            credentials,
            authorization: Mutex::new(authorization),
        }
    }

    /// The reference of the session.
    #[must_use]
    pub const fn reference(&self) -> &ImageRef {
        &self.reference
    }

    /// The document of the session's own reference: its digest, or else its tag.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn document(&self) -> Result<Document, RegistryError> {
        match self.reference.digest() {
            Some(digest) => self.fetch(&digest.to_string(), Some(digest)).await,
            None => self.fetch(self.reference.tag().unwrap_or("latest"), None).await,
        }
    }

    /// The document of a digest, for example an entry of an index.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn document_of(&self, digest: &Digest) -> Result<Document, RegistryError> {
        self.fetch(&digest.to_string(), Some(digest)).await
    }

    /// The image of the session's reference for a platform.
    ///
    /// # Errors
    /// [`RegistryError::NoPlatform`] when an index has nothing for it, and all others.
    pub async fn resolve(&self, wanted: &Wanted) -> Result<Resolved, RegistryError> {
        let mut document = self.document().await?;
        let top = document.descriptor.clone();
        for _ in 0..INDEX_DEPTH {
            match document.content {
                Content::Manifest(manifest) => {
                    let Document { descriptor, raw, .. } = document;
                    return Ok(Resolved { top, descriptor, raw, manifest });
                }
                Content::Index(entries) => {
                    let entry = select(&entries, wanted)
                        .ok_or_else(|| RegistryError::NoPlatform(wanted.platform().to_string()))?;
                    document = self.document_of(&entry.digest).await?;
                }
            }
        }
        Err(self.refused(DocumentError::Nested))
    }

    /// A small blob as a whole, digest and size checked.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] over `cap`, [`RegistryError::Digest`], and all others.
    pub async fn small_blob(
        &self,
        descriptor: &Descriptor,
        cap: u64,
    ) -> Result<Bytes, RegistryError> {
        let what = "blob";
        if descriptor.size > cap {
            return Err(RegistryError::TooLarge { what, limit: cap });
        }
        let response = self.open_blob(&descriptor.digest, HeaderMap::new()).await?;
        let bytes = self.registry.transport.body(response, what, descriptor.size).await?;
        check_digest(what, &descriptor.digest, &bytes)?;
        Ok(bytes)
    }

    /// The bytes of a blob from `offset` on, or from its beginning when the registry cannot start
    /// in the middle: see [`BlobStream::start`]. No more than the descriptor's size ever comes.
    /// The digest is for the receiver to check.
    ///
    /// # Errors
    /// [`RegistryError::BlobUnknown`], and all others.
    pub async fn blob(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BlobStream<'_>, RegistryError> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let response = self.open_blob(&descriptor.digest, headers).await?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let begins = response.headers().get(CONTENT_RANGE).and_then(range_start);
                if begins != Some(offset) {
                    return Err(RegistryError::Protocol {
                        host: host(response.url()),
                        why: "answers another range than was asked for".to_owned(),
                    });
                }
                offset
            }
            _ => 0,
        };
        Ok(BlobStream {
            registry: &self.registry,
            response,
            start,
            left: descriptor.size.saturating_sub(start),
            size: descriptor.size,
        })
    }

    /// Attempts that a whole operation such as a download should be given, and the wait before
    /// attempt `n + 1`.
    #[must_use]
    pub fn back_off(&self, attempt: u32) -> Option<std::time::Duration> {
        let transport = &self.registry.transport;
        (attempt < transport.attempts()).then(|| transport.back_off(attempt))
    }

    async fn open_blob(
        &self,
        digest: &Digest,
        headers: HeaderMap,
    ) -> Result<Response, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"))?;
        let response = self.get(url, headers).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        if response.status() == StatusCode::NOT_FOUND {
            return Err(RegistryError::BlobUnknown(*digest));
        }
        Err(self.failure(response, "").await)
    }

    async fn fetch(
        &self,
        name: &str,
        expected: Option<&Digest>,
    ) -> Result<Document, RegistryError> {
        let url = self.url(&format!("manifests/{name}"))?;
        let mut headers = HeaderMap::new();
        for media_type in [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST] {
            headers.append(ACCEPT, HeaderValue::from_static(media_type));
        }
        let response = self.get(url, headers).await?;
        if !response.status().is_success() {
            return Err(self.failure(response, name).await);
        }
        let announced = header(&response, CONTENT_TYPE.as_str())
            .map(|text| text.split(';').next().unwrap_or_default().trim().to_owned())
            .unwrap_or_default();
        let claimed = header(&response, "docker-content-digest");
        let raw = self.registry.transport.body(response, "manifest", MANIFEST_BYTES).await?;
        let digest = Digest::of(&raw);
        // By tag, the registry's own word is the only thing to compare with; it is a check
        // against damage, not against the registry.
        let claimed = claimed.and_then(|text| text.parse::<Digest>().ok());
        if let Some(expected) = expected.or(claimed.as_ref()) {
            check_digest("manifest", expected, &raw)?;
        }
        match parse(&raw, &announced) {
            Ok(Parsed::Content(media_type, content)) => {
                let size = raw.len() as u64;
                let descriptor = Descriptor { media_type, digest, size, platform: None };
                Ok(Document { descriptor, raw, content })
            }
            Ok(Parsed::Schema1) => Err(RegistryError::Schema1(self.reference.familiar())),
            Err(why) => Err(self.refused(why)),
        }
    }

    fn refused(&self, why: DocumentError) -> RegistryError {
        RegistryError::Document { reference: self.reference.familiar(), why }
    }

    fn url(&self, rest: &str) -> Result<Url, RegistryError> {
        // Path and digest were parsed: neither has a dot segment, a query or an escape.
        let joined = self.endpoint.base.join(&format!("{}/{rest}", self.reference.path()));
        joined.map_err(|_| RegistryError::Protocol {
            host: host(&self.endpoint.base),
            why: "has no such path".to_owned(),
        })
    }

    /// A GET with what authorization the registry asks for.
    async fn get(&self, url: Url, mut headers: HeaderMap) -> Result<Response, RegistryError> {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let transport = &self.registry.transport;
        let request = Request { method: Method::GET, url, headers, form: None };
        let mut tried = self.current_authorization().await;
        // First as we are, then with what the challenge wants, then once more because a token can
        // expire between its making and its use.
        for _ in 0..2 {
            let authorized = request.clone().authorized(tried.clone());
            let outcome = transport.send(self.endpoint.security, &authorized).await;
            let response = outcome.inspect_err(|error| {
                if error.is_transient() {
                    self.registry.endpoints.forget(&self.endpoint);
                }
            })?;
            // A redirect may have led elsewhere, whose challenge is none of the registry's.
            let ours = host(response.url()) == host(&request.url);
            if response.status() != StatusCode::UNAUTHORIZED || !ours {
                return Ok(response);
            }
            match self.answer_challenge(&response, tried.as_ref()).await? {
                Some(value) => tried = Some(value),
                None => return Ok(response),
            }
        }
        transport.send(self.endpoint.security, &request.authorized(tried)).await
    }

    async fn current_authorization(&self) -> Option<HeaderValue> {
        let current = self.authorization.lock().await;
        current
            .as_ref()
            .filter(|a| a.expires.is_none_or(|expires| SystemTime::now() < expires))
            .map(|a| a.value.clone())
    }

    /// Gets what a 401 asks for; `None` when there is nothing better than what was refused.
    async fn answer_challenge(
        &self,
        response: &Response,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        // Held over the request: many layers ask at once, one token serves all.
        let mut current = self.authorization.lock().await;
        if let Some(fresh) = current.as_ref()
            && Some(&fresh.value) != refused
        {
            return Ok(Some(fresh.value.clone()));
        }
        let challenges = response.headers().get_all(WWW_AUTHENTICATE);
        let authorization = match Challenge::from_headers(challenges.iter()) {
            Some(Challenge::Bearer { realm, service, scope }) => {
                if matches!(self.credentials, Credentials::RegistryToken(_)) {
                    return Ok(None);
                }
                let realm = token_service(&realm, &self.endpoint.base)?;
                Some(self.token(realm, service, scope).await?)
            }
            Some(Challenge::Basic) => self
                .credentials
                .basic()
                .filter(|value| Some(value) != refused)
                .map(|value| Authorization { value, expires: None }),
            None => None,
        };
        current.clone_from(&authorization);
        Ok(authorization.map(|a| a.value))
    }

    async fn token(
        &self,
        mut realm: Url,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<Authorization, RegistryError> {
        // Ours first: a challenge must not talk us into a token for something else.
        let ours = format!("repository:{}:pull", self.reference.path());
        let scope = scope.filter(|s| s.starts_with(&ours)).unwrap_or(ours);
        let transport = &self.registry.transport;
        let service = service.unwrap_or_default();
        let form;
        let request = match &self.credentials {
            Credentials::IdentityToken(token) => {
                let mut pairs = Url::parse("x:/").map_err(|_| self.no_token(&realm))?;
                pairs
                    .query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("service", &service)
                    .append_pair("scope", &scope)
                    .append_pair("client_id", "pouch")
                    .append_pair("refresh_token", token);
                form = pairs.query().unwrap_or_default().to_owned();
                let mut request = Request::get(realm.clone());
                request.method = Method::POST;
                request.form = Some(&form);
                request
            }
            credentials => {
                let mut query = realm.query_pairs_mut();
                query.append_pair("scope", &scope);
                if !service.is_empty() {
                    query.append_pair("service", &service);
                }
                if let Credentials::Basic { username, .. } = credentials {
                    query.append_pair("account", username);
                }
                drop(query);
                Request::get(realm.clone()).authorized(credentials.basic())
            }
        };
        let same_host = realm.host_str() == self.endpoint.base.host_str();
        let security =
            if same_host { self.endpoint.security } else { crate::transport::Security::Verified };
        let response = transport.send(security, &request).await?;
        let status = response.status();
        if !status.is_success() {
            let complaint = transport.complaint(response).await;
            if matches!(status.as_u16(), 401 | 403) {
                return Err(RegistryError::Unauthorized { message: complaint.message });
            }
            return Err(RegistryError::Status {
                method: "Get",
                url: bare(&realm),
                status: status.as_u16(),
                message: complaint.message,
            });
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        let body = transport.body(response, "token", TOKEN_BYTES).await?;
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| self.no_token(&realm))?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token);
        let value = token
            .and_then(|token| secret(&format!("Bearer {token}")))
            .ok_or_else(|| self.no_token(&realm))?;
        Ok(Authorization { value, expires: Some(expiry(answer.expires_in.unwrap_or(60))) })
    }

    fn no_token(&self, realm: &Url) -> RegistryError {
        RegistryError::Protocol { host: host(realm), why: "answers without a token".to_owned() }
    }

    /// The error that an answer amounts to; `name` is the tag or digest for manifests.
    async fn failure(&self, response: Response, name: &str) -> RegistryError {
        let status = response.status();
        let url = bare(response.url());
        let complaint = self.registry.transport.complaint(response).await;
        let message = complaint.message;
        let repository = self.reference.familiar_repository();
        let denied = |words: &str, message: String, repository: String| RegistryError::Denied {
            repository,
            message: format!("{words}: {message}"),
        };
        match (status.as_u16(), complaint.code.as_str()) {
            (_, "MANIFEST_UNKNOWN") => {
                RegistryError::ManifestUnknown { reference: self.reference.familiar(), message }
            }
            (_, "NAME_UNKNOWN") => RegistryError::NameUnknown {
                repository,
                message: format!("name unknown: {message}"),
            },
            (_, "DENIED") | (403, _) => denied("denied", message, repository),
            (401, _) if self.credentials == Credentials::Anonymous => {
                denied("unauthorized", message, repository)
            }
            (_, "UNAUTHORIZED") | (401, _) => RegistryError::Unauthorized { message },
            (_, "TOOMANYREQUESTS") | (429, _) => RegistryError::RateLimited { message },
            (404, _) if !name.is_empty() => {
                RegistryError::ManifestUnknown { reference: self.reference.familiar(), message }
            }
            (status, _) => RegistryError::Status { method: "Get", url, status, message },
        }
    }
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

fn check_digest(what: &'static str, expected: &Digest, bytes: &[u8]) -> Result<(), RegistryError> {
    let actual = Digest::of(bytes);
    if actual == *expected {
        return Ok(());
    }
    Err(RegistryError::Digest { what, expected: Box::new(*expected), actual: Box::new(actual) })
}

/// The first byte of `bytes 5-9/10`.
fn range_start(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

/// A blob on its way.
#[derive(Debug)]
pub struct BlobStream<'a> {
    registry: &'a Inner,
    response: Response,
    start: u64,
    left: u64,
    size: u64,
}

impl BlobStream<'_> {
    /// Offset of the first byte that comes: the one asked for, or 0.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The next bytes; `None` after the last. A short stream is for the receiver to notice.
    ///
    /// # Errors
    /// [`RegistryError::TooLarge`] when more than the descriptor's size comes; transport errors,
    /// after which the rest can be asked for again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let chunk = self.registry.transport.chunk(&mut self.response).await?;
        if let Some(bytes) = &chunk {
            self.left = self
                .left
                .checked_sub(bytes.len() as u64)
                .ok_or(RegistryError::TooLarge { what: "blob", limit: self.size })?;
        }
        Ok(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_where_a_range_begins() {
        let start = |text: &'static str| range_start(&HeaderValue::from_static(text));
        assert_eq!(start("bytes 5-9/10"), Some(5));
        assert_eq!(start("bytes 5-9/*"), Some(5));
        for bad in ["bytes */10", "5-9", "bytes -9/10", ""] {
            assert_eq!(start(bad), None, "{bad}");
        }
    }
}
