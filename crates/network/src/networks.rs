//! [`Networks`]: attachments in order, undone in reverse, and found again after a restart.

mod attachment;
mod upkeep;
mod view;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pouch_store::Store;
use pouch_types::{ContainerId, NetworkId};
use tokio::sync::RwLock;

use crate::bridge::{self, BridgeDriver};
use crate::config::NetworkConfig;
use crate::driver::{HostDriver, NetworkDriver, NullDriver, Presence};
use crate::endpoint::{AttachRequest, Driver, Endpoint, LiveContainer, NetworkView, Reconciled};
use crate::error::NetworkError;
use crate::lease::{self, NetworkRow};
use crate::netfilter::Deletions;
use crate::nft::Nft;
use crate::ports::PortTable;
use crate::ruleset::{Ruleset, table_name};
use crate::subnet::{Subnet, first_free};
use crate::survey::{self, Survey};

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
            survey::survey(&name).map_err(NetworkError::link("survey the host for", &name))
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
}
