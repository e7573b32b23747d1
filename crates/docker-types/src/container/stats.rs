//! `GET /containers/{id}/stats`.

use std::collections::BTreeMap;

use crate::wire::is_default;

wire! { "snake_case";
    /// One sample, with the one before it for rates.
    pub struct Stats {
        /// With a leading slash.
        #[serde(skip_serializing_if = "is_default")]
        pub name: String,
        #[serde(skip_serializing_if = "is_default")]
        pub id: String,
        /// RFC 3339; year 1 for a container that does not run.
        pub read: String,
        pub preread: String,
        pub pids_stats: PidsStats,
        pub blkio_stats: BlkioStats,
        /// Windows only, always 0.
        pub num_procs: u32,
        pub storage_stats: StorageStats,
        pub cpu_stats: CpuStats,
        pub precpu_stats: CpuStats,
        pub memory_stats: MemoryStats,
        /// By interface.
        #[serde(skip_serializing_if = "is_default")]
        pub networks: BTreeMap<String, NetworkStats>,
    }

    /// Processes and threads.
    pub struct PidsStats {
        #[serde(skip_serializing_if = "is_default")]
        pub current: u64,
        #[serde(skip_serializing_if = "is_default")]
        pub limit: u64,
    }

    /// Time on CPUs.
    pub struct CpuStats {
        pub cpu_usage: CpuUsage,
        /// Nanoseconds of the whole machine.
        #[serde(skip_serializing_if = "is_default")]
        pub system_cpu_usage: u64,
        #[serde(skip_serializing_if = "is_default")]
        pub online_cpus: u32,
        pub throttling_data: Throttling,
    }

    /// Nanoseconds.
    pub struct CpuUsage {
        pub total_usage: u64,
        /// cgroup v1 only.
        #[serde(skip_serializing_if = "is_default")]
        pub percpu_usage: Vec<u64>,
        pub usage_in_kernelmode: u64,
        pub usage_in_usermode: u64,
    }

    /// Throttling by a quota.
    pub struct Throttling {
        pub periods: u64,
        pub throttled_periods: u64,
        /// Nanoseconds.
        pub throttled_time: u64,
    }

    /// Bytes. The docker CLI takes `stats.total_inactive_file` (v1) or `stats.inactive_file` (v2)
    /// off `usage`.
    pub struct MemoryStats {
        #[serde(skip_serializing_if = "is_default")]
        pub usage: u64,
        /// cgroup v1 only.
        #[serde(skip_serializing_if = "is_default")]
        pub max_usage: u64,
        /// `memory.stat`.
        #[serde(skip_serializing_if = "is_default")]
        pub stats: BTreeMap<String, u64>,
        /// cgroup v1 only.
        #[serde(skip_serializing_if = "is_default")]
        pub failcnt: u64,
        #[serde(skip_serializing_if = "is_default")]
        pub limit: u64,
    }

    /// Block I/O; v2 fills only the first.
    pub struct BlkioStats {
        pub io_service_bytes_recursive: Option<Vec<BlkioEntry>>,
        pub io_serviced_recursive: Option<Vec<BlkioEntry>>,
        pub io_queue_recursive: Option<Vec<BlkioEntry>>,
        pub io_service_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_wait_time_recursive: Option<Vec<BlkioEntry>>,
        pub io_merged_recursive: Option<Vec<BlkioEntry>>,
        pub io_time_recursive: Option<Vec<BlkioEntry>>,
        pub sectors_recursive: Option<Vec<BlkioEntry>>,
    }

    /// One device and operation.
    pub struct BlkioEntry {
        pub major: u64,
        pub minor: u64,
        /// `read`, `write` …
        pub op: String,
        pub value: u64,
    }

    /// Windows only, always empty.
    pub struct StorageStats {
    }

    /// One interface, seen from the container.
    pub struct NetworkStats {
        pub rx_bytes: u64,
        pub rx_packets: u64,
        pub rx_errors: u64,
        pub rx_dropped: u64,
        pub tx_bytes: u64,
        pub tx_packets: u64,
        pub tx_errors: u64,
        pub tx_dropped: u64,
    }
}
