//! How the daemon's networks are set up.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::subnet::Subnet;

/// Whether containers on one bridge may talk to each other directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Icc {
    /// They may.
    #[default]
    Allowed,
    /// Only through published ports.
    Isolated,
}

/// Who turns on `net.ipv4.ip_forward`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Forwarding {
    /// Turned on when it is off; transit that does not concern our bridge stays blocked then.
    #[default]
    Manage,
    /// Left as it is.
    Leave,
}

/// Whether packets that leave the host carry the host's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masquerade {
    /// They do.
    #[default]
    On,
    /// They keep the container's address: the outside must know a route.
    Off,
}

/// Configuration of [`crate::Networks`].
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Name of the bridge: 1 to 15 characters of `[a-zA-Z0-9_.-]`. Daemons on one host need
    /// different ones.
    pub bridge: String,
    /// Subnet of the network `bridge`. `None` keeps the recorded one or takes the first of
    /// `pools` that overlaps no route of the host.
    pub subnet: Option<Subnet>,
    /// The bridge's own address; `None` is the first of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// Candidates for `subnet`, in order.
    pub pools: Vec<Subnet>,
    /// Bytes; `None` takes that of the interface with the default route, else 1500.
    pub mtu: Option<u32>,
    /// Directory of the daemon's run state (`/run/pouch`). It also marks the bridge as ours, so
    /// it must differ between daemons.
    pub state_dir: PathBuf,
    /// Traffic between containers.
    pub icc: Icc,
    /// The forwarding sysctl.
    pub forwarding: Forwarding,
    /// Source address of what leaves the host.
    pub masquerade: Masquerade,
    /// Host address of ports that are published without one (`--ip` of dockerd).
    pub default_host_ip: Ipv4Addr,
}

impl NetworkConfig {
    /// The defaults, with run state in `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            bridge: "pouch0".into(),
            subnet: None,
            gateway: None,
            pools: Subnet::default_pools(),
            mtu: None,
            state_dir,
            icc: Icc::default(),
            forwarding: Forwarding::default(),
            masquerade: Masquerade::default(),
            default_host_ip: Ipv4Addr::UNSPECIFIED,
        }
    }
}
