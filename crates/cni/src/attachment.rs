//! What is asked for, and what came of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use pouch_types::spec::Protocol;
use serde_json::{Map, Value, json};

use crate::config::is_name;
use crate::error::CniError;
use crate::result::{AddResult, Dns, Interface, IpConfig, Route};

/// A port of the host that leads to one of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortMapping {
    /// Port of the host. With 0 the port is told and not published, as the kubelet means it.
    pub host_port: u16,
    /// Port of the pod.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only this address of the host.
    pub host_ip: Option<IpAddr>,
}

/// Limits of the pod's traffic, in bits a second and bits, as the `bandwidth` capability has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// Towards the pod; 0 is no limit.
    pub ingress_rate: u64,
    /// At once towards the pod.
    pub ingress_burst: u64,
    /// From the pod; 0 is no limit.
    pub egress_rate: u64,
    /// At once from the pod.
    pub egress_burst: u64,
}

/// One interface of one pod in one network: what ADD, CHECK and DEL are about.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The pod sandbox: letters, digits, `_`, `.` and `-`.
    pub id: String,
    /// Its network namespace. DEL does without when it is gone.
    pub netns: PathBuf,
    /// The interface inside, `eth0`.
    pub ifname: String,
    /// `CNI_ARGS`: `K8S_POD_NAMESPACE` and so on, with `IgnoreUnknown` first.
    pub args: Vec<(String, String)>,
    /// For plugins with the capability `portMappings`.
    pub port_mappings: Vec<PortMapping>,
    /// For plugins with the capability `bandwidth`.
    pub bandwidth: Option<Bandwidth>,
    /// Other capabilities by name: `ips`, `mac`, `dns`, `cgroupPath`, `ipRanges`, …
    pub capabilities: BTreeMap<String, Value>,
    /// The network by name; `None` is the default for ADD, and for CHECK and DEL whatever ADD used.
    pub network: Option<String>,
}

/// An attachment that is still wanted, for [`Cni::gc`](crate::Cni::gc).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValidAttachment {
    /// The pod sandbox.
    pub id: String,
    /// Its interface.
    pub ifname: String,
}

/// What an ADD made.
#[derive(Debug, Clone)]
pub struct Added {
    /// The network used.
    pub network: String,
    /// Everything made, the host's side too.
    pub interfaces: Vec<Interface>,
    /// Addresses; those of the pod's interface first asked for come as the plugin ordered them.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<Route>,
    /// Resolver, when the network has one of its own.
    pub dns: Dns,
    /// The result in the network's version, as plugins write it.
    pub raw: Value,
}

impl Added {
    pub(crate) fn new(network: &str, result: AddResult, raw: Value) -> Self {
        let AddResult { interfaces, ips, routes, dns } = result;
        Self { network: network.to_owned(), interfaces, ips, routes, dns, raw }
    }

    /// The addresses of the pod's own interfaces: of what has a sandbox, or tells no interface.
    pub fn pod_ips(&self) -> impl Iterator<Item = IpAddr> {
        let inside = |ip: &&IpConfig| {
            let interface = ip.interface.and_then(|index| self.interfaces.get(index));
            interface.is_none_or(|interface| !interface.sandbox.is_empty())
        };
        self.ips.iter().filter(inside).map(|ip| ip.address.address())
    }
}

pub(crate) const fn transport(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl Attachment {
    /// Refuses what would become another path, another environment or another interface.
    pub(crate) fn validate(&self) -> Result<(), CniError> {
        let invalid = |what, value: &str| {
            Err(CniError::Invalid { what, value: value.chars().take(128).collect() })
        };
        if !is_name(&self.id) || self.id.len() > 200 {
            return invalid("container id", &self.id);
        }
        let plain = |b: u8| !matches!(b, b'/' | b':') && !b.is_ascii_whitespace() && b != 0;
        let ifname = &self.ifname;
        if !(1..=15).contains(&ifname.len())
            || matches!(ifname.as_str(), "." | "..")
            || !ifname.bytes().all(plain)
            || ifname.chars().any(char::is_whitespace)
        {
            return invalid("interface name", ifname);
        }
        if let Some(name) = &self.network
            && !is_name(name)
        {
            return invalid("network name", name);
        }
        for (key, value) in &self.args {
            let good = |text: &str| !text.contains([';', '=', '\0']);
            if key.is_empty() || !good(key) || !good(value) {
                return invalid("argument", &format!("{key}={value}"));
            }
        }
        for port in &self.port_mappings {
            if port.container_port == 0 {
                return invalid("container port", "0");
            }
        }
        Ok(())
    }

    /// The ports that are published.
    pub(crate) fn published(&self) -> impl Iterator<Item = &PortMapping> {
        self.port_mappings.iter().filter(|port| port.host_port != 0)
    }

    /// The capability arguments, by name, as libcni's `CapabilityArgs`.
    pub(crate) fn capability_args(&self) -> Map<String, Value> {
        let mut all: Map<String, Value> =
            self.capabilities.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let ports: Vec<_> = self
            .published()
            .map(|port| {
                let mut entry = json!({
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "protocol": transport(port.protocol),
                });
                if let (Some(ip), Value::Object(entry)) = (port.host_ip, &mut entry) {
                    entry.insert("hostIP".into(), ip.to_string().into());
                }
                entry
            })
            .collect();
        if !ports.is_empty() {
            all.insert("portMappings".into(), ports.into());
        }
        if let Some(bandwidth) = self.bandwidth {
            let limits = json!({
                "ingressRate": bandwidth.ingress_rate,
                "ingressBurst": bandwidth.ingress_burst,
                "egressRate": bandwidth.egress_rate,
                "egressBurst": bandwidth.egress_burst,
            });
            all.insert("bandwidth".into(), limits);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { id: "a".into(), ifname: "eth0".into(), ..Attachment::default() }
    }

    #[test]
    fn what_could_become_something_else_is_refused() {
        attachment().validate().unwrap();
        let mut bad = Vec::new();
        for id in ["", "a/b", "..", "-a", "a b", "a\n"] {
            bad.push(Attachment { id: id.into(), ..attachment() });
        }
        for ifname in ["", "sixteen-letters-x", "..", "a/b", "a:b", "a b", "a\u{a0}b"] {
            bad.push(Attachment { ifname: ifname.into(), ..attachment() });
        }
        for (key, value) in [("", "x"), ("a=b", "x"), ("a", "x;y=z"), ("a", "b\0")] {
            bad.push(Attachment { args: vec![(key.into(), value.into())], ..attachment() });
        }
        bad.push(Attachment { network: Some("../x".into()), ..attachment() });
        for one in bad {
            assert!(matches!(one.validate(), Err(CniError::Invalid { .. })), "{one:?}");
        }
    }

    #[test]
    fn capabilities_have_the_names_that_plugins_know() {
        let port = PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Udp,
            host_ip: Some([127, 0, 0, 1].into()),
        };
        let told = PortMapping { host_port: 0, ..port };
        let all = Attachment {
            port_mappings: vec![port, told],
            bandwidth: Some(Bandwidth { ingress_rate: 1, ..Bandwidth::default() }),
            capabilities: [("cgroupPath".to_owned(), json!("/kubepods"))].into(),
            ..attachment()
        };
        assert_eq!(
            Value::Object(all.capability_args()),
            json!({
                "cgroupPath": "/kubepods",
                "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "udp",
                                  "hostIP": "127.0.0.1"}],
                "bandwidth": {"ingressRate": 1, "ingressBurst": 0, "egressRate": 0,
                              "egressBurst": 0},
            })
        );
    }
}
