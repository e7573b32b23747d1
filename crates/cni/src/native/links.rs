//! Bridge, veth pair, addresses and routes of a native attachment, with the settings that the
//! plugin `bridge` makes.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pouch_network::links::{
    await_carrier, delete, is_bridge, link_with, new_address, new_route, raise, set_flags,
};
use pouch_network::rtnl::{Rtnl, is_absent, name_of};

use super::recipe::{Bridge, Gateway, OtherAddress, Promiscuous};
use crate::cidr::Cidr;
use crate::error::CniError;
use crate::result::Route;

/// A link's number and Ethernet address.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) index: u32,
    pub(crate) mac: String,
}

pub(crate) fn seen(link: &LinkMessage) -> Seen {
    let mac = link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => {
            Some(bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":"))
        }
        _ => None,
    });
    Seen { index: link.header.index, mac: mac.unwrap_or_default() }
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// Writes below /proc/sys/net of the calling thread's namespace. What the kernel lacks (IPv6) needs
/// no setting.
fn sysctl(path: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(path), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// As [`sysctl`], only when it is not so yet: a write of a forwarding switch walks all interfaces.
fn turn_on(path: &str) -> io::Result<()> {
    let now = fs::read_to_string(Path::new("/proc/sys/net").join(path));
    if now.is_ok_and(|now| now.trim() == "1") { Ok(()) } else { sysctl(path, "1") }
}

/// The bridge, made when missing, up and of the settings asked for.
pub(crate) fn ensure_bridge(
    network: &str,
    rtnl: &mut Rtnl,
    bridge: &Bridge,
) -> Result<Seen, CniError> {
    let failed = |step| CniError::link(network, step, &bridge.name);
    let look = |rtnl: &mut Rtnl| rtnl.link(&bridge.name).map_err(failed("look up"));
    let mut found = look(rtnl)?;
    if found.is_none() {
        let mut link = link_with(vec![
            LinkAttribute::IfName(bridge.name.clone()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ]);
        link.attributes.extend(bridge.mtu.map(LinkAttribute::Mtu));
        match rtnl.change(RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL) {
            // Another pod's, at the same time.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(failed("make"))?,
        }
        found = look(rtnl)?;
    }
    let link = found.ok_or_else(|| failed("look up")(absent()))?;
    if !is_bridge(&link) {
        let reason = io::Error::other("there is an interface of that name that is no bridge");
        return Err(failed("use")(reason));
    }
    let flags = link.header.flags;
    let mut wanted = LinkFlags::Up;
    if bridge.promiscuous == Promiscuous::On {
        wanted |= LinkFlags::Promisc;
    }
    if !flags.contains(wanted) {
        // The routes of this interface are ours to make.
        sysctl(&format!("ipv6/conf/{}/accept_ra", bridge.name), "0").map_err(failed("set up"))?;
        let mut change = link_with(Vec::new());
        change.header.index = link.header.index;
        set_flags(&mut change, wanted);
        rtnl.change(RouteNetlinkMessage::SetLink(change), 0).map_err(failed("bring up"))?;
    }
    Ok(seen(&link))
}

fn addresses_of(rtnl: &mut Rtnl, index: u32) -> io::Result<Vec<(Cidr, AddressMessage)>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = AddressMessage::default();
        query.header.family = family;
        for message in rtnl.dump(RouteNetlinkMessage::GetAddress(query))? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            if message.header.index != index {
                continue;
            }
            let local = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let plain = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            });
            if let Some(cidr) =
                local.or(plain).and_then(|ip| Cidr::new(ip, message.header.prefix_len))
            {
                found.push((cidr, message));
            }
        }
    }
    Ok(found)
}

/// Gives the bridge the gateways' addresses, and turns forwarding on for their families.
pub(crate) fn ensure_gateways(
    network: &str,
    rtnl: &mut Rtnl,
    bridge: &Bridge,
    link: &Seen,
    gateways: &[Cidr],
) -> Result<(), CniError> {
    if bridge.gateway == Gateway::No {
        return Ok(());
    }
    let failed = |step| CniError::link(network, step, &bridge.name);
    let mut present = addresses_of(rtnl, link.index).map_err(failed("list the addresses of"))?;
    let mut fresh = false;
    for gateway in gateways {
        if present.iter().any(|(has, _)| has == gateway) {
            continue;
        }
        // An IPv4 address beside it, or an IPv6 subnet that overlaps, is another network's bridge.
        let in_the_way = |has: &Cidr| {
            has.is_v4() == gateway.is_v4()
                && (has.is_v4()
                    || has.contains(gateway.address())
                    || gateway.contains(has.address()))
        };
        let others: Vec<_> = present.iter().filter(|(has, _)| in_the_way(has)).cloned().collect();
        for (has, message) in others {
            if bridge.other_address == OtherAddress::Refuse {
                let text = format!("it has the address {has} already");
                return Err(failed("give the gateway's address to")(io::Error::other(text)));
            }
            rtnl.change(RouteNetlinkMessage::DelAddress(message), 0)
                .map_err(failed("take an address from"))?;
            present.retain(|(other, _)| *other != has);
        }
        let request = new_address(link.index, gateway.address(), gateway.prefix());
        match rtnl.change(request, NLM_F_CREATE | NLM_F_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(failed("give an address to"))?,
        }
        fresh = true;
    }
    if fresh {
        pin_mac(rtnl, bridge).map_err(failed("keep the Ethernet address of"))?;
    }
    for (family, path) in [(true, "ipv4/ip_forward"), (false, "ipv6/conf/all/forwarding")] {
        if gateways.iter().any(|gateway| gateway.is_v4() == family) {
            turn_on(path)
                .map_err(CniError::file("write", Path::new("/proc/sys/net").join(path)))?;
        }
    }
    Ok(())
}

/// Sets the bridge's own Ethernet address: otherwise it would take the lowest of its ports', and
/// change it, with every neighbour's ARP entry, as pods come and go.
fn pin_mac(rtnl: &mut Rtnl, bridge: &Bridge) -> io::Result<()> {
    let link = rtnl.link(&bridge.name)?.ok_or_else(absent)?;
    let mac = link.attributes.into_iter().find(|a| matches!(a, LinkAttribute::Address(_)));
    let mut change = link_with(mac.into_iter().collect());
    change.header.index = link.header.index;
    rtnl.change(RouteNetlinkMessage::SetLink(change), 0)
}

/// What the pod's side gets.
#[derive(Debug, Clone)]
pub(crate) struct Inside {
    pub(crate) ifname: String,
    pub(crate) addresses: Vec<Cidr>,
    /// Default gateways for routes that name none.
    pub(crate) gateways: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
}

impl Inside {
    fn gateway_of(&self, route: &Route) -> Option<IpAddr> {
        let same = |gateway: &&IpAddr| gateway.is_ipv4() == route.dst.is_v4();
        route.gw.or_else(|| self.gateways.iter().find(same).copied())
    }

    /// Configures the interface in the calling thread's namespace, and `lo`. Gives its Ethernet
    /// address.
    pub(crate) fn configure(&self) -> io::Result<Seen> {
        pouch_netns::raise_loopback()?;
        let mut rtnl = Rtnl::open()?;
        let name = &self.ifname;
        let link = seen(&rtnl.link(name)?.ok_or_else(absent)?);
        sysctl(&format!("ipv6/conf/{name}/accept_dad"), "0")?;
        sysctl(&format!("ipv4/conf/{name}/arp_notify"), "1")?;
        if self.addresses.iter().any(|address| !address.is_v4()) {
            sysctl("ipv6/conf/lo/disable_ipv6", "0")?;
            sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
            sysctl(&format!("ipv6/conf/{name}/keep_addr_on_down"), "1")?;
        }
        let create = NLM_F_CREATE | NLM_F_EXCL;
        let mut changes: Vec<_> = self
            .addresses
            .iter()
            .map(|a| (new_address(link.index, a.address(), a.prefix()), create))
            .collect();
        changes.push((raise(link.index), 0));
        rtnl.changes(changes)?;
        let mut made: Vec<&Route> = Vec::new();
        for route in &self.routes {
            // The same twice is once.
            if made.contains(&route) {
                continue;
            }
            let to = (route.dst.address(), route.dst.prefix());
            let request = new_route(link.index, to, self.gateway_of(route));
            rtnl.change(request, create)?;
            made.push(route);
        }
        Ok(link)
    }

    /// What is missing of all that in the calling thread's namespace.
    pub(crate) fn missing(&self) -> io::Result<Option<String>> {
        let mut rtnl = Rtnl::open()?;
        let Some(link) = rtnl.link(&self.ifname)? else {
            return Ok(Some(format!("interface {} is missing in the pod", self.ifname)));
        };
        if !link.header.flags.contains(LinkFlags::Up) {
            return Ok(Some(format!("interface {} of the pod is down", self.ifname)));
        }
        let present = addresses_of(&mut rtnl, link.header.index)?;
        for address in &self.addresses {
            if !present.iter().any(|(has, _)| has == address) {
                return Ok(Some(format!("address {address} is missing in the pod")));
            }
        }
        let routes = routes_of(&mut rtnl, link.header.index)?;
        let missing =
            self.routes.iter().find(|route| !routes.contains(&(route.dst, self.gateway_of(route))));
        Ok(missing.map(|route| format!("the route to {} is missing in the pod", route.dst)))
    }
}

fn routes_of(rtnl: &mut Rtnl, index: u32) -> io::Result<Vec<(Cidr, Option<IpAddr>)>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        let ip = |address: &RouteAddress| match address {
            RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
            RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
            _ => None,
        };
        for message in rtnl.dump(RouteNetlinkMessage::GetRoute(query))? {
            let RouteNetlinkMessage::NewRoute(route) = message else { continue };
            let mut to = match family {
                AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let (mut by, mut oif) = (None, None);
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(address) => to = ip(address).unwrap_or(to),
                    RouteAttribute::Gateway(address) => by = ip(address),
                    RouteAttribute::Oif(number) => oif = Some(*number),
                    _ => {}
                }
            }
            if oif == Some(index) {
                found.extend(
                    Cidr::new(to, route.header.destination_prefix_length).map(|to| (to, by)),
                );
            }
        }
    }
    Ok(found)
}

/// Waits for the host's end to have carrier, and reads its Ethernet address.
pub(crate) fn settle(network: &str, rtnl: &mut Rtnl, near: &str) -> Result<Seen, CniError> {
    let link = await_carrier(rtnl, near).map_err(CniError::link(network, "look up", near))?;
    Ok(seen(&link))
}

/// Lets 127.0.0.1:port of the host be translated to a pod of this bridge.
pub(crate) fn route_localnet(network: &str, bridge: &str) -> Result<(), CniError> {
    turn_on(&format!("ipv4/conf/{bridge}/route_localnet"))
        .map_err(CniError::link(network, "set up", bridge))
}

/// What became of a port that was to be cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// No frame passes it any more.
    Off,
    /// It was not there.
    Gone,
}

/// Lets no frame pass the port any more. Unlike its removal, and unlike taking it down, this waits
/// for no RCU grace period, tens of milliseconds with the lock that every change of links needs.
pub(crate) fn cut(rtnl: &mut Rtnl, near: &str) -> io::Result<Cut> {
    const PROTINFO: u16 = 12;
    const DISABLED: u8 = 0;
    let Some(link) = rtnl.link(near)? else { return Ok(Cut::Gone) };
    // As an attribute of the link's own (IFLA_BRPORT_STATE in IFLA_LINKINFO) it would be undone by the
    // notice of the change; any other state is undone where no spanning tree protocol is spoken.
    let state = LinkAttribute::ProtoInfoUnknown(DefaultNla::new(PROTINFO, vec![DISABLED]));
    let mut port = link_with(vec![state]);
    port.header.interface_family = AddressFamily::Bridge;
    port.header.index = link.header.index;
    match rtnl.change(RouteNetlinkMessage::SetLink(port), 0) {
        Err(error) if is_absent(&error) => Ok(Cut::Gone),
        other => other.map(|()| Cut::Off),
    }
}

/// Removes the host's end, and with it the pod's, if it is (still) a port of the bridge.
pub(crate) fn remove_near(
    network: &str,
    rtnl: &mut Rtnl,
    bridge: &str,
    near: &str,
) -> Result<(), CniError> {
    let failed = |step, name: &str| CniError::link(network, step, name);
    let Some(link) = rtnl.link(near).map_err(failed("look up", near))? else { return Ok(()) };
    let bridge = rtnl.link(bridge).map_err(failed("look up", bridge))?;
    let ours = bridge.is_some_and(|bridge| {
        link.attributes.contains(&LinkAttribute::Controller(bridge.header.index))
    });
    if ours {
        delete(rtnl, near).map_err(failed("remove", near))?;
    } else {
        tracing::warn!(interface = near, "is no port of the pods' bridge any more; left alone");
    }
    Ok(())
}

/// Removes the pod's end in the calling thread's namespace.
pub(crate) fn remove_far(ifname: &str) -> io::Result<()> {
    delete(&mut Rtnl::open()?, ifname)
}

/// Whether the bridge has the port, up.
pub(crate) fn is_port(rtnl: &mut Rtnl, bridge: &str, near: &str) -> io::Result<bool> {
    let Some(bridge) = rtnl.link(bridge)? else { return Ok(false) };
    let Some(link) = rtnl.link(near)? else { return Ok(false) };
    debug_assert_eq!(name_of(&link), Some(near));
    Ok(link.attributes.contains(&LinkAttribute::Controller(bridge.header.index))
        && link.header.flags.contains(LinkFlags::Up))
}
