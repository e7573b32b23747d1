//! Where a registry is: host, scheme, and how much its certificate matters.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;

use crate::certs::Identity;
use crate::error::RegistryError;
use crate::transport::{Request, Security, Tls, Transport, names};

/// The host that serves docker.io.
pub(crate) const DOCKER_HUB: &str = "registry-1.docker.io";
/// The registry of names without a host.
const DOCKER_IO: &str = "docker.io";
/// For one look whether a host speaks TLS or plain HTTP.
const PROBE: Duration = Duration::from_secs(10);

/// A place to ask for repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io/v2/`
    pub(crate) base: Url,
    pub(crate) tls: Tls,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Insecure {
    Host(String),
    Network(IpAddr, u32),
}

/// Finds endpoints and remembers the scheme of registries that may speak plain HTTP.
#[derive(Debug)]
pub(crate) struct Endpoints {
    insecure: Vec<Insecure>,
    known: Mutex<HashMap<String, Endpoint>>,
}

/// The host behind the name of a registry.
pub(crate) fn host_of(domain: &str) -> &str {
    if domain == DOCKER_IO { DOCKER_HUB } else { domain }
}

/// The base of the API at `host[:port]` over TLS.
pub(crate) fn https(host: &str) -> Result<Url, RegistryError> {
    let url = Url::parse(&format!("https://{host}/v2/")).ok();
    url.filter(|url| url.path() == "/v2/" && url.username().is_empty() && url.query().is_none())
        .ok_or_else(|| RegistryError::Protocol {
            host: host.to_owned(),
            why: "is no host name".to_owned(),
        })
}

impl Endpoints {
    pub(crate) fn new(insecure: &[String]) -> Self {
        let insecure = insecure.iter().map(|text| parse(text)).collect();
        Self { insecure, known: Mutex::default() }
    }

    /// The endpoint of a domain, for example `docker.io` or `localhost:5000`. `extra` are
    /// certificates of the registry that its `hosts.toml` directory holds.
    pub(crate) async fn of(
        &self,
        domain: &str,
        extra: &Identity,
        transport: &Transport,
    ) -> Result<Endpoint, RegistryError> {
        let host = host_of(domain);
        let base = https(host)?;
        let mut identity = extra.clone();
        if identity.is_empty() {
            identity = self.identity(domain, &base, transport).await?;
        }
        if !self.is_insecure(&base) {
            return Ok(Endpoint { base, tls: Tls::new(Security::Verified, identity) });
        }
        if let Some(known) = self.known().get(host)
            && *known.tls.identity == identity
        {
            return Ok(known.clone());
        }
        // As Docker does: TLS without a trusted certificate still beats no TLS.
        let tls = Endpoint { base, tls: Tls::new(Security::Unverified, identity) };
        let endpoint = if answers(transport, &tls).await.is_ok() {
            tls
        } else {
            let mut plain = tls;
            if plain.base.set_scheme("http").is_err() {
                return Err(RegistryError::Protocol {
                    host: host.to_owned(),
                    why: "is no host name".to_owned(),
                });
            }
            answers(transport, &plain).await?;
            plain
        };
        self.known().insert(host.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    /// The certificates for a registry, under the name that people use or that of its host.
    async fn identity(
        &self,
        domain: &str,
        base: &Url,
        transport: &Transport,
    ) -> Result<Identity, RegistryError> {
        let dirs = transport.config.certs_dirs.clone();
        if dirs.is_empty() {
            return Ok(Identity::default());
        }
        let mut all = vec![domain.to_owned()];
        all.extend(names(base));
        let found = tokio::task::spawn_blocking(move || Identity::find(&dirs, &all)).await;
        found.unwrap_or_else(|_| Ok(Identity::default()))
    }

    /// What was learnt of a host may be wrong after it was set up anew.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        self.known().retain(|_, known| known != endpoint);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Endpoint>> {
        // Every critical section is one map operation.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a host may do without a certificate that is trusted.
    pub(crate) fn is_insecure(&self, url: &Url) -> bool {
        let bare = url.host_str().unwrap_or_default();
        let host = crate::transport::host(url);
        is_loopback(bare)
            || self.insecure.iter().any(|entry| match entry {
                Insecure::Host(name) => *name == host || name == bare,
                Insecure::Network(network, bits) => {
                    address(bare).is_some_and(|a| within(a, *network, *bits))
                }
            })
    }
}

/// Whether anything speaks HTTP there.
async fn answers(transport: &Transport, endpoint: &Endpoint) -> Result<(), RegistryError> {
    let request = Request::get(endpoint.base.clone());
    let exchange = transport.begin(&endpoint.tls, &request)?;
    match tokio::time::timeout(PROBE, exchange).await {
        Ok(outcome) => outcome.map(drop),
        Err(_) => {
            Err(RegistryError::Idle { host: crate::transport::host(&endpoint.base), after: PROBE })
        }
    }
}

fn parse(text: &str) -> Insecure {
    let network = text.split_once('/').and_then(|(network, bits)| {
        Some(Insecure::Network(network.parse().ok()?, bits.parse().ok()?))
    });
    let bare = text.trim_start_matches("http://").trim_start_matches("https://");
    network.unwrap_or_else(|| Insecure::Host(bare.trim_end_matches('/').to_owned()))
}

fn address(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// `localhost` or an address of this machine's loopback.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || address(host).is_some_and(|a| a.is_loopback())
}

fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let prefix = |value: u128, width: u32| match width.checked_sub(bits) {
        Some(rest) => value.checked_shr(rest).unwrap_or(0),
        None => value,
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            prefix(u32::from(a).into(), 32) == prefix(u32::from(n).into(), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => prefix(a.into(), 128) == prefix(n.into(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_what_is_configured_is_insecure() {
        let entries = ["reg.lan:5000", "10.1.0.0/16", "fd00::/8", "http://other.lan/"];
        let endpoints = Endpoints::new(&entries.map(str::to_owned));
        let insecure = |host: &str| endpoints.is_insecure(&https(host).unwrap());
        for host in [
            "localhost:5000",
            "127.0.0.9",
            "[::1]:5000",
            "reg.lan:5000",
            "10.1.9.9:80",
            "[fd00::1]",
            "other.lan",
        ] {
            assert!(insecure(host), "{host}");
        }
        for host in
            ["docker.io", "reg.lan", "10.2.0.1", "localhost.evil.io", "[fe00::1]", "127.evil.io"]
        {
            assert!(!insecure(host), "{host}");
        }
        assert!(within("1.2.3.4".parse().unwrap(), "0.0.0.0".parse().unwrap(), 0));
    }
}
