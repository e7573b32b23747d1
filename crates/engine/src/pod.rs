//! Pods: sandboxes that Kubernetes' containers live in.
//!
//! A sandbox is a row, a few pinned namespaces, a network and, only where its containers share
//! their processes, one process that is the first of them: there is no image for it, and no shim
//! until a container comes. Containers of a pod are containers like all others, with
//! [`ContainerSpec::pod`](pouch_types::spec::ContainerSpec::pod) set, so the Docker face shows them;
//! what changes them goes through here alone.
//!
//! Everything may be asked again: what is under way is joined, what is gone is no error.

pub(crate) mod container;
mod exec;
mod files;
mod flight;
pub(crate) mod namespaces;
mod network;
mod process;
pub(crate) mod record;
pub(crate) mod restore;
mod run;
pub(crate) mod state;
mod stop;
mod usage;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use pouch_types::pod::{PodKey, PodSpec};
use pouch_types::{ContainerId, ErrorKind};

use crate::config::EngineConfig;
use crate::engine::Inner;
use crate::{Engine, EngineError};
use flight::Flights;
use record::PodRecord;
use state::{PodEvent, Refused};

pub use container::ProcessUser;
pub use exec::{ExecOutput, ExecSync};
pub use network::NetworkState;
pub use state::PodPhase;
pub use usage::PodNetworks;

/// All pods, and what is under way with them.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    index: RwLock<HashMap<ContainerId, Arc<Pod>>>,
    making: Arc<Flights<PodKey, ContainerId>>,
    creating: Arc<Flights<(ContainerId, String, u32), ContainerId>>,
    /// Held by those who connect pods, and alone by who collects what belongs to none: its list must
    /// not be older than an attachment.
    networks: tokio::sync::RwLock<()>,
}

/// A pod's sandbox.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) id: ContainerId,
    view: RwLock<Arc<PodView>>,
    /// Only changed by who holds `turn`.
    record: Mutex<PodRecord>,
    /// One change at a time.
    turn: tokio::sync::Mutex<()>,
    /// The process that holds the pod's namespace of processes.
    process: Mutex<Option<process::Handle>>,
}

/// A sandbox as readers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct PodView {
    /// Its id.
    pub id: ContainerId,
    /// What it was asked to be.
    pub spec: Arc<PodSpec>,
    /// When it was made.
    pub created: Timestamp,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// Its addresses, the first one first; none on the node's network.
    pub ips: Vec<IpAddr>,
    /// Its network namespace; `None` on the node's network.
    pub netns: Option<PathBuf>,
    /// First process of its namespace of processes; 0 without one.
    pub pid: u32,
}

impl Pods {
    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Pod>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Pod>> {
        self.index.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn insert(&self, pod: Arc<Pod>) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).insert(pod.id.clone(), pod);
    }

    fn remove(&self, id: &ContainerId) {
        self.index.write().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

impl Pod {
    fn new(config: &EngineConfig, record: PodRecord) -> Arc<Self> {
        let view = RwLock::new(Arc::new(view(config, &record, 0)));
        Arc::new(Self {
            id: record.id.clone(),
            view,
            record: Mutex::new(record),
            turn: tokio::sync::Mutex::default(),
            process: Mutex::default(),
        })
    }

    pub(crate) fn view(&self) -> Arc<PodView> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn record(&self) -> MutexGuard<'_, PodRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn process(&self) -> MutexGuard<'_, Option<process::Handle>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its containers join.
    pub(crate) fn namespaces(&self, config: &EngineConfig) -> pouch_oci::ResolvedNamespaces {
        let mut shared = namespaces::Pins::of(config, &self.record()).resolved();
        if shared.pid.is_some() {
            shared.pid = self.process().as_ref().and_then(process::Handle::namespace);
        }
        shared
    }

    /// Takes a step: the row first, then what readers see.
    async fn step(&self, engine: &Inner, event: PodEvent) -> Result<(), EngineError> {
        let mut record = self.record().clone();
        record.state = record.state.step(event).map_err(|Refused| no_such_pod(self.id.as_str()))?;
        self.replace(engine, record).await
    }

    /// Puts a record in the place of the one that is; of a pod that is gone there is none.
    async fn replace(&self, engine: &Inner, record: PodRecord) -> Result<(), EngineError> {
        if self.record().state.phase == PodPhase::Gone {
            return Err(no_such_pod(self.id.as_str()));
        }
        if record != *self.record() {
            let row = record.clone();
            engine.store.write(move |tx| row.put(tx)).await?;
            // The copy is a help, not a promise.
            let _ = crate::records::write_copy(&record, &engine.config.pod_dir(&self.id));
        }
        *self.record() = record;
        self.publish(engine);
        Ok(())
    }

    /// Tells listeners what became of it.
    fn announce(&self, engine: &Inner, action: &str) {
        engine.events.publish(crate::EventKind::Pod, action, self.id.as_str(), Default::default());
    }

    /// Shows readers what the record and the process are now.
    fn publish(&self, engine: &Inner) {
        let pid = self.process().as_ref().map_or(0, process::Handle::pid);
        let view = Arc::new(view(&engine.config, &self.record(), pid));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }
}

fn view(config: &EngineConfig, record: &PodRecord, pid: u32) -> PodView {
    PodView {
        id: record.id.clone(),
        spec: Arc::new(record.spec.clone()),
        created: record.created,
        phase: record.state.phase,
        ips: record.ips.clone(),
        netns: namespaces::Pins::of(config, record).net,
        pid,
    }
}

fn no_such_pod(key: &str) -> EngineError {
    let key: String = key.chars().take(128).collect();
    EngineError::new(ErrorKind::NotFound, format!("no such pod sandbox: {key}"))
}

impl Engine {
    /// All pods, in no order. Those that are being made are not among them.
    #[must_use]
    pub fn pods(&self) -> Vec<Arc<PodView>> {
        let views = self.inner.pods.all().into_iter().map(|pod| pod.view());
        views.filter(|view| !matches!(view.phase, PodPhase::Making | PodPhase::Gone)).collect()
    }

    /// One pod, by its id or an unambiguous beginning of it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn pod(&self, key: &str) -> Result<Arc<PodView>, EngineError> {
        Ok(self.find_pod(key)?.view())
    }

    fn find_pod(&self, key: &str) -> Result<Arc<Pod>, EngineError> {
        if let Ok(id) = key.parse::<ContainerId>() {
            return self.inner.pods.get(&id).ok_or_else(|| no_such_pod(key));
        }
        let all = self.inner.pods.all();
        let mut matching = all.iter().filter(|pod| pod.id.as_str().starts_with(key));
        match (matching.next(), matching.next()) {
            (Some(only), None) if !key.is_empty() => Ok(Arc::clone(only)),
            _ => Err(no_such_pod(key)),
        }
    }
}

/// Takes the end of a pod's own process to its pod. What belongs to none is of a container that is
/// gone.
pub(crate) fn process_ended(engine: &Arc<Inner>, id: &ContainerId) {
    let Some(pod) = engine.pods.get(id) else { return };
    let listening = Arc::clone(engine);
    // Not waited for: who has the turn may wait for the next event.
    engine.tasks.spawn(async move {
        let engine = listening;
        let _turn = pod.turn.lock().await;
        if pod.view().phase != PodPhase::Ready {
            return;
        }
        tracing::warn!(pod.id = %pod.id, "the process of the pod ended");
        match pod.step(&engine, PodEvent::Lost).await {
            Ok(()) => pod.announce(&engine, "die"),
            Err(error) => {
                tracing::error!(pod.id = %pod.id, error = error.text(), "cannot record a lost pod");
            }
        }
    });
}

impl EngineConfig {
    /// Directory of a pod that survives a reboot.
    #[must_use]
    pub fn pod_dir(&self, id: &ContainerId) -> PathBuf {
        self.data_root.join("pods").join(id.as_str())
    }

    /// Directory of a pod's pinned namespaces.
    #[must_use]
    pub fn pod_state_dir(&self, id: &ContainerId) -> PathBuf {
        self.exec_root.join("pods").join(id.as_str())
    }

    /// The runtime that a pod's request names; empty and `pouch` are the default one.
    pub(crate) fn runtime_of_handler(&self, handler: &str) -> Result<String, EngineError> {
        if matches!(handler, "" | "pouch") {
            return Ok(self.default_runtime.clone());
        }
        if self.runtimes.contains_key(handler) {
            return Ok(handler.to_owned());
        }
        Err(EngineError::new(
            ErrorKind::NotFound,
            format!("no runtime handler {handler:?} is configured"),
        ))
    }

    /// Whether pods of a runtime handler may have user namespaces: it takes our runtime, which maps
    /// the ids of files.
    #[must_use]
    pub fn has_own_user_namespaces(&self, handler: &str) -> bool {
        let runtime = self.runtime_of_handler(handler).ok();
        let runtime = runtime.and_then(|name| self.runtimes.get(&name));
        runtime.is_some_and(|runtime| runtime.path.is_none())
    }

    /// Names of all runtime handlers; the default one is the empty name too.
    #[must_use]
    pub fn runtime_handlers(&self) -> Vec<String> {
        let named = self.runtimes.keys().cloned();
        ["", "pouch"].map(str::to_owned).into_iter().chain(named).collect()
    }
}
