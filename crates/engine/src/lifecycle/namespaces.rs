//! Namespaces of other containers and of the host: checked at create, turned into paths at start.

use std::path::PathBuf;

use pouch_oci::{NetworkNamespace, ResolvedNamespaces};
use pouch_types::spec::{ContainerSpec, IpcMode, NetworkMode, PidMode, UtsMode};
use pouch_types::{ContainerId, ErrorKind};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::EngineError;
use crate::config::EngineConfig;
use crate::engine::Inner;

/// Bytes of /dev/shm of a container that does not say.
const SHM_DEFAULT: u64 = 64 << 20;

/// Refuses references to containers that do not exist or do not share.
pub(crate) fn check(engine: &Inner, spec: &ContainerSpec) -> Result<(), EngineError> {
    if let PidMode::Container(key) = &spec.namespaces.pid {
        let other = engine.index.find(key)?.view();
        let pod = |spec: &ContainerSpec| spec.pod.as_ref().map(|member| member.pod.clone());
        // Whoever sees the processes of a container of a pod can end them.
        if pod(&other.spec) != pod(spec) {
            return Err(EngineError::conflict(format!(
                "cannot join the processes of container {}, which is of another pod",
                other.id
            )));
        }
    }
    if let IpcMode::Container(key) = &spec.namespaces.ipc {
        engine.index.find(key)?;
    }
    if let NetworkMode::Container(key) = &spec.network.mode {
        engine.index.find(key)?;
        if !spec.network.ports.is_empty() || spec.network.publish_all {
            return Err(EngineError::invalid(
                "conflicting options: port publishing and the container type network mode",
            ));
        }
        if !spec.hostname.is_empty() {
            return Err(EngineError::invalid("conflicting options: hostname and the network mode"));
        }
    }
    Ok(())
}

/// The kinds of namespaces of a container that does not run yet: what its options are checked
/// against. The paths stand for those of containers that need not run now.
pub(crate) fn foreseen(spec: &ContainerSpec) -> ResolvedNamespaces {
    let path = |kind: &str| format!("/proc/self/ns/{kind}");
    ResolvedNamespaces {
        network: match &spec.network.mode {
            NetworkMode::Host if !spec.network_disabled => NetworkNamespace::Host,
            NetworkMode::Container(_) | NetworkMode::Pod => NetworkNamespace::Joined(path("net")),
            _ => NetworkNamespace::Own(path("net")),
        },
        pid: matches!(spec.namespaces.pid, PidMode::Container(_) | PidMode::Pod)
            .then(|| path("pid")),
        ipc: matches!(spec.namespaces.ipc, IpcMode::Container(_) | IpcMode::Pod)
            .then(|| path("ipc")),
        uts: (spec.namespaces.uts == UtsMode::Pod).then(|| path("uts")),
        shm: None,
        user: None,
    }
}

/// The pid of a container that must run, for one of its namespaces.
fn joined(engine: &Inner, key: &str) -> Result<(ContainerId, u32), EngineError> {
    let other = engine.index.find(key)?;
    // Its pid is not one that is known for sure.
    other.here()?;
    let view = other.view();
    if !view.state.is_running() {
        return Err(EngineError::conflict(format!(
            "cannot join namespace of a non running container: {}",
            view.id
        )));
    }
    Ok((view.id.clone(), view.state.pid))
}

/// Where the network namespace of this container is, or will be.
pub(crate) fn network(
    engine: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<NetworkNamespace, EngineError> {
    Ok(match &spec.network.mode {
        NetworkMode::Host if !spec.network_disabled => NetworkNamespace::Host,
        NetworkMode::Container(key) => {
            let other = engine.index.find(key)?.view();
            let (_, pid) = joined(engine, key)?;
            match &other.sandbox_key {
                Some(path) => NetworkNamespace::Joined(path.to_string_lossy().into_owned()),
                None if matches!(other.spec.network.mode, NetworkMode::Host) => {
                    NetworkNamespace::Host
                }
                None => NetworkNamespace::Joined(format!("/proc/{pid}/ns/net")),
            }
        }
        NetworkMode::Pod => of_pod(engine, spec)?.network,
        _ => NetworkNamespace::Own(engine.config.netns_path(id).to_string_lossy().into_owned()),
    })
}

/// Where the user namespace of the container's pod is pinned, if it has one of its own.
pub(crate) fn user_of_pod(
    engine: &Inner,
    spec: &ContainerSpec,
) -> Result<Option<String>, EngineError> {
    let shared = spec.pod.as_ref().map(|_| of_pod(engine, spec)).transpose()?;
    Ok(shared.and_then(|shared| shared.user?.path))
}

/// What the container's pod shares.
fn of_pod(engine: &Inner, spec: &ContainerSpec) -> Result<ResolvedNamespaces, EngineError> {
    let member = spec.pod.as_ref().ok_or_else(|| {
        EngineError::new(ErrorKind::Internal, "a namespace of a pod without the pod")
    })?;
    Ok(crate::pod::container::ready(engine, &member.pod)?.namespaces(&engine.config))
}

/// All namespaces of this run, as paths. Makes the shared memory of a shareable container.
pub(crate) fn resolve(
    engine: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<ResolvedNamespaces, EngineError> {
    let pod = spec.pod.as_ref().map(|_| of_pod(engine, spec)).transpose()?.unwrap_or_default();
    let pid = match &spec.namespaces.pid {
        PidMode::Pod => pod.pid,
        PidMode::Container(key) => Some(format!("/proc/{}/ns/pid", joined(engine, key)?.1)),
        PidMode::Private | PidMode::Host => None,
    };
    let (ipc, shm) = match &spec.namespaces.ipc {
        IpcMode::Container(key) => {
            let (other, pid) = joined(engine, key)?;
            let shm = shm_dir(&engine.config, &other);
            if !shm.exists() {
                return Err(EngineError::conflict(format!(
                    "can't join IPC of container {other}: non-shareable IPC (hint: use \
                     IpcMode:shareable for the donor container)"
                )));
            }
            (Some(format!("/proc/{pid}/ns/ipc")), Some(shm.to_string_lossy().into_owned()))
        }
        IpcMode::Pod => (pod.ipc, pod.shm),
        IpcMode::Shareable => {
            (None, Some(make_shm(engine, id, spec)?.to_string_lossy().into_owned()))
        }
        IpcMode::Private | IpcMode::None | IpcMode::Host => (None, None),
    };
    Ok(ResolvedNamespaces {
        network: network(engine, id, spec)?,
        pid,
        ipc,
        uts: pod.uts.filter(|_| spec.namespaces.uts == UtsMode::Pod),
        shm,
        user: pod.user,
    })
}

fn shm_dir(config: &EngineConfig, id: &ContainerId) -> PathBuf {
    config.exec_root.join("shm").join(id.as_str())
}

/// A tmpfs that other containers can be given too.
fn make_shm(
    engine: &Inner,
    id: &ContainerId,
    spec: &ContainerSpec,
) -> Result<PathBuf, EngineError> {
    let dir = shm_dir(&engine.config, id);
    let wrap = |e| EngineError::io(format!("make shared memory at {}", dir.display()), e);
    remove_shm(&engine.config, id);
    std::fs::create_dir_all(&dir).map_err(wrap)?;
    let size = spec.shm_size.unwrap_or(match engine.config.default_shm_size {
        0 => SHM_DEFAULT,
        size => size,
    });
    let options = std::ffi::CString::new(format!("mode=1777,size={size}"))
        .map_err(|_| EngineError::invalid("invalid ShmSize"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("shm", &dir, "tmpfs", flags, Some(options.as_c_str())).map_err(|e| wrap(e.into()))?;
    Ok(dir)
}

/// Removes the shared memory of a container that has ended; nothing there is fine.
pub(crate) fn remove_shm(config: &EngineConfig, id: &ContainerId) {
    let dir = shm_dir(config, id);
    if !dir.exists() {
        return;
    }
    // Containers that joined keep it mounted for themselves.
    match unmount(&dir, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => tracing::warn!(container.id = %id, %error, "cannot unmount shared memory"),
    }
    let _ = std::fs::remove_dir(&dir);
}
