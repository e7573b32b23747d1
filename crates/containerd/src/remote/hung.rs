//! The end of a shim of ours that does not answer.
//!
//! containerd has no call for it: it waits. The shim is found by the socket at which it serves
//! attach clients, which a stopped process keeps open: the kernel says who listens there.

use std::path::Path;
use std::time::Duration;

use pouch_types::ContainerId;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;

use crate::{Error, Result};

/// Time to connect; nobody has to accept.
const CONNECT: Duration = Duration::from_secs(1);

/// Whether there was a shim to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It was killed, or is dead.
    Yes,
    /// The container's shim is somebody else's.
    NotOurs,
}

/// Kills the shim of `id`, whose directory is `dir`.
pub(crate) async fn end_shim(id: &ContainerId, dir: &Path) -> Result<Ended> {
    // Beside a foreign shim, a keeper listens.
    if dir.join("ctl.sock").exists() {
        return Ok(Ended::NotOurs);
    }
    let socket = dir.join("io.sock");
    let Some(pid) = listener(&socket).await else { return Ok(Ended::Yes) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(rustix::io::Errno::SRCH) => return Ok(Ended::Yes),
        Err(error) => return Err(Error::io("open the shim at", &socket)(error.into())),
    };
    // It listens still, so the descriptor is of no other process with its pid.
    if listener(&socket).await != Some(pid) {
        return Ok(Ended::Yes);
    }
    tracing::warn!(container.id = %id, pid = pid.as_raw_nonzero(), "killing a shim that hangs");
    match pidfd_send_signal(&process, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(Ended::Yes),
        Err(error) => Err(Error::io("kill the shim at", &socket)(error.into())),
    }
}

/// The process that listens at `socket`.
async fn listener(socket: &Path) -> Option<Pid> {
    let connected = tokio::time::timeout(CONNECT, UnixStream::connect(socket)).await;
    let stream = connected.ok()?.ok()?;
    Pid::from_raw(stream.peer_cred().ok()?.pid()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_listener_is_known_and_a_keeper_is_spared() {
        let dir = tempfile::tempdir().unwrap();
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        assert_eq!(end_shim(&id, dir.path()).await.unwrap(), Ended::Yes, "nobody listens");
        let socket = dir.path().join("io.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(listener(&socket).await, Some(rustix::process::getpid()));
        std::fs::write(dir.path().join("ctl.sock"), "").unwrap();
        assert_eq!(end_shim(&id, dir.path()).await.unwrap(), Ended::NotOurs);
    }
}
