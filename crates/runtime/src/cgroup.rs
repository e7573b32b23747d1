//! Where a container's processes are accounted, limited, frozen and found again.
//!
//! Version 1 has one directory per hierarchy, version 2 has one directory; a hybrid host counts
//! as version 1. The mounts are read once per command from `mountinfo`, which grows with the
//! number of containers. [`Placement`] is what `create` remembers: only directories that it made
//! for this container, so that a kill or a removal can never reach another cgroup.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::error::{IoContext, RuntimeError, SystemContext};

mod bus;
mod devices;
mod limits;
mod mounts;
mod systemd;

use mounts::Version;

/// How long the freezer may take: a process in an uninterruptible wait holds it up.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to let go of an emptied cgroup.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at the freezer or at a busy directory.
const POLL: Duration = Duration::from_millis(2);

/// Who makes the cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Driver {
    /// We, by making directories.
    #[default]
    Filesystem,
    /// systemd, asked over D-Bus for a transient scope; the path is `slice:prefix:name`.
    Systemd,
}

/// A directory that was made for a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    /// The controllers of its hierarchy; empty for version 2.
    controllers: Vec<String>,
    /// The name of the hierarchy's mount (`cpu,cpuacct`), known while the container is made.
    #[serde(skip)]
    hierarchy: OsString,
    path: PathBuf,
}

impl Directory {
    fn unified(path: PathBuf) -> Self {
        Self { controllers: Vec::new(), hierarchy: OsString::new(), path }
    }
}

/// What a container sees where it mounts its control groups.
#[derive(Debug, Default)]
pub(crate) enum View {
    /// The hierarchy of version 2, from the root of the cgroup namespace on.
    #[default]
    Unified,
    /// Version 1: the name of each hierarchy and the container's directory in it.
    Hierarchies(Vec<(OsString, PathBuf)>),
}

/// The cgroups of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    directories: Vec<Directory>,
    unified: bool,
    /// The scope of systemd that the directory is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// Makes the cgroup of a container, with the limits in place.
///
/// `path` is the specification's `cgroupsPath`, or none for a directory named after the id.
pub(crate) fn create(
    path: Option<&Path>,
    id: &str,
    resources: Option<&LinuxResources>,
) -> Result<Placement, RuntimeError> {
    let hierarchies = mounts::read()?;
    let relative = relative(path, id)?;
    let mut placement = Placement {
        directories: Vec::new(),
        unified: hierarchies.iter().all(|h| h.version == Version::Two),
        scope: None,
    };
    let made = hierarchies.iter().try_for_each(|hierarchy| {
        let path = hierarchy.make(&relative)?;
        placement.directories.push(Directory {
            controllers: hierarchy.controllers.clone(),
            hierarchy: hierarchy.mount.file_name().unwrap_or_default().to_owned(),
            path,
        });
        Ok(())
    });
    let limited =
        made.and_then(|()| resources.map_or(Ok(()), |res| limits::apply(&placement, res)));
    match limited {
        Ok(()) => Ok(placement),
        Err(error) => {
            let _ = placement.remove();
            Err(error)
        }
    }
}

/// Makes a systemd scope with `pid` in it.
pub(crate) fn create_scope(
    path: Option<&Path>,
    id: &str,
    pid: i32,
    resources: Option<&LinuxResources>,
) -> Result<Placement, RuntimeError> {
    systemd::create(path, id, pid, resources, &mounts::read()?)
}

/// The way of a new process into the cgroups of a container.
///
/// Moving a process from outside makes the kernel wait for an RCU grace period, 5 to 20 ms. Both
/// ways here avoid it: in version 2 a process is born in its cgroup, and in version 1 it moves
/// itself, as a single thread, through the file `tasks` (not `cgroup.procs`), for which the
/// kernel takes no global lock.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Version 2: the directory to be born in.
    birthplace: Option<OwnedFd>,
    /// Version 1: the files to write to.
    tasks: Vec<OwnedFd>,
    view: View,
}

impl Entry {
    pub(crate) fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.birthplace.as_ref().map(AsFd::as_fd)
    }

    /// What the container sees of it.
    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// In the new process, which has one thread.
    pub(crate) fn enter(&self) -> Result<(), RuntimeError> {
        for file in &self.tasks {
            rustix::io::write(file, b"0").call("entering the cgroup")?;
        }
        Ok(())
    }
}

/// The path below the root of a hierarchy. It comes from the engine and still must not climb.
fn relative(path: Option<&Path>, id: &str) -> Result<PathBuf, RuntimeError> {
    let path = path.unwrap_or_else(|| Path::new(id));
    let relative = path.strip_prefix("/").unwrap_or(path);
    let plain = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if relative.as_os_str().is_empty() || !plain {
        return Err(RuntimeError::Invalid(format!("invalid cgroupsPath {path:?}")));
    }
    if relative.to_string_lossy().contains(':') {
        return Err(RuntimeError::Invalid(format!(
            "cgroupsPath {path:?} is systemd's form, which needs --systemd-cgroup"
        )));
    }
    Ok(relative.to_owned())
}

impl Placement {
    /// Opens the way in for a process that is about to be made.
    pub(crate) fn entry(&self) -> Result<Entry, RuntimeError> {
        let mut entry = Entry::default();
        for directory in &self.directories {
            if self.unified {
                entry.birthplace = Some(open(&directory.path, OFlags::PATH | OFlags::DIRECTORY)?);
            } else {
                entry.tasks.push(open(&directory.path.join("tasks"), OFlags::WRONLY)?);
            }
        }
        if !self.unified {
            let of = |d: &Directory| (d.hierarchy.clone(), d.path.clone());
            entry.view = View::Hierarchies(self.directories.iter().map(of).collect());
        }
        Ok(entry)
    }

    /// The way in for a further process. A container that manages cgroups of its own (version 2)
    /// has its processes in leaves only; a newcomer then goes where the init process is.
    pub(crate) fn entry_beside(&self, init: i32) -> Result<Entry, RuntimeError> {
        let mut entry = self.entry()?;
        if let (true, Some(top)) = (self.unified, self.directories.first()) {
            let text = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap_or_default();
            let own = text.lines().find_map(|line| line.strip_prefix("0::"));
            // The path is relative to the root of the hierarchy, wherever that is mounted.
            let name = top.path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((_, below)) = own.and_then(|path| path.split_once(&*name))
                && let Some(below) = below.strip_prefix('/')
                && !Path::new(below).components().any(|c| c == std::path::Component::ParentDir)
            {
                let leaf = top.path.join(below);
                entry.birthplace = Some(open(&leaf, OFlags::PATH | OFlags::DIRECTORY)?);
            }
        }
        Ok(entry)
    }

    /// Sets the limits that `resources` names and leaves the others.
    pub(crate) fn update(&self, resources: &LinuxResources) -> Result<(), RuntimeError> {
        if let Some(scope) = &self.scope {
            systemd::update(scope, resources)?;
        }
        limits::apply(self, resources)
    }

    /// The directory of a controller.
    fn directory(&self, controller: &str) -> Option<&Path> {
        self.directories
            .iter()
            .find(|d| self.unified || d.controllers.iter().any(|c| c == controller))
            .map(|d| d.path.as_path())
    }

    /// Any directory will do to find processes: all of them are in each.
    fn census(&self) -> Option<&Path> {
        ["pids", "freezer", "memory", "devices"]
            .iter()
            .find_map(|controller| self.directory(controller))
            .or_else(|| self.directories.first().map(|d| d.path.as_path()))
    }

    /// The processes, also those in cgroups that the container made below.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, RuntimeError> {
        let mut pids = BTreeSet::new();
        if let Some(path) = self.census() {
            collect_pids(path, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    /// Whether the container is paused or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        let Some(path) = self.directory("freezer") else { return false };
        if self.unified {
            read(path, "cgroup.freeze").is_ok_and(|text| text.trim() == "1")
        } else {
            read(path, "freezer.state").is_ok_and(|text| text.trim() != "THAWED")
        }
    }

    /// Stops every process, and returns when all have stopped.
    pub(crate) fn freeze(&self) -> Result<(), RuntimeError> {
        match self.set_freezer(Freezer::Frozen) {
            Err(error) => {
                let _ = self.set_freezer(Freezer::Thawed);
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Lets every process go on.
    pub(crate) fn thaw(&self) -> Result<(), RuntimeError> {
        self.set_freezer(Freezer::Thawed)
    }

    fn set_freezer(&self, state: Freezer) -> Result<(), RuntimeError> {
        let path = self
            .directory("freezer")
            .ok_or_else(|| RuntimeError::Unsupported(String::from("pausing without a freezer")))?;
        let (file, value, look, wanted) = match (self.unified, state) {
            (true, Freezer::Frozen) => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            (true, Freezer::Thawed) => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
            (false, Freezer::Frozen) => ("freezer.state", "FROZEN", "freezer.state", "FROZEN"),
            (false, Freezer::Thawed) => ("freezer.state", "THAWED", "freezer.state", "THAWED"),
        };
        let deadline = Instant::now() + FREEZE_LIMIT;
        write(path, file, value)?;
        while !read(path, look)?.lines().any(|line| line == wanted) {
            if Instant::now() > deadline {
                let seconds = FREEZE_LIMIT.as_secs();
                return Err(RuntimeError::Deadline { stage: "the freezer", seconds });
            }
            std::thread::sleep(POLL);
            // Version 1 gives up when a process forks meanwhile, and wants to be told again.
            if !self.unified {
                write(path, file, value)?;
            }
        }
        Ok(())
    }

    /// Sends SIGKILL to every process. Where the kernel can do it in one step, no fork escapes.
    pub(crate) fn kill(&self) -> Result<(), RuntimeError> {
        if self.unified
            && let Some(path) = self.census()
            && path.join("cgroup.kill").exists()
        {
            return write(path, "cgroup.kill", "1");
        }
        self.signal(libc::SIGKILL)?;
        if self.is_frozen() { self.thaw() } else { Ok(()) }
    }

    /// Sends a signal to every process.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        signal_all(&self.pids()?, signal);
        Ok(())
    }

    /// Kills what is left and removes the directories, deepest first.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + REMOVE_LIMIT;
        for directory in &self.directories {
            while let Err(error) = remove_tree(&directory.path) {
                if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                    return Err(error).context("remove the cgroup", &directory.path);
                }
                // In this directory, not in any one: a process that was on its way in when its
                // creation failed is in some of them only.
                let mut pids = BTreeSet::new();
                collect_pids(&directory.path, &mut pids)?;
                signal_all(&pids, libc::SIGKILL);
                if self.is_frozen() {
                    self.thaw()?;
                }
                std::thread::sleep(POLL);
            }
        }
        if let Some(scope) = &self.scope {
            // It is empty and ends without us, only later.
            let _ = systemd::stop(scope);
        }
        Ok(())
    }
}

/// A process that ended meanwhile is not an error.
fn signal_all<'a>(pids: impl IntoIterator<Item = &'a i32>, signal: i32) {
    for pid in pids {
        // SAFETY: plain kill(2). The pids were read from a cgroup that holds nobody but the
        // container's processes.
        unsafe { libc::kill(*pid, signal) };
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freezer {
    Frozen,
    Thawed,
}

fn collect_pids(path: &Path, pids: &mut BTreeSet<i32>) -> Result<(), RuntimeError> {
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.context("read", &path.join("cgroup.procs"))?,
    };
    // 0 stands for a process of a foreign pid namespace, and would mean our own group to kill(2).
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in directories_in(path) {
        collect_pids(&child, pids)?;
    }
    Ok(())
}

fn directories_in(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            for child in directories_in(path) {
                remove_tree(&child)?;
            }
            match fs::remove_dir(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        }
        Err(error) => Err(error),
    }
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, RuntimeError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).context("open", path)
}

fn write(directory: &Path, file: &str, value: &str) -> Result<(), RuntimeError> {
    let path = directory.join(file);
    fs::write(&path, value).map_err(|source| {
        RuntimeError::library(
            "cannot set a cgroup value",
            WriteError { path, value: value.to_owned(), source },
        )
    })
}

fn read(directory: &Path, file: &str) -> Result<String, RuntimeError> {
    let path = directory.join(file);
    fs::read_to_string(&path).context("read", &path)
}

/// The value belongs into the message: `EINVAL` alone helps nobody.
#[derive(Debug, thiserror::Error)]
#[error("writing {value:?} to {path}")]
struct WriteError {
    path: PathBuf,
    value: String,
    #[source]
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_or_is_the_root_is_refused() {
        for path in ["/", "", "/a/../b", "../a", "system.slice:docker:x"] {
            assert!(relative(Some(Path::new(path)), "id").is_err(), "{path:?}");
        }
        assert_eq!(relative(Some(Path::new("/a/b")), "id").unwrap(), Path::new("a/b"));
        assert_eq!(relative(None, "id").unwrap(), Path::new("id"));
    }

    #[test]
    fn version_one_finds_the_directory_of_a_controller() {
        let directory = |controllers: &[&str], path: &str| Directory {
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
            hierarchy: controllers.join(",").into(),
            path: path.into(),
        };
        let placement = Placement {
            directories: vec![directory(&["cpu", "cpuacct"], "/c"), directory(&["memory"], "/m")],
            unified: false,
            scope: None,
        };
        assert_eq!(placement.directory("cpuacct"), Some(Path::new("/c")));
        assert_eq!(placement.directory("freezer"), None);
        assert_eq!(placement.census(), Some(Path::new("/m")));
    }
}
