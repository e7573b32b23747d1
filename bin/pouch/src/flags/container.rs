//! `run` and `create`: the flags that describe a container.

use std::path::PathBuf;

use clap::Args;

use super::resources::ResourceFlags;

/// `pouch run`.
#[derive(Debug, Args)]
pub(crate) struct RunFlags {
    /// Run container in background and print container ID
    #[arg(short, long)]
    pub(crate) detach: bool,
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    /// Proxy received signals to the process
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) sig_proxy: Option<bool>,
    /// Override the key sequence for detaching a container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "KEYS")]
    pub(crate) detach_keys: String,
    #[command(flatten)]
    pub(crate) create: ContainerFlags,
}

/// `pouch create`.
#[derive(Debug, Args)]
pub(crate) struct CreateFlags {
    /// Automatically remove the container when it exits
    #[arg(long)]
    pub(crate) rm: bool,
    #[command(flatten)]
    pub(crate) create: ContainerFlags,
}

/// What a new container is like.
#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
pub(crate) struct ContainerFlags {
    #[command(flatten)]
    pub(crate) resources: ResourceFlags,
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "HOST:IP")]
    pub(crate) add_host: Vec<String>,
    /// Add an annotation to the container (passed through to the OCI runtime)
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "STREAM")]
    pub(crate) attach: Vec<String>,
    /// Block IO weight (relative device weight)
    #[arg(long, value_name = "DEVICE:WEIGHT")]
    pub(crate) blkio_weight_device: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    pub(crate) cap_drop: Vec<String>,
    /// Optional parent cgroup for the container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "GROUP")]
    pub(crate) cgroup_parent: String,
    /// Cgroup namespace to use (host|private)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    pub(crate) cgroupns: String,
    /// Write the container ID to the file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// CPU count (Windows only; the daemon says so)
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) cpu_count: i64,
    /// CPU percent (Windows only; the daemon says so)
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) cpu_percent: i64,
    /// Maximum IO bandwidth limit for the system drive (Windows only; the daemon says so)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "BYTES")]
    pub(crate) io_maxbandwidth: String,
    /// Maximum IOps limit for the system drive (Windows only; the daemon says so)
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) io_maxiops: u64,
    /// Skip image verification (there is none: =false is refused)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) disable_content_trust: Option<bool>,
    /// Bind mount the daemon's socket and credentials (not supported)
    #[arg(long)]
    pub(crate) use_api_socket: bool,
    /// Add a host device to the container
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "RULE")]
    pub(crate) device_cgroup_rule: Vec<String>,
    /// Limit read rate (bytes per second) from a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_read_bps: Vec<String>,
    /// Limit read rate (IO per second) from a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_read_iops: Vec<String>,
    /// Limit write rate (bytes per second) to a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_write_bps: Vec<String>,
    /// Limit write rate (IO per second) to a device
    #[arg(long, value_name = "DEVICE:RATE")]
    pub(crate) device_write_iops: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "IP")]
    pub(crate) dns: Vec<String>,
    /// Set DNS options
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub(crate) dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    pub(crate) dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) domainname: String,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "COMMAND")]
    pub(crate) entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    pub(crate) env_file: Vec<PathBuf>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "PORT")]
    pub(crate) expose: Vec<String>,
    /// GPU devices to add to the container ('all' to pass all GPUs)
    #[arg(long, value_name = "REQUEST")]
    pub(crate) gpus: Option<String>,
    /// Add additional groups to join
    #[arg(long, value_name = "GROUP")]
    pub(crate) group_add: Vec<String>,
    /// Command to run to check health
    #[arg(long, default_value = "", hide_default_value = true, value_name = "COMMAND")]
    pub(crate) health_cmd: String,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
    pub(crate) health_interval: String,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) health_retries: i64,
    /// Time between running the check during the start period (ms|s|m|h)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
    pub(crate) health_start_interval: String,
    /// Start period for the container to initialize before starting health-retries countdown
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
    pub(crate) health_start_period: String,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DURATION")]
    pub(crate) health_timeout: String,
    /// Container host name
    #[arg(short = 'h', long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) hostname: String,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool")]
    pub(crate) init: Option<bool>,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// IPv4 address (e.g., 172.30.100.104)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "IP")]
    pub(crate) ip: String,
    /// IPv6 address (e.g., 2001:db8::33)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "IP")]
    pub(crate) ip6: String,
    /// IPC mode to use
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    pub(crate) ipc: String,
    /// Container isolation technology
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TECHNOLOGY")]
    pub(crate) isolation: String,
    /// Set meta data on a container
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Add link to another container
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) link: Vec<String>,
    /// Container IPv4/IPv6 link-local addresses
    #[arg(long, value_name = "IP")]
    pub(crate) link_local_ip: Vec<String>,
    /// Logging driver for the container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DRIVER")]
    pub(crate) log_driver: String,
    /// Log driver options
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) log_opt: Vec<String>,
    /// Container MAC address (e.g., 92:d0:c6:0a:29:33)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MAC")]
    pub(crate) mac_address: String,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, default_value_t = -1, hide_default_value = true, allow_negative_numbers = true, value_name = "N")]
    pub(crate) memory_swappiness: i64,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "SPEC")]
    pub(crate) mount: Vec<String>,
    /// Assign a name to the container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) name: String,
    /// Connect a container to a network
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub(crate) network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub(crate) network_alias: Vec<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    pub(crate) no_healthcheck: bool,
    /// Disable OOM Killer
    #[arg(long)]
    pub(crate) oom_kill_disable: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true,
        value_name = "N"
    )]
    pub(crate) oom_score_adj: i64,
    /// PID namespace to use
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    pub(crate) pid: String,
    /// Set platform if server is multi-platform capable
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// Give extended privileges to this container
    #[arg(long)]
    pub(crate) privileged: bool,
    /// Publish a container's port(s) to the host
    #[arg(short, long, value_name = "PORTS")]
    pub(crate) publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    pub(crate) publish_all: bool,
    /// Pull image before running ("always", "missing", "never")
    #[arg(long, default_value = "missing", value_name = "WHEN", value_parser = ["always", "missing", "never"])]
    pub(crate) pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Runtime to use for this container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) runtime: String,
    /// Security Options
    #[arg(long, value_name = "OPTION")]
    pub(crate) security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, default_value = "", hide_default_value = true, value_name = "BYTES")]
    pub(crate) shm_size: String,
    /// Signal to stop the container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "SIGNAL")]
    pub(crate) stop_signal: String,
    /// Timeout (in seconds) to stop a container
    #[arg(long, allow_negative_numbers = true, value_name = "SECONDS")]
    pub(crate) stop_timeout: Option<i64>,
    /// Storage driver options for the container
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) storage_opt: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "DIR[:OPTIONS]")]
    pub(crate) tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub(crate) ulimit: Vec<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "USER")]
    pub(crate) user: String,
    /// User namespace to use
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    pub(crate) userns: String,
    /// UTS namespace to use
    #[arg(long, default_value = "", hide_default_value = true, value_name = "MODE")]
    pub(crate) uts: String,
    /// Bind mount a volume
    #[arg(short, long, value_name = "VOLUME")]
    pub(crate) volume: Vec<String>,
    /// Optional volume driver for the container
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DRIVER")]
    pub(crate) volume_driver: String,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "DIR")]
    pub(crate) workdir: String,
    /// IMAGE, then the command and its arguments, which are passed on untouched
    #[arg(required = true, trailing_var_arg = true, num_args = 1.., value_name = "IMAGE [COMMAND [ARG]]")]
    pub(crate) words: Vec<String>,
}
