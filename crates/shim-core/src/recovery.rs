//! What a shim leaves in the bundle for the case that it dies, and `delete`, which uses it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use pouch_protocol::task::DeleteResponse;
use pouch_protocol::{Message as _, timestamp};
use serde::{Deserialize, Serialize};

use crate::args::Flags;
use crate::child::Reaper;
use crate::container::Container;
use crate::error::TaskError;
use crate::exit::ExitFile;
use crate::mounts;
use crate::options::TaskOptions;
use crate::runtime::{LinuxRuntime, RuntimeHandler as _, SealedRuntime};

/// Its name in the bundle.
const FILE: &str = "shim.json";
/// Status of a container whose shim died: it was killed by this clean-up.
const KILLED: u32 = 128 + 9;

/// How to remove a container without its shim.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recovery {
    runtime: Option<PathBuf>,
    root: PathBuf,
    systemd_cgroup: bool,
    args: Vec<String>,
    exit_file: Option<PathBuf>,
    generation: u64,
    pid: u32,
}

impl Recovery {
    pub(crate) fn new(options: &TaskOptions, pid: u32) -> Self {
        Self {
            runtime: options.runtime.clone(),
            root: options.root.clone(),
            systemd_cgroup: options.systemd_cgroup,
            args: options.args.clone(),
            exit_file: options.exit_file.clone(),
            generation: options.generation,
            pid,
        }
    }

    /// Not synced: after a crash of the machine there is no container to remove.
    pub(crate) fn write(&self, bundle: &Path) -> Result<(), TaskError> {
        let path = bundle.join(FILE);
        serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|text| std::fs::write(&path, text))
            .map_err(TaskError::io("write", path))
    }

    fn read(bundle: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(bundle.join(FILE))?)?)
    }

    /// What the shim recorded before it died, if the container ended before it.
    fn recorded(&self) -> Option<ExitFile> {
        ExitFile::read(self.exit_file.as_deref()?)
            .ok()
            .filter(|exit| exit.generation == self.generation)
    }
}

/// Runs the action: kills and removes the container, and prints a `DeleteResponse`.
pub(crate) fn delete(flags: &Flags) -> Result<(), TaskError> {
    let bundle = match &flags.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().map_err(TaskError::io("find", "the bundle"))?,
    };
    let recovery = Recovery::read(&bundle).ok();
    let mut options = TaskOptions::parse(None, &flags.namespace, &bundle)?;
    if let Some(recovery) = &recovery {
        options.runtime = recovery.runtime.clone();
        options.root = recovery.root.clone();
        options.systemd_cgroup = recovery.systemd_cgroup;
        options.args = recovery.args.clone();
    }
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(TaskError::io("start", "the reactor"))?;
    let removed = tokio.block_on(async {
        LinuxRuntime::new(&options, &SealedRuntime::default(), Reaper::default())?
            .delete(&flags.id, &bundle)
            .await
    });
    // The mount of a shim of ours is gone with its namespace; one of another shim may be left.
    let unmounted = mounts::unmount_all(&Container::rootfs(&bundle));
    remove_dead_socket(&bundle);
    removed.and(unmounted)?;

    let recorded = recovery.as_ref().and_then(Recovery::recorded);
    let response = DeleteResponse {
        pid: recovery.as_ref().map_or(0, |recovery| recovery.pid),
        exit_status: recorded.as_ref().map_or(KILLED, |exit| exit.exit_status),
        exited_at: Some(timestamp(
            recorded.map_or_else(jiff::Timestamp::now, |exit| exit.exited_at),
        ))
        .into(),
        ..DeleteResponse::default()
    };
    let bytes =
        response.write_to_bytes().map_err(|_| TaskError::Internal("a response too long"))?;
    io::stdout().write_all(&bytes).map_err(TaskError::io("write to", "standard output"))
}

/// The socket of the dead shim; one that answers is a pod's, whose shim lives.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else { return };
    let Some(path) = address.strip_prefix("unix://") else { return };
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
}
