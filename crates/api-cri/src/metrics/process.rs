//! Processes of a container, as proc(5) shows them.
//!
//! Looking at descriptors costs a system call each, and a container decides how many it has: there
//! is a budget for one container and one for all, and what exceeds it has no figure rather than a
//! wrong one.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use pouch_cgroup::stats::Pids;
use pouch_cri_grpc as cri;

use super::family::{Family, List};

const PROCESSES: Family<0> = Family::gauge("container_processes", [], "Processes.");
const DESCRIPTORS: Family<0> =
    Family::gauge("container_file_descriptors", [], "Open file descriptors of all processes.");
const SOCKETS: Family<0> =
    Family::gauge("container_sockets", [], "File descriptors that are sockets.");
const THREADS: Family<0> = Family::gauge("container_threads", [], "Threads of all processes.");
const THREADS_MAX: Family<0> =
    Family::gauge("container_threads_max", [], "Threads that there may be; 0 is no limit.");
const ULIMITS: Family<1> = Family::gauge(
    "container_ulimits_soft",
    ["ulimit"],
    "Soft limits of the main process; none when it is unlimited.",
);

/// The limit that cAdvisor tells.
const OPEN_FILES: (&str, &str) = ("Max open files", "max_open_files");

/// Processes of one container that are looked into.
const LOOKS: usize = 1024;
/// Descriptors of one container that are looked at.
const CONTAINER_BUDGET: usize = 8 << 10;
/// Descriptors of all containers that are looked at in one call.
const BUDGET: usize = 64 << 10;

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let plain = [PROCESSES, DESCRIPTORS, SOCKETS, THREADS, THREADS_MAX];
    let limits = std::iter::once(ULIMITS.descriptor());
    plain.iter().map(Family::descriptor).chain(limits).collect()
}

/// What one call may still look at.
#[derive(Debug)]
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(BUDGET)
    }
}

/// Processes at one moment; `None` is what there were too many of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Processes {
    pub(super) count: u64,
    pub(super) threads: Option<u64>,
    pub(super) descriptors: Option<u64>,
    pub(super) sockets: Option<u64>,
    /// Soft limit of the main process; `None` also when there is none.
    pub(super) open_files: Option<u64>,
}

impl Processes {
    /// Looks at `pids`, of which `main` was the first. One that ends meanwhile counts for nothing.
    pub(super) fn look(pids: &[u32], main: u32, budget: &mut Budget) -> Self {
        let mut seen = Self {
            count: pids.len() as u64,
            threads: Some(0),
            descriptors: Some(0),
            sockets: Some(0),
            open_files: open_files(main),
        };
        if pids.len() > LOOKS {
            return Self { threads: None, descriptors: None, sockets: None, ..seen };
        }
        let mut left = CONTAINER_BUDGET.min(budget.0);
        let whole = left;
        for pid in pids {
            let dir = PathBuf::from(format!("/proc/{pid}"));
            seen.threads = seen.threads.map(|all| all + threads(&dir));
            let (descriptors, sockets) = open(&dir.join("fd"), &mut left);
            seen.descriptors = seen.descriptors.zip(descriptors).map(|(all, one)| all + one);
            seen.sockets = seen.sockets.zip(sockets).map(|(all, one)| all + one);
        }
        budget.0 -= whole - left;
        seen
    }
}

/// Each thread is a directory.
fn threads(dir: &Path) -> u64 {
    rustix::fs::stat(dir.join("task")).map_or(0, |stat| stat.st_nlink.saturating_sub(2))
}

/// Descriptors, and sockets among them, as far as `left` goes.
fn open(dir: &Path, left: &mut usize) -> (Option<u64>, Option<u64>) {
    // Since Linux 6.2 the directory tells how many there are.
    let told = rustix::fs::stat(dir).ok().and_then(|stat| u64::try_from(stat.st_size).ok());
    let told = told.filter(|told| *told > 0);
    if told.is_some_and(|told| told > *left as u64) {
        *left = 0;
    }
    if *left == 0 {
        return (told, None);
    }
    let Ok(entries) = fs::read_dir(dir) else { return (Some(0), Some(0)) };
    let (mut count, mut sockets) = (0, 0);
    for entry in entries.flatten() {
        if *left == 0 {
            return (told, None);
        }
        *left -= 1;
        count += 1;
        let to = fs::read_link(entry.path());
        sockets += u64::from(to.is_ok_and(|to| to.as_os_str().as_bytes().starts_with(b"socket:")));
    }
    (Some(count), Some(sockets))
}

fn open_files(pid: u32) -> Option<u64> {
    open_files_of(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// `Max open files            1024                 524288               files`.
fn open_files_of(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(OPEN_FILES.0))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

pub(super) fn put(list: &mut List, pids: &Pids, processes: &Processes) {
    list.put(&PROCESSES, [], processes.count);
    // The controller counts threads, whatever it is called.
    let threads = Some(pids.current).filter(|count| *count > 0).or(processes.threads);
    for (family, value) in
        [(&DESCRIPTORS, processes.descriptors), (&SOCKETS, processes.sockets), (&THREADS, threads)]
    {
        if let Some(value) = value {
            list.put(family, [], value);
        }
    }
    list.put(&THREADS_MAX, [], pids.limit.unwrap_or_default());
    if let Some(limit) = processes.open_files {
        list.put(&ULIMITS, [OPEN_FILES.1], limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_socket() {
        let _socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let (mut budget, pid) = (Budget::default(), std::process::id());
        let seen = Processes::look(&[pid], pid, &mut budget);
        assert_eq!(seen.count, 1);
        assert!(seen.threads.unwrap() >= 1 && seen.sockets.unwrap() >= 1);
        assert!(seen.descriptors.unwrap() > seen.sockets.unwrap(), "stdin at least");
        assert!(seen.open_files.is_some());
        assert!(budget.0 < BUDGET);
    }

    #[test]
    fn what_is_too_much_has_no_figure() {
        let pid = std::process::id();
        let seen = Processes::look(&[pid], pid, &mut Budget(1));
        assert_eq!(seen.sockets, None);
        assert!(seen.threads.is_some());
        let many = vec![pid; LOOKS + 1];
        let seen = Processes::look(&many, pid, &mut Budget::default());
        assert_eq!((seen.count, seen.threads, seen.descriptors), (1025, None, None));
    }

    #[test]
    fn a_process_that_ended_counts_for_nothing() {
        // Larger than any the kernel gives.
        let seen = Processes::look(&[u32::MAX], u32::MAX, &mut Budget::default());
        assert_eq!((seen.threads, seen.descriptors, seen.open_files), (Some(0), Some(0), None));
    }

    #[test]
    fn limits() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(open_files_of(text), Some(1024));
        assert_eq!(open_files_of("Max open files   unlimited  unlimited  files\n"), None);
    }
}
