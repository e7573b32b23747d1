//! Containers as lists and inspect show them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use pouch_docker_types::container::{
    ContainerInspect, ContainerSummary, Health as WireHealth, HealthResult,
    MountPoint as WireMount, NetworkSettings, NetworkSettingsSummary, Port as WirePort,
    PortBinding, PortMap, State, SummaryHostConfig,
};
use pouch_docker_types::image::GraphDriver;
use pouch_docker_types::network::EndpointSettings;
use pouch_engine::{ContainerView, EndpointView, HealthStatus, MountPoint, Status};
use pouch_types::spec::{LogDriver, MountKind, MountOrigin, NetworkMode, Propagation};

use super::{Defaults, create, mount, network, ports, process, time};
use crate::http::ApiVersion;

/// Name of the storage driver that clients know for overlay mounts.
pub(crate) const STORAGE_DRIVER: &str = "overlay2";

/// The sentence in the STATUS column of `docker ps`.
pub(crate) fn status(view: &ContainerView, now: Timestamp) -> String {
    let sentence = life(view, now);
    match &view.elsewhere {
        None => sentence,
        Some(elsewhere) => format!("{sentence} (backend {})", elsewhere.backend),
    }
}

fn life(view: &ContainerView, now: Timestamp) -> String {
    let state = &view.state;
    let since = |time: Option<Timestamp>| {
        time.map_or_else(String::new, |time| time::human(now.duration_since(time)))
    };
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => {
            let up = format!("Up {}", since(state.started_at));
            match &state.health {
                Some(health) if health.status == HealthStatus::Starting => {
                    format!("{up} (health: starting)")
                }
                Some(health) => format!("{up} ({})", health.status.as_str()),
                None => up,
            }
        }
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at))
        }
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => {
            format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at))
        }
        Status::Dead => "Dead".to_owned(),
    }
}

/// The COMMAND column: words with blanks are quoted.
fn command(view: &ContainerView) -> String {
    let mut line = view.path.clone();
    for word in &view.args {
        line.push(' ');
        if word.contains(' ') {
            line.push_str(&format!("'{word}'"));
        } else {
            line.push_str(word);
        }
    }
    line
}

/// Ports of a list: what is published, then what is only exposed. Ports work while it runs.
pub(crate) fn port_list(view: &ContainerView) -> Vec<WirePort> {
    if !view.state.is_running() {
        return Vec::new();
    }
    let published: Vec<_> = view.endpoints.iter().flat_map(|e| &e.ports).collect();
    let mut list: Vec<WirePort> = published
        .iter()
        .map(|port| WirePort {
            ip: port.host_ip.to_string(),
            private_port: port.container.number,
            public_port: port.host_port,
            r#type: port.container.protocol.as_str().to_owned(),
        })
        .collect();
    for exposed in &view.spec.exposed_ports {
        if published.iter().all(|port| port.container != *exposed) {
            list.push(WirePort {
                ip: String::new(),
                private_port: exposed.number,
                public_port: 0,
                r#type: exposed.protocol.as_str().to_owned(),
            });
        }
    }
    list
}

/// `NetworkSettings.Ports`: exposed ports are `null` unless published.
fn port_map(view: &ContainerView) -> PortMap {
    let mut map = PortMap::new();
    if !view.state.is_running() {
        return map;
    }
    for exposed in &view.spec.exposed_ports {
        map.insert(ports::write_port(*exposed), None);
    }
    for port in view.endpoints.iter().flat_map(|endpoint| &endpoint.ports) {
        map.entry(ports::write_port(port.container)).or_default().get_or_insert_default().push(
            PortBinding {
                host_ip: port.host_ip.to_string(),
                host_port: port.host_port.to_string(),
            },
        );
    }
    map
}

/// What was asked of each attachment, and what it got while there is one.
pub(crate) fn attachments(view: &ContainerView) -> BTreeMap<String, EndpointSettings> {
    let asked = &view.spec.network;
    let mut networks = BTreeMap::new();
    if view.spec.network_disabled || matches!(asked.mode, NetworkMode::Container(_)) {
        return networks;
    }
    for (name, endpoint) in &asked.endpoints {
        networks.insert(name.clone(), network::write_endpoint(endpoint));
    }
    let main = network::write_mode(&asked.mode);
    networks.entry(main).or_default();
    for endpoint in &view.endpoints {
        let asked = [&endpoint.network, &endpoint.network_id]
            .into_iter()
            .find_map(|name| networks.remove(name.as_str()))
            .unwrap_or_default();
        networks.insert(endpoint.network.clone(), got(asked, endpoint, view));
    }
    networks
}

fn got(asked: EndpointSettings, endpoint: &EndpointView, view: &ContainerView) -> EndpointSettings {
    let user_defined = !matches!(endpoint.network.as_str(), "bridge" | "host" | "none");
    // DNS knows containers on networks of users only.
    let dns_names = user_defined.then(|| {
        let mut names = vec![view.name.to_string()];
        names.extend(asked.aliases.iter().flatten().cloned());
        names.push(view.id.short().to_owned());
        names
    });
    EndpointSettings {
        mac_address: endpoint.mac.clone(),
        network_id: endpoint.network_id.clone(),
        endpoint_id: endpoint.endpoint_id.clone(),
        gateway: endpoint.gateway.map(|ip| ip.to_string()).unwrap_or_default(),
        ip_address: endpoint.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ip_prefix_len: i64::from(endpoint.ipv4_prefix),
        dns_names,
        ..asked
    }
}

/// Mounts as lists and inspect show them; `--tmpfs` stands in the host configuration only.
fn mounts(view: &ContainerView) -> Vec<WireMount> {
    let shown = |mount: &&MountPoint| mount.spec.origin != MountOrigin::Tmpfs;
    view.mounts.iter().filter(shown).map(|mount| write_mount(view, mount)).collect()
}

fn write_mount(view: &ContainerView, mount: &MountPoint) -> WireMount {
    let spec = &mount.spec;
    let (kind, propagation) = match spec.kind {
        MountKind::Bind { .. } => {
            ("bind", mount.propagation.map_or("rprivate", Propagation::as_str))
        }
        MountKind::Volume { .. } => ("volume", ""),
        MountKind::Tmpfs { .. } => ("tmpfs", ""),
        MountKind::Image { .. } => ("image", ""),
    };
    WireMount {
        r#type: kind.to_owned(),
        name: mount.volume.clone().unwrap_or_default(),
        source: mount.source.clone(),
        destination: spec.destination.clone(),
        driver: mount.driver.clone().unwrap_or_default(),
        mode: mount::mode(&view.spec, spec),
        rw: !spec.read_only,
        propagation: propagation.to_owned(),
    }
}

/// An entry of `GET /containers/json`. `image` is how the image is called now.
pub(crate) fn summary(
    view: &ContainerView,
    image: String,
    now: Timestamp,
    version: ApiVersion,
) -> ContainerSummary {
    let annotations =
        if version.below(46) { BTreeMap::new() } else { view.spec.annotations.clone() };
    ContainerSummary {
        id: view.id.to_string(),
        names: vec![format!("/{}", view.name)],
        image,
        image_id: view.image.to_string(),
        command: command(view),
        created: view.created.as_second(),
        ports: port_list(view),
        size_rw: 0,
        size_root_fs: 0,
        labels: view.spec.labels.clone(),
        state: view.state.status.as_str().to_owned(),
        status: status(view, now),
        host_config: SummaryHostConfig {
            network_mode: network::write_mode(&view.spec.network.mode),
            annotations,
        },
        network_settings: NetworkSettingsSummary { networks: attachments(view) },
        mounts: mounts(view),
    }
}

fn write_state(view: &ContainerView) -> State {
    let state = &view.state;
    State {
        status: state.status.as_str().to_owned(),
        // dockerd's flags overlap: a paused container runs, a restarting one does too.
        running: matches!(state.status, Status::Running | Status::Paused | Status::Restarting),
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error.clone(),
        started_at: time::write(state.started_at),
        finished_at: time::write(state.finished_at),
        health: state.health.as_ref().map(|health| WireHealth {
            status: health.status.as_str().to_owned(),
            failing_streak: i64::from(health.failing_streak),
            log: health
                .log
                .iter()
                .map(|probe| HealthResult {
                    start: time::write(Some(probe.start)),
                    end: time::write(Some(probe.end)),
                    exit_code: i64::from(probe.exit_code),
                    output: probe.output.clone(),
                })
                .collect(),
        }),
    }
}

fn write_network_settings(view: &ContainerView) -> NetworkSettings {
    let networks = attachments(view);
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    let sandbox_key =
        view.sandbox_key.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    NetworkSettings {
        bridge: String::new(),
        // The namespace has no id of its own; its container's is as unique.
        sandbox_id: if sandbox_key.is_empty() { String::new() } else { view.id.to_string() },
        sandbox_key,
        ports: port_map(view),
        hairpin_mode: Default::default(),
        link_local_ipv6_address: String::new(),
        link_local_ipv6_prefix_len: 0,
        secondary_ip_addresses: None,
        secondary_ipv6_addresses: None,
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
        networks,
    }
}

/// Reply of `GET /containers/{id}/json`.
pub(crate) fn inspect(
    view: &ContainerView,
    defaults: &Defaults,
    version: ApiVersion,
) -> ContainerInspect {
    let file = |name: &str| view.dir.join(name).display().to_string();
    let mut network_settings = write_network_settings(view);
    if version.below(45) {
        // Until then the short id and the host name were among the aliases.
        for (name, endpoint) in &mut network_settings.networks {
            if !matches!(name.as_str(), "bridge" | "host" | "none") {
                let aliases = endpoint.aliases.get_or_insert_default();
                for name in [view.id.short(), view.spec.hostname.as_str()] {
                    if !name.is_empty() && !aliases.iter().any(|alias| alias == name) {
                        aliases.push(name.to_owned());
                    }
                }
            }
        }
    }
    let mut config = process::write(&view.spec);
    if config.hostname.is_empty() && !matches!(view.spec.network.mode, NetworkMode::Container(_)) {
        view.id.short().clone_into(&mut config.hostname);
    }
    let upper = view
        .upper_dir
        .as_ref()
        .map(|dir| BTreeMap::from([("UpperDir".to_owned(), dir.display().to_string())]));
    let security = &view.spec.security;
    ContainerInspect {
        id: view.id.to_string(),
        created: time::write(Some(view.created)),
        path: view.path.clone(),
        args: view.args.clone(),
        state: write_state(view),
        image: view.image.to_string(),
        resolv_conf_path: file("resolv.conf"),
        hostname_path: file("hostname"),
        hosts_path: file("hosts"),
        // Clients may read this file themselves, which only the JSON format is meant for.
        log_path: view
            .log_path
            .as_ref()
            .filter(|_| view.spec.log.driver == LogDriver::JsonFile)
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        name: format!("/{}", view.name),
        restart_count: i64::from(view.restart_count),
        driver: STORAGE_DRIVER.to_owned(),
        platform: "linux".to_owned(),
        mount_label: String::new(),
        process_label: String::new(),
        app_armor_profile: security.apparmor.clone().unwrap_or_default(),
        exec_ids: super::value::list(view.execs.iter().map(ToString::to_string).collect()),
        host_config: create::write_host(&view.spec, defaults),
        graph_driver: GraphDriver { data: upper, name: STORAGE_DRIVER.to_owned() },
        size_rw: None,
        size_root_fs: None,
        mounts: mounts(view),
        config,
        network_settings,
    }
}

#[cfg(test)]
#[path = "container_tests.rs"]
pub(crate) mod tests;
