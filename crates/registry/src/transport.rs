//! HTTP with bounds: deadlines on every wait, a cap on every body, redirects by hand.
//!
//! One request is one attempt here; whom to ask next, and when, is [`crate::rounds`]'s business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{AUTHORIZATION, DATE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::RegistryConfig;
use crate::body::{Body, Pace};
use crate::certs::Identity;
use crate::dns::Resolver;
use crate::error::RegistryError;

/// Bytes of an error's body that are read.
const ERROR_BYTES: u64 = 64 << 10;
/// Redirects of one request.
const REDIRECTS: usize = 5;
/// The longest `Retry-After` that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The longest back-off.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Clients that are kept, one for each set of certificates.
const CLIENTS: usize = 64;

/// Whether a host must prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// TLS with a certificate that the system or the host's own CAs trust.
    Verified,
    /// TLS with any certificate, or plain HTTP.
    Unverified,
}

/// How a host is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tls {
    pub(crate) security: Security,
    pub(crate) identity: Arc<Identity>,
}

impl Tls {
    pub(crate) fn new(security: Security, identity: Identity) -> Self {
        Self { security, identity: Arc::new(identity) }
    }
}

/// What a request carries.
#[derive(Clone, Default)]
pub(crate) enum Payload {
    #[default]
    Empty,
    /// Fields of a form, secrets among them.
    Form(String),
    Bytes(Bytes),
    /// Makes the body anew for each attempt, with its length.
    Stream(Arc<dyn Fn() -> reqwest::Body + Send + Sync>, u64),
}

/// One request.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
}

impl Request {
    pub(crate) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), payload: Payload::Empty }
    }

    pub(crate) fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
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
    pub(crate) config: RegistryConfig,
    resolver: Resolver,
    clients: Mutex<HashMap<Tls, Client>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Transport {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        // One provider for the process. An error says that there is one already, which will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { config, resolver: Resolver::default(), clients: Mutex::default() }
    }

    /// The client for a host. Made when first needed: without CA certificates on the machine it
    /// cannot be made, and a registry on loopback needs none.
    fn client(&self, tls: &Tls) -> Result<Client, RegistryError> {
        let known = || self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = known().get(tls) {
            return Ok(client.clone());
        }
        let mut builder = Client::builder()
            .user_agent(concat!("pouch/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(self.config.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .dns_resolver(Arc::new(self.resolver.clone()));
        for pem in &tls.identity.cas {
            let list = reqwest::Certificate::from_pem_bundle(pem).map_err(RegistryError::Client)?;
            builder = builder.tls_certs_merge(list);
        }
        if let Some(pem) = &tls.identity.client {
            let identity = reqwest::Identity::from_pem(&pem.0).map_err(RegistryError::Client)?;
            builder = builder.identity(identity);
        }
        if tls.security == Security::Unverified {
            // These are loopback and hosts of the own network: a proxy does not know them.
            builder = builder.no_proxy().tls_danger_accept_invalid_certs(true);
        }
        let client = builder.build().map_err(RegistryError::Client)?;
        let mut known = known();
        if known.len() >= CLIENTS {
            known.clear();
        }
        known.insert(tls.clone(), client.clone());
        Ok(client)
    }

    /// What the files say of TLS with a host that nothing else is known of.
    pub(crate) async fn tls_of(&self, url: &Url) -> Result<Tls, RegistryError> {
        let dirs = self.config.certs_dirs.clone();
        if dirs.is_empty() || url.scheme() != "https" {
            return Ok(Tls::new(Security::Verified, Identity::default()));
        }
        let names = names(url);
        let found = tokio::task::spawn_blocking(move || Identity::find(&dirs, &names)).await;
        let identity = found.unwrap_or_else(|_| Ok(Identity::default()))?;
        Ok(Tls::new(Security::Verified, identity))
    }

    /// TLS with a host that `first` names: it may have a certificate of the same private CA, but
    /// our own certificate stays at home, and so does the leave to check none.
    pub(crate) async fn tls_beside(&self, url: &Url, first: &Tls) -> Result<Tls, RegistryError> {
        let own = self.tls_of(url).await?;
        let mut identity: Identity = (*own.identity).clone();
        identity.cas.extend(first.identity.cas.iter().cloned());
        Ok(Tls::new(Security::Verified, identity))
    }

    /// The wait before attempt `attempt + 1`: doubled each time, and spread, so that clients that
    /// failed together do not come back together.
    pub(crate) fn back_off(&self, attempt: u32) -> Duration {
        let factor = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
        let whole = self.config.back_off.saturating_mul(factor).min(BACK_OFF_MAX);
        let random = getrandom::u32().unwrap_or(u32::MAX);
        whole.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// Sends a request and follows redirects. The answer may be an error status.
    pub(crate) async fn follow(
        &self,
        tls: &Tls,
        mut request: Request,
    ) -> Result<Response, RegistryError> {
        let mut tls = tls.clone();
        for _ in 0..=REDIRECTS {
            let response = self.once(&tls, &request).await?;
            let location = match response.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => response.headers().get(LOCATION),
                _ => None,
            };
            let Some(location) = location else { return Ok(response) };
            let refuse =
                |why: &str| RegistryError::Unsafe { host: host(&request.url), why: why.to_owned() };
            match request.payload {
                Payload::Empty => {}
                Payload::Form(_) => {
                    return Err(refuse("redirects a request that carries credentials"));
                }
                _ => return Err(refuse("redirects an upload")),
            }
            let target = location
                .to_str()
                .ok()
                .and_then(|text| request.url.join(text).ok())
                .ok_or_else(|| refuse("redirects to what is no URL"))?;
            if !as_private(&request.url, &target) {
                return Err(refuse("redirects to a place that is not as private"));
            }
            if !same_origin(&request.url, &target) {
                // The credentials are the registry's, and so is the leave to skip its certificate.
                // Headers of ours that are no business of others go with them.
                request.headers.retain_public();
                if request.url.host_str() != target.host_str()
                    || request.url.scheme() != target.scheme()
                {
                    tls = self.tls_beside(&target, &tls).await?;
                }
            }
            request.url = target;
        }
        Err(RegistryError::Protocol {
            host: host(&request.url),
            why: format!("redirects more than {REDIRECTS} times"),
        })
    }

    /// Sends a request that carries no upload, once.
    async fn once(&self, tls: &Tls, request: &Request) -> Result<Response, RegistryError> {
        let limit = self.config.connect_timeout + self.config.idle_timeout;
        match timeout(limit, self.begin(tls, request)?).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RegistryError::Idle { host: host(&request.url), after: limit }),
        }
    }

    /// The exchange of one request, without a deadline.
    pub(crate) fn begin(
        &self,
        tls: &Tls,
        request: &Request,
    ) -> Result<impl Future<Output = Result<Response, RegistryError>> + use<>, RegistryError> {
        use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
        let client = self.client(tls)?;
        let mut built = client
            .request(request.method.clone(), request.url.clone())
            .headers(request.headers.clone());
        match &request.payload {
            Payload::Empty => {
                if !matches!(request.method, Method::GET | Method::HEAD) {
                    built = built.header(CONTENT_LENGTH, 0);
                }
            }
            Payload::Form(form) => {
                built = built
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.clone());
            }
            Payload::Bytes(bytes) => built = built.body(bytes.clone()),
            Payload::Stream(make, length) => {
                built = built.header(CONTENT_LENGTH, *length).body(make());
            }
        }
        let (method, url) = (request.method.clone(), request.url.clone());
        Ok(async move { built.send().await.map_err(|error| broken(&method, &url, error)) })
    }

    /// Reads a body of at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        response: Response,
        what: &'static str,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        Body::new(response, self.patient()).collect(what, limit).await
    }

    /// How long a registry itself is waited for.
    pub(crate) fn patient(&self) -> Pace {
        Pace::registry(self.config.idle_timeout)
    }

    /// How long a mirror is waited for.
    pub(crate) fn strict(&self) -> Pace {
        Pace::mirror(self.config.mirror_patience, self.config.mirror_pace)
    }

    /// The registry's words in an error answer, `code: message`, and the first code.
    pub(crate) async fn complaint(&self, response: Response, pace: Pace) -> Complaint {
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
        let body = Body::new(response, pace).collect("error message", ERROR_BYTES).await;
        let Ok(body) = body else {
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

/// Drops what only the first host may see.
trait RetainPublic {
    fn retain_public(&mut self);
}

impl RetainPublic for HeaderMap {
    fn retain_public(&mut self) {
        let secret: Vec<_> = self
            .iter()
            .filter(|(name, value)| **name == AUTHORIZATION || value.is_sensitive())
            .map(|(name, _)| name.clone())
            .collect();
        for name in secret {
            self.remove(name);
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

/// Whether the same request may be answered otherwise a moment later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

pub(crate) fn retry_after(response: &Response) -> Option<Duration> {
    let text = |name| response.headers().get(name)?.to_str().ok();
    wait(text(RETRY_AFTER)?, text(DATE))
}

/// The wait that `Retry-After` asks for, in seconds or as a date (RFC 9110, 10.2.3). A date is
/// compared with that of the answer: the clocks of two machines need not agree.
fn wait(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = retry_after.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let parse = |text: &str| rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok();
    let now = date.and_then(parse).unwrap_or_else(Timestamp::now);
    // One that has passed is no wait.
    Some(Duration::try_from(parse(retry_after)?.duration_since(now)).unwrap_or_default())
}

/// Whether `target` is as private a place as `from`. Plain HTTP was agreed to for one host, not
/// for wherever it points.
pub(crate) fn as_private(from: &Url, target: &Url) -> bool {
    match (from.scheme(), target.scheme()) {
        ("https" | "http", "https") => true,
        ("http", "http") => from.host_str() == target.host_str(),
        _ => false,
    }
}

pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// The names under which files may know the host of a URL.
pub(crate) fn names(url: &Url) -> Vec<String> {
    let bare = url.host_str().unwrap_or_default().to_owned();
    match (url.port(), url.port_or_known_default()) {
        (Some(port), _) => vec![format!("{bare}:{port}")],
        (None, Some(port)) => vec![bare.clone(), format!("{bare}:{port}")],
        (None, None) => vec![bare],
    }
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

/// A method in the words of Docker's messages.
pub(crate) fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        "PATCH" => "Patch",
        "DELETE" => "Delete",
        _ => "Get",
    }
}

pub(crate) fn broken(method: &Method, url: &Url, error: reqwest::Error) -> RegistryError {
    RegistryError::Transport { method: verb(method), url: bare(url), source: error.without_url() }
}

/// When a token that lives for `seconds` should be thought of as old.
pub(crate) fn expiry(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds.clamp(60, 3600) - 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let (now, later) = ("Sat, 21 Nov 2026 17:00:00 GMT", "Sat, 21 Nov 2026 17:00:07 GMT");
        assert_eq!(wait("7", None), Some(Duration::from_secs(7)));
        assert_eq!(wait(later, Some(now)), Some(Duration::from_secs(7)));
        assert_eq!(wait(now, Some(later)), Some(Duration::ZERO));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT", None), Some(Duration::ZERO));
        assert!(wait(later, Some("no date")).is_some());
        for bad in ["", "-1", "1.5", "soon", "2026-11-21T17:00:00Z"] {
            assert_eq!(wait(bad, Some(now)), None, "{bad}");
        }
    }
}
