//! `net.ipv4.ip_forward`: turned on for as long as our bridge needs it, and put back.
//!
//! The file `ip_forward` in the state directory says that we turned it on. Both live until the
//! next boot. As long as it exists the rules block transit that does not concern our bridge, so a
//! host that was no router does not become one because containers run on it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Forwarding;
use crate::error::NetworkError;
use crate::survey;

const SYSCTL: &str = "/proc/sys/net/ipv4/ip_forward";

/// Whether the host forwarded before we came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transit {
    /// It did, or that is not our business: what others forward passes.
    Allowed,
    /// It did not: only what concerns our bridge passes.
    Blocked,
}

fn record(state_dir: &Path) -> PathBuf {
    state_dir.join("ip_forward")
}

/// Decides before anything is changed, and leaves the record if forwarding will be turned on.
pub(crate) fn plan(mode: Forwarding, state_dir: &Path) -> Result<Transit, NetworkError> {
    if mode == Forwarding::Leave {
        return Ok(Transit::Allowed);
    }
    let record = record(state_dir);
    let now = fs::read_to_string(SYSCTL).map_err(NetworkError::file("read", SYSCTL))?;
    if now.trim() == "0" {
        // The record first: a crash between the two leaves a record of a change not made, and
        // putting back what is there harms nobody.
        fs::create_dir_all(state_dir).map_err(NetworkError::file("make", state_dir))?;
        fs::write(&record, "0\n").map_err(NetworkError::file("write", &record))?;
    }
    Ok(if record.exists() { Transit::Blocked } else { Transit::Allowed })
}

/// Turns forwarding on. The rules that fence it stand already.
pub(crate) fn enable(mode: Forwarding) -> Result<(), NetworkError> {
    match mode {
        Forwarding::Leave => Ok(()),
        Forwarding::Manage => fs::write(SYSCTL, "1").map_err(NetworkError::file("write", SYSCTL)),
    }
}

/// Puts the earlier value back, unless another bridge has come to rely on forwarding.
pub(crate) fn restore(state_dir: &Path, own_bridge: &str) -> Result<(), NetworkError> {
    let record = record(state_dir);
    if !record.exists() {
        return Ok(());
    }
    let others = survey::other_bridges(own_bridge)
        .map_err(NetworkError::link("look for other bridges than", own_bridge))?;
    if others.is_empty() {
        fs::write(SYSCTL, "0").map_err(NetworkError::file("write", SYSCTL))?;
    } else {
        tracing::warn!(bridges = ?others, "ip_forward stays on: other bridges use it");
    }
    match fs::remove_file(&record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::file("remove", &record)(error))
        }
        _ => Ok(()),
    }
}
