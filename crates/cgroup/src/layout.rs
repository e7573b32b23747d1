//! What is mounted where, read once from mountinfo.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::file;

/// Which interface the controllers of this machine have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Every controller in a hierarchy of the first version.
    V1,
    /// Controllers in the first version, and a cgroup2 mount beside them.
    Hybrid,
    /// The single hierarchy alone.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// v1: `cpu`, `cpuacct`, `name=systemd` …; v2: what `cgroup.controllers` of the root lists.
    pub(crate) controllers: Vec<String>,
    pub(crate) mountpoint: PathBuf,
    /// The group that is visible at the mount point; `/` unless only a part is mounted, as in a
    /// container.
    pub(crate) root: String,
    pub(crate) unified: bool,
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    /// The directory of a group.
    pub(crate) fn dir(&self, group: &str) -> PathBuf {
        let below = if self.root == "/" {
            group
        } else {
            match group.strip_prefix(self.root.as_str()) {
                Some(rest) if rest.is_empty() || rest.starts_with('/') => rest,
                _ => group,
            }
        };
        let below = below.trim_start_matches('/');
        if below.is_empty() { self.mountpoint.clone() } else { self.mountpoint.join(below) }
    }
}

/// The hierarchies of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    mode: Mode,
    hierarchies: Vec<Hierarchy>,
    /// Prepended to `/proc/<pid>/cgroup`; empty on a real machine.
    prefix: PathBuf,
}

impl Layout {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`Error::Unmounted`] when there is no cgroup file system, [`Error::Io`] without `/proc`.
    pub fn detect() -> Result<Arc<Self>, Error> {
        Self::detect_under(Path::new("/"))
    }

    /// As [`Layout::detect`], with every absolute path taken below `root`: for tests, and for the
    /// view of another mount namespace through `/proc/<pid>/root`.
    ///
    /// # Errors
    /// As [`Layout::detect`].
    pub fn detect_under(root: &Path) -> Result<Arc<Self>, Error> {
        let text = file::read_procs(&below(root, "/proc/self/mountinfo"))?;
        let mut hierarchies = parse_mountinfo(&text);
        for hierarchy in &mut hierarchies {
            hierarchy.mountpoint = below(root, &hierarchy.mountpoint.to_string_lossy());
            if hierarchy.unified {
                let listed = file::read_optional(&hierarchy.mountpoint.join("cgroup.controllers"))?;
                hierarchy.controllers =
                    listed.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
            }
        }
        let mode = match (
            hierarchies.iter().any(|h| h.unified),
            hierarchies.iter().any(|h| !h.unified && !h.controllers.is_empty()),
        ) {
            (true, true) => Mode::Hybrid,
            (true, false) => Mode::V2,
            (false, true) => Mode::V1,
            (false, false) => return Err(Error::Unmounted),
        };
        Ok(Arc::new(Self { mode, hierarchies, prefix: root.to_owned() }))
    }

    /// v1, v2 or both.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether a controller can be used, in either version. Names are v1's, except `io`, which is
    /// v2's `blkio`; v2 has no `cpuacct`, `devices` and `freezer` controller because these are
    /// part of its core, so they count as present there.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.v1(controller).is_some()
            || self.unified_controller(controller).is_some()
            || (self.mode == Mode::V2 && matches!(controller, "cpuacct" | "devices" | "freezer"))
    }

    /// The names of all controllers that are mounted, sorted, each in the spelling of its version.
    #[must_use]
    pub fn controllers(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .hierarchies
            .iter()
            .flat_map(|h| h.controllers.iter().map(String::as_str))
            .filter(|name| !name.starts_with("name="))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(crate) fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    pub(crate) fn v1(&self, controller: &str) -> Option<usize> {
        self.hierarchies.iter().position(|h| !h.unified && h.has(controller))
    }

    pub(crate) fn unified(&self) -> Option<usize> {
        self.hierarchies.iter().position(|h| h.unified)
    }

    /// The unified hierarchy, if it has this controller.
    pub(crate) fn unified_controller(&self, controller: &str) -> Option<usize> {
        let name = if controller == "blkio" { "io" } else { controller };
        self.hierarchies.iter().position(|h| h.unified && h.has(name))
    }

    pub(crate) fn proc_file(&self, pid: u32, name: &str) -> PathBuf {
        below(&self.prefix, &format!("/proc/{pid}/{name}"))
    }
}

fn below(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

/// The cgroup mounts of a mountinfo text, proc_pid_mountinfo(5). A hierarchy that is mounted more
/// than once counts by its first mount whose root is the widest.
fn parse_mountinfo(text: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut fields = left.split(' ');
        let (Some(root), Some(mountpoint)) = (fields.nth(3), fields.next()) else { continue };
        let mut tail = right.split(' ');
        let (Some(kind), Some(options)) = (tail.next(), tail.nth(1)) else { continue };
        let unified = match kind {
            "cgroup" => false,
            "cgroup2" => true,
            _ => continue,
        };
        let controllers = if unified { Vec::new() } else { v1_controllers(options) };
        let hierarchy = Hierarchy {
            controllers,
            mountpoint: PathBuf::from(unescape(mountpoint)),
            root: unescape(root),
            unified,
        };
        match found
            .iter_mut()
            .find(|h| h.unified == unified && h.controllers == hierarchy.controllers)
        {
            Some(known) if known.root.len() <= hierarchy.root.len() => {}
            Some(known) => *known = hierarchy,
            None => found.push(hierarchy),
        }
    }
    found
}

/// The controllers among the superblock options of a v1 mount.
fn v1_controllers(options: &str) -> Vec<String> {
    const KNOWN: [&str; 14] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "devices",
        "freezer",
        "blkio",
        "pids",
        "hugetlb",
        "net_cls",
        "net_prio",
        "perf_event",
        "rdma",
        "misc",
    ];
    options
        .split(',')
        .filter(|option| KNOWN.contains(option) || option.starts_with("name="))
        .map(str::to_owned)
        .collect()
}

/// Undoes mountinfo's `\040` octal escapes.
fn unescape(field: &str) -> String {
    let bytes = field.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal {
            out.push(byte);
            at += 4;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hybrid() {
        let found = parse_mountinfo(HYBRID);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found[0].mountpoint, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found[2].controllers, ["name=systemd"]);
        assert!(found[3].unified);
    }

    #[test]
    fn the_widest_mount_of_a_hierarchy_counts() {
        let text = "\
1 1 0:38 /docker/abc /mnt rw - cgroup2 cgroup2 rw
2 1 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
3 1 0:38 / /other rw - cgroup2 cgroup2 rw
";
        let found = parse_mountinfo(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].mountpoint, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn partial_mounts_hide_their_root() {
        let hierarchy = Hierarchy {
            controllers: vec![],
            mountpoint: "/sys/fs/cgroup".into(),
            root: "/docker/abc".into(),
            unified: true,
        };
        assert_eq!(hierarchy.dir("/docker/abc/pouch/1"), Path::new("/sys/fs/cgroup/pouch/1"));
        assert_eq!(hierarchy.dir("/docker/abcd"), Path::new("/sys/fs/cgroup/docker/abcd"));
        assert_eq!(hierarchy.dir("/pouch/1"), Path::new("/sys/fs/cgroup/pouch/1"));
    }

    #[test]
    fn escapes() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"/a\9"), r"/a\9");
    }

    #[test]
    fn hostile_lines_are_skipped() {
        assert!(parse_mountinfo("x\n - \n1 2 3 - cgroup\n1 2 3 / - cgroup2 a b\n").is_empty());
    }

    #[test]
    fn detection_below_a_root() {
        let root = tempfile::tempdir().unwrap();
        let at = |p: &str| root.path().join(p);
        std::fs::create_dir_all(at("proc/self")).unwrap();
        std::fs::create_dir_all(at("sys/fs/cgroup")).unwrap();
        std::fs::write(at("proc/self/mountinfo"), "1 1 0:3 / /sys/fs/cgroup rw - cgroup2 c rw\n")
            .unwrap();
        std::fs::write(at("sys/fs/cgroup/cgroup.controllers"), "cpu io memory pids\n").unwrap();
        let layout = Layout::detect_under(root.path()).unwrap();
        assert_eq!(layout.mode(), Mode::V2);
        assert!(layout.has("blkio") && layout.has("freezer") && !layout.has("cpuset"));
        assert_eq!(layout.controllers(), ["cpu", "io", "memory", "pids"]);

        std::fs::write(at("proc/self/mountinfo"), "1 1 0:3 / / rw - ext4 c rw\n").unwrap();
        assert!(matches!(Layout::detect_under(root.path()), Err(Error::Unmounted)));
    }
}
