//! Writes the limits of [`Resources`] into a group that runs: `docker update`.
//!
//! Only what is given is written. The order within one controller matters, because the kernel
//! checks each value against the others that are in force: memory against memory and swap, quota
//! against period. Values that cannot be meant are refused before the first write.

mod v1;
mod v2;

use std::path::Path;

use pouch_types::spec::{DeviceValue, Resources};

use crate::convert::nano_cpus_to_quota;
use crate::error::Error;
use crate::file;
use crate::group::Cgroup;

impl Cgroup {
    /// Applies limits. On failure those of earlier controllers are in force already, in the order
    /// memory, cpu, cpuset, pids, block I/O.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::NoController`] before anything is written,
    /// [`Error::Refused`] with the kernel's answer, [`Error::NotFound`].
    pub fn update(&self, limits: &Resources) -> Result<(), Error> {
        if !self.exists() {
            return Err(Error::NotFound(self.path().to_owned()));
        }
        check(limits)?;
        self.check_controllers(limits)?;
        if let Some(dir) = self.v1("memory") {
            v1::memory(dir, limits)?;
        } else if let Some(dir) = self.v2_controller("memory") {
            v2::memory(dir, limits)?;
        }
        if let Some(dir) = self.v1("cpu") {
            v1::cpu(dir, limits)?;
        } else if let Some(dir) = self.v2_controller("cpu") {
            v2::cpu(dir, limits)?;
        }
        if let Some(dir) = self.v1("cpuset").or_else(|| self.v2_controller("cpuset")) {
            set(dir, "cpuset.cpus", "cpuset_cpus", limits.cpuset_cpus.as_deref())?;
            set(dir, "cpuset.mems", "cpuset_mems", limits.cpuset_mems.as_deref())?;
        }
        if let Some(dir) = self.v1("pids").or_else(|| self.v2_controller("pids")) {
            let value = limits.pids_limit.map(|limit| match limit {
                ..=0 => "max".to_owned(),
                limit => limit.to_string(),
            });
            set(dir, "pids.max", "pids_limit", value.as_deref())?;
        }
        if let Some(dir) = self.v1("blkio") {
            v1::blkio(dir, limits)?;
        } else if let Some(dir) = self.v2_controller("blkio") {
            v2::io(dir, limits)?;
        }
        Ok(())
    }

    fn check_controllers(&self, limits: &Resources) -> Result<(), Error> {
        let wanted = [
            (limits.memory.is_some(), "memory", "memory"),
            (limits.memory_swap.is_some(), "memory_swap", "memory"),
            (limits.memory_reservation.is_some(), "memory_reservation", "memory"),
            (limits.cpu_shares.is_some(), "cpu_shares", "cpu"),
            (limits.nano_cpus.is_some(), "nano_cpus", "cpu"),
            (limits.cpu_quota.is_some(), "cpu_quota", "cpu"),
            (limits.cpu_period.is_some(), "cpu_period", "cpu"),
            (limits.cpuset_cpus.is_some(), "cpuset_cpus", "cpuset"),
            (limits.cpuset_mems.is_some(), "cpuset_mems", "cpuset"),
            (limits.pids_limit.is_some_and(|limit| limit > 0), "pids_limit", "pids"),
            (limits.blkio_weight.is_some(), "blkio_weight", "blkio"),
            (!limits.blkio_weight_device.is_empty(), "blkio_weight_device", "blkio"),
            (!limits.blkio_read_bps.is_empty(), "blkio_read_bps", "blkio"),
            (!limits.blkio_write_bps.is_empty(), "blkio_write_bps", "blkio"),
            (!limits.blkio_read_iops.is_empty(), "blkio_read_iops", "blkio"),
            (!limits.blkio_write_iops.is_empty(), "blkio_write_iops", "blkio"),
        ];
        for (asked, field, controller) in wanted {
            if asked && self.v1(controller).is_none() && self.v2_controller(controller).is_none() {
                return Err(Error::NoController { field, controller });
            }
        }
        Ok(())
    }
}

/// What no kernel would take, named by field.
fn check(limits: &Resources) -> Result<(), Error> {
    let invalid = |field, detail: &str| Err(Error::Invalid { field, detail: detail.to_owned() });
    if let (Some(memory), Some(swap)) = (limits.memory, limits.memory_swap)
        && u64::try_from(swap).is_ok_and(|swap| swap != 0 && swap < memory)
    {
        return invalid("memory_swap", "memory and swap together are less than the memory limit");
    }
    if limits.memory_swap.is_some_and(|swap| swap < -1) {
        return invalid("memory_swap", "below -1");
    }
    if limits.memory_swappiness.is_some_and(|value| value > 100) {
        return invalid("memory_swappiness", "not within 0-100");
    }
    if limits.nano_cpus.is_some_and(|n| n != 0)
        && (limits.cpu_quota.is_some_and(|q| q > 0) || limits.cpu_period.is_some_and(|p| p != 0))
    {
        return invalid("nano_cpus", "excludes a CPU quota and period");
    }
    for (field, text) in
        [("cpuset_cpus", &limits.cpuset_cpus), ("cpuset_mems", &limits.cpuset_mems)]
    {
        if text.as_ref().is_some_and(|text| !is_cpuset(text)) {
            return invalid(field, "not a list of numbers and ranges");
        }
    }
    if limits.blkio_weight.is_some_and(|w| w != 0 && !(10..=1000).contains(&w)) {
        return invalid("blkio_weight", "not within 10-1000");
    }
    Ok(())
}

/// The alphabet and a length for `cpuset.cpus`; the kernel checks the numbers.
fn is_cpuset(text: &str) -> bool {
    text.len() < 4096 && text.bytes().all(|b| b.is_ascii_digit() || b == b',' || b == b'-')
}

/// Quota and period in microseconds, from whichever way they were given.
fn bandwidth(limits: &Resources) -> (Option<i64>, Option<u64>) {
    match limits.nano_cpus {
        Some(nano) if nano != 0 => {
            let (quota, period) = nano_cpus_to_quota(nano);
            (Some(quota), Some(period))
        }
        _ => (limits.cpu_quota, limits.cpu_period.filter(|period| *period != 0)),
    }
}

fn set(dir: &Path, name: &str, field: &'static str, value: Option<&str>) -> Result<(), Error> {
    let Some(value) = value else { return Ok(()) };
    let path = dir.join(name);
    file::write(&path, value).map_err(|error| match error {
        Error::Io { source, path, .. } => {
            Error::Refused { field, value: value.to_owned(), path, source }
        }
        other => other,
    })
}

/// `major:minor` of a block device node.
fn device(value: &DeviceValue, field: &'static str) -> Result<String, Error> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = std::fs::metadata(&value.path).map_err(Error::io("open", &value.path))?;
    if !found.file_type().is_block_device() {
        return Err(Error::Invalid { field, detail: format!("{} is no block device", value.path) });
    }
    let number = found.rdev();
    Ok(format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(limits: &Resources) -> &'static str {
        match check(limits) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nonsense_is_named() {
        let base = Resources::default();
        check(&base).unwrap();
        assert_eq!(
            field(&Resources { memory: Some(10), memory_swap: Some(9), ..base.clone() }),
            "memory_swap"
        );
        assert_eq!(field(&Resources { memory_swap: Some(-2), ..base.clone() }), "memory_swap");
        assert_eq!(
            field(&Resources { nano_cpus: Some(1), cpu_quota: Some(1), ..base.clone() }),
            "nano_cpus"
        );
        assert_eq!(
            field(&Resources { cpuset_cpus: Some("0\n1".into()), ..base.clone() }),
            "cpuset_cpus"
        );
        assert_eq!(field(&Resources { blkio_weight: Some(9), ..base.clone() }), "blkio_weight");
        check(&Resources { memory: Some(10), memory_swap: Some(-1), ..base }).unwrap();
    }

    #[test]
    fn cpus_are_a_bandwidth() {
        let limits = Resources { nano_cpus: Some(500_000_000), ..Resources::default() };
        assert_eq!(bandwidth(&limits), (Some(50_000), Some(100_000)));
        let limits = Resources { cpu_quota: Some(-1), cpu_period: Some(0), ..Resources::default() };
        assert_eq!(bandwidth(&limits), (Some(-1), None));
    }

    #[test]
    fn only_block_devices() {
        let value = DeviceValue { path: "/dev/null".into(), value: 1 };
        assert!(matches!(device(&value, "blkio_read_bps"), Err(Error::Invalid { .. })));
        let value = DeviceValue { path: "/nowhere".into(), value: 1 };
        assert!(matches!(device(&value, "blkio_read_bps"), Err(Error::Io { .. })));
    }
}
