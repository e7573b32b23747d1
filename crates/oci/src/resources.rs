//! Limits: checked with Docker's bounds and in Docker's words, then in the specification's form.

use std::collections::BTreeMap;

use pouch_types::spec::{DeviceValue, Resources as Asked, Ulimit};
use rustix::process::Resource;

use crate::device::{DeviceSource, block_device};
use crate::error::SpecError;
use crate::host::HostFeatures;
use crate::numbers::NumberList;
use crate::spec::{
    BlockIo, Cpu, DeviceRule, HugepageLimit, Memory, Pids, Resources, Rlimit, ThrottleDevice,
    WeightDevice,
};

/// Bytes: less than this and not even the runtime's first process fits.
const MIN_MEMORY: u64 = 6 << 20;
/// Devices with a limit of their own, per kind.
const MAX_DEVICE_VALUES: usize = 1024;

/// Every limit of setrlimit(2), by its name in requests.
pub(crate) const RLIMITS: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

/// The limits of a container. What the machine cannot honour was cleared before, with a warning.
pub(crate) fn resolve(
    asked: &Asked,
    rules: Vec<DeviceRule>,
    host: &HostFeatures,
    devices: &dyn DeviceSource,
) -> Result<Resources, SpecError> {
    Ok(Resources {
        devices: rules,
        memory: memory(asked)?,
        cpu: cpu(asked, host)?,
        pids: asked.pids_limit.map(|limit| Pids { limit: if limit > 0 { limit } else { -1 } }),
        block_io: block_io(asked, devices)?,
        hugepage_limits: hugepages(asked)?,
        unified: unified(asked)?,
    })
}

/// Sizes and files in one request.
const MAX_NAMES: usize = 256;

fn hugepages(asked: &Asked) -> Result<Vec<HugepageLimit>, SpecError> {
    const FIELD: &str = "HugepageLimits";
    let size = |text: &str| {
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| text.strip_suffix(unit));
        digits.is_some_and(|digits| {
            !digits.is_empty() && digits.len() < 8 && digits.bytes().all(|b| b.is_ascii_digit())
        })
    };
    if asked.hugepages.len() > MAX_NAMES || !asked.hugepages.keys().all(|text| size(text)) {
        return Err(SpecError::invalid(FIELD, "sizes of pages are like 2MB"));
    }
    let limit =
        |(size, limit): (&String, &u64)| HugepageLimit { page_size: size.clone(), limit: *limit };
    Ok(asked.hugepages.iter().map(limit).collect())
}

/// Names of files, and no way out of the group's directory.
fn unified(asked: &Asked) -> Result<BTreeMap<String, String>, SpecError> {
    let file = |name: &str| {
        // The group's own affairs are the engine's: who is in it, and what it may give away.
        let controller = name.split_once('.').is_some_and(|(controller, rest)| {
            controller != "cgroup" && !controller.is_empty() && !rest.is_empty()
        });
        controller
            && name.len() < 128
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if asked.unified.len() > MAX_NAMES || !asked.unified.keys().all(|name| file(name)) {
        return Err(SpecError::invalid("Unified", "want files of controllers, like memory.high"));
    }
    Ok(asked.unified.clone())
}

fn signed(field: &'static str, value: u64) -> Result<i64, SpecError> {
    i64::try_from(value).map_err(|_| SpecError::invalid(field, "larger than 9223372036854775807"))
}

fn memory(asked: &Asked) -> Result<Option<Memory>, SpecError> {
    let limit = asked.memory.filter(|bytes| *bytes != 0);
    let reservation = asked.memory_reservation.filter(|bytes| *bytes != 0);
    if limit.is_some_and(|bytes| bytes < MIN_MEMORY) {
        return Err(SpecError::invalid("HostConfig.Memory", "Minimum memory limit allowed is 6MB"));
    }
    if reservation.is_some_and(|bytes| bytes < MIN_MEMORY) {
        return Err(SpecError::invalid(
            "HostConfig.MemoryReservation",
            "Minimum memory reservation allowed is 6MB",
        ));
    }
    if let (Some(limit), Some(reservation)) = (limit, reservation)
        && limit < reservation
    {
        return Err(SpecError::invalid(
            "HostConfig.Memory",
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    if asked.memory_swappiness.is_some_and(|value| value > 100) {
        return Err(SpecError::invalid(
            "HostConfig.MemorySwappiness",
            "valid memory swappiness range is 0-100",
        ));
    }
    let memory = Memory {
        limit: limit.map(|bytes| signed("HostConfig.Memory", bytes)).transpose()?,
        reservation: reservation
            .map(|bytes| signed("HostConfig.MemoryReservation", bytes))
            .transpose()?,
        swap: swap(asked, limit)?,
        swappiness: asked.memory_swappiness,
        disable_oom_killer: asked.oom_kill_disable,
    };
    Ok((memory != Memory::default()).then_some(memory))
}

/// Memory and swap together. Not given, it is twice the memory; -1 leaves the kernel's default of
/// no limit, as does everything without a memory limit.
fn swap(asked: &Asked, limit: Option<u64>) -> Result<Option<i64>, SpecError> {
    const FIELD: &str = "HostConfig.MemorySwap";
    match (asked.memory_swap.unwrap_or(0), limit) {
        (-1, _) | (0, None) => Ok(None),
        (0, Some(limit)) => signed(FIELD, limit.saturating_mul(2)).map(Some),
        (swap, _) if swap < 0 => Err(SpecError::invalid(FIELD, "below -1")),
        (_, None) => Err(SpecError::invalid(
            FIELD,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        )),
        (swap, Some(limit)) if swap.unsigned_abs() < limit => Err(SpecError::invalid(
            FIELD,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        )),
        (swap, Some(_)) => Ok(Some(swap)),
    }
}

fn cpu(asked: &Asked, host: &HostFeatures) -> Result<Option<Cpu>, SpecError> {
    const NANO: &str = "HostConfig.NanoCpus";
    let nano = asked.nano_cpus.filter(|nano| *nano != 0);
    let mut period = asked.cpu_period.filter(|period| *period != 0);
    let mut quota = asked.cpu_quota.filter(|quota| *quota != 0);
    if let Some(nano) = nano {
        if period.is_some() {
            return Err(SpecError::invalid(
                NANO,
                "Conflicting options: Nano CPUs and CPU Period cannot both be set",
            ));
        }
        if quota.is_some_and(|quota| quota > 0) {
            return Err(SpecError::invalid(
                NANO,
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ));
        }
        let cpus = host.cpus.len() as u64;
        if nano > cpus.saturating_mul(1_000_000_000) {
            return Err(SpecError::invalid(
                NANO,
                format!(
                    "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
                ),
            ));
        }
        period = Some(100_000);
        // At most the number of CPUs times the period: far from overflow.
        quota = Some(signed(NANO, nano / 10_000)?);
    }
    if period.is_some_and(|period| !(1_000..=1_000_000).contains(&period)) {
        return Err(SpecError::invalid(
            "HostConfig.CpuPeriod",
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if nano.is_none() && quota.is_some_and(|quota| (1..1_000).contains(&quota)) {
        return Err(SpecError::invalid(
            "HostConfig.CpuQuota",
            "CPU cfs quota can not be less than 1ms (i.e. 1000)",
        ));
    }
    let cpu = Cpu {
        shares: asked.cpu_shares.filter(|shares| *shares != 0),
        quota,
        period,
        realtime_runtime: asked.cpu_realtime_runtime.filter(|runtime| *runtime != 0),
        realtime_period: asked.cpu_realtime_period.filter(|period| *period != 0),
        cpus: cpuset("HostConfig.CpusetCpus", "CPUs", asked.cpuset_cpus.as_deref(), &host.cpus)?,
        mems: cpuset(
            "HostConfig.CpusetMems",
            "memory nodes",
            asked.cpuset_mems.as_deref(),
            &host.mems,
        )?,
    };
    Ok((cpu != Cpu::default()).then_some(cpu))
}

fn cpuset(
    field: &'static str,
    what: &str,
    asked: Option<&str>,
    available: &NumberList,
) -> Result<String, SpecError> {
    let Some(text) = asked else { return Ok(String::new()) };
    let list =
        NumberList::parse(text).map_err(|error| SpecError::invalid(field, error.to_string()))?;
    if !available.contains_all(&list) {
        return Err(SpecError::invalid(
            field,
            format!(
                "Requested {what} are not available - requested {list}, available: {available}"
            ),
        ));
    }
    Ok(list.to_string())
}

fn block_io(asked: &Asked, devices: &dyn DeviceSource) -> Result<Option<BlockIo>, SpecError> {
    const WEIGHT: &str = "HostConfig.BlkioWeight";
    const WEIGHT_DEVICE: &str = "HostConfig.BlkioWeightDevice";
    let weight_of = |field, value: u64| {
        u16::try_from(value)
            .ok()
            .filter(|weight| (10..=1000).contains(weight))
            .ok_or_else(|| SpecError::invalid(field, "Range of blkio weight is from 10 to 1000"))
    };
    let weight = asked
        .blkio_weight
        .filter(|weight| *weight != 0)
        .map(|weight| weight_of(WEIGHT, weight.into()))
        .transpose()?;
    bounded(WEIGHT_DEVICE, &asked.blkio_weight_device)?;
    let weight_device = asked
        .blkio_weight_device
        .iter()
        .map(|value| {
            let (major, minor) = block_device(WEIGHT_DEVICE, &value.path, devices)?;
            Ok(WeightDevice { major, minor, weight: weight_of(WEIGHT_DEVICE, value.value)? })
        })
        .collect::<Result<_, SpecError>>()?;
    let throttle = |field: &'static str, values: &[DeviceValue]| {
        bounded(field, values)?;
        values
            .iter()
            .map(|value| {
                let (major, minor) = block_device(field, &value.path, devices)?;
                Ok(ThrottleDevice { major, minor, rate: value.value })
            })
            .collect::<Result<Vec<_>, SpecError>>()
    };
    let block_io = BlockIo {
        weight,
        weight_device,
        throttle_read_bps_device: throttle("HostConfig.BlkioDeviceReadBps", &asked.blkio_read_bps)?,
        throttle_write_bps_device: throttle(
            "HostConfig.BlkioDeviceWriteBps",
            &asked.blkio_write_bps,
        )?,
        throttle_read_iops_device: throttle(
            "HostConfig.BlkioDeviceReadIOps",
            &asked.blkio_read_iops,
        )?,
        throttle_write_iops_device: throttle(
            "HostConfig.BlkioDeviceWriteIOps",
            &asked.blkio_write_iops,
        )?,
    };
    Ok((block_io != BlockIo::default()).then_some(block_io))
}

fn bounded(field: &'static str, values: &[DeviceValue]) -> Result<(), SpecError> {
    if values.len() > MAX_DEVICE_VALUES {
        return Err(SpecError::invalid(field, "too many devices"));
    }
    Ok(())
}

/// Limits of the process: the request's, then the daemon's where the request has none. What is
/// above a hard limit that cannot be raised here is lowered to it, with a warning.
pub(crate) fn rlimits(
    asked: &[Ulimit],
    defaults: &[Ulimit],
    host: &HostFeatures,
    warnings: &mut Vec<String>,
) -> Result<Vec<Rlimit>, SpecError> {
    const FIELD: &str = "HostConfig.Ulimits";
    let mut limits: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for limit in defaults.iter().chain(asked) {
        let Some((name, _)) = RLIMITS.iter().find(|(name, _)| *name == limit.name) else {
            let shown: String = limit.name.chars().take(64).collect();
            return Err(SpecError::invalid(FIELD, format!("invalid ulimit type: {shown:?}")));
        };
        let bytes = |value: i64| match value {
            -1 => Ok(u64::MAX),
            value => u64::try_from(value)
                .map_err(|_| SpecError::invalid(FIELD, format!("ulimit {name} below -1"))),
        };
        let (soft, hard) = (bytes(limit.soft)?, bytes(limit.hard)?);
        if soft > hard {
            return Err(SpecError::invalid(
                FIELD,
                format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    limit.soft, limit.hard
                ),
            ));
        }
        limits.insert(name, (soft, hard));
    }
    Ok(limits
        .into_iter()
        .map(|(name, (soft, hard))| {
            let ceiling = host.hard_limits.get(name).copied().unwrap_or(u64::MAX);
            if hard > ceiling {
                warnings.push(format!(
                    "The hard limit of ulimit {name} cannot be raised above {ceiling} on this host; it is lowered to that."
                ));
            }
            Rlimit {
                kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
                hard: hard.min(ceiling),
                soft: soft.min(ceiling),
            }
        })
        .collect())
}

/// `oom_score_adj` of the process.
pub(crate) fn oom_score_adj(
    asked: &Asked,
    host: &HostFeatures,
    warnings: &mut Vec<String>,
) -> Result<i32, SpecError> {
    let score = asked.oom_score_adj.unwrap_or(0);
    if !(-1000..=1000).contains(&score) {
        return Err(SpecError::invalid(
            "HostConfig.OomScoreAdj",
            format!("Invalid value {score}, range for oom score adj is [-1000, 1000]"),
        ));
    }
    if score < host.min_oom_score_adj {
        // The daemon itself is above 0 and nobody asked: nothing to say.
        if asked.oom_score_adj.is_some() {
            warnings.push(format!(
                "The oom score adj cannot be lowered below {} on this host; it is raised to that.",
                host.min_oom_score_adj
            ));
        }
        return Ok(host.min_oom_score_adj);
    }
    Ok(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_and_files_of_controllers_are_names_and_nothing_else() {
        let asked = |size: &str, file: &str| Asked {
            hugepages: BTreeMap::from([(size.to_owned(), 4 << 20)]),
            unified: BTreeMap::from([(file.to_owned(), "1".to_owned())]),
            ..Asked::default()
        };
        let good = asked("2MB", "memory.high");
        assert_eq!(hugepages(&good).unwrap()[0].page_size, "2MB");
        assert_eq!(unified(&good).unwrap()["memory.high"], "1");
        for bad in ["", "MB", "2", "2TB", "../2MB", "2.MB"] {
            assert!(hugepages(&asked(bad, "a.b")).is_err(), "{bad}");
        }
        for bad in ["", "cgroup.procs", "../x/memory.high", "memory", ".high", "a.", "memory.\n"] {
            assert!(unified(&asked("2MB", bad)).is_err(), "{bad}");
        }
    }
}
