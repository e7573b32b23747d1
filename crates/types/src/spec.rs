//! What a container is to be: the engine's own words for it, typed and validated.
//!
//! A face (Docker API, CRI) parses a request into a [`ContainerSpec`] once; the engine, the OCI
//! spec builder and the store only see this. Everything a face must show again (inspect) can be
//! rendered from it, so no second copy of the request is kept. Values of the image (environment,
//! command, labels …) are already merged in when the engine has created the container.
//!
//! Units: bytes for memory, nanoseconds for durations on the wire of the store, as named.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::id::{ContainerId, ImageId};
use crate::name::{ContainerName, VolumeName};
use crate::pod::{PodMember, PodNamespaces, Scope};
use crate::signal::Signal;

/// A container to create.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// The reference that the user gave, kept for `ps` and `inspect`.
    pub image_name: String,
    /// The image itself; filled in by the engine at create.
    pub image: Option<ImageId>,
    /// What runs.
    pub process: ProcessSpec,
    /// Labels of the user and of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations passed to the runtime; only allowed prefixes get that far.
    pub annotations: BTreeMap<String, String>,
    /// Empty means: the short container id.
    pub hostname: String,
    /// NIS domain name; empty keeps the kernel's.
    pub domainname: String,
    /// Signal of an orderly stop; `None` means the image's or SIGTERM.
    pub stop_signal: Option<Signal>,
    /// Seconds between the stop signal and SIGKILL; `None` means 10, negative means for ever.
    pub stop_timeout: Option<i64>,
    /// Probe that decides healthy or not.
    pub healthcheck: Option<Healthcheck>,
    /// Ports that the image or the user declared, published or not.
    pub exposed_ports: BTreeSet<Port>,
    /// Anonymous volumes by destination, from the image and from the request.
    pub volumes: BTreeSet<String>,
    /// No network at all, whatever `network.mode` says.
    pub network_disabled: bool,
    /// Bind, volume and tmpfs mounts in the order given.
    pub mounts: Vec<MountSpec>,
    /// Take over the mounts of these containers.
    pub volumes_from: Vec<VolumesFrom>,
    /// Driver for volumes that this container's creation makes; empty means `local`.
    pub volume_driver: String,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// Network mode, ports, names.
    pub network: NetworkSpec,
    /// Limits.
    pub resources: Resources,
    /// Rights and hardening.
    pub security: SecuritySpec,
    /// Where output goes.
    pub log: LogSpec,
    /// What happens after an exit.
    pub restart: RestartPolicy,
    /// Remove the container after its exit.
    pub auto_remove: bool,
    /// Run a small init of ours as pid 1; `None` means the daemon's default.
    pub init: Option<bool>,
    /// Name of a configured OCI runtime; `None` means the default.
    pub runtime: Option<String>,
    /// Root file system read-only.
    pub read_only_rootfs: bool,
    /// Fields as the request spelled them.
    #[serde(default)]
    pub spelled: Spelled,
    /// Bytes of /dev/shm; `None` means 64 MiB.
    pub shm_size: Option<u64>,
    /// Storage options (`size=`…), checked by the snapshotter.
    pub storage_opts: BTreeMap<String, String>,
    /// Rows and columns that the first TTY gets.
    pub console_size: Option<(u16, u16)>,
    /// The pod that it belongs to; nobody but Kubernetes changes it then.
    #[serde(default)]
    pub pod: Option<PodMember>,
}

/// The main process of a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// `None` takes the image's; `Some([])` or `Some([""])` clears it.
    pub entrypoint: Option<Vec<String>>,
    /// `None` takes the image's, unless `entrypoint` was given.
    pub cmd: Option<Vec<String>>,
    /// `NAME=value`; a bare `NAME` removes the image's variable.
    pub env: Vec<String>,
    /// Empty takes the image's, else `/`.
    pub working_dir: String,
    /// `user[:group]` by name or number; empty takes the image's, else root.
    pub user: String,
    /// Supplementary groups by name or number.
    pub group_add: Vec<String>,
    /// Whether the image's /etc/group has a say in the supplementary groups.
    #[serde(default)]
    pub groups: GroupsPolicy,
    /// Allocate a terminal.
    pub tty: bool,
    /// Keep standard input open.
    pub open_stdin: bool,
    /// Close standard input after the first attached client leaves.
    pub stdin_once: bool,
    /// What `create` asked to attach; only echoed by inspect.
    pub attach: Attach,
}

/// Where supplementary groups come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupsPolicy {
    /// From the request; those that /etc/group has for the user too, unless a group was named with
    /// the user. Docker's rule.
    #[default]
    UserAlone,
    /// From the request and from /etc/group, whatever was named. Kubernetes' `Merge`.
    Merge,
    /// From the request alone. Kubernetes' `Strict`.
    Strict,
}

/// Streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attach {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// A health probe. Durations in nanoseconds, 0 means Docker's default (30 s, 30 s, 0 s, 5 s).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Healthcheck {
    /// Empty inherits from the image, `["NONE"]` disables, `["CMD", …]`, `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Time between probes.
    pub interval_ns: i64,
    /// Time after which one probe has failed.
    pub timeout_ns: i64,
    /// Failures in this time after start do not count.
    pub start_period_ns: i64,
    /// Time between probes during the start period.
    pub start_interval_ns: i64,
    /// Failures in a row that make it unhealthy; 0 means 3.
    pub retries: u32,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// 1..=65535.
    pub number: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// One published port as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    /// Port in the container.
    pub container: Port,
    /// Host address; `None` means all of both families.
    pub host_ip: Option<IpAddr>,
    /// Host ports to choose from, inclusive; `None` means any free ephemeral one.
    pub host_ports: Option<(u16, u16)>,
}

/// What a mount attaches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MountKind {
    /// A path of the host.
    Bind {
        /// Absolute path on the host.
        source: String,
        /// Make the directory when it is missing (`-v` does, `--mount` does not).
        create_source: bool,
        /// Attach only this mount, not what is mounted below it.
        non_recursive: bool,
        /// How far read-only reaches into sub-mounts.
        read_only_recursion: ReadOnlyRecursion,
    },
    /// A volume.
    Volume {
        /// `None` makes an anonymous one.
        name: Option<VolumeName>,
        /// Do not copy the image's content into an empty volume.
        no_copy: bool,
        /// Directory in the volume to mount instead of its root.
        subpath: Option<String>,
        /// Driver for a volume that does not exist yet; empty means `local`.
        driver: String,
        /// Options for that driver.
        driver_opts: BTreeMap<String, String>,
        /// Labels for a volume that is made.
        labels: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes; `None` leaves the kernel's default of half the memory.
        size: Option<u64>,
        /// Permission bits; `None` means 1777.
        mode: Option<u32>,
        /// Further options of tmpfs(5) and mount flags (`exec`, `uid=…`), already validated.
        options: Vec<String>,
    },
    /// The files of an image, read-only.
    Image {
        /// Its name or id, as given.
        image: String,
        /// Directory or file in it to mount instead of its root.
        subpath: Option<String>,
    },
}

/// `bind-recursive=` of the docker CLI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadOnlyRecursion {
    /// Recursive where the kernel can (5.12), else only the top mount.
    #[default]
    Best,
    /// Only the top mount (`ReadOnlyNonRecursive`).
    Never,
    /// Recursive or an error (`ReadOnlyForceRecursive`).
    Force,
}

/// Mount propagation, mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum Propagation {
    Private,
    Rprivate,
    Shared,
    Rshared,
    Slave,
    Rslave,
}

impl Propagation {
    /// The option word of mount(8).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Rprivate => "rprivate",
            Self::Shared => "shared",
            Self::Rshared => "rshared",
            Self::Slave => "slave",
            Self::Rslave => "rslave",
        }
    }
}

/// Words of a request that have several spellings, kept as they came: inspect gives them back so,
/// and clients compare them with what they sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Spelled {
    /// `HostConfig.Binds`.
    pub binds: Vec<String>,
    /// Options in `HostConfig.Tmpfs` by destination.
    pub tmpfs: BTreeMap<String, String>,
    /// `HostConfig.SecurityOpt`.
    pub security_opt: Vec<String>,
    /// `HostConfig.ContainerIDFile`: where the client keeps the id.
    pub container_id_file: String,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// Absolute, cleaned path in the container.
    pub destination: String,
    /// What to attach.
    pub kind: MountKind,
    /// Mounted read-only.
    pub read_only: bool,
    /// Files belong, inside, to those whom they belong to outside: with the ids of the pod's user
    /// namespace.
    #[serde(default)]
    pub mapped: bool,
    /// `None` means rprivate.
    pub propagation: Option<Propagation>,
    /// SELinux relabelling `z` (shared) or `Z` (private).
    pub relabel: Option<char>,
    /// How the request spelled it, so that inspect can tell `Binds` from `Mounts` from `Tmpfs`.
    pub origin: MountOrigin,
}

/// The field of the request that a mount came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountOrigin {
    /// `-v` (HostConfig.Binds).
    Binds,
    /// `--mount` (HostConfig.Mounts).
    Mounts,
    /// `--tmpfs` (HostConfig.Tmpfs).
    Tmpfs,
    /// The image's or the request's anonymous volumes.
    Anonymous,
    /// `--volumes-from`.
    VolumesFrom,
}

/// `--volumes-from name[:ro|rw]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    /// Name or id of the other container.
    pub container: String,
    /// `None` keeps each mount's own mode.
    pub read_only: Option<bool>,
}

/// Which namespaces are own, shared or the host's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Namespaces {
    /// Process ids.
    pub pid: PidMode,
    /// System V IPC and /dev/shm.
    pub ipc: IpcMode,
    /// Host name.
    pub uts: UtsMode,
    /// Control groups; `None` means private on v2 and host on v1, as Docker does.
    pub cgroup: Option<CgroupnsMode>,
    /// Use the host's user namespace although the daemon remaps.
    pub userns_host: bool,
}

impl Namespaces {
    /// Those of a process in a pod, but for process ids, which are each process's own matter: what
    /// the pod has and what is the node's. The host name goes with the network.
    #[must_use]
    pub fn of_pod(shared: &PodNamespaces) -> Self {
        Self {
            ipc: match shared.ipc {
                Scope::Pod => IpcMode::Pod,
                Scope::Node => IpcMode::Host,
            },
            uts: match shared.network {
                Scope::Pod => UtsMode::Pod,
                Scope::Node => UtsMode::Host,
            },
            ..Self::default()
        }
    }
}

/// `--pid`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    /// An own one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of another container, by name or id as given.
    Container(String),
    /// The pod's.
    Pod,
}

/// `--ipc`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// An own one that nobody else may join (the default).
    #[default]
    Private,
    /// An own one that other containers may join.
    Shareable,
    /// An own one without a /dev/shm mount.
    None,
    /// The host's.
    Host,
    /// That of another container, by name or id as given.
    Container(String),
    /// The pod's.
    Pod,
}

/// `--uts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UtsMode {
    /// An own one.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The pod's.
    Pod,
}

/// `--cgroupns`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupnsMode {
    /// An own one.
    Private,
    /// The host's.
    Host,
}

/// `--network`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkMode {
    /// The default: the bridge.
    #[default]
    Default,
    /// The bridge, by name.
    Bridge,
    /// The host's namespace.
    Host,
    /// A namespace with nothing but loopback.
    None,
    /// The namespace of another container, by name or id as given.
    Container(String),
    /// A user-defined network, by name or id as given.
    Named(String),
    /// The pod's.
    Pod,
}

/// Networking of a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Where it is attached.
    pub mode: NetworkMode,
    /// Published ports.
    pub ports: Vec<PortBinding>,
    /// Publish every exposed port on a free host port (`-P`).
    pub publish_all: bool,
    /// `--dns`; empty takes the daemon's, else the host's.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`; `["."]` clears.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--add-host`: name and address, or `host-gateway`.
    pub extra_hosts: Vec<ExtraHost>,
    /// `--link name[:alias]`.
    pub links: Vec<String>,
    /// Colon-separated MAC address for the first interface.
    pub mac_address: Option<String>,
    /// Per network: aliases, fixed addresses.
    pub endpoints: BTreeMap<String, EndpointSpec>,
}

/// One line for /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraHost {
    /// Host name.
    pub name: String,
    /// `None` is `host-gateway`.
    pub address: Option<IpAddr>,
}

/// What a user asks of one network attachment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Links of this network.
    pub links: Vec<String>,
    /// Fixed IPv4 address.
    pub ipv4: Option<std::net::Ipv4Addr>,
    /// Fixed IPv6 address.
    pub ipv6: Option<std::net::Ipv6Addr>,
    /// Colon-separated MAC address.
    pub mac_address: Option<String>,
    /// Options for the driver.
    pub driver_opts: BTreeMap<String, String>,
    /// Highest wins the default route.
    pub gateway_priority: i64,
}

/// Limits. `None` leaves the kernel's default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Bytes.
    pub memory: Option<u64>,
    /// Soft limit, bytes.
    pub memory_reservation: Option<u64>,
    /// Memory and swap together, bytes; -1 is unlimited.
    pub memory_swap: Option<i64>,
    /// 0..=100, v1 only.
    pub memory_swappiness: Option<u64>,
    /// Do not kill at the limit (v1 only).
    pub oom_kill_disable: Option<bool>,
    /// -1000..=1000.
    pub oom_score_adj: Option<i32>,
    /// Weight, 1024 is one share.
    pub cpu_shares: Option<u64>,
    /// Billionths of a CPU; excludes `cpu_quota` and `cpu_period`.
    pub nano_cpus: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds, v1 with real-time group scheduling.
    pub cpu_realtime_period: Option<u64>,
    /// Microseconds, v1 with real-time group scheduling.
    pub cpu_realtime_runtime: Option<i64>,
    /// List format of cpuset(7).
    pub cpuset_cpus: Option<String>,
    /// List format of cpuset(7).
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is unlimited.
    pub pids_limit: Option<i64>,
    /// 10..=1000.
    pub blkio_weight: Option<u16>,
    /// Per device weight.
    pub blkio_weight_device: Vec<DeviceValue>,
    /// Bytes per second.
    pub blkio_read_bps: Vec<DeviceValue>,
    /// Bytes per second.
    pub blkio_write_bps: Vec<DeviceValue>,
    /// Operations per second.
    pub blkio_read_iops: Vec<DeviceValue>,
    /// Operations per second.
    pub blkio_write_iops: Vec<DeviceValue>,
    /// setrlimit(2) of the main process.
    pub ulimits: Vec<Ulimit>,
    /// Devices of the host.
    pub devices: Vec<DeviceSpec>,
    /// Rules of the device controller, `c 1:3 mr`.
    pub device_cgroup_rules: Vec<String>,
    /// CDI devices, `vendor.com/class=name`.
    pub cdi_devices: Vec<String>,
    /// Parent group; empty is the daemon's default.
    pub cgroup_parent: String,
    /// Namespaced kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes of huge pages by their size as the kernel spells it (`2MB`, `1GB`).
    #[serde(default)]
    pub hugepages: BTreeMap<String, u64>,
    /// Files of a group of cgroup v2 and what to write to them; nothing on v1.
    #[serde(default)]
    pub unified: BTreeMap<String, String>,
}

/// A value for one block device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceValue {
    /// Path of the device node on the host.
    pub path: String,
    /// See the field that holds it.
    pub value: u64,
}

/// One resource limit; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// Name without `RLIMIT_`, lower case.
    pub name: String,
    /// Soft limit.
    pub soft: i64,
    /// Hard limit.
    pub hard: i64,
}

/// `--device host[:container[:rwm]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Node or directory of nodes on the host.
    pub host_path: String,
    /// Path in the container.
    pub container_path: String,
    /// Subset of `rwm`.
    pub permissions: String,
}

/// Rights and hardening.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SecuritySpec {
    /// Everything allowed, all devices.
    pub privileged: bool,
    /// Canonical names with `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Canonical names with `CAP_`, or `ALL`.
    pub cap_drop: Vec<String>,
    /// Seccomp profile.
    pub seccomp: Seccomp,
    /// setuid and file capabilities have no effect; `None` takes the daemon's default.
    pub no_new_privileges: Option<bool>,
    /// AppArmor profile or `unconfined`; `None` is the default where the kernel has AppArmor.
    pub apparmor: Option<String>,
    /// SELinux label options (`disable`, `type:…`).
    pub selinux: Vec<String>,
    /// `None` takes the default list; an empty list masks nothing (`systempaths=unconfined`).
    pub masked_paths: Option<Vec<String>>,
    /// As `masked_paths`.
    pub readonly_paths: Option<Vec<String>>,
}

/// Seccomp profile of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The daemon's default profile.
    #[default]
    Default,
    /// No filter.
    Unconfined,
    /// A profile in Docker's JSON format.
    Profile(String),
}

/// Where the output of a container is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSpec {
    /// Format on disk.
    pub driver: LogDriver,
    /// The options as given, for inspect.
    pub options: BTreeMap<String, String>,
}

impl LogSpec {
    /// The option that holds the file of a [`LogDriver::Cri`] log.
    const PATH: &str = "path";

    /// A log in Kubernetes' format in the file `path`, absolute, whose directory exists.
    #[must_use]
    pub fn cri(path: &str) -> Self {
        let options = BTreeMap::from([(Self::PATH.to_owned(), path.to_owned())]);
        Self { driver: LogDriver::Cri, options }
    }

    /// The file of such a log; `None` for another driver, whose file is the engine's choice.
    #[must_use]
    pub fn cri_path(&self) -> Option<&str> {
        match self.driver {
            LogDriver::Cri => self.options.get(Self::PATH).map(String::as_str),
            LogDriver::JsonFile | LogDriver::Local | LogDriver::None => None,
        }
    }
}

/// Log drivers that exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// One JSON object per line, as Docker's.
    JsonFile,
    /// A compact binary form.
    Local,
    /// Lines of text as kubelet reads them, in the file that [`LogSpec::cri`] names. Only for
    /// containers of pods: no flag and no request of Docker's names it.
    Cri,
    /// Not kept.
    None,
}

impl LogDriver {
    /// The name in flags and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::JsonFile => "json-file",
            Self::Local => "local",
            Self::Cri => "cri",
            Self::None => "none",
        }
    }
}

/// What happens after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Again after every exit and at the daemon's start.
    Always,
    /// As `Always`, but what the user stopped stays stopped over a daemon restart.
    UnlessStopped,
    /// Again after a non-zero exit.
    OnFailure {
        /// Attempts; 0 means without limit.
        max_retries: u32,
    },
}

/// A container joined by another one's namespace, once the engine has resolved the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Whose namespace.
    pub id: ContainerId,
    /// Its name, for messages.
    pub name: ContainerName,
}

impl Default for LogSpec {
    fn default() -> Self {
        Self { driver: LogDriver::JsonFile, options: BTreeMap::new() }
    }
}
