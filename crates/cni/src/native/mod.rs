//! The usual networks in-process: `bridge` with `host-local`, published ports, masquerading.
//!
//! What the plugins would make is made by netlink, and what they would write to files is written
//! as they do, so that either may undo what the other made. Only the packet rules differ: the
//! plugins' are iptables', ours are elements of one nftables table ([`rules`]).
//!
//! An attachment is made in this order, and undone in the reverse when a step fails: record,
//! addresses reserved, pair, pod's side, gateway's addresses, elements. The record names everything
//! before it exists.

mod elements;
mod links;
mod ranges;
mod recipe;
mod reservations;
mod rules;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pouch_netns::{Netns, NetnsError};
use pouch_network::links::{Reach, Veth, make_veth};
use pouch_network::rtnl::Rtnl;
use pouch_network::ruleset::Forward;
use pouch_network::{netfilter, nft};
use pouch_types::spec::Protocol;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::attachment::transport;
use crate::cidr::{Cidr, next};
use crate::config::NetworkList;
use crate::error::CniError;
use crate::plugin::Call;
use crate::record::{How, Key, Made, Record, Records};
use crate::result::{AddResult, Dns, Interface, IpConfig, Route};

use elements::Channel;
pub(crate) use elements::Element;
use links::{Cut, Inside};
use recipe::{Asked, Gateway, Masquerade, Recipe, Snat};
use reservations::{Owner, Reservations};
use rules::Place;

/// A resolv.conf is read no further.
const MAX_RESOLV_CONF: u64 = 64 * 1024;
/// Names tried for the host's end before it is given up.
const NAMES: u32 = 8;
/// For the pod's namespace to be removed after a DEL.
const LINGER: Duration = Duration::from_secs(1);

/// What an attachment hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wiring {
    pub(crate) bridge: String,
    /// The addresses with their prefixes.
    pub(crate) addresses: Vec<Cidr>,
}

/// What one attachment needs, decided before anything is done.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    list: Arc<NetworkList>,
    recipe: Recipe,
    asked: Asked,
    call: Call,
}

/// The networks that are made in-process.
#[derive(Debug)]
pub(crate) struct Native {
    records: Arc<Records>,
    patience: Duration,
    tables: Arc<Channel>,
    /// The places whose chains stand, as far as we know. Held while nft runs.
    standing: Mutex<BTreeSet<Place>>,
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
    fn network(&self) -> &str {
        &self.list.name
    }

    fn key(&self) -> Key {
        Key {
            id: self.call.id.clone(),
            ifname: self.call.ifname.clone(),
            network: self.list.name.clone(),
        }
    }

    fn owner(&self) -> Owner<'_> {
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
    fn reserve(&self, all: &Reservations) -> Result<Vec<IpConfig>, CniError> {
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
            let reserved = all.reserve(self.owner(), number, set, asked);
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

    fn inside(&self, ips: &[IpConfig], routes: &[Route]) -> Inside {
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
    fn wire(&self, records: &Records, patience: Duration) -> Result<(AddResult, Made), CniError> {
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
        let ips = self.reserve(&all)?;
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

fn release(
    network: &str,
    owner: Owner<'_>,
    made: &Made,
    patience: Duration,
) -> Result<(), CniError> {
    if !made.reservations.exists() {
        return Ok(());
    }
    let all = Reservations::lock(network, &made.reservations, patience)?;
    all.release(owner, &made.addresses)
}

fn describe(element: &Element) -> String {
    match element {
        Element::Port { protocol, host_ip, host_port, .. } => {
            let address = host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
            format!("{address}{host_port}/{}", transport(*protocol))
        }
        Element::Masquerade { address } | Element::Returning { address } => address.to_string(),
    }
}

/// Makes the connection table forget UDP flows that a change of `elements` concerns. A UDP flow
/// keeps the translation of its first packet for as long as packets come.
fn forget_flows(elements: &[Element]) {
    let concerned: Vec<Forward> = elements
        .iter()
        .filter_map(|element| match element {
            Element::Port {
                protocol: Protocol::Udp,
                host_ip,
                host_port,
                address: IpAddr::V4(address),
                port,
            } => Some(Forward {
                protocol: Protocol::Udp,
                host_ip: match host_ip {
                    Some(IpAddr::V4(v4)) => *v4,
                    Some(IpAddr::V6(_)) | None => std::net::Ipv4Addr::UNSPECIFIED,
                },
                host_port: *host_port,
                address: *address,
                port: *port,
            }),
            Element::Port { .. } | Element::Masquerade { .. } | Element::Returning { .. } => None,
        })
        .collect();
    if concerned.is_empty() {
        return;
    }
    let local = pouch_network::local_addresses();
    if let Err(error) = local.and_then(|local| netfilter::forget_udp(&concerned, &local)) {
        tracing::warn!(%error, "UDP flows may keep their old way");
    }
}

/// Removes a pair that was cut off, and its record.
fn finish(records: &Records, key: &Key, bridge: &str, near: &str) -> Result<(), CniError> {
    let mut rtnl = Rtnl::open().map_err(CniError::link(&key.network, "open a socket for", near))?;
    links::remove_near(&key.network, &mut rtnl, bridge, near)?;
    records.remove_leaving(key, near)
}

fn finish_where(records: &Records, concerned: impl Fn(&Record) -> bool) -> Result<(), CniError> {
    let mut first = Ok(());
    for record in records.all().into_iter().filter(concerned) {
        if let How::Leaving { bridge, near } = &record.how {
            let done = finish(records, &record.key, bridge, near);
            first = first.and(done);
        }
    }
    first
}

/// Runs what blocks for netlink, files and a lock on a thread that may.
async fn blocking<T: Send + 'static>(
    network: &str,
    work: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(CniError::Panicked { network: network.to_owned() }))
}

impl Native {
    pub(crate) fn new(records: Arc<Records>, patience: Duration) -> Self {
        Self { records, patience, tables: Arc::default(), standing: Mutex::default() }
    }

    /// Makes the attachment. On failure nothing is left of it.
    pub(crate) async fn add(&self, plan: Plan) -> Result<AddResult, CniError> {
        let plan = Arc::new(plan);
        let (key, network) = (plan.key(), plan.network().to_owned());
        let wiring = {
            let (plan, records, patience) =
                (Arc::clone(&plan), Arc::clone(&self.records), self.patience);
            blocking(&network, move || plan.wire(&records, patience)).await
        };
        let made = match wiring {
            Ok((result, made)) => match self.publish(&key, &made).await {
                Ok(()) => Ok(result),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if made.is_err() {
            // The first failure is the one to tell; what cannot be undone keeps its record.
            if let Some(record) = self.records.get(&key)
                && let Err(error) = self.del(&record).await
            {
                tracing::warn!(%error, "an attachment that failed could not be undone");
            }
        }
        made
    }

    /// Puts the elements into the rules, the rules before them.
    async fn publish(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let shares = |other: &Made| {
            other.reservations == made.reservations
                && other.addresses.iter().any(|address| made.addresses.contains(address))
        };
        for record in self.records.native_where(key, shares) {
            // Its addresses were given to this one: another program detached it.
            self.evict(&record).await?;
        }
        self.claim(key, made).await?;
        if made.elements.is_empty() {
            return Ok(());
        }
        let added = self.put(key, made).await;
        if added.is_err() {
            // None was put there, and what has the same key is not ours to take away.
            let unpublished = Made { elements: Vec::new(), ..made.clone() };
            if let Some(record) = self.records.get(key) {
                self.records.put(Record { how: How::Native(unpublished), ..record })?;
            }
        }
        added
    }

    /// Claims the elements in the record; those who hold one without being attached any more are
    /// undone.
    async fn claim(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let network = &key.network;
        for _ in 0..=made.elements.len() {
            let Some(record) = self.records.get(key) else { break };
            let Some(holder) = self.records.claim(record, made.clone())? else { return Ok(()) };
            let How::Native(theirs) = holder.how.clone() else { break };
            let collides = |a: &&Element| made.elements.iter().any(|b| a.collides(b));
            let port = theirs.elements.iter().find(collides).map(describe).unwrap_or_default();
            let alive = {
                let (holder, patience) = (holder.clone(), self.patience);
                blocking(network, move || is_alive(&holder, &theirs, patience)).await?
            };
            if alive {
                return Err(CniError::PortInUse { network: network.clone(), port });
            }
            self.evict(&holder).await?;
        }
        let network = network.clone();
        Err(CniError::PortInUse { network, port: "of several pods".to_owned() })
    }

    async fn put(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let network = &key.network;
        let place = Place::new(&made.wiring.bridge, made.wiring.addresses.iter().copied());
        self.stand(network, &place, Known::Trust).await?;
        let add = async || {
            let (elements, owner) = (made.elements.clone(), format!("{} {}", key.id, key.ifname));
            let tables = Arc::clone(&self.tables);
            let work = move || tables.add(&elements, &owner).inspect(|()| forget_flows(&elements));
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|_| CniError::Panicked { network: network.clone() })
        };
        let mut added = add().await?;
        if added.as_ref().is_err_and(elements::is_missing) {
            // Somebody flushed the rules: all of them, with everybody's elements, again.
            self.stand(network, &place, Known::Forget).await?;
            added = add().await?;
        }
        match added {
            Err(error) if elements::is_taken(&error) => {
                let ports = made.elements.iter().filter(|e| matches!(e, Element::Port { .. }));
                let ports: Vec<_> = ports.map(describe).collect();
                Err(CniError::PortInUse { network: network.clone(), port: ports.join(", ") })
            }
            other => other.map_err(CniError::link(network, "add to table", rules::TABLE)),
        }
    }

    /// Undoes a native attachment that another program has detached.
    async fn evict(&self, record: &Record) -> Result<(), CniError> {
        let Key { id, network, .. } = &record.key;
        tracing::warn!(id, network, "was detached by another program");
        self.del(record).await
    }

    /// Makes table and chains, unless they are known to stand.
    async fn stand(&self, network: &str, place: &Place, known: Known) -> Result<(), CniError> {
        let mut standing = self.standing.lock().await;
        if known == Known::Forget {
            standing.clear();
        } else if standing.contains(place) {
            return Ok(());
        }
        let first = standing.is_empty();
        let mut places = standing.clone();
        places.insert(place.clone());
        let mut restored = Vec::new();
        if first {
            for record in self.records.all() {
                if let How::Native(made) = &record.how
                    && !made.elements.is_empty()
                {
                    let wiring = &made.wiring;
                    places.insert(Place::new(&wiring.bridge, wiring.addresses.iter().copied()));
                    restored.push((record.key.clone(), made.elements.clone()));
                }
            }
        }
        nft::apply(rules::render(places.iter()))
            .await
            .map_err(|source| CniError::Rules { network: network.to_owned(), source })?;
        if known == Known::Forget {
            let tables = Arc::clone(&self.tables);
            blocking(network, move || {
                for (key, elements) in restored {
                    let owner = format!("{} {}", key.id, key.ifname);
                    if let Err(error) = tables.add(&elements, &owner) {
                        tracing::warn!(id = key.id, %error, "its rules could not be restored");
                    }
                }
                Ok(())
            })
            .await?;
        }
        *standing = places;
        Ok(())
    }

    /// Undoes what the record tells of. Doing it again is no error.
    ///
    /// The pair is cut off at once and removed a moment later: mostly the pod's namespace is removed
    /// meanwhile, and the pair with it, for nothing.
    pub(crate) async fn del(&self, record: &Record) -> Result<(), CniError> {
        let How::Native(made) = record.how.clone() else { return Ok(()) };
        let (record, patience) = (record.clone(), self.patience);
        let (records, tables) = (Arc::clone(&self.records), Arc::clone(&self.tables));
        let key = record.key.clone();
        let left = blocking(&key.network, move || {
            let network = &record.key.network;
            tables.remove(&made.elements).map_err(CniError::link(
                network,
                "remove from table",
                rules::TABLE,
            ))?;
            forget_flows(&made.elements);
            let mut rtnl =
                Rtnl::open().map_err(CniError::link(network, "open a socket for", &made.near))?;
            let bridge = made.wiring.bridge.clone();
            let cut = links::cut(&mut rtnl, &made.near).unwrap_or_else(|error| {
                // With the spanning tree protocol the bridge decides on its ports.
                tracing::debug!(%error, interface = made.near, "is removed at once");
                Cut::Gone
            });
            if cut == Cut::Gone {
                links::remove_near(network, &mut rtnl, &bridge, &made.near)?;
            }
            let owner = Owner { id: &record.key.id, ifname: &record.key.ifname };
            release(network, owner, &made, patience)?;
            if cut == Cut::Gone {
                records.remove(&record.key)?;
                return Ok(None);
            }
            let near = made.near;
            records.put(Record {
                how: How::Leaving { bridge: bridge.clone(), near: near.clone() },
                ..record
            })?;
            Ok(Some((bridge, near)))
        })
        .await?;
        if let Some((bridge, near)) = left {
            self.finish_later(key, bridge, near);
        }
        Ok(())
    }

    fn finish_later(&self, key: Key, bridge: String, near: String) {
        let records = Arc::clone(&self.records);
        // A restart finds the record.
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let network = key.network.clone();
            let done = blocking(&network, move || finish(&records, &key, &bridge, &near)).await;
            if let Err(error) = done {
                tracing::warn!(network, %error, "a pair stays until the next start");
            }
        });
    }

    /// Removes pairs that were cut off, a moment from now.
    pub(crate) fn resume(&self) {
        for record in self.records.all() {
            if let How::Leaving { bridge, near } = record.how {
                self.finish_later(record.key, bridge, near);
            }
        }
    }

    /// Removes the pairs that are in the way of a new attachment: of the same pod, or of another in
    /// its namespace, just detached.
    pub(crate) async fn vacate(&self, key: &Key, netns: &str) -> Result<(), CniError> {
        let before =
            |other: &Record| other.is_leaving() && (other.key == *key || other.netns == netns);
        let before: Vec<_> = self.records.all().into_iter().filter(before).collect();
        if before.is_empty() {
            return Ok(());
        }
        let records = Arc::clone(&self.records);
        let concerned = move |record: &Record| before.iter().any(|one| one.key == record.key);
        blocking(&key.network, move || finish_where(&records, concerned)).await
    }

    /// Removes the pairs that were cut off, now.
    pub(crate) async fn settle(&self) -> Result<(), CniError> {
        let records = Arc::clone(&self.records);
        blocking("all", move || finish_where(&records, |_| true)).await
    }

    /// Undoes an attachment of which nothing is known, for a list whose plugins are not there: what
    /// the id and the interface tell.
    pub(crate) async fn del_unknown(&self, plan: Plan) -> Result<(), CniError> {
        let (network, patience) = (plan.network().to_owned(), self.patience);
        blocking(&network, move || {
            let network = plan.network();
            match Netns::open(Path::new(&plan.call.netns)) {
                Ok(netns) => {
                    let ifname = plan.call.ifname.clone();
                    netns
                        .run(move || links::remove_far(&ifname))
                        .map_err(CniError::netns(network))?
                        .map_err(CniError::link(network, "remove", &plan.call.ifname))?;
                }
                Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => {}
                Err(error) => return Err(CniError::netns(network)(error)),
            }
            let directory = plan.recipe.reservations(network);
            if !directory.exists() {
                return Ok(());
            }
            Reservations::lock(network, &directory, patience)?.release_all(plan.owner())
        })
        .await
    }

    /// Whether everything that the record tells of is there.
    pub(crate) async fn check(
        &self,
        plan: Plan,
        made: Made,
        result: AddResult,
    ) -> Result<(), CniError> {
        let (network, patience) = (plan.network().to_owned(), self.patience);
        let tables = Arc::clone(&self.tables);
        blocking(&network, move || {
            let network = plan.network();
            let differs =
                |what: String| Err(CniError::Differs { network: network.to_owned(), what });
            let inside = plan.inside(&result.ips, &result.routes);
            let netns =
                Netns::open(Path::new(&plan.call.netns)).map_err(CniError::netns(network))?;
            let missing = netns
                .run(move || inside.missing())
                .map_err(CniError::netns(network))?
                .map_err(CniError::link(network, "examine", &plan.call.ifname))?;
            if let Some(what) = missing {
                return differs(what);
            }
            let bridge = &made.wiring.bridge;
            let mut rtnl =
                Rtnl::open().map_err(CniError::link(network, "open a socket for", bridge))?;
            let port = links::is_port(&mut rtnl, bridge, &made.near)
                .map_err(CniError::link(network, "examine", &made.near))?;
            if !port {
                return differs(format!("{} is no port of {bridge}, or down", made.near));
            }
            let all = Reservations::lock(network, &made.reservations, patience)?;
            if let Some(address) =
                made.addresses.iter().find(|address| !all.holds(plan.owner(), **address))
            {
                return differs(format!("address {address} is not reserved for it"));
            }
            drop(all);
            for element in &made.elements {
                let there = tables.has(element).map_err(CniError::link(
                    network,
                    "examine table",
                    rules::TABLE,
                ))?;
                if !there {
                    let what = describe(element);
                    return differs(format!("{what} is missing in table {}", rules::TABLE));
                }
            }
            Ok(())
        })
        .await
    }

    /// Gives back reservations of the list that belong to nobody in `valid`.
    pub(crate) async fn collect(
        &self,
        list: &NetworkList,
        valid: HashSet<(String, String)>,
    ) -> Result<(), CniError> {
        let Some(recipe) = Recipe::of(list) else { return Ok(()) };
        let (network, patience) = (list.name.clone(), self.patience);
        let directory: PathBuf = recipe.reservations(&network);
        blocking(&list.name, move || {
            if !directory.exists() {
                return Ok(());
            }
            let released = Reservations::lock(&network, &directory, patience)?.retain(&valid)?;
            if released > 0 {
                tracing::info!(network, released, "addresses that belonged to no pod");
            }
            Ok(())
        })
        .await
    }

    /// Removes the table when no attachment is left that has elements in it.
    pub(crate) async fn close_unused(&self) -> Result<(), CniError> {
        self.settle().await?;
        let mut standing = self.standing.lock().await;
        let used =
            |record: &Record| matches!(&record.how, How::Native(m) if !m.elements.is_empty());
        if self.records.all().iter().any(used) {
            return Ok(());
        }
        standing.clear();
        let tables = Arc::clone(&self.tables);
        blocking(rules::TABLE, move || {
            tables.remove_table().map_err(CniError::link("all", "remove table", rules::TABLE))
        })
        .await
    }
}

/// Whether what is known of the rules can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Trust,
    Forget,
}

/// Whether the attachment still has one of its addresses.
fn is_alive(record: &Record, made: &Made, patience: Duration) -> Result<bool, CniError> {
    if !made.reservations.exists() {
        return Ok(false);
    }
    let all = Reservations::lock(&record.key.network, &made.reservations, patience)?;
    let owner = Owner { id: &record.key.id, ifname: &record.key.ifname };
    Ok(made.addresses.iter().any(|address| all.holds(owner, *address)))
}
