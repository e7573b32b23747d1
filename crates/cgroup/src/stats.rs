//! What a group has used: for `docker stats`, the shim's Metrics and Prometheus.
//!
//! One shape for both versions, in nanoseconds and bytes; what a version does not count is zero,
//! empty or `None`. A controller that is not there gives an empty section, never an error: a
//! container without a memory limit can still tell its CPU time.

mod pressure;
mod v1;
mod v2;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::group::Cgroup;

pub use pressure::{Pressure, Pressures, Share};

/// All counters of one group at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// The memory statistics have v2's names.
    pub unified: bool,
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block I/O.
    pub io: Io,
    /// Huge pages, one entry per page size.
    pub hugetlb: Vec<HugeTlb>,
    /// Time lost by waiting for resources.
    pub pressure: Pressures,
}

/// Processor time, nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    /// User and system together.
    pub total: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// By CPU number; v1 only.
    pub per_cpu: Vec<u64>,
    /// Enforcement periods that passed.
    pub periods: u64,
    /// Of these, how many ran into the quota.
    pub throttled_periods: u64,
    /// Time spent waiting for quota.
    pub throttled: u64,
}

/// Memory, bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Now, page cache included.
    pub usage: u64,
    /// The largest ever; 0 where not counted (v2 before Linux 5.19).
    pub max_usage: u64,
    /// `None` is unlimited.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Swap: on v1 memory and swap together, on v2 swap alone; `None` where not counted.
    pub swap_usage: Option<u64>,
    /// The limit of `swap_usage`; `None` is unlimited or not counted.
    pub swap_limit: Option<u64>,
    /// Kernel memory; v1 only, `None` where not counted.
    pub kernel_usage: Option<u64>,
    /// Everything in `memory.stat`.
    pub stat: BTreeMap<String, u64>,
}

impl Memory {
    /// Usage without the page cache that can be dropped at once, as `docker stats` shows it.
    #[must_use]
    pub fn working_set(&self) -> u64 {
        let cache = self
            .stat
            .get("total_inactive_file")
            .or_else(|| self.stat.get("inactive_file"))
            .copied()
            .unwrap_or_default();
        self.usage.saturating_sub(cache)
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// Now.
    pub current: u64,
    /// `None` is unlimited.
    pub limit: Option<u64>,
}

/// Block I/O, all devices.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Io {
    /// Bytes.
    pub bytes: Vec<IoEntry>,
    /// Operations.
    pub operations: Vec<IoEntry>,
}

/// One counter of one block device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IoEntry {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// `Read`, `Write`; v1 also `Sync`, `Async`, `Discard`, `Total`.
    pub op: String,
    /// Bytes or operations.
    pub value: u64,
}

/// Huge pages of one size.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HugeTlb {
    /// As in the file names: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes now.
    pub usage: u64,
    /// The largest ever; v1 only, 0 where not counted.
    pub max_usage: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// `None` is unlimited.
    pub limit: Option<u64>,
}

impl Cgroup {
    /// Reads every counter.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the group exists in no hierarchy, [`Error::Io`],
    /// [`Error::Malformed`].
    pub fn stats(&self) -> Result<Stats, Error> {
        if !self.exists() {
            return Err(Error::NotFound(self.path().to_owned()));
        }
        let mut stats = Stats {
            unified: self.v1("memory").is_none() && self.v2_controller("memory").is_some(),
            ..Stats::default()
        };
        // In a hybrid layout each controller is in one of the two.
        v1::read(self, &mut stats)?;
        if let Some(dir) = self.v2() {
            v2::read(self, dir, &mut stats)?;
            stats.pressure = pressure::read(dir)?;
        }
        Ok(stats)
    }
}

/// The page sizes that a directory has hugetlb files for.
fn page_sizes(dir: &std::path::Path) -> Result<Vec<String>, Error> {
    let mut sizes: Vec<String> = std::fs::read_dir(dir)
        .map_err(Error::io("read", dir))?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let size = name.strip_prefix("hugetlb.")?.split('.').next()?;
            Some(size.to_owned())
        })
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    Ok(sizes)
}

/// Nanoseconds that all CPUs of the machine were busy or idle since boot: `system_cpu_usage` of
/// `docker stats`, the denominator of its percentage.
///
/// # Errors
/// [`Error::Io`] or [`Error::Malformed`] for `/proc/stat`.
pub fn machine_cpu() -> Result<u64, Error> {
    let path = std::path::Path::new("/proc/stat");
    let text = crate::file::read_procs(path)?;
    machine_cpu_of(&text).ok_or_else(|| Error::malformed(path, "no line of all cpus"))
}

/// user, nice, system, idle, iowait, irq and softirq of the first line, in clock ticks. Steal and
/// guest are left out, as Docker does.
fn machine_cpu_of(text: &str) -> Option<u64> {
    /// USER_HZ, which the kernel fixes at 100 for user space on every architecture we build for.
    const NANOSECONDS_PER_TICK: u64 = 10_000_000;
    let mut fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut ticks = 0_u64;
    for _ in 0..7 {
        ticks = ticks.saturating_add(fields.next()?.parse().ok()?);
    }
    Some(ticks.saturating_mul(NANOSECONDS_PER_TICK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_time() {
        let text = "cpu  1 2 3 4 5 6 7 800 900 1000\ncpu0 1 1\n";
        assert_eq!(machine_cpu_of(text), Some(28 * 10_000_000));
        assert_eq!(machine_cpu_of("cpu 1 2\n"), None);
        assert_eq!(machine_cpu_of(""), None);
        assert!(machine_cpu().unwrap() > 0);
    }

    /// A group `/p` in a tree of files, one line of mountinfo per mount.
    fn fixture(mounts: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("proc/self/mountinfo", mounts)].iter().chain(files) {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let layout = crate::Layout::detect_under(root.path()).unwrap();
        let group = Cgroup::new(&layout, "/p").unwrap();
        (root, group)
    }

    const WAITS: &str = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\n\
        full avg10=0.25 avg60=0.00 avg300=0.00 total=3\n";

    #[test]
    fn the_unified_hierarchy_tells_pressure_and_io() {
        let files = [
            ("cg/cgroup.controllers", "cpu io memory pids"),
            ("cg/p/cgroup.procs", "7\n"),
            ("cg/p/cpu.pressure", WAITS),
            ("cg/p/memory.pressure", WAITS),
            ("cg/p/io.pressure", WAITS),
            ("cg/p/io.stat", "254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n"),
            ("cg/p/memory.current", "100"),
            ("cg/p/memory.swap.current", "5"),
            ("cg/p/memory.swap.max", "max"),
        ];
        let (root, group) = fixture("1 1 0:1 / /cg rw - cgroup2 c rw\n", &files);
        let stats = group.stats().unwrap();
        assert!(stats.unified);
        let io = stats.pressure.io.unwrap();
        assert_eq!((io.some.avg10, io.some.total, io.full.unwrap().total), (150, 7_000, 3_000));
        assert_eq!(stats.pressure.cpu, stats.pressure.memory);
        assert_eq!(stats.io.bytes.len(), 2);
        assert_eq!((stats.memory.swap_usage, stats.memory.swap_limit), (Some(5), None));
        std::fs::remove_file(root.path().join("cg/p/cpu.pressure")).unwrap();
        assert_eq!(group.stats().unwrap().pressure.cpu, None, "psi=0");
        std::fs::write(root.path().join("cg/p/cpu.pressure"), "nothing\n").unwrap();
        assert!(matches!(group.stats(), Err(Error::Malformed { .. })));
    }

    #[test]
    fn a_hybrid_layout_has_pressure_beside_counters_of_v1() {
        let mounts = "1 1 0:1 / /cg/memory rw - cgroup c rw,memory\n\
            2 1 0:2 / /cg/unified rw - cgroup2 c rw\n";
        let files = [
            ("cg/unified/cgroup.controllers", "hugetlb"),
            ("cg/memory/p/memory.usage_in_bytes", "100"),
            ("cg/memory/p/memory.memsw.usage_in_bytes", "130"),
            ("cg/unified/p/memory.pressure", WAITS),
        ];
        let (root, group) = fixture(mounts, &files);
        let stats = group.stats().unwrap();
        assert!(!stats.unified);
        assert_eq!((stats.memory.usage, stats.memory.swap_usage), (100, Some(130)));
        assert_eq!(stats.pressure.memory.unwrap().some.total, 7_000);
        std::fs::remove_dir_all(root.path().join("cg/unified/p")).unwrap();
        assert_eq!(group.stats().unwrap().pressure, Pressures::default(), "v1 alone");
    }

    #[test]
    fn working_set_never_wraps() {
        let mut memory = Memory { usage: 10, ..Memory::default() };
        assert_eq!(memory.working_set(), 10);
        memory.stat.insert("inactive_file".into(), 4);
        assert_eq!(memory.working_set(), 6);
        memory.stat.insert("total_inactive_file".into(), 40);
        assert_eq!(memory.working_set(), 0);
    }
}
