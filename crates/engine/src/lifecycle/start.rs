//! The start of a run.
//!
//! ```text
//! user, name files, mounts, OCI spec
//!      ├── shim process ─┐
//!      ├── network ──────┼── task made ── waiting clients attached ── record durable ── go
//!      └── commit ───────┘
//! ```
//! The network namespace is made and pinned first and joined by the container, so its network is
//! complete before its first instruction. Whatever fails, what was made before is undone in
//! reverse, and the error says which stage it was.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use pouch_containerd::{self as backend, Stdin, Stdio, Terminal};
use pouch_network::AttachRequest;
use pouch_oci::{BuildContext, HostDevices, NetworkNamespace, ResolvedUser};
use pouch_rootfd::RootFd;
use pouch_types::spec::{ContainerSpec, NetworkMode, ProcessSpec, UtsMode};
use pouch_types::{Classified, ErrorKind};

use crate::container::Container;
use crate::container::actor::{Durable, Started};
use crate::container::record::{ExitFile, Record};
use crate::engine::Inner;
use crate::view::EndpointView;
use crate::{EngineError, failpoint, files};

/// Docker's exit status for a start that failed, by what the runtime said. The runtime's message
/// is the only place where a missing program can be told from a forbidden one.
pub(crate) fn exit_code(error: &EngineError) -> i32 {
    let text = error.text();
    if text.contains("executable file not found") || text.contains("no such file or directory") {
        127
    } else if text.contains("permission denied") || text.contains("is a directory") {
        126
    } else {
        128
    }
}

pub(crate) async fn start(
    engine: &Arc<Inner>,
    container: &Arc<Container>,
    record: &Record,
    durable: Durable,
) -> Result<Started, EngineError> {
    let result = run(engine, container, record, durable).await;
    if let Err(error) = &result {
        tracing::info!(container.id = %record.id, error = error.text(), "start failed");
        super::cleanup::clean_up(engine, container).await;
    }
    result
}

async fn run(
    engine: &Arc<Inner>,
    container: &Arc<Container>,
    record: &Record,
    durable: Durable,
) -> Result<Started, EngineError> {
    let spec = &record.spec;
    let namespaces = super::namespaces::resolve(engine, &record.id, spec)?;
    let network = namespaces.network.clone();
    let hostname = hostname(engine, record);
    let user = resolve_user(engine, record).await?;
    let mounts = super::mounts::for_start(engine, container, record).await?;
    let cdi = super::cdi::resolve(engine, spec).await?;
    let oci = build(
        engine,
        container,
        record,
        Resolved {
            user: &user,
            hostname: &hostname,
            mounts: &mounts,
            namespaces: &namespaces,
            cdi: &cdi,
        },
    )?;
    failpoint::hit("start:before-backend");
    // An exit file of an earlier run would be a lie about this one if its generation were lost.
    let _ = std::fs::remove_file(container.dir.join(ExitFile::NAME));

    // Before the shim: its mount namespace is a copy of what is mounted when it starts.
    let netns = make_netns(&network).await?;
    let request = create_request(engine, container, record, oci)?;
    let (backend, endpoints) = tokio::join!(
        async {
            let created = engine.backend.create(request).await;
            failpoint::hit("start:backend-created");
            created
        },
        attach_network(engine, record, &network, netns),
    );
    // Kept before any error returns, so that the clean-up finds it.
    let backend = backend
        .map_err(|e| EngineError::wrap("start the shim", e))
        .inspect(|b| container.run().container = Some(Arc::clone(b)));
    failpoint::hit("start:backend-created");
    let endpoints = endpoints?;
    let backend = backend?;
    failpoint::hit("start:network-attached");
    // Those of a pod are its own.
    if spec.pod.is_none() {
        files::write(engine, container, record, &network, &hostname, &endpoints)?;
    }

    let task = backend.new_task(stdio(spec)).await;
    let task = task.map_err(|e| runtime_error(NOT_CREATED, e))?;
    container.run().task = Some(Arc::clone(&task));
    failpoint::hit("start:task-created");
    let clients = std::mem::take(&mut container.run().waiting);
    for waiting in clients {
        match task.attach(waiting.streams).await {
            Ok(stream) => waiting.connect(stream),
            Err(error) => {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(container.id = %record.id, error, "cannot attach a client");
            }
        }
    }
    if let Some((rows, columns)) = spec.console_size.filter(|_| spec.process.tty) {
        // A wrong size is an inconvenience, not a failed start.
        let _ = task.resize(columns, rows).await;
    }
    durable.wait().await.map_err(|e| EngineError::wrap("record the start", e))?;
    failpoint::hit("start:committed");
    let at = Timestamp::now();
    let pid = task.start().await.map_err(|e| runtime_error(NOT_STARTED, e))?;
    failpoint::hit("start:task-started");
    let sandbox_key = match network {
        NetworkNamespace::Own(path) | NetworkNamespace::Joined(path) => Some(path.into()),
        NetworkNamespace::New | NetworkNamespace::Host => None,
    };
    Ok(Started { pid, at, endpoints, sandbox_key })
}

/// What a start has found out before the specification can be built.
struct Resolved<'a> {
    user: &'a ResolvedUser,
    hostname: &'a str,
    mounts: &'a [pouch_oci::ResolvedMount],
    namespaces: &'a pouch_oci::ResolvedNamespaces,
    cdi: &'a pouch_cdi::Edits,
}

/// Builds the OCI specification, keeps it for execs and gives its JSON.
fn build(
    engine: &Inner,
    container: &Container,
    record: &Record,
    resolved: Resolved<'_>,
) -> Result<Vec<u8>, EngineError> {
    let spec = &record.spec;
    let host_uts = spec.namespaces.uts == UtsMode::Host;
    let context = BuildContext {
        id: &record.id,
        spec,
        rootfs: "rootfs",
        user: resolved.user,
        hostname: if host_uts { "" } else { resolved.hostname },
        environment: &[],
        mounts: resolved.mounts,
        namespaces: resolved.namespaces,
        init_path: engine.config.init_binary.to_str(),
        selinux: None,
        defaults: &defaults(engine),
        host: &engine.host,
        devices: &HostDevices,
        cdi: Some(resolved.cdi),
    };
    let built = pouch_oci::build(&context)
        .map_err(|e| EngineError::wrap("the container cannot be made as asked", e))?;
    for warning in &built.warnings {
        tracing::warn!(container.id = %record.id, "{warning}");
    }
    let oci = serde_json::to_vec(&built.spec)
        .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?;
    keep_spec(container, &oci)?;
    container.run().spec = Some(Arc::new(built.spec));
    Ok(oci)
}

/// Name of the OCI specification in the container's directory.
const SPEC_FILE: &str = "config.json";

/// Keeps the specification for a daemon that comes later: execs are made from it.
fn keep_spec(container: &Container, oci: &[u8]) -> Result<(), EngineError> {
    let path = container.dir.join(SPEC_FILE);
    std::fs::write(&path, oci).map_err(|e| EngineError::io(format!("write {}", path.display()), e))
}

/// The specification of a run that an earlier daemon started.
pub(crate) fn kept_spec(dir: &std::path::Path) -> Option<Arc<pouch_oci::spec::Spec>> {
    let text = std::fs::read(dir.join(SPEC_FILE)).ok()?;
    serde_json::from_slice(&text).ok().map(Arc::new)
}

/// Docker's words for a container that was not made; the shim adds which command of the OCI
/// runtime failed.
const NOT_CREATED: &str = "failed to create task for container: failed to create shim task";
/// As [`NOT_CREATED`], for a container that was made and not started.
const NOT_STARTED: &str = "failed to start task for container";

/// Failures of the OCI runtime in Docker's words, which the docker CLI knows.
fn runtime_error(doing: &'static str, error: backend::Error) -> EngineError {
    let kind = match error.kind() {
        ErrorKind::Internal | ErrorKind::Unavailable => ErrorKind::Internal,
        other => other,
    };
    let wrapped = EngineError::wrap(doing, error);
    // A command that cannot be executed is the request's fault.
    match exit_code(&wrapped) {
        126 | 127 => wrapped.with_kind(ErrorKind::Invalid),
        _ => wrapped.with_kind(kind),
    }
}

fn stdio(spec: &ContainerSpec) -> Stdio {
    Stdio {
        terminal: if spec.process.tty { Terminal::Yes } else { Terminal::No },
        stdin: match (spec.process.open_stdin, spec.process.stdin_once) {
            (false, _) => Stdin::Null,
            (true, false) => Stdin::Keep,
            (true, true) => Stdin::Once,
        },
    }
}

fn hostname(engine: &Inner, record: &Record) -> String {
    if !record.spec.hostname.is_empty() {
        return record.spec.hostname.clone();
    }
    match &record.spec.network.mode {
        NetworkMode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        NetworkMode::Container(key) => match engine.index.find(key) {
            Ok(other) => {
                let view = other.view();
                if view.spec.hostname.is_empty() {
                    view.id.short().to_owned()
                } else {
                    view.spec.hostname.clone()
                }
            }
            Err(_) => record.id.short().to_owned(),
        },
        _ => record.id.short().to_owned(),
    }
}

pub(crate) fn defaults(engine: &Inner) -> pouch_oci::Defaults {
    let config = &engine.config;
    pouch_oci::Defaults {
        seccomp: config.seccomp_profile.clone(),
        no_new_privileges: config.no_new_privileges,
        init: config.init,
        cgroup_parent: config.cgroup_parent.clone(),
        cgroup_driver: match config.cgroup_driver {
            backend::CgroupDriver::Cgroupfs => pouch_oci::CgroupDriver::Cgroupfs,
            backend::CgroupDriver::Systemd => pouch_oci::CgroupDriver::Systemd,
        },
        shm_size: config.default_shm_size,
        ulimits: config.default_ulimits.clone(),
        ..pouch_oci::Defaults::default()
    }
}

/// Looks the user up in the container's own files, through a mount that nobody else sees.
async fn resolve_user(engine: &Inner, record: &Record) -> Result<ResolvedUser, EngineError> {
    let root: RootFd = engine
        .snapshots
        .mount_detached(&record.id)
        .await
        .map_err(|e| EngineError::wrap("open the root file system", e))?;
    look_up(root, record.spec.process.clone()).await
}

/// Reads the accounts below a root; what is not found is told in Docker's words alone.
pub(crate) async fn look_up(
    root: RootFd,
    process: ProcessSpec,
) -> Result<ResolvedUser, EngineError> {
    tokio::task::spawn_blocking(move || {
        pouch_oci::resolve_user(&root, &process.user, &process.group_add, process.groups)
    })
    .await
    .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
    .map_err(|e| EngineError::new(e.kind(), pouch_types::error::chain(&e)))
}

fn create_request(
    engine: &Inner,
    container: &Container,
    record: &Record,
    oci: Vec<u8>,
) -> Result<backend::CreateRequest, EngineError> {
    let mounts = engine
        .snapshots
        .mounts(&record.id)
        .map_err(|e| EngineError::wrap("find the root file system", e))?;
    let user = super::namespaces::user_of_pod(engine, &record.spec)?;
    Ok(backend::CreateRequest {
        id: record.id.clone(),
        group: record.spec.pod.as_ref().map(|member| member.pod.clone()),
        spec: oci,
        rootfs: mounts.into_iter().map(|mount| rootfs(mount, user.as_deref())).collect(),
        runtime: runtime_options(engine, &record.spec)?,
        log: crate::logs::target(&container.dir, record),
        exit_file: container.dir.join(ExitFile::NAME),
        generation: record.state.generation,
    })
}

/// That nothing runs containers by this name.
pub(crate) fn unknown_runtime(name: &str) -> EngineError {
    let hint = if name.starts_with(FOREIGN) {
        ": shims of containerd need pouchd --backend remote"
    } else {
        ""
    };
    EngineError::invalid(format!("unknown or invalid runtime name: {name}{hint}"))
}

/// How names of containerd's shims begin.
const FOREIGN: &str = "io.containerd.";

/// A mount for the shim, with the ids of the pod's user namespace.
fn rootfs(mount: pouch_snapshot::MountEntry, user: Option<&str>) -> backend::Mount {
    let mut options = mount.options;
    options.extend(user.map(|path| format!("idmap={path}")));
    backend::Mount { kind: mount.kind, source: mount.source, options }
}

/// Whether a runtime's name is that of a shim which the backend can start (`io.containerd.runc.v2`).
pub(crate) fn is_foreign_shim(engine: &Inner, name: &str) -> bool {
    engine.backend.shims() == backend::Shims::Any
        && name.starts_with(FOREIGN)
        && !engine.config.runtimes.contains_key(name)
}

pub(crate) fn runtime_options(
    engine: &Inner,
    spec: &ContainerSpec,
) -> Result<backend::RuntimeOptions, EngineError> {
    let name = spec.runtime.as_ref().unwrap_or(&engine.config.default_runtime);
    if is_foreign_shim(engine, name) {
        return Ok(backend::RuntimeOptions {
            shim: Some(name.clone()),
            binary: None,
            args: Vec::new(),
            root: engine.config.exec_root.join("runtime"),
            cgroup_driver: engine.config.cgroup_driver,
        });
    }
    let runtime = engine.config.runtimes.get(name).ok_or_else(|| unknown_runtime(name))?;
    Ok(backend::RuntimeOptions {
        shim: None,
        binary: runtime.path.clone(),
        args: runtime.args.clone(),
        root: engine.config.exec_root.join("runtime").join(name),
        cgroup_driver: engine.config.cgroup_driver,
    })
}

/// Makes and pins the namespace of a container that has its own.
async fn make_netns(network: &NetworkNamespace) -> Result<Option<PathBuf>, EngineError> {
    let NetworkNamespace::Own(path) = network else { return Ok(None) };
    let path = PathBuf::from(path);
    let made = path.clone();
    tokio::task::spawn_blocking(move || {
        pouch_netns::remove(&made)?;
        pouch_netns::Netns::create(&made, pouch_netns::Ipv6::Disabled)
    })
    .await
    .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?
    .map_err(|e| EngineError::wrap("make the network namespace", e))?;
    Ok(Some(path))
}

/// Connects the namespace.
async fn attach_network(
    engine: &Inner,
    record: &Record,
    network: &NetworkNamespace,
    netns: Option<PathBuf>,
) -> Result<Vec<EndpointView>, EngineError> {
    if matches!(network, NetworkNamespace::New | NetworkNamespace::Joined(_)) {
        return Ok(Vec::new());
    }
    let spec = &record.spec.network;
    let name = match &spec.mode {
        _ if record.spec.network_disabled => "none",
        NetworkMode::Default | NetworkMode::Bridge => "bridge",
        NetworkMode::Host => "host",
        NetworkMode::None => "none",
        NetworkMode::Named(name) => name,
        NetworkMode::Container(_) | NetworkMode::Pod => return Ok(Vec::new()),
    };
    let asked = spec.endpoints.get(name).cloned().unwrap_or_default();
    let mac = asked.mac_address.as_ref().or(spec.mac_address.as_ref());
    let mac = mac
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| EngineError::invalid("invalid MacAddress"))?;
    let request = AttachRequest {
        container: record.id.clone(),
        name: record.name.clone(),
        network: name.to_owned(),
        netns,
        mac,
        ipv4: asked.ipv4,
        ports: spec.ports.clone(),
        publish_exposed: if spec.publish_all {
            record.spec.exposed_ports.iter().copied().collect()
        } else {
            Vec::new()
        },
    };
    let endpoint = engine.networks.attach(request).await.map_err(|e| {
        EngineError::wrap(format!("failed to set up container networking on {name}"), e)
    })?;
    let endpoint = endpoint_view(endpoint);
    engine.announce_network("connect", &record.id, &endpoint);
    Ok(vec![endpoint])
}

pub(crate) fn endpoint_view(endpoint: pouch_network::Endpoint) -> EndpointView {
    EndpointView {
        network: endpoint.network,
        network_id: endpoint.network_id.to_string(),
        endpoint_id: endpoint.endpoint_id,
        mac: endpoint.mac.map(|m| m.to_string()).unwrap_or_default(),
        ipv4: endpoint.ipv4.map(|c| c.address),
        ipv4_prefix: endpoint.ipv4.map_or(0, |c| c.prefix),
        gateway: endpoint.ipv4.map(|c| c.gateway),
        ports: endpoint
            .ports
            .iter()
            .map(|p| crate::view::PublishedPort {
                container: p.container,
                host_ip: p.host_ip,
                host_port: p.host_port,
            })
            .collect(),
    }
}
