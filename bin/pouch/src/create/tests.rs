use super::*;
use crate::cli::{self, Command};

fn body_of(words: &[&str]) -> Result<ContainerCreate, Failure> {
    let words = std::iter::once("pouch").chain(std::iter::once("run")).chain(words.iter().copied());
    let Command::Run(flags) = cli::parse(words.map(Into::into)).unwrap().command else { panic!() };
    let streams = Streams::of(&flags.create)?;
    let proxies = [("http_proxy".to_owned(), "http://p".to_owned())];
    let around = Surroundings { streams, auto_remove: flags.rm, proxies: &proxies };
    build(&flags.create, around).map(|new| new.body)
}

fn host(words: &[&str]) -> HostConfig {
    body_of(words).unwrap().host_config.unwrap()
}

fn refused(words: &[&str]) -> String {
    body_of(words).unwrap_err().message.unwrap()
}

#[test]
fn the_plain_case() {
    let body = body_of(&["busybox", "echo", "-n", "x"]).unwrap();
    assert_eq!(body.config.image, "busybox");
    assert_eq!(body.config.cmd, Some(StrSlice(vec!["echo".into(), "-n".into(), "x".into()])));
    assert!(body.config.attach_stdout && body.config.attach_stderr && !body.config.attach_stdin);
    assert_eq!(body.config.entrypoint, None);
    assert_eq!(body.config.env.unwrap(), ["http_proxy=http://p"]);
    assert!(body.networking_config.is_none());
    let host = body.host_config.unwrap();
    assert_eq!(host.network_mode, "default");
    assert_eq!(host.masked_paths, None);
    assert_eq!(host.init, None);
}

#[test]
fn ports() {
    let of = |text: &str| {
        let map = host(&["-p", text, "x"]).port_bindings;
        map.into_iter()
            .flat_map(|(key, list)| {
                list.unwrap()
                    .into_iter()
                    .map(move |b| format!("{key}={}|{}", b.host_ip, b.host_port))
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(of("80"), ["80/tcp=|"]);
    assert_eq!(of("8080:80/udp"), ["80/udp=|8080"]);
    assert_eq!(of("127.0.0.1::80"), ["80/tcp=127.0.0.1|"]);
    assert_eq!(of("[::1]:8080:80"), ["80/tcp=::1|8080"]);
    assert_eq!(of("8000-8001:80-81"), ["80/tcp=|8000", "81/tcp=|8001"]);
    assert_eq!(of("8000-8010:80"), ["80/tcp=|8000-8010"]);
    for bad in ["a:80", "80:", "8000-8002:80-81", "1.2.3:80:80", "80/ip", "81-80", "99999"] {
        assert!(refused(&["-p", bad, "x"]).contains("--publish"), "{bad}");
    }
    let exposed =
        body_of(&["--expose", "90-91/udp", "-p", "1:2", "x"]).unwrap().config.exposed_ports;
    assert_eq!(exposed.keys().collect::<Vec<_>>(), ["2/tcp", "90/udp", "91/udp"]);
}

#[test]
fn mounts_and_volumes() {
    let flags =
        host(&["-v", "/a:/b:ro", "-v", "name:/c", "-v", "./rel:/d", "-v", "/anonymous", "x"]);
    let binds = flags.binds.unwrap();
    assert_eq!(&binds[..2], ["/a:/b:ro", "name:/c"]);
    assert!(binds[2].starts_with('/') && binds[2].ends_with("/rel:/d"));
    let spec =
        "type=bind,source=/a,target=/b,readonly,bind-propagation=rslave,bind-recursive=disabled";
    let mount = &host(&["--mount", spec, "x"]).mounts[0];
    assert_eq!((mount.source.as_str(), mount.target.as_str(), mount.read_only), ("/a", "/b", true));
    let bind = mount.bind_options.as_ref().unwrap();
    assert!(bind.propagation == "rslave" && bind.non_recursive);
    let spec = r#"src=v,dst=/v,volume-nocopy=true,volume-driver=local,"volume-opt=o=a,b""#;
    let mount = &host(&["--mount", spec, "x"]).mounts[0];
    assert_eq!(mount.r#type, "volume");
    let options = mount.volume_options.as_ref().unwrap();
    assert!(options.no_copy);
    assert_eq!(options.driver_config.as_ref().unwrap().options["o"], "a,b");
    let mount =
        &host(&["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770", "x"]).mounts[0];
    let tmpfs = mount.tmpfs_options.as_ref().unwrap();
    assert_eq!((tmpfs.size_bytes, tmpfs.mode), (1 << 20, 0o1770));
    for bad in [
        "type=bind",
        "type=tmpfs,dst=/t,volume-nocopy",
        "dst=/x,what=1",
        "dst=/x,readonly=maybe",
        "\"dst=/x",
    ] {
        assert!(refused(&["--mount", bad, "x"]).contains("--mount"), "{bad}");
    }
    assert_eq!(host(&["--tmpfs", "/run:size=1m,mode=700", "x"]).tmpfs["/run"], "size=1m,mode=700");
}

#[test]
fn resources_and_devices() {
    let host = host(&[
        "-m",
        "64m",
        "--memory-swap",
        "-1",
        "--cpus",
        "1.5",
        "--pids-limit",
        "-1",
        "--ulimit",
        "nofile=1:2",
        "--device",
        "/dev/null:/dev/n:r",
        "--device",
        "v.com/c=all",
        "--gpus",
        "all",
        "--restart",
        "on-failure:3",
        "--device-read-bps",
        "/dev/sda:1mb",
        "--oom-score-adj",
        "-5",
        "x",
    ]);
    let r = &host.resources;
    assert_eq!(
        (r.memory, r.memory_swap, r.nano_cpus, r.pids_limit),
        (64 << 20, -1, 1_500_000_000, Some(-1))
    );
    assert_eq!(r.ulimits.as_ref().unwrap()[0].hard, 2);
    assert_eq!(r.devices.as_ref().unwrap()[0].cgroup_permissions, "r");
    let requests = r.device_requests.as_ref().unwrap();
    assert_eq!((requests[0].count, requests[1].driver.as_str()), (-1, "cdi"));
    assert_eq!(r.blkio_device_read_bps.as_ref().unwrap()[0].rate, 1 << 20);
    assert_eq!(
        (host.restart_policy.name.as_str(), host.restart_policy.maximum_retry_count),
        ("on-failure", 3)
    );
    assert_eq!(host.oom_score_adj, -5);
    for bad in [
        ["--cpus", "x"],
        ["--cpus", "1.0000000001"],
        ["-m", "lots"],
        ["--ulimit", "nofile"],
        ["--ulimit", "n=3:2"],
        ["--restart", "on-failure:x"],
        ["--device", ":/x"],
        ["--device-read-bps", "sda:1"],
        ["--blkio-weight-device", "/dev/a:5"],
    ] {
        refused(&[bad[0], bad[1], "x"]);
    }
}

#[test]
fn environment_and_labels_come_from_flags_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    std::fs::write(&file, "# comment\nA=1\n\nUNSET_BY_ANYBODY_42\n  B= x\n").unwrap();
    let body = body_of(&[
        "--env-file",
        file.to_str().unwrap(),
        "-e",
        "A=2",
        "-e",
        "HOME",
        "-e",
        "http_proxy=",
        "x",
    ]);
    let home = format!("HOME={}", std::env::var("HOME").unwrap());
    assert_eq!(
        body.unwrap().config.env.unwrap(),
        ["A=1", "B= x", "A=2", home.as_str(), "http_proxy="]
    );
    let labels = body_of(&["-l", "a", "-l", "b=c=d", "x"]).unwrap().config.labels;
    assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("", "c=d"));
    assert!(refused(&["-e", "=x", "x"]).contains("no name"));
    assert!(refused(&["--env-file", "/nonexistent", "x"]).contains("/nonexistent"));
}

#[test]
fn networks() {
    let body = body_of(&[
        "--network",
        "n1",
        "--network-alias",
        "a",
        "--ip",
        "10.0.0.9",
        "--network",
        "name=n2,alias=b",
        "x",
    ])
    .unwrap();
    assert_eq!(body.host_config.unwrap().network_mode, "n1");
    let endpoints = body.networking_config.unwrap().endpoints_config;
    let first = endpoints["n1"].as_ref().unwrap();
    assert_eq!(first.aliases.as_ref().unwrap(), &["a"]);
    assert_eq!(first.ipam_config.as_ref().unwrap().ipv4_address, "10.0.0.9");
    assert_eq!(endpoints["n2"].as_ref().unwrap().aliases.as_ref().unwrap(), &["b"]);
    assert_eq!(
        host(&["--add-host", "a:::1", "--add-host", "b=host-gateway", "x"]).extra_hosts.unwrap(),
        ["a:::1", "b:host-gateway"]
    );
    assert!(refused(&["--add-host", "a:b", "x"]).contains("--add-host"));
}

#[test]
fn health_and_security() {
    let health = body_of(&["--health-cmd", "true", "--health-interval", "1m30s", "x"])
        .unwrap()
        .config
        .healthcheck
        .unwrap();
    assert_eq!(
        (health.test, health.interval),
        (vec!["CMD-SHELL".to_owned(), "true".to_owned()], 90_000_000_000)
    );
    assert_eq!(
        body_of(&["--no-healthcheck", "x"]).unwrap().config.healthcheck.unwrap().test,
        ["NONE"]
    );
    assert!(refused(&["--no-healthcheck", "--health-cmd", "x", "x"]).contains("conflicts"));
    assert!(refused(&["--health-interval", "-1s", "x"]).contains("negative"));
    assert!(refused(&["--health-interval", "soon", "x"]).contains("--health-interval"));
    let dir = tempfile::tempdir().unwrap();
    let profile = dir.path().join("p.json");
    std::fs::write(&profile, "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }").unwrap();
    let option = format!("seccomp={}", profile.display());
    let host = host(&[
        "--security-opt",
        &option,
        "--security-opt",
        "systempaths=unconfined",
        "--security-opt",
        "no-new-privileges",
        "x",
    ]);
    assert_eq!(
        host.security_opt.unwrap(),
        [r#"seccomp={"defaultAction":"SCMP_ACT_ALLOW"}"#, "no-new-privileges"]
    );
    assert_eq!((host.masked_paths, host.readonly_paths), (Some(vec![]), Some(vec![])));
}
