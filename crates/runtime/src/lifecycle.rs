//! `start`, `kill`, `pause`, `resume`, `delete`: the life of a container after its creation.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::Hook;

use crate::error::{IoContext, RuntimeError, SystemContext};
use crate::hooks::{self, State};
use crate::log::Log;
use crate::process;
use crate::state::{Record, StateDir, Status};

/// How long the process may take from the word to the execution; startContainer hooks run then.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long killed processes may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Which processes a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The init process.
    Init,
    /// Every process in the container's cgroup.
    All,
}

/// Whether a running container may be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Only a stopped or created one.
    No,
    /// Any; what runs is killed, and an unknown id is no error.
    Yes,
}

/// Lets the program of a created container run. Returns when it has been executed, with the
/// failure if it could not be.
///
/// # Errors
/// [`RuntimeError::Status`] unless it is created; [`RuntimeError::Process`] when the execution
/// fails.
pub fn start(root: &Path, id: &str, log: &Log) -> Result<(), RuntimeError> {
    let directory = StateDir::open(root, id)?;
    let record = directory.load("start")?;
    let status = directory.status(&record);
    if status != Status::Created {
        return Err(RuntimeError::Status { operation: "start", status });
    }
    let mut stream = connect(&directory)?;
    stream.set_read_timeout(Some(START_LIMIT)).call("setsockopt")?;
    stream.write_all(b"g").call("telling the container to start")?;
    // From here on it is no longer "created", whatever becomes of it.
    let socket = directory.start_socket();
    std::fs::remove_file(&socket).context("remove", &socket)?;
    let mut failure = String::new();
    match stream.read_to_string(&mut failure) {
        Ok(_) if failure.is_empty() => {}
        Ok(_) => return Err(RuntimeError::Process(failure)),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            let seconds = START_LIMIT.as_secs();
            return Err(RuntimeError::Deadline { stage: "the start of the program", seconds });
        }
        Err(error) => return Err(error).call("waiting for the execution"),
    }
    if let Some(hooks) = &record.hooks {
        let list = hooks.poststart().as_ref();
        // A container that runs is not undone because somebody could not be told of it.
        if let Err(error) = run_hooks(&record, Status::Running, list) {
            log.warn(&format!("poststart: {}", pouch_types::error::chain(&error)));
        }
    }
    Ok(())
}

fn connect(directory: &StateDir) -> Result<UnixStream, RuntimeError> {
    let socket = directory.start_socket();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let fd =
        rustix::fs::open(&socket, flags, rustix::fs::Mode::empty()).context("open", &socket)?;
    UnixStream::connect(format!("/proc/self/fd/{}", fd.as_raw_fd())).context("connect to", &socket)
}

fn run_hooks(
    record: &Record,
    status: Status,
    list: Option<&Vec<Hook>>,
) -> Result<(), RuntimeError> {
    let pid = (status == Status::Running).then_some(record.pid);
    let annotations = record.annotations.clone();
    let state = State::new(&record.id, status, pid, record.bundle.clone(), annotations);
    hooks::run(list, &state, &[])
}

/// Sends a signal.
///
/// # Errors
/// [`RuntimeError::NotRunning`] when the init process is gone and only it is meant.
pub fn kill(root: &Path, id: &str, signal: i32, target: Target) -> Result<(), RuntimeError> {
    let directory = StateDir::open(root, id)?;
    let record = directory.load("kill")?;
    if target == Target::All {
        return if signal == libc::SIGKILL {
            record.cgroup.kill()
        } else {
            record.cgroup.signal(signal)
        };
    }
    let pidfd = directory.init(&record).ok_or(RuntimeError::NotRunning)?;
    match process::send_signal(&pidfd, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(RuntimeError::NotRunning),
        other => other.call("pidfd_send_signal"),
    }?;
    // In version 1 of cgroups a frozen process does not even die.
    if signal == libc::SIGKILL && record.cgroup.is_frozen() {
        record.cgroup.thaw()?;
    }
    Ok(())
}

/// Freezes a running container.
///
/// # Errors
/// [`RuntimeError::Status`] unless it runs.
pub fn pause(root: &Path, id: &str) -> Result<(), RuntimeError> {
    let directory = StateDir::open(root, id)?;
    let record = directory.load("pause")?;
    match directory.status(&record) {
        Status::Running | Status::Created => record.cgroup.freeze(),
        status => Err(RuntimeError::Status { operation: "pause", status }),
    }
}

/// Thaws a paused container.
///
/// # Errors
/// [`RuntimeError::Status`] unless it is paused.
pub fn resume(root: &Path, id: &str) -> Result<(), RuntimeError> {
    let directory = StateDir::open(root, id)?;
    let record = directory.load("resume")?;
    if !record.cgroup.is_frozen() {
        let status = directory.status(&record);
        return Err(RuntimeError::Status { operation: "resume", status });
    }
    record.cgroup.thaw()
}

/// Removes a container: its processes, its cgroups, its directory.
///
/// # Errors
/// [`RuntimeError::Status`] when it runs and is not forced.
pub fn delete(root: &Path, id: &str, force: Force, log: &Log) -> Result<(), RuntimeError> {
    let directory = match StateDir::open(root, id) {
        Err(RuntimeError::NotFound { .. }) if force == Force::Yes => return Ok(()),
        other => other?,
    };
    let record = match directory.try_load() {
        Ok(Some(record)) => record,
        // A creation that died half-way left its directory and perhaps its cgroup.
        Ok(None) if force == Force::Yes => {
            directory.placement().remove()?;
            return directory.remove();
        }
        Ok(None) => {
            let status = Status::Creating;
            return Err(RuntimeError::Status { operation: "delete", status });
        }
        Err(error) if force == Force::Yes => {
            log.warn(&pouch_types::error::chain(&error));
            directory.placement().remove()?;
            return directory.remove();
        }
        Err(error) => return Err(error),
    };
    let status = directory.status(&record);
    if matches!(status, Status::Running | Status::Paused) && force == Force::No {
        return Err(RuntimeError::Status { operation: "delete", status });
    }
    if let Some(init) = directory.init(&record) {
        record.cgroup.kill()?;
        // A process outside of the cgroup, or without one, still is the container's.
        let _ = process::send_signal(&init, libc::SIGKILL);
        if !process::wait_exit(&init, KILL_LIMIT)? {
            let seconds = KILL_LIMIT.as_secs();
            return Err(RuntimeError::Deadline { stage: "the end of the init process", seconds });
        }
    }
    record.cgroup.remove()?;
    if let Some(hooks) = &record.hooks
        && let Err(error) = run_hooks(&record, Status::Stopped, hooks.poststop().as_ref())
    {
        log.warn(&format!("poststop: {}", pouch_types::error::chain(&error)));
    }
    directory.remove()
}
