//! What readers see of a container: an immutable snapshot, replaced as a whole at each change.
//!
//! `list` and `inspect` read views only; they never wait for an actor, a shim or a disk.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use pouch_types::spec::{ContainerSpec, MountSpec, Port, Propagation};
use pouch_types::{ContainerId, ContainerName, ExecId, ImageId};

use crate::elsewhere::Elsewhere;

/// A container at one moment.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: ContainerName,
    /// When it was created.
    pub created: Timestamp,
    /// What it is to be, merged with its image.
    pub spec: Arc<ContainerSpec>,
    /// The image that it was made from.
    pub image: ImageId,
    /// First word of the command that pid 1 executes.
    pub path: String,
    /// The other words.
    pub args: Vec<String>,
    /// Where it is in its life.
    pub state: StateView,
    /// Automatic restarts since the last start by hand.
    pub restart_count: u32,
    /// Attachments to networks, in the order made.
    pub endpoints: Vec<EndpointView>,
    /// The pinned network namespace while it runs.
    pub sandbox_key: Option<PathBuf>,
    /// Mounts as resolved at create.
    pub mounts: Vec<MountPoint>,
    /// The log file, when the driver keeps one.
    pub log_path: Option<PathBuf>,
    /// The container's directory: hosts, hostname and resolv.conf lie there.
    pub dir: PathBuf,
    /// Running exec sessions.
    pub execs: Vec<ExecId>,
    /// Upper directory of the root file system.
    pub upper_dir: Option<PathBuf>,
    /// Set when the other backend holds its run: then most of what could be done with it is
    /// refused, and `state` is what can be seen from here.
    pub elsewhere: Option<Elsewhere>,
}

/// The word that `ps` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Status {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process is frozen.
    Paused,
    /// Waits for its next automatic start.
    Restarting,
    /// Being removed.
    Removing,
    /// Its process has ended.
    Exited,
    /// Its removal failed half-way; remove it again.
    Dead,
}

impl Status {
    /// All, in the order of a life.
    pub const ALL: [Self; 7] = [
        Self::Created,
        Self::Running,
        Self::Paused,
        Self::Restarting,
        Self::Removing,
        Self::Exited,
        Self::Dead,
    ];

    /// Docker's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Removing => "removing",
            Self::Exited => "exited",
            Self::Dead => "dead",
        }
    }
}

/// State of a container's life.
#[derive(Debug, Clone, PartialEq)]
pub struct StateView {
    /// The phase.
    pub status: Status,
    /// Pid of the main process in the host's namespace; 0 when there is none.
    pub pid: u32,
    /// Exit status of the last run; 128 + n after signal n.
    pub exit_code: i32,
    /// Why the last start failed; empty when it did not.
    pub error: String,
    /// The kernel killed a process of the last run for memory.
    pub oom_killed: bool,
    /// Last start.
    pub started_at: Option<Timestamp>,
    /// Last end.
    pub finished_at: Option<Timestamp>,
    /// The health probe's verdict, when there is a probe.
    pub health: Option<Health>,
}

impl StateView {
    /// Whether a process exists, frozen or not.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }
}

/// Verdict of health probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthStatus {
    /// Not decided yet.
    Starting,
    /// The last probe succeeded.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Health of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// The verdict.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last five probes, oldest first.
    pub log: Vec<ProbeResult>,
}

/// One health probe.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeResult {
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// 0 healthy; -1 when it timed out.
    pub exit_code: i32,
    /// At most 4096 bytes of its output.
    pub output: String,
}

/// One attachment to a network.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointView {
    /// Name of the network.
    pub network: String,
    /// Its id.
    pub network_id: String,
    /// Id of the attachment.
    pub endpoint_id: String,
    /// Colon-separated.
    pub mac: String,
    /// Address.
    pub ipv4: Option<Ipv4Addr>,
    /// Prefix length.
    pub ipv4_prefix: u8,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
    /// Published ports.
    pub ports: Vec<PublishedPort>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishedPort {
    /// In the container.
    pub container: Port,
    /// Host address; unspecified means all of its family.
    pub host_ip: IpAddr,
    /// Host port.
    pub host_port: u16,
}

/// A mount as inspect shows it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct MountPoint {
    /// What was asked for.
    pub spec: MountSpec,
    /// Host path that is mounted; empty for tmpfs.
    pub source: String,
    /// Name of the volume.
    pub volume: Option<String>,
    /// Driver of the volume.
    pub driver: Option<String>,
    /// Effective propagation.
    pub propagation: Option<Propagation>,
    /// The volume was made for this mount alone and goes with its container.
    #[serde(default)]
    pub anonymous: bool,
    /// The root file system that an image was given for this mount.
    #[serde(default)]
    pub image: Option<ImageMount>,
}

/// An image that is mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageMount {
    /// The image.
    pub image: ImageId,
    /// Its root file system, as the snapshotter knows it.
    pub snapshot: ContainerId,
}

/// An exec session.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// Its id.
    pub id: ExecId,
    /// Where it runs.
    pub container: ContainerId,
    /// What was asked for.
    pub spec: Arc<ExecSpec>,
    /// Whether its process exists.
    pub running: bool,
    /// Its exit status, once it has ended.
    pub exit_code: Option<i32>,
    /// Its pid in the host's namespace; 0 before its start.
    pub pid: u32,
}

/// A process to add to a container.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExecSpec {
    /// The command; not empty.
    pub cmd: Vec<String>,
    /// Further environment.
    pub env: Vec<String>,
    /// Empty takes the container's.
    pub working_dir: String,
    /// Empty takes the container's.
    pub user: String,
    /// Allocate a terminal.
    pub tty: bool,
    /// Streams that the client will attach.
    pub attach: pouch_types::spec::Attach,
    /// All capabilities and no seccomp filter.
    pub privileged: bool,
    /// Rows and columns.
    pub console_size: Option<(u16, u16)>,
    /// As given, for inspect.
    pub detach_keys: Option<String>,
}
