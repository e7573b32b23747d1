//! What is asked of a network and what it answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::SystemTime;

use pouch_types::spec::{Port, PortBinding};
use pouch_types::{ContainerId, ContainerName, NetworkId};
use serde::{Deserialize, Serialize};

use crate::mac::MacAddr;
use crate::subnet::Subnet;

/// A container that wants to be on a network.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// Who.
    pub container: ContainerId,
    /// Its name, for messages and `inspect`.
    pub name: ContainerName,
    /// Name, id or unique prefix of an id (at least 2 digits) of the network.
    pub network: String,
    /// Where the container's own namespace is pinned; `None` only with `host`.
    pub netns: Option<PathBuf>,
    /// Fixed MAC address; `None` derives it from the IPv4 address.
    pub mac: Option<MacAddr>,
    /// Fixed IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Ports to publish, ranges already split into one binding each.
    pub ports: Vec<PortBinding>,
    /// Exposed ports to publish on free host ports besides (`-P`); those that `ports` names
    /// already are passed over.
    pub publish_exposed: Vec<Port>,
}

/// An attachment as it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network.
    pub network_id: NetworkId,
    /// The network's name.
    pub network: String,
    /// 64 hex digits, new for each attachment.
    pub endpoint_id: String,
    /// Interface in the container; `None` on `host` and `none`.
    pub interface: Option<String>,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Its IPv4 configuration.
    pub ipv4: Option<Ipv4Config>,
    /// Its IPv6 address; no driver gives one yet.
    pub ipv6: Option<Ipv6Addr>,
    /// Published ports, in the order of the request. Empty on `host` and `none`, where Docker
    /// ignores them too.
    pub ports: Vec<PublishedPort>,
}

/// IPv4 configuration of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ipv4Config {
    /// The container's address.
    pub address: Ipv4Addr,
    /// Bits of the network part.
    pub prefix: u8,
    /// Next hop of the default route.
    pub gateway: Ipv4Addr,
}

/// A port of the host that leads into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Port in the container.
    pub container: Port,
    /// Host address; 0.0.0.0 means every one of the host's.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// A container that lives, as the daemon found it at its start.
#[derive(Debug, Clone)]
pub struct LiveContainer {
    /// Who.
    pub id: ContainerId,
    /// Where its namespace is pinned; `None` with the host's.
    pub netns: Option<PathBuf>,
}

/// What [`crate::Networks::reconcile`] did.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Containers whose attachment stands.
    pub kept: Vec<ContainerId>,
    /// Containers that are gone and whose leftovers were removed.
    pub released: Vec<ContainerId>,
    /// Live containers whose interface was gone and was made again.
    pub repaired: Vec<ContainerId>,
    /// What could not be put right, and for whom; the rest was done all the same.
    pub failed: Vec<(ContainerId, crate::NetworkError)>,
    /// Interfaces of ours that belonged to nobody and were removed.
    pub stray_links: Vec<String>,
}

/// Kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A Linux bridge with NAT.
    Bridge,
    /// The host's own namespace.
    Host,
    /// Nothing but loopback.
    Null,
}

impl Driver {
    /// Docker's name of the driver.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// A network as `docker network inspect` shows it. Scope is always `local`.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// Stable over restarts.
    pub id: NetworkId,
    /// Name.
    pub name: String,
    /// Kind.
    pub driver: Driver,
    /// When it was made.
    pub created: SystemTime,
    /// Subnet and gateway, where the network has addresses.
    pub ipam: Option<(Subnet, Ipv4Addr)>,
    /// `com.docker.network.bridge.*` and the like, as Docker reports them.
    pub options: BTreeMap<String, String>,
    /// Who is attached.
    pub containers: Vec<Attached>,
}

/// A container on a network.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Who.
    pub container: ContainerId,
    /// Its name when it was attached.
    pub name: String,
    /// Its attachment.
    pub endpoint: Endpoint,
}
