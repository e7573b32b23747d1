//! The engine as its users hold it, and what all its parts share.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use pouch_cgroup::Layout;
use pouch_containerd as backend;
use pouch_image::Images;
use pouch_network::Networks;
use pouch_snapshot::Roots;
use pouch_store::Store;
use pouch_types::spec::{ContainerSpec, Propagation};
use pouch_types::{ContainerId, ContainerName};
use pouch_volume::Volumes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::EngineConfig;
use crate::container::Container;
use crate::container::index::Index;
use crate::container::record::Record;
use crate::events::{EventBus, EventKind, EventStream};
use crate::view::{ContainerView, EndpointView, MountPoint};
use crate::{EngineError, exec, system};

/// Time for work under way at the end of the daemon.
const CLOSE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Time for taking an unused network down: links and rules wait for other users of the kernel's
/// one lock for them.
const NETWORK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(8);

/// What the engine stands on, opened by the daemon.
#[derive(Debug)]
pub struct Seams {
    /// The store.
    pub store: Store,
    /// The backend and its events.
    pub backend: Arc<dyn backend::Client>,
    /// What its shims report.
    pub backend_events: mpsc::Receiver<backend::Event>,
    /// Images.
    pub images: Images,
    /// Root file systems.
    pub snapshots: Arc<dyn Roots>,
    /// Networks.
    pub networks: Networks,
    /// Volumes.
    pub volumes: Volumes,
    /// Networks of pods, for a daemon that serves them.
    pub cni: Option<pouch_cni::Cni>,
    /// Whether the database was lost and is to be rebuilt from the records beside the containers.
    pub rebuild: Rebuild,
}

/// See [`Seams::rebuild`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebuild {
    /// The database is whole.
    No,
    /// It was quarantined.
    FromCopies,
}

/// Use cases; clones share one engine.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: EngineConfig,
    pub(crate) store: Store,
    pub(crate) backend: Arc<dyn backend::Client>,
    pub(crate) images: Images,
    pub(crate) snapshots: Arc<dyn Roots>,
    pub(crate) networks: Networks,
    pub(crate) volumes: Volumes,
    pub(crate) index: Index,
    pub(crate) events: EventBus,
    pub(crate) execs: exec::Execs,
    pub(crate) pods: crate::pod::Pods,
    /// Networks of pods; `None` where no pods are served.
    pub(crate) cni: Option<pouch_cni::Cni>,
    /// Devices of vendors.
    pub(crate) cdi: Arc<pouch_cdi::Registry>,
    pub(crate) cgroups: Arc<Layout>,
    pub(crate) support: pouch_cgroup::Support,
    pub(crate) host: pouch_oci::HostFeatures,
    pub(crate) boot_id: String,
    pub(crate) version: system::Version,
    /// Set when the daemon ends: what only watches stops.
    pub(crate) closing: CancellationToken,
    /// What the daemon's end waits for: changes under way. Actors, probes and delays are not here.
    pub(crate) tasks: TaskTracker,
}

impl Engine {
    /// Opens the engine: loads what the store holds, finds what still runs, and takes up where the
    /// last daemon left off. The engine answers when this returns; clean-ups and restarts that
    /// follow from the reconciliation go on in the background.
    ///
    /// # Errors
    /// When the machine's control groups cannot be read, or the store or the backend cannot be
    /// listed.
    pub async fn open(config: EngineConfig, seams: Seams) -> Result<Self, EngineError> {
        let cgroups = Layout::detect().map_err(|e| EngineError::wrap("find control groups", e))?;
        let host = pouch_oci::HostFeatures::detect()
            .map_err(|e| EngineError::io("look at the machine", e))?;
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map_err(|e| EngineError::io("read the boot id", e))?
            .trim()
            .to_owned();
        let cdi = Arc::new(pouch_cdi::Registry::new(config.cdi_spec_dirs.clone()));
        let inner = Arc::new(Inner {
            config,
            store: seams.store,
            backend: seams.backend,
            images: seams.images,
            snapshots: seams.snapshots,
            networks: seams.networks,
            volumes: seams.volumes,
            index: Index::default(),
            events: EventBus::default(),
            execs: exec::Execs::default(),
            pods: crate::pod::Pods::default(),
            cni: seams.cni,
            cdi,
            support: cgroups.support(),
            cgroups,
            host,
            boot_id,
            version: system::Version::detect(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let engine = Self { inner };
        // Large, and once: not on the stack of whoever opens the engine.
        Box::pin(crate::boot::restore(&engine.inner, seams.rebuild)).await?;
        let listener = Arc::clone(&engine.inner);
        tokio::spawn(listen(listener, seams.backend_events));
        // Waited for at the end: it must not put back what the end takes down.
        engine.inner.tasks.spawn(guard_rules(Arc::clone(&engine.inner)));
        Ok(engine)
    }

    /// All containers, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<ContainerView>> {
        let mut views: Vec<_> = self.inner.index.all().iter().map(|c| c.view()).collect();
        views.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        views
    }

    /// One container.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn view(&self, key: &str) -> Result<Arc<ContainerView>, EngineError> {
        Ok(self.find(key)?.view())
    }

    /// Images.
    #[must_use]
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// Networks.
    #[must_use]
    pub fn networks(&self) -> &Networks {
        &self.inner.networks
    }

    /// Listens to events.
    #[must_use]
    pub fn events(&self, since: Option<Timestamp>, until: Option<Timestamp>) -> EventStream {
        self.inner.events.subscribe(since, until)
    }

    /// The engine's settings.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.inner.config
    }

    /// Paths of `/proc` and `/sys` that containers do not see unless they ask.
    #[must_use]
    pub fn masked_paths(&self) -> Vec<String> {
        pouch_oci::default_masked_paths(&self.inner.host)
    }

    /// Paths of `/proc` that containers do not write to unless they ask.
    #[must_use]
    pub fn readonly_paths(&self) -> Vec<String> {
        pouch_oci::default_readonly_paths()
    }

    /// Who makes control groups.
    #[must_use]
    pub fn cgroup_driver(&self) -> backend::CgroupDriver {
        self.inner.config.cgroup_driver
    }

    /// Whether the kernel confines by AppArmor.
    #[must_use]
    pub fn has_apparmor(&self) -> bool {
        self.inner.host.apparmor
    }

    /// What keeps the root file systems, as clients know it.
    #[must_use]
    pub fn storage_driver(&self) -> &str {
        self.inner.snapshots.driver()
    }

    /// Directories of a container's root file system, by Docker's names for them.
    ///
    /// There is no `MergedDir`: the root is mounted in the shim's namespace alone.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn layer_dirs(&self, key: &str) -> Result<BTreeMap<String, String>, EngineError> {
        let container = self.find(key)?;
        let mounts = self
            .inner
            .snapshots
            .mounts(&container.id)
            .map_err(|e| EngineError::wrap("find the root file system", e))?;
        let mut dirs = BTreeMap::new();
        for option in mounts.iter().flat_map(|mount| &mount.options) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let name = match key {
                "lowerdir" | "lowerdir+" => "LowerDir",
                "upperdir" => "UpperDir",
                "workdir" => "WorkDir",
                _ => continue,
            };
            let dirs: &mut String = dirs.entry(name.to_owned()).or_default();
            if !dirs.is_empty() {
                dirs.push(':');
            }
            dirs.push_str(value);
        }
        Ok(dirs)
    }

    /// What this engine is.
    #[must_use]
    pub fn version(&self) -> &system::Version {
        &self.inner.version
    }

    /// Ends the engine in order: what must not be half-done is finished, containers go on.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        // A stop that waits for its container may take long; what is left is taken up again from
        // the records.
        if tokio::time::timeout(CLOSE_PATIENCE, self.inner.tasks.wait()).await.is_err() {
            tracing::debug!(left = self.inner.tasks.len(), "closing with work under way");
        }
        if tokio::time::timeout(CLOSE_PATIENCE, self.inner.backend.close()).await.is_err() {
            tracing::debug!("the backend is left with work");
        }
        // Bridge and rules stay only for containers that go on, so that a daemon which is not
        // started again leaves the host as it found it.
        match tokio::time::timeout(NETWORK_PATIENCE, self.inner.networks.close_unused()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "cannot take the unused network down"),
            Err(_) => tracing::warn!("taking the unused network down takes too long"),
        }
    }

    pub(crate) fn find(&self, key: &str) -> Result<Arc<Container>, EngineError> {
        self.inner.index.find(key)
    }

    /// A container whose life is its user's to decide, not that of Kubernetes: kubelet would undo
    /// what others do to its pods, or be misled by it.
    pub(crate) fn find_free(&self, key: &str) -> Result<Arc<Container>, EngineError> {
        let container = self.find(key)?;
        match &container.view().spec.pod {
            None => Ok(container),
            Some(member) => Err(EngineError::conflict(format!(
                "container {} belongs to pod sandbox {} of Kubernetes, which alone changes it",
                container.id,
                member.pod.short()
            ))),
        }
    }
}

impl Inner {
    pub(crate) fn announce_container(
        &self,
        action: impl Into<String>,
        id: &ContainerId,
        attributes: BTreeMap<String, String>,
    ) {
        self.events.publish(EventKind::Container, action, id.as_str(), attributes);
    }

    /// Tells that a container's run mounts a volume (`mount`) or has let go of it (`unmount`).
    pub(crate) fn announce_mount(&self, action: &str, container: &ContainerId, point: &MountPoint) {
        let Some(volume) = &point.volume else { return };
        let driver = point.driver.as_deref().unwrap_or("local");
        let mut attributes = BTreeMap::from([
            ("container".to_owned(), container.to_string()),
            ("driver".to_owned(), driver.to_owned()),
        ]);
        if action == "mount" {
            let propagation = point.propagation.map_or("", Propagation::as_str);
            attributes.insert("destination".to_owned(), point.spec.destination.clone());
            attributes.insert("propagation".to_owned(), propagation.to_owned());
            attributes.insert("read/write".to_owned(), (!point.spec.read_only).to_string());
        }
        self.events.publish(EventKind::Volume, action, volume, attributes);
    }

    /// Tells that a container came to a network (`connect`) or left it (`disconnect`).
    pub(crate) fn announce_network(
        &self,
        action: &str,
        container: &ContainerId,
        endpoint: &EndpointView,
    ) {
        // A predefined network's name is its driver's, but for `none`.
        let kind = if endpoint.network == "none" { "null" } else { endpoint.network.as_str() };
        let attributes = [
            ("container", container.as_str()),
            ("name", endpoint.network.as_str()),
            ("type", kind),
        ];
        let attributes = attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        self.events.publish(EventKind::Network, action, &endpoint.network_id, attributes);
    }
}

/// Attribute of events of a container of a pod: the sandbox.
pub const POD_ATTRIBUTE: &str = "io.kubernetes.sandbox.id";

/// What Docker tells of a container with each of its events.
pub(crate) fn event_attributes(record: &Record) -> BTreeMap<String, String> {
    attributes(&record.name, &record.spec)
}

/// As [`event_attributes`], from what readers see.
pub(crate) fn view_attributes(view: &ContainerView) -> BTreeMap<String, String> {
    attributes(&view.name, &view.spec)
}

fn attributes(name: &ContainerName, spec: &ContainerSpec) -> BTreeMap<String, String> {
    let mut attributes = spec.labels.clone();
    attributes.insert("name".to_owned(), name.to_string());
    attributes.insert("image".to_owned(), spec.image_name.clone());
    if let Some(member) = &spec.pod {
        attributes.insert(POD_ATTRIBUTE.to_owned(), member.pod.to_string());
    }
    attributes
}

/// Puts packet rules back that somebody else deletes.
async fn guard_rules(engine: Arc<Inner>) {
    // Cancel-safe: a watch may be dropped at any time.
    let ended = engine.closing.run_until_cancelled(engine.networks.watch()).await;
    if let Some(Err(error)) = ended {
        let error = pouch_types::error::chain(&error);
        tracing::error!(error, "packet rules are no longer watched");
    }
}

/// Takes what shims report to the containers that it concerns.
async fn listen(engine: Arc<Inner>, mut events: mpsc::Receiver<backend::Event>) {
    while let Some(event) = events.recv().await {
        match event {
            backend::Event::Exit { container, exec: None, status, .. } => {
                crate::failpoint::hit("exit:reported");
                match engine.index.get(&container) {
                    Some(container) => {
                        crate::lifecycle::cleanup::reported(&container, status).await;
                    }
                    None => crate::pod::process_ended(&engine, &container),
                }
            }
            backend::Event::Exit { container, exec: Some(exec), status, .. } => {
                engine.execs.ended(&engine, &container, &exec, status).await;
            }
            // The exit file says it at the end; the event is only for those who watch.
            backend::Event::Oom { container } => {
                tracing::info!(container.id = %container, "the kernel killed a process for memory");
            }
            backend::Event::Lost { container } => match engine.index.get(&container) {
                Some(container) => {
                    engine.tasks.spawn(async move {
                        crate::lifecycle::cleanup::supervisor_lost(&container).await;
                    });
                }
                None => crate::pod::process_ended(&engine, &container),
            },
        }
    }
}
