//! Which limits this machine can honour, in the words that `docker create` warns with.

use std::path::Path;

use pouch_types::spec::Resources;

use crate::layout::{Layout, Mode};

/// A limit that will be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The field of [`Resources`].
    pub field: &'static str,
    /// For `Warnings` of the create reply: Docker's sentence, which scripts know.
    pub text: &'static str,
}

/// What the controllers of this machine can limit; `/info` shows most of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Support {
    /// `memory`.
    pub memory: bool,
    /// Memory and swap together.
    pub swap: bool,
    /// The soft limit.
    pub memory_reservation: bool,
    /// v1 only.
    pub swappiness: bool,
    /// v1 only.
    pub oom_kill_disable: bool,
    /// Weights.
    pub cpu_shares: bool,
    /// Period and quota.
    pub cpu_cfs: bool,
    /// v1 with real-time group scheduling.
    pub cpu_realtime: bool,
    /// CPUs and memory nodes.
    pub cpuset: bool,
    /// Processes and threads.
    pub pids: bool,
    /// Weight of block I/O.
    pub blkio_weight: bool,
    /// The same per device.
    pub blkio_weight_device: bool,
    /// Bytes and operations per second and device.
    pub blkio_throttle: bool,
    /// Limits of huge pages.
    pub hugepages: bool,
    /// Rules for device nodes (v1's controller or v2's BPF programs).
    pub devices: bool,
}

impl Layout {
    /// Looks at the mounted controllers and at the files that they offer.
    ///
    /// Some files of v1 exist only below the root, so a present sibling decides for them. v2
    /// shows no limits in its root; there the controller decides, and `memory.swap.max` is looked
    /// for in the first group below.
    #[must_use]
    pub fn support(&self) -> Support {
        let v1 = |controller: &str, file: &str| {
            self.v1(controller).and_then(|index| self.hierarchies().get(index)).is_some_and(|h| {
                h.mountpoint.join(file).exists() || in_a_child(&h.mountpoint, file)
            })
        };
        let v2 = |controller: &str| self.unified_controller(controller).is_some();
        let v2_file = |controller: &str, file: &str| {
            self.unified_controller(controller)
                .and_then(|index| self.hierarchies().get(index))
                .is_some_and(|h| in_a_child(&h.mountpoint, file))
        };
        // Weights need a proportional I/O scheduler; of the one, only the root says that it is there.
        let v2_weight = self
            .unified_controller("blkio")
            .and_then(|index| self.hierarchies().get(index))
            .is_some_and(|h| h.mountpoint.join("io.cost.qos").exists())
            || v2_file("blkio", "io.weight")
            || v2_file("blkio", "io.bfq.weight");
        Support {
            memory: v1("memory", "memory.limit_in_bytes") || v2("memory"),
            swap: v1("memory", "memory.memsw.limit_in_bytes")
                || v2_file("memory", "memory.swap.max"),
            memory_reservation: v1("memory", "memory.soft_limit_in_bytes") || v2("memory"),
            swappiness: v1("memory", "memory.swappiness"),
            oom_kill_disable: v1("memory", "memory.oom_control"),
            cpu_shares: v1("cpu", "cpu.shares") || v2("cpu"),
            cpu_cfs: v1("cpu", "cpu.cfs_quota_us") || v2("cpu"),
            cpu_realtime: v1("cpu", "cpu.rt_runtime_us"),
            cpuset: self.has("cpuset"),
            pids: self.has("pids"),
            hugepages: self.v1("hugetlb").is_some() || self.mode() == Mode::V2 && v2("hugetlb"),
            blkio_weight: v1("blkio", "blkio.weight")
                || v1("blkio", "blkio.bfq.weight")
                || v2_weight,
            blkio_weight_device: v1("blkio", "blkio.weight_device")
                || v1("blkio", "blkio.bfq.weight_device")
                || v2_weight,
            blkio_throttle: v1("blkio", "blkio.throttle.read_bps_device") || v2("blkio"),
            devices: self.v1("devices").is_some() || self.mode() == Mode::V2,
        }
    }
}

fn in_a_child(mountpoint: &Path, file: &str) -> bool {
    /// Children looked at; any one shows what the controller offers.
    const LOOKED_AT: usize = 64;
    std::fs::read_dir(mountpoint).is_ok_and(|entries| {
        entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .take(LOOKED_AT)
            .any(|entry| entry.path().join(file).exists())
    })
}

impl Support {
    /// The limits asked for that cannot be honoured here and are left out.
    #[must_use]
    pub fn unsupported(&self, asked: &Resources) -> Vec<Warning> {
        let period_or_quota = asked.cpu_period.is_some_and(|p| p != 0)
            || asked.cpu_quota.is_some_and(|q| q != 0)
            || asked.nano_cpus.is_some_and(|n| n != 0);
        let realtime = asked.cpu_realtime_period.is_some_and(|p| p != 0)
            || asked.cpu_realtime_runtime.is_some_and(|r| r != 0);
        let memory = asked.memory.is_some_and(|m| m != 0);
        let checks = [
            (
                !asked.hugepages.is_empty() && !self.hugepages,
                "hugepages",
                "Your kernel does not support limits of huge pages or the cgroup is not mounted. Limitation discarded.",
            ),
            (
                memory && !self.memory,
                "memory",
                "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.",
            ),
            (
                memory && self.memory && asked.memory_swap != Some(-1) && !self.swap,
                "memory_swap",
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.",
            ),
            (
                asked.memory_reservation.is_some_and(|m| m != 0) && !self.memory_reservation,
                "memory_reservation",
                "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation discarded.",
            ),
            (
                asked.memory_swappiness.is_some() && !self.swappiness,
                "memory_swappiness",
                "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.",
            ),
            (
                asked.oom_kill_disable == Some(true) && !self.oom_kill_disable,
                "oom_kill_disable",
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.",
            ),
            (
                asked.oom_kill_disable == Some(true) && self.oom_kill_disable && !memory,
                "oom_kill_disable",
                "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources.",
            ),
            (
                asked.cpu_shares.is_some_and(|s| s != 0) && !self.cpu_shares,
                "cpu_shares",
                "Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.",
            ),
            (
                period_or_quota && !self.cpu_cfs,
                "cpu_quota",
                "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.",
            ),
            (
                realtime && !self.cpu_realtime,
                "cpu_realtime_runtime",
                "Your kernel does not support CPU real-time scheduler. CPU real-time period/runtime discarded.",
            ),
            (
                (asked.cpuset_cpus.is_some() || asked.cpuset_mems.is_some()) && !self.cpuset,
                "cpuset_cpus",
                "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.",
            ),
            (
                asked.pids_limit.is_some_and(|limit| limit > 0) && !self.pids,
                "pids_limit",
                "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
            ),
            (
                asked.blkio_weight.is_some_and(|w| w != 0) && !self.blkio_weight,
                "blkio_weight",
                "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
            ),
            (
                !asked.blkio_weight_device.is_empty() && !self.blkio_weight_device,
                "blkio_weight_device",
                "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
            ),
            (
                !asked.blkio_read_bps.is_empty() && !self.blkio_throttle,
                "blkio_read_bps",
                "Your kernel does not support BPS Block I/O read limit or the cgroup is not mounted. Block I/O BPS read limit discarded.",
            ),
            (
                !asked.blkio_write_bps.is_empty() && !self.blkio_throttle,
                "blkio_write_bps",
                "Your kernel does not support BPS Block I/O write limit or the cgroup is not mounted. Block I/O BPS write limit discarded.",
            ),
            (
                !asked.blkio_read_iops.is_empty() && !self.blkio_throttle,
                "blkio_read_iops",
                "Your kernel does not support IOPS Block read limit or the cgroup is not mounted. Block I/O IOPS read limit discarded.",
            ),
            (
                !asked.blkio_write_iops.is_empty() && !self.blkio_throttle,
                "blkio_write_iops",
                "Your kernel does not support IOPS Block write limit or the cgroup is not mounted. Block I/O IOPS write limit discarded.",
            ),
        ];
        checks
            .into_iter()
            .filter(|(applies, ..)| *applies)
            .map(|(_, field, text)| Warning { field, text })
            .collect()
    }

    /// Clears in `asked` what [`Support::unsupported`] reports, and reports it.
    pub fn clamp(&self, asked: &mut Resources) -> Vec<Warning> {
        let warnings = self.unsupported(asked);
        for warning in &warnings {
            match warning.field {
                "memory" => {
                    asked.memory = None;
                    asked.memory_swap = None;
                }
                "hugepages" => asked.hugepages.clear(),
                "memory_swap" => asked.memory_swap = Some(-1),
                "memory_reservation" => asked.memory_reservation = None,
                "memory_swappiness" => asked.memory_swappiness = None,
                // The second sentence on this field is advice: the limit itself works.
                "oom_kill_disable" if self.oom_kill_disable => {}
                "oom_kill_disable" => asked.oom_kill_disable = None,
                "cpu_shares" => asked.cpu_shares = None,
                "cpu_quota" => {
                    asked.cpu_period = None;
                    asked.cpu_quota = None;
                    asked.nano_cpus = None;
                }
                "cpu_realtime_runtime" => {
                    asked.cpu_realtime_period = None;
                    asked.cpu_realtime_runtime = None;
                }
                "cpuset_cpus" => {
                    asked.cpuset_cpus = None;
                    asked.cpuset_mems = None;
                }
                "pids_limit" => asked.pids_limit = None,
                "blkio_weight" => asked.blkio_weight = None,
                "blkio_weight_device" => asked.blkio_weight_device.clear(),
                "blkio_read_bps" => asked.blkio_read_bps.clear(),
                "blkio_write_bps" => asked.blkio_write_bps.clear(),
                "blkio_read_iops" => asked.blkio_read_iops.clear(),
                "blkio_write_iops" => asked.blkio_write_iops.clear(),
                _ => {}
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use pouch_types::spec::DeviceValue;

    use super::*;

    fn everything() -> Resources {
        let device = vec![DeviceValue { path: "/dev/vda".into(), value: 1 }];
        Resources {
            memory: Some(1 << 30),
            memory_reservation: Some(1 << 20),
            memory_swap: Some(2 << 30),
            memory_swappiness: Some(10),
            oom_kill_disable: Some(true),
            cpu_shares: Some(512),
            nano_cpus: Some(1),
            cpu_realtime_runtime: Some(1),
            cpuset_cpus: Some("0".into()),
            pids_limit: Some(3),
            blkio_weight: Some(100),
            blkio_weight_device: device.clone(),
            blkio_read_bps: device.clone(),
            blkio_write_bps: device.clone(),
            blkio_read_iops: device.clone(),
            blkio_write_iops: device,
            ..Resources::default()
        }
    }

    #[test]
    fn nothing_supported_leaves_nothing() {
        let mut asked = everything();
        let warnings = Support::default().clamp(&mut asked);
        assert_eq!(warnings.len(), 15);
        assert!(Support::default().unsupported(&asked).is_empty());
        assert_eq!(asked, Resources::default());
    }

    #[test]
    fn everything_supported_warns_of_nothing() {
        let all = Support {
            hugepages: true,
            memory: true,
            swap: true,
            memory_reservation: true,
            swappiness: true,
            oom_kill_disable: true,
            cpu_shares: true,
            cpu_cfs: true,
            cpu_realtime: true,
            cpuset: true,
            pids: true,
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_throttle: true,
            devices: true,
        };
        let mut asked = everything();
        assert!(all.clamp(&mut asked).is_empty());
        assert_eq!(asked, everything());
        let no_limit = Resources { oom_kill_disable: Some(true), ..Resources::default() };
        assert_eq!(all.unsupported(&no_limit).len(), 1);
    }

    #[test]
    fn a_memory_limit_without_swap_accounting_is_said() {
        let support = Support { memory: true, ..Support::default() };
        let asked = Resources { memory: Some(1 << 30), ..Resources::default() };
        let warnings = support.unsupported(&asked);
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].text.ends_with("Memory limited without swap."));
    }
}
