//! What is remembered of a container between commands: one directory per id below the root, made
//! exclusively, with `state.json` written once at the end of `create`.
//!
//! The status is never stored, so it cannot be stale: it follows from the process (pid and start
//! time), the start socket (there until `start` has used it) and the freezer. Whoever reads these
//! needs no lock.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Hooks, LinuxPersonality, Process};
use serde::{Deserialize, Serialize};

use crate::cgroup::Placement;
use crate::error::{IoContext, RuntimeError};
use crate::process::{self, Stat};

/// The version of the OCI runtime specification that is implemented.
pub const OCI_VERSION: &str = "1.2.0";

const STATE_FILE: &str = "state.json";
const START_SOCKET: &str = "start.sock";
const CGROUP_FILE: &str = "cgroup.json";
const SECCOMP_FILE: &str = "seccomp.bpf";
/// Longest id; it becomes a file name.
const ID_MAX: usize = 200;

/// The state of a container as the OCI runtime specification and runc name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` has not finished, or died half-way.
    Creating,
    /// The process waits for `start`.
    Created,
    /// The program runs.
    Running,
    /// Its cgroup is frozen.
    Paused,
    /// The process is gone or a zombie.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// The content of `state.json`: the OCI state and what later commands need.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The specification's version.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The init process, in the pid namespace of the runtime.
    pub pid: i32,
    /// Its start time in clock ticks since boot.
    pub start_time: u64,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// When `create` finished, RFC 3339.
    pub created: String,
    /// The numeric user that created it.
    pub owner: u32,
    /// The annotations of the specification.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Where its processes are accounted.
    pub cgroup: Placement,
    /// Hooks that are still to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// The init process as specified: the defaults of `exec`.
    pub process: Process,
    /// The execution domain that every process of the container gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<LinuxPersonality>,
}

/// What `state` prints: OCI's fields and runc's extra ones.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

impl View {
    /// The id, for tables.
    pub(crate) fn columns(&self) -> [String; 6] {
        [
            self.id.clone(),
            self.pid.to_string(),
            self.status.to_string(),
            self.bundle.display().to_string(),
            self.created.clone(),
            self.owner.clone(),
        ]
    }
}

/// Checks an id: it names a directory and a cgroup.
///
/// # Errors
/// [`RuntimeError::Invalid`] for anything but letters, digits and `_ + - .`, or a leading dot.
pub fn check_id(id: &str) -> Result<(), RuntimeError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > ID_MAX || id.starts_with('.') || !id.chars().all(allowed) {
        return Err(RuntimeError::Invalid(format!("invalid container id {id:?}")));
    }
    Ok(())
}

/// The directory of one container.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    id: String,
}

impl StateDir {
    /// Makes the directory; the making is what claims the id.
    ///
    /// # Errors
    /// [`RuntimeError::Exists`] when the id is taken.
    pub fn create(root: &Path, id: &str) -> Result<Self, RuntimeError> {
        check_id(id)?;
        let path = root.join(id);
        let make = |path: &Path| fs::DirBuilder::new().mode(0o711).create(path);
        let made = match make(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o711)
                    .create(root)
                    .context("create", root)?;
                make(&path)
            }
            other => other,
        };
        match made {
            Ok(()) => Ok(Self { path, id: id.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(RuntimeError::Exists { id: id.to_owned() })
            }
            Err(error) => Err(error).context("create", &path),
        }
    }

    /// The directory of an existing container.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`] when there is none.
    pub fn open(root: &Path, id: &str) -> Result<Self, RuntimeError> {
        check_id(id)?;
        let path = root.join(id);
        if path.is_dir() {
            Ok(Self { path, id: id.to_owned() })
        } else {
            Err(RuntimeError::NotFound { id: id.to_owned() })
        }
    }

    /// The ids below `root`, in order.
    ///
    /// # Errors
    /// When the root exists and cannot be read.
    pub fn ids(root: &Path) -> Result<Vec<String>, RuntimeError> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context("list", root)?,
        };
        let mut ids: Vec<String> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn start_socket(&self) -> PathBuf {
        self.path.join(START_SOCKET)
    }

    pub(crate) fn seccomp_file(&self) -> PathBuf {
        self.path.join(SECCOMP_FILE)
    }

    /// Writes the record; a reader sees all of it or none.
    pub(crate) fn save(&self, record: &Record) -> Result<(), RuntimeError> {
        let path = self.path.join(STATE_FILE);
        let temporary = self.path.join("state.json.new");
        let bytes = serde_json::to_vec(record)
            .map_err(|source| RuntimeError::Json { path: path.clone(), source })?;
        fs::write(&temporary, bytes).context("write", &temporary)?;
        fs::rename(&temporary, &path).context("write", &path)
    }

    /// Notes the cgroup as soon as it is there, for a clean-up after a creation that died.
    pub(crate) fn save_placement(&self, cgroup: &Placement) -> Result<(), RuntimeError> {
        let path = self.path.join(CGROUP_FILE);
        let bytes = serde_json::to_vec(cgroup)
            .map_err(|source| RuntimeError::Json { path: path.clone(), source })?;
        fs::write(&path, bytes).context("write", &path)
    }

    /// What [`save_placement`](Self::save_placement) noted; nothing when it is missing or cut.
    pub(crate) fn placement(&self) -> Placement {
        fs::read(self.path.join(CGROUP_FILE))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// The record, or `None` while `create` has not finished.
    pub(crate) fn try_load(&self) -> Result<Option<Record>, RuntimeError> {
        let path = self.path.join(STATE_FILE);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| RuntimeError::Json { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("read", &path),
        }
    }

    /// The record of a container whose creation finished.
    ///
    /// # Errors
    /// [`RuntimeError::Status`] when it did not.
    pub fn load(&self, operation: &'static str) -> Result<Record, RuntimeError> {
        self.try_load()?.ok_or(RuntimeError::Status { operation, status: Status::Creating })
    }

    /// The status, from what is there now.
    #[must_use]
    pub fn status(&self, record: &Record) -> Status {
        match Stat::read(record.pid) {
            Some(stat) if stat.start_time == record.start_time && !stat.is_dead() => {
                if self.start_socket().exists() {
                    Status::Created
                } else if record.cgroup.is_frozen() {
                    Status::Paused
                } else {
                    Status::Running
                }
            }
            _ => Status::Stopped,
        }
    }

    /// A descriptor of the init process, if it lives.
    pub(crate) fn init(&self, record: &Record) -> Option<OwnedFd> {
        process::open(record.pid, record.start_time)
    }

    /// What `state` prints.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn view(&self) -> Result<View, RuntimeError> {
        let Some(record) = self.try_load()? else {
            return Ok(View {
                oci_version: OCI_VERSION.to_owned(),
                id: self.id.clone(),
                pid: 0,
                status: Status::Creating,
                bundle: PathBuf::new(),
                rootfs: PathBuf::new(),
                created: String::new(),
                annotations: BTreeMap::new(),
                owner: String::new(),
            });
        };
        let status = self.status(&record);
        Ok(View {
            oci_version: record.oci_version,
            id: record.id,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            status,
            bundle: record.bundle,
            rootfs: record.rootfs,
            created: record.created,
            annotations: record.annotations,
            owner: if record.owner == 0 { String::from("root") } else { record.owner.to_string() },
        })
    }

    /// Removes the directory and what is in it.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("remove", &self.path)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_no_file_name_are_refused() {
        for id in ["", ".", "..", ".x", "a/b", "a b", "a\0", "é", &"x".repeat(201)] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "A_b+c-d.e", &"0".repeat(64)] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }

    #[test]
    fn an_id_is_claimed_once() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("made/on/demand");
        StateDir::create(&below, "a").unwrap();
        assert!(matches!(StateDir::create(&below, "a"), Err(RuntimeError::Exists { .. })));
        assert_eq!(StateDir::ids(&below).unwrap(), ["a"]);
    }

    #[test]
    fn an_unfinished_creation_is_creating() {
        let root = tempfile::tempdir().unwrap();
        let dir = StateDir::create(root.path(), "a").unwrap();
        let view = serde_json::to_value(dir.view().unwrap()).unwrap();
        assert_eq!(view["status"], "creating");
        assert!(matches!(dir.load("start"), Err(RuntimeError::Status { .. })));
    }

    #[test]
    fn an_unknown_id_is_not_found() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(StateDir::open(root.path(), "x"), Err(RuntimeError::NotFound { .. })));
    }
}
