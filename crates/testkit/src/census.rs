//! What a daemon has on this machine, as sorted lines that can be compared.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::netns::Netns;

/// Where to look.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    /// Directory of both roots.
    pub(crate) dir: &'a Path,
    /// The daemon's network namespace.
    pub(crate) netns: &'a Netns,
    /// Name of the parent control group of the daemon's containers.
    pub(crate) cgroup: &'a str,
    /// The daemon, if it runs.
    pub(crate) pid: Option<u32>,
}

/// Everything that a daemon and its containers have on this machine: mounts, links, packet rules,
/// control groups, processes, state files, descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    lines: BTreeSet<String>,
}

impl Census {
    pub(crate) fn take(places: &Places<'_>) -> Self {
        let mut lines = BTreeSet::new();
        lines.extend(mounts(places.dir).into_iter().map(|m| format!("mount {}", m.display())));
        lines.extend(links(places.netns));
        lines.extend(rules(places.netns));
        lines.extend(cgroups(places.cgroup).into_iter().map(|c| format!("cgroup {}", c.display())));
        for (pid, name) in processes(places) {
            lines.insert(format!("process {pid} {name}"));
        }
        files(&places.dir.join("x"), &mut lines);
        files(&places.dir.join("d"), &mut lines);
        // What networks hold for pods.
        files(&places.dir.join("n"), &mut lines);
        if let Some(pid) = places.pid {
            descriptors(pid, &mut lines);
        }
        Self { lines }
    }

    /// Whether there is nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Only the lines of one kind: `mount`, `link`, `rule`, `cgroup`, `process`, `file`, `fd`.
    #[must_use]
    pub fn only(&self, kind: &str) -> Self {
        let of_kind = |line: &&String| line.split(' ').next() == Some(kind);
        Self { lines: self.lines.iter().filter(of_kind).cloned().collect() }
    }

    /// What came (`+`) and went (`-`) since `before`; empty when nothing did. Descriptors that went
    /// are not told: one of the moment may have been open then.
    #[must_use]
    pub fn since(&self, before: &Self) -> String {
        let more = |line: &&String| match descriptor(line) {
            Some((target, count)) => {
                let known = before.lines.iter().filter_map(|l| descriptor(l));
                known.filter(|(of, _)| *of == target).all(|(_, was)| was < count)
            }
            None => true,
        };
        let came = self.lines.difference(&before.lines).filter(more);
        let came = came.map(|line| format!("+ {line}\n"));
        let went = before.lines.difference(&self.lines).filter(|l| descriptor(l).is_none());
        let went = went.map(|line| format!("- {line}\n"));
        came.chain(went).collect()
    }
}

impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// What a line of descriptors is about, and how many there are.
fn descriptor(line: &str) -> Option<(&str, u32)> {
    let (target, count) = line.strip_prefix("fd ")?.rsplit_once(" × ")?;
    Some((target, count.parse().ok()?))
}

/// Mount points below a directory, the innermost last.
pub(crate) fn mounts(below: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|point| point.starts_with(below)).collect()
}

fn links(netns: &Netns) -> Vec<String> {
    let said = stdout(netns.command("ip").args(["-o", "link"]));
    // `3: veth0@if2: <…` — what is behind the @ is a number that changes.
    let name = |line: &str| Some(format!("link {}", line.split(": ").nth(1)?.split('@').next()?));
    said.lines().filter_map(name).collect()
}

fn rules(netns: &Netns) -> Vec<String> {
    let said = stdout(netns.command("nft").args(["-s", "list", "ruleset"]));
    let mut chain = String::new();
    let mut lines = Vec::new();
    for line in said.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.ends_with('{') {
            chain = line.trim_end_matches([' ', '{']).to_owned();
        }
        lines.push(format!("rule {chain}: {line}"));
    }
    lines
}

/// Control groups strictly below `parent`, in every hierarchy.
pub(crate) fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in hierarchies() {
        below(&root.join(parent.trim_start_matches('/')), &mut found);
    }
    found
}

/// Mount points of control group file systems.
pub(crate) fn hierarchies() -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|f| f.len() > 2 && f[2].starts_with("cgroup"))
        .map(|f| PathBuf::from(f[1]))
        .collect()
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            below(&entry.path(), found);
        }
    }
}

/// Processes that belong to the daemon, without itself: those that name its directory, work in
/// it, or are in its containers' control groups.
pub(crate) fn processes(places: &Places<'_>) -> Vec<(u32, String)> {
    let dir = places.dir.to_string_lossy().into_owned();
    let inside = format!("/{}/", places.cgroup);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if Some(pid) == places.pid || pid == std::process::id() {
            continue;
        }
        let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        let ours = read("cmdline").contains(&dir)
            || cwd.starts_with(places.dir)
            || read("cgroup").contains(&inside);
        // One that ended and waits for its parent is no leak of ours: init's or a test's child.
        let dead =
            read("stat").rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']));
        if ours && !dead {
            found.push((pid, read("cmdline").replace('\0', " ").trim().to_owned()));
        }
    }
    found
}

/// All files below a directory but what is meant to grow: the database and the reserve.
fn files(dir: &Path, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name.to_string_lossy().starts_with("pouch.db") {
            continue;
        }
        // One directory for each runtime that was ever used.
        if dir.ends_with("x/runtime") {
            files(&path, lines);
            continue;
        }
        lines.insert(format!("file {}", path.display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            // Layers are many files, and immutable. Compiled filters are a cache.
            if path.ends_with("overlay/layers") || name == ".seccomp" {
                continue;
            }
            files(&path, lines);
        }
    }
}

fn descriptors(pid: u32, lines: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    let mut counts = std::collections::BTreeMap::<String, u32>::new();
    for entry in entries.flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        // Connections to the database are pooled: up to a bound there are as many as were needed
        // at once.
        if target.contains("/pouch.db") {
            continue;
        }
        // `socket:[123]`: the number is different each time.
        *counts.entry(target.split(":[").next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    for (target, count) in counts {
        lines.insert(format!("fd {target} × {count}"));
    }
}

fn stdout(command: &mut std::process::Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}
