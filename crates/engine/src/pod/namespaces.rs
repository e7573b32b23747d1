//! The namespaces that a pod's containers share, pinned below the daemon's state directory.

use std::path::PathBuf;

use pouch_oci::spec::IdMapping;
use pouch_oci::{IdMaps, NetworkNamespace, ResolvedNamespaces};
use pouch_types::pod::{IdRange, PidScope, Scope, UserScope};
use pouch_types::{ContainerId, ErrorKind};

use super::record::PodRecord;
use crate::EngineError;
use crate::config::EngineConfig;
use crate::engine::Inner;

/// Where a pod's namespaces are; `None` is the node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pins {
    pub(crate) net: Option<PathBuf>,
    pub(crate) uts: Option<PathBuf>,
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) shm: Option<PathBuf>,
    /// There once the pod's own process runs.
    pub(crate) pid: Option<PathBuf>,
    /// With its ids.
    pub(crate) user: Option<(PathBuf, UserScope)>,
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
            pid: (spaces.pid == PidScope::Pod).then(|| dir.join("pid")),
            user: spaces.user.clone().map(|ids| (dir.join("user"), ids)),
        }
    }

    /// For the specification of one of the pod's containers.
    pub(crate) fn resolved(&self) -> ResolvedNamespaces {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|p| p.to_string_lossy().into_owned());
        ResolvedNamespaces {
            network: text(&self.net).map_or(NetworkNamespace::Host, NetworkNamespace::Joined),
            pid: text(&self.pid),
            ipc: text(&self.ipc),
            uts: text(&self.uts),
            shm: text(&self.shm),
            user: self.user.as_ref().map(|(path, ids)| IdMaps {
                uids: ids.uids.iter().map(mapping).collect(),
                gids: ids.gids.iter().map(mapping).collect(),
                path: Some(path.to_string_lossy().into_owned()),
            }),
        }
    }
}

const fn mapping(range: &IdRange) -> IdMapping {
    IdMapping { container_id: range.container, host_id: range.host, size: range.length }
}

/// Refuses ids that no user namespace of a pod can have.
///
/// # Errors
/// `Invalid` with the field.
pub(super) fn check(user: &UserScope) -> Result<(), EngineError> {
    for (field, ranges) in [("uids", &user.uids), ("gids", &user.gids)] {
        let wrong = |why: &str| {
            Err(EngineError::invalid(format!("namespace_options.userns_options.{field}: {why}")))
        };
        let [range] = ranges[..] else { return wrong("there has to be one mapping") };
        if range.container != 0 || range.length == 0 {
            return wrong("id 0 of the container has to be mapped");
        }
        if range.host.checked_add(range.length - 1).is_none() {
            return wrong("ids end at 2^32 - 1");
        }
    }
    Ok(())
}

/// Bytes of the shared memory of a pod, as every runtime has it.
const SHM: u64 = 64 << 20;
/// What containers with a network of their own get unless they say otherwise, pods too: ports below
/// 1024 and ping without capabilities.
const SYSCTLS: [(&str, &str); 2] = pouch_oci::NETWORK_SYSCTLS;
/// The one that is about ids.
const PING_GROUPS: &str = "net.ipv4.ping_group_range";

/// Makes what a pod's containers share.
pub(super) async fn make(engine: &Inner, record: &PodRecord) -> Result<(), EngineError> {
    let spaces = &record.spec.namespaces;
    let own = |scope| scope == Scope::Pod;
    let mut sysctls = record.spec.sysctls.clone();
    if own(spaces.network) {
        for (name, value) in SYSCTLS {
            // The kernel refuses a range with groups that the user namespace does not map.
            let fits = name != PING_GROUPS || spaces.user.is_none();
            if fits && engine.host.network_sysctls.iter().any(|known| known == name) {
                sysctls.entry(name.to_owned()).or_insert_with(|| value.to_owned());
            }
        }
    }
    let pod = pouch_netns::Pod {
        net: own(spaces.network).then_some(pouch_netns::Ipv6::Enabled),
        uts: own(spaces.network).then(|| super::files::hostname(record)),
        ipc: own(spaces.ipc).then_some(SHM),
        sysctls,
        user: spaces.user.as_ref().map(|ids| {
            let map = |r: &IdRange| pouch_netns::IdMap {
                container: r.container,
                host: r.host,
                size: r.length,
            };
            pouch_netns::IdMaps {
                uids: ids.uids.iter().map(map).collect(),
                gids: ids.gids.iter().map(map).collect(),
            }
        }),
    };
    let dir = engine.config.pod_state_dir(&record.id);
    let made = pod.create_async(&dir).await;
    made.map(drop).map_err(|e| EngineError::wrap("make the namespaces of the pod", e))
}

/// Whether everything that was made is there, which a reboot takes.
pub(super) fn stand(config: &EngineConfig, record: &PodRecord) -> bool {
    let wanted = Pins::of(config, record);
    match pouch_netns::Pinned::find(&config.pod_state_dir(&record.id)) {
        Ok(found) => {
            let user = wanted.user.map(|(path, _)| path);
            wanted.net == found.net
                && wanted.uts == found.uts
                && wanted.ipc == found.ipc
                && user == found.user
                && wanted.pid == found.pid
        }
        // A pod on the node's namespaces has none.
        Err(_) => wanted.net.is_none() && wanted.ipc.is_none() && wanted.pid.is_none(),
    }
}

/// Removes what was made; nothing there is fine.
pub(super) async fn remove(config: &EngineConfig, id: &ContainerId) -> Result<(), EngineError> {
    let dir = config.pod_state_dir(id);
    tokio::task::spawn_blocking(move || pouch_netns::remove_pod(&dir))
        .await
        .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
        .map_err(|e| EngineError::wrap("remove the namespaces of the pod", e))
}
