//! Networks of containers: `bridge`, `host` and `none`.
//!
//! [`Networks`] owns everything that a container's network leaves on the host: one bridge, the
//! host ends of veth pairs, one nftables table, the sockets that reserve published ports, and the
//! rows that say whose they are. The rows are written first and deleted last, so that a crash
//! leaves a record of what may exist; [`Networks::reconcile`] at start finishes or undoes it.
//! Nothing that this crate did not make is ever changed or removed.
//!
//! An attachment passes through types in order: [`AttachRequest`] (what is asked),
//! [`Validated`] (a driver accepts it), [`Leased`] (address and ports are ours, durably) and
//! [`Endpoint`] (the interface is in place). Each step has an undo, run in reverse on failure.
//!
//! Packet rules and their reasons are in [`ruleset`]. Published ports are elements of two nftables
//! maps: no process, rule or chain per port, and none of it for a container without ports.
//!
//! [`links`], [`rtnl`], [`nft`] and [`netfilter`] are how the kernel is spoken to; the pods' networks
//! (`pouch-cni`) use them too.
//!
//! Not here: IPv6. Publishing is IPv4 only, an explicit IPv6 host address is refused by name, and
//! containers have no IPv6 but `::1`.

#![forbid(unsafe_code)]

mod bridge;
mod config;
mod driver;
mod endpoint;
mod error;
mod forwarding;
mod holder;
mod lease;
pub mod links;
mod mac;
mod names;
pub mod netfilter;
mod networks;
pub mod nft;
mod ports;
pub mod rtnl;
pub mod ruleset;
mod subnet;
mod survey;

pub use config::{Forwarding, Icc, Masquerade, NetworkConfig};
pub use driver::{Leased, NetworkDriver, Presence, Validated};
pub use endpoint::{
    AttachRequest, Attached, Driver, Endpoint, Ipv4Config, LiveContainer, NetworkView,
    PublishedPort, Reconciled,
};
pub use error::{NetworkError, PortHolder};
pub use lease::SCHEMA;
pub use mac::MacAddr;
pub use names::{
    DnsSettings, HostLine, NameError, hostname_file, hosts_file, read_host_resolv_conf, resolv_conf,
};
pub use networks::Networks;
pub use subnet::Subnet;
pub use survey::local_addresses;
