//! Limits of the first version's controllers.

use std::io;
use std::path::Path;

use pouch_types::spec::Resources;

use super::{bandwidth, device, set};
use crate::error::Error;
use crate::file;

pub(super) fn memory(dir: &Path, limits: &Resources) -> Result<(), Error> {
    let memory = limits.memory.filter(|bytes| *bytes != 0).map(|bytes| bytes.to_string());
    let swap = limits.memory_swap.filter(|bytes| *bytes != 0).map(|bytes| bytes.to_string());
    let set_memory = || set(dir, "memory.limit_in_bytes", "memory", memory.as_deref());
    let set_swap = || set(dir, "memory.memsw.limit_in_bytes", "memory_swap", swap.as_deref());
    if raises_swap(dir, limits)? {
        set_swap()?;
        set_memory()?;
    } else {
        set_memory()?;
        set_swap()?;
    }
    let reservation = limits.memory_reservation.map(|bytes| bytes.to_string());
    set(dir, "memory.soft_limit_in_bytes", "memory_reservation", reservation.as_deref())?;
    let swappiness = limits.memory_swappiness.map(|value| value.to_string());
    set(dir, "memory.swappiness", "memory_swappiness", swappiness.as_deref())?;
    let oom = limits.oom_kill_disable.map(|disable| if disable { "1" } else { "0" });
    set(dir, "memory.oom_control", "oom_kill_disable", oom)
}

/// The kernel wants memory ≤ memory and swap after every write: a ceiling that rises is moved
/// before the memory limit, one that falls after it.
fn raises_swap(dir: &Path, limits: &Resources) -> Result<bool, Error> {
    let Some(wanted) = limits.memory_swap.filter(|swap| *swap != 0) else { return Ok(false) };
    let Some(current) = file::limit(&dir.join("memory.memsw.limit_in_bytes"))? else {
        return Ok(false);
    };
    Ok(match (u64::try_from(wanted), current) {
        (Err(_), _) => true,
        (Ok(_), None) => false,
        (Ok(wanted), Some(current)) => wanted > current,
    })
}

pub(super) fn cpu(dir: &Path, limits: &Resources) -> Result<(), Error> {
    let shares = limits.cpu_shares.filter(|s| *s != 0).map(|shares| shares.to_string());
    set(dir, "cpu.shares", "cpu_shares", shares.as_deref())?;

    let (quota, period) = bandwidth(limits);
    // 0 means "no quota" to Docker and is refused by the kernel.
    let quota = quota.map(|quota| if quota <= 0 { -1 } else { quota }.to_string());
    let period = period.map(|period| period.to_string());
    let set_quota = || set(dir, "cpu.cfs_quota_us", "cpu_quota", quota.as_deref());
    let set_period = || set(dir, "cpu.cfs_period_us", "cpu_period", period.as_deref());
    match set_period() {
        // The quota in force is more than a parent allows in the new period: it goes first.
        Err(Error::Refused { source, .. })
            if source.kind() == io::ErrorKind::InvalidInput && quota.is_some() =>
        {
            set_quota()?;
            set_period()?;
        }
        outcome => {
            outcome?;
            set_quota()?;
        }
    }

    let period = limits.cpu_realtime_period.filter(|p| *p != 0).map(|p| p.to_string());
    set(dir, "cpu.rt_period_us", "cpu_realtime_period", period.as_deref())?;
    let runtime = limits.cpu_realtime_runtime.filter(|r| *r != 0).map(|r| r.to_string());
    set(dir, "cpu.rt_runtime_us", "cpu_realtime_runtime", runtime.as_deref())
}

pub(super) fn blkio(dir: &Path, limits: &Resources) -> Result<(), Error> {
    // BFQ's file where the old scheduler (Linux before 5.0) is gone.
    let either = |old: &'static str, bfq: &'static str| {
        if dir.join(old).exists() { old } else { bfq }
    };
    let weight = limits.blkio_weight.filter(|w| *w != 0).map(|weight| weight.to_string());
    set(dir, either("blkio.weight", "blkio.bfq.weight"), "blkio_weight", weight.as_deref())?;
    let tables = [
        (
            either("blkio.weight_device", "blkio.bfq.weight_device"),
            "blkio_weight_device",
            &limits.blkio_weight_device,
        ),
        ("blkio.throttle.read_bps_device", "blkio_read_bps", &limits.blkio_read_bps),
        ("blkio.throttle.write_bps_device", "blkio_write_bps", &limits.blkio_write_bps),
        ("blkio.throttle.read_iops_device", "blkio_read_iops", &limits.blkio_read_iops),
        ("blkio.throttle.write_iops_device", "blkio_write_iops", &limits.blkio_write_iops),
    ];
    for (name, field, values) in tables {
        for value in values {
            let line = format!("{} {}", device(value, field)?, value.value);
            set(dir, name, field, Some(&line))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory in the kernel's place: what is written replaces the text.
    fn fake(memsw: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("memory.memsw.limit_in_bytes"), memsw).unwrap();
        dir
    }

    #[test]
    fn the_ceiling_moves_first_only_upwards() {
        let with = |swap| Resources { memory_swap: Some(swap), ..Resources::default() };
        let dir = fake("1000\n");
        assert!(raises_swap(dir.path(), &with(1001)).unwrap());
        assert!(!raises_swap(dir.path(), &with(1000)).unwrap());
        assert!(raises_swap(dir.path(), &with(-1)).unwrap());
        let dir = fake("9223372036854771712\n");
        assert!(!raises_swap(dir.path(), &with(1001)).unwrap());
        assert!(!raises_swap(dir.path(), &Resources::default()).unwrap());
    }
}
