//! The daemon itself: version, info, disk usage.

use std::collections::BTreeMap;

use crate::container::ContainerSummary;
use crate::image::ImageSummary;
use crate::volume::Volume;
use crate::wire::is_default;

wire! { "PascalCase";
    /// Reply of `GET /version`.
    pub struct Version {
        pub platform: VersionPlatform,
        #[serde(skip_serializing_if = "is_default")]
        pub components: Vec<VersionComponent>,
        pub version: String,
        pub api_version: String,
        #[serde(rename = "MinAPIVersion")]
        pub min_api_version: String,
        pub git_commit: String,
        /// What built the daemon; clients print it as it stands.
        pub go_version: String,
        pub os: String,
        pub arch: String,
        #[serde(skip_serializing_if = "is_default")]
        pub kernel_version: String,
        #[serde(skip_serializing_if = "is_default")]
        pub experimental: bool,
        #[serde(skip_serializing_if = "is_default")]
        pub build_time: String,
    }

    /// The product's name.
    pub struct VersionPlatform {
        pub name: String,
    }

    /// A program that the daemon relies on.
    pub struct VersionComponent {
        pub name: String,
        pub version: String,
        #[serde(skip_serializing_if = "is_default")]
        pub details: BTreeMap<String, String>,
    }

    /// Reply of `GET /info`.
    pub struct Info {
        #[serde(rename = "ID")]
        pub id: String,
        pub containers: i64,
        pub containers_running: i64,
        pub containers_paused: i64,
        pub containers_stopped: i64,
        pub images: i64,
        pub driver: String,
        /// Pairs of name and value, in order.
        pub driver_status: Vec<[String; 2]>,
        pub plugins: PluginsInfo,
        pub memory_limit: bool,
        pub swap_limit: bool,
        pub cpu_cfs_period: bool,
        pub cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        pub cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        pub cpu_set: bool,
        pub pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        pub ipv4_forwarding: bool,
        pub debug: bool,
        pub n_fd: i64,
        pub oom_kill_disable: bool,
        /// Tasks of the runtime, where Docker counts goroutines.
        pub n_goroutines: i64,
        pub system_time: String,
        pub logging_driver: String,
        pub cgroup_driver: String,
        pub cgroup_version: String,
        pub n_events_listener: i64,
        pub kernel_version: String,
        pub operating_system: String,
        #[serde(rename = "OSVersion")]
        pub os_version: String,
        #[serde(rename = "OSType")]
        pub os_type: String,
        pub architecture: String,
        pub index_server_address: String,
        pub registry_config: RegistryConfig,
        #[serde(rename = "NCPU")]
        pub ncpu: i64,
        /// Bytes.
        pub mem_total: i64,
        pub generic_resources: Option<Vec<serde_json::Value>>,
        pub docker_root_dir: String,
        pub http_proxy: String,
        pub https_proxy: String,
        pub no_proxy: String,
        pub name: String,
        pub labels: Vec<String>,
        pub experimental_build: bool,
        pub server_version: String,
        pub runtimes: BTreeMap<String, RuntimeInfo>,
        pub default_runtime: String,
        pub swarm: SwarmInfo,
        pub live_restore_enabled: bool,
        pub isolation: String,
        pub init_binary: String,
        pub containerd_commit: Commit,
        pub runc_commit: Commit,
        pub init_commit: Commit,
        /// `name=seccomp,profile=builtin` …
        pub security_options: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub product_license: String,
        #[serde(skip_serializing_if = "is_default")]
        pub default_address_pools: Vec<AddressPool>,
        #[serde(skip_serializing_if = "is_default")]
        pub firewall_backend: Option<FirewallInfo>,
        #[serde(rename = "CDISpecDirs")]
        pub cdi_spec_dirs: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub containerd: Option<ContainerdInfo>,
        pub warnings: Option<Vec<String>>,
    }

    /// Drivers by kind.
    pub struct PluginsInfo {
        pub volume: Vec<String>,
        pub network: Vec<String>,
        pub authorization: Option<Vec<String>>,
        pub log: Vec<String>,
    }

    /// Registries that are configured specially.
    pub struct RegistryConfig {
        #[serde(rename = "InsecureRegistryCIDRs")]
        pub insecure_registry_cidrs: Vec<String>,
        pub index_configs: BTreeMap<String, IndexInfo>,
        pub mirrors: Vec<String>,
    }

    /// One registry.
    pub struct IndexInfo {
        pub name: String,
        pub mirrors: Vec<String>,
        pub secure: bool,
        pub official: bool,
    }

    /// Swarm is never active here; clients still read these fields.
    pub struct SwarmInfo {
        #[serde(rename = "NodeID")]
        pub node_id: String,
        pub node_addr: String,
        /// `inactive`.
        pub local_node_state: String,
        pub control_available: bool,
        pub error: String,
        pub remote_managers: Option<Vec<serde_json::Value>>,
    }

    /// Version of a helper program.
    pub struct Commit {
        #[serde(rename = "ID")]
        pub id: String,
    }

    /// Subnets that new networks are cut from.
    pub struct AddressPool {
        pub base: String,
        /// Prefix length of each network.
        pub size: i64,
    }

    /// What filters packets.
    pub struct FirewallInfo {
        pub driver: String,
        #[serde(skip_serializing_if = "is_default")]
        pub info: Vec<[String; 2]>,
    }

    /// `GET /pouch/backend`, which only this engine has.
    pub struct BackendInfo {
        /// `local` or `remote`.
        pub backend: String,
        /// Of what runs containers: the engine's own, or containerd's.
        pub version: String,
        /// Where images and root file systems are.
        pub image_store: String,
        /// Only with a remote one.
        pub containerd: Option<BackendContainerd>,
        /// Containers by backend.
        pub containers: BTreeMap<String, BackendContainers>,
        pub warnings: Vec<String>,
    }

    /// The containerd below, as it was seen last.
    pub struct BackendContainerd {
        pub socket: String,
        pub namespace: String,
        /// `connected` or `unavailable`.
        pub state: String,
        /// Since when, RFC 3339.
        pub since: String,
        /// What the last attempt to connect said.
        pub error: String,
        /// Connections at most, and how many are open.
        pub connections: i64,
        pub open_connections: i64,
        /// Calls that wait for their answer.
        pub calls_in_flight: i64,
    }

    /// Containers of one backend. Those of the one that does not serve are listed and left alone.
    pub struct BackendContainers {
        pub running: i64,
        pub total: i64,
    }

    /// The containerd in use.
    pub struct ContainerdInfo {
        #[serde(skip_serializing_if = "is_default")]
        pub address: String,
        pub namespaces: ContainerdNamespaces,
    }

    /// Its namespaces.
    pub struct ContainerdNamespaces {
        pub containers: String,
        pub plugins: String,
    }

    /// Reply of `GET /system/df`.
    pub struct DiskUsage {
        /// Bytes of all layers, each counted once.
        pub layers_size: i64,
        pub images: Option<Vec<ImageSummary>>,
        pub containers: Option<Vec<ContainerSummary>>,
        pub volumes: Option<Vec<Volume>>,
        pub build_cache: Option<Vec<serde_json::Value>>,
        /// Bytes; only below API 1.42.
        #[serde(skip_serializing_if = "is_default")]
        pub builder_size: Option<i64>,
    }

    /// Reply of `POST /build/prune`.
    pub struct BuildPrune {
        pub caches_deleted: Option<Vec<String>>,
        /// Bytes.
        pub space_reclaimed: u64,
    }
}

wire! { "camelCase";
    /// A configured runtime.
    pub struct RuntimeInfo {
        #[serde(skip_serializing_if = "is_default")]
        pub path: String,
        #[serde(skip_serializing_if = "is_default")]
        pub runtime_args: Vec<String>,
        #[serde(skip_serializing_if = "is_default")]
        pub runtime_type: String,
    }
}
