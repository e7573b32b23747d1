//! The part of a container that depends on the host.

use std::collections::BTreeMap;

use super::mount::Mount;
use crate::StrSlice;
use crate::wire::is_default;

/// Published ports: `port/protocol` to host addresses; `null` is a port without a binding.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

wire! { "PascalCase";
    /// Host configuration of a container.
    pub struct HostConfig {
        /// `source:destination[:options]`.
        pub binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        pub container_id_file: String,
        pub log_config: LogConfig,
        pub network_mode: String,
        pub port_bindings: PortMap,
        pub restart_policy: RestartPolicy,
        pub auto_remove: bool,
        pub volume_driver: String,
        /// `container[:ro|rw]`.
        pub volumes_from: Option<Vec<String>>,
        /// Rows and columns.
        pub console_size: [u32; 2],
        #[serde(skip_serializing_if = "is_default")]
        pub annotations: BTreeMap<String, String>,
        pub cap_add: Option<StrSlice>,
        pub cap_drop: Option<StrSlice>,
        pub cgroupns_mode: String,
        pub dns: Option<Vec<String>>,
        pub dns_options: Option<Vec<String>>,
        pub dns_search: Option<Vec<String>>,
        /// `name:address`.
        pub extra_hosts: Option<Vec<String>>,
        pub group_add: Option<Vec<String>>,
        pub ipc_mode: String,
        pub cgroup: String,
        /// `container[:alias]`.
        pub links: Option<Vec<String>>,
        pub oom_score_adj: i64,
        pub pid_mode: String,
        pub privileged: bool,
        pub publish_all_ports: bool,
        pub readonly_rootfs: bool,
        pub security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_default")]
        pub storage_opt: BTreeMap<String, String>,
        /// Options of mount(8) by destination.
        #[serde(skip_serializing_if = "is_default")]
        pub tmpfs: BTreeMap<String, String>,
        #[serde(rename = "UTSMode")]
        pub uts_mode: String,
        pub userns_mode: String,
        /// Bytes.
        pub shm_size: i64,
        #[serde(skip_serializing_if = "is_default")]
        pub sysctls: BTreeMap<String, String>,
        #[serde(skip_serializing_if = "is_default")]
        pub runtime: String,
        /// Windows only.
        pub isolation: String,
        #[serde(skip_serializing_if = "is_default")]
        pub mounts: Vec<Mount>,
        /// `null` takes the default list, `[]` masks nothing.
        pub masked_paths: Option<Vec<String>>,
        /// As `masked_paths`.
        pub readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "is_default")]
        pub init: Option<bool>,
    } + {
        pub resources: Resources,
    }

    /// Limits; also what `POST /containers/{id}/update` changes.
    pub struct Resources {
        pub cpu_shares: i64,
        /// Bytes.
        pub memory: i64,
        pub nano_cpus: i64,
        pub cgroup_parent: String,
        pub blkio_weight: u16,
        pub blkio_weight_device: Option<Vec<WeightDevice>>,
        pub blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        pub blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        pub blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        pub blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        /// Microseconds.
        pub cpu_period: i64,
        /// Microseconds.
        pub cpu_quota: i64,
        /// Microseconds.
        pub cpu_realtime_period: i64,
        /// Microseconds.
        pub cpu_realtime_runtime: i64,
        pub cpuset_cpus: String,
        pub cpuset_mems: String,
        pub devices: Option<Vec<DeviceMapping>>,
        pub device_cgroup_rules: Option<Vec<String>>,
        pub device_requests: Option<Vec<DeviceRequest>>,
        /// Ignored since API 1.42.
        #[serde(skip_serializing_if = "is_default")]
        pub kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "is_default")]
        pub kernel_memory_tcp: i64,
        /// Bytes.
        pub memory_reservation: i64,
        /// Memory and swap, bytes; -1 is unlimited.
        pub memory_swap: i64,
        /// 0..=100; -1 and `null` leave the default.
        pub memory_swappiness: Option<i64>,
        pub oom_kill_disable: Option<bool>,
        /// 0, -1 and `null` are unlimited.
        pub pids_limit: Option<i64>,
        pub ulimits: Option<Vec<Ulimit>>,
        /// Windows only.
        pub cpu_count: i64,
        /// Windows only.
        pub cpu_percent: i64,
        /// Windows only.
        #[serde(rename = "IOMaximumIOps")]
        pub io_maximum_iops: u64,
        /// Windows only.
        #[serde(rename = "IOMaximumBandwidth")]
        pub io_maximum_bandwidth: u64,
    }

    /// Log driver and its options.
    pub struct LogConfig {
        pub r#type: String,
        pub config: BTreeMap<String, String>,
    }

    /// A host address of a published port.
    pub struct PortBinding {
        pub host_ip: String,
        /// A number, a range `first-last`, or empty for any.
        pub host_port: String,
    }

    /// What happens after an exit.
    pub struct RestartPolicy {
        /// `no`, `always`, `unless-stopped`, `on-failure`; empty is `no`.
        pub name: String,
        pub maximum_retry_count: i64,
    }

    /// I/O weight of a device.
    pub struct WeightDevice {
        pub path: String,
        pub weight: u16,
    }

    /// I/O limit of a device, per second.
    pub struct ThrottleDevice {
        pub path: String,
        pub rate: u64,
    }

    /// A device of the host.
    pub struct DeviceMapping {
        pub path_on_host: String,
        pub path_in_container: String,
        /// Subset of `rwm`.
        pub cgroup_permissions: String,
    }

    /// A request to a device driver (`--gpus`, CDI).
    pub struct DeviceRequest {
        pub driver: String,
        /// -1 is all.
        pub count: i64,
        #[serde(rename = "DeviceIDs")]
        pub device_ids: Option<Vec<String>>,
        pub capabilities: Option<Vec<Vec<String>>>,
        pub options: Option<BTreeMap<String, String>>,
    }

    /// A resource limit; -1 is unlimited.
    pub struct Ulimit {
        pub name: String,
        pub hard: i64,
        pub soft: i64,
    }
}
