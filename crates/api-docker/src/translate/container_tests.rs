use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::SignedDuration;
use pouch_engine::{Health, ProbeResult, PublishedPort, StateView};
use pouch_types::spec::{
    CgroupnsMode, ContainerSpec, LogSpec, MountSpec, Port, Protocol, ReadOnlyRecursion,
};
use pouch_types::{Digest, ImageId};

use super::*;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::new(1_700_000_000 + seconds, 0).unwrap()
}

fn defaults() -> Defaults {
    Defaults {
        log: LogSpec::default(),
        runtime: "pouch".to_owned(),
        cgroupns: CgroupnsMode::Private,
        masked: vec!["/proc/kcore".to_owned()],
        read_only: vec!["/proc/sys".to_owned()],
    }
}

const TCP_80: Port = Port { number: 80, protocol: Protocol::Tcp };

/// A container on the bridge that publishes a port and mounts a directory and a volume.
pub(crate) fn running() -> ContainerView {
    let mut spec = ContainerSpec { image_name: "busybox".to_owned(), ..ContainerSpec::default() };
    spec.process.cmd = Some(vec!["httpd".to_owned(), "-f".to_owned()]);
    spec.labels.insert("tier".to_owned(), "front".to_owned());
    spec.exposed_ports.extend([TCP_80, Port { number: 53, protocol: Protocol::Udp }]);
    let bind = MountSpec {
        destination: "/srv".to_owned(),
        kind: MountKind::Bind {
            source: "/data".to_owned(),
            create_source: true,
            non_recursive: false,
            read_only_recursion: ReadOnlyRecursion::Best,
        },
        read_only: true,
        mapped: false,
        propagation: None,
        relabel: None,
        origin: MountOrigin::Binds,
    };
    let tmpfs = MountSpec {
        destination: "/tmp".to_owned(),
        kind: MountKind::Tmpfs { size: None, mode: None, options: vec![] },
        read_only: false,
        mapped: false,
        origin: MountOrigin::Tmpfs,
        ..bind.clone()
    };
    let point = |spec: &MountSpec, source: &str| MountPoint {
        spec: spec.clone(),
        source: source.to_owned(),
        volume: None,
        driver: None,
        anonymous: false,
        image: None,
        propagation: Some(Propagation::Rprivate),
    };
    let mounts = vec![point(&bind, "/data"), point(&tmpfs, "")];
    spec.mounts = vec![bind, tmpfs];
    ContainerView {
        id: "c0ffee00".repeat(8).parse().unwrap(),
        name: "web".parse().unwrap(),
        created: at(0),
        spec: Arc::new(spec),
        image: ImageId(Digest::of(b"image")),
        path: "httpd".to_owned(),
        args: vec!["-f".to_owned(), "-h".to_owned(), "a b".to_owned()],
        state: StateView {
            status: Status::Running,
            pid: 42,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: Some(at(1)),
            finished_at: None,
            health: None,
        },
        restart_count: 0,
        endpoints: vec![EndpointView {
            network: "bridge".to_owned(),
            network_id: "ab".repeat(32),
            endpoint_id: "cd".repeat(32),
            mac: "02:42:ac:11:00:02".to_owned(),
            ipv4: Some(Ipv4Addr::new(172, 17, 0, 2)),
            ipv4_prefix: 16,
            gateway: Some(Ipv4Addr::new(172, 17, 0, 1)),
            ports: vec![PublishedPort {
                container: TCP_80,
                host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                host_port: 8080,
            }],
        }],
        sandbox_key: Some(PathBuf::from("/run/pouch/netns/c0ffee")),
        mounts,
        log_path: Some(PathBuf::from("/var/lib/pouch/containers/c0ffee/log")),
        dir: PathBuf::from("/var/lib/pouch/containers/c0ffee"),
        execs: vec![],
        upper_dir: Some(PathBuf::from("/var/lib/pouch/upper")),
        elsewhere: None,
    }
}

/// The same container, never started.
pub(crate) fn created() -> ContainerView {
    let mut view = running();
    view.state = StateView { status: Status::Created, pid: 0, started_at: None, ..view.state };
    (view.endpoints, view.sandbox_key) = (vec![], None);
    view
}

#[test]
fn a_running_container() {
    let view = running();
    insta::assert_json_snapshot!("inspect_running", inspect(&view, &defaults(), ApiVersion::MAX));
    let now = at(180);
    let line = summary(&view, "busybox".to_owned(), now, ApiVersion::MAX);
    insta::assert_json_snapshot!("list_running", line);
}

#[test]
fn a_container_that_never_ran() {
    let shown = inspect(&created(), &defaults(), ApiVersion::MAX);
    insta::assert_json_snapshot!("state_created", shown.state);
    insta::assert_json_snapshot!("network_settings_created", shown.network_settings);
    assert!(summary(&created(), String::new(), at(5), ApiVersion::MAX).ports.is_empty());
}

#[test]
fn sentences_of_ps() {
    let sentence = |change: &dyn Fn(&mut StateView)| {
        let mut view = running();
        change(&mut view.state);
        status(&view, at(1) + SignedDuration::from_secs(180))
    };
    let ended = |status: Status| {
        move |state: &mut StateView| {
            (state.status, state.exit_code, state.finished_at) = (status, 137, Some(at(121)));
        }
    };
    assert_eq!(sentence(&|_| {}), "Up 3 minutes");
    assert_eq!(sentence(&|state| state.status = Status::Paused), "Up 3 minutes (Paused)");
    assert_eq!(sentence(&|state| state.status = Status::Created), "Created");
    assert_eq!(sentence(&|state| state.status = Status::Removing), "Removal In Progress");
    assert_eq!(sentence(&|state| state.status = Status::Dead), "Dead");
    assert_eq!(sentence(&ended(Status::Exited)), "Exited (137) About a minute ago");
    assert_eq!(sentence(&ended(Status::Restarting)), "Restarting (137) About a minute ago");
    for (health, words) in [
        (HealthStatus::Starting, "Up 3 minutes (health: starting)"),
        (HealthStatus::Healthy, "Up 3 minutes (healthy)"),
        (HealthStatus::Unhealthy, "Up 3 minutes (unhealthy)"),
    ] {
        let health = Health { status: health, failing_streak: 0, log: vec![] };
        assert_eq!(sentence(&|state| state.health = Some(health.clone())), words);
    }
}

#[test]
fn probes_are_shown() {
    let mut view = running();
    view.state.health = Some(Health {
        status: HealthStatus::Unhealthy,
        failing_streak: 3,
        log: vec![ProbeResult { start: at(2), end: at(3), exit_code: -1, output: "slow".into() }],
    });
    insta::assert_json_snapshot!("health", write_state(&view).health);
}

#[test]
fn what_was_asked_of_an_attachment_stays() {
    let mut view = running();
    let spec = Arc::make_mut(&mut view.spec);
    spec.network.mode = NetworkMode::Named("front".to_owned());
    let asked = pouch_types::spec::EndpointSpec {
        aliases: vec!["db".to_owned()],
        ..pouch_types::spec::EndpointSpec::default()
    };
    spec.network.endpoints.insert("front".to_owned(), asked);
    view.endpoints[0].network = "front".to_owned();
    let networks = attachments(&view);
    let front = &networks["front"];
    assert_eq!(networks.len(), 1);
    assert_eq!(front.aliases.as_deref(), Some(&["db".to_owned()][..]));
    assert_eq!(front.ip_address, "172.17.0.2");
    let names = front.dns_names.clone().unwrap();
    assert_eq!(names, ["web", "db", view.id.short()]);
    let (old, _) = ApiVersion::strip("/v1.44/").unwrap();
    let shown = inspect(&view, &defaults(), old).network_settings;
    assert!(
        shown.networks["front"].aliases.as_ref().unwrap().contains(&view.id.short().to_owned())
    );
    assert_eq!(shown.ip_address, "", "only the default bridge shows up at the top");
}

#[test]
fn a_shared_namespace_has_no_attachments() {
    let mut view = running();
    Arc::make_mut(&mut view.spec).network.mode = NetworkMode::Container("a".to_owned());
    view.endpoints.clear();
    assert!(attachments(&view).is_empty());
    assert_eq!(inspect(&view, &defaults(), ApiVersion::MAX).config.hostname, "");
}
