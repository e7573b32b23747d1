//! A container's specification, put together.

use std::collections::BTreeMap;

use pouch_types::spec::{CgroupnsMode, ContainerSpec, IpcMode, PidMode, UtsMode};

use crate::capability;
use crate::cdi;
use crate::context::{BuildContext, CgroupDriver, Defaults, NetworkNamespace};
use crate::device;
use crate::error::SpecError;
use crate::exec::user_of;
use crate::host::CgroupView;
use crate::mount;
use crate::process;
use crate::resources;
use crate::security;
use crate::spec::{
    ConsoleSize, Hooks, Linux, Mount, Namespace, NamespaceKind, OCI_VERSION, Process, Root, Spec,
};
use crate::sysctl;

/// Where our init is bound. In `/dev`, so that nothing is left in the container's files; beside
/// the image's programs, as Docker has it, when `/dev` is the user's.
const INIT: &str = "/dev/init";
const INIT_BESIDE: &str = "/sbin/docker-init";

/// Whose namespace a container of a pod joins, in messages.
const POD: &str = "the pod";

/// Ranges of ids in a user namespace: what the kernel takes (340 since 4.15).
const MAX_ID_MAPS: usize = 340;

/// Annotations by which shims know a pod: `sandbox` or `container`, the sandbox's id, the
/// container's name in the pod.
pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
/// See [`CONTAINER_TYPE`].
pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
/// See [`CONTAINER_TYPE`].
pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";

/// A specification, and what could not be had exactly as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// `config.json`.
    pub spec: Spec,
    /// For `Warnings` of the create reply.
    pub warnings: Vec<String>,
}

/// Builds the specification of a container.
///
/// The engine calls it at create, to refuse what cannot be, and at start, with what is known then.
///
/// # Errors
/// [`SpecError`], with the field of the request.
pub fn build(context: &BuildContext<'_>) -> Result<Built, SpecError> {
    let BuildContext { spec, host, defaults, .. } = *context;
    let mut warnings = Vec::new();

    let granted = capability::granted(&spec.security, host.capabilities)?;
    let mut mounts = mount::resolve(context)?;
    let mut args = process::command(&spec.process)?;
    if let Some(init) = init(context)? {
        args.splice(0..0, [init.destination.clone(), "--".to_owned()]);
        mounts.list.push(init);
    }
    let devices = device::resolve(spec, context.devices)?;
    let (selinux_label, mount_label) = security::selinux(context)?;
    let own_uts = spec.namespaces.uts == UtsMode::Private;
    process::check_name("Config.Hostname", context.hostname)?;
    process::check_name("Config.Domainname", &spec.domainname)?;
    let (uid_mappings, gid_mappings) = id_mappings(context)?;

    let linux = Linux {
        uid_mappings,
        gid_mappings,
        sysctl: sysctl::resolve(spec, context.namespaces, host)?,
        resources: resources::resolve(&spec.resources, devices.rules, host, context.devices)?,
        cgroups_path: cgroups_path(context)?,
        namespaces: namespaces(context)?,
        devices: devices.devices,
        seccomp: security::seccomp(&spec.security, defaults, host, granted, &mut warnings)?,
        rootfs_propagation: mounts.rootfs_propagation.to_owned(),
        masked_paths: security::masked(&spec.security, host)?,
        readonly_paths: security::read_only(&spec.security)?,
        mount_label,
    };
    let process = Process {
        terminal: spec.process.tty,
        console_size: spec
            .console_size
            .filter(|size| spec.process.tty && *size != (0, 0))
            .map(|(height, width)| ConsoleSize { height, width }),
        user: user_of(context.user),
        args,
        env: process::environment(spec, context.hostname, context.environment, &context.user.home)?,
        cwd: process::directory(&spec.process.working_dir)?,
        capabilities: Some(capability::sets(granted)),
        rlimits: resources::rlimits(
            &spec.resources.ulimits,
            &defaults.ulimits,
            host,
            &mut warnings,
        )?,
        no_new_privileges: spec.security.no_new_privileges.unwrap_or(defaults.no_new_privileges),
        apparmor_profile: security::apparmor(&spec.security, defaults, host, &mut warnings)?,
        oom_score_adj: Some(resources::oom_score_adj(&spec.resources, host, &mut warnings)?),
        selinux_label,
    };
    let mut built = Spec {
        oci_version: OCI_VERSION.to_owned(),
        process,
        root: Root { path: context.rootfs.to_owned(), readonly: spec.read_only_rootfs },
        hostname: if own_uts { context.hostname.to_owned() } else { String::new() },
        mounts: mounts.list,
        hooks: Hooks::default(),
        annotations: annotations(spec, defaults, &mut warnings)?,
        linux,
    };
    cdi::apply(context, &mut built)?;
    Ok(Built { spec: built, warnings })
}

/// Annotations for the runtime. Those that tell a shim which containers belong together, in
/// containerd's words, are the engine's own and cannot be given.
fn annotations(
    spec: &ContainerSpec,
    defaults: &Defaults,
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut annotations = security::annotations(&spec.annotations, defaults, warnings)?;
    if let Some(member) = &spec.pod {
        annotations.insert(CONTAINER_TYPE.to_owned(), "container".to_owned());
        annotations.insert(SANDBOX_ID.to_owned(), member.pod.to_string());
        annotations.insert(CONTAINER_NAME.to_owned(), member.name.clone());
    }
    Ok(annotations)
}

/// The bind of our init, for a container that asks for it and has process 1 to itself.
fn init(context: &BuildContext<'_>) -> Result<Option<Mount>, SpecError> {
    let spec = context.spec;
    let wanted = spec.init.unwrap_or(context.defaults.init);
    if !wanted || spec.namespaces.pid != PidMode::Private {
        return Ok(None);
    }
    let Some(source) = context.init_path else {
        return Err(SpecError::unsupported("HostConfig.Init", "no init program is installed"));
    };
    let own_dev =
        context.mounts.iter().any(|mount| mount.destination.trim_end_matches('/') == "/dev");
    Ok(Some(Mount {
        destination: if own_dev { INIT_BESIDE } else { INIT }.to_owned(),
        kind: "bind".to_owned(),
        source: source.to_owned(),
        options: vec!["bind".to_owned(), "ro".to_owned()],
        ..Mount::default()
    }))
}

fn namespaces(context: &BuildContext<'_>) -> Result<Vec<Namespace>, SpecError> {
    let own = |kind| Namespace { kind, path: None };
    let join = |kind, path: &str| Namespace { kind, path: Some(path.to_owned()) };
    let asked = &context.spec.namespaces;
    let resolved = context.namespaces;
    let mut list = vec![own(NamespaceKind::Mount)];
    match &resolved.network {
        NetworkNamespace::New => list.push(own(NamespaceKind::Network)),
        NetworkNamespace::Own(path) | NetworkNamespace::Joined(path) => {
            list.push(join(NamespaceKind::Network, path));
        }
        NetworkNamespace::Host => {}
    }
    // A name without its path must not become a namespace of its own, nor the host's.
    let missing = |field, name: &str| {
        SpecError::invalid(field, format!("the namespace of {name} is not known"))
    };
    match asked.uts {
        UtsMode::Private => list.push(own(NamespaceKind::Uts)),
        UtsMode::Host => {}
        UtsMode::Pod => {
            let path = resolved.uts.as_deref().ok_or_else(|| missing("HostConfig.UTSMode", POD))?;
            list.push(join(NamespaceKind::Uts, path));
        }
    }
    match &asked.pid {
        PidMode::Private => list.push(own(NamespaceKind::Pid)),
        PidMode::Host => {}
        PidMode::Container(name) => {
            let path =
                resolved.pid.as_deref().ok_or_else(|| missing("HostConfig.PidMode", name))?;
            list.push(join(NamespaceKind::Pid, path));
        }
        PidMode::Pod => {
            let path = resolved.pid.as_deref().ok_or_else(|| missing("HostConfig.PidMode", POD))?;
            list.push(join(NamespaceKind::Pid, path));
        }
    }
    match &asked.ipc {
        IpcMode::Private | IpcMode::Shareable | IpcMode::None => {
            list.push(own(NamespaceKind::Ipc));
        }
        IpcMode::Host => {}
        IpcMode::Container(name) => {
            let path =
                resolved.ipc.as_deref().ok_or_else(|| missing("HostConfig.IpcMode", name))?;
            list.push(join(NamespaceKind::Ipc, path));
        }
        IpcMode::Pod => {
            let path = resolved.ipc.as_deref().ok_or_else(|| missing("HostConfig.IpcMode", POD))?;
            list.push(join(NamespaceKind::Ipc, path));
        }
    }
    if let Some(maps) = &resolved.user {
        list.push(Namespace { kind: NamespaceKind::User, path: maps.path.clone() });
    }
    let default = match context.host.cgroup {
        CgroupView::V1 => CgroupnsMode::Host,
        CgroupView::V2 => CgroupnsMode::Private,
    };
    if asked.cgroup.unwrap_or(default) == CgroupnsMode::Private {
        list.push(own(NamespaceKind::Cgroup));
    }
    Ok(list)
}

fn id_mappings(
    context: &BuildContext<'_>,
) -> Result<(Vec<crate::spec::IdMapping>, Vec<crate::spec::IdMapping>), SpecError> {
    const FIELD: &str = "HostConfig.UsernsMode";
    let Some(maps) = &context.namespaces.user else { return Ok((Vec::new(), Vec::new())) };
    if context.spec.security.privileged {
        return Err(SpecError::invalid(
            FIELD,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ));
    }
    if maps.path.is_some() {
        return Ok((Vec::new(), Vec::new()));
    }
    for list in [&maps.uids, &maps.gids] {
        let wraps = list.iter().any(|map| {
            map.size == 0
                || map.container_id.checked_add(map.size - 1).is_none()
                || map.host_id.checked_add(map.size - 1).is_none()
        });
        if list.is_empty() || list.len() > MAX_ID_MAPS || wraps {
            return Err(SpecError::invalid(FIELD, "ranges of ids"));
        }
    }
    Ok((maps.uids.clone(), maps.gids.clone()))
}

fn cgroups_path(context: &BuildContext<'_>) -> Result<String, SpecError> {
    const FIELD: &str = "HostConfig.CgroupParent";
    let asked = &context.spec.resources.cgroup_parent;
    let parent = if asked.is_empty() { &context.defaults.cgroup_parent } else { asked };
    let id = context.id;
    match context.defaults.cgroup_driver {
        CgroupDriver::Cgroupfs => {
            let parent = if parent.is_empty() { "/pouch" } else { parent };
            let parent = parent.trim_matches('/');
            mount::check_path(FIELD, &format!("/{parent}"))?;
            if parent.is_empty() {
                return Ok(format!("/{id}"));
            }
            Ok(format!("/{parent}/{id}"))
        }
        CgroupDriver::Systemd => {
            let parent = if parent.is_empty() { "system.slice" } else { parent };
            let slice = parent.strip_suffix(".slice").is_some_and(|name| {
                !name.is_empty()
                    && parent.len() <= 255
                    && name.bytes().all(|b| {
                        b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'\\' | b'@')
                    })
            });
            if !slice {
                return Err(SpecError::invalid(
                    FIELD,
                    "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"",
                ));
            }
            Ok(format!("{parent}:pouch:{id}"))
        }
    }
}
