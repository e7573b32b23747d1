//! One interface over whatever runs the containers: Client → Container → Task → Process.
//!
//! The shape is that of moby's libcontainerd after its refactoring: the consumer keeps the objects
//! and hands them back by calling their methods, so no operation looks up by id what the consumer
//! already holds, and a backend keeps no map of containers.
//!
//! * [`Container::new_task`] and [`Task::start`] are separate: between them the consumer attaches
//!   streams, so that it sees the first byte. (The network is in place even earlier, since the
//!   network namespace is made before the container and joined by it.)
//! * Ends come from one stream of [`Event`]s. Nobody waits in an RPC. An exit that is reported
//!   while no consumer listens is found again by [`Client::load_all`] and in the exit file, which
//!   the shim makes durable before it reports.
//!
//! [`local`] drives shims itself; [`remote`] speaks to an existing containerd.

#![forbid(unsafe_code)]

mod error;
pub mod local;
mod options;
pub mod remote;
pub mod status;
mod streams;

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use pouch_types::spec::{Attach, LogDriver};
use pouch_types::{ContainerId, Signal};
use tokio::net::UnixStream;

pub use error::Error;
pub use status::{Kind, Link, RemoteStatus, Status, is_held};

/// The result of every call of this interface.
pub type Result<T> = std::result::Result<T, Error>;

/// A mount that makes up a root file system, in containerd's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// `overlay`, `bind`, `erofs` …
    pub kind: String,
    /// Source, or the file system's name.
    pub source: String,
    /// Options as mount(8) takes them. With our shim, `idmap=PATH` on an overlay or a bind shows
    /// the files of its sources as those of the user namespace that is pinned at PATH.
    pub options: Vec<String>,
}

/// Where the shim writes what the main process prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTarget {
    /// Format.
    pub driver: LogDriver,
    /// The file; rotated ones get `.1`, `.2` …
    pub path: PathBuf,
    /// Bytes before rotation; 0 never rotates.
    pub max_size: u64,
    /// Files kept, at least 1.
    pub max_files: u32,
    /// Drop lines instead of blocking the container when the disk is slow.
    pub mode: LogMode,
    /// Written into each record, as `--log-opt labels=…` asks.
    pub attributes: Vec<(String, String)>,
}

/// What happens when the log cannot be written fast enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// The container waits.
    Blocking,
    /// Lines beyond a buffer of this many bytes are dropped and counted.
    NonBlocking(u64),
}

/// Which OCI runtime executes the container, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeOptions {
    /// A shim of somebody else's by the name that containerd knows it by
    /// (`io.containerd.runc.v2`), which decides about all below; `None` is ours.
    pub shim: Option<String>,
    /// Path of the OCI runtime; `None` is pouch-runtime beside the shim.
    pub binary: Option<PathBuf>,
    /// Further arguments before the command.
    pub args: Vec<String>,
    /// The runtime's own state directory.
    pub root: PathBuf,
    /// Groups are made by systemd.
    pub cgroup_driver: CgroupDriver,
}

/// Who makes control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// The runtime, in the file system.
    Cgroupfs,
    /// systemd, over D-Bus.
    Systemd,
}

/// A container to create in the backend, for one run.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Its id.
    pub id: ContainerId,
    /// The pod: containers of one group share a shim. `None` has a shim of its own.
    ///
    /// Namespaces and mounts that later containers of the group join by a path in the embedded
    /// backend's state directory have to have the group's id as a component of that path: a shim
    /// lets go of all others' there.
    pub group: Option<ContainerId>,
    /// config.json of the OCI bundle.
    pub spec: Vec<u8>,
    /// Mounts of the root file system.
    pub rootfs: Vec<Mount>,
    /// The runtime.
    pub runtime: RuntimeOptions,
    /// Where output goes; `None` keeps nothing.
    pub log: Option<LogTarget>,
    /// Where the shim records the end, durably.
    pub exit_file: PathBuf,
    /// Number of this run, recorded with its end.
    pub generation: u64,
}

/// Standard streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stdio {
    /// A terminal instead of three pipes.
    pub terminal: Terminal,
    /// Standard input.
    pub stdin: Stdin,
}

/// Whether a process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It has.
    Yes,
    /// It has pipes.
    No,
}

/// What standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// /dev/null.
    Null,
    /// Open as long as the process runs, whoever comes and goes.
    Keep,
    /// Closed when the first client that writes to it has finished.
    Once,
}

/// Exit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus {
    /// 128 + n after signal n.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// A process of the container was killed for memory during this run.
    pub oom_killed: bool,
}

/// What a shim reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A main process (`exec` is `None`) or an exec ended.
    Exit {
        /// The container.
        container: ContainerId,
        /// Id of the exec.
        exec: Option<String>,
        /// Its pid.
        pid: u32,
        /// How.
        status: ExitStatus,
    },
    /// The kernel killed a process of the container for memory.
    Oom {
        /// The container.
        container: ContainerId,
    },
    /// What supervises the container is gone without a word: it must be reconciled.
    Lost {
        /// The container.
        container: ContainerId,
    },
}

/// A container that the backend holds from before.
#[derive(Debug)]
pub struct Loaded {
    /// The container.
    pub container: Arc<dyn Container>,
    /// Its task, as far as its supervisor answers.
    pub task: LoadedTask,
}

/// State of a task found at load.
#[derive(Debug)]
pub enum LoadedTask {
    /// Its process exists.
    Running(Arc<dyn Task>),
    /// Its process exists and is frozen.
    Paused(Arc<dyn Task>),
    /// Its process has ended; the task waits for its deletion.
    Stopped(Arc<dyn Task>, ExitStatus),
    /// It was created and never started.
    Created(Arc<dyn Task>),
    /// Its supervisor lives and does not answer within the deadline.
    Silent(Arc<dyn Task>),
    /// Its supervisor is dead; [`Container::delete`] cleans up.
    Orphaned,
}

/// Whose shims a backend can start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shims {
    /// Ours.
    Own,
    /// Also others, by name.
    Any,
}

/// A backend.
#[async_trait]
pub trait Client: Debug + Send + Sync {
    /// What it is and how it does, from memory.
    fn status(&self) -> Status;

    /// Whose shims it can start.
    fn shims(&self) -> Shims;

    /// Makes a container for one run.
    async fn create(&self, request: CreateRequest) -> Result<Arc<dyn Container>>;

    /// Everything that the backend holds, after a restart of either side.
    async fn load_all(&self) -> Result<Vec<Loaded>>;

    /// The daemon ends in order: what was put off is done. Containers go on.
    async fn close(&self) {}
}

/// A container of a backend.
#[async_trait]
pub trait Container: Debug + Send + Sync {
    /// Its id.
    fn id(&self) -> &ContainerId;

    /// Prepares the main process: everything but its first instruction.
    async fn new_task(&self, stdio: Stdio) -> Result<Arc<dyn Task>>;

    /// Removes what is left, by force when a process still exists. Idempotent.
    async fn delete(&self) -> Result<()>;
}

/// A process that was prepared or runs.
#[async_trait]
pub trait Process: Debug + Send + Sync {
    /// Pid in the host's namespace; 0 before it exists.
    fn pid(&self) -> u32;

    /// Lets it run.
    async fn start(&self) -> Result<u32>;

    /// Sends a signal.
    async fn kill(&self, signal: Signal) -> Result<()>;

    /// Sends a signal to every process that belongs to this one: of the main process, all of the
    /// container; of an exec, all of its session and all descendants, whether it has ended or not.
    /// After SIGKILL, when this returns, none of them is left.
    ///
    /// An exec that ran out of its time is ended so. What still has its pipes open then is not
    /// waited for: its end is the [`Event::Exit`], behind which the stream has at most what the
    /// exec had written.
    async fn kill_all(&self, signal: Signal) -> Result<()>;

    /// Sets the size of its terminal, in characters.
    async fn resize(&self, width: u16, height: u16) -> Result<()>;

    /// Frees what the backend keeps of the ended process.
    async fn delete(&self) -> Result<()>;

    /// Connects to its streams: raw bytes to standard input; back come raw bytes of a terminal or
    /// Docker's 8-byte-header frames. End of stream in one direction leaves the other open.
    async fn attach(&self, streams: Attach) -> Result<UnixStream>;
}

/// The main process of a container and what concerns the container as a whole.
#[async_trait]
pub trait Task: Process {
    /// Freezes all processes.
    async fn pause(&self) -> Result<()>;

    /// Lets them go on.
    async fn resume(&self) -> Result<()>;

    /// Adds a process; `process` is the OCI `process` object.
    async fn exec(&self, id: &str, process: Vec<u8>, stdio: Stdio) -> Result<Arc<dyn Process>>;

    /// Changes limits; `resources` is the OCI `linux.resources` object.
    async fn update(&self, resources: Vec<u8>) -> Result<()>;

    /// The log's file was renamed: what comes from now on goes to a new one at the same path. When
    /// this returns, the old one is written to no more, and nothing is lost between them.
    ///
    /// Refused, without making the file, with [`pouch_types::ErrorKind::Conflict`] when the main
    /// process does not run or keeps no log.
    async fn reopen_log(&self) -> Result<()>;

    /// This task as the process that it is.
    fn as_process(self: Arc<Self>) -> Arc<dyn Process>;
}
