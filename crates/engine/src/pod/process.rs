//! The process that holds the namespace of processes that a pod's containers share: our init in a
//! root file system that has nothing else. It reaps what the containers leave behind.
//!
//! It is a container of the backend whose id is the pod's, in the shim of the pod's containers.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use pouch_containerd as backend;
use pouch_oci::{
    Access, BuildContext, HostDevices, ResolvedKind, ResolvedMount, ResolvedNamespaces,
    ResolvedUser, SourcePropagation,
};
use pouch_types::ErrorKind;
use pouch_types::pod::{PidScope, Scope};
use pouch_types::spec::{
    ContainerSpec, Namespaces, NetworkMode, NetworkSpec, ProcessSpec, ReadOnlyRecursion, Resources,
    SecuritySpec,
};

use super::namespaces::Pins;
use super::record::PodRecord;
use crate::EngineError;
use crate::engine::Inner;
use crate::lifecycle::start as lifecycle;

/// Name of its exit file in the pod's directory.
pub(super) const EXIT_FILE: &str = "exit.json";
/// There is one run of it.
const GENERATION: u64 = 1;
/// Our init in its root, and the word that makes it wait for signals and reap.
const PROGRAM: &str = "/pouch-init";
const PAUSE: &str = "--pause";
/// Bytes of the file system that its root is, which holds two directories and a mount point.
const ROOT_SIZE: &str = "size=64k";

/// What is kept of it, to end it and to join it.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    container: Arc<dyn backend::Container>,
    pid: u32,
    /// Its namespace of processes; `None` of one that was not pinned.
    namespace: Option<Arc<File>>,
}

impl Handle {
    /// Of the process `pid`, whose namespace is pinned at `pin`.
    pub(super) fn new(
        container: Arc<dyn backend::Container>,
        pid: u32,
        pin: Option<&Path>,
    ) -> Self {
        let namespace = pin.and_then(|path| File::open(path).ok()).map(Arc::new);
        Self { container, pid, namespace }
    }

    /// The namespace by a descriptor of ours. The pin is made when the pod's shim runs already, so
    /// on a host without shared propagation the shim never sees it mounted; and a path by the
    /// process's number would be another one's namespace once that is gone.
    pub(super) fn namespace(&self) -> Option<String> {
        let descriptor = self.namespace.as_ref()?.as_raw_fd();
        Some(format!("/proc/{}/fd/{descriptor}", std::process::id()))
    }

    /// Its pid on the host.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends it and frees what the backend keeps of it.
    pub(super) async fn end(&self) -> Result<(), EngineError> {
        let ended = self.container.delete().await;
        ended.map_err(|e| EngineError::wrap("end the process of the pod", e))
    }
}

/// Starts it, in a pod whose containers share their processes.
pub(super) async fn start(
    engine: &Inner,
    record: &PodRecord,
) -> Result<Option<Handle>, EngineError> {
    if record.spec.namespaces.pid != PidScope::Pod {
        return Ok(None);
    }
    let runtime = engine.config.runtime_of_handler(&record.spec.runtime_handler)?;
    let spec = specification(record, runtime);
    let dir = engine.config.pod_dir(&record.id);
    let request = backend::CreateRequest {
        id: record.id.clone(),
        group: Some(record.id.clone()),
        spec: oci(engine, record, &spec)?,
        rootfs: vec![backend::Mount {
            kind: "tmpfs".to_owned(),
            source: "pod".to_owned(),
            options: root_options(record),
        }],
        runtime: lifecycle::runtime_options(engine, &spec)?,
        log: None,
        exit_file: dir.join(EXIT_FILE),
        generation: GENERATION,
    };
    let doing = "start the process of the pod";
    let container = engine.backend.create(request).await;
    let container = container.map_err(|e| EngineError::wrap(doing, e))?;
    let stdio = backend::Stdio { terminal: backend::Terminal::No, stdin: backend::Stdin::Null };
    let started = async {
        let task = container.new_task(stdio).await.map_err(|e| EngineError::wrap(doing, e))?;
        let pid = task.start().await.map_err(|e| EngineError::wrap(doing, e))?;
        let pinned = pouch_netns::pin_pid(&engine.config.pod_state_dir(&record.id), pid);
        let pin = pinned.map_err(|e| EngineError::wrap("pin the processes of the pod", e))?;
        Ok((pid, pin))
    };
    match started.await {
        Ok((pid, pin)) => Ok(Some(Handle::new(container, pid, Some(&pin)))),
        Err(error) => {
            if let Err(error) = container.delete().await {
                let error = pouch_types::error::chain(&error);
                tracing::error!(pod.id = %record.id, error, "undo of a pod's process");
            }
            Err(error)
        }
    }
}

/// Its root belongs to the pod's own root.
fn root_options(record: &PodRecord) -> Vec<String> {
    let mut options = ["mode=755", ROOT_SIZE].map(str::to_owned).to_vec();
    if let Some(user) = &record.spec.namespaces.user {
        let first = |ranges: &[pouch_types::pod::IdRange]| ranges.first().map_or(0, |r| r.host);
        options.push(format!("uid={}", first(&user.uids)));
        options.push(format!("gid={}", first(&user.gids)));
    }
    options
}

/// What it is, in the words of all containers: no right, nothing to write to.
fn specification(record: &PodRecord, runtime: String) -> ContainerSpec {
    let shared = &record.spec.namespaces;
    let entrypoint = [PROGRAM, PAUSE].map(str::to_owned).to_vec();
    ContainerSpec {
        process: ProcessSpec { entrypoint: Some(entrypoint), ..ProcessSpec::default() },
        read_only_rootfs: true,
        network: NetworkSpec {
            mode: match shared.network {
                Scope::Pod => NetworkMode::Pod,
                Scope::Node => NetworkMode::Host,
            },
            ..NetworkSpec::default()
        },
        namespaces: Namespaces::of_pod(shared),
        security: SecuritySpec {
            cap_drop: vec!["ALL".to_owned()],
            no_new_privileges: Some(true),
            ..SecuritySpec::default()
        },
        resources: Resources {
            cgroup_parent: record.spec.cgroup_parent.clone(),
            // All of the pod's processes end with it.
            oom_score_adj: Some(-998),
            ..Resources::default()
        },
        runtime: Some(runtime),
        ..ContainerSpec::default()
    }
}

fn oci(engine: &Inner, record: &PodRecord, spec: &ContainerSpec) -> Result<Vec<u8>, EngineError> {
    let pins = Pins::of(&engine.config, record);
    let program = ResolvedMount {
        destination: PROGRAM.to_owned(),
        kind: ResolvedKind::Bind {
            source: engine.config.init_binary.to_string_lossy().into_owned(),
            non_recursive: true,
            source_propagation: SourcePropagation::Unknown,
        },
        access: Access::ReadOnly(ReadOnlyRecursion::Never),
        propagation: None,
        mapped: false,
    };
    let mut built = pouch_oci::build(&BuildContext {
        id: &record.id,
        spec,
        rootfs: "rootfs",
        user: &ResolvedUser::default(),
        hostname: "",
        environment: &[],
        mounts: &[program],
        // It makes the one that the others join.
        namespaces: &ResolvedNamespaces { pid: None, ..pins.resolved() },
        init_path: None,
        selinux: None,
        defaults: &lifecycle::defaults(engine),
        host: &engine.host,
        devices: &HostDevices,
        cdi: None,
    })
    .map_err(|e| EngineError::wrap("the pod cannot be made as asked", e))?
    .spec;
    built.annotations.insert(pouch_oci::CONTAINER_TYPE.to_owned(), "sandbox".to_owned());
    built.annotations.insert(pouch_oci::SANDBOX_ID.to_owned(), record.id.to_string());
    serde_json::to_vec(&built).map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))
}
