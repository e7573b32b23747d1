//! Links, addresses and routes: the requests that a bridge with veth pairs is made of.
//!
//! A veth pair is made by one request with its far end already in the container's namespace under
//! its final name and MAC address, and its near end on the bridge and up. Renaming or moving an
//! interface afterwards would cost an RCU grace period each.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage, State,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use pouch_netns::Netns;

use crate::mac::MacAddr;
use crate::rtnl::{Rtnl, is_absent};

/// A veth pair between a bridge and a container.
#[derive(Debug, Clone, Copy)]
pub struct Veth<'a> {
    /// Name of the host's end.
    pub near: &'a str,
    /// Name of the container's end.
    pub far: &'a str,
    /// Of both ends; the kernel's choice when absent.
    pub mtu: Option<u32>,
    /// Of the container's end; the kernel's choice when absent.
    pub mac: Option<MacAddr>,
    /// The bridge's index.
    pub bridge: u32,
    /// Whether frames may leave by the port that they came in by.
    pub hairpin: Hairpin,
    /// Whether the port reaches other ports.
    pub reach: Reach,
}

/// Whether a bridge port sends frames back where they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hairpin {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Which ports of the bridge a port reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All.
    Ports,
    /// None that is isolated as well.
    Isolated,
}

/// A link message with these attributes.
#[must_use]
pub fn link_with(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = attributes;
    link
}

/// Asks for `flags` to be set.
pub fn set_flags(link: &mut LinkMessage, flags: LinkFlags) {
    link.header.flags |= flags;
    link.header.change_mask |= flags;
}

/// The request that brings the link of that index up.
#[must_use]
pub fn raise(index: u32) -> RouteNetlinkMessage {
    let mut link = link_with(Vec::new());
    link.header.index = index;
    set_flags(&mut link, LinkFlags::Up);
    RouteNetlinkMessage::SetLink(link)
}

/// The request that gives an interface an address; IPv4 ones with their subnet's broadcast address.
#[must_use]
pub fn new_address(index: u32, address: IpAddr, prefix: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
    match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            let broadcast = Ipv4Addr::from(u32::from(v4) | hosts);
            message.attributes.push(AddressAttribute::Broadcast(broadcast));
        }
        IpAddr::V6(_) => message.header.family = AddressFamily::Inet6,
    }
    RouteNetlinkMessage::NewAddress(message)
}

/// The request for a route in the main table; without `gateway` the destination is on the link.
/// A prefix of 0 is the default route.
#[must_use]
pub fn new_route(
    index: u32,
    (destination, prefix): (IpAddr, u8),
    gateway: Option<IpAddr>,
) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = prefix;
    let plain = |address| match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    message.header.address_family = match destination {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    if prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(plain(destination)));
    }
    message.attributes.extend(gateway.map(|gateway| RouteAttribute::Gateway(plain(gateway))));
    message.attributes.push(RouteAttribute::Oif(index));
    RouteNetlinkMessage::NewRoute(message)
}

/// Makes a veth pair; its far end lies down in `netns`, its near end is on the bridge and up.
///
/// # Errors
/// The kernel's answer: `EEXIST` when either name is taken.
pub fn make_veth(rtnl: &mut Rtnl, veth: &Veth<'_>, netns: &Netns) -> io::Result<()> {
    let mtu = veth.mtu.map(LinkAttribute::Mtu);
    let mut far = vec![
        LinkAttribute::IfName(veth.far.to_owned()),
        LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
    ];
    far.extend(mtu.clone());
    far.extend(veth.mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    let peer = InfoData::Veth(InfoVeth::Peer(link_with(far)));
    let mut link = link_with(vec![
        LinkAttribute::IfName(veth.near.to_owned()),
        LinkAttribute::Controller(veth.bridge),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(peer)]),
    ]);
    link.attributes.extend(mtu);
    set_flags(&mut link, LinkFlags::Up);
    let mut options = vec![InfoBridgePort::HairpinMode(veth.hairpin == Hairpin::On)];
    if veth.reach == Reach::Isolated {
        options.push(InfoBridgePort::Isolated(true));
    }
    let port = link_with(vec![
        LinkAttribute::IfName(veth.near.to_owned()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(options)),
        ]),
    ]);
    let message = RouteNetlinkMessage::NewLink;
    rtnl.changes(vec![(message(link), NLM_F_CREATE | NLM_F_EXCL), (message(port), 0)])
}

/// Waits until the kernel has noticed that the pair has carrier. It does so from a work queue, and
/// until then the bridge drops what the container sends: a lost ARP request costs a second. Since
/// Linux 6.8 asking is enough; before, it is a matter of a millisecond, more on a busy machine.
/// Gives the link as it is then.
///
/// # Errors
/// The kernel's answer; `NotFound` when the link has gone.
pub fn await_carrier(rtnl: &mut Rtnl, near: &str) -> io::Result<LinkMessage> {
    const ROUNDS: u32 = 100;
    let up = |link: &LinkMessage| link.attributes.contains(&LinkAttribute::OperState(State::Up));
    for _ in 0..ROUNDS {
        let link = rtnl.link(near)?.ok_or(io::ErrorKind::NotFound)?;
        if up(&link) {
            return Ok(link);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    tracing::warn!(interface = near, "no carrier yet; the first packets may be lost");
    rtnl.link(near)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Removes the link of that name; an absent one is no error.
///
/// # Errors
/// The kernel's answer.
pub fn delete(rtnl: &mut Rtnl, name: &str) -> io::Result<()> {
    let link = link_with(vec![LinkAttribute::IfName(name.to_owned())]);
    match rtnl.change(RouteNetlinkMessage::DelLink(link), 0) {
        Err(error) if is_absent(&error) => Ok(()),
        other => other,
    }
}

/// Whether the link is a bridge.
#[must_use]
pub fn is_bridge(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|a| match a {
        LinkAttribute::LinkInfo(info) => {
            info.iter().any(|i| matches!(i, LinkInfo::Kind(InfoKind::Bridge)))
        }
        _ => false,
    })
}
