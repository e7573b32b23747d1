//! What a backend is and how it does, told from memory: no call is made for it.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pouch_types::ContainerId;
use serde::{Deserialize, Serialize};

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The embedded one.
    Local,
    /// An existing containerd.
    Remote,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Local, Self::Remote];

    /// The word of `--backend`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
        }
    }

    /// The one that it is not.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Local => Self::Remote,
            Self::Remote => Self::Local,
        }
    }

    /// Directory of a container's run below the state directory. It exists from before the run's
    /// shim is started until nothing of the run is left, so it says who holds a run.
    #[must_use]
    pub fn run_dir(self, state: &Path, id: &ContainerId) -> PathBuf {
        self.runs(state).join(id.as_str())
    }

    /// The directory of all runs.
    pub(crate) fn runs(self, state: &Path) -> PathBuf {
        state.join(match self {
            Self::Local => "t",
            Self::Remote => "r",
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether somebody holds the streams of the run in `run_dir`: its shim, or the process beside a
/// foreign shim. Nobody but the holder has the listener, and the holder ends with the run's
/// removal or its own death. Does not wait: nobody has to accept.
#[must_use]
pub fn is_held(run_dir: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let Ok(address) = SocketAddrUnix::new(run_dir.join("io.sock")) else { return false };
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    match socket.map(|socket| connect(&socket, &address)) {
        // A full queue of those who wait to be accepted is one of somebody who lives.
        Ok(Ok(()) | Err(rustix::io::Errno::AGAIN)) => true,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// A backend as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which one.
    pub kind: Kind,
    /// The version of what runs containers: ours, or containerd's as it said when it was last
    /// connected to.
    pub version: String,
    /// What only a remote one has.
    pub remote: Option<RemoteStatus>,
}

/// How a remote backend does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteStatus {
    /// containerd's socket.
    pub socket: PathBuf,
    /// Namespace of all our objects.
    pub namespace: String,
    /// Whether its events are heard, which is what makes an end known.
    pub link: Link,
    /// The connections.
    pub pool: pouch_containerd_grpc::PoolStatus,
}

/// Whether containerd is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Its events are heard.
    Up {
        /// Since when.
        since: Timestamp,
    },
    /// They are not; it is tried again and again.
    Down {
        /// Since when.
        since: Timestamp,
        /// What the last attempt said.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_seen_while_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_held(dir.path()), "nothing is there");
        let listener = std::os::unix::net::UnixListener::bind(dir.path().join("io.sock")).unwrap();
        assert!(is_held(dir.path()));
        // It does not accept, however many ask.
        let many: Vec<_> = (0..300).map(|_| is_held(dir.path())).collect();
        assert!(many.into_iter().all(|held| held));
        drop(listener);
        assert!(!is_held(dir.path()), "its socket is all that is left");
    }

    #[test]
    fn each_backend_has_its_runs_apart() {
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        let [local, remote] = Kind::ALL.map(|kind| kind.run_dir(Path::new("/x"), &id));
        assert_eq!(local.parent(), Some(Path::new("/x/t")));
        assert_eq!(remote.parent(), Some(Path::new("/x/r")));
        assert_eq!(Kind::Local.other(), Kind::Remote);
    }
}
