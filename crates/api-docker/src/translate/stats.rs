//! Use of resources, in the two shapes that clients tell control groups v1 and v2 apart by.

use std::collections::BTreeMap;

use pouch_docker_types::container::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats,
    StorageStats, Throttling,
};
use pouch_engine::{ContainerView, StatsSample};

use super::time;

/// One line of the stream. `before` is the sample that rates are taken from.
pub(crate) fn write(
    view: &ContainerView,
    sample: &StatsSample,
    before: Option<&StatsSample>,
) -> Stats {
    let mut stats = Stats {
        name: format!("/{}", view.name),
        id: view.id.to_string(),
        read: time::write(sample.read),
        preread: time::write(before.and_then(|before| before.read)),
        precpu_stats: before.filter(|b| b.read.is_some()).map(cpu).unwrap_or_default(),
        storage_stats: StorageStats {},
        ..Stats::default()
    };
    // Nothing but zeros for a container that does not run.
    if sample.read.is_none() {
        return stats;
    }
    let cgroup = &sample.cgroup;
    stats.cpu_stats = cpu(sample);
    stats.pids_stats =
        PidsStats { current: cgroup.pids.current, limit: cgroup.pids.limit.unwrap_or(u64::MAX) };
    stats.memory_stats = MemoryStats {
        usage: cgroup.memory.usage,
        max_usage: if cgroup.unified { 0 } else { cgroup.memory.max_usage },
        stats: cgroup.memory.stat.clone(),
        failcnt: if cgroup.unified { 0 } else { cgroup.memory.failures },
        // v1 says "no limit" with a number near 2^63.
        limit: cgroup.memory.limit.unwrap_or(u64::MAX).min(sample.host_memory),
    };
    stats.blkio_stats = blkio(sample);
    stats.networks = sample
        .networks
        .iter()
        .map(|(name, counters)| {
            let wire = NetworkStats {
                rx_bytes: counters.rx_bytes,
                rx_packets: counters.rx_packets,
                rx_errors: counters.rx_errors,
                rx_dropped: counters.rx_dropped,
                tx_bytes: counters.tx_bytes,
                tx_packets: counters.tx_packets,
                tx_errors: counters.tx_errors,
                tx_dropped: counters.tx_dropped,
            };
            (name.clone(), wire)
        })
        .collect::<BTreeMap<_, _>>();
    stats
}

fn cpu(sample: &StatsSample) -> CpuStats {
    let cpu = &sample.cgroup.cpu;
    CpuStats {
        cpu_usage: CpuUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.system,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: sample.system_cpu_ns,
        online_cpus: sample.online_cpus,
        throttling_data: Throttling {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled,
        },
    }
}

fn blkio(sample: &StatsSample) -> BlkioStats {
    let io = &sample.cgroup.io;
    let entries = |list: &[pouch_cgroup::stats::IoEntry]| -> Vec<BlkioEntry> {
        list.iter()
            .map(|entry| BlkioEntry {
                major: entry.major,
                minor: entry.minor,
                op: entry.op.clone(),
                value: entry.value,
            })
            .collect()
    };
    if sample.cgroup.unified {
        return BlkioStats {
            io_service_bytes_recursive: Some(entries(&io.bytes)),
            ..BlkioStats::default()
        };
    }
    BlkioStats {
        io_service_bytes_recursive: Some(entries(&io.bytes)),
        io_serviced_recursive: Some(entries(&io.operations)),
        io_queue_recursive: Some(Vec::new()),
        io_service_time_recursive: Some(Vec::new()),
        io_wait_time_recursive: Some(Vec::new()),
        io_merged_recursive: Some(Vec::new()),
        io_time_recursive: Some(Vec::new()),
        sectors_recursive: Some(Vec::new()),
    }
}
