//! Limits: shared by `run`, `create` and `update`.

use clap::Args;

/// What can be limited at creation and changed later.
#[derive(Debug, Default, Args)]
pub(crate) struct ResourceFlags {
    /// Memory limit
    #[arg(short, long, default_value = "", hide_default_value = true, value_name = "BYTES")]
    pub(crate) memory: String,
    /// Memory soft limit
    #[arg(long, default_value = "", hide_default_value = true, value_name = "BYTES")]
    pub(crate) memory_reservation: String,
    /// Swap limit equal to memory plus swap: '-1' to enable unlimited swap
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "BYTES"
    )]
    pub(crate) memory_swap: String,
    /// Kernel memory limit (no current kernel has one; the daemon says so)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "BYTES")]
    pub(crate) kernel_memory: String,
    /// Number of CPUs
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DECIMAL")]
    pub(crate) cpus: String,
    /// CPU shares (relative weight)
    #[arg(short = 'c', long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) cpu_shares: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) period, microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "US")]
    pub(crate) cpu_period: i64,
    /// Limit CPU CFS (Completely Fair Scheduler) quota, microseconds
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true,
        value_name = "US"
    )]
    pub(crate) cpu_quota: i64,
    /// Limit CPU real-time period in microseconds
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "US")]
    pub(crate) cpu_rt_period: i64,
    /// Limit CPU real-time runtime in microseconds
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        allow_negative_numbers = true,
        value_name = "US"
    )]
    pub(crate) cpu_rt_runtime: i64,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "LIST")]
    pub(crate) cpuset_cpus: String,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, default_value = "", hide_default_value = true, value_name = "LIST")]
    pub(crate) cpuset_mems: String,
    /// Block IO (relative weight), between 10 and 1000, or 0 to disable
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub(crate) blkio_weight: u16,
    /// Tune container pids limit (set -1 for unlimited)
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub(crate) pids_limit: Option<i64>,
    /// Restart policy to apply when a container exits
    #[arg(long, default_value = "", hide_default_value = true, value_name = "POLICY")]
    pub(crate) restart: String,
}

/// `pouch update`.
#[derive(Debug, Args)]
pub(crate) struct UpdateFlags {
    #[command(flatten)]
    pub(crate) resources: ResourceFlags,
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
}
