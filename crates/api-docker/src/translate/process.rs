//! What runs in a container: the fields of `Config`.

use std::collections::{BTreeMap, BTreeSet};

use pouch_docker_types::container::{ContainerConfig, Empty, HealthConfig};
use pouch_types::Signal;
use pouch_types::spec::{Attach, ContainerSpec, GroupsPolicy, Healthcheck, ProcessSpec};

use super::value::{bad, clean_path, destination, list};
use super::{network, ports};
use crate::http::{ApiError, ApiResult};

/// The kernel's limit of a host name (`__NEW_UTS_LEN`).
const HOSTNAME_MAX: usize = 64;

/// Durations shorter than this are refused, as by dockerd; 0 means the default.
const PROBE_MIN_NS: i64 = 1_000_000;

/// Fills the spec with what `Config` says.
pub(super) fn read(config: ContainerConfig, spec: &mut ContainerSpec) -> ApiResult<()> {
    let env = config.env.unwrap_or_default();
    if let Some(wrong) = env.iter().find(|v| v.is_empty() || v.starts_with('=') || v.contains('\0'))
    {
        return Err(bad("Env", format_args!("invalid environment variable: {wrong}")));
    }
    let working_dir = match config.working_dir.as_str() {
        "" => String::new(),
        path => clean_path("WorkingDir", path)?,
    };
    for (field, name) in [("Hostname", &config.hostname), ("Domainname", &config.domainname)] {
        if name.len() > HOSTNAME_MAX || name.bytes().any(|b| b.is_ascii_whitespace() || b == 0) {
            return Err(bad(field, "at most 64 characters and no spaces"));
        }
    }
    spec.process = ProcessSpec {
        entrypoint: config.entrypoint.map(Vec::from),
        cmd: config.cmd.map(Vec::from).filter(|words| !words.is_empty()),
        env,
        working_dir,
        user: config.user,
        group_add: Vec::new(),
        groups: GroupsPolicy::default(),
        tty: config.tty,
        open_stdin: config.open_stdin,
        stdin_once: config.stdin_once,
        attach: Attach {
            stdin: config.attach_stdin,
            stdout: config.attach_stdout,
            stderr: config.attach_stderr,
        },
    };
    spec.image_name = config.image;
    spec.labels = config.labels;
    spec.hostname = config.hostname;
    spec.domainname = config.domainname;
    spec.stop_signal = match config.stop_signal.as_str() {
        "" => None,
        name => Some(name.parse::<Signal>().map_err(|error| bad("StopSignal", error))?),
    };
    spec.stop_timeout = config.stop_timeout;
    spec.healthcheck = config.healthcheck.map(read_health).transpose()?;
    spec.exposed_ports = ports::read_set("ExposedPorts", config.exposed_ports.keys())?;
    spec.volumes = config
        .volumes
        .unwrap_or_default()
        .keys()
        .map(|path| destination("Volumes", path))
        .collect::<ApiResult<BTreeSet<_>>>()?;
    spec.network_disabled = config.network_disabled;
    spec.network.mac_address = network::read_mac("MacAddress", &config.mac_address)?;
    Ok(())
}

/// `Config` as inspect shows it.
pub(crate) fn write(spec: &ContainerSpec) -> ContainerConfig {
    let process = &spec.process;
    let set = |keys: Vec<String>| -> BTreeMap<String, Empty> {
        keys.into_iter().map(|key| (key, Empty {})).collect()
    };
    let volumes = set(spec.volumes.iter().cloned().collect());
    ContainerConfig {
        hostname: spec.hostname.clone(),
        domainname: spec.domainname.clone(),
        user: process.user.clone(),
        attach_stdin: process.attach.stdin,
        attach_stdout: process.attach.stdout,
        attach_stderr: process.attach.stderr,
        exposed_ports: set(spec
            .exposed_ports
            .iter()
            .map(|port| ports::write_port(*port))
            .collect()),
        tty: process.tty,
        open_stdin: process.open_stdin,
        stdin_once: process.stdin_once,
        env: list(process.env.clone()),
        cmd: process.cmd.clone().map(Into::into),
        healthcheck: spec.healthcheck.as_ref().map(write_health),
        args_escaped: false,
        image: spec.image_name.clone(),
        volumes: (!volumes.is_empty()).then_some(volumes),
        working_dir: process.working_dir.clone(),
        // `[]`, which takes the image's away, and none are the same once it is taken away.
        entrypoint: process.entrypoint.clone().and_then(list).map(Into::into),
        network_disabled: spec.network_disabled,
        mac_address: spec.network.mac_address.clone().unwrap_or_default(),
        on_build: None,
        labels: spec.labels.clone(),
        stop_signal: spec.stop_signal.map(|signal| signal.to_string()).unwrap_or_default(),
        stop_timeout: spec.stop_timeout,
        shell: None,
    }
}

fn read_health(health: HealthConfig) -> ApiResult<Healthcheck> {
    match health.test.first().map(String::as_str) {
        None | Some("" | "NONE" | "CMD" | "CMD-SHELL") => {}
        Some(other) => {
            return Err(bad("Healthcheck.Test", format_args!("unknown kind '{other}'")));
        }
    }
    for (field, value) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if value != 0 && value < PROBE_MIN_NS {
            return Err(ApiError::invalid(format!(
                "{field} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    let retries = u32::try_from(health.retries)
        .map_err(|_| ApiError::invalid("Retries in Healthcheck cannot be negative"))?;
    Ok(Healthcheck {
        test: health.test,
        interval_ns: health.interval,
        timeout_ns: health.timeout,
        start_period_ns: health.start_period,
        start_interval_ns: health.start_interval,
        retries,
    })
}

fn write_health(health: &Healthcheck) -> HealthConfig {
    HealthConfig {
        test: health.test.clone(),
        interval: health.interval_ns,
        timeout: health.timeout_ns,
        start_period: health.start_period_ns,
        start_interval: health.start_interval_ns,
        retries: i64::from(health.retries),
    }
}
