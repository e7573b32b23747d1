//! The places where a repository may be had, and what is remembered of them.
//!
//! A *bench* is shared by all sessions: a mirror that was down, slow or wrong is passed over for a
//! while, so that it costs its patience once and not with each blob. It is asked again, without
//! haste, when nobody else can help.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::watch;

use crate::Inner;
use crate::certs::Identity;
use crate::endpoint::{DOCKER_HUB, Endpoint, Endpoints};
use crate::error::RegistryError;
use crate::hosts::{Capabilities, Host, Hosts};
use crate::rounds::Want;
use crate::transport::{Security, Tls, same_origin};

/// How long a mirror that failed is passed over; doubled each time.
const BENCH: Duration = Duration::from_secs(30);
/// At most, and for one that sent wrong bytes.
const BENCH_MAX: Duration = Duration::from_secs(600);
/// Mirrors that are remembered.
const BENCHED: usize = 1024;

/// Of Dragonfly's proxy: the registry behind it.
const DRAGONFLY_REGISTRY: HeaderName = HeaderName::from_static("x-dragonfly-registry");
/// Of Dragonfly's proxy: fetch this from peers.
const DRAGONFLY_P2P: HeaderName = HeaderName::from_static("x-dragonfly-use-p2p");
/// Of Dragonfly's proxy: the same blob of two registries is one.
const DRAGONFLY_BY_DIGEST: HeaderName =
    HeaderName::from_static("x-dragonfly-enable-task-id-based-blob-digest");
/// From Dragonfly's proxy: who failed.
const DRAGONFLY_ERROR: HeaderName = HeaderName::from_static("x-dragonfly-error-type");

/// What a source is to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The registry itself, or what `hosts.toml` puts in its place: its word is final.
    Origin,
    Mirror,
    Dragonfly,
}

/// Where a source is.
#[derive(Debug, Clone)]
enum Place {
    Known(Endpoint),
    /// A registry whose scheme is found out when it is first needed.
    Registry {
        domain: String,
        identity: Identity,
    },
}

/// One place to ask.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) kind: Kind,
    place: Place,
    pub(crate) capabilities: Capabilities,
    pub(crate) headers: HeaderMap,
    /// The registry's name, which a mirror of many registries wants to hear (`?ns=`).
    namespace: Option<String>,
}

/// The sources of a registry in the order in which they are asked; the origin is the last.
pub(crate) fn sources(domain: &str, inner: &Inner) -> Result<Vec<Source>, RegistryError> {
    let config = &inner.transport.config;
    let hosts = Hosts::find(&config.hosts_dirs, domain)?;
    let hosts = hosts.unwrap_or_default();
    let mut sources = Vec::new();
    if let Some(base) = &inner.dragonfly {
        sources.push(Source {
            kind: Kind::Dragonfly,
            place: Place::Known(plain(base.clone(), &inner.endpoints)),
            capabilities: Capabilities::READ,
            headers: HeaderMap::new(),
            namespace: None,
        });
    }
    for host in hosts.mirrors {
        sources.push(from_host(host, Kind::Mirror, domain, config.certs_dirs.as_slice())?);
    }
    if domain == "docker.io" {
        for base in &inner.mirrors {
            let mut endpoint = plain(base.clone(), &inner.endpoints);
            endpoint.tls.identity = identity(base, &config.certs_dirs)?.into();
            sources.push(Source {
                kind: Kind::Mirror,
                place: Place::Known(endpoint),
                capabilities: Capabilities::READ,
                headers: HeaderMap::new(),
                namespace: None,
            });
        }
    }
    let origin = match hosts.server {
        Some(server) if !is_registry(&server, domain) => {
            from_host(server, Kind::Origin, domain, config.certs_dirs.as_slice())?
        }
        // The registry by its own name, perhaps with certificates: it may be one that may speak
        // plain HTTP, which its entry does not say.
        server => {
            let server = server.map(|server| (server.headers, server.identity));
            let (headers, identity) =
                server.unwrap_or_else(|| (HeaderMap::new(), Identity::default()));
            let identity = if identity.is_empty() { hosts.identity } else { identity };
            let place = Place::Registry { domain: domain.to_owned(), identity };
            Source { place, headers, ..registry(domain) }
        }
    };
    sources.push(origin);
    Ok(sources)
}

fn identity(base: &Url, dirs: &[std::path::PathBuf]) -> Result<Identity, RegistryError> {
    Identity::find(dirs, &crate::transport::names(base))
}

/// A place that needs no certificate where that was agreed to.
fn plain(base: Url, endpoints: &Endpoints) -> Endpoint {
    let unverified = base.scheme() == "http" || endpoints.is_insecure(&base);
    let security = if unverified { Security::Unverified } else { Security::Verified };
    Endpoint { base, tls: Tls::new(security, Identity::default()) }
}

/// Whether the `server` of a file adds nothing to the registry's own name.
fn is_registry(server: &Host, domain: &str) -> bool {
    let own = crate::endpoint::https(crate::endpoint::host_of(domain));
    !server.skip_verify
        && server.capabilities == Capabilities::ALL
        && own.is_ok_and(|own| own == server.base)
}

fn from_host(
    host: Host,
    kind: Kind,
    domain: &str,
    certs: &[std::path::PathBuf],
) -> Result<Source, RegistryError> {
    let insecure = host.skip_verify || host.base.scheme() == "http";
    let security = if insecure { Security::Unverified } else { Security::Verified };
    let own = if host.identity.is_empty() { identity(&host.base, certs)? } else { host.identity };
    let is_own = host.base.host_str() == Some(domain)
        || domain == "docker.io" && host.base.host_str() == Some(DOCKER_HUB)
        || crate::transport::host(&host.base) == domain;
    Ok(Source {
        kind,
        place: Place::Known(Endpoint { base: host.base, tls: Tls::new(security, own) }),
        capabilities: host.capabilities,
        headers: host.headers,
        namespace: (!is_own).then(|| domain.to_owned()),
    })
}

impl Source {
    /// Where it is. May have to look first.
    pub(crate) async fn endpoint(&self, inner: &Inner) -> Result<Endpoint, RegistryError> {
        match &self.place {
            Place::Known(endpoint) => Ok(endpoint.clone()),
            Place::Registry { domain, identity } => {
                inner.endpoints.of(domain, identity, &inner.transport).await
            }
        }
    }

    /// The URL of `rest` below an endpoint of this source.
    pub(crate) fn url(&self, endpoint: &Endpoint, rest: &str) -> Result<Url, RegistryError> {
        // Path and digest were parsed: neither has a dot segment, a query or an escape.
        let joined = endpoint.base.join(rest);
        let mut url = joined.map_err(|_| RegistryError::Protocol {
            host: crate::transport::host(&endpoint.base),
            why: "has no such path".to_owned(),
        })?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whether the credentials for the registry `domain` are credentials for this place too.
    pub(crate) fn is_home_of(&self, domain: &str) -> bool {
        let Place::Known(endpoint) = &self.place else { return true };
        let Ok(own) = crate::endpoint::https(crate::endpoint::host_of(domain)) else {
            return false;
        };
        // Plain HTTP to the same host is what somebody configured for it.
        same_origin(&own, &endpoint.base)
            || endpoint.base.scheme() == "http"
                && own.host_str() == endpoint.base.host_str()
                && own.port() == endpoint.base.port()
    }

    /// What the bench knows it by.
    pub(crate) fn key(&self) -> String {
        match &self.place {
            Place::Known(endpoint) => endpoint.base.to_string(),
            Place::Registry { domain, .. } => domain.clone(),
        }
    }
}

/// The registry by its own name, whatever may be configured in its place.
pub(crate) fn registry(domain: &str) -> Source {
    let place = Place::Registry { domain: domain.to_owned(), identity: Identity::default() };
    Source {
        kind: Kind::Origin,
        place,
        capabilities: Capabilities::ALL,
        headers: HeaderMap::new(),
        namespace: None,
    }
}

/// Adds what Dragonfly's proxy needs to know of a request.
pub(crate) fn tell_dragonfly(headers: &mut HeaderMap, registry: &Url, want: Want) {
    let origin = registry.origin().ascii_serialization();
    if let Ok(value) = HeaderValue::from_str(&origin) {
        headers.insert(DRAGONFLY_REGISTRY, value);
    }
    if matches!(want, Want::Blob(_)) {
        headers.insert(DRAGONFLY_P2P, HeaderValue::from_static("true"));
        headers.insert(DRAGONFLY_BY_DIGEST, HeaderValue::from_static("true"));
    }
}

/// Whether an error that came through Dragonfly's proxy is the registry's own.
pub(crate) fn is_backend(headers: &HeaderMap) -> bool {
    headers.get(DRAGONFLY_ERROR).is_some_and(|value| value == "backend")
}

#[derive(Debug)]
struct Penalty {
    until: Instant,
    length: Duration,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Bench {
    penalties: Mutex<HashMap<String, Penalty>>,
    /// Changes with each new penalty.
    news: watch::Sender<u64>,
    /// When the Dragonfly peer last gave somebody bytes of a blob.
    heard: Mutex<Option<Instant>>,
}

/// What a source did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// It was down, slow, or ended early.
    Failed,
    /// It sent wrong bytes.
    Lied,
}

impl Bench {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Penalty>> {
        // Every critical section is one map operation.
        self.penalties.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has(&self, source: &Source) -> bool {
        self.lock().get(&source.key()).is_some_and(|p| Instant::now() < p.until)
    }

    pub(crate) fn put(&self, source: &Source, offence: Offence) {
        let now = Instant::now();
        let mut benched = self.lock();
        if benched.len() >= BENCHED {
            benched.retain(|_, penalty| now < penalty.until);
        }
        let known = benched.get(&source.key());
        let length = match (offence, known) {
            (Offence::Lied, _) => BENCH_MAX,
            // Several streams notice the same failure; it counts once.
            (Offence::Failed, Some(known)) if now < known.until => return,
            (Offence::Failed, Some(known)) => (known.length * 2).min(BENCH_MAX),
            (Offence::Failed, None) => BENCH,
        };
        benched.insert(source.key(), Penalty { until: now + length, length });
        drop(benched);
        self.news.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The Dragonfly peer gave bytes of a blob.
    pub(crate) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long it has given nobody anything.
    pub(crate) fn silence(&self) -> Duration {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.map_or(Duration::MAX, |heard| heard.elapsed())
    }

    /// Waits until a source is on the bench: who waits for it in haste need not find out again.
    pub(crate) async fn until_has(&self, source: &Source) {
        let mut news = self.news.subscribe();
        // The sender is ours, so that it cannot be gone.
        while !self.has(source) && news.changed().await.is_ok() {}
    }

    /// It does well again.
    pub(crate) fn clear(&self, source: &Source) {
        let mut benched = self.lock();
        if benched.get(&source.key()).is_some_and(|p| p.until <= Instant::now()) {
            benched.remove(&source.key());
        }
    }
}
