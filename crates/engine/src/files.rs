//! The files that name a container and its neighbours: hosts, hostname and resolv.conf.
//!
//! They lie in the container's directory and are bound over the image's. They are written afresh
//! at each start, when the addresses are known.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use pouch_network::{DnsSettings, HostLine, hostname_file, hosts_file, resolv_conf};
use pouch_oci::NetworkNamespace;
use pouch_types::spec::NetworkMode;

use crate::EngineError;
use crate::container::Container;
use crate::container::record::Record;
use crate::engine::Inner;
use crate::view::EndpointView;

/// File name in the container's directory, path in the container.
pub(crate) const NAME_FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// Public servers for a host whose own are all on its loopback, as Docker's.
const FALLBACK: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 8, 8)),
    IpAddr::V4(std::net::Ipv4Addr::new(8, 8, 4, 4)),
];

/// Makes the files empty, so that they can be bound before the network is there.
pub(crate) fn touch(dir: &Path) -> Result<(), EngineError> {
    for (name, _) in NAME_FILES {
        let path = dir.join(name);
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| EngineError::io(format!("create {}", path.display()), e))?;
    }
    Ok(())
}

pub(crate) fn write(
    engine: &Inner,
    container: &Container,
    record: &Record,
    network: &NetworkNamespace,
    hostname: &str,
    endpoints: &[EndpointView],
) -> Result<(), EngineError> {
    let spec = &record.spec;
    let wrap = |e: pouch_network::NameError| EngineError::wrap("write the name files", e);
    if let NetworkMode::Container(key) = &spec.network.mode {
        // Who shares a network shares its names.
        let other = engine.index.find(key)?.view();
        for (name, _) in NAME_FILES {
            if let Ok(text) = fs::read(other.dir.join(name)) {
                put(&container.dir, name, &text)?;
            }
        }
        return Ok(());
    }
    let host = matches!(network, NetworkNamespace::Host);
    let host_file = host.then(|| fs::read_to_string("/etc/hosts").unwrap_or_default());
    let own = endpoints
        .iter()
        .filter_map(|e| e.ipv4)
        .map(|ip| HostLine::own(IpAddr::V4(ip), hostname, &spec.domainname));
    let lines: Vec<HostLine> = links(engine, record)?.into_iter().chain(own).collect();
    let gateway = endpoints.iter().find_map(|e| e.gateway).map(IpAddr::V4);
    let gateway = gateway.or_else(|| host.then(|| engine.networks.host_gateway()));
    let hosts = hosts_file(host_file.as_deref(), &lines, &spec.network.extra_hosts, gateway)
        .map_err(wrap)?;
    let asked = &spec.network;
    let config = &engine.config;
    let or = |own: &[String], default: &[String]| {
        if own.is_empty() { default.to_vec() } else { own.to_vec() }
    };
    let settings = DnsSettings {
        servers: if asked.dns.is_empty() { config.dns.clone() } else { asked.dns.clone() },
        search: or(&asked.dns_search, &config.dns_search),
        options: or(&asked.dns_options, &config.dns_options),
    };
    let host_resolv = pouch_network::read_host_resolv_conf().unwrap_or_default();
    let untouched =
        settings.servers.is_empty() && settings.search.is_empty() && settings.options.is_empty();
    let resolv = if host && untouched {
        host_resolv
    } else {
        resolv_conf(&host_resolv, &settings, &FALLBACK).map_err(wrap)?
    };
    put(&container.dir, "hosts", hosts.as_bytes())?;
    put(&container.dir, "hostname", hostname_file(hostname).map_err(wrap)?.as_bytes())?;
    put(&container.dir, "resolv.conf", resolv.as_bytes())
}

/// Lines for `--link`: the other container's address under its alias, its name and its id.
fn links(engine: &Inner, record: &Record) -> Result<Vec<HostLine>, EngineError> {
    let mut lines = Vec::new();
    for link in &record.spec.network.links {
        let (key, alias) = link.split_once(':').unwrap_or((link, link));
        let other = engine.index.find(key)?.view();
        let address = other.endpoints.iter().find_map(|e| e.ipv4).ok_or_else(|| {
            EngineError::conflict(format!(
                "cannot link to a non running container: /{}",
                other.name
            ))
        })?;
        lines.push(HostLine {
            address: IpAddr::V4(address),
            names: vec![alias.to_owned(), other.id.short().to_owned(), other.name.to_string()],
        });
    }
    Ok(lines)
}

/// Written in place: the container may have the file bound already.
fn put(dir: &Path, name: &str, text: &[u8]) -> Result<(), EngineError> {
    let path = dir.join(name);
    fs::write(&path, text).map_err(|e| EngineError::io(format!("write {}", path.display()), e))
}
