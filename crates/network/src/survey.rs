//! What the host looks like: routes, addresses, bridges. Only read, never changed.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::driver::Presence;
use crate::rtnl::{Rtnl, name_of};
use crate::subnet::Subnet;

/// What the host looks like before we decide anything.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Subnets that the host has a route to, but for those of the bridge.
    pub(crate) used: Vec<Subnet>,
    /// MTU of the interface that the default route leaves by.
    pub(crate) uplink_mtu: Option<u32>,
    /// Whether there is an interface of the bridge's name.
    pub(crate) own_bridge: Presence,
}

/// Looks at routes and links; `except` is the bridge's name.
pub(crate) fn survey(except: &str) -> io::Result<Survey> {
    let mut rtnl = Rtnl::open()?;
    let own = rtnl.link(except)?.map(|link| link.header.index);
    let mut query = RouteMessage::default();
    query.header.address_family = AddressFamily::Inet;
    let (mut used, mut uplink) = (Vec::new(), None);
    for message in rtnl.dump(RouteNetlinkMessage::GetRoute(query))? {
        let RouteNetlinkMessage::NewRoute(route) = message else { continue };
        let oif = route.attributes.iter().find_map(|a| match a {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let prefix = route.header.destination_prefix_length;
        if prefix == 0 {
            uplink = uplink.or(oif);
        } else if oif.is_none() || oif != own {
            used.extend(route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Destination(RouteAddress::Inet(to)) => Subnet::around(*to, prefix),
                _ => None,
            }));
        }
    }
    let mtu = match uplink {
        None => None,
        Some(index) => {
            let links = rtnl.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
            links.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) if link.header.index == index => {
                    link.attributes.iter().find_map(|a| match a {
                        LinkAttribute::Mtu(mtu) => Some(*mtu),
                        _ => None,
                    })
                }
                _ => None,
            })
        }
    };
    let own_bridge = if own.is_some() { Presence::Present } else { Presence::Absent };
    Ok(Survey { used, uplink_mtu: mtu, own_bridge })
}

/// The host's IPv4 addresses.
///
/// # Errors
/// The kernel's answer.
pub fn local_addresses() -> io::Result<HashSet<Ipv4Addr>> {
    let mut query = AddressMessage::default();
    query.header.family = AddressFamily::Inet;
    let all = Rtnl::open()?.dump(RouteNetlinkMessage::GetAddress(query))?;
    let local = |message| match message {
        RouteNetlinkMessage::NewAddress(found) => {
            found.attributes.into_iter().find_map(|a| match a {
                AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
                _ => None,
            })
        }
        _ => None,
    };
    Ok(all.into_iter().filter_map(local).collect())
}

/// Whether the host has a bridge other than `except` (another engine's, then).
pub(crate) fn other_bridges(except: &str) -> io::Result<Vec<String>> {
    let links = Rtnl::open()?.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let bridge = |link: &LinkMessage| {
        link.attributes.iter().any(|a| match a {
            LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Bridge)),
            _ => false,
        })
    };
    Ok(links
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) if bridge(link) => name_of(link),
            _ => None,
        })
        .filter(|name| *name != except)
        .map(str::to_owned)
        .collect())
}
