use std::collections::BTreeMap;

use pouch_docker_types::StrSlice;
use pouch_docker_types::container::{
    BindOptions, ContainerConfig, DeviceMapping, DeviceRequest, Empty, HealthConfig, LogConfig,
    Mount, PortBinding, RestartPolicy, ThrottleDevice, TmpfsOptions, Ulimit, VolumeDriver,
    VolumeOptions,
};
use pouch_docker_types::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use pouch_types::spec::{CgroupnsMode, LogSpec, NetworkMode};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn defaults() -> Defaults {
    Defaults {
        log: LogSpec::default(),
        runtime: "pouch".to_owned(),
        cgroupns: CgroupnsMode::Private,
        masked: vec!["/proc/kcore".to_owned()],
        read_only: vec!["/proc/sys".to_owned()],
    }
}

/// The host configuration that inspect shows when nothing was asked for.
fn plain() -> HostConfig {
    write_host(&ContainerSpec::default(), &defaults())
}

fn read_json(json: &str) -> ApiResult<Asked> {
    let request = pouch_docker_types::from_slice(json.as_bytes()).unwrap();
    read(request, ApiVersion::MAX, &defaults())
}

fn strings(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(of).prop_map(str::to_owned)
}

fn some_list<T: std::fmt::Debug>(
    item: impl Strategy<Value = T>,
) -> impl Strategy<Value = Option<Vec<T>>> {
    option::of(vec(item, 1..3))
}

fn unique<T: Ord + Clone>(items: Option<Vec<T>>) -> Option<Vec<T>> {
    items.map(|items| {
        let mut seen = std::collections::BTreeSet::new();
        items.into_iter().filter(|item| seen.insert(item.clone())).collect()
    })
}

prop_compose! {
    fn modes()(
        pid in strings(&["", "host", "container:a"]),
        ipc in strings(&["private", "shareable", "none", "host", "container:b"]),
        uts in strings(&["", "host"]),
        cgroupns in strings(&["private", "host"]),
        userns in strings(&["", "host"]),
        network in strings(&["bridge", "host", "none", "container:c", "front"]),
        restart in select(&[("no", 0), ("always", 0), ("unless-stopped", 0), ("on-failure", 3)][..]),
        privileged: bool, readonly_rootfs: bool, publish: bool,
        init in option::of(any::<bool>()),
        console in (0u32..200, 0u32..200),
    ) -> HostConfig {
        let joined = network.starts_with("container:");
        HostConfig {
            pid_mode: pid, ipc_mode: ipc, uts_mode: uts, cgroupns_mode: cgroupns,
            userns_mode: userns, network_mode: network,
            restart_policy: RestartPolicy { name: restart.0.into(), maximum_retry_count: restart.1 },
            privileged, readonly_rootfs, publish_all_ports: publish && !joined, init,
            console_size: [console.0, console.1],
            ..plain()
        }
    }
}

prop_compose! {
    fn storage()(
        binds in some_list(strings(&[
            "/a:/b1", "/a:/b2:ro", "/a:/b3:ro,z,rslave", "vol:/b4:nocopy", "/b5", "vol:/b6:ro,Z",
            "/a:/b7:rw", "/a/:/b8/:z,ro",
        ])),
        size in option::of(1i64..1 << 40),
        read_only: bool, never: bool, create: bool,
        propagation in strings(&["", "rshared", "private"]),
        labels in btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..2),
        subpath in strings(&["", "x/y"]),
        driver in strings(&["", "local"]),
        tmpfs in btree_map(strings(&["/t1", "/t2"]), strings(&[
            "", "ro", "size=1024,mode=755,noexec", "ro,size=50%,uid=1",
        ]), 0..2),
        from in some_list(strings(&["a", "b:ro", "c:rw"])),
        shm in 1i64..1 << 40,
    ) -> HostConfig {
        let bind = BindOptions {
            propagation, create_mountpoint: create, read_only_non_recursive: never && read_only,
            ..BindOptions::default()
        };
        let driver_config = VolumeDriver { name: driver, options: BTreeMap::new() };
        let volume = VolumeOptions {
            labels, subpath,
            driver_config: (driver_config != VolumeDriver::default()).then_some(driver_config),
            ..VolumeOptions::default()
        };
        let tmpfs_options = TmpfsOptions {
            size_bytes: size.unwrap_or(0), mode: 0o1777, options: vec![vec!["exec".into()]],
        };
        let mount = |kind: &str, source: &str, target: &str| Mount {
            r#type: kind.into(), source: source.into(), target: target.into(), read_only,
            ..Mount::default()
        };
        HostConfig {
            binds: unique(binds), tmpfs, volumes_from: from, shm_size: shm,
            mounts: vec![
                Mount {
                    bind_options: (bind != BindOptions::default()).then_some(bind),
                    ..mount("bind", "/src", "/m1")
                },
                Mount {
                    volume_options: (volume != VolumeOptions::default()).then_some(volume),
                    ..mount("volume", "data", "/m2")
                },
                Mount { tmpfs_options: Some(tmpfs_options), ..mount("tmpfs", "", "/m3") },
            ],
            ..plain()
        }
    }
}

prop_compose! {
    fn limits()(
        memory in (6i64 << 20)..1 << 40,
        swap in select(&[0i64, -1, 1 << 41][..]),
        swappiness in option::of(0i64..=100),
        nano in 0i64..8_000_000_000,
        shares in 0i64..100_000,
        cpuset in strings(&["", "0", "0-3,7"]),
        pids in option::of(1i64..10_000),
        weight in select(&[0u16, 10, 1000][..]),
        rate in 0u64..1 << 50,
        oom in (-1000i64..=1000, any::<bool>()),
        limit in (strings(&["nofile", "core"]), -1i64..100),
        permissions in strings(&["r", "rw", "rwm"]),
    ) -> HostConfig {
        let throttle = || Some(vec![ThrottleDevice { path: "/dev/sda".into(), rate }]);
        let mut host = HostConfig { oom_score_adj: oom.0, ..plain() };
        let wire = &mut host.resources;
        (wire.memory, wire.memory_swap, wire.memory_swappiness) = (memory, swap, swappiness);
        (wire.nano_cpus, wire.cpu_shares, wire.cpuset_cpus) = (nano, shares, cpuset);
        (wire.pids_limit, wire.blkio_weight) = (pids, weight);
        (wire.blkio_device_read_bps, wire.blkio_device_write_iops) = (throttle(), throttle());
        wire.oom_kill_disable = Some(oom.1);
        wire.ulimits = Some(vec![Ulimit { name: limit.0, soft: limit.1, hard: limit.1 }]);
        wire.devices = Some(vec![DeviceMapping {
            path_on_host: "/dev/fuse".into(), path_in_container: "/dev/f".into(),
            cgroup_permissions: permissions,
        }]);
        wire.device_cgroup_rules = Some(vec!["c 10:* rwm".into()]);
        wire.device_requests = Some(vec![DeviceRequest {
            driver: "cdi".into(), device_ids: Some(vec!["vendor.com/gpu=0".into()]),
            ..DeviceRequest::default()
        }]);
        host
    }
}

prop_compose! {
    fn rest()(
        add in some_list(strings(&["CAP_NET_ADMIN", "CAP_SYS_TIME", "ALL"])),
        drop in some_list(strings(&["CAP_MKNOD", "ALL"])),
        security in some_list(strings(&["label=disable", "no-new-privileges", "no-new-privileges=true"])),
        paths in option::of(vec(strings(&["/proc/kcore", "/sys"]), 0..2)),
        port in (1u16..=65535, strings(&["tcp", "udp", "sctp"])),
        host_port in strings(&["", "8080", "8000-8010"]),
        host_ip in strings(&["", "127.0.0.1", "::1", "0.0.0.0"]),
        hosts in some_list(strings(&["a:1.2.3.4", "b:::1", "c:host-gateway"])),
        dns in vec(strings(&["1.1.1.1", "fe80::1"]), 0..2),
        links in some_list(strings(&["db", "db:alias"])),
        sysctls in btree_map(strings(&["net.ipv4.ip_forward", "kernel.shmmax"]), "[0-9]{1,3}", 0..2),
        log in strings(&["json-file", "local"]),
    ) -> HostConfig {
        HostConfig {
            cap_add: unique(add).map(StrSlice), cap_drop: unique(drop).map(StrSlice),
            security_opt: unique(security),
            masked_paths: paths.clone().or_else(|| plain().masked_paths),
            readonly_paths: paths.or_else(|| plain().readonly_paths),
            port_bindings: BTreeMap::from([(
                format!("{}/{}", port.0, port.1), Some(vec![PortBinding { host_ip, host_port }]),
            )]),
            extra_hosts: hosts, dns: Some(dns), links, sysctls,
            log_config: LogConfig {
                r#type: log, config: BTreeMap::from([("max-size".into(), "10m".into())]),
            },
            annotations: BTreeMap::from([("org.example".into(), "1".into())]),
            group_add: Some(vec!["staff".into()]),
            ..plain()
        }
    }
}

fn round(host: &HostConfig, config: &ContainerConfig) -> (HostConfig, ContainerConfig) {
    let request = ContainerCreate {
        host_config: Some(host.clone()),
        networking_config: None,
        config: config.clone(),
    };
    // Over the wire, as a client would send it.
    let text = serde_json::to_vec(&request).unwrap();
    let request = pouch_docker_types::from_slice(&text).unwrap();
    let asked = read(request, ApiVersion::MAX, &defaults()).unwrap();
    // And through the store.
    let stored = serde_json::to_string(&asked.spec).unwrap();
    let spec = serde_json::from_str(&stored).unwrap();
    assert_eq!(asked.spec, spec);
    (write_host(&spec, &defaults()), process::write(&spec))
}

fn image_only() -> ContainerConfig {
    ContainerConfig { image: "busybox".to_owned(), ..ContainerConfig::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn host_config_comes_back(
        host in prop_oneof![modes(), storage(), limits(), rest()]
    ) {
        prop_assert_eq!(round(&host, &image_only()).0, host);
    }

    #[test]
    fn config_comes_back(
        words in some_list("[a-z ]{0,8}"), entrypoint in option::of(vec("[a-z]{0,8}", 0..2)),
        env in vec("[A-Z]{1,8}(=[a-z]{0,8})?", 0..3),
        labels in btree_map("[a-z.]{1,8}", ".{0,8}", 0..3),
        flags in (any::<bool>(), any::<bool>(), any::<bool>()),
        stop in (strings(&["", "SIGTERM", "SIGQUIT"]), option::of(-1i64..100)),
        probe in option::of((0u32..5, 1_000_000i64..1 << 40)),
        port in option::of(1u16..),
    ) {
        let config = ContainerConfig {
            hostname: "web".into(), user: "1000:1000".into(), working_dir: "/srv".into(),
            tty: flags.0, open_stdin: flags.1, attach_stdout: flags.2,
            // Nothing shows as `null`, whether it was asked for as such or not.
            env: Some(env).filter(|env| !env.is_empty()), cmd: words.map(StrSlice),
            entrypoint: entrypoint.filter(|words| !words.is_empty()).map(StrSlice), labels,
            stop_signal: stop.0, stop_timeout: stop.1,
            healthcheck: probe.map(|(retries, interval)| HealthConfig {
                test: vec!["CMD-SHELL".into(), "true".into()], interval, timeout: 0,
                start_period: 0, start_interval: interval, retries: i64::from(retries),
            }),
            exposed_ports: port.map(|p| (format!("{p}/tcp"), Empty {})).into_iter().collect(),
            volumes: port.map(|p| BTreeMap::from([(format!("/v{p}"), Empty {})])),
            ..image_only()
        };
        prop_assert_eq!(round(&plain(), &config).1, config);
    }

    /// Whatever JSON comes, it is refused or understood; and what is understood is stable.
    #[test]
    fn arbitrary_strings_do_no_harm(
        bind in "[a-z/:.,]{0,20}", port in "[0-9/a-z-]{0,10}", host in "[a-z:.0-9]{0,12}",
        option in "[a-z=:-]{0,24}", mode in "[a-z:]{0,12}",
    ) {
        let host_config = HostConfig {
            binds: Some(vec![bind]),
            port_bindings: BTreeMap::from([(port.clone(), Some(vec![PortBinding {
                host_ip: host.clone(), host_port: port,
            }]))]),
            extra_hosts: Some(vec![host]), security_opt: Some(vec![option]), network_mode: mode,
            ..HostConfig::default()
        };
        let request = ContainerCreate {
            host_config: Some(host_config), networking_config: None, config: image_only(),
        };
        if let Ok(asked) = read(request, ApiVersion::MAX, &defaults()) {
            let host = write_host(&asked.spec, &defaults());
            prop_assert_eq!(&round(&host, &image_only()).0, &host);
        }
    }
}

#[test]
fn attachments_come_back() {
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: "10.0.0.5".into(),
            ..EndpointIpamConfig::default()
        }),
        aliases: Some(vec!["db".into()]),
        mac_address: "02:42:ac:11:00:02".into(),
        driver_opts: Some(BTreeMap::from([("a".into(), "b".into())])),
        gw_priority: 5,
        ..EndpointSettings::default()
    };
    let networking = NetworkingConfig {
        endpoints_config: BTreeMap::from([
            ("front".into(), Some(endpoint)),
            ("back".into(), Some(EndpointSettings::default())),
        ]),
    };
    let request = |version| {
        let request = ContainerCreate {
            host_config: Some(HostConfig { network_mode: "front".into(), ..plain() }),
            networking_config: Some(networking.clone()),
            config: image_only(),
        };
        read(request, version, &defaults())
    };
    let asked = request(ApiVersion::MAX).unwrap();
    assert_eq!(network::write_networking(&asked.spec), networking);
    let error = request(ApiVersion::MIN).unwrap_err();
    assert_eq!(
        error.message(),
        "Container cannot be created with multiple network endpoints: back, front"
    );
}

/// What `docker run -d busybox` of CLI 28 sends.
const CLI: &str = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,
    "AttachStdout":true,"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,
    "Env":null,"Cmd":["true"],"Image":"busybox","Volumes":{},"WorkingDir":"","Entrypoint":null,
    "OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"",
    "LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
    "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"",
    "VolumesFrom":null,"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"",
    "Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"",
    "Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,
    "PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"",
    "UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,
    "CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],
    "BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,
    "CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"",
    "Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,
    "MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],
    "CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,
    "ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,
    "Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"",
    "EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"",
    "GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"#;

#[test]
fn a_cli_request_asks_for_nothing_special() {
    let asked = read_json(CLI).unwrap();
    assert!(asked.warnings.is_empty());
    assert_eq!(asked.spec.network.mode, NetworkMode::Default);
    assert_eq!(asked.spec.network.endpoints.keys().collect::<Vec<_>>(), ["bridge"]);
    assert_eq!(write_host(&asked.spec, &defaults()), plain());
    insta::assert_json_snapshot!("host_config_of_a_plain_container", plain());
    insta::assert_json_snapshot!("config_of_a_plain_container", process::write(&asked.spec));
}

#[test]
fn a_minimal_request_is_enough() {
    let asked = read_json(r#"{"Image":"busybox"}"#).unwrap();
    assert_eq!(asked.spec.image_name, "busybox");
    assert_eq!(asked.spec.process.cmd, None);
    assert_eq!(write_host(&asked.spec, &defaults()), plain());
    let error = read_json("{}").unwrap_err();
    assert_eq!(error.message(), "config cannot be empty in order to create a container");
}

#[test]
fn an_empty_entrypoint_clears_and_an_empty_command_does_not() {
    let process = |json: &str| read_json(json).unwrap().spec.process;
    let cleared = process(r#"{"Image":"a","Entrypoint":[],"Cmd":[]}"#);
    assert_eq!((cleared.entrypoint, cleared.cmd), (Some(vec![]), None));
    let words = process(r#"{"Image":"a","Entrypoint":"sh","Cmd":"ls"}"#);
    assert_eq!(words.entrypoint, Some(vec!["sh".to_owned()]));
    assert_eq!(words.cmd, Some(vec!["ls".to_owned()]));
}

#[test]
fn refuses_by_name() {
    for (fields, name) in [
        (r#""HostConfig":{"Isolation":"hyperv"}"#, "Isolation"),
        (r#""HostConfig":{"StorageOpt":{"size":"1G"}}"#, "StorageOpt"),
        (r#""HostConfig":{"VolumeDriver":"nfs"}"#, "VolumeDriver"),
        (r#""HostConfig":{"LogConfig":{"Type":"syslog"}}"#, "syslog"),
        (r#""HostConfig":{"Cgroup":"container:a"}"#, "Cgroup"),
        (r#""HostConfig":{"UsernsMode":"auto"}"#, "UsernsMode"),
        (r#""HostConfig":{"PidMode":"container:"}"#, "PidMode"),
        (r#""HostConfig":{"ShmSize":-1}"#, "ShmSize"),
        (r#""HostConfig":{"OomScoreAdj":1001}"#, "1001"),
        (r#""HostConfig":{"Sysctls":{"../x":"1"}}"#, "Sysctls"),
        (r#""HostConfig":{"MaskedPaths":["x"]}"#, "MaskedPaths"),
        (r#""HostConfig":{"ConsoleSize":[70000,1]}"#, "ConsoleSize"),
        (r#""HostConfig":{"Binds":["/a:/x","/b:/x"]}"#, "Duplicate mount point: /x"),
        (r#""HostConfig":{"Binds":["/a:/x"],"Tmpfs":{"/x/":""}}"#, "Duplicate mount point: /x"),
        (r#""HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}"#, "AutoRemove"),
        (r#""HostConfig":{"DeviceRequests":[{"Driver":"nvidia"}]}"#, "DeviceRequests"),
        (r#""HostConfig":{"KernelMemory":67108864}"#, "KernelMemory"),
        (r#""HostConfig":{"Mounts":[{"Type":"image","Source":"a","Target":"/x"}]}"#, "image"),
        (r#""HostConfig":{"SecurityOpt":["writable-cgroups"]}"#, "writable-cgroups"),
        (r#""OnBuild":["RUN x"]"#, "OnBuild"),
        (r#""Shell":["/bin/ash"]"#, "Shell"),
        (r#""NetworkingConfig":{"EndpointsConfig":{"back":{}}}"#, "EndpointsConfig"),
        (r#""NetworkingConfig":{"EndpointsConfig":{"bridge":{"Aliases":["a"]}}}"#, "aliases"),
        (r#""NetworkingConfig":{"EndpointsConfig":{"bridge":{"Links":["a:b"]}}}"#, "Links"),
        (
            r#""NetworkingConfig":{"EndpointsConfig":{"bridge":{"DriverOpts":{"a":"b"}}}}"#,
            "DriverOpts",
        ),
        (
            r#""NetworkingConfig":{"EndpointsConfig":{"bridge":{"IPAMConfig":{"IPv6Address":"::5"}}}}"#,
            "IPv6",
        ),
        (r#""WorkingDir":"srv""#, "WorkingDir"),
        (r#""Env":["=x"]"#, "Env"),
        (r#""StopSignal":"SIGNOPE""#, "StopSignal"),
        (r#""Healthcheck":{"Interval":1}"#, "Interval"),
        (r#""Healthcheck":{"Test":["EXEC"]}"#, "Healthcheck.Test"),
        (r#""Volumes":{"x":{}}"#, "Volumes"),
        (r#""ExposedPorts":{"x":{}}"#, "ExposedPorts"),
        (r#""MacAddress":"x""#, "MacAddress"),
    ] {
        let json = format!(r#"{{"Image":"a",{fields}}}"#);
        let error = read_json(&json).unwrap_err();
        assert!(error.message().contains(name), "{fields}: {}", error.message());
        assert!(error.status().as_u16() == 400 || error.status().as_u16() == 501);
    }
}

#[test]
fn versions_change_defaults() {
    let read = |json: &str, version: &str| {
        let request = pouch_docker_types::from_slice(json.as_bytes()).unwrap();
        let (version, _) = ApiVersion::strip(version).unwrap();
        read(request, version, &defaults()).unwrap()
    };
    let json = r#"{"Image":"a","HostConfig":{"AutoRemove":true,"Annotations":{"a":"b"}}}"#;
    let old = read(json, "/v1.24/").spec;
    assert!(!old.auto_remove && old.annotations.is_empty());
    assert_eq!(old.namespaces.ipc, pouch_types::spec::IpcMode::Shareable);
    let new = read(json, "/v1.43/").spec;
    assert!(new.auto_remove && !new.annotations.is_empty());
    let mac = r#"{"Image":"a","MacAddress":"02:42:ac:11:00:02"}"#;
    assert!(read(mac, "/v1.43/").warnings.is_empty());
    assert!(read(mac, "/v1.44/").warnings[0].contains("deprecated"));
}
