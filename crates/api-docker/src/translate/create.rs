//! A create request and the specification that it asks for; and `HostConfig` back from that.

use pouch_docker_types::container::{ContainerCreate, HostConfig};
use pouch_types::spec::ContainerSpec;

use super::resources::Purpose;
use super::value::{bad, clean_path, positive, unsupported};
use super::{Defaults, log, mount, namespaces, network, process, resources, restart, security};
use crate::http::{ApiError, ApiResult, ApiVersion};

/// Bytes of /dev/shm that dockerd shows when a container names none.
const SHM_SIZE: u64 = 64 << 20;

/// What a request came to.
#[derive(Debug)]
pub(crate) struct Asked {
    pub spec: ContainerSpec,
    /// What was changed or ignored.
    pub warnings: Vec<String>,
}

/// Reads a create request.
///
/// # Errors
/// 400 for what is malformed or contradictory, 501 for what is known and not honoured.
pub(crate) fn read(
    request: ContainerCreate,
    version: ApiVersion,
    defaults: &Defaults,
) -> ApiResult<Asked> {
    if request == ContainerCreate::default() {
        return Err(ApiError::invalid("config cannot be empty in order to create a container"));
    }
    let mut host = request.host_config.unwrap_or_default();
    let networking = request.networking_config.unwrap_or_default();
    forget_newer(&mut host, version);
    let mut spec = ContainerSpec::default();
    for (field, set) in [
        ("OnBuild", request.config.on_build.as_ref().is_some_and(|lines| !lines.is_empty())),
        ("Shell", request.config.shell.as_ref().is_some_and(|words| !words.0.is_empty())),
    ] {
        if set {
            return Err(unsupported(field, "it is of images and their builds, not of containers"));
        }
    }
    process::read(request.config, &mut spec)?;
    if let Some(health) = spec.healthcheck.as_mut().filter(|_| version.below(44)) {
        health.start_interval_ns = 0;
    }
    refuse_unhonoured(&host)?;
    spec.namespaces = namespaces::read(&host, version)?;
    mount::read(&mut host, version, &mut spec)?;
    let warnings = network::read(&mut host, networking, version, &mut spec)?;
    spec.spelled.container_id_file = std::mem::take(&mut host.container_id_file);
    spec.spelled.security_opt = host.security_opt.clone().unwrap_or_default();
    spec.security = security::read(&mut host)?;
    spec.resources = resources::read(std::mem::take(&mut host.resources), Purpose::Create)?;
    spec.resources.oom_score_adj = read_oom_score(host.oom_score_adj)?;
    spec.resources.sysctls = std::mem::take(&mut host.sysctls);
    if let Some(name) = spec.resources.sysctls.keys().find(|name| !is_sysctl(name)) {
        return Err(bad("Sysctls", format_args!("'{name}'")));
    }
    spec.log = log::read(std::mem::take(&mut host.log_config), &defaults.log)?;
    spec.restart = restart::read(&host.restart_policy)?;
    spec.auto_remove = host.auto_remove;
    if spec.auto_remove && spec.restart != pouch_types::spec::RestartPolicy::No {
        return Err(ApiError::invalid("can't create 'AutoRemove' container with restart policy"));
    }
    spec.annotations = std::mem::take(&mut host.annotations);
    if spec.annotations.keys().any(String::is_empty) {
        return Err(bad("Annotations", "the empty string is not permitted as an annotation key"));
    }
    spec.process.group_add = host.group_add.take().unwrap_or_default();
    if spec.process.group_add.iter().any(String::is_empty) {
        return Err(bad("GroupAdd", "a group is empty"));
    }
    spec.init = host.init;
    spec.runtime = Some(std::mem::take(&mut host.runtime)).filter(|name| !name.is_empty());
    spec.read_only_rootfs = host.readonly_rootfs;
    spec.shm_size = positive("ShmSize", host.shm_size)?;
    spec.console_size = read_console(host.console_size)?;
    Ok(Asked { spec, warnings })
}

/// Fields that a client of an old version cannot have meant.
fn forget_newer(host: &mut HostConfig, version: ApiVersion) {
    if version.below(25) {
        // Such clients remove their containers themselves.
        host.auto_remove = Default::default();
    }
    if version.below(40) {
        host.resources.kernel_memory_tcp = 0;
        host.resources.pids_limit = host.resources.pids_limit.filter(|limit| *limit > 0);
    }
    if version.below(42) {
        host.console_size = [0, 0];
    }
    if version.below(43) {
        host.annotations.clear();
    }
}

/// Fields that are known and have no counterpart.
fn refuse_unhonoured(host: &HostConfig) -> ApiResult<()> {
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(bad("Isolation", format_args!("'{}' exists on Windows only", host.isolation)));
    }
    if !host.storage_opt.is_empty() {
        let keys: Vec<&str> = host.storage_opt.keys().map(String::as_str).collect();
        return Err(unsupported("StorageOpt", keys.join(", ")));
    }
    for (field, paths) in
        [("MaskedPaths", &host.masked_paths), ("ReadonlyPaths", &host.readonly_paths)]
    {
        for path in paths.iter().flatten() {
            clean_path(field, path)?;
        }
    }
    Ok(())
}

fn read_oom_score(score: i64) -> ApiResult<Option<i32>> {
    match i32::try_from(score) {
        Ok(0) => Ok(None),
        Ok(score @ -1000..=1000) => Ok(Some(score)),
        _ => Err(ApiError::invalid(format!(
            "Invalid value {score}, range for oom score adj is [-1000, 1000]"
        ))),
    }
}

/// Names of files below /proc/sys, in either spelling; whether a container may is the engine's.
fn is_sysctl(name: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    !name.is_empty()
        && name.split(['.', '/']).all(|part| !part.is_empty() && part.bytes().all(word))
}

fn read_console([rows, columns]: [u32; 2]) -> ApiResult<Option<(u16, u16)>> {
    if rows == 0 && columns == 0 {
        return Ok(None);
    }
    let cells = |value: u32| u16::try_from(value).map_err(|_| bad("ConsoleSize", value));
    Ok(Some((cells(rows)?, cells(columns)?)))
}

/// `HostConfig` as inspect shows it.
pub(crate) fn write_host(spec: &ContainerSpec, defaults: &Defaults) -> HostConfig {
    let (rows, columns) = spec.console_size.unwrap_or((0, 0));
    let mut host = HostConfig {
        container_id_file: spec.spelled.container_id_file.clone(),
        log_config: log::write(&spec.log),
        restart_policy: restart::write(spec.restart),
        auto_remove: spec.auto_remove,
        console_size: [u32::from(rows), u32::from(columns)],
        annotations: spec.annotations.clone(),
        group_add: super::value::list(spec.process.group_add.clone()),
        oom_score_adj: i64::from(spec.resources.oom_score_adj.unwrap_or(0)),
        readonly_rootfs: spec.read_only_rootfs,
        shm_size: super::value::signed(Some(spec.shm_size.unwrap_or(SHM_SIZE))),
        sysctls: spec.resources.sysctls.clone(),
        runtime: spec.runtime.clone().unwrap_or_else(|| defaults.runtime.clone()),
        init: spec.init,
        resources: resources::write(&spec.resources),
        ..HostConfig::default()
    };
    namespaces::write(&spec.namespaces, defaults, &mut host);
    mount::write(spec, &mut host);
    network::write(spec, &mut host);
    security::write(spec, defaults, &mut host);
    host
}

#[cfg(test)]
#[path = "create_tests.rs"]
mod tests;
