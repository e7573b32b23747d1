//! The specification's resources as values of cgroup files.
//!
//! Values of version 1 are converted for version 2 as the specification's authors agreed: CPU
//! shares of 2 to 262144 map linearly onto weights of 1 to 10000, block weights of 10 to 1000
//! onto 1 to 10000, and the swap limit of version 1 includes the memory.

use std::path::Path;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources, LinuxThrottleDevice,
};

use super::devices::{self, DEFAULTS, Rule};
use super::{Placement, read, write};
use crate::error::RuntimeError;

/// What the files call "no limit".
const UNLIMITED: &str = "max";

pub(super) fn apply(placement: &Placement, resources: &LinuxResources) -> Result<(), RuntimeError> {
    let writer = Writer { placement };
    if let Some(memory) = resources.memory() {
        writer.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        writer.cpu(cpu)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = limit_or_max(pids.limit());
        writer.set("pids", "pids.max", &limit)?;
    }
    if let Some(block) = resources.block_io() {
        writer.block(block)?;
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = huge.page_size();
        let limit = huge.limit().to_string();
        let file = if placement.unified {
            format!("hugetlb.{size}.max")
        } else {
            format!("hugetlb.{size}.limit_in_bytes")
        };
        writer.set("hugetlb", &file, &limit)?;
    }
    if !placement.unified
        && let Some(network) = resources.network()
    {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            writer.set("net_cls", "net_cls.classid", &class.to_string())?;
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            writer.set("net_prio", "net_prio.ifpriomap", &value)?;
        }
    }
    if placement.unified {
        for (file, value) in resources.unified().iter().flatten() {
            if file.contains('/') {
                return Err(RuntimeError::Invalid(format!("invalid cgroup file {file:?}")));
            }
            writer.set("", file, value)?;
        }
    }
    writer.devices(resources.devices().as_deref().unwrap_or_default())
}

/// Negative and zero mean unlimited.
fn limit_or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { UNLIMITED.to_owned() }
}

/// The part of `swap`, which is memory and swap together, that is swap; none is unlimited.
pub(super) fn swap_alone(limit: Option<i64>, swap: i64) -> Result<Option<u64>, RuntimeError> {
    let invalid = |why: &str| RuntimeError::Invalid(String::from(why));
    match limit {
        _ if swap < 0 => Ok(None),
        Some(limit) if limit > 0 => swap
            .checked_sub(limit)
            .and_then(|swap| u64::try_from(swap).ok())
            .map(Some)
            .ok_or_else(|| invalid("memory and swap together must not be less than memory")),
        _ => Err(invalid("a swap limit needs a memory limit")),
    }
}

/// From version 1's numbers to those of a file.
type Conversion = fn(u64) -> u64;

struct Writer<'a> {
    placement: &'a Placement,
}

impl Writer<'_> {
    fn directory(&self, controller: &str) -> Result<&Path, RuntimeError> {
        self.placement.directory(controller).ok_or_else(|| {
            RuntimeError::Unsupported(format!("a limit of the absent controller {controller}"))
        })
    }

    fn set(&self, controller: &str, file: &str, value: &str) -> Result<(), RuntimeError> {
        write(self.directory(controller)?, file, value)
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), RuntimeError> {
        if self.placement.unified { self.memory_two(memory) } else { self.memory_one(memory) }
    }

    fn memory_one(&self, memory: &LinuxMemory) -> Result<(), RuntimeError> {
        let limit = memory.limit().filter(|limit| *limit != 0);
        let swap = memory.swap().filter(|swap| *swap != 0);
        let set_limit =
            |value: i64| self.set("memory", "memory.limit_in_bytes", &value.to_string());
        let set_swap =
            |value: i64| self.set("memory", "memory.memsw.limit_in_bytes", &value.to_string());
        match (limit, swap) {
            (Some(limit), Some(swap)) => {
                // The kernel keeps memory <= memory + swap at every step: which goes first
                // depends on whether the limits grow or shrink.
                if set_limit(limit).is_ok() {
                    self.swap_if_accounted(swap, set_swap)?;
                } else {
                    self.swap_if_accounted(swap, set_swap)?;
                    set_limit(limit)?;
                }
            }
            (Some(limit), None) => set_limit(limit)?,
            (None, Some(swap)) => self.swap_if_accounted(swap, set_swap)?,
            (None, None) => {}
        }
        if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
            self.set("memory", "memory.soft_limit_in_bytes", &reservation.to_string())?;
        }
        if let Some(swappiness) = memory.swappiness() {
            self.set("memory", "memory.swappiness", &swappiness.to_string())?;
        }
        if memory.disable_oom_killer().unwrap_or(false) {
            self.set("memory", "memory.oom_control", "1")?;
        }
        if let Some(tcp) = memory.kernel_tcp().filter(|tcp| *tcp != 0) {
            self.set("memory", "memory.kmem.tcp.limit_in_bytes", &tcp.to_string())?;
        }
        Ok(())
    }

    /// A kernel without swap accounting lacks the file; the memory limit alone then holds.
    fn swap_if_accounted(
        &self,
        swap: i64,
        set: impl FnOnce(i64) -> Result<(), RuntimeError>,
    ) -> Result<(), RuntimeError> {
        if self.directory("memory")?.join("memory.memsw.limit_in_bytes").exists() {
            set(swap)
        } else {
            Ok(())
        }
    }

    fn memory_two(&self, memory: &LinuxMemory) -> Result<(), RuntimeError> {
        let limit = memory.limit().filter(|limit| *limit != 0);
        if let Some(swap) = memory.swap().filter(|swap| *swap != 0) {
            let value = swap_alone(limit, swap)?;
            let value = value.map_or_else(|| UNLIMITED.to_owned(), |value| value.to_string());
            if self.directory("memory")?.join("memory.swap.max").exists() {
                self.set("memory", "memory.swap.max", &value)?;
            }
        }
        if let Some(limit) = limit {
            self.set("memory", "memory.max", &limit_or_max(limit))?;
        }
        if let Some(reservation) = memory.reservation().filter(|r| *r != 0) {
            self.set("memory", "memory.low", &limit_or_max(reservation))?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), RuntimeError> {
        let shares = cpu.shares().filter(|shares| *shares != 0);
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        if self.placement.unified {
            if let Some(shares) = shares {
                self.set("cpu", "cpu.weight", &weight_of_shares(shares).to_string())?;
            }
            if quota.is_some() || period.is_some() {
                self.quota_two(quota, period)?;
            }
            if let Some(burst) = cpu.burst() {
                self.set("cpu", "cpu.max.burst", &burst.to_string())?;
            }
        } else {
            if let Some(shares) = shares {
                self.set("cpu", "cpu.shares", &shares.to_string())?;
            }
            self.quota_one(quota, period)?;
            if let Some(burst) = cpu.burst() {
                self.set("cpu", "cpu.cfs_burst_us", &burst.to_string())?;
            }
            if let Some(period) = cpu.realtime_period().filter(|p| *p != 0) {
                self.set("cpu", "cpu.rt_period_us", &period.to_string())?;
            }
            if let Some(runtime) = cpu.realtime_runtime().filter(|r| *r != 0) {
                self.set("cpu", "cpu.rt_runtime_us", &runtime.to_string())?;
            }
        }
        if let Some(idle) = cpu.idle() {
            self.set("cpu", "cpu.idle", &idle.to_string())?;
        }
        for (file, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                self.set("cpuset", file, value)?;
            }
        }
        Ok(())
    }

    /// One file holds both: what is not asked for stays as it is.
    fn quota_two(&self, quota: Option<i64>, period: Option<u64>) -> Result<(), RuntimeError> {
        let now = read(self.directory("cpu")?, "cpu.max")?;
        let (quota_now, period_now) = now.trim().split_once(' ').unwrap_or((UNLIMITED, "100000"));
        let quota = quota.map_or_else(|| quota_now.to_owned(), limit_or_max);
        let period = period.map_or_else(|| period_now.to_owned(), |period| period.to_string());
        self.set("cpu", "cpu.max", &format!("{quota} {period}"))
    }

    /// A new period can be too short for the old quota: then the quota goes first.
    fn quota_one(&self, quota: Option<i64>, period: Option<u64>) -> Result<(), RuntimeError> {
        let set_period = || match period {
            Some(period) => self.set("cpu", "cpu.cfs_period_us", &period.to_string()),
            None => Ok(()),
        };
        let set_quota = || match quota {
            Some(quota) => self.set("cpu", "cpu.cfs_quota_us", &quota.to_string()),
            None => Ok(()),
        };
        if set_period().is_ok() {
            set_quota()
        } else {
            set_quota()?;
            set_period()
        }
    }

    fn block(&self, block: &LinuxBlockIo) -> Result<(), RuntimeError> {
        if let Some(weight) = block.weight().filter(|weight| *weight != 0) {
            let (file, convert) = self.weight_file("")?;
            self.set("blkio", &file, &convert(u64::from(weight)).to_string())?;
        }
        for device in block.weight_device().iter().flatten() {
            let Some(weight) = device.weight().filter(|weight| *weight != 0) else { continue };
            let (file, convert) = self.weight_file("_device")?;
            let number = format!("{}:{}", device.major(), device.minor());
            self.set("blkio", &file, &format!("{number} {}", convert(u64::from(weight))))?;
        }
        let throttles = [
            (block.throttle_read_bps_device(), "rbps", "blkio.throttle.read_bps_device"),
            (block.throttle_write_bps_device(), "wbps", "blkio.throttle.write_bps_device"),
            (block.throttle_read_iops_device(), "riops", "blkio.throttle.read_iops_device"),
            (block.throttle_write_iops_device(), "wiops", "blkio.throttle.write_iops_device"),
        ];
        for (devices, key, file) in throttles {
            for device in devices.iter().flatten() {
                self.throttle(device, key, file)?;
            }
        }
        Ok(())
    }

    /// The file for weights, which depends on the I/O scheduler that is built in, and the way from
    /// version 1's numbers to the file's. Version 2 has one file for all devices and for each.
    fn weight_file(&self, of_device: &str) -> Result<(String, Conversion), RuntimeError> {
        let directory = self.directory("blkio")?;
        let candidates: [(String, Conversion); 2] = if self.placement.unified {
            [("io.bfq.weight".into(), std::convert::identity), ("io.weight".into(), io_weight_of)]
        } else {
            [
                (format!("blkio.weight{of_device}"), std::convert::identity),
                (format!("blkio.bfq.weight{of_device}"), std::convert::identity),
            ]
        };
        candidates.into_iter().find(|(file, _)| directory.join(file).exists()).ok_or_else(|| {
            RuntimeError::Unsupported(String::from(
                "a block weight on a kernel without a proportional I/O scheduler",
            ))
        })
    }

    fn throttle(
        &self,
        device: &LinuxThrottleDevice,
        key: &str,
        file: &str,
    ) -> Result<(), RuntimeError> {
        let number = format!("{}:{}", device.major(), device.minor());
        if self.placement.unified {
            self.set("io", "io.max", &format!("{number} {key}={}", device.rate()))
        } else {
            self.set("blkio", file, &format!("{number} {}", device.rate()))
        }
    }

    fn devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<(), RuntimeError> {
        if rules.is_empty() {
            return Ok(());
        }
        if self.placement.unified {
            return devices::attach(self.directory("")?, rules);
        }
        let asked = rules.iter().map(Rule::of);
        for rule in asked.chain(DEFAULTS.into_iter().map(Ok)) {
            let (file, text) = rule?.version_one();
            self.set("devices", file, &text)?;
        }
        Ok(())
    }
}

pub(super) fn io_weight_of(weight: u64) -> u64 {
    1 + weight.saturating_sub(10) * 9999 / 990
}

pub(super) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + ((shares - 2) * 9999) / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_map_onto_the_whole_range_of_weights() {
        assert_eq!(weight_of_shares(0), 1);
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    fn placement(dir: &tempfile::TempDir) -> Placement {
        Placement {
            directories: vec![super::super::Directory::unified(dir.path().to_owned())],
            unified: true,
            scope: None,
        }
    }

    fn unified(resources: serde_json::Value) -> (tempfile::TempDir, Result<(), RuntimeError>) {
        let dir = tempfile::tempdir().unwrap();
        for file in ["memory.max", "memory.swap.max", "memory.low", "cpu.max", "pids.max"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let result = apply(&placement(&dir), &serde_json::from_value(resources).unwrap());
        (dir, result)
    }

    fn value(dir: &tempfile::TempDir, file: &str) -> String {
        std::fs::read_to_string(dir.path().join(file)).unwrap()
    }

    #[test]
    fn version_two_counts_swap_without_memory() {
        let (dir, result) = unified(json!({
            "memory": { "limit": 100, "swap": 150 },
            "cpu": { "quota": 5000, "period": 10000 },
            "pids": { "limit": -1 },
        }));
        result.unwrap();
        assert_eq!(value(&dir, "memory.max"), "100");
        assert_eq!(value(&dir, "memory.swap.max"), "50");
        assert_eq!(value(&dir, "cpu.max"), "5000 10000");
        assert_eq!(value(&dir, "pids.max"), "max");
    }

    #[test]
    fn a_new_quota_keeps_the_period_and_the_other_way_round() {
        for (cpu, wanted) in [
            (json!({ "quota": 7000 }), "7000 20000"),
            (json!({ "period": 50_000 }), "9000 50000"),
            (json!({ "quota": -1 }), "max 20000"),
        ] {
            let (dir, _) = unified(json!({ "cpu": { "quota": 9000, "period": 20_000 } }));
            let resources = serde_json::from_value(json!({ "cpu": cpu })).unwrap();
            apply(&placement(&dir), &resources).unwrap();
            assert_eq!(value(&dir, "cpu.max"), wanted);
        }
    }

    #[test]
    fn block_weights_go_where_the_scheduler_has_them() {
        let weights = json!({ "blockIO": { "weight": 500, "weightDevice": [
            { "major": 8, "minor": 16, "weight": 1000 },
        ] } });
        assert!(unified(weights.clone()).1.is_err());
        let (dir, _) = unified(json!({}));
        std::fs::write(dir.path().join("io.weight"), "").unwrap();
        apply(&placement(&dir), &serde_json::from_value(weights).unwrap()).unwrap();
        // The last of two writes, which a kernel's file would both keep.
        assert_eq!(value(&dir, "io.weight"), "8:16 10000");
    }

    #[test]
    fn less_swap_than_memory_and_paths_as_files_are_refused() {
        assert!(unified(json!({ "memory": { "limit": 100, "swap": 50 } })).1.is_err());
        assert!(unified(json!({ "unified": { "../x": "1" } })).1.is_err());
    }
}
