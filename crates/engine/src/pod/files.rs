//! The files that name a pod: resolv.conf, hostname and hosts, bound into each of its containers.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use pouch_network::{HostLine, hostname_file, hosts_file};
use pouch_types::pod::{PodDns, Scope};

use super::record::PodRecord;
use crate::EngineError;
use crate::engine::Inner;

/// Writes them, when the pod's addresses are known.
pub(super) fn write(engine: &Inner, record: &PodRecord) -> Result<(), EngineError> {
    let dir = engine.config.pod_dir(&record.id);
    let failed = |e: pouch_network::NameError| EngineError::wrap("write the pod's name files", e);
    let hostname = hostname(record);
    let host_hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let (base, own) = match record.spec.namespaces.network {
        Scope::Node => (Some(host_hosts.as_str()), Vec::new()),
        Scope::Pod => {
            let own = record.ips.iter().map(|ip| HostLine::own(*ip, &hostname, "")).collect();
            (None, own)
        }
    };
    let hosts = hosts_file(base, &own, &[], None).map_err(failed)?;
    let resolv = match &record.spec.dns {
        None => pouch_network::read_host_resolv_conf().unwrap_or_default(),
        Some(dns) => resolv_conf(dns),
    };
    put(&dir, "hosts", hosts.as_bytes())?;
    put(&dir, "hostname", hostname_file(&hostname).map_err(failed)?.as_bytes())?;
    put(&dir, "resolv.conf", resolv.as_bytes())
}

/// The pod's host name, or the node's.
pub(super) fn hostname(record: &PodRecord) -> String {
    if record.spec.hostname.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        record.spec.hostname.clone()
    }
}

/// As kubelet asks for it: what it does not name is not there.
fn resolv_conf(dns: &PodDns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    let servers: Vec<&IpAddr> = dns.servers.iter().collect();
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    text
}

fn put(dir: &Path, name: &str, text: &[u8]) -> Result<(), EngineError> {
    let path = dir.join(name);
    fs::write(&path, text).map_err(|e| EngineError::io(format!("write {}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_says_what_kubelet_said() {
        let dns = PodDns {
            servers: vec!["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()],
            searches: vec!["ns.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search ns.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00::a\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&PodDns::default()), "");
    }
}
