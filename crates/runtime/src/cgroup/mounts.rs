//! The cgroup hierarchies of the host, from one reading of `mountinfo`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::write;
use crate::error::{IoContext, RuntimeError};

/// The interface of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// How often a directory is tried whose parent vanishes.
const ATTEMPTS: u32 = 8;

/// One mounted hierarchy that containers are placed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) version: Version,
    /// Version 1: the controllers and named hierarchies (`name=systemd`) that are mounted here.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
}

/// The hierarchies: all of version 1 when there is any, else the one of version 2.
pub(super) fn read_from(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (kind, rest) = right.split_once(' ').unwrap_or((right, ""));
        let version = match kind {
            "cgroup" => Version::One,
            "cgroup2" => Version::Two,
            _ => continue,
        };
        let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
        let options = rest.rsplit(' ').next().unwrap_or_default();
        let mut controllers: Vec<String> = match version {
            Version::One => {
                options.split(',').filter(|o| is_controller(o)).map(str::to_owned).collect()
            }
            Version::Two => Vec::new(),
        };
        controllers.sort();
        let known = found.iter().any(|h| h.version == version && h.controllers == controllers);
        if !known && (version == Version::Two || !controllers.is_empty()) {
            found.push(Hierarchy { version, controllers, mount });
        }
    }
    if found.iter().any(|h| h.version == Version::One) {
        found.retain(|h| h.version == Version::One);
    }
    found
}

/// Mount options of version 1 are its controllers and these words.
fn is_controller(option: &str) -> bool {
    let other = ["rw", "ro", "none", "all", "xattr", "noprefix", "clone_children", "favordynmods"];
    !option.is_empty() && !other.contains(&option) && !option.starts_with("release_agent=")
}

/// `mountinfo` writes blanks and backslashes as octal.
fn unescape(text: &str) -> PathBuf {
    PathBuf::from(text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
}

pub(super) fn read() -> Result<Vec<Hierarchy>, RuntimeError> {
    let path = Path::new("/proc/self/mountinfo");
    let hierarchies = read_from(&fs::read_to_string(path).context("read", path)?);
    if hierarchies.is_empty() {
        return Err(RuntimeError::Unsupported(String::from("a host without mounted cgroups")));
    }
    Ok(hierarchies)
}

impl Hierarchy {
    /// Makes the directory at `relative` with everything that a process needs to be let in.
    pub(super) fn make(&self, relative: &Path) -> Result<PathBuf, RuntimeError> {
        // Whoever owns the parent may remove it between our steps when its last container goes.
        for _ in 1..ATTEMPTS {
            match self.try_make(relative) {
                Err(RuntimeError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        self.try_make(relative)
    }

    fn try_make(&self, relative: &Path) -> Result<PathBuf, RuntimeError> {
        let mut path = self.mount.clone();
        for part in relative {
            if self.version == Version::Two {
                enable_controllers(&path);
            }
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).context("create the cgroup", &path),
            }
            self.inherit_cpuset(&path)?;
        }
        Ok(path)
    }

    /// A new version 1 cpuset is empty and lets nobody in.
    fn inherit_cpuset(&self, path: &Path) -> Result<(), RuntimeError> {
        if !self.controllers.iter().any(|c| c == "cpuset") {
            return Ok(());
        }
        let Some(parent) = path.parent() else { return Ok(()) };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let inherited = read_value(parent, file)?;
            if read_value(path, file)?.is_empty() {
                write(path, file, &inherited)?;
            }
        }
        Ok(())
    }
}

fn read_value(path: &Path, file: &str) -> Result<String, RuntimeError> {
    Ok(super::read(path, file)?.trim().to_owned())
}

/// Hands every available controller down. One at a time: a controller that cannot be enabled
/// (threads in the way, real-time processes) must not keep the others away.
fn enable_controllers(path: &Path) {
    let Ok(available) = super::read(path, "cgroup.controllers") else { return };
    let enabled = super::read(path, "cgroup.subtree_control").unwrap_or_default();
    for controller in available.split_ascii_whitespace() {
        if !enabled.split_ascii_whitespace().any(|e| e == controller) {
            let _ = write(path, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory
35 90 0:30 / /somewhere\\040else rw - cgroup cgroup rw,memory
";

    #[test]
    fn a_hybrid_host_counts_as_version_one_and_each_hierarchy_once() {
        let found = read_from(HYBRID);
        assert!(found.iter().all(|h| h.version == Version::One));
        let mounts: Vec<_> = found.iter().map(|h| h.mount.to_str().unwrap()).collect();
        assert_eq!(
            mounts,
            ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(found[1].controllers, ["cpu", "cpuacct"]);
    }

    #[test]
    fn a_unified_host_has_one_hierarchy() {
        let found = read_from("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].version, Version::Two);
    }

    #[test]
    fn escaped_blanks_are_blanks() {
        assert_eq!(unescape("/a\\040b"), Path::new("/a b"));
    }
}
