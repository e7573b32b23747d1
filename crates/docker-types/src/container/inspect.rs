//! Containers as they are shown.

use std::collections::BTreeMap;

use super::config::ContainerConfig;
use super::host_config::{HostConfig, PortMap};
use crate::image::GraphDriver;
use crate::network::EndpointSettings;
use crate::wire::is_default;

wire! { "PascalCase";
    /// An entry of `GET /containers/json`.
    pub struct ContainerSummary {
        pub id: String,
        /// Each with a leading slash.
        pub names: Vec<String>,
        pub image: String,
        #[serde(rename = "ImageID")]
        pub image_id: String,
        pub command: String,
        /// Unix seconds.
        pub created: i64,
        pub ports: Vec<Port>,
        /// Bytes; only with `size=1`.
        #[serde(skip_serializing_if = "is_default")]
        pub size_rw: i64,
        /// Bytes; only with `size=1`.
        #[serde(skip_serializing_if = "is_default")]
        pub size_root_fs: i64,
        pub labels: BTreeMap<String, String>,
        /// `created`, `running`, `paused`, `restarting`, `removing`, `exited`, `dead`.
        pub state: String,
        /// `Up 3 minutes (healthy)`.
        pub status: String,
        pub host_config: SummaryHostConfig,
        pub network_settings: NetworkSettingsSummary,
        pub mounts: Vec<MountPoint>,
    }

    /// The host configuration in a list.
    pub struct SummaryHostConfig {
        #[serde(skip_serializing_if = "is_default")]
        pub network_mode: String,
        /// API 1.46 and newer.
        #[serde(skip_serializing_if = "is_default")]
        pub annotations: BTreeMap<String, String>,
    }

    /// The attachments in a list.
    pub struct NetworkSettingsSummary {
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    /// A port in a list.
    pub struct Port {
        #[serde(rename = "IP", skip_serializing_if = "is_default")]
        pub ip: String,
        pub private_port: u16,
        #[serde(skip_serializing_if = "is_default")]
        pub public_port: u16,
        pub r#type: String,
    }

    /// Reply of `GET /containers/{id}/json`.
    pub struct ContainerInspect {
        pub id: String,
        pub created: String,
        pub path: String,
        pub args: Vec<String>,
        pub state: State,
        /// The image's id.
        pub image: String,
        pub resolv_conf_path: String,
        pub hostname_path: String,
        pub hosts_path: String,
        pub log_path: String,
        /// With a leading slash.
        pub name: String,
        pub restart_count: i64,
        pub driver: String,
        pub platform: String,
        pub mount_label: String,
        pub process_label: String,
        pub app_armor_profile: String,
        /// `null` when there is none.
        #[serde(rename = "ExecIDs")]
        pub exec_ids: Option<Vec<String>>,
        pub host_config: HostConfig,
        pub graph_driver: GraphDriver,
        /// Bytes; only with `size=1`.
        #[serde(skip_serializing_if = "is_default")]
        pub size_rw: Option<i64>,
        /// Bytes; only with `size=1`.
        #[serde(skip_serializing_if = "is_default")]
        pub size_root_fs: Option<i64>,
        pub mounts: Vec<MountPoint>,
        pub config: ContainerConfig,
        pub network_settings: NetworkSettings,
    }

    /// What the container does.
    pub struct State {
        pub status: String,
        pub running: bool,
        pub paused: bool,
        pub restarting: bool,
        #[serde(rename = "OOMKilled")]
        pub oom_killed: bool,
        pub dead: bool,
        pub pid: i64,
        pub exit_code: i64,
        pub error: String,
        pub started_at: String,
        pub finished_at: String,
        #[serde(skip_serializing_if = "is_default")]
        pub health: Option<Health>,
    }

    /// Result of the health probe.
    pub struct Health {
        /// `starting`, `healthy`, `unhealthy`, `none`.
        pub status: String,
        pub failing_streak: i64,
        /// The last five.
        pub log: Vec<HealthResult>,
    }

    /// One probe.
    pub struct HealthResult {
        pub start: String,
        pub end: String,
        pub exit_code: i64,
        pub output: String,
    }

    /// A mount that exists.
    pub struct MountPoint {
        #[serde(skip_serializing_if = "is_default")]
        pub r#type: String,
        /// Of the volume.
        #[serde(skip_serializing_if = "is_default")]
        pub name: String,
        /// On the host.
        pub source: String,
        pub destination: String,
        #[serde(skip_serializing_if = "is_default")]
        pub driver: String,
        pub mode: String,
        #[serde(rename = "RW")]
        pub rw: bool,
        pub propagation: String,
    }

    /// Networking of a container. The second half repeats the default bridge's endpoint.
    pub struct NetworkSettings {
        pub bridge: String,
        #[serde(rename = "SandboxID")]
        pub sandbox_id: String,
        pub sandbox_key: String,
        pub ports: PortMap,
        pub hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        pub link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        pub link_local_ipv6_prefix_len: i64,
        #[serde(rename = "SecondaryIPAddresses")]
        pub secondary_ip_addresses: Option<Vec<serde_json::Value>>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        pub secondary_ipv6_addresses: Option<Vec<serde_json::Value>>,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        pub mac_address: String,
        pub networks: BTreeMap<String, EndpointSettings>,
    }

    /// Reply of `GET /containers/{id}/top`.
    pub struct Top {
        pub processes: Vec<Vec<String>>,
        pub titles: Vec<String>,
    }

    /// One line of `GET /containers/{id}/changes`.
    pub struct FilesystemChange {
        /// 0 modified, 1 added, 2 deleted.
        pub kind: u16,
        pub path: String,
    }
}
