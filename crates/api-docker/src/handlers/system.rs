//! The daemon itself: version, info, disk usage, events.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use futures::{StreamExt, stream};
use http::StatusCode;
use jiff::Timestamp;
use pouch_containerd::Link;
use pouch_docker_types::system::{
    BackendContainerd, BackendContainers, BackendInfo, Commit, ContainerdInfo,
    ContainerdNamespaces, DiskUsage, IndexInfo, Info, PluginsInfo, RegistryConfig, RuntimeInfo,
    SwarmInfo, Version, VersionComponent, VersionPlatform,
};
use pouch_docker_types::volume::VolumeUsage;
use pouch_engine::{EventKind, Status, system};
use serde_json::Value;

use super::container::summary;
use crate::api::{Api, Shared};
use crate::http::{ApiError, ApiResult, ApiVersion, Query, ok};
use crate::stream::ndjson::{self, Ending};
use crate::translate::{event, image, object, time};

/// What the product calls itself.
const PRODUCT: &str = "pouch";

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/version", get(version))
        .route("/info", get(info))
        .route("/events", get(events))
        .route("/system/df", get(disk_usage))
        // Not Docker's: a path that it will not take.
        .route("/pouch/backend", get(backend))
}

async fn backend(State(api): State<Shared>) -> ApiResult<Response> {
    let facts = api.engine.backend();
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let containers = facts.containers.iter().map(|(kind, (running, total))| {
        let count = BackendContainers { running: number(*running), total: number(*total) };
        (kind.to_string(), count)
    });
    let status = facts.status;
    ok(&BackendInfo {
        backend: status.kind.to_string(),
        version: status.version,
        image_store: "local".to_owned(),
        containerd: status.remote.map(|remote| {
            let (state, since, error) = match remote.link {
                Link::Up { since } => ("connected", since, String::new()),
                Link::Down { since, error } => ("unavailable", since, error),
            };
            BackendContainerd {
                socket: remote.socket.display().to_string(),
                namespace: remote.namespace,
                state: state.to_owned(),
                since: time::write(Some(since)),
                error,
                connections: number(remote.pool.connections),
                open_connections: number(remote.pool.open),
                calls_in_flight: number(remote.pool.in_flight),
            }
        }),
        containers: containers.collect(),
        warnings: facts.warnings,
    })
}

async fn version(State(api): State<Shared>) -> ApiResult<Response> {
    let version = api.engine.version();
    let details = BTreeMap::from([
        ("ApiVersion".to_owned(), ApiVersion::MAX.to_string()),
        ("Arch".to_owned(), version.arch.to_owned()),
        ("BuildTime".to_owned(), version.built.clone()),
        ("Experimental".to_owned(), "false".to_owned()),
        ("GitCommit".to_owned(), version.commit.clone()),
        ("GoVersion".to_owned(), version.compiler.clone()),
        ("KernelVersion".to_owned(), version.kernel.clone()),
        ("MinAPIVersion".to_owned(), ApiVersion::MIN.to_string()),
        ("Os".to_owned(), "linux".to_owned()),
    ]);
    ok(&Version {
        platform: VersionPlatform { name: PRODUCT.to_owned() },
        components: vec![VersionComponent {
            name: "Engine".to_owned(),
            version: version.version.clone(),
            details,
        }],
        version: version.version.clone(),
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        git_commit: version.commit.clone(),
        go_version: version.compiler.clone(),
        os: "linux".to_owned(),
        arch: version.arch.to_owned(),
        kernel_version: version.kernel.clone(),
        experimental: Default::default(),
        build_time: version.built.clone(),
    })
}

async fn info(State(api): State<Shared>, version: ApiVersion) -> ApiResult<Response> {
    let facts = api.engine.info().await?;
    let mut info = write_info(&api, facts);
    if version.below(25) {
        // Names alone, without the options behind them.
        for option in &mut info.security_options {
            let name = option.strip_prefix("name=").unwrap_or(option);
            *option = name.split(',').next().unwrap_or_default().to_owned();
        }
    }
    let reply = serde_json::to_value(&info).map_err(|error| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding info: {error}"))
    })?;
    ok(&with_former_fields(reply, version))
}

/// Fields that dockerd no longer has, for clients of versions that do.
fn with_former_fields(mut info: Value, version: ApiVersion) -> Value {
    if version.below(42) {
        // No current kernel limits its own memory by container.
        info["KernelMemory"] = false.into();
        info["KernelMemoryTCP"] = false.into();
    }
    if version.below(49) {
        for program in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            info[program]["Expected"] = info[program]["ID"].clone();
        }
        for list in ["Hostnames", "CIDRs"] {
            let name = format!("AllowNondistributableArtifacts{list}");
            info["RegistryConfig"][name] = Value::Array(Vec::new());
        }
    }
    if version.below(50) {
        for (field, file) in [("BridgeNfIptables", "iptables"), ("BridgeNfIp6tables", "ip6tables")]
        {
            let path = format!("/proc/sys/net/bridge/bridge-nf-call-{file}");
            let on = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
            info[field] = on.into();
        }
    }
    info
}

fn write_info(api: &Api, facts: system::Info) -> Info {
    let config = api.engine.config();
    let count = |status: Status| facts.containers.get(&status).copied().unwrap_or(0);
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let (running, paused) = (count(Status::Running), count(Status::Paused));
    let all: usize = facts.containers.values().sum();
    let mut security = Vec::new();
    if facts.apparmor {
        security.push("name=apparmor".to_owned());
    }
    if facts.seccomp {
        let profile = if config.seccomp_profile.is_some() { "custom" } else { "builtin" };
        security.push(format!("name=seccomp,profile={profile}"));
    }
    if facts.selinux {
        security.push("name=selinux".to_owned());
    }
    if api.defaults.cgroupns == pouch_types::spec::CgroupnsMode::Private {
        security.push("name=cgroupns".to_owned());
    }
    if config.no_new_privileges {
        security.push("name=no-new-privileges".to_owned());
    }
    let runtimes = config
        .runtimes
        .iter()
        .map(|(name, runtime)| {
            let path = runtime.path.as_ref().map(|path| path.display().to_string());
            let info = RuntimeInfo {
                path: path.unwrap_or_else(|| "pouch-runtime".to_owned()),
                runtime_args: runtime.args.clone(),
                runtime_type: String::new(),
            };
            (name.clone(), info)
        })
        .collect();
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    Info {
        id: facts.id,
        containers: number(all),
        containers_running: number(running),
        containers_paused: number(paused),
        containers_stopped: number(all - running - paused),
        images: number(facts.images),
        driver: facts.driver,
        driver_status: vec![["Backing Filesystem".to_owned(), facts.backing_fs]],
        plugins: PluginsInfo {
            volume: words(&["local"]),
            network: words(&["bridge", "host", "null"]),
            authorization: None,
            log: words(&["json-file", "local", "none"]),
        },
        memory_limit: facts.cgroup.memory,
        swap_limit: facts.cgroup.swap,
        cpu_cfs_period: facts.cgroup.cpu_cfs,
        cpu_cfs_quota: facts.cgroup.cpu_cfs,
        cpu_shares: facts.cgroup.cpu_shares,
        cpu_set: facts.cgroup.cpuset,
        pids_limit: facts.cgroup.pids,
        ipv4_forwarding: facts.ipv4_forwarding,
        debug: api.config.debug,
        n_fd: number(std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)),
        oom_kill_disable: facts.cgroup.oom_kill_disable,
        n_goroutines: number(tokio::runtime::Handle::current().metrics().num_alive_tasks()),
        system_time: time::write(Some(Timestamp::now())),
        logging_driver: config.default_log.driver.as_str().to_owned(),
        cgroup_driver: match config.cgroup_driver {
            pouch_containerd::CgroupDriver::Cgroupfs => "cgroupfs".to_owned(),
            pouch_containerd::CgroupDriver::Systemd => "systemd".to_owned(),
        },
        cgroup_version: facts.cgroup_version.to_owned(),
        n_events_listener: 0,
        kernel_version: api.engine.version().kernel.clone(),
        operating_system: facts.operating_system,
        os_version: facts.os_version,
        os_type: "linux".to_owned(),
        architecture: facts.machine,
        index_server_address: "https://index.docker.io/v1/".to_owned(),
        registry_config: registries(api),
        ncpu: number(facts.cpus),
        mem_total: i64::try_from(facts.memory).unwrap_or(i64::MAX),
        generic_resources: None,
        docker_root_dir: config.data_root.display().to_string(),
        http_proxy: String::new(),
        https_proxy: String::new(),
        no_proxy: String::new(),
        name: facts.hostname,
        labels: config.labels.clone(),
        experimental_build: Default::default(),
        server_version: api.engine.version().version.clone(),
        runtimes,
        default_runtime: config.default_runtime.clone(),
        swarm: SwarmInfo { local_node_state: "inactive".to_owned(), ..SwarmInfo::default() },
        // Containers always survive the daemon.
        live_restore_enabled: true,
        isolation: String::new(),
        init_binary: config.init_binary.display().to_string(),
        containerd_commit: Commit::default(),
        runc_commit: Commit::default(),
        init_commit: Commit::default(),
        security_options: security,
        product_license: String::new(),
        default_address_pools: Vec::new(),
        firewall_backend: None,
        cdi_spec_dirs: config.cdi_spec_dirs.iter().map(|dir| dir.display().to_string()).collect(),
        containerd: api.engine.backend().status.remote.map(|remote| ContainerdInfo {
            address: remote.socket.display().to_string(),
            namespaces: ContainerdNamespaces {
                containers: remote.namespace.clone(),
                plugins: remote.namespace,
            },
        }),
        warnings: (!facts.warnings.is_empty()).then_some(facts.warnings),
    }
}

fn registries(api: &Api) -> RegistryConfig {
    let hub = IndexInfo {
        name: "docker.io".to_owned(),
        mirrors: api.config.registry_mirrors.clone(),
        secure: true,
        official: true,
    };
    let insecure = api.config.insecure_registries.iter();
    let (networks, hosts): (Vec<_>, Vec<_>) = insecure.cloned().partition(|r| r.contains('/'));
    let mut index_configs = BTreeMap::from([(hub.name.clone(), hub)]);
    for name in hosts {
        let index = IndexInfo { name: name.clone(), ..IndexInfo::default() };
        index_configs.insert(name, index);
    }
    let mut insecure_registry_cidrs = networks;
    insecure_registry_cidrs.extend(["::1/128".to_owned(), "127.0.0.0/8".to_owned()]);
    RegistryConfig {
        insecure_registry_cidrs,
        index_configs,
        mirrors: api.config.registry_mirrors.clone(),
    }
}

async fn events(State(api): State<Shared>, query: Query) -> ApiResult<Response> {
    let filters = query.filters(&event::KEYS)?;
    let now = Timestamp::now();
    let border = |name: &str| query.get(name).map(|text| time::read(name, text, now)).transpose();
    let (since, until) = (border("since")?, border("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::invalid("`since` time cannot be after `until` time"));
    }
    for kind in filters.get("type") {
        let known = [
            EventKind::Container,
            EventKind::Image,
            EventKind::Network,
            EventKind::Volume,
            EventKind::Daemon,
        ];
        if known.iter().all(|known| known.as_str() != kind) {
            tracing::debug!(kind, "an event filter for a type that never occurs");
        }
    }
    let listener = api.engine.events(since, until);
    let messages = stream::unfold((listener, filters), |(mut listener, filters)| async move {
        loop {
            let happened = listener.next().await?;
            // SDKs have a closed list of types.
            if happened.kind != EventKind::Pod && event::matches(&filters, &happened) {
                return Some((event::write(&happened), (listener, filters)));
            }
        }
    });
    Ok(ndjson::respond(messages.fuse(), Ending::Line, api.closing()))
}

/// Parts of the disk usage, each of which costs its own walk.
#[derive(Debug, Clone, Copy)]
struct Parts {
    containers: bool,
    images: bool,
    volumes: bool,
    build_cache: bool,
}

impl Parts {
    fn read(query: &Query, version: ApiVersion) -> ApiResult<Self> {
        let all = version.below(42) || !query.has("type");
        let mut parts = Self { containers: all, images: all, volumes: all, build_cache: all };
        for kind in query.all("type") {
            match kind {
                "container" => parts.containers = true,
                "image" => parts.images = true,
                "volume" => parts.volumes = true,
                "build-cache" => parts.build_cache = true,
                other => {
                    return Err(ApiError::invalid(format!("unknown object type: {other}")));
                }
            }
        }
        Ok(parts)
    }
}

async fn disk_usage(
    State(api): State<Shared>,
    version: ApiVersion,
    query: Query,
) -> ApiResult<Response> {
    let parts = Parts::read(&query, version)?;
    let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let usage = api.engine.disk_usage().await?;
    let views = api.engine.list();
    let containers = parts.containers.then(|| {
        usage
            .containers
            .iter()
            .filter_map(|(id, own, root)| {
                let view = views.iter().find(|view| view.id == *id)?;
                let mut line = summary(&api, view, version);
                (line.size_rw, line.size_root_fs) = (number(*own), number(*root));
                Some(line)
            })
            .collect()
    });
    let images = parts.images.then(|| {
        let used = api.engine.images().usage();
        used.images
            .iter()
            .map(|(found, shared)| {
                let users = views.iter().filter(|view| view.image == found.id).count();
                let users = i64::try_from(users).unwrap_or(i64::MAX);
                image::summary(found, number(*shared), users, version)
            })
            .collect()
    });
    let volumes = parts.volumes.then(|| {
        usage
            .volumes
            .iter()
            .map(|(found, size, users)| {
                let mut line = object::volume(found);
                let ref_count = i64::try_from(*users).unwrap_or(i64::MAX);
                line.usage_data = Some(VolumeUsage { ref_count, size: number(*size) });
                line
            })
            .collect()
    });
    ok(&DiskUsage {
        layers_size: if parts.images { number(usage.layers) } else { 0 },
        images,
        containers,
        volumes,
        build_cache: parts.build_cache.then(Vec::new),
        builder_size: version.below(42).then_some(0),
    })
}
