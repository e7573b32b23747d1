//! What one attachment needs, and its wiring: addresses, pair, pod's side, gateway's addresses.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pouch_netns::Netns;
use pouch_network::links::{Reach, Veth, make_veth};
use pouch_network::rtnl::Rtnl;

use super::Wiring;
use super::elements::Element;
use super::links::{self, Inside};
use super::recipe::{Asked, Gateway, Masquerade, Recipe, Snat};
use super::reservations::{Owner, Reservations};
use crate::cidr::{Cidr, next};
use crate::config::NetworkList;
use crate::error::CniError;
use crate::plugin::Call;
use crate::record::{How, Key, Made, Record, Records};
use crate::result::{AddResult, Dns, Interface, IpConfig, Route};

/// A resolv.conf is read no further.
const MAX_RESOLV_CONF: u64 = 64 * 1024;
/// Names tried for the host's end before it is given up.
const NAMES: u32 = 8;
/// What one attachment needs, decided before anything is done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(super) list: Arc<NetworkList>,
    pub(super) recipe: Recipe,
    asked: Asked,
    pub(super) call: Call,
}

/// The plan for this call, or `None` when the list's plugins must be run.
pub(crate) fn plan(list: &Arc<NetworkList>, call: &Call) -> Option<Plan> {
    let recipe = Recipe::of(list)?;
    let asked = recipe.ask(call)?;
    Some(Plan { list: Arc::clone(list), recipe, asked, call: call.clone() })
}

/// Whether attachments to the list need no plugin, but for those that ask for something special.
pub(crate) fn is_native(list: &NetworkList) -> bool {
    Recipe::of(list).is_some()
}

impl Plan {
    pub(super) fn network(&self) -> &str {
        &self.list.name
    }

    pub(super) fn key(&self) -> Key {
        Key {
            id: self.call.id.clone(),
            ifname: self.call.ifname.clone(),
            network: self.list.name.clone(),
        }
    }

    pub(super) fn owner(&self) -> Owner<'_> {
        Owner { id: &self.call.id, ifname: &self.call.ifname }
    }

    fn record(&self, made: Made) -> Record {
        Record {
            key: self.key(),
            netns: self.call.netns.clone(),
            config: String::from_utf8_lossy(&self.list.bytes).into_owned(),
            args: self.call.args.clone(),
            capability_args: self.call.capability_args.clone(),
            how: How::Native(made),
        }
    }

    /// One address of each set.
    fn reserve(&self, all: &Reservations, records: &Records) -> Result<Vec<IpConfig>, CniError> {
        let directory = self.recipe.reservations(self.network());
        // A pod of ours that still has its pair has its addresses too.
        let in_use = |address: IpAddr| {
            let has =
                |made: &Made| made.reservations == directory && made.addresses.contains(&address);
            let holders = records.native_where(&self.key(), has);
            holders.iter().any(|record| match &record.how {
                How::Native(made) => {
                    let near = Rtnl::open().and_then(|mut rtnl| rtnl.link(&made.near));
                    near.is_ok_and(|near| near.is_some())
                }
                How::Executed | How::Leaving { .. } => false,
            })
        };
        let mut wanted = self.asked.addresses.clone();
        let mut ips: Vec<IpConfig> = Vec::new();
        let undo = |ips: &[IpConfig]| {
            let taken: Vec<_> = ips.iter().map(|ip| ip.address.address()).collect();
            // The first failure is the one to tell.
            let _ = all.release(self.owner(), &taken);
        };
        for (number, set) in self.recipe.ipam.sets.iter().enumerate() {
            let asked = wanted.iter().position(|address| set.range_of(*address).is_some());
            let asked = asked.map(|position| wanted.remove(position));
            let reserved = all.reserve(self.owner(), number, set, asked, &in_use);
            let (address, range) = reserved.inspect_err(|_| undo(&ips))?;
            ips.extend(Cidr::new(address, range.subnet.prefix()).map(|address| IpConfig {
                interface: Some(2),
                address,
                gateway: Some(range.gateway),
            }));
        }
        if let Some(address) = wanted.first() {
            undo(&ips);
            return Err(CniError::Address {
                network: self.network().to_owned(),
                address: address.to_string(),
                reason: "is in no range",
            });
        }
        Ok(ips)
    }

    /// What the pod routes: as configured, and by default where the bridge says so.
    fn routes(&self, ips: &[IpConfig]) -> Vec<Route> {
        let mut routes = self.recipe.ipam.routes.clone();
        if self.recipe.bridge.gateway != Gateway::Default {
            return routes;
        }
        let mut done = Vec::new();
        for ip in ips {
            let v4 = ip.address.is_v4();
            if done.contains(&v4) {
                continue;
            }
            done.push(v4);
            let everything: IpAddr = if v4 { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
            let Some(dst) = Cidr::new(everything, 0) else { continue };
            if !routes.iter().any(|route| route.dst == dst && route.gw.is_some()) {
                routes.push(Route { dst, gw: ip.gateway, other: serde_json::Map::new() });
            }
        }
        routes
    }

    fn elements(&self, ips: &[IpConfig]) -> Vec<Element> {
        let mut all = Vec::new();
        if self.recipe.bridge.masquerade == Masquerade::On {
            all.extend(ips.iter().map(|ip| Element::Masquerade { address: ip.address }));
        }
        // The first address of each family is what ports lead to.
        let first = |v4: bool| ips.iter().find(|ip| ip.address.is_v4() == v4);
        for ip in [first(true), first(false)].into_iter().flatten() {
            let address = ip.address.address();
            let concerned = self.asked.ports.iter().filter(|p| p.families.include(address));
            let ports: Vec<_> = concerned
                .map(|port| Element::Port {
                    protocol: port.protocol,
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    address,
                    port: port.container_port,
                })
                .collect();
            if !ports.is_empty() && self.asked.snat == Some(Snat::On) {
                all.push(Element::Returning { address: ip.address });
            }
            all.extend(ports);
        }
        all
    }

    pub(super) fn inside(&self, ips: &[IpConfig], routes: &[Route]) -> Inside {
        Inside {
            ifname: self.call.ifname.clone(),
            addresses: ips.iter().map(|ip| ip.address).collect(),
            gateways: ips.iter().filter_map(|ip| ip.gateway).collect(),
            routes: routes.to_vec(),
        }
    }

    /// The gateways' addresses as the bridge has them.
    fn gateways(ips: &[IpConfig]) -> Vec<Cidr> {
        let of = |ip: &IpConfig| {
            let gateway = ip.gateway.unwrap_or_else(|| next(ip.address.network().address()));
            Cidr::new(gateway, ip.address.prefix())
        };
        ips.iter().filter_map(of).collect()
    }

    fn dns(&self) -> Result<Dns, CniError> {
        if let Some(dns) = &self.recipe.dns {
            return Ok(dns.clone());
        }
        self.recipe.ipam.resolv_conf.as_deref().map_or_else(|| Ok(Dns::default()), resolv_conf)
    }

    /// Reserves and wires; on failure nothing is left but the record.
    pub(super) fn wire(
        &self,
        records: &Records,
        patience: Duration,
    ) -> Result<(AddResult, Made), CniError> {
        let network = self.network();
        let netns = Netns::open(Path::new(&self.call.netns)).map_err(CniError::netns(network))?;
        let dns = self.dns()?;
        let mut made = Made {
            wiring: Wiring { bridge: self.recipe.bridge.name.clone(), addresses: Vec::new() },
            near: near_name()?,
            reservations: self.recipe.reservations(network),
            addresses: Vec::new(),
            elements: Vec::new(),
        };
        let record = |made: &Made| records.put(self.record(made.clone()));
        record(&made)?;
        let all = Reservations::lock(network, &made.reservations, patience)?;
        let ips = self.reserve(&all, records)?;
        drop(all);
        let routes = self.routes(&ips);
        made.wiring.addresses = ips.iter().map(|ip| ip.address).collect();
        made.addresses = ips.iter().map(|ip| ip.address.address()).collect();
        let wired = record(&made)
            .and_then(|()| self.link(&netns, &mut made, &ips, &routes, &record))
            .inspect_err(|_| {
                // The first failure is the one to tell.
                if let Err(error) = release(network, self.owner(), &made, patience) {
                    tracing::warn!(%error, "addresses stay reserved");
                }
            })?;
        // Not in the record yet: others may hold the same ports.
        made.elements = self.elements(&ips);
        let result = AddResult { interfaces: wired, ips, routes, dns };
        Ok((result, made))
    }

    fn link(
        &self,
        netns: &Netns,
        made: &mut Made,
        ips: &[IpConfig],
        routes: &[Route],
        record: &dyn Fn(&Made) -> Result<(), CniError>,
    ) -> Result<Vec<Interface>, CniError> {
        let (network, bridge) = (self.network(), &self.recipe.bridge);
        let mut rtnl =
            Rtnl::open().map_err(CniError::link(network, "open a socket for", &bridge.name))?;
        let link = links::ensure_bridge(network, &mut rtnl, bridge)?;
        self.pair(&mut rtnl, netns, link.index, made, record)?;
        let inside = self.inside(ips, routes);
        let ifname = self.call.ifname.as_str();
        let wired = (|| {
            let far = netns
                .run(move || inside.configure())
                .map_err(CniError::netns(network))?
                .map_err(CniError::link(network, "configure", ifname))?;
            links::ensure_gateways(network, &mut rtnl, bridge, &link, &Self::gateways(ips))?;
            if self.asked.snat == Some(Snat::On) && !self.asked.ports.is_empty() {
                links::route_localnet(network, &bridge.name)?;
            }
            let near = links::settle(network, &mut rtnl, &made.near)?;
            // It may have changed with its first port, or with its address.
            let look = rtnl.link(&bridge.name);
            let link = look
                .map_err(CniError::link(network, "look up", &bridge.name))?
                .map_or_else(|| link.clone(), |link| links::seen(&link));
            let interface = |name: &str, mac, sandbox: &str| Interface {
                name: name.to_owned(),
                mac,
                sandbox: sandbox.to_owned(),
                ..Interface::default()
            };
            Ok(vec![
                interface(&bridge.name, link.mac, ""),
                interface(&made.near, near.mac, ""),
                interface(ifname, far.mac, &self.call.netns),
            ])
        })();
        wired.inspect_err(|_| {
            // The first failure is the one to tell.
            let _ = links::remove_near(network, &mut rtnl, &bridge.name, &made.near);
        })
    }

    fn pair(
        &self,
        rtnl: &mut Rtnl,
        netns: &Netns,
        bridge: u32,
        made: &mut Made,
        record: &dyn Fn(&Made) -> Result<(), CniError>,
    ) -> Result<(), CniError> {
        let mut tries = NAMES;
        loop {
            let veth = Veth {
                near: &made.near,
                far: &self.call.ifname,
                mtu: self.recipe.bridge.mtu,
                mac: self.asked.mac,
                bridge,
                hairpin: self.recipe.bridge.hairpin,
                reach: Reach::Ports,
            };
            let failed = CniError::link(self.network(), "make", &made.near);
            match make_veth(rtnl, &veth, netns) {
                // One of the two names is taken. Ours is random: if it is ours that is taken,
                // another will not be.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && tries > 0 => {
                    let look = rtnl.link(&made.near);
                    if look.is_ok_and(|found| found.is_none()) {
                        return Err(CniError::Attached {
                            network: self.list.name.clone(),
                            id: self.call.id.clone(),
                            ifname: self.call.ifname.clone(),
                        });
                    }
                    tries -= 1;
                    made.near = near_name()?;
                    record(made)?;
                }
                other => return other.map_err(failed),
            }
        }
    }
}

/// `veth` and eight digits, as the plugin calls it.
fn near_name() -> Result<String, CniError> {
    let number = getrandom::u32().map_err(|error| {
        CniError::file("read", "/dev/urandom")(io::Error::other(error.to_string()))
    })?;
    Ok(format!("veth{number:08x}"))
}

fn resolv_conf(path: &Path) -> Result<Dns, CniError> {
    use std::io::Read as _;
    let failed = || CniError::file("read", path);
    let mut text = String::new();
    let file = fs::File::open(path).map_err(failed())?;
    file.take(MAX_RESOLV_CONF).read_to_string(&mut text).map_err(failed())?;
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_ascii_whitespace();
        let (Some(key), Some(first)) = (words.next(), words.next()) else { continue };
        let all = std::iter::once(first).chain(words).map(str::to_owned);
        match key {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => first.clone_into(&mut dns.domain),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    Ok(dns)
}

pub(super) fn release(
    network: &str,
    owner: Owner<'_>,
    made: &Made,
    patience: Duration,
) -> Result<(), CniError> {
    if !made.reservations.exists() {
        return Ok(());
    }
    let all = Reservations::lock(network, &made.reservations, patience)?;
    if made.addresses.is_empty() {
        // A crash may have come between a reservation and its record.
        return all.release_all(owner);
    }
    all.release(owner, &made.addresses)
}
