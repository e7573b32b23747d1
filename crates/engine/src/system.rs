//! What this engine and its machine are.

use std::collections::BTreeMap;
use std::fs;

use pouch_types::ErrorKind;

use crate::view::Status;
use crate::{Engine, EngineError};

/// Versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Of the engine.
    pub version: String,
    /// Commit that it was built from; empty when unknown.
    pub commit: String,
    /// When it was built; empty when unknown.
    pub built: String,
    /// `uname -r`.
    pub kernel: String,
    /// `amd64`, `arm64` …, as registries name it.
    pub arch: &'static str,
    /// Compiler.
    pub compiler: String,
}

impl Version {
    pub(crate) fn detect() -> Self {
        let uname = rustix::system::uname();
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("POUCH_COMMIT").unwrap_or_default().to_owned(),
            built: option_env!("POUCH_BUILD_TIME").unwrap_or_default().to_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            compiler: format!("rustc {}", env!("CARGO_PKG_RUST_VERSION")),
        }
    }
}

/// Facts for `info`.
#[derive(Debug, Clone)]
pub struct Info {
    /// Stable id of this installation.
    pub id: String,
    /// Containers by status.
    pub containers: BTreeMap<Status, usize>,
    /// Images.
    pub images: usize,
    /// Snapshot driver.
    pub driver: String,
    /// File system below the data.
    pub backing_fs: String,
    /// Name of the machine.
    pub hostname: String,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// `uname -m`.
    pub machine: String,
    /// CPUs on line.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Control groups version: `1` or `2`.
    pub cgroup_version: &'static str,
    /// What the machine's control groups can limit.
    pub cgroup: pouch_cgroup::Support,
    /// seccomp, AppArmor, SELinux as the kernel has them.
    pub seccomp: bool,
    /// See `seccomp`.
    pub apparmor: bool,
    /// See `seccomp`.
    pub selinux: bool,
    /// Packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Sizes for `system df`, in bytes.
#[derive(Debug, Clone)]
pub struct DiskUsage {
    /// All layers once.
    pub layers: u64,
    /// Containers: writable layer and, below it, image.
    pub containers: Vec<(pouch_types::ContainerId, u64, u64)>,
    /// Volumes: size and containers that use them.
    pub volumes: Vec<(pouch_volume::Volume, u64, usize)>,
}

/// The backend, and which containers each one has.
#[derive(Debug, Clone)]
pub struct BackendFacts {
    /// The one that serves.
    pub status: pouch_containerd::Status,
    /// By backend: those that run, and all. What is tied to none is the serving one's.
    pub containers: BTreeMap<pouch_containerd::Kind, (usize, usize)>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Namespace that containerd's own CRI service takes for its own.
const KUBERNETES: &str = "k8s.io";

/// What is unwise about a backend.
fn backend_warnings(status: &pouch_containerd::Status) -> Vec<String> {
    let namespace = status.remote.as_ref().map(|remote| remote.namespace.as_str());
    if namespace != Some(KUBERNETES) {
        return Vec::new();
    }
    vec![format!(
        "WARNING: containerd-namespace is {KUBERNETES}: containerd's own CRI service removes there \
         what it does not know"
    )]
}

impl Engine {
    /// What the backend is and how it does, from memory.
    #[must_use]
    pub fn backend(&self) -> BackendFacts {
        let status = self.inner.backend.status();
        let mut containers: BTreeMap<_, (usize, usize)> =
            pouch_containerd::Kind::ALL.map(|kind| (kind, (0, 0))).into();
        for view in self.list() {
            let kind = view.elsewhere.as_ref().map_or(status.kind, |other| other.backend);
            let (running, all) = containers.entry(kind).or_default();
            *running += usize::from(view.state.is_running());
            *all += 1;
        }
        let warnings = backend_warnings(&status);
        BackendFacts { status, containers, warnings }
    }

    /// Facts about the engine and its machine.
    ///
    /// # Errors
    /// When the installation's id cannot be kept.
    pub async fn info(&self) -> Result<Info, EngineError> {
        let inner = &self.inner;
        let mut containers = BTreeMap::new();
        for view in self.list() {
            *containers.entry(view.state.status).or_insert(0) += 1;
        }
        let uname = rustix::system::uname();
        let release = os_release();
        let forwarding = fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        let ipv4_forwarding = forwarding.is_ok_and(|v| v.trim() == "1");
        let cgroup = inner.support;
        let lacking = [
            (cgroup.memory, "No memory limit support"),
            (cgroup.swap, "No swap limit support"),
            (cgroup.cpu_shares, "No cpu shares support"),
            (cgroup.cpu_cfs, "No cpu cfs quota support"),
            (cgroup.cpuset, "No cpuset support"),
            (cgroup.pids, "No pids limit support"),
            (ipv4_forwarding, "IPv4 forwarding is disabled"),
        ];
        let lacking = lacking.into_iter().filter(|(there, _)| !there);
        let mut warnings: Vec<String> =
            lacking.map(|(_, text)| format!("WARNING: {text}")).collect();
        warnings.extend(backend_warnings(&inner.backend.status()));
        Ok(Info {
            id: self.installation_id()?,
            containers,
            images: inner
                .images
                .list(&pouch_image::ListFilter::default())
                .map_or(0, |all| all.len()),
            driver: self.storage_driver().to_owned(),
            backing_fs: backing_fs(&inner.config.data_root),
            hostname: uname.nodename().to_string_lossy().into_owned(),
            operating_system: release
                .get("PRETTY_NAME")
                .cloned()
                .unwrap_or_else(|| "Linux".to_owned()),
            os_version: release.get("VERSION_ID").cloned().unwrap_or_default(),
            machine: uname.machine().to_string_lossy().into_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: crate::observe::host_memory(),
            cgroup_version: match inner.cgroups.mode() {
                pouch_cgroup::Mode::V2 => "2",
                _ => "1",
            },
            cgroup,
            seccomp: inner.host.seccomp,
            apparmor: inner.host.apparmor,
            selinux: inner.host.selinux,
            ipv4_forwarding,
            warnings,
        })
    }

    /// The id in the data root; made at the first question.
    fn installation_id(&self) -> Result<String, EngineError> {
        let path = self.inner.config.data_root.join("engine-id");
        if let Ok(id) = fs::read_to_string(&path) {
            return Ok(id.trim().to_owned());
        }
        let id = pouch_types::id::random_hex()
            .map_err(|e| EngineError::new(ErrorKind::Internal, e.to_string()))?;
        fs::write(&path, &id)
            .map_err(|e| EngineError::io(format!("write {}", path.display()), e))?;
        Ok(id)
    }
}

fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(k, v)| (k.to_owned(), v.trim_matches(['"', '\'']).to_owned())).collect()
}

/// The type of the file system that holds `path`, from the longest mount point above it.
fn backing_fs(path: &std::path::Path) -> String {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return String::new() };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    mounts
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = left.split(' ').nth(4)?;
            let kind = right.split(' ').next()?;
            path.starts_with(point).then(|| (point.len(), kind.to_owned()))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(String::new, |(_, kind)| kind)
}
