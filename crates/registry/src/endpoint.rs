//! Where a registry is: host, scheme, and how much its certificate matters. Mirrors will be
//! further endpoints of the same domain.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use reqwest::Url;

use crate::error::RegistryError;
use crate::transport::{Security, Transport};

/// A place to ask for a domain's repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// `https://registry-1.docker.io/v2/`
    pub(crate) base: Url,
    pub(crate) security: Security,
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

impl Endpoints {
    pub(crate) fn new(insecure: &[String]) -> Self {
        let insecure = insecure.iter().map(|text| parse(text)).collect();
        Self { insecure, known: Mutex::default() }
    }

    /// The endpoint of a domain, for example `docker.io` or `localhost:5000`.
    pub(crate) async fn of(
        &self,
        domain: &str,
        transport: &Transport,
    ) -> Result<Endpoint, RegistryError> {
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let url = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/")).map_err(|_| RegistryError::Protocol {
                host: host.to_owned(),
                why: "is no host name".to_owned(),
            })
        };
        let secure = Endpoint { base: url("https")?, security: Security::Verified };
        if !self.is_insecure(&secure.base, host) {
            return Ok(secure);
        }
        if let Some(known) = self.known().get(host) {
            return Ok(known.clone());
        }
        // As Docker does: TLS without a trusted certificate still beats no TLS.
        let tls = Endpoint { security: Security::Unverified, ..secure };
        let endpoint = if transport.answers(&tls).await.is_ok() {
            tls
        } else {
            let plain = Endpoint { base: url("http")?, security: Security::Unverified };
            transport.answers(&plain).await?;
            plain
        };
        self.known().insert(host.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    /// What was learnt of a host may be wrong after it was set up anew.
    pub(crate) fn forget(&self, endpoint: &Endpoint) {
        self.known().retain(|_, known| known != endpoint);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Endpoint>> {
        // Every critical section is one map operation.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_insecure(&self, url: &Url, host: &str) -> bool {
        let bare = url.host_str().unwrap_or_default();
        is_loopback(bare)
            || self.insecure.iter().any(|entry| match entry {
                Insecure::Host(name) => name == host || name == bare,
                Insecure::Network(network, bits) => {
                    address(bare).is_some_and(|a| within(a, *network, *bits))
                }
            })
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
        let insecure = |host: &str| {
            let url = Url::parse(&format!("https://{host}/v2/")).unwrap();
            endpoints.is_insecure(&url, host)
        };
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
