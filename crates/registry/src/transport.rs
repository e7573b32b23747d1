//! HTTP with bounds: deadlines on every wait, a cap on every body, redirects by hand, and a few
//! more tries when the other side is unwell.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::RegistryConfig;
use crate::dns::Resolver;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;

/// Bytes of an error's body that are read.
const ERROR_BYTES: u64 = 64 << 10;
/// Redirects of one request.
const REDIRECTS: usize = 5;
/// The longest `Retry-After` that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest back-off.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// For a document as a whole, however it trickles.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(120);

/// Whether a host must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Security {
    /// TLS with a certificate that the system trusts.
    Verified,
    /// TLS with any certificate, or plain HTTP.
    Unverified,
}

/// One request. It has no body but a form.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) form: Option<&'a str>,
}

impl Request<'_> {
    pub(crate) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), form: None }
    }

    pub(crate) fn authorized(mut self, authorization: Option<HeaderValue>) -> Self {
        if let Some(value) = authorization {
            self.headers.insert(AUTHORIZATION, value);
        }
        self
    }
}

/// The HTTP clients.
#[derive(Debug)]
pub(crate) struct Transport {
    config: RegistryConfig,
    resolver: Resolver,
    /// Made when first needed: without CA certificates on the machine it cannot be made, and a
    /// registry on loopback needs none.
    verified: OnceCell<Client>,
    unverified: Client,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

fn builder(config: &RegistryConfig, resolver: &Resolver) -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(concat!("pouch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(config.connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .dns_resolver(std::sync::Arc::new(resolver.clone()))
}

impl Transport {
    pub(crate) fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        // One provider for the process. An error says that there is one already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let resolver = Resolver::default();
        let unverified = builder(&config, &resolver)
            // These are loopback and hosts of the own network: a proxy does not know them.
            .no_proxy()
            .tls_danger_accept_invalid_certs(true)
            .build()
            .map_err(RegistryError::Client)?;
        Ok(Self { config, resolver, verified: OnceCell::new(), unverified })
    }

    pub(crate) const fn attempts(&self) -> u32 {
        self.config.attempts
    }

    async fn client(&self, security: Security) -> Result<&Client, RegistryError> {
        match security {
            Security::Unverified => Ok(&self.unverified),
            Security::Verified => {
                let make = || async { builder(&self.config, &self.resolver).build() };
                self.verified.get_or_try_init(make).await.map_err(RegistryError::Client)
            }
        }
    }

    /// Whether anything speaks HTTP there.
    pub(crate) async fn answers(&self, endpoint: &Endpoint) -> Result<(), RegistryError> {
        let request = Request::get(endpoint.base.clone());
        self.once(endpoint.security, &request).await.map(drop)
    }

    /// Sends a request until it is answered with something else than a passing failure, and
    /// follows redirects. The answer may be an error status.
    pub(crate) async fn send(
        &self,
        security: Security,
        request: &Request<'_>,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let outcome = self.follow(security, request.clone()).await;
            let wait = match &outcome {
                Ok(response) if is_passing(response.status()) => {
                    retry_after(response).unwrap_or_else(|| self.back_off(attempt))
                }
                Err(error) if error.is_transient() => self.back_off(attempt),
                _ => return outcome,
            };
            if attempt >= self.config.attempts || wait > PATIENCE {
                return outcome;
            }
            tracing::debug!(url = %bare(&request.url), attempt, ?wait, "registry: trying again");
            // The answer's connection is of no use meanwhile.
            drop(outcome);
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    pub(crate) fn back_off(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        self.config.back_off.saturating_mul(factor).min(BACK_OFF_MAX)
    }

    async fn follow(
        &self,
        mut security: Security,
        mut request: Request<'_>,
    ) -> Result<Response, RegistryError> {
        for _ in 0..=REDIRECTS {
            let response = self.once(security, &request).await?;
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION),
                _ => None,
            };
            let Some(location) = location else { return Ok(response) };
            let refuse =
                |why: &str| RegistryError::Unsafe { host: host(&request.url), why: why.to_owned() };
            if request.form.is_some() {
                return Err(refuse("redirects a request that carries credentials"));
            }
            let target = location
                .to_str()
                .ok()
                .and_then(|text| request.url.join(text).ok())
                .ok_or_else(|| refuse("redirects to what is no URL"))?;
            match (request.url.scheme(), target.scheme()) {
                ("https", "https") => {}
                ("http", "https") => security = Security::Verified,
                // Plain HTTP was agreed to for this registry, not for wherever it points.
                ("http", "http") if request.url.host_str() == target.host_str() => {}
                _ => return Err(refuse("redirects to a place that is not as private")),
            }
            if !same_origin(&request.url, &target) {
                // The credentials are the registry's, and so is the leave to skip its certificate.
                request.headers.remove(AUTHORIZATION);
                if request.url.host_str() != target.host_str() {
                    security = Security::Verified;
                }
            }
            request.url = target;
        }
        Err(RegistryError::Protocol {
            host: host(&request.url),
            why: format!("redirects more than {REDIRECTS} times"),
        })
    }

    async fn once(
        &self,
        security: Security,
        request: &Request<'_>,
    ) -> Result<Response, RegistryError> {
        let client = self.client(security).await?;
        let mut built = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        if let Some(form) = request.form {
            built = built
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.to_owned());
        }
        let limit = self.config.connect_timeout + self.config.idle_timeout;
        match timeout(limit, built.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(transport(&request.method, &request.url, error)),
            Err(_) => Err(RegistryError::Idle { host: host(&request.url), after: limit }),
        }
    }

    /// Reads a body of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        mut response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge { what, limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let url = response.url().clone();
        let read = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = self.chunk(&mut response).await? {
                if (body.len() + chunk.len()) as u64 > limit {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        timeout(DOCUMENT_DEADLINE, read)
            .await
            .map_err(|_| RegistryError::Idle { host: host(&url), after: DOCUMENT_DEADLINE })?
    }

    /// The next bytes of a body.
    pub(crate) async fn chunk(
        &self,
        response: &mut Response,
    ) -> Result<Option<Bytes>, RegistryError> {
        let after = self.config.idle_timeout;
        match timeout(after, response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(transport(&Method::GET, response.url(), error)),
            Err(_) => Err(RegistryError::Idle { host: host(response.url()), after }),
        }
    }

    /// The registry's words in an error answer, `code: message`, and the first code.
    pub(crate) async fn complaint(&self, response: Response) -> Complaint {
        #[derive(serde::Deserialize)]
        struct Errors {
            errors: Vec<One>,
        }
        #[derive(serde::Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let status = response.status();
        let fallback = status.canonical_reason().unwrap_or("no reason given").to_lowercase();
        let Ok(body) = self.body(response, "error message", ERROR_BYTES).await else {
            return Complaint { code: String::new(), message: fallback };
        };
        let first = serde_json::from_slice::<Errors>(&body)
            .ok()
            .and_then(|errors| errors.errors.into_iter().next());
        match first {
            Some(one) => {
                let clean = |text: String, max| -> String {
                    text.chars().filter(|c| !c.is_control()).take(max).collect()
                };
                let code = clean(one.code, 60);
                let message = clean(one.message, 500);
                let message = if message.is_empty() { fallback } else { message };
                Complaint { code, message }
            }
            None => Complaint { code: String::new(), message: fallback },
        }
    }
}

/// What a registry says is wrong.
#[derive(Debug)]
pub(crate) struct Complaint {
    /// For example `MANIFEST_UNKNOWN`; empty when it does not say.
    pub(crate) code: String,
    pub(crate) message: String,
}

fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    // Registries send seconds; a date is read by nobody and falls to the back-off.
    text.trim().parse().ok().map(Duration::from_secs)
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

pub(crate) fn host(url: &Url) -> String {
    match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    }
}

/// Without the query, which may hold a signature or a token.
pub(crate) fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn transport(method: &Method, url: &Url, error: reqwest::Error) -> RegistryError {
    RegistryError::Transport {
        method: if method == Method::POST { "Post" } else { "Get" },
        url: bare(url),
        source: error.without_url(),
    }
}

/// When a token that lives for `seconds` should be thought of as old.
pub(crate) fn expiry(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds.clamp(60, 3600) - 20)
}
