//! What the engine has resolved before a specification can be built.

use pouch_cdi::Edits;
use pouch_types::ContainerId;
use pouch_types::spec::{ContainerSpec, Propagation, ReadOnlyRecursion, Ulimit};

use crate::device::DeviceSource;
use crate::host::HostFeatures;
use crate::spec::IdMapping;
use crate::user::ResolvedUser;

/// Everything [`build`](crate::build) needs.
#[derive(Debug, Clone, Copy)]
pub struct BuildContext<'a> {
    /// Of the container; the last part of its control group.
    pub id: &'a ContainerId,
    /// What was asked for, merged with the image.
    pub spec: &'a ContainerSpec,
    /// Path of the root file system, as the runtime gets it: `rootfs`.
    pub rootfs: &'a str,
    /// Result of [`resolve_user`](crate::resolve_user).
    pub user: &'a ResolvedUser,
    /// Host name; empty when the UTS namespace is the host's.
    pub hostname: &'a str,
    /// Variables of the engine (links), below the image's and the user's.
    pub environment: &'a [String],
    /// Binds, volumes and tmpfs of the user, and the engine's own (`/etc/hosts` …), in any order.
    pub mounts: &'a [ResolvedMount],
    /// Which namespaces are joined.
    pub namespaces: &'a ResolvedNamespaces,
    /// Our init on the host: a static binary, bound to `/sbin/docker-init` when init is asked for.
    /// `None` refuses it.
    pub init_path: Option<&'a str>,
    /// SELinux labels of process and mounts, made by the engine on a host with SELinux.
    pub selinux: Option<(&'a str, &'a str)>,
    /// The daemon's configuration.
    pub defaults: &'a Defaults,
    /// The machine.
    pub host: &'a HostFeatures,
    /// The machine's device nodes.
    pub devices: &'a dyn DeviceSource,
    /// What the CDI devices of the specification change; `None` refuses such devices.
    pub cdi: Option<&'a Edits>,
}

/// A mount whose source exists on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// Absolute path in the container.
    pub destination: String,
    /// What is attached.
    pub kind: ResolvedKind,
    /// Read-write, or how far read-only reaches.
    pub access: Access,
    /// `None` is rprivate.
    pub propagation: Option<Propagation>,
    /// Its files belong inside to whom they belong to outside: by the ids of
    /// [`ResolvedNamespaces::user`].
    pub mapped: bool,
}

/// See [`ResolvedMount::kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedKind {
    /// A path of the host: a bind mount or a volume.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Without the mounts below it.
        non_recursive: bool,
        /// How the mount that the source lies on propagates; a shared or slave bind needs it so.
        source_propagation: SourcePropagation,
    },
    /// Whatever the mount calls know, read-only.
    Other {
        /// Type of the file system.
        kind: String,
        /// Source.
        source: String,
        /// Its options.
        options: Vec<String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; `None` is half the memory.
        size: Option<u64>,
        /// Permission bits; `None` is 1777.
        mode: Option<u32>,
        /// Further options of tmpfs(5) and flags of mount(8).
        options: Vec<String>,
    },
}

/// Propagation of a mount on the host, from `/proc/self/mountinfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourcePropagation {
    /// Not looked up: nothing is checked, the runtime reports what does not work.
    #[default]
    Unknown,
    /// Neither of the others.
    Private,
    /// `master:`.
    Slave,
    /// `shared:`.
    Shared,
}

/// Whether a mount may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Yes.
    #[default]
    ReadWrite,
    /// No, and how far that reaches into mounts below.
    ReadOnly(ReadOnlyRecursion),
}

/// Namespaces after names of containers became paths.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedNamespaces {
    /// Network.
    pub network: NetworkNamespace,
    /// `/proc/<pid>/ns/pid` of the container to join, for `PidMode::Container`.
    pub pid: Option<String>,
    /// `/proc/<pid>/ns/ipc` of the container to join, for `IpcMode::Container`.
    pub ipc: Option<String>,
    /// Path of the pod's, for `UtsMode::Pod`.
    pub uts: Option<String>,
    /// Directory on the host to bind to `/dev/shm`: of the joined or of the shareable container.
    /// `None` makes a new tmpfs, binds the host's or makes none, as the IPC mode says.
    pub shm: Option<String>,
    /// A user namespace; `None` is the host's.
    pub user: Option<IdMaps>,
}

/// Network namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NetworkNamespace {
    /// The runtime makes one, with nothing but a loopback that is down.
    #[default]
    New,
    /// One that the engine made for this container alone, by path.
    Own(String),
    /// That of another container, by path.
    Joined(String),
    /// The host's.
    Host,
}

/// Ids of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<IdMapping>,
    /// Groups.
    pub gids: Vec<IdMapping>,
    /// Path of the namespace to join; `None` makes one.
    pub path: Option<String>,
}

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupDriver {
    /// The runtime, by path: `/pouch/<id>`.
    #[default]
    Cgroupfs,
    /// systemd, as a scope in a slice: `system.slice:pouch:<id>`.
    Systemd,
}

/// The daemon's configuration, as far as it decides here.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Seccomp profile in Docker's format for containers that name none; `None` is the built-in
    /// one.
    pub seccomp: Option<String>,
    /// `no-new-privileges` for containers that do not say.
    pub no_new_privileges: bool,
    /// Init for containers that do not say.
    pub init: bool,
    /// Parent group; empty is `/pouch`, or `system.slice` with systemd.
    pub cgroup_parent: String,
    /// Who makes the groups.
    pub cgroup_driver: CgroupDriver,
    /// Bytes of `/dev/shm` for containers that do not say.
    pub shm_size: u64,
    /// Limits for containers that do not set the same one.
    pub ulimits: Vec<Ulimit>,
    /// AppArmor profile for containers that name none; empty is none.
    pub apparmor: String,
    /// Prefixes of annotations that reach the runtime. Names by which runtimes take orders
    /// (`run.oci.`, `org.systemd.property.` …) never do.
    pub annotation_prefixes: Vec<String>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            seccomp: None,
            no_new_privileges: false,
            init: false,
            cgroup_parent: String::new(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            shm_size: 64 << 20,
            ulimits: Vec::new(),
            apparmor: String::new(),
            annotation_prefixes: Vec::new(),
        }
    }
}
