//! What can go wrong with a network.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use pouch_netns::NetnsError;
use pouch_store::StoreError;
use pouch_types::error::io_kind;
use pouch_types::spec::Port;
use pouch_types::{Classified, ContainerId, ErrorKind};

use crate::ruleset::RulesetError;
use crate::subnet::Subnet;

/// Who holds a port of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortHolder {
    /// A container of ours.
    Container {
        /// Its id.
        id: ContainerId,
        /// Its name.
        name: String,
    },
    /// A program of the host.
    Process {
        /// Process id.
        pid: u32,
        /// What the kernel calls it, at most 15 characters.
        command: String,
    },
    /// Somebody, of whom /proc tells nothing: a kernel thread, or a process of another namespace.
    Unknown,
}

impl fmt::Display for PortHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // "port is already allocated" is what scripts written for Docker look for.
            Self::Container { id, name } => {
                write!(f, "port is already allocated by container {name} ({})", id.short())
            }
            Self::Process { pid, command } => {
                write!(f, "address already in use by {command:?} (pid {pid})")
            }
            Self::Unknown => f.write_str("address already in use"),
        }
    }
}

/// A failure of a network operation.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No network has that name or id.
    #[error("network {name} not found")]
    NoSuchNetwork {
        /// As asked for.
        name: String,
    },
    /// The container has an endpoint there.
    #[error("container {container} is already attached to network {network}")]
    AlreadyAttached {
        /// The container.
        container: ContainerId,
        /// The network's name.
        network: String,
    },
    /// A network with addresses was asked for without a namespace to put them in.
    #[error("network {network} needs a network namespace of the container's own")]
    NamespaceMissing {
        /// The network's name.
        network: String,
    },
    /// An option that the network's driver cannot honour.
    #[error("network {network} does not support {option}")]
    Option {
        /// The network's name.
        network: String,
        /// The option.
        option: &'static str,
    },
    /// IPv6 was asked for.
    #[error("cannot publish on {address}: no network with IPv6 exists")]
    Ipv6 {
        /// The host address.
        address: IpAddr,
    },
    /// Not an interface name.
    #[error("invalid bridge name {name:?}: 1 to 15 characters of [a-zA-Z0-9_.-]")]
    InvalidBridge {
        /// The name.
        name: String,
    },
    /// Not a subnet.
    #[error("invalid subnet {text:?}: want address/prefix")]
    InvalidSubnet {
        /// The text, cut.
        text: String,
    },
    /// Not a MAC address of one interface.
    #[error("invalid MAC address {text:?}")]
    InvalidMac {
        /// The text, cut.
        text: String,
    },
    /// The bridge's gateway or size does not fit its subnet.
    #[error("gateway {gateway} is not a host address of {subnet}")]
    InvalidGateway {
        /// The configured gateway.
        gateway: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// An interface of that name exists and is not this daemon's bridge.
    #[error("interface {name} exists and was not made by this daemon: {reason}")]
    NotOurs {
        /// The interface.
        name: String,
        /// What tells.
        reason: &'static str,
    },
    /// The configured subnet is in use on the host.
    #[error("subnet {subnet} overlaps {used}, which the host has a route to")]
    SubnetInUse {
        /// The subnet wanted.
        subnet: Subnet,
        /// The one in the way.
        used: Subnet,
    },
    /// Every candidate is in use.
    #[error("no free subnet: each candidate overlaps a route of the host")]
    NoFreeSubnet,
    /// The subnet cannot change while containers use it.
    #[error("the subnet of {network} is {old} and cannot become {new}: containers use it")]
    SubnetBusy {
        /// The network's name.
        network: String,
        /// As recorded.
        old: Subnet,
        /// As configured.
        new: Subnet,
    },
    /// No address is left.
    #[error("no free address in {subnet}")]
    AddressesExhausted {
        /// The subnet.
        subnet: Subnet,
    },
    /// The requested address is not one for a container.
    #[error("address {address} is not usable in {subnet}")]
    AddressUnusable {
        /// The address.
        address: Ipv4Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// The requested address belongs to somebody.
    #[error("address {address} is in use by container {holder}")]
    AddressInUse {
        /// The address.
        address: Ipv4Addr,
        /// Who has it.
        holder: String,
    },
    /// A port is held by somebody else.
    #[error("bind for {host_ip}:{host_port}/{} failed: {holder}", .protocol.as_str())]
    PortInUse {
        /// Host address asked for.
        host_ip: Ipv4Addr,
        /// Host port asked for.
        host_port: u16,
        /// Transport.
        protocol: pouch_types::spec::Protocol,
        /// Who holds it.
        holder: PortHolder,
    },
    /// No port of a range is free.
    #[error("no free port in {first}-{last} for {}/{}", .port.number, .port.protocol.as_str())]
    PortsExhausted {
        /// The container's port.
        port: Port,
        /// First port tried.
        first: u16,
        /// Last port tried.
        last: u16,
    },
    /// The request itself is contradictory.
    #[error("invalid port binding: {reason}")]
    InvalidPort {
        /// Why.
        reason: &'static str,
    },
    /// A port could not be reserved.
    #[error("cannot reserve {host_ip}:{host_port}")]
    Reserve {
        /// Host address.
        host_ip: IpAddr,
        /// Host port.
        host_port: u16,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a change of an interface, an address or a route.
    #[error("cannot {step} {name}")]
    Link {
        /// What was being done, as a verb.
        step: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {step} {path}")]
    File {
        /// What was being done, as a verb.
        step: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The container's namespace.
    #[error("network namespace of the container")]
    Netns(#[from] NetnsError),
    /// The packet rules.
    #[error("packet rules")]
    Ruleset(#[from] RulesetError),
    /// The records.
    #[error("network records")]
    Store(#[from] StoreError),
    /// The kernel gave no random id.
    #[error("no random id to be had")]
    Random(#[source] io::Error),
    /// The work panicked or the runtime is shutting down.
    #[error("the network operation was cut off")]
    CutOff,
}

impl NetworkError {
    pub(crate) fn link(step: &'static str, name: &str) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Link { step, name, source }
    }

    pub(crate) fn file(
        step: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { step, path, source }
    }
}

impl From<rusqlite::Error> for NetworkError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Classified for NetworkError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchNetwork { .. } => ErrorKind::NotFound,
            Self::AlreadyAttached { .. } => ErrorKind::AlreadyExists,
            Self::NamespaceMissing { .. }
            | Self::Option { .. }
            | Self::InvalidBridge { .. }
            | Self::InvalidSubnet { .. }
            | Self::InvalidMac { .. }
            | Self::InvalidGateway { .. }
            | Self::InvalidPort { .. }
            | Self::AddressUnusable { .. } => ErrorKind::Invalid,
            Self::Ipv6 { .. } => ErrorKind::Unsupported,
            Self::NotOurs { .. }
            | Self::SubnetInUse { .. }
            | Self::SubnetBusy { .. }
            | Self::AddressInUse { .. }
            | Self::PortInUse { .. } => ErrorKind::Conflict,
            Self::NoFreeSubnet | Self::AddressesExhausted { .. } | Self::PortsExhausted { .. } => {
                ErrorKind::ResourceExhausted
            }
            Self::Reserve { source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
                ErrorKind::Invalid
            }
            Self::Reserve { source, .. }
            | Self::Link { source, .. }
            | Self::File { source, .. }
            | Self::Random(source) => io_kind(source),
            Self::Netns(error) => error.kind(),
            Self::Ruleset(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::CutOff => ErrorKind::Cancelled,
        }
    }
}
