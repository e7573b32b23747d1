//! What the engine is told once, at its start.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use pouch_containerd::CgroupDriver;
use pouch_types::spec::{CgroupnsMode, LogSpec, Ulimit};

/// Settings of the engine; validated by the daemon that reads them.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Data that survives a reboot.
    pub data_root: PathBuf,
    /// State that does not.
    pub exec_root: PathBuf,
    /// Program that applies layers and archives.
    pub unpack_binary: PathBuf,
    /// Static init for `--init`.
    pub init_binary: PathBuf,
    /// OCI runtimes by name.
    pub runtimes: BTreeMap<String, RuntimeConfig>,
    /// Name in `runtimes` that containers get unless they say.
    pub default_runtime: String,
    /// Who makes control groups.
    pub cgroup_driver: CgroupDriver,
    /// Parent group of containers that name none; empty takes the driver's default.
    pub cgroup_parent: String,
    /// Log driver and options of containers that name none.
    pub default_log: LogSpec,
    /// Limits that every container gets unless it says otherwise.
    pub default_ulimits: Vec<Ulimit>,
    /// Bytes of /dev/shm.
    pub default_shm_size: u64,
    /// Seconds between the stop signal and SIGKILL.
    pub default_stop_timeout: i64,
    /// Namespace of control groups for containers that do not say.
    pub default_cgroupns: Option<CgroupnsMode>,
    /// Run an init in every container.
    pub init: bool,
    /// setuid programs have no effect in any container.
    pub no_new_privileges: bool,
    /// Seccomp profile for containers that name none, in Docker's JSON format; `None` is ours.
    pub seccomp_profile: Option<String>,
    /// Directories of CDI files, the last wins; none is no such devices.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// DNS servers, search domains and options for containers that name none.
    pub dns: Vec<IpAddr>,
    /// As `dns`.
    pub dns_search: Vec<String>,
    /// As `dns`.
    pub dns_options: Vec<String>,
    /// Labels of the daemon.
    pub labels: Vec<String>,
}

/// One OCI runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// The program; `None` is pouch-runtime.
    pub path: Option<PathBuf>,
    /// Arguments before the command.
    pub args: Vec<String>,
}

impl EngineConfig {
    /// Directory of a container that survives a reboot.
    #[must_use]
    pub fn container_dir(&self, id: &pouch_types::ContainerId) -> PathBuf {
        self.data_root.join("containers").join(id.as_str())
    }

    /// Where network namespaces are pinned.
    #[must_use]
    pub fn netns_path(&self, id: &pouch_types::ContainerId) -> PathBuf {
        self.exec_root.join("netns").join(id.as_str())
    }
}
