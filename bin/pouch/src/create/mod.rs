//! From flags to the body of `POST /containers/create`.
//!
//! The client does only what the daemon cannot: it reads files (`--env-file`, `--label-file`,
//! `seccomp=FILE`), takes values from its own environment, makes paths absolute, and splits the
//! short forms of ports, mounts and devices. Whether a value is allowed is the daemon's to say.

mod devices;
mod environment;
mod mounts;
mod network;
mod ports;
mod resources;
mod security;

use std::collections::BTreeMap;
use std::path::Path;

use pouch_docker_types::container::{
    ContainerConfig, ContainerCreate, HealthConfig, HostConfig, LogConfig,
};
use pouch_docker_types::{Empty, StrSlice};

use crate::failure::Failure;
use crate::flags::container::ContainerFlags;
use crate::{terminal, units};

pub(crate) use environment::exec_environment;
pub(crate) use resources::{restart_policy, update_body};

/// Which streams the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
}

impl Streams {
    pub(crate) const NONE: Self = Self { stdin: false, stdout: false, stderr: false };

    /// `-a`, or all output and with `-i` also the input.
    pub(crate) fn of(flags: &ContainerFlags) -> Result<Self, Failure> {
        if flags.attach.is_empty() {
            return Ok(Self { stdin: flags.interactive, stdout: true, stderr: true });
        }
        let mut streams = Self::NONE;
        for name in &flags.attach {
            match name.to_lowercase().as_str() {
                "stdin" => streams.stdin = true,
                "stdout" => streams.stdout = true,
                "stderr" => streams.stderr = true,
                _ => {
                    return Err(Failure::new(format!(
                        "invalid argument {name:?} for --attach: want STDIN, STDOUT or STDERR"
                    )));
                }
            }
        }
        Ok(streams)
    }

    pub(crate) const fn any(self) -> bool {
        self.stdin || self.stdout || self.stderr
    }
}

/// What surrounds the flags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    pub(crate) streams: Streams,
    pub(crate) auto_remove: bool,
    /// Proxy variables of the configuration file.
    pub(crate) proxies: &'a [(String, String)],
}

/// A request with what goes into its query.
#[derive(Debug)]
pub(crate) struct NewContainer {
    pub(crate) body: ContainerCreate,
    pub(crate) name: String,
    pub(crate) platform: String,
}

/// Builds the request.
///
/// # Errors
/// A flag that cannot be read, by its name.
pub(crate) fn build(
    flags: &ContainerFlags,
    around: Surroundings<'_>,
) -> Result<NewContainer, Failure> {
    let (image, command) = flags
        .words
        .split_first()
        .ok_or_else(|| Failure::new("an image is needed: pouch run IMAGE [COMMAND] [ARG...]"))?;
    trusted(flags.disable_content_trust)?;
    if flags.use_api_socket {
        let why = "mount the socket that the container may use with -v";
        return Err(Failure::unsupported("--use-api-socket", why));
    }
    let published = ports::published(&flags.publish, &flags.expose)?;
    let volumes = mounts::volumes(&flags.volume)?;
    let config = ContainerConfig {
        hostname: flags.hostname.clone(),
        domainname: flags.domainname.clone(),
        user: flags.user.clone(),
        attach_stdin: around.streams.stdin,
        attach_stdout: around.streams.stdout,
        attach_stderr: around.streams.stderr,
        exposed_ports: published.exposed,
        tty: flags.tty,
        open_stdin: flags.interactive,
        // Without a terminal the end of the user's input is the end of the process's.
        stdin_once: flags.interactive && around.streams.stdin,
        env: Some(environment::container(&flags.env, &flags.env_file, around.proxies)?),
        cmd: (!command.is_empty()).then(|| StrSlice(command.to_vec())),
        healthcheck: health(flags)?,
        image: image.clone(),
        volumes: Some(volumes.anonymous.into_iter().map(|path| (path, Empty {})).collect()),
        working_dir: flags.workdir.clone(),
        entrypoint: flags.entrypoint.as_ref().map(|word| StrSlice(vec![word.clone()])),
        mac_address: flags.mac_address.clone(),
        labels: environment::labels(&flags.label, &flags.label_file)?,
        stop_signal: flags.stop_signal.clone(),
        stop_timeout: flags.stop_timeout,
        ..ContainerConfig::default()
    };
    let networks = network::attachments(flags)?;
    let security = security::options(&flags.security_opt)?;
    let host = HostConfig {
        binds: Some(volumes.binds),
        container_id_file: flags.cidfile.as_deref().map(lossy).unwrap_or_default(),
        log_config: LogConfig {
            r#type: flags.log_driver.clone(),
            config: pairs(&flags.log_opt, "--log-opt")?,
        },
        network_mode: networks.mode,
        port_bindings: published.bindings,
        restart_policy: restart_policy(&flags.resources.restart)?,
        auto_remove: around.auto_remove,
        volume_driver: flags.volume_driver.clone(),
        volumes_from: list(&flags.volumes_from),
        console_size: match terminal::size() {
            Some(size) if flags.tty => [u32::from(size.rows), u32::from(size.columns)],
            _ => [0, 0],
        },
        annotations: pairs(&flags.annotation, "--annotation")?,
        cap_add: list(&flags.cap_add).map(StrSlice),
        cap_drop: list(&flags.cap_drop).map(StrSlice),
        cgroupns_mode: flags.cgroupns.clone(),
        dns: Some(flags.dns.clone()),
        dns_options: Some(flags.dns_option.clone()),
        dns_search: Some(flags.dns_search.clone()),
        extra_hosts: network::extra_hosts(&flags.add_host)?,
        group_add: list(&flags.group_add),
        ipc_mode: flags.ipc.clone(),
        links: list(&flags.link),
        oom_score_adj: flags.oom_score_adj,
        pid_mode: flags.pid.clone(),
        privileged: flags.privileged,
        publish_all_ports: flags.publish_all,
        readonly_rootfs: flags.read_only,
        security_opt: list(&security.options),
        storage_opt: pairs(&flags.storage_opt, "--storage-opt")?,
        tmpfs: mounts::tmpfs(&flags.tmpfs),
        uts_mode: flags.uts.clone(),
        userns_mode: flags.userns.clone(),
        shm_size: size("--shm-size", &flags.shm_size)?,
        sysctls: pairs(&flags.sysctl, "--sysctl")?,
        runtime: flags.runtime.clone(),
        isolation: flags.isolation.clone(),
        mounts: flags.mount.iter().map(|text| mounts::mount(text)).collect::<Result<_, _>>()?,
        masked_paths: security.unmasked.then(Vec::new),
        readonly_paths: security.unmasked.then(Vec::new),
        init: flags.init,
        resources: resources::of_container(flags)?,
        ..HostConfig::default()
    };
    let body =
        ContainerCreate { config, host_config: Some(host), networking_config: networks.config };
    let platform = match &flags.platform {
        Some(platform) => platform.clone(),
        None => crate::settings::variable("DEFAULT_PLATFORM").unwrap_or_default(),
    };
    Ok(NewContainer { body, name: flags.name.clone(), platform })
}

/// Whether the user is content with images that nobody has signed.
///
/// # Errors
/// For `--disable-content-trust=false`: signatures of that kind are not looked at.
pub(crate) fn trusted(disabled: Option<bool>) -> Result<(), Failure> {
    match disabled {
        Some(false) => {
            let why = "images are checked by digest, not by Docker Content Trust";
            Err(Failure::unsupported("--disable-content-trust=false", why))
        }
        _ => Ok(()),
    }
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn list(items: &[String]) -> Option<Vec<String>> {
    (!items.is_empty()).then(|| items.to_vec())
}

/// Bytes; an empty flag is 0, the daemon's default.
fn size(flag: &str, text: &str) -> Result<i64, Failure> {
    if text.is_empty() {
        return Ok(0);
    }
    units::parse_bytes(text).map_err(|why| Failure::new(format!("{flag}: {why}")))
}

/// `key=value` words; a word without `=` has an empty value.
pub(crate) fn pairs(words: &[String], flag: &str) -> Result<BTreeMap<String, String>, Failure> {
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if key.is_empty() {
                return Err(Failure::new(format!("{flag}: {word:?} has no key: want KEY=VALUE")));
            }
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn health(flags: &ContainerFlags) -> Result<Option<HealthConfig>, Failure> {
    let set = [
        &flags.health_cmd,
        &flags.health_interval,
        &flags.health_timeout,
        &flags.health_start_period,
        &flags.health_start_interval,
    ]
    .iter()
    .any(|text| !text.is_empty())
        || flags.health_retries != 0;
    if flags.no_healthcheck {
        if set {
            return Err(Failure::new("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() }));
    }
    if !set {
        return Ok(None);
    }
    let span = |flag: &str, text: &str| match text {
        "" => Ok(0),
        text => match units::parse_duration(text) {
            Ok(span) if span >= 0 => Ok(span),
            Ok(_) => Err(Failure::new(format!("{flag} cannot be negative"))),
            Err(why) => Err(Failure::new(format!("{flag}: {why}"))),
        },
    };
    if flags.health_retries < 0 {
        return Err(Failure::new("--health-retries cannot be negative"));
    }
    let test = match flags.health_cmd.as_str() {
        "" => Vec::new(),
        line => vec!["CMD-SHELL".to_owned(), line.to_owned()],
    };
    Ok(Some(HealthConfig {
        test,
        interval: span("--health-interval", &flags.health_interval)?,
        timeout: span("--health-timeout", &flags.health_timeout)?,
        start_period: span("--health-start-period", &flags.health_start_period)?,
        start_interval: span("--health-start-interval", &flags.health_start_interval)?,
        retries: flags.health_retries,
    }))
}

#[cfg(test)]
mod tests;
