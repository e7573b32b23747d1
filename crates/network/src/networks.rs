//! [`Networks`]: attachments in order, undone in reverse, and found again after a restart.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::ErrorKind::AlreadyExists;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pouch_store::Store;
use pouch_types::spec::Protocol;
use pouch_types::{ContainerId, NetworkId};
use tokio::sync::{RwLock, RwLockReadGuard};

use crate::bridge::{self, BridgeDriver, INTERFACE, Survey};
use crate::config::{Icc, Masquerade, NetworkConfig};
use crate::driver::{HostDriver, NetworkDriver, NullDriver, Presence};
use crate::endpoint::{
    AttachRequest, Attached, Driver, Endpoint, LiveContainer, NetworkView, Reconciled,
};
use crate::error::NetworkError;
use crate::forwarding::{self, Transit};
use crate::lease::{self, EndpointRow, NetworkRow, NewLease};
use crate::netfilter::{self, Deletions};
use crate::nft::Nft;
use crate::ports::{self, PortTable};
use crate::ruleset::{Base, ForeignTransit, Forward, Ruleset, table_name};
use crate::subnet::{Subnet, first_free};

/// MTU where the host has no default route to take one from.
const DEFAULT_MTU: u32 = 1500;
/// Between attempts to put deleted rules back.
const RETRY: Duration = Duration::from_secs(1);
/// Smallest MTU of IPv4 hosts (RFC 791).
const MIN_MTU: u32 = 576;

/// All networks of one daemon. Clones share them.
///
/// A change that was begun is carried to its end, or undone, even when the caller's future is
/// dropped.
#[derive(Debug, Clone)]
pub struct Networks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: NetworkConfig,
    store: Store,
    rows: Vec<NetworkRow>,
    bridge: BridgeDriver,
    ruleset: Box<dyn Ruleset>,
    ports: Mutex<PortTable>,
    /// Whether bridge and rules stand; changed under `plant` held for writing.
    stands: AtomicBool,
    /// Held for reading by attachments, so that nothing is taken down under them.
    plant: RwLock<()>,
    /// Held while rules and the rows that they mirror are brought in step.
    rules: tokio::sync::Mutex<()>,
    /// Read by each removal of an interface that trails behind its detachment.
    trailing: Arc<RwLock<()>>,
}

/// Runs what blocks for milliseconds off the async threads.
async fn blocking<T, F>(f: F) -> Result<T, NetworkError>
where
    F: FnOnce() -> Result<T, NetworkError> + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(f).await.map_err(|_| NetworkError::CutOff)?
}

impl Networks {
    /// Opens the networks: reads or makes their records and decides on the bridge's subnet.
    /// Interfaces and rules are made at first use.
    ///
    /// # Errors
    /// [`NetworkError`]: a bad name, a foreign interface under the bridge's name, a subnet that
    /// the host uses otherwise, no free one.
    pub async fn open(config: NetworkConfig, store: Store) -> Result<Self, NetworkError> {
        let table = table_name(&config.bridge);
        Self::with_ruleset(config, store, Box::new(Nft::new(table))).await
    }

    /// As [`Networks::open`], with another way to install packet rules.
    ///
    /// # Errors
    /// As [`Networks::open`].
    pub async fn with_ruleset(
        config: NetworkConfig,
        store: Store,
        ruleset: Box<dyn Ruleset>,
    ) -> Result<Self, NetworkError> {
        bridge::check_name(&config.bridge)?;
        let name = config.bridge.clone();
        let survey = blocking(move || {
            bridge::survey(&name).map_err(NetworkError::link("survey the host for", &name))
        })
        .await?;
        let (wanted, uplink_mtu) = (config.clone(), survey.uplink_mtu);
        let (rows, subnet, gateway) =
            store.write(move |tx| open_rows(tx, &wanted, &survey)).await?;
        let mtu = config.mtu.or(uplink_mtu).unwrap_or(DEFAULT_MTU).max(MIN_MTU);
        let bridge = BridgeDriver {
            name: config.bridge.clone(),
            alias: bridge::alias(&config.state_dir),
            subnet,
            gateway,
            mtu,
            icc: config.icc,
        };
        let probe = bridge.clone();
        blocking(move || probe.check()).await?;
        Ok(Self(Arc::new(Inner {
            config,
            store,
            rows,
            bridge,
            ruleset,
            ports: Mutex::default(),
            stands: AtomicBool::new(false),
            plant: RwLock::new(()),
            rules: tokio::sync::Mutex::new(()),
            trailing: Arc::default(),
        })))
    }

    /// Attaches a container. Its own namespace, if the network needs one, exists already; nothing
    /// runs in it yet.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is left of the attempt.
    pub async fn attach(&self, request: AttachRequest) -> Result<Endpoint, NetworkError> {
        self.spawn(|inner| async move { inner.attach(request).await }).await
    }

    /// Removes all attachments of a container; without any it does nothing. What could not be
    /// removed stays on record and goes with the next call or [`Networks::reconcile`].
    ///
    /// Address, ports and rules are free when it returns; the kernel's removal of the interface,
    /// which waits for RCU for tens of milliseconds, goes on behind it ([`Networks::settle`]).
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let id = container.clone();
        self.spawn(|inner| async move { inner.detach(&id).await }).await
    }

    /// Waits until the interfaces of all detached containers are gone.
    pub async fn settle(&self) {
        drop(self.0.trailing.write().await);
    }

    /// Brings the kernel in step with the records, once at the daemon's start and before any
    /// attachment: `live` are the containers that run.
    ///
    /// # Errors
    /// [`NetworkError`] when nothing could be done; what failed for single containers is in the
    /// answer.
    pub async fn reconcile(&self, live: Vec<LiveContainer>) -> Result<Reconciled, NetworkError> {
        self.spawn(|inner| async move { inner.reconcile(live).await }).await
    }

    /// Removes bridge and rules if no container uses them; they come back at the next use.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn close_unused(&self) -> Result<(), NetworkError> {
        self.spawn(|inner| async move { inner.take_down(Users::Respected).await }).await
    }

    /// Removes everything that this daemon has on the host: attachments, bridge, rules. The
    /// networks' records stay.
    ///
    /// # Errors
    /// The first [`NetworkError`].
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        self.spawn(|inner| async move { inner.take_down(Users::Removed).await }).await
    }

    /// Installs the packet rules anew, atomically, if containers use them: for after somebody
    /// flushed the ruleset.
    ///
    /// # Errors
    /// [`NetworkError::Ruleset`] or a failure of the store.
    pub async fn reapply(&self) -> Result<(), NetworkError> {
        self.spawn(|inner| async move {
            let _plant = inner.plant.read().await;
            if !inner.stands() {
                return Ok(());
            }
            let _rules = inner.rules.lock().await;
            inner.install().await
        })
        .await
    }

    /// Installs the rules anew whenever somebody deletes them (`nft flush ruleset`, a restart of
    /// nftables.service): within half a second. Never returns but with an error; drop the future
    /// to stop, at any time.
    ///
    /// # Errors
    /// [`NetworkError::Link`] when the kernel's notifications cannot be read. A failed
    /// installation is logged and tried again every second.
    pub async fn watch(&self) -> Result<std::convert::Infallible, NetworkError> {
        let table = table_name(&self.0.config.bridge);
        let failed = |source| NetworkError::link("watch the rules of", &table)(source);
        let deletions = Deletions::of(table.clone()).map_err(failed)?;
        loop {
            deletions.next().await.map_err(failed)?;
            while let Err(error) = self.reapply().await {
                let error = pouch_types::error::chain(&error);
                tracing::error!(error, "deleted packet rules could not be installed again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// All networks, in the order `bridge`, `host`, `none`.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn list(&self) -> Result<Vec<NetworkView>, NetworkError> {
        let endpoints = self.0.store.read(|db| lease::endpoints(db, None)).await?;
        Ok(self.0.rows.iter().map(|row| self.0.view(row, &endpoints)).collect())
    }

    /// One network by name, id or unique prefix of an id.
    ///
    /// # Errors
    /// [`NetworkError::NoSuchNetwork`] or a failure of the store.
    pub async fn inspect(&self, name: &str) -> Result<NetworkView, NetworkError> {
        let row = self.0.resolve(name)?.clone();
        let endpoints = self.0.store.read(|db| lease::endpoints(db, None)).await?;
        Ok(self.0.view(&row, &endpoints))
    }

    /// The attachments of a container, oldest first.
    ///
    /// # Errors
    /// A failure of the store.
    pub async fn endpoints(&self, container: &ContainerId) -> Result<Vec<Endpoint>, NetworkError> {
        let id = container.clone();
        let rows = self.0.store.read(move |db| lease::endpoints(db, Some(&id))).await?;
        Ok(rows.into_iter().map(|row| row.leased.endpoint).collect())
    }

    /// The bridge's address, which `host-gateway` stands for.
    #[must_use]
    pub fn host_gateway(&self) -> IpAddr {
        self.0.bridge.gateway.into()
    }

    /// Runs a change to its end, whatever becomes of the caller.
    async fn spawn<T, F, W>(&self, work: W) -> Result<T, NetworkError>
    where
        W: FnOnce(Arc<Inner>) -> F,
        F: Future<Output = Result<T, NetworkError>> + Send + 'static,
        T: Send + 'static,
    {
        let task = tokio::spawn(work(Arc::clone(&self.0)));
        task.await.map_err(|_| NetworkError::CutOff)?
    }
}

/// Whether containers that are attached keep the networks from being taken down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Users {
    Respected,
    Removed,
}

/// The records of the predefined networks, and the subnet and gateway of the bridge.
fn open_rows(
    tx: &rusqlite::Connection,
    config: &NetworkConfig,
    survey: &Survey,
) -> Result<(Vec<NetworkRow>, Subnet, std::net::Ipv4Addr), NetworkError> {
    let mut rows = Vec::new();
    for (name, driver) in
        [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)]
    {
        let fresh =
            NetworkId::random().map_err(|e| NetworkError::Random(std::io::Error::other(e)))?;
        rows.push(lease::predefined(tx, name, driver, fresh)?);
    }
    let id = &rows[0].id;
    let recorded = lease::recorded_subnet(tx, id)?;
    let used = &survey.used;
    let in_use = |subnet: Subnet| used.iter().copied().find(|u| u.overlaps(subnet));
    // Without the bridge no recorded endpoint can be alive: they await reconciliation.
    let busy = survey.own_bridge == Presence::Present
        && lease::endpoints(tx, None)?.iter().any(|row| row.leased.endpoint.ipv4.is_some());
    let subnet = match (config.subnet, recorded) {
        (Some(subnet), _) => match in_use(subnet) {
            Some(used) => return Err(NetworkError::SubnetInUse { subnet, used }),
            None => subnet,
        },
        (None, Some((subnet, _))) if busy || in_use(subnet).is_none() => subnet,
        (None, _) => first_free(&config.pools, used).ok_or(NetworkError::NoFreeSubnet)?,
    };
    let gateway = config
        .gateway
        .or_else(|| recorded.filter(|(old, _)| *old == subnet).map(|(_, gateway)| gateway))
        .or_else(|| subnet.hosts_after(subnet.base()).next())
        .unwrap_or_else(|| subnet.base());
    // One more host than the gateway must fit.
    if !subnet.is_host(gateway) || subnet.prefix() > 30 {
        return Err(NetworkError::InvalidGateway { gateway, subnet });
    }
    if recorded != Some((subnet, gateway)) {
        if let Some((old, _)) = recorded
            && busy
        {
            let network = rows[0].name.clone();
            return Err(NetworkError::SubnetBusy { network, old, new: subnet });
        }
        lease::record_subnet(tx, id, subnet, gateway)?;
    }
    Ok((rows, subnet, gateway))
}

/// The map elements of an endpoint.
fn forwards(endpoint: &Endpoint) -> Vec<Forward> {
    let Some(ipv4) = endpoint.ipv4 else { return Vec::new() };
    endpoint
        .ports
        .iter()
        .filter_map(|port| match port.host_ip {
            IpAddr::V4(host_ip) => Some(Forward {
                protocol: port.container.protocol,
                host_ip,
                host_port: port.host_port,
                address: ipv4.address,
                port: port.container.number,
            }),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// Makes UDP clients that never pause see the change. Best effort: without it they see it after
/// their next pause.
async fn forget_flows(changed: Vec<Forward>) {
    if !changed.iter().any(|f| f.protocol == Protocol::Udp) {
        return;
    }
    let done = blocking(move || {
        let forget = || netfilter::forget_udp(&changed, &bridge::local_addresses()?);
        forget().map_err(NetworkError::link("forget the flows of", "udp"))
    });
    if let Err(error) = done.await {
        let error = pouch_types::error::chain(&error);
        tracing::warn!(error, "stale UDP flows may keep their translation");
    }
}

impl Inner {
    fn resolve(&self, name: &str) -> Result<&NetworkRow, NetworkError> {
        let name = if name == "default" { "bridge" } else { name };
        let exact = self.rows.iter().find(|row| row.name == name || row.id.as_str() == name);
        exact
            .or_else(|| {
                let mut matching = self
                    .rows
                    .iter()
                    .filter(|row| name.len() >= 2 && row.id.as_str().starts_with(name));
                matching.next().filter(|_| matching.next().is_none())
            })
            .ok_or_else(|| NetworkError::NoSuchNetwork { name: name.to_owned() })
    }

    fn driver(&self, kind: Driver) -> Arc<dyn NetworkDriver> {
        match kind {
            Driver::Bridge => Arc::new(self.bridge.clone()),
            Driver::Host => Arc::new(HostDriver),
            Driver::Null => Arc::new(NullDriver),
        }
    }

    /// The driver of an endpoint on record.
    fn driver_of(&self, endpoint: &Endpoint) -> Arc<dyn NetworkDriver> {
        let row = self.rows.iter().find(|row| row.id == endpoint.network_id);
        self.driver(row.map_or(Driver::Null, |row| row.driver))
    }

    fn ports(&self) -> MutexGuard<'_, PortTable> {
        // A panic elsewhere leaves the table consistent: each change is one call.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stands(&self) -> bool {
        self.stands.load(Ordering::Acquire)
    }

    /// Bridge, sysctls and rules, made unless they stand.
    async fn plant(&self) -> Result<RwLockReadGuard<'_, ()>, NetworkError> {
        let plant = self.plant.read().await;
        if self.stands() {
            return Ok(plant);
        }
        drop(plant);
        let plant = self.plant.write().await;
        if !self.stands() {
            let driver = self.bridge.clone();
            let _rules = self.rules.lock().await;
            // The rules before the bridge: never a moment with an address and no guard.
            self.install().await?;
            blocking(move || driver.prepare()).await?;
            self.stands.store(true, Ordering::Release);
        }
        Ok(plant.downgrade())
    }

    /// Installs the rules for what the records say. The caller holds `rules`.
    async fn install(&self) -> Result<(), NetworkError> {
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        let published: Vec<_> =
            rows.iter().flat_map(|row| forwards(&row.leased.endpoint)).collect();
        let (mode, state_dir) = (self.config.forwarding, self.config.state_dir.clone());
        let transit = match forwarding::plan(mode, &state_dir)? {
            Transit::Allowed => ForeignTransit::Pass,
            Transit::Blocked => ForeignTransit::Drop,
        };
        let base = Base {
            bridge: self.bridge.name.clone(),
            subnet: self.bridge.subnet,
            icc: self.config.icc,
            masquerade: self.config.masquerade,
            transit,
        };
        self.ruleset.install(&base, &published).await?;
        forwarding::enable(mode)
    }

    async fn attach(self: Arc<Self>, request: AttachRequest) -> Result<Endpoint, NetworkError> {
        let network = self.resolve(&request.network)?.clone();
        let driver = self.driver(network.driver);
        let validated = driver.validate(&request)?;
        let addressed = validated.addressing.is_some();
        let wanted = if addressed {
            let default_ip = self.config.default_host_ip;
            ports::plan(&request.ports, &request.publish_exposed, default_ip)?
        } else {
            Vec::new()
        };
        let _plant = if addressed { Some(self.plant().await?) } else { None };
        let (container, name) = (request.container, request.name.as_str().to_owned());
        let reserved = if wanted.is_empty() {
            Vec::new()
        } else {
            let (inner, id, name) = (Arc::clone(&self), container.clone(), name.clone());
            // A refusal reads much of /proc to name the holder.
            blocking(move || {
                let reserved = inner.ports().reserve(&id, &name, &wanted);
                reserved.map_err(ports::name_holder)
            })
            .await?
        };
        let endpoint_id = pouch_types::id::random_hex()
            .map_err(|e| NetworkError::Random(std::io::Error::other(e)))?;
        let lease = NewLease {
            container: container.clone(),
            name: name.clone(),
            network,
            endpoint_id,
            netns: validated.netns,
            interface: addressed.then(|| INTERFACE.to_owned()),
            addressing: validated.addressing,
            ports: reserved.clone(),
        };
        let leased = match self.store.write(move |tx| lease::insert(tx, lease)).await {
            Ok(leased) => leased,
            Err(error) => {
                self.ports().release_ports(&container, &reserved);
                return Err(error);
            }
        };
        let row = EndpointRow { container, name, leased };
        if let Err(error) = self.bring_up(&driver, &row).await {
            if let Err(undo) = self.drop_endpoint(&row).await {
                let container = row.container.as_str();
                tracing::error!(container, error = %undo, "an attachment was not undone");
            }
            return Err(error);
        }
        Ok(row.leased.endpoint)
    }

    async fn bring_up(
        &self,
        driver: &Arc<dyn NetworkDriver>,
        row: &EndpointRow,
    ) -> Result<(), NetworkError> {
        let set_up = || {
            let (driver, leased) = (Arc::clone(driver), row.leased.clone());
            blocking(move || driver.setup(&leased))
        };
        match set_up().await {
            Err(NetworkError::Link { source, .. }) if source.kind() == AlreadyExists => {
                // A namespace that is used again may still have the interface of its last use.
                drop(self.trailing.write().await);
                set_up().await?;
            }
            other => other?,
        }
        let added = forwards(&row.leased.endpoint);
        if added.is_empty() {
            return Ok(());
        }
        let _rules = self.rules.lock().await;
        let published = self.ruleset.publish(&added).await;
        if let Err(error) = published {
            // Somebody flushed the rules; the row is there, so a fresh set has our ports too.
            tracing::warn!(error = %error, "packet rules are gone; installing them again");
            self.install().await?;
        }
        forget_flows(added).await;
        Ok(())
    }

    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let id = container.clone();
        let rows = self.store.read(move |db| lease::endpoints(db, Some(&id))).await?;
        for row in &rows {
            self.drop_endpoint(row).await?;
        }
        Ok(())
    }

    /// Rules, rows, reservation, interface. An interface without a row is swept at the next start,
    /// so its removal may trail.
    async fn drop_endpoint(&self, row: &EndpointRow) -> Result<(), NetworkError> {
        let endpoint = &row.leased.endpoint;
        let removed = forwards(endpoint);
        let id = endpoint.endpoint_id.clone();
        let delete = self.store.write(move |tx| lease::delete(tx, &id));
        if removed.is_empty() {
            delete.await?;
        } else {
            let _rules = self.rules.lock().await;
            let withdrawn = self.ruleset.withdraw(&removed).await;
            delete.await?;
            if let Err(error) = withdrawn
                && self.stands()
            {
                tracing::warn!(error = %error, "packet rules are gone; installing them again");
                self.install().await?;
            }
            forget_flows(removed).await;
        }
        self.ports().release_ports(&row.container, &endpoint.ports);
        let guard = Arc::clone(&self.trailing).read_owned().await;
        let (driver, endpoint) = (self.driver_of(endpoint), endpoint.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = driver.teardown(&endpoint) {
                let error = pouch_types::error::chain(&error);
                tracing::error!(endpoint = endpoint.endpoint_id, error, "interface not removed");
            }
            drop(guard);
        });
        Ok(())
    }

    async fn reconcile(&self, live: Vec<LiveContainer>) -> Result<Reconciled, NetworkError> {
        let live: HashMap<_, _> = live.into_iter().map(|c| (c.id, c.netns)).collect();
        drop(self.trailing.write().await);
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        let (kept, dead): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| live.contains_key(&row.container));
        let mut done = Reconciled::default();
        let keep: HashSet<_> =
            kept.iter().map(|row| row.leased.endpoint.endpoint_id.clone()).collect();
        let bridge = self.bridge.clone();
        done.stray_links = blocking(move || bridge.sweep(&keep)).await?;
        for row in dead {
            let id = row.leased.endpoint.endpoint_id;
            // Their links went with the sweep, their rules go with the installation below.
            self.store.write(move |tx| lease::delete(tx, &id)).await?;
            done.released.push(row.container);
        }
        let bridge = self.bridge.clone();
        let stands = blocking(move || bridge.presence()).await? == Presence::Present;
        let needed = kept.iter().any(|row| row.leased.endpoint.ipv4.is_some());
        if stands || needed {
            drop(self.plant().await?);
        }
        for mut row in kept {
            let ports = &row.leased.endpoint.ports;
            let unbound = self.ports().restore(&row.container, &row.name, ports);
            if !unbound.is_empty() {
                let container = row.container.as_str();
                tracing::warn!(container, ?unbound, "published ports could not be reserved again");
            }
            row.leased.netns = live.get(&row.container).cloned().flatten().or(row.leased.netns);
            let driver = self.driver_of(&row.leased.endpoint);
            let leased = row.leased;
            let mended = blocking(move || match driver.is_up(&leased.endpoint)? {
                Presence::Present => Ok(Presence::Present),
                Presence::Absent => driver.setup(&leased).map(|()| Presence::Absent),
            });
            match mended.await {
                Ok(Presence::Present) => done.kept.push(row.container),
                Ok(Presence::Absent) => done.repaired.push(row.container),
                Err(error) => done.failed.push((row.container, error)),
            }
        }
        Ok(done)
    }

    async fn take_down(&self, users: Users) -> Result<(), NetworkError> {
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        if users == Users::Removed {
            for row in &rows {
                self.drop_endpoint(row).await?;
            }
        }
        drop(self.trailing.write().await);
        let _plant = self.plant.write().await;
        // Again, now that nobody can attach.
        let rows = self.store.read(|db| lease::endpoints(db, None)).await?;
        if rows.iter().any(|row| row.leased.endpoint.ipv4.is_some()) {
            return Ok(());
        }
        let _rules = self.rules.lock().await;
        self.stands.store(false, Ordering::Release);
        let (state_dir, bridge) = (self.config.state_dir.clone(), self.bridge.clone());
        // Forwarding off before the rules that fence it go.
        blocking(move || {
            forwarding::restore(&state_dir, &bridge.name)?;
            bridge.remove()
        })
        .await?;
        self.ruleset.remove().await?;
        Ok(())
    }

    fn view(&self, row: &NetworkRow, endpoints: &[EndpointRow]) -> NetworkView {
        let is_bridge = row.driver == Driver::Bridge;
        let containers = endpoints
            .iter()
            .filter(|e| e.leased.endpoint.network_id == row.id)
            .map(|e| Attached {
                container: e.container.clone(),
                name: e.name.clone(),
                endpoint: e.leased.endpoint.clone(),
            })
            .collect();
        NetworkView {
            id: row.id.clone(),
            name: row.name.clone(),
            driver: row.driver,
            created: row.created,
            ipam: is_bridge.then_some((self.bridge.subnet, self.bridge.gateway)),
            options: if is_bridge { self.bridge_options() } else { BTreeMap::new() },
            containers,
        }
    }

    fn bridge_options(&self) -> BTreeMap<String, String> {
        let icc = self.config.icc == Icc::Allowed;
        let masquerade = self.config.masquerade == Masquerade::On;
        [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade", masquerade.to_string()),
            (
                "com.docker.network.bridge.host_binding_ipv4",
                self.config.default_host_ip.to_string(),
            ),
            ("com.docker.network.bridge.name", self.bridge.name.clone()),
            ("com.docker.network.driver.mtu", self.bridge.mtu.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
