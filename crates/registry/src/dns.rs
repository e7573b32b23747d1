//! Names to addresses without the C library: the daemon is static, and `getaddrinfo` of a static
//! glibc loads plugins of whatever glibc the host has.
//!
//! `/etc/hosts` and `/etc/resolv.conf` are honoured; a changed `resolv.conf` is read again, because
//! the daemon outlives networks. Without any name server the local one is asked, as resolv.conf(5)
//! has it, and never somebody else's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Mutex;

const RESOLV_CONF: &str = "/etc/resolv.conf";
/// For one name with all its retries.
const DEADLINE: Duration = Duration::from_secs(15);

/// The resolver of all registry clients.
#[derive(Clone, Default)]
pub(crate) struct Resolver(Arc<Mutex<Option<Current>>>);

struct Current {
    /// Of `resolv.conf`; `None` when there is none.
    modified: Option<SystemTime>,
    resolver: TokioResolver,
}

fn build() -> Result<TokioResolver, io::Error> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
        tracing::debug!(%error, "no usable resolv.conf: asking 127.0.0.1");
        let local = NameServerConfig::udp_and_tcp(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![local]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    });
    builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    builder.build().map_err(io::Error::other)
}

impl Resolver {
    async fn current(&self) -> Result<TokioResolver, io::Error> {
        let modified = tokio::fs::metadata(RESOLV_CONF).await.and_then(|m| m.modified()).ok();
        let mut current = self.0.lock().await;
        match &*current {
            Some(known) if known.modified == modified => Ok(known.resolver.clone()),
            _ => {
                let resolver =
                    tokio::task::spawn_blocking(build).await.map_err(io::Error::other)??;
                *current = Some(Current { modified, resolver: resolver.clone() });
                Ok(resolver)
            }
        }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let lookup = async {
                let resolver = resolver.current().await?;
                resolver.lookup_ip(name.as_str()).await.map_err(io::Error::other)
            };
            let found = tokio::time::timeout(DEADLINE, lookup).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the name servers do not answer")
            })??;
            let addresses: Vec<SocketAddr> =
                found.iter().map(|address| SocketAddr::new(address, 0)).collect();
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn knows_the_hosts_file() {
        let resolver = Resolver::default();
        let name: Name = "localhost".parse().unwrap();
        let addresses: Vec<_> = resolver.resolve(name).await.unwrap().collect();
        assert!(addresses.iter().all(|a| a.ip().is_loopback()) && !addresses.is_empty());
    }
}
