//! The bridge: one Linux bridge per network, one veth pair per container.
//!
//! The bridge is marked as this daemon's by its alias, which names the state directory; an
//! interface of the same name without that mark is refused, never touched. A host end is called
//! `pv` and 12 digits of the endpoint's id, so that it can be found again from the record alone.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pouch_netns::Netns;

use crate::config::Icc;
use crate::driver::{Addressing, Leased, NetworkDriver, Presence, Validated};
use crate::endpoint::{AttachRequest, Endpoint, Ipv4Config};
use crate::error::NetworkError;
use crate::links::{
    self, Hairpin, Reach, Veth, await_carrier, delete, link_with, make_veth, new_address,
    new_route, raise,
};
use crate::mac::MacAddr;
use crate::rtnl::{Rtnl, name_of};
use crate::subnet::Subnet;

/// The interface in the container.
pub(crate) const INTERFACE: &str = "eth0";
const VETH_PREFIX: &str = "pv";
/// Bytes of IFALIASZ that we use at most.
const ALIAS_MAX: usize = 250;

/// The driver of a bridge network.
#[derive(Debug, Clone)]
pub(crate) struct BridgeDriver {
    pub(crate) name: String,
    /// What marks the bridge as ours.
    pub(crate) alias: String,
    pub(crate) subnet: Subnet,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
    pub(crate) icc: Icc,
}

/// The alias that marks a bridge of the daemon with this state directory.
pub(crate) fn alias(state_dir: &Path) -> String {
    let mut alias = format!("pouch:{}", state_dir.display());
    while alias.len() > ALIAS_MAX {
        alias.pop();
    }
    alias
}

/// Checks an interface name: the kernel's length, and nothing that /proc paths or nft's grammar
/// would read otherwise.
pub(crate) fn check_name(name: &str) -> Result<(), NetworkError> {
    let good = (1..=15).contains(&name.len())
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(()) } else { Err(NetworkError::InvalidBridge { name: name.to_owned() }) }
}

fn veth_name(endpoint_id: &str) -> String {
    format!("{VETH_PREFIX}{}", endpoint_id.get(..12).unwrap_or(endpoint_id))
}

/// What is found under the bridge's name.
enum Found {
    Nothing,
    Ours { index: u32 },
    Foreign { reason: &'static str },
}

impl BridgeDriver {
    fn find(&self, rtnl: &mut Rtnl) -> Result<Found, NetworkError> {
        let found = rtnl.link(&self.name).map_err(NetworkError::link("look up", &self.name))?;
        let Some(link) = found else { return Ok(Found::Nothing) };
        let is_bridge = links::is_bridge(&link);
        let is_marked = link
            .attributes
            .iter()
            .any(|a| matches!(a, LinkAttribute::IfAlias(alias) if *alias == self.alias));
        Ok(match (is_bridge, is_marked) {
            (true, true) => Found::Ours { index: link.header.index },
            (true, false) => Found::Foreign { reason: "a bridge without this daemon's mark" },
            (false, _) => Found::Foreign { reason: "not a bridge" },
        })
    }

    fn not_ours(&self, reason: &'static str) -> NetworkError {
        NetworkError::NotOurs { name: self.name.clone(), reason }
    }

    /// Fails when the name is taken by somebody else.
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let mut rtnl = self.open()?;
        match self.find(&mut rtnl)? {
            Found::Foreign { reason } => Err(self.not_ours(reason)),
            Found::Ours { .. } | Found::Nothing => Ok(()),
        }
    }

    /// Whether our bridge stands.
    pub(crate) fn presence(&self) -> Result<Presence, NetworkError> {
        let mut rtnl = self.open()?;
        Ok(match self.find(&mut rtnl)? {
            Found::Ours { .. } => Presence::Present,
            Found::Foreign { .. } | Found::Nothing => Presence::Absent,
        })
    }

    fn open(&self) -> Result<Rtnl, NetworkError> {
        Rtnl::open().map_err(NetworkError::link("open a netlink socket for", &self.name))
    }

    fn create(&self, rtnl: &mut Rtnl) -> Result<u32, NetworkError> {
        let failed = |step| NetworkError::link(step, &self.name);
        // A MAC address of its own: without one the bridge takes the lowest of its ports', and
        // changes it, with every neighbour's ARP entry, as containers come and go.
        let link = link_with(vec![
            LinkAttribute::IfName(self.name.clone()),
            LinkAttribute::Address(MacAddr::of(self.gateway).octets().to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ]);
        rtnl.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
            .map_err(failed("make"))?;
        let made = rtnl.link(&self.name).map_err(failed("look up"))?;
        let index = made.ok_or_else(|| self.not_ours("it vanished"))?.header.index;
        // The kernel takes an alias only from a later request.
        let mut mark = link_with(vec![LinkAttribute::IfAlias(self.alias.clone())]);
        mark.header.index = index;
        rtnl.change(RouteNetlinkMessage::SetLink(mark), 0).map_err(failed("mark"))?;
        Ok(index)
    }

    /// Address, sysctls, up: all idempotent, so that they also mend what somebody changed.
    fn configure(&self, rtnl: &mut Rtnl, index: u32) -> Result<(), NetworkError> {
        let failed = |step| NetworkError::link(step, &self.name);
        self.drop_other_addresses(rtnl, index)?;
        // IPv4 only: no IPv6 on the bridge means that no container can send the host a router
        // advertisement (CVE-2020-13401) or reach it by a link-local address.
        self.sysctl("ipv6", "disable_ipv6", "1")?;
        self.sysctl("ipv6", "accept_ra", "0")?;
        // Lets 127.0.0.1:port of the host be translated to a container; the rules drop what a
        // container sends to 127.0.0.0/8 itself (CVE-2020-8558).
        self.sysctl("ipv4", "route_localnet", "1")?;
        let address = new_address(index, self.gateway.into(), self.subnet.prefix());
        match rtnl.change(address, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(failed("give an address to"))?,
        }
        rtnl.change(raise(index), 0).map_err(failed("bring up"))
    }

    /// A bridge of ours with an address from an earlier configuration loses it.
    fn drop_other_addresses(&self, rtnl: &mut Rtnl, index: u32) -> Result<(), NetworkError> {
        let failed = |step| NetworkError::link(step, &self.name);
        let mut query = AddressMessage::default();
        query.header.family = AddressFamily::Inet;
        let all = rtnl
            .dump(RouteNetlinkMessage::GetAddress(query))
            .map_err(failed("list the addresses of"))?;
        for message in all {
            let RouteNetlinkMessage::NewAddress(found) = message else { continue };
            let ours = found.header.prefix_len == self.subnet.prefix()
                && found.attributes.contains(&AddressAttribute::Local(self.gateway.into()));
            if found.header.index == index && !ours {
                rtnl.change(RouteNetlinkMessage::DelAddress(found), 0)
                    .map_err(failed("take an old address from"))?;
            }
        }
        Ok(())
    }

    fn sysctl(&self, family: &str, key: &str, value: &str) -> Result<(), NetworkError> {
        let path = format!("/proc/sys/net/{family}/conf/{}/{key}", self.name);
        match fs::write(&path, value) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => Ok(()),
            other => other.map_err(NetworkError::file("write", path)),
        }
    }

    /// The bridge's index; made or mended when it is not there.
    fn ensure(&self, rtnl: &mut Rtnl) -> Result<u32, NetworkError> {
        match self.find(rtnl)? {
            Found::Ours { index } => Ok(index),
            Found::Foreign { reason } => Err(self.not_ours(reason)),
            Found::Nothing => {
                let index = self.create(rtnl)?;
                self.configure(rtnl, index).inspect_err(|_| {
                    // The configuration's failure is the one to tell.
                    let _ = delete(rtnl, &self.name);
                })?;
                Ok(index)
            }
        }
    }

    /// Removes the bridge if it is ours, and what is left on it.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let mut rtnl = self.open()?;
        if let Found::Ours { .. } = self.find(&mut rtnl)? {
            self.sweep(&HashSet::new())?;
            delete(&mut rtnl, &self.name).map_err(NetworkError::link("remove", &self.name))?;
        }
        Ok(())
    }

    /// Removes the host ends on our bridge that belong to no endpoint in `keep` (their ids), and
    /// returns their names.
    pub(crate) fn sweep(&self, keep: &HashSet<String>) -> Result<Vec<String>, NetworkError> {
        let mut rtnl = self.open()?;
        let Found::Ours { index } = self.find(&mut rtnl)? else { return Ok(Vec::new()) };
        let keep: HashSet<String> = keep.iter().map(|id| veth_name(id)).collect();
        let links = rtnl
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .map_err(NetworkError::link("list the ports of", &self.name))?;
        let mut removed = Vec::new();
        for message in links {
            let RouteNetlinkMessage::NewLink(link) = message else { continue };
            let Some(name) = name_of(&link) else { continue };
            let ours = name.starts_with(VETH_PREFIX)
                && link.attributes.contains(&LinkAttribute::Controller(index));
            if ours && !keep.contains(name) {
                delete(&mut rtnl, name).map_err(NetworkError::link("remove", name))?;
                removed.push(name.to_owned());
            }
        }
        Ok(removed)
    }

    fn make_pair(
        &self,
        rtnl: &mut Rtnl,
        bridge: u32,
        near: &str,
        mac: Option<MacAddr>,
        netns: &Netns,
    ) -> Result<(), NetworkError> {
        let reach = match self.icc {
            Icc::Isolated if !bridged_frames_pass_the_rules() => Reach::Isolated,
            Icc::Isolated | Icc::Allowed => Reach::Ports,
        };
        // With br_netfilter a packet that is translated to an address on the same bridge is
        // bridged instead of routed, so a container meets its own published port on the port it
        // came in by: hence hairpin mode. For the same reason an isolated port could not be
        // reached through a published port there, and the packet rules, which see bridged frames
        // then, do the isolating.
        let veth = Veth {
            near,
            far: INTERFACE,
            mtu: Some(self.mtu),
            mac,
            bridge,
            hairpin: Hairpin::On,
            reach,
        };
        make_veth(rtnl, &veth, netns).map_err(NetworkError::link("make", near))
    }
}

fn bridged_frames_pass_the_rules() -> bool {
    // The file is there when br_netfilter is.
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables")
        .is_ok_and(|value| value.trim() == "1")
}

/// The destination of a default route.
const DEFAULT: (IpAddr, u8) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Address, route and up, in the container's namespace.
fn configure_inside(ipv4: Ipv4Config) -> io::Result<()> {
    let mut rtnl = Rtnl::open()?;
    let link = rtnl.link(INTERFACE)?.ok_or(io::ErrorKind::NotFound)?;
    let index = link.header.index;
    rtnl.changes(vec![
        (new_address(index, ipv4.address.into(), ipv4.prefix), NLM_F_CREATE | NLM_F_EXCL),
        (raise(index), 0),
        (new_route(index, DEFAULT, Some(ipv4.gateway.into())), NLM_F_CREATE | NLM_F_EXCL),
    ])
}

impl NetworkDriver for BridgeDriver {
    fn validate(&self, request: &AttachRequest) -> Result<Validated, NetworkError> {
        let netns = request
            .netns
            .clone()
            .ok_or_else(|| NetworkError::NamespaceMissing { network: request.network.clone() })?;
        if let Some(address) = request.ipv4
            && (!self.subnet.is_host(address) || address == self.gateway)
        {
            return Err(NetworkError::AddressUnusable { address, subnet: self.subnet });
        }
        let addressing = Addressing {
            subnet: self.subnet,
            gateway: self.gateway,
            fixed: request.ipv4,
            mac: request.mac,
        };
        Ok(Validated { netns: Some(netns), addressing: Some(addressing) })
    }

    fn prepare(&self) -> Result<(), NetworkError> {
        let mut rtnl = self.open()?;
        match self.find(&mut rtnl)? {
            Found::Ours { index } => self.configure(&mut rtnl, index),
            Found::Foreign { .. } | Found::Nothing => self.ensure(&mut rtnl).map(drop),
        }
    }

    fn setup(&self, leased: &Leased) -> Result<(), NetworkError> {
        let endpoint = &leased.endpoint;
        let (Some(path), Some(ipv4)) = (&leased.netns, endpoint.ipv4) else {
            return Err(NetworkError::NamespaceMissing { network: endpoint.network.clone() });
        };
        let near = veth_name(&endpoint.endpoint_id);
        let netns = Netns::open(path)?;
        let mut rtnl = self.open()?;
        let bridge = self.ensure(&mut rtnl)?;
        self.make_pair(&mut rtnl, bridge, &near, endpoint.mac, &netns)
            .and_then(|()| {
                netns
                    .run(move || configure_inside(ipv4))?
                    .map_err(NetworkError::link("configure", INTERFACE))
            })
            .and_then(|()| {
                await_carrier(&mut rtnl, &near)
                    .map(drop)
                    .map_err(NetworkError::link("look up", &near))
            })
            .inspect_err(|_| {
                // The first failure is the one to tell; the far end goes with the near one.
                let _ = delete(&mut rtnl, &near);
            })
    }

    fn is_up(&self, endpoint: &Endpoint) -> Result<Presence, NetworkError> {
        let near = veth_name(&endpoint.endpoint_id);
        let mut rtnl = self.open()?;
        let found = rtnl.link(&near).map_err(NetworkError::link("look up", &near))?;
        Ok(if found.is_some() { Presence::Present } else { Presence::Absent })
    }

    fn teardown(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        let near = veth_name(&endpoint.endpoint_id);
        let mut rtnl = self.open()?;
        delete(&mut rtnl, &near).map_err(NetworkError::link("remove", &near))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_cannot_become_paths_or_rules() {
        for good in ["pouch0", "br-1234", "a", "abcdefghijklmno"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\n", "abcdefghijklmnop", "-x", "a\"", "é"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn veth_names_fit_and_aliases_are_cut_on_a_character() {
        assert_eq!(veth_name(&"ab".repeat(32)), "pvabababababab");
        let long = alias(Path::new(&"é".repeat(400)));
        assert!(long.len() <= ALIAS_MAX && long.starts_with("pouch:"));
    }
}
