//! What of the machine decides about a specification; looked at once, when the daemon starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use crate::capability::{Capability, CapabilitySet};
use crate::numbers::NumberList;
use crate::resources::RLIMITS;

/// Bytes of the largest file that is read here; mountinfo of a busy host is the largest.
const FILE_CAP: u64 = 16 << 20;

/// Architectures that there are builds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arch {
    /// With i386 and x32.
    X86_64,
    /// With 32-bit ARM.
    Aarch64,
}

/// `6.18` of `6.18.44-generic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl KernelVersion {
    /// Reads the beginning of a release string.
    #[must_use]
    pub fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

/// Control groups as a container sees them below `/sys/fs/cgroup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupView {
    /// One mount per hierarchy of the first version; hybrid layouts too.
    V1,
    /// One mount.
    V2,
}

/// The machine.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFeatures {
    /// Of this build.
    pub arch: Arch,
    /// Running now.
    pub kernel: KernelVersion,
    /// Which interface.
    pub cgroup: CgroupView,
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// The kernel filters system calls.
    pub seccomp: bool,
    /// The daemon's bounding set: nobody can be given more.
    pub capabilities: CapabilitySet,
    /// CPUs that are online.
    pub cpus: NumberList,
    /// Memory nodes that are online.
    pub mems: NumberList,
    /// Hard limits that cannot be exceeded, by name without `RLIMIT_`; empty with
    /// `CAP_SYS_RESOURCE`, which may raise any.
    pub hard_limits: BTreeMap<String, u64>,
    /// Smallest `oom_score_adj` that can be given; -1000 with `CAP_SYS_RESOURCE`.
    pub min_oom_score_adj: i32,
    /// `/sys/devices/system/cpu/cpuN/thermal_throttle` where these exist.
    pub thermal_throttle: Vec<String>,
    /// Names of network parameters among those that every container gets and that exist here.
    pub network_sysctls: Vec<String>,
}

impl HostFeatures {
    /// Looks at the running kernel.
    ///
    /// # Errors
    /// When `/proc` or `/sys/fs/cgroup` cannot be read.
    pub fn detect() -> io::Result<Self> {
        let release = read("/proc/sys/kernel/osrelease")?;
        let kernel = KernelVersion::parse(&release).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("kernel release {release:?}"))
        })?;
        let status = read("/proc/self/status")?;
        let bits = |key: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
                .map_or(CapabilitySet::EMPTY, CapabilitySet::from_bits)
        };
        let privileged = bits("CapEff:").contains(Capability::SYS_RESOURCE);
        Ok(Self {
            arch: if cfg!(target_arch = "aarch64") { Arch::Aarch64 } else { Arch::X86_64 },
            kernel,
            cgroup: cgroup_view()?,
            apparmor: read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.starts_with('Y')),
            selinux: Path::new("/sys/fs/selinux/enforce").exists(),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            capabilities: bits("CapBnd:"),
            cpus: online("/sys/devices/system/cpu/online"),
            mems: online("/sys/devices/system/node/online"),
            hard_limits: if privileged { BTreeMap::new() } else { hard_limits() },
            min_oom_score_adj: if privileged {
                -1000
            } else {
                read("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0)
            },
            thermal_throttle: thermal_throttle(),
            network_sysctls: crate::sysctl::NETWORK_DEFAULTS
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .filter(|name| Path::new("/proc/sys").join(name.replace('.', "/")).exists())
                .collect(),
        })
    }

    /// Whether a bind mount can be made read-only with all mounts below it: `mount_setattr(2)`.
    #[must_use]
    pub fn recursive_read_only(&self) -> bool {
        self.kernel >= KernelVersion { major: 5, minor: 12 }
    }
}

fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_CAP).read_to_string(&mut text)?;
    Ok(text)
}

/// `0` on a machine that does not tell, such as a kernel without NUMA.
fn online(path: &str) -> NumberList {
    read(path)
        .ok()
        .and_then(|text| NumberList::parse(&text).ok())
        .filter(|list| !list.is_empty())
        .or_else(|| NumberList::parse("0").ok())
        .unwrap_or_default()
}

fn cgroup_view() -> io::Result<CgroupView> {
    /// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
    const CGROUP2: u64 = 0x6367_7270;
    let root = rustix::fs::statfs("/sys/fs/cgroup")?;
    if u64::try_from(root.f_type).is_ok_and(|kind| kind == CGROUP2) {
        return Ok(CgroupView::V2);
    }
    Ok(CgroupView::V1)
}

fn hard_limits() -> BTreeMap<String, u64> {
    RLIMITS
        .iter()
        .map(|(name, resource)| {
            let hard = rustix::process::getrlimit(*resource).maximum.unwrap_or(u64::MAX);
            ((*name).to_owned(), hard)
        })
        .collect()
}

fn thermal_throttle() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("cpu")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
        .into_iter()
        .map(|number| format!("/sys/devices/system/cpu/cpu{number}/thermal_throttle"))
        .filter(|path| Path::new(path).exists())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let version = |text| KernelVersion::parse(text).map(|v| (v.major, v.minor));
        assert_eq!(version("6.18.44-fc-v595\n"), Some((6, 18)));
        assert_eq!(version("5.12-rc1"), Some((5, 12)));
        assert_eq!(version("6"), None);
        assert_eq!(version("x"), None);
    }

    #[test]
    fn this_machine() {
        if !Path::new("/sys/fs/cgroup").exists() {
            eprintln!("skipped: no /sys/fs/cgroup");
            return;
        }
        let host = HostFeatures::detect().unwrap();
        assert!(host.kernel >= KernelVersion { major: 4, minor: 0 });
        assert!(!host.cpus.is_empty());
    }
}
