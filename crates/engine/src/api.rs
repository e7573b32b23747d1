//! Requests and answers of the engine's use cases that are neither a specification nor a view.

use std::fmt;
use std::pin::Pin;

use jiff::Timestamp;
use pouch_types::{ContainerId, Signal};
use tokio::io::{AsyncRead, AsyncWrite};

/// Answer of `create`.
#[derive(Debug, Clone)]
pub struct Created {
    /// The new container.
    pub id: ContainerId,
    /// What the machine cannot do as asked.
    pub warnings: Vec<String>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Kill it first when it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// Not running now counts.
    NotRunning,
    /// The next exit after this call.
    NextExit,
    /// Gone.
    Removed,
}

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// Exit status of the main process.
    pub exit_code: i32,
    /// Why it could not be started or removed; empty otherwise.
    pub error: String,
}

/// A registered wait; awaiting it gives the result.
pub type Waiting = Pin<Box<dyn Future<Output = WaitResult> + Send>>;

/// How to stop: `None` takes the container's own setting.
#[derive(Debug, Clone, Copy, Default)]
pub struct StopOptions {
    /// Seconds before SIGKILL; negative waits for ever.
    pub timeout: Option<i64>,
    /// First signal.
    pub signal: Option<Signal>,
}

/// What to attach to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// The streams.
    pub streams: pouch_types::spec::Attach,
    /// Follow what comes from now on; otherwise only `logs`.
    pub stream: bool,
    /// Replay the log first.
    pub logs: bool,
}

/// The two directions of an attached process.
pub struct Attached {
    /// Raw bytes when true, Docker's multiplexed frames (8-byte header) when false.
    pub tty: bool,
    /// Output until the process ends.
    pub output: Box<dyn AsyncRead + Send + Unpin>,
    /// Standard input; its shutdown is end of file.
    pub input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attached").field("tty", &self.tty).finish_non_exhaustive()
    }
}

/// Which part of a log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Only the last n lines.
    pub tail: Option<usize>,
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// 1 standard output, 2 standard error.
    pub stream: u8,
    /// When the shim read it.
    pub time: Timestamp,
    /// The bytes, with the newline if there was one.
    pub bytes: Vec<u8>,
    /// `key=value` attributes (`--log-opt labels=…`).
    pub attributes: Vec<(String, String)>,
}

/// A log being read; the receiver ends when the log does.
#[derive(Debug)]
pub struct LogStream {
    /// Whether the container has a terminal: then records are not framed.
    pub tty: bool,
    /// The records, or why reading failed.
    pub records: tokio::sync::mpsc::Receiver<Result<LogRecord, crate::EngineError>>,
}

/// Processes of a container, as ps(1) would print them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Top {
    /// Column titles.
    pub titles: Vec<String>,
    /// A row per process.
    pub processes: Vec<Vec<String>>,
}

/// What changes of a container while it exists. `None` leaves as is.
#[derive(Debug, Clone, Default)]
pub struct UpdateOptions {
    /// Limits: only fields that are `Some` (or not empty) are changed.
    pub resources: pouch_types::spec::Resources,
    /// Restart policy.
    pub restart: Option<pouch_types::spec::RestartPolicy>,
}

/// How `docker cp` puts an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// Refuse to replace a directory by a file or the reverse.
    pub no_overwrite_dir_non_dir: bool,
    /// Give everything to the user that the container is configured to run as; without one, and
    /// otherwise, the archive says who owns what.
    pub copy_uid_gid: bool,
}

/// One measurement of a container's use of resources.
#[derive(Debug, Clone)]
pub struct StatsSample {
    /// When; `None` for a container that does not run.
    pub read: Option<Timestamp>,
    /// From the control groups.
    pub cgroup: pouch_cgroup::Stats,
    /// Nanoseconds of all CPUs of the host since boot.
    pub system_cpu_ns: u64,
    /// CPUs that are on line.
    pub online_cpus: u32,
    /// Bytes of the host's memory, the limit when the container has none.
    pub host_memory: u64,
    /// Counters per interface.
    pub networks: Vec<(String, NetworkCounters)>,
}

/// Counters of an interface since it was made, from the container's point of view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the kernel's in /proc/net/dev")]
pub struct NetworkCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}
