//! A control group's counters as containerd's clients read them.

use pouch_cgroup::Stats;
use pouch_cgroup::stats::IoEntry;
use pouch_protocol::metrics::{v1, v2};
use pouch_protocol::{Any, any};

use crate::error::TaskError;

/// No limit, as the kernel of v1 and containerd's clients write it.
const UNLIMITED: u64 = u64::MAX;

/// The metrics message of the hierarchy's version.
pub(crate) fn metrics(stats: &Stats) -> Result<Any, TaskError> {
    let packed = if stats.unified {
        any(v2::METRICS_TYPE, &unified(stats))
    } else {
        any(v1::METRICS_TYPE, &legacy(stats))
    };
    packed.map_err(|_| TaskError::Internal("metrics do not fit a message"))
}

fn legacy(stats: &Stats) -> v1::Metrics {
    let memory = &stats.memory;
    let stat = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    let entry = |usage, limit: Option<u64>, max, failcnt| v1::MemoryEntry {
        usage,
        limit: limit.unwrap_or(UNLIMITED),
        max,
        failcnt,
        ..Default::default()
    };
    let blocks = |entries: &[IoEntry]| {
        entries
            .iter()
            .map(|entry| v1::BlkIOEntry {
                op: entry.op.clone(),
                major: entry.major,
                minor: entry.minor,
                value: entry.value,
                ..Default::default()
            })
            .collect()
    };
    v1::Metrics {
        pids: Some(v1::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit.unwrap_or_default(),
            ..Default::default()
        })
        .into(),
        cpu: Some(v1::CPUStat {
            usage: Some(v1::CPUUsage {
                total: stats.cpu.total,
                kernel: stats.cpu.system,
                user: stats.cpu.user,
                per_cpu: stats.cpu.per_cpu.clone(),
                ..Default::default()
            })
            .into(),
            throttling: Some(v1::Throttle {
                periods: stats.cpu.periods,
                throttled_periods: stats.cpu.throttled_periods,
                throttled_time: stats.cpu.throttled,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        })
        .into(),
        memory: Some(v1::MemoryStat {
            cache: stat("cache"),
            rss: stat("rss"),
            mapped_file: stat("mapped_file"),
            pg_fault: stat("pgfault"),
            pg_maj_fault: stat("pgmajfault"),
            inactive_anon: stat("inactive_anon"),
            active_anon: stat("active_anon"),
            inactive_file: stat("inactive_file"),
            active_file: stat("active_file"),
            unevictable: stat("unevictable"),
            hierarchical_memory_limit: stat("hierarchical_memory_limit"),
            hierarchical_swap_limit: stat("hierarchical_memsw_limit"),
            total_cache: stat("total_cache"),
            total_rss: stat("total_rss"),
            total_inactive_file: stat("total_inactive_file"),
            total_active_file: stat("total_active_file"),
            usage: Some(entry(memory.usage, memory.limit, memory.max_usage, memory.failures))
                .into(),
            // Entries that the kernel does not count are there all the same: containerd up to 1.7
            // crashes without them when its own metrics are read.
            swap: Some(entry(memory.swap_usage.unwrap_or_default(), memory.swap_limit, 0, 0))
                .into(),
            kernel: Some(entry(memory.kernel_usage.unwrap_or_default(), None, 0, 0)).into(),
            kernel_tcp: Some(entry(0, None, 0, 0)).into(),
            ..Default::default()
        })
        .into(),
        blkio: Some(v1::BlkIOStat {
            io_service_bytes_recursive: blocks(&stats.io.bytes),
            io_serviced_recursive: blocks(&stats.io.operations),
            ..Default::default()
        })
        .into(),
        memory_oom_control: Some(v1::MemoryOomControl {
            oom_kill: memory.oom_kills,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

fn unified(stats: &Stats) -> v2::Metrics {
    let memory = &stats.memory;
    let stat = |name: &str| memory.stat.get(name).copied().unwrap_or_default();
    let micros = |nanoseconds: u64| nanoseconds / 1000;
    v2::Metrics {
        pids: Some(v2::PidsStat {
            current: stats.pids.current,
            limit: stats.pids.limit.unwrap_or_default(),
            ..Default::default()
        })
        .into(),
        cpu: Some(v2::CPUStat {
            usage_usec: micros(stats.cpu.total),
            user_usec: micros(stats.cpu.user),
            system_usec: micros(stats.cpu.system),
            nr_periods: stats.cpu.periods,
            nr_throttled: stats.cpu.throttled_periods,
            throttled_usec: micros(stats.cpu.throttled),
            ..Default::default()
        })
        .into(),
        memory: Some(v2::MemoryStat {
            anon: stat("anon"),
            file: stat("file"),
            kernel_stack: stat("kernel_stack"),
            slab: stat("slab"),
            sock: stat("sock"),
            shmem: stat("shmem"),
            file_mapped: stat("file_mapped"),
            file_dirty: stat("file_dirty"),
            file_writeback: stat("file_writeback"),
            inactive_anon: stat("inactive_anon"),
            active_anon: stat("active_anon"),
            inactive_file: stat("inactive_file"),
            active_file: stat("active_file"),
            unevictable: stat("unevictable"),
            slab_reclaimable: stat("slab_reclaimable"),
            slab_unreclaimable: stat("slab_unreclaimable"),
            pgfault: stat("pgfault"),
            pgmajfault: stat("pgmajfault"),
            usage: memory.usage,
            usage_limit: memory.limit.unwrap_or(UNLIMITED),
            swap_usage: memory.swap_usage.unwrap_or_default(),
            swap_limit: memory.swap_limit.unwrap_or(UNLIMITED),
            max_usage: memory.max_usage,
            ..Default::default()
        })
        .into(),
        io: Some(v2::IOStat { usage: devices(stats), ..Default::default() }).into(),
        memory_events: Some(v2::MemoryEvents {
            max: memory.failures,
            oom_kill: memory.oom_kills,
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

/// v2's message has one entry per device with a field per counter.
fn devices(stats: &Stats) -> Vec<v2::IOEntry> {
    let mut devices: Vec<v2::IOEntry> = Vec::new();
    let counters = [(&stats.io.bytes, true), (&stats.io.operations, false)];
    for (entry, bytes) in
        counters.into_iter().flat_map(|(list, bytes)| list.iter().map(move |e| (e, bytes)))
    {
        let found = devices.iter().position(|d| (d.major, d.minor) == (entry.major, entry.minor));
        let index = found.unwrap_or_else(|| {
            devices.push(v2::IOEntry {
                major: entry.major,
                minor: entry.minor,
                ..Default::default()
            });
            devices.len() - 1
        });
        let device = &mut devices[index];
        match (entry.op.to_ascii_lowercase().as_str(), bytes) {
            ("read", true) => device.rbytes = entry.value,
            ("write", true) => device.wbytes = entry.value,
            ("read", false) => device.rios = entry.value,
            ("write", false) => device.wios = entry.value,
            _ => {}
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;
    use pouch_protocol::unpack;

    #[test]
    fn both_versions_carry_the_counters() {
        let mut stats = Stats::default();
        stats.cpu.total = 5_000_000;
        stats.memory.usage = 4096;
        let entry = |op: &str| IoEntry { major: 8, minor: 0, op: op.to_owned(), value: 7 };
        stats.io.bytes = vec![entry("Read"), entry("Write")];
        let v1: v1::Metrics = unpack(&metrics(&stats).unwrap(), v1::METRICS_TYPE).unwrap();
        assert_eq!(v1.cpu.usage.total, 5_000_000);
        assert_eq!(v1.memory.usage.limit, u64::MAX);
        let memory = &v1.memory;
        assert!(memory.swap.is_some() && memory.kernel.is_some() && memory.kernel_tcp.is_some());
        assert_eq!(v1.blkio.io_service_bytes_recursive.len(), 2);
        stats.unified = true;
        let v2: v2::Metrics = unpack(&metrics(&stats).unwrap(), v2::METRICS_TYPE).unwrap();
        assert_eq!(v2.cpu.usage_usec, 5000);
        assert_eq!(v2.memory.usage, 4096);
        assert_eq!((v2.io.usage.len(), v2.io.usage[0].wbytes), (1, 7));
    }
}
