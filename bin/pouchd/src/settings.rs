//! Flags and file made one, with defaults, checked as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pouch_containerd::CgroupDriver;
use pouch_engine::{EngineConfig, RuntimeConfig};
use pouch_network::{Forwarding, Icc, Masquerade, NetworkConfig, Subnet};
use pouch_registry::{RegistryConfig, RegistryError};
use pouch_types::spec::{CgroupnsMode, LogDriver, LogSpec, Ulimit};

use crate::args::Args;
use crate::backend::BackendSettings;
use crate::config::{ConfigError, FileConfig};
use crate::cri::CriSettings;
use crate::policy::PolicyFile;

/// The runtime that is always there.
const OWN_RUNTIME: &str = "pouch-runtime";

/// Our own directory of `hosts.toml`, which comes before those that are configured.
const HOSTS_DIR: &str = "/etc/pouch/hosts.d";
/// Certificates of registries, where docker has them.
const CERTS_DIR: &str = "/etc/docker/certs.d";

/// Everything that the daemon needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) engine: EngineConfig,
    pub(crate) network: NetworkConfig,
    pub(crate) shim: PathBuf,
    pub(crate) backend: BackendSettings,
    pub(crate) hosts: Vec<Host>,
    pub(crate) group: Option<String>,
    pub(crate) pidfile: PathBuf,
    pub(crate) log_level: String,
    pub(crate) registry: RegistryConfig,
    pub(crate) image_policy: PolicyFile,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) tls: Option<Tls>,
    pub(crate) cri: Option<CriSettings>,
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp(SocketAddr),
    /// Sockets inherited from systemd.
    Inherited,
}

/// Files of mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

fn refuse<T>(message: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value(message.into()))
}

impl Settings {
    pub(crate) fn resolve(args: Args, file: FileConfig) -> Result<Self, ConfigError> {
        refuse_unsupported(&file)?;
        let registry = registry(&args, &file)?;
        let backend = BackendSettings::resolve(&args, &file)?;
        let exec_root = args.exec_root.clone().or_else(|| file.exec_root.clone());
        let exec_root = exec_root.unwrap_or_else(|| "/run/pouch".into());
        let cri = CriSettings::resolve(&args, &file, &exec_root)?;
        let data_root =
            args.data_root.or(file.data_root).unwrap_or_else(|| "/var/lib/pouch".into());
        for (name, path) in [("data-root", &data_root), ("exec-root", &exec_root)] {
            if !path.is_absolute() {
                return refuse(format!("{name} {} is not an absolute path", path.display()));
            }
        }
        let hosts = if args.hosts.is_empty() { file.hosts.unwrap_or_default() } else { args.hosts };
        let hosts = hosts.iter().map(|h| parse_host(h)).collect::<Result<Vec<_>, _>>()?;
        let hosts =
            if hosts.is_empty() { vec![Host::Unix("/var/run/pouchd.sock".into())] } else { hosts };
        let tls = tls(
            &hosts,
            args.tlsverify || file.tlsverify.unwrap_or(false),
            [
                args.tlscacert.or(file.tlscacert),
                args.tlscert.or(file.tlscert),
                args.tlskey.or(file.tlskey),
            ],
        )?;
        let (runtimes, default_runtime) = runtimes(
            &args.runtimes,
            file.runtimes.unwrap_or_default(),
            args.default_runtime.or(file.default_runtime),
        )?;
        let exec_opts = if args.exec_opts.is_empty() {
            file.exec_opts.unwrap_or_default()
        } else {
            args.exec_opts
        };
        let log_opts = pairs("log-opt", &args.log_opts)?;
        let default_log = default_log(
            args.log_driver.or(file.log_driver),
            if log_opts.is_empty() { file.log_opts.unwrap_or_default() } else { log_opts },
        )?;
        let or = |own: Vec<String>, file: Option<Vec<String>>| {
            if own.is_empty() { file.unwrap_or_default() } else { own }
        };
        let mut network = NetworkConfig::new(exec_root.clone());
        if let Some(bridge) = args.bridge.or(file.bridge) {
            if bridge == "none" {
                return refuse("bridge \"none\" is not supported yet");
            }
            network.bridge = bridge;
        }
        if let Some(bip) = args.bip.or(file.bip) {
            let (subnet, gateway) = parse_bip(&bip)?;
            network.subnet = Some(subnet);
            network.gateway = Some(gateway);
        }
        network.mtu = args.mtu.or(file.mtu);
        if file.icc == Some(false) {
            network.icc = Icc::Isolated;
        }
        if file.ip_forward == Some(false) {
            network.forwarding = Forwarding::Leave;
        }
        if file.ip_masq == Some(false) {
            network.masquerade = Masquerade::Off;
        }
        if let Some(ip) = args.ip.or(file.ip) {
            network.default_host_ip = ip;
        }
        let cdi_spec_dirs = cdi_spec_dirs(file.cdi_spec_dirs)?;
        let seccomp_profile = file.seccomp_profile.as_deref().map(read_profile).transpose()?;
        let metrics = args.metrics_addr.or(file.metrics_addr);
        let metrics = metrics
            .map(|text| {
                text.parse().map_err(|_| {
                    ConfigError::Value(format!("metrics-addr {text:?} is not an address and port"))
                })
            })
            .transpose()?;
        let engine = EngineConfig {
            unpack_binary: sibling("pouch-unpack"),
            init_binary: file.init_path.unwrap_or_else(|| sibling("pouch-init")),
            runtimes,
            default_runtime,
            cgroup_driver: cgroup_driver(&exec_opts)?,
            cgroup_parent: args.cgroup_parent.or(file.cgroup_parent).unwrap_or_default(),
            default_log,
            default_ulimits: ulimits(file.default_ulimits.unwrap_or_default())?,
            default_shm_size: file.default_shm_size.map_or(64 << 20, |s| s.0),
            default_stop_timeout: file.default_stop_timeout.unwrap_or(10),
            default_cgroupns: match file.default_cgroupns_mode.as_deref() {
                None => None,
                Some("private") => Some(CgroupnsMode::Private),
                Some("host") => Some(CgroupnsMode::Host),
                Some(other) => return refuse(format!("invalid default-cgroupns-mode {other:?}")),
            },
            init: args.init || file.init.unwrap_or(false),
            no_new_privileges: file.no_new_privileges.unwrap_or(false),
            seccomp_profile,
            cdi_spec_dirs,
            dns: if args.dns.is_empty() { file.dns.unwrap_or_default() } else { args.dns },
            dns_search: or(args.dns_search, file.dns_search),
            dns_options: or(args.dns_opts, file.dns_opts),
            labels: file.labels.unwrap_or_default(),
            data_root,
            exec_root,
        };
        let debug = args.debug || file.debug.unwrap_or(false);
        let log_level = args.log_level.or(file.log_level);
        let log_level =
            log_level.unwrap_or_else(|| if debug { "debug".into() } else { "info".into() });
        if !["trace", "debug", "info", "warn", "error", "fatal"].contains(&&*log_level) {
            return refuse(format!("invalid log-level {log_level:?}"));
        }
        Ok(Self {
            engine,
            network,
            shim: sibling("containerd-shim-pouch-v2"),
            backend,
            hosts,
            group: args.group.or(file.group),
            pidfile: args.pidfile.or(file.pidfile).unwrap_or_else(|| "/var/run/pouchd.pid".into()),
            log_level,
            registry,
            image_policy: PolicyFile::new(args.image_policy.or(file.image_policy)),
            metrics,
            tls,
            cri,
        })
    }
}

/// Known settings that nothing stands behind yet are refused, not swallowed.
fn refuse_unsupported(file: &FileConfig) -> Result<(), ConfigError> {
    if file.authorization_plugins.as_ref().is_some_and(|p| !p.is_empty()) {
        return refuse("authorization-plugins are not supported yet");
    }
    if file.live_restore == Some(false) {
        return refuse("live-restore cannot be switched off: containers always survive the daemon");
    }
    match file.storage_driver.as_deref() {
        None | Some("" | "overlay2" | "overlay") => Ok(()),
        Some(other) => refuse(format!("storage-driver {other:?} is not supported, only overlay2")),
    }
}

fn parse_host(text: &str) -> Result<Host, ConfigError> {
    if let Some(path) = text.strip_prefix("unix://") {
        if path.starts_with('/') {
            return Ok(Host::Unix(path.into()));
        }
    } else if let Some(address) = text.strip_prefix("tcp://") {
        if let Ok(address) = address.trim_end_matches('/').parse() {
            return Ok(Host::Tcp(address));
        }
    } else if text == "fd://" || text == "fd://*" {
        return Ok(Host::Inherited);
    }
    refuse(format!("invalid host {text:?}: want unix:///path, tcp://address:port or fd://"))
}

/// TCP without client certificates would give the machine to everybody who reaches the port.
fn tls(
    hosts: &[Host],
    verify: bool,
    files: [Option<PathBuf>; 3],
) -> Result<Option<Tls>, ConfigError> {
    let tcp = hosts.iter().any(|h| matches!(h, Host::Tcp(_)));
    match files {
        [Some(ca), Some(cert), Some(key)] if verify => Ok(Some(Tls { ca, cert, key })),
        _ if tcp => refuse(
            "tcp:// hosts need tlsverify with tlscacert, tlscert and tlskey: without client \
             certificates anybody who reaches the port owns this machine",
        ),
        _ if verify => refuse("tlsverify needs tlscacert, tlscert and tlskey"),
        _ => Ok(None),
    }
}

/// How registries are spoken to. Files of single registries are read when they are needed, so that
/// a bad one costs its registry and not the daemon; only `--validate` reads them all.
fn registry(args: &Args, file: &FileConfig) -> Result<RegistryConfig, ConfigError> {
    let or = |own: &Vec<String>, file: &Option<Vec<String>>| {
        if own.is_empty() { file.clone().unwrap_or_default() } else { own.clone() }
    };
    let mut hosts_dirs = vec![PathBuf::from(HOSTS_DIR)];
    hosts_dirs.extend(file.registry_hosts_dirs.iter().flatten().cloned());
    let certs_dirs =
        file.registry_certs_dirs.clone().unwrap_or_else(|| vec![PathBuf::from(CERTS_DIR)]);
    for (name, dirs) in [("registry-hosts-dirs", &hosts_dirs), ("registry-certs-dirs", &certs_dirs)]
    {
        if let Some(dir) = dirs.iter().find(|dir| !dir.is_absolute()) {
            return refuse(format!("{name}: {} is not an absolute path", dir.display()));
        }
    }
    let defaults = RegistryConfig::default();
    let attempts = args.max_download_attempts.or(file.max_download_attempts);
    if attempts == Some(0) {
        return refuse("max-download-attempts must be at least 1");
    }
    let mut config = RegistryConfig {
        attempts: attempts.unwrap_or(defaults.attempts),
        insecure: or(&args.insecure_registries, &file.insecure_registries),
        mirrors: or(&args.registry_mirrors, &file.registry_mirrors),
        dragonfly: file.dragonfly.clone().filter(|url| !url.is_empty()),
        ..defaults
    };
    let wrong = |e: RegistryError| ConfigError::Value(pouch_types::error::chain(&e));
    config.validate().map_err(wrong)?;
    (config.hosts_dirs, config.certs_dirs) = (hosts_dirs, certs_dirs);
    if args.validate {
        config.validate().map_err(wrong)?;
    }
    Ok(config)
}

/// Directories of CDI files. One that is empty switches them off, as dockerd has it.
fn cdi_spec_dirs(dirs: Option<Vec<PathBuf>>) -> Result<Vec<PathBuf>, ConfigError> {
    let mut dirs = dirs.unwrap_or_else(|| pouch_cdi::DEFAULT_DIRS.map(PathBuf::from).to_vec());
    if dirs.len() == 1 {
        dirs.retain(|dir| !dir.as_os_str().is_empty());
    }
    match dirs.iter().find(|dir| !dir.is_absolute()) {
        Some(dir) => refuse(format!("cdi-spec-dirs: {:?} is not an absolute path", dir.display())),
        None => Ok(dirs),
    }
}

fn runtimes(
    flags: &[String],
    file: BTreeMap<String, crate::config::RuntimeFile>,
    default: Option<String>,
) -> Result<(BTreeMap<String, RuntimeConfig>, String), ConfigError> {
    let mut runtimes = BTreeMap::new();
    runtimes.insert(OWN_RUNTIME.to_owned(), RuntimeConfig { path: None, args: Vec::new() });
    for name in ["runc", "crun"] {
        if let Some(path) = in_path(name) {
            runtimes.insert(name.to_owned(), RuntimeConfig { path: Some(path), args: Vec::new() });
        }
    }
    let given = pairs("add-runtime", flags)?
        .into_iter()
        .map(|(name, path)| (name, RuntimeConfig { path: Some(path.into()), args: Vec::new() }));
    let from_file = file
        .into_iter()
        .map(|(name, r)| (name, RuntimeConfig { path: Some(r.path), args: r.runtime_args }));
    for (name, runtime) in from_file.chain(given) {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if name.is_empty() || !name.bytes().all(plain) {
            return refuse(format!("invalid runtime name {name:?}"));
        }
        if name == OWN_RUNTIME {
            return refuse(format!("the runtime name {OWN_RUNTIME:?} is reserved"));
        }
        let path = match &runtime.path {
            Some(path) if path.is_absolute() => path.clone(),
            Some(path) => in_path(&path.to_string_lossy()).ok_or_else(|| {
                ConfigError::Value(format!("runtime {name:?}: {} is not in PATH", path.display()))
            })?,
            None => continue,
        };
        runtimes.insert(name, RuntimeConfig { path: Some(path), ..runtime });
    }
    let default = default.unwrap_or_else(|| OWN_RUNTIME.to_owned());
    if !runtimes.contains_key(&default) {
        return refuse(format!("default-runtime {default:?} is not among the runtimes"));
    }
    Ok((runtimes, default))
}

/// A program of ours: beside this one first, else in PATH.
fn sibling(name: &str) -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join(name)));
    match beside {
        Some(path) if path.exists() => path,
        _ => in_path(name).unwrap_or_else(|| name.into()),
    }
}

fn in_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(name.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file())
}

fn pairs(what: &str, list: &[String]) -> Result<BTreeMap<String, String>, ConfigError> {
    list.iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => refuse(format!("invalid {what} {text:?}: want KEY=VALUE")),
        })
        .collect()
}

fn default_log(
    driver: Option<String>,
    options: BTreeMap<String, String>,
) -> Result<LogSpec, ConfigError> {
    let driver = match driver.as_deref() {
        None | Some("json-file") => LogDriver::JsonFile,
        Some("local") => LogDriver::Local,
        Some("none") => LogDriver::None,
        Some(other) => return refuse(format!("log-driver {other:?} is not supported")),
    };
    Ok(LogSpec { driver, options })
}

fn cgroup_driver(options: &[String]) -> Result<CgroupDriver, ConfigError> {
    let mut driver = CgroupDriver::Cgroupfs;
    for option in options {
        driver = match option.as_str() {
            "native.cgroupdriver=cgroupfs" => CgroupDriver::Cgroupfs,
            "native.cgroupdriver=systemd" => CgroupDriver::Systemd,
            other => return refuse(format!("unknown exec-opt {other:?}")),
        };
    }
    Ok(driver)
}

fn ulimits(
    file: BTreeMap<String, crate::config::UlimitConfig>,
) -> Result<Vec<Ulimit>, ConfigError> {
    file.into_iter()
        .map(|(key, limit)| {
            let name = limit.name.unwrap_or(key);
            if limit.hard >= 0 && (limit.soft > limit.hard || limit.soft < 0) {
                return refuse(format!(
                    "default-ulimits: soft limit of {name} is above its hard one"
                ));
            }
            Ok(Ulimit { name, soft: limit.soft, hard: limit.hard })
        })
        .collect()
}

/// `172.30.0.1/16`: the bridge's address and, by its prefix, the subnet.
fn parse_bip(text: &str) -> Result<(Subnet, std::net::Ipv4Addr), ConfigError> {
    let bad = || ConfigError::Value(format!("invalid bip {text:?}: want ADDRESS/PREFIX"));
    let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
    let gateway = address.parse().map_err(|_| bad())?;
    let prefix = prefix.parse().map_err(|_| bad())?;
    let subnet = Subnet::around(gateway, prefix).ok_or_else(bad)?;
    Ok((subnet, gateway))
}

fn read_profile(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn resolve(flags: &[&str], file: &str) -> Result<Settings, String> {
        let args = Args::parse_from([&["pouchd"], flags].concat());
        let file = serde_json::from_str(file).unwrap();
        Settings::resolve(args, file).map_err(|e| e.to_string())
    }

    #[test]
    fn registries_are_configured_as_docker_and_containerd_do() {
        let file = r#"{"registry-mirrors": ["https://m.lan"], "insecure-registries": ["10.0.0.0/8"],
            "registry-hosts-dirs": ["/etc/containerd/certs.d"], "max-download-attempts": 2,
            "dragonfly": "http://127.0.0.1:4001"}"#;
        let registry = resolve(&[], file).unwrap().registry;
        assert_eq!(registry.mirrors, ["https://m.lan"]);
        assert_eq!(registry.insecure, ["10.0.0.0/8"]);
        assert_eq!(registry.attempts, 2);
        assert_eq!(registry.dragonfly.as_deref(), Some("http://127.0.0.1:4001"));
        let dirs = ["/etc/pouch/hosts.d", "/etc/containerd/certs.d"].map(PathBuf::from);
        assert_eq!(registry.hosts_dirs, dirs);
        assert_eq!(registry.certs_dirs, [PathBuf::from("/etc/docker/certs.d")]);
        let registry = resolve(&["--registry-mirror", "http://other"], file).unwrap().registry;
        assert_eq!(registry.mirrors, ["http://other"]);
    }

    #[test]
    fn wrong_registry_settings_are_named() {
        for (file, want) in [
            (r#"{"registry-mirrors": ["m.lan:5000"]}"#, "registry-mirrors: \"m.lan:5000\""),
            (r#"{"registry-mirrors": ["https://m/x"]}"#, "registry-mirrors"),
            (r#"{"dragonfly": "4001"}"#, "dragonfly: \"4001\""),
            (r#"{"registry-hosts-dirs": ["certs.d"]}"#, "registry-hosts-dirs: certs.d"),
            (r#"{"max-download-attempts": 0}"#, "max-download-attempts"),
        ] {
            let error = resolve(&[], file).unwrap_err();
            assert!(error.contains(want), "{file}: {error}");
        }
    }

    #[test]
    fn validation_reads_the_files_of_registries() {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("reg.lan");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("hosts.toml"), "[host.\"https://m\"]\ncapabilities = [\"x\"]")
            .unwrap();
        let path = dir.path().display();
        let file = format!(
            r#"{{"registry-hosts-dirs": ["{path}"], "registry-certs-dirs": ["{path}/none"]}}"#
        );
        assert!(resolve(&[], &file).is_ok(), "a bad file costs its registry, not the daemon");
        let error = resolve(&["--validate"], &file).unwrap_err();
        assert!(error.contains("reg.lan/hosts.toml") && error.contains("capabilities"), "{error}");
    }
}
