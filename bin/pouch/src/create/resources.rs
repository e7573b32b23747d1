//! Limits and the restart policy.

use pouch_docker_types::container::{ContainerUpdate, Resources, RestartPolicy, Ulimit};

use super::devices::{self, Rate};
use super::{list, size};
use crate::failure::Failure;
use crate::flags::container::ContainerFlags;
use crate::flags::resources::{ResourceFlags, UpdateFlags};

/// The limits that `update` has too.
fn shared(flags: &ResourceFlags) -> Result<Resources, Failure> {
    let memory_swap = match flags.memory_swap.as_str() {
        "-1" => -1,
        text => size("--memory-swap", text)?,
    };
    Ok(Resources {
        cpu_shares: flags.cpu_shares,
        memory: size("--memory", &flags.memory)?,
        nano_cpus: nano_cpus(&flags.cpus)?,
        blkio_weight: flags.blkio_weight,
        cpu_period: flags.cpu_period,
        cpu_quota: flags.cpu_quota,
        cpu_realtime_period: flags.cpu_rt_period,
        cpu_realtime_runtime: flags.cpu_rt_runtime,
        cpuset_cpus: flags.cpuset_cpus.clone(),
        cpuset_mems: flags.cpuset_mems.clone(),
        kernel_memory: size("--kernel-memory", &flags.kernel_memory)?,
        memory_reservation: size("--memory-reservation", &flags.memory_reservation)?,
        memory_swap,
        pids_limit: flags.pids_limit,
        ..Resources::default()
    })
}

pub(super) fn of_container(flags: &ContainerFlags) -> Result<Resources, Failure> {
    let throttles = |flag, values: &[String], rate| devices::throttles(flag, values, rate);
    let devices = devices::devices(&flags.device, flags.gpus.as_deref())?;
    Ok(Resources {
        cgroup_parent: flags.cgroup_parent.clone(),
        cpu_count: flags.cpu_count,
        cpu_percent: flags.cpu_percent,
        io_maximum_bandwidth: u64::try_from(size("--io-maxbandwidth", &flags.io_maxbandwidth)?)
            .unwrap_or(0),
        io_maximum_iops: flags.io_maxiops,
        blkio_weight_device: devices::weights(&flags.blkio_weight_device)?,
        blkio_device_read_bps: throttles("--device-read-bps", &flags.device_read_bps, Rate::Bytes)?,
        blkio_device_write_bps: throttles(
            "--device-write-bps",
            &flags.device_write_bps,
            Rate::Bytes,
        )?,
        blkio_device_read_iops: throttles(
            "--device-read-iops",
            &flags.device_read_iops,
            Rate::Operations,
        )?,
        blkio_device_write_iops: throttles(
            "--device-write-iops",
            &flags.device_write_iops,
            Rate::Operations,
        )?,
        devices: Some(devices.mappings),
        device_cgroup_rules: list(&flags.device_cgroup_rule),
        device_requests: Some(devices.requests).filter(|requests| !requests.is_empty()),
        memory_swappiness: Some(flags.memory_swappiness),
        oom_kill_disable: Some(flags.oom_kill_disable),
        ulimits: flags
            .ulimit
            .iter()
            .map(|text| ulimit(text))
            .collect::<Result<Vec<_>, _>>()
            .map(Some)?,
        ..shared(&flags.resources)?
    })
}

/// Billionths, exactly: `1.5` is 1500000000.
fn nano_cpus(text: &str) -> Result<i64, Failure> {
    if text.is_empty() {
        return Ok(0);
    }
    let fail = || {
        Failure::new(format!(
            "invalid argument {text:?} for --cpus: want a decimal number with at most nine places"
        ))
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |word: &str| word.bytes().all(|b| b.is_ascii_digit());
    if fraction.len() > 9
        || !digits(whole)
        || !digits(fraction)
        || (whole.is_empty() && fraction.is_empty())
    {
        return Err(fail());
    }
    format!("{whole}{fraction:0<9}").parse().map_err(|_| fail())
}

fn ulimit(text: &str) -> Result<Ulimit, Failure> {
    let fail = || Failure::new(format!("invalid ulimit argument: {text} (want NAME=SOFT[:HARD])"));
    let (name, limits) = text.split_once('=').ok_or_else(fail)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let number = |digits: &str| digits.parse::<i64>().map_err(|_| fail());
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft > hard || soft == -1) {
        return Err(Failure::new(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `no`, `always`, `unless-stopped`, `on-failure[:retries]`.
pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy, Failure> {
    let (name, retries) = match text.split_once(':') {
        Some((name, digits)) => {
            let retries = digits.parse().map_err(|_| {
                Failure::new(
                    "invalid restart policy format: maximum retry count must be an integer",
                )
            })?;
            (name, retries)
        }
        None => (text, 0),
    };
    if name.is_empty() && text.contains(':') {
        return Err(Failure::new("invalid restart policy format: no policy provided before colon"));
    }
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: retries })
}

/// The body of an update.
pub(crate) fn update_body(flags: &UpdateFlags) -> Result<ContainerUpdate, Failure> {
    Ok(ContainerUpdate {
        restart_policy: restart_policy(&flags.resources.restart)?,
        resources: shared(&flags.resources)?,
    })
}
