//! Memory of an engine's processes, as proportional set size: what is shared counts once in all.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::{fs, io};

/// "No such process".
const ESRCH: i32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("reading {}", .path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} has no Pss line", .path.display())]
    NoPss { path: PathBuf },
}

/// A process that exists at the moment of the look.
#[derive(Debug)]
struct Process {
    parent: u32,
    /// Its first argument's last component begins as all shims are called.
    shim: bool,
}

/// Bytes of the daemon and what it started, without shims and what is below them.
pub fn daemon(pid: u32) -> Result<u64, Error> {
    let processes = processes()?;
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (child, process) in &processes {
        if !process.shim {
            children.entry(process.parent).or_default().push(*child);
        }
    }
    let mut total = 0;
    let mut next = vec![pid];
    while let Some(pid) = next.pop() {
        // A helper may just have ended; the daemon itself may not.
        total += match pss(pid) {
            Err(_) if total > 0 => 0,
            result => result?,
        };
        next.extend(children.remove(&pid).unwrap_or_default());
    }
    Ok(total)
}

/// Bytes of each shim of the engine. Shims leave their parent, but stay in the daemon's network
/// namespace, which is its alone.
pub fn shims(daemon: u32) -> Result<Vec<u64>, Error> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/net"));
    let path = PathBuf::from(format!("/proc/{daemon}/ns/net"));
    let ours = namespace(daemon).map_err(|source| Error::Read { path, source })?;
    let shims: HashSet<u32> =
        processes()?.into_iter().filter(|(_, process)| process.shim).map(|(pid, _)| pid).collect();
    let ours = |pid: &u32| namespace(*pid).is_ok_and(|theirs| theirs == ours);
    shims.into_iter().filter(ours).map(pss).collect()
}

/// All processes that there are.
pub fn all() -> Result<HashSet<u32>, Error> {
    Ok(processes()?.into_iter().map(|(pid, _)| pid).collect())
}

/// Bytes of processes that are not among those known before: what was started since, whoever its
/// parent is. Helpers that end meanwhile use nothing.
pub fn since(known: &HashSet<u32>) -> Result<u64, Error> {
    let mut total = 0;
    for pid in all()?.difference(known) {
        total += match pss(*pid) {
            Err(Error::Read { source, .. }) if has_ended(&source) => 0,
            result => result?,
        };
    }
    Ok(total)
}

/// Of a process whose file was asked for, or was open already.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

fn processes() -> Result<Vec<(u32, Process)>, Error> {
    let read = |source| Error::Read { path: "/proc".into(), source };
    let mut processes = Vec::new();
    for entry in fs::read_dir("/proc").map_err(read)? {
        let entry = entry.map_err(read)?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Processes end while they are looked at.
        let (Ok(stat), Ok(line)) =
            (fs::read_to_string(entry.path().join("stat")), fs::read(entry.path().join("cmdline")))
        else {
            continue;
        };
        let Some(parent) = parent_of(&stat) else { continue };
        processes.push((pid, Process { parent, shim: is_shim(&line) }));
    }
    Ok(processes)
}

/// The fourth field of `/proc/<pid>/stat`; the second may hold anything, parentheses included.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_shim(command_line: &[u8]) -> bool {
    let program = command_line.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.starts_with(b"containerd-shim")
}

fn pss(pid: u32) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    match fs::read_to_string(&path) {
        Ok(text) => parse_pss(&text).ok_or(Error::NoPss { path }),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// Bytes of the line `Pss:   123 kB`.
fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        assert_eq!(parent_of("7 (a) b (c) S 3 7 7 0"), Some(3));
        assert_eq!(
            parse_pss("00-ff ---p 00 00:00 0 [rollup]\nRss: 9 kB\nPss:   12 kB\nPss_Dirty: 1 kB\n"),
            Some(12_288)
        );
        assert!(is_shim(b"/usr/bin/containerd-shim-runc-v2\0-namespace\0moby\0"));
        assert!(!is_shim(b"/usr/bin/vi\0containerd-shim-runc-v2\0"));
    }

    #[test]
    fn own_memory_is_seen() {
        assert!(daemon(std::process::id()).unwrap() > 100_000);
        assert!(daemon(u32::MAX).is_err());
    }
}
