//! Limits of the unified hierarchy.

use std::path::Path;

use pouch_types::spec::Resources;

use super::{bandwidth, device, set};
use crate::convert::{blkio_to_io_weight, shares_to_weight};
use crate::error::Error;
use crate::file;

pub(super) fn memory(dir: &Path, limits: &Resources) -> Result<(), Error> {
    if limits.memory_swappiness.is_some() {
        return Err(invalid("memory_swappiness"));
    }
    if limits.oom_kill_disable == Some(true) {
        return Err(invalid("oom_kill_disable"));
    }
    let memory = limits.memory.filter(|bytes| *bytes != 0);
    let swap = swap(dir, limits)?;
    // Swap first: lowered memory then finds its way out before the kernel kills for it.
    set(dir, "memory.swap.max", "memory_swap", swap.as_deref())?;
    set(dir, "memory.max", "memory", memory.map(|bytes| bytes.to_string()).as_deref())?;
    let reservation = limits.memory_reservation.map(|bytes| bytes.to_string());
    set(dir, "memory.low", "memory_reservation", reservation.as_deref())
}

/// Docker counts memory and swap together, v2 swap alone.
fn swap(dir: &Path, limits: &Resources) -> Result<Option<String>, Error> {
    let Some(together) = limits.memory_swap.filter(|swap| *swap != 0) else { return Ok(None) };
    let Ok(together) = u64::try_from(together) else { return Ok(Some("max".to_owned())) };
    let memory = match limits.memory.filter(|bytes| *bytes != 0) {
        Some(memory) => memory,
        None => file::limit(&dir.join("memory.max"))?.flatten().ok_or_else(|| Error::Invalid {
            field: "memory_swap",
            detail: "needs a memory limit".to_owned(),
        })?,
    };
    let swap = together.checked_sub(memory).ok_or_else(|| Error::Invalid {
        field: "memory_swap",
        detail: "memory and swap together are less than the memory limit".to_owned(),
    })?;
    Ok(Some(swap.to_string()))
}

fn invalid(field: &'static str) -> Error {
    Error::NoController { field, controller: "memory (v1)" }
}

pub(super) fn cpu(dir: &Path, limits: &Resources) -> Result<(), Error> {
    let weight = limits.cpu_shares.filter(|s| *s != 0).map(|s| shares_to_weight(s).to_string());
    set(dir, "cpu.weight", "cpu_shares", weight.as_deref())?;
    let (quota, period) = bandwidth(limits);
    let line = match (quota, period) {
        (None, None) => return Ok(()),
        // One number alone changes the quota and keeps the period.
        (Some(quota), None) => quota_word(quota),
        (Some(quota), Some(period)) => format!("{} {period}", quota_word(quota)),
        (None, Some(period)) => {
            let path = dir.join("cpu.max");
            let current = file::read(&path)?;
            let quota = current.split_whitespace().next().unwrap_or("max");
            format!("{quota} {period}")
        }
    };
    set(dir, "cpu.max", "cpu_quota", Some(&line))
}

fn quota_word(quota: i64) -> String {
    if quota <= 0 { "max".to_owned() } else { quota.to_string() }
}

pub(super) fn io(dir: &Path, limits: &Resources) -> Result<(), Error> {
    let bfq = dir.join("io.bfq.weight").exists();
    let name = if bfq { "io.bfq.weight" } else { "io.weight" };
    let scale = |weight: u16| if bfq { u64::from(weight) } else { blkio_to_io_weight(weight) };
    if let Some(weight) = limits.blkio_weight.filter(|weight| *weight != 0) {
        set(dir, name, "blkio_weight", Some(&scale(weight).to_string()))?;
    }
    for value in &limits.blkio_weight_device {
        let weight = u16::try_from(value.value).map_err(|_| Error::Invalid {
            field: "blkio_weight_device",
            detail: format!("{} is not within 10-1000", value.value),
        })?;
        let line = format!("{} {}", device(value, "blkio_weight_device")?, scale(weight));
        set(dir, name, "blkio_weight_device", Some(&line))?;
    }
    let tables = [
        ("rbps", "blkio_read_bps", &limits.blkio_read_bps),
        ("wbps", "blkio_write_bps", &limits.blkio_write_bps),
        ("riops", "blkio_read_iops", &limits.blkio_read_iops),
        ("wiops", "blkio_write_iops", &limits.blkio_write_iops),
    ];
    for (key, field, values) in tables {
        for value in values {
            let rate = if value.value == 0 { "max".to_owned() } else { value.value.to_string() };
            let line = format!("{} {key}={rate}", device(value, field)?);
            set(dir, "io.max", field, Some(&line))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn text(dir: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn swap_alone() {
        let dir = fake(&[("memory.max", ""), ("memory.swap.max", "")]);
        let with = |memory, memory_swap| Resources { memory, memory_swap, ..Resources::default() };
        memory(dir.path(), &with(Some(100), Some(150))).unwrap();
        assert_eq!(text(&dir, "memory.max"), "100");
        assert_eq!(text(&dir, "memory.swap.max"), "50");
    }

    #[test]
    fn swap_against_the_limit_in_force() {
        let dir = fake(&[("memory.max", "300\n")]);
        let with = |memory_swap| Resources { memory_swap, ..Resources::default() };
        assert_eq!(swap(dir.path(), &with(Some(400))).unwrap().as_deref(), Some("100"));
        assert_eq!(swap(dir.path(), &with(Some(-1))).unwrap().as_deref(), Some("max"));
        assert!(swap(dir.path(), &with(Some(299))).is_err());
        let dir = fake(&[("memory.max", "max\n")]);
        assert!(swap(dir.path(), &with(Some(299))).is_err());
    }

    #[test]
    fn bandwidth_keeps_what_was_not_given() {
        let dir = fake(&[("cpu.max", "max 100000\n"), ("cpu.weight", "")]);
        let limits = Resources { cpu_period: Some(50_000), ..Resources::default() };
        cpu(dir.path(), &limits).unwrap();
        assert!(text(&dir, "cpu.max").starts_with("max 50000"));
    }
}
