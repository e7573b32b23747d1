//! One control group, addressed by path in every hierarchy.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::file;
use crate::layout::Layout;

/// Levels below a group that are walked; the kernel's default `cgroup.max.depth` is unlimited, and
/// a container may nest as it likes.
const MAX_DEPTH: usize = 64;
/// Groups below one that are visited.
const MAX_GROUPS: usize = 4096;

/// One group. Existing or not: only the operations touch the file system.
#[derive(Debug, Clone)]
pub struct Cgroup {
    layout: Arc<Layout>,
    path: String,
    /// One entry per hierarchy of the layout; `None` where the group is not this group's own.
    dirs: Vec<Option<PathBuf>>,
}

impl fmt::Display for Cgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

impl Cgroup {
    /// The group `path` of every hierarchy, `/pouch/<id>`.
    ///
    /// # Errors
    /// [`Error::BadPath`] unless the path is absolute, clean and not the root.
    pub fn new(layout: &Arc<Layout>, path: &str) -> Result<Self, Error> {
        check_path(path)?;
        let dirs = layout.hierarchies().iter().map(|h| Some(h.dir(path))).collect();
        Ok(Self { layout: Arc::clone(layout), path: path.to_owned(), dirs })
    }

    /// The group that a process is in.
    ///
    /// The runtimes create a v1 group only in the hierarchies they need, so the process can be in
    /// its parent's group elsewhere. The group of the freezer (v1) or the unified one (v2) is
    /// taken as the process's own; a hierarchy where it is in another one is left out, for what
    /// is done to this group must not reach its parent.
    ///
    /// # Errors
    /// [`Error::InRoot`] for a process without a group of its own, [`Error::Io`] when the process
    /// is gone.
    pub fn of_pid(layout: &Arc<Layout>, pid: u32) -> Result<Self, Error> {
        let text = file::read(&layout.proc_file(pid, "cgroup"))?;
        let paths = proc_cgroup(&text, layout);
        let own = ["freezer", "devices", "pids", "memory", "name=systemd"]
            .iter()
            .filter_map(|name| layout.v1(name))
            .chain(layout.unified())
            .filter_map(|index| paths.get(index)?.as_deref())
            .find(|path| *path != "/")
            .ok_or(Error::InRoot(pid))?
            .to_owned();
        check_path(&own)?;
        let dirs = layout
            .hierarchies()
            .iter()
            .zip(&paths)
            .map(|(h, path)| (path.as_deref() == Some(&own)).then(|| h.dir(&own)))
            .collect();
        Ok(Self { layout: Arc::clone(layout), path: own, dirs })
    }

    /// The path, as in `/proc/<pid>/cgroup`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The hierarchies it lies in.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Whether the group exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dirs().any(Path::is_dir)
    }

    /// All processes in it and in the groups below, ascending.
    ///
    /// A process counts once however many hierarchies list it. Processes that our pid namespace
    /// cannot see are left out.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group exists nowhere, [`Error::Io`].
    pub fn pids(&self) -> Result<Vec<u32>, Error> {
        let mut seen = false;
        let mut pids = BTreeSet::new();
        for dir in self.dirs() {
            for group in tree(dir)? {
                match file::read_procs(&group.join("cgroup.procs")) {
                    Ok(text) => {
                        seen = true;
                        pids.extend(
                            text.lines()
                                .filter_map(|l| l.parse::<u32>().ok())
                                .filter(|pid| *pid != 0),
                        );
                    }
                    // Removed between the walk and the read; or a threaded group of v2, whose
                    // processes its domain lists.
                    Err(Error::Io { source, .. }) if file::is_absent(&source) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if seen { Ok(pids.into_iter().collect()) } else { Err(Error::NotFound(self.path.clone())) }
    }

    /// As [`Cgroup::pids`] by one hierarchy alone: for figures, where a process that another one
    /// lists too is no reason to read them all. In the order of the groups; a process that moves
    /// meanwhile may be there twice or not at all.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group exists nowhere, [`Error::Io`].
    pub fn processes(&self) -> Result<Vec<u32>, Error> {
        let dir = ["pids", "memory", "freezer"].iter().find_map(|name| self.v1(name));
        let dir = dir.or_else(|| self.v2()).or_else(|| self.dirs().find(|dir| dir.is_dir()));
        let dir = dir.ok_or_else(|| Error::NotFound(self.path.clone()))?;
        let mut pids = Vec::new();
        for group in tree(dir)? {
            let text = file::read_procs_optional(&group.join("cgroup.procs"))?.unwrap_or_default();
            pids.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()).filter(|pid| *pid != 0));
        }
        Ok(pids)
    }

    /// Puts a process into the group, in every hierarchy where the group exists.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group exists nowhere, [`Error::Io`].
    pub fn add(&self, pid: u32) -> Result<(), Error> {
        let mut added = false;
        for dir in self.dirs().filter(|dir| dir.is_dir()) {
            file::write(&dir.join("cgroup.procs"), &pid.to_string())?;
            added = true;
        }
        if added { Ok(()) } else { Err(Error::NotFound(self.path.clone())) }
    }

    pub(crate) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dirs.iter().flatten().map(PathBuf::as_path)
    }

    /// The directory of a v1 controller, if the group exists there.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Path> {
        let dir = self.dirs.get(self.layout.v1(controller)?)?.as_deref()?;
        dir.is_dir().then_some(dir)
    }

    /// The directory in the unified hierarchy, if the group exists there.
    pub(crate) fn v2(&self) -> Option<&Path> {
        self.v2_dir().filter(|dir| dir.is_dir())
    }

    /// As [`Cgroup::v2`], also of a group that is gone.
    pub(crate) fn v2_dir(&self) -> Option<&Path> {
        self.dirs.get(self.layout.unified()?)?.as_deref()
    }

    /// As [`Cgroup::v2`], if the unified hierarchy has this controller.
    pub(crate) fn v2_controller(&self, controller: &str) -> Option<&Path> {
        self.layout.unified_controller(controller)?;
        self.v2()
    }
}

/// Absolute, no empty, `.` or `..` component, no NUL or newline, not `/`.
pub(crate) fn check_path(path: &str) -> Result<(), Error> {
    let clean = path.strip_prefix('/').is_some_and(|rest| {
        rest.len() < 4096
            && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
            && !rest.contains(['\0', '\n'])
    });
    if clean { Ok(()) } else { Err(Error::BadPath(path.chars().take(256).collect())) }
}

/// The path per hierarchy of the layout, from `/proc/<pid>/cgroup`.
fn proc_cgroup(text: &str, layout: &Layout) -> Vec<Option<String>> {
    let mut paths = vec![None; layout.hierarchies().len()];
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let index = if names.is_empty() {
            layout.unified()
        } else {
            names.split(',').find_map(|name| layout.v1(name))
        };
        if let Some(slot) = index.and_then(|index| paths.get_mut(index)) {
            // The kernel appends this to the path of a group that was removed.
            *slot = Some(path.trim_end_matches(" (deleted)").to_owned());
        }
    }
    paths
}

/// The directory and the groups below it, parents first. Empty when it does not exist.
pub(crate) fn tree(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut todo = vec![(dir.to_owned(), 0)];
    while let Some((group, depth)) = todo.pop() {
        let entries = match std::fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if file::is_absent(&error) => continue,
            Err(error) => return Err(Error::io("read", group)(error)),
        };
        if found.len() >= MAX_GROUPS || depth >= MAX_DEPTH {
            return Err(Error::malformed(dir, "too many groups below"));
        }
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &group))?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                todo.push((entry.path(), depth + 1));
            }
        }
        found.push(group);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for good in ["/pouch", "/pouch/0123", "/a.slice/pouch-1.scope"] {
            check_path(good).unwrap();
        }
        for bad in ["", "/", "pouch", "/a/../b", "/a//b", "/a/", "/./a", "/a\0", "/a\nb"] {
            assert!(matches!(check_path(bad), Err(Error::BadPath(_))), "{bad:?}");
        }
    }

    fn hybrid(root: &Path) -> Arc<Layout> {
        std::fs::create_dir_all(root.join("proc/self")).unwrap();
        std::fs::write(
            root.join("proc/self/mountinfo"),
            "1 1 0:1 / /cg/freezer rw - cgroup cgroup rw,freezer\n\
             2 1 0:2 / /cg/memory rw - cgroup cgroup rw,memory\n\
             3 1 0:3 / /cg/unified rw - cgroup2 cgroup2 rw\n",
        )
        .unwrap();
        for dir in ["freezer", "memory", "unified"] {
            std::fs::create_dir_all(root.join("cg").join(dir)).unwrap();
        }
        Layout::detect_under(root).unwrap()
    }

    #[test]
    fn of_pid_leaves_out_foreign_groups() {
        let root = tempfile::tempdir().unwrap();
        let layout = hybrid(root.path());
        std::fs::create_dir_all(root.path().join("proc/7")).unwrap();
        std::fs::write(
            root.path().join("proc/7/cgroup"),
            "2:memory:/daemon\n1:freezer:/pouch/a:b\n0::/\n",
        )
        .unwrap();
        let group = Cgroup::of_pid(&layout, 7).unwrap();
        assert_eq!(group.path(), "/pouch/a:b");
        assert_eq!(group.dirs().count(), 1);
        assert!(group.dirs().all(|dir| dir.ends_with("cg/freezer/pouch/a:b")));

        std::fs::write(root.path().join("proc/7/cgroup"), "2:memory:/\n0::/\n").unwrap();
        assert!(matches!(Cgroup::of_pid(&layout, 7), Err(Error::InRoot(7))));
    }

    #[test]
    fn pids_are_collected_from_below_and_once() {
        let root = tempfile::tempdir().unwrap();
        let layout = hybrid(root.path());
        let group = Cgroup::new(&layout, "/p/x").unwrap();
        assert!(matches!(group.pids(), Err(Error::NotFound(_))));
        assert!(matches!(group.processes(), Err(Error::NotFound(_))));
        for (dir, pids) in
            [("freezer/p/x", "3\n1\n"), ("freezer/p/x/deep", "9\n0\n"), ("memory/p/x", "1\n")]
        {
            let dir = root.path().join("cg").join(dir);
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(group.pids().unwrap(), [1, 3, 9]);
        assert_eq!(group.processes().unwrap(), [1], "one hierarchy is enough for figures");
    }
}
