//! Limits: the part of a host configuration that `update` also changes.

use pouch_docker_types::container::{
    DeviceMapping, DeviceRequest, Resources as Wire, ThrottleDevice, Ulimit as WireUlimit,
    WeightDevice,
};
use pouch_types::spec::{DeviceSpec, DeviceValue, Resources, Ulimit};

use super::value::{bad, clean_path, list, positive, signed, unsupported};
use crate::http::{ApiError, ApiResult};

/// Less cannot hold a process and its page tables.
const MEMORY_MIN: u64 = 6 << 20;

/// setrlimit(2).
const RLIMITS: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// Driver name of device requests that name CDI devices.
const CDI: &str = "cdi";

/// What limits are read for: a change may name one of two that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Create,
    Update,
}

/// Reads limits. Whether the machine can enforce them is the engine's to say.
pub(crate) fn read(mut wire: Wire, purpose: Purpose) -> ApiResult<Resources> {
    let unlimited_pids =
        purpose == Purpose::Update && wire.pids_limit.take_if(|limit| *limit <= 0).is_some();
    refuse_foreign(&wire)?;
    let mut cdi_devices = Vec::new();
    for request in wire.device_requests.unwrap_or_default() {
        cdi_devices.extend(read_request(request)?);
    }
    let resources = Resources {
        memory: positive("Memory", wire.memory)?,
        memory_reservation: positive("MemoryReservation", wire.memory_reservation)?,
        memory_swap: match wire.memory_swap {
            0 => None,
            value if value < -1 => return Err(bad("MemorySwap", value)),
            value => Some(value),
        },
        memory_swappiness: match wire.memory_swappiness {
            None | Some(-1) => None,
            Some(value) => match u64::try_from(value) {
                Ok(value @ 0..=100) => Some(value),
                _ => {
                    return Err(bad(
                        "MemorySwappiness",
                        format_args!("{value}, valid range is 0-100"),
                    ));
                }
            },
        },
        oom_kill_disable: wire.oom_kill_disable.filter(|flag| *flag),
        oom_score_adj: None,
        cpu_shares: positive("CpuShares", wire.cpu_shares)?,
        nano_cpus: positive("NanoCpus", wire.nano_cpus)?,
        cpu_period: positive("CpuPeriod", wire.cpu_period)?,
        cpu_quota: Some(wire.cpu_quota).filter(|quota| *quota != 0),
        cpu_realtime_period: positive("CpuRealtimePeriod", wire.cpu_realtime_period)?,
        cpu_realtime_runtime: Some(wire.cpu_realtime_runtime).filter(|value| *value != 0),
        cpuset_cpus: read_cpuset("CpusetCpus", wire.cpuset_cpus)?,
        cpuset_mems: read_cpuset("CpusetMems", wire.cpuset_mems)?,
        // Taking a limit away differs from leaving it as it is.
        pids_limit: if unlimited_pids { Some(-1) } else { wire.pids_limit.filter(|n| *n > 0) },
        blkio_weight: match wire.blkio_weight {
            0 => None,
            weight @ 10..=1000 => Some(weight),
            _ => return Err(ApiError::invalid("Range of blkio weight is from 10 to 1000")),
        },
        blkio_weight_device: read_weights(wire.blkio_weight_device)?,
        blkio_read_bps: read_throttles("BlkioDeviceReadBps", wire.blkio_device_read_bps)?,
        blkio_write_bps: read_throttles("BlkioDeviceWriteBps", wire.blkio_device_write_bps)?,
        blkio_read_iops: read_throttles("BlkioDeviceReadIOps", wire.blkio_device_read_iops)?,
        blkio_write_iops: read_throttles("BlkioDeviceWriteIOps", wire.blkio_device_write_iops)?,
        ulimits: read_ulimits(wire.ulimits)?,
        devices: wire
            .devices
            .unwrap_or_default()
            .into_iter()
            .map(read_device)
            .collect::<ApiResult<_>>()?,
        device_cgroup_rules: read_rules(wire.device_cgroup_rules)?,
        cdi_devices,
        cgroup_parent: read_cgroup_parent(wire.cgroup_parent)?,
        sysctls: Default::default(),
        hugepages: Default::default(),
        unified: Default::default(),
    };
    check(&resources, purpose)?;
    Ok(resources)
}

/// Fields of other systems or of kernels long gone.
fn refuse_foreign(wire: &Wire) -> ApiResult<()> {
    for (field, set) in [
        ("CpuCount", wire.cpu_count != 0),
        ("CpuPercent", wire.cpu_percent != 0),
        ("IOMaximumIOps", wire.io_maximum_iops != 0),
        ("IOMaximumBandwidth", wire.io_maximum_bandwidth != 0),
    ] {
        if set {
            return Err(bad(field, "it exists on Windows only"));
        }
    }
    for (field, set) in [
        ("KernelMemory", wire.kernel_memory != 0),
        ("KernelMemoryTCP", wire.kernel_memory_tcp != 0),
    ] {
        if set {
            return Err(unsupported(field, "no current kernel has it"));
        }
    }
    Ok(())
}

/// Rules between fields, in dockerd's words.
fn check(resources: &Resources, purpose: Purpose) -> ApiResult<()> {
    let refuse = |why: &str| Err(ApiError::invalid(why));
    if resources.memory.is_some_and(|bytes| bytes < MEMORY_MIN) {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if resources.memory_reservation.is_some_and(|bytes| bytes < MEMORY_MIN) {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if let (Some(memory), Some(reservation)) = (resources.memory, resources.memory_reservation)
        && memory < reservation
    {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if let Some(swap) = resources.memory_swap.and_then(|swap| u64::try_from(swap).ok()) {
        match resources.memory {
            None if purpose == Purpose::Update => {}
            None => {
                return refuse(
                    "You should always set the Memory limit when using Memoryswap limit, see usage",
                );
            }
            Some(memory) if swap < memory => {
                return refuse(
                    "Minimum memoryswap limit should be larger than memory limit, see usage",
                );
            }
            Some(_) => {}
        }
    }
    if resources.nano_cpus.is_some() {
        if resources.cpu_period.is_some() {
            return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set");
        }
        if resources.cpu_quota.is_some() {
            return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
        }
    }
    if resources.cpu_period.is_some_and(|period| !(1000..=1_000_000).contains(&period)) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if resources.cpu_quota.is_some_and(|quota| quota > 0 && quota < 1000) {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    Ok(())
}

/// Writes limits back.
pub(super) fn write(resources: &Resources) -> Wire {
    Wire {
        cpu_shares: signed(resources.cpu_shares),
        memory: signed(resources.memory),
        nano_cpus: signed(resources.nano_cpus),
        cgroup_parent: resources.cgroup_parent.clone(),
        blkio_weight: resources.blkio_weight.unwrap_or(0),
        blkio_weight_device: Some(write_weights(&resources.blkio_weight_device)),
        blkio_device_read_bps: Some(write_throttles(&resources.blkio_read_bps)),
        blkio_device_write_bps: Some(write_throttles(&resources.blkio_write_bps)),
        blkio_device_read_iops: Some(write_throttles(&resources.blkio_read_iops)),
        blkio_device_write_iops: Some(write_throttles(&resources.blkio_write_iops)),
        cpu_period: signed(resources.cpu_period),
        cpu_quota: resources.cpu_quota.unwrap_or(0),
        cpu_realtime_period: signed(resources.cpu_realtime_period),
        cpu_realtime_runtime: resources.cpu_realtime_runtime.unwrap_or(0),
        cpuset_cpus: resources.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: resources.cpuset_mems.clone().unwrap_or_default(),
        devices: Some(resources.devices.iter().map(write_device).collect()),
        device_cgroup_rules: list(resources.device_cgroup_rules.clone()),
        device_requests: write_requests(&resources.cdi_devices),
        kernel_memory: 0,
        kernel_memory_tcp: 0,
        memory_reservation: signed(resources.memory_reservation),
        memory_swap: resources.memory_swap.unwrap_or(0),
        memory_swappiness: resources.memory_swappiness.map(|value| signed(Some(value))),
        oom_kill_disable: Some(resources.oom_kill_disable.unwrap_or_default()),
        pids_limit: resources.pids_limit,
        ulimits: Some(resources.ulimits.iter().map(write_ulimit).collect()),
        cpu_count: 0,
        cpu_percent: 0,
        io_maximum_iops: 0,
        io_maximum_bandwidth: 0,
    }
}

/// List format of cpuset(7): `0-3,7`.
fn read_cpuset(field: &str, text: String) -> ApiResult<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|n| *n < 8192);
    let good = text.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => {
            matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
        }
        None => number(part).is_some(),
    });
    if good { Ok(Some(text)) } else { Err(bad(field, format_args!("'{text}'"))) }
}

fn read_cgroup_parent(path: String) -> ApiResult<String> {
    if path.split('/').any(|part| part == "..") || path.contains('\0') {
        return Err(bad("CgroupParent", format_args!("'{path}'")));
    }
    Ok(path)
}

fn read_weights(devices: Option<Vec<WeightDevice>>) -> ApiResult<Vec<DeviceValue>> {
    const FIELD: &str = "BlkioWeightDevice";
    let mut values = Vec::new();
    for device in devices.unwrap_or_default() {
        if device.weight != 0 && !(10..=1000).contains(&device.weight) {
            return Err(bad(FIELD, format_args!("weight {} is not in 10-1000", device.weight)));
        }
        let path = clean_path(FIELD, &device.path)?;
        values.push(DeviceValue { path, value: u64::from(device.weight) });
    }
    Ok(values)
}

fn write_weights(devices: &[DeviceValue]) -> Vec<WeightDevice> {
    let weight = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    devices
        .iter()
        .map(|device| WeightDevice { path: device.path.clone(), weight: weight(device.value) })
        .collect()
}

fn read_throttles(
    field: &str,
    devices: Option<Vec<ThrottleDevice>>,
) -> ApiResult<Vec<DeviceValue>> {
    devices
        .unwrap_or_default()
        .into_iter()
        .map(|device| {
            Ok(DeviceValue { path: clean_path(field, &device.path)?, value: device.rate })
        })
        .collect()
}

fn write_throttles(devices: &[DeviceValue]) -> Vec<ThrottleDevice> {
    devices
        .iter()
        .map(|device| ThrottleDevice { path: device.path.clone(), rate: device.value })
        .collect()
}

fn read_ulimits(ulimits: Option<Vec<WireUlimit>>) -> ApiResult<Vec<Ulimit>> {
    const FIELD: &str = "Ulimits";
    let mut limits: Vec<Ulimit> = Vec::new();
    for WireUlimit { name, soft, hard } in ulimits.unwrap_or_default() {
        let name = name.to_ascii_lowercase();
        if !RLIMITS.contains(&name.as_str()) {
            return Err(bad(FIELD, format_args!("invalid ulimit type: {name}")));
        }
        if soft < -1 || hard < -1 {
            return Err(bad(FIELD, format_args!("{name}: {soft}:{hard}")));
        }
        let above = hard != -1 && (soft == -1 || soft > hard);
        if above {
            return Err(bad(
                FIELD,
                format_args!("{name}: soft limit must be less than or equal to hard limit"),
            ));
        }
        limits.push(Ulimit { name, soft, hard });
    }
    Ok(limits)
}

fn write_ulimit(limit: &Ulimit) -> WireUlimit {
    WireUlimit { name: limit.name.clone(), soft: limit.soft, hard: limit.hard }
}

fn read_device(device: DeviceMapping) -> ApiResult<DeviceSpec> {
    const FIELD: &str = "Devices";
    let host_path = clean_path(FIELD, &device.path_on_host)?;
    let container_path = match device.path_in_container.as_str() {
        "" => host_path.clone(),
        path => clean_path(FIELD, path)?,
    };
    let permissions = match device.cgroup_permissions.as_str() {
        "" => "rwm",
        given => given,
    };
    if !is_permissions(permissions) {
        return Err(bad(FIELD, format_args!("permissions '{permissions}'")));
    }
    Ok(DeviceSpec { host_path, container_path, permissions: permissions.to_owned() })
}

fn write_device(device: &DeviceSpec) -> DeviceMapping {
    DeviceMapping {
        path_on_host: device.host_path.clone(),
        path_in_container: device.container_path.clone(),
        cgroup_permissions: device.permissions.clone(),
    }
}

/// Up to three different letters of `rwm`.
fn is_permissions(text: &str) -> bool {
    let once = |letter: char| text.matches(letter).count() <= 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c)) && "rwm".chars().all(once)
}

/// `c 1:3 rwm`, `a *:* rwm`.
fn read_rules(rules: Option<Vec<String>>) -> ApiResult<Vec<String>> {
    let rules = rules.unwrap_or_default();
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    for rule in &rules {
        let mut words = rule.split(' ');
        let (kind, numbers, access) = (words.next(), words.next(), words.next());
        let good = matches!(kind, Some("a" | "b" | "c"))
            && numbers
                .and_then(|numbers| numbers.split_once(':'))
                .is_some_and(|(major, minor)| number(major) && number(minor))
            && access.is_some_and(is_permissions)
            && words.next().is_none();
        if !good {
            return Err(bad("DeviceCgroupRules", format_args!("'{rule}'")));
        }
    }
    Ok(rules)
}

/// Only CDI: other drivers are programs of vendors inside dockerd.
fn read_request(request: DeviceRequest) -> ApiResult<Vec<String>> {
    const FIELD: &str = "DeviceRequests";
    if request.driver != CDI {
        return Err(unsupported(
            FIELD,
            format_args!("driver \"{}\"; name devices by CDI instead", request.driver),
        ));
    }
    let ids = request.device_ids.unwrap_or_default();
    let qualified = |id: &String| {
        id.split_once('=').is_some_and(|(kind, name)| kind.contains('/') && !name.is_empty())
    };
    match ids.iter().find(|id| !qualified(id)) {
        Some(id) => Err(bad(FIELD, format_args!("'{id}' is not vendor/class=name"))),
        None => Ok(ids),
    }
}

fn write_requests(devices: &[String]) -> Option<Vec<DeviceRequest>> {
    if devices.is_empty() {
        return None;
    }
    let request = DeviceRequest {
        driver: CDI.to_owned(),
        device_ids: Some(devices.to_vec()),
        ..DeviceRequest::default()
    };
    Some(vec![request])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut Wire)) -> String {
        let mut wire = Wire::default();
        change(&mut wire);
        read(wire, Purpose::Create).unwrap_err().message().to_owned()
    }

    #[test]
    fn zero_and_minus_one_are_unset() {
        let wire = Wire {
            pids_limit: Some(-1),
            memory_swappiness: Some(-1),
            oom_kill_disable: Some(false),
            ..Wire::default()
        };
        assert_eq!(read(wire, Purpose::Create).unwrap(), Resources::default());
    }

    #[test]
    fn a_change_can_lift_the_limit_of_processes() {
        let limit = |pids_limit| {
            let wire = Wire { pids_limit, memory_swap: 1 << 30, ..Wire::default() };
            read(wire, Purpose::Update).unwrap().pids_limit
        };
        assert_eq!((limit(None), limit(Some(0)), limit(Some(7))), (None, Some(-1), Some(7)));
    }

    #[test]
    fn refuses_by_name() {
        assert_eq!(message(|w| w.cpu_count = 1), "invalid CpuCount: it exists on Windows only");
        assert!(message(|w| w.kernel_memory = 1).starts_with("KernelMemory is not supported"));
        assert!(message(|w| w.memory = -1).starts_with("invalid Memory:"));
        assert!(message(|w| w.memory = 1024).contains("6MB"));
        assert!(message(|w| w.memory_swap = 1 << 30).contains("Memory limit"));
        assert!(message(|w| (w.memory, w.memory_swap) = (1 << 30, 1 << 29)).contains("memoryswap"));
        assert!(message(|w| w.memory_swap = -2).contains("MemorySwap"));
        assert!(message(|w| w.memory_swappiness = Some(101)).contains("0-100"));
        assert!(message(|w| (w.nano_cpus, w.cpu_quota) = (1, 5000)).contains("CPU Quota"));
        assert!(message(|w| w.cpu_period = 999).contains("1ms"));
        assert!(message(|w| w.blkio_weight = 5).contains("10 to 1000"));
        assert!(message(|w| w.cpuset_cpus = "3-1".into()).contains("CpusetCpus"));
        assert!(message(|w| w.cpuset_mems = "a".into()).contains("CpusetMems"));
        assert!(message(|w| w.cgroup_parent = "/a/../b".into()).contains("CgroupParent"));
        assert!(message(|w| w.device_cgroup_rules = Some(vec!["c 1:3".into()])).contains("c 1:3"));
        let gpu = DeviceRequest { count: -1, ..DeviceRequest::default() };
        assert!(message(|w| w.device_requests = Some(vec![gpu])).contains("DeviceRequests"));
        let limit = |name: &str, soft, hard| WireUlimit { name: name.into(), soft, hard };
        for wrong in [limit("x", 1, 1), limit("nofile", 2, 1), limit("nofile", -1, 1)] {
            assert!(message(|w| w.ulimits = Some(vec![wrong])).contains("Ulimits"));
        }
    }

    #[test]
    fn devices() {
        let device = DeviceMapping { path_on_host: "/dev/null".into(), ..DeviceMapping::default() };
        let spec = read_device(device).unwrap();
        assert_eq!(spec.container_path, "/dev/null");
        assert_eq!(spec.permissions, "rwm");
        for bad in ["rwx", "rr", "rwmr"] {
            let device = DeviceMapping {
                path_on_host: "/dev/null".into(),
                cgroup_permissions: bad.into(),
                ..DeviceMapping::default()
            };
            assert!(read_device(device).is_err(), "{bad}");
        }
    }
}
