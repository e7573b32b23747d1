//! What the CRI is asked that cannot be, and clients that leave.

use pouch_cri_grpc as cri;
use pouch_testkit::{Daemon, Kubelet, eventually, within};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tonic::Code;

use crate::pods::{WAITS, pods};

/// Nothing is left of pods that could not be made.
#[track_caller]
fn nothing(d: &Daemon, k: &Kubelet) {
    assert_eq!((k.pods(), k.containers()), (Vec::new(), Vec::new()));
    for dir in [d.data_root().join("pods"), d.exec_root().join("pods")] {
        let left = std::fs::read_dir(&dir).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{}", dir.display());
    }
    assert_eq!(k.addresses(), Vec::<String>::new());
}

fn network_condition(k: &Kubelet) -> cri::RuntimeCondition {
    let status = k.call(k.runtime().status(cri::StatusRequest { verbose: false })).unwrap();
    let mut conditions = status.status.unwrap().conditions.into_iter();
    conditions.find(|condition| condition.r#type == "NetworkReady").unwrap()
}

/// Puts a plugin, and a network that is nothing else, in the place of the pods' network.
fn replace_network(d: &Daemon, k: &Kubelet, script: &str) {
    let dir = d.path("plugins");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("odd"), format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(dir.join("odd"), PermissionsExt::from_mode(0o755)).unwrap();
    let list = r#"{"cniVersion": "1.0.0", "name": "odd", "plugins": [{"type": "odd"}]}"#;
    std::fs::write(k.network_dir().join("10-pods.conflist"), list).unwrap();
}

/// Runs a test that changes the network, and puts it back.
fn with_network(test: impl FnOnce(&mut Daemon, &Kubelet)) {
    pods(|d, k| {
        let conf = k.network_dir().join("10-pods.conflist");
        let kept = std::fs::read(&conf).unwrap();
        test(d, k);
        std::fs::write(conf, kept).unwrap();
        eventually("the network is ready again", || network_condition(k).status);
        let pod = k.pod("after");
        k.run(&pod);
    });
}

#[test]
fn pods_that_cannot_be_meant_are_refused_by_their_field() {
    pods(|d, k| {
        type Change = fn(&mut cri::PodSandboxConfig);
        let cases: [(&str, Change); 8] = [
            ("metadata", |p| p.metadata = None),
            ("metadata", |p| p.metadata.as_mut().unwrap().uid.clear()),
            ("log_directory", |p| p.log_directory = "logs".into()),
            ("hostname", |p| p.hostname = "a/b".into()),
            ("hostname", |p| p.hostname = "a".repeat(65)),
            ("port_mappings", |p| {
                let port = cri::PortMapping { host_port: 70_000, ..Default::default() };
                p.port_mappings = vec![port];
            }),
            ("dns_config", |p| {
                let dns = cri::DnsConfig { servers: vec!["x y".into()], ..Default::default() };
                p.dns_config = Some(dns);
            }),
            ("run_as_group", |p| {
                let group = Some(cri::Int64Value { value: 5 });
                let security =
                    cri::LinuxSandboxSecurityContext { run_as_group: group, ..Default::default() };
                p.linux = Some(cri::LinuxPodSandboxConfig {
                    security_context: Some(security),
                    ..Default::default()
                });
            }),
        ];
        for (field, change) in cases {
            let mut pod = k.pod("bad");
            change(&mut pod);
            let request = cri::RunPodSandboxRequest { config: Some(pod), ..Default::default() };
            let refused = k.call(k.runtime().run_pod_sandbox(request)).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
            assert!(refused.message().contains(field), "{field}: {refused}");
        }
        let request = cri::RunPodSandboxRequest {
            config: Some(k.pod("bad")),
            runtime_handler: "nobody-s".to_owned(),
        };
        let refused = k.call(k.runtime().run_pod_sandbox(request)).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(refused.message().contains("nobody-s"), "{refused}");
        let mut pod = k.pod("bad");
        pod.linux = Some(cri::LinuxPodSandboxConfig {
            sysctls: [("kernel.no_such".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        });
        let refused = k.try_run(&pod).unwrap_err();
        assert!(refused.message().contains("kernel.no_such"), "{refused}");
        nothing(d, k);
    });
}

#[test]
fn containers_that_cannot_be_meant_are_refused() {
    pods(|d, k| {
        let pod = k.pod("odd");
        let id = k.run(&pod);
        let mount = |host: &str, container: &str| cri::Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            ..Default::default()
        };
        type Change<'a> = Box<dyn Fn(&mut cri::ContainerConfig) + 'a>;
        let cases: Vec<(Code, &str, Change<'_>)> = vec![
            (Code::InvalidArgument, "metadata", Box::new(|c| c.metadata = None)),
            (Code::InvalidArgument, "image", Box::new(|c| c.image = None)),
            (
                Code::NotFound,
                "no/image",
                Box::new(|c| {
                    c.image =
                        Some(cri::ImageSpec { image: "no/image:1".into(), ..Default::default() });
                }),
            ),
            (Code::InvalidArgument, "log_path", Box::new(|c| c.log_path = "../../x.log".into())),
            (Code::InvalidArgument, "log_path", Box::new(|c| c.log_path = "/x.log".into())),
            (Code::InvalidArgument, "host_path", Box::new(|c| c.mounts = vec![mount("a", "/b")])),
            (Code::InvalidArgument, "mounts", Box::new(|c| c.mounts = vec![mount("/a", "/..")])),
            (
                Code::InvalidArgument,
                "envs",
                Box::new(|c| {
                    c.envs = vec![cri::KeyValue { key: "A=B".into(), ..Default::default() }];
                }),
            ),
        ];
        for (code, word, change) in cases {
            let mut config = k.container("bad", WAITS);
            change(&mut config);
            let request = cri::CreateContainerRequest {
                pod_sandbox_id: id.clone(),
                config: Some(config),
                sandbox_config: Some(pod.clone()),
            };
            let refused = k.call(k.runtime().create_container(request)).unwrap_err();
            assert_eq!(refused.code(), code, "{word}: {refused}");
            assert!(refused.message().contains(word), "{word}: {refused}");
        }
        let refused = k.try_create("nothing", &pod, &k.container("c", WAITS)).unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        assert!(k.containers().is_empty());
        // A relative path is one below the root; a directory that is missing is made.
        let host = d.path("made");
        let mut config = k.container("fine", WAITS);
        config.mounts = vec![mount(&host.to_string_lossy(), "some/./where")];
        let fine = k.launch(&id, &pod, &config);
        k.output(&fine, "echo in > /some/where/file");
        assert_eq!(std::fs::read_to_string(host.join("file")).unwrap(), "in\n");
        let below = k.exec(&fine, "true", i64::MIN).unwrap_err();
        assert_eq!(below.code(), Code::InvalidArgument);
        assert_eq!(k.exec(&fine, "true", i64::MAX).unwrap().exit_code, 0);
        k.stop(&fine, i64::MAX).unwrap();
    });
}

#[test]
fn a_network_that_is_missing_or_fails_is_told_and_leaves_nothing() {
    with_network(|d, k| {
        assert!(network_condition(k).status);
        std::fs::remove_file(k.network_dir().join("10-pods.conflist")).unwrap();
        eventually("the network is not ready", || !network_condition(k).status);
        let told = network_condition(k);
        assert_eq!(told.reason, "NetworkPluginNotReady");
        assert!(told.message.contains("net.d"), "{told:?}");
        let refused = k.try_run(&k.pod("lonely")).unwrap_err();
        assert!(refused.message().contains("connect the pod to its network"), "{refused}");
        nothing(d, k);
        // A pod on the node's network needs none.
        let mut pod = k.pod("node");
        let options =
            cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..Default::default() };
        pod.linux = Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        });
        let id = k.run(&pod);
        k.remove_pod(&id).unwrap();
        let fails = "[ $CNI_COMMAND = ADD ] || exit 0\n\
                     echo '{\"cniVersion\": \"1.0.0\", \"code\": 11, \"msg\": \"no luck today\"}'; exit 1";
        replace_network(d, k, fails);
        let refused = k.try_run(&k.pod("unlucky")).unwrap_err();
        assert!(refused.message().contains("no luck today"), "{refused}");
        assert!(refused.message().contains("odd"), "{refused}");
        nothing(d, k);
    });
}

#[test]
fn a_pod_whose_caller_left_is_made_once_and_found_by_the_next() {
    with_network(|d, k| {
        let (calls, go) = (d.path("calls"), d.path("go"));
        let waits = format!(
            "cat > /dev/null\n[ $CNI_COMMAND = ADD ] || exit 0\necho x >> {}\n\
             while [ ! -e {} ]; do sleep 0.05; done\n\
             echo '{{\"cniVersion\": \"1.0.0\", \"ips\": [{{\"address\": \"10.9.9.9/24\"}}]}}'",
            calls.display(),
            go.display()
        );
        replace_network(d, k, &waits);
        let pod = k.pod("patient");
        std::fs::create_dir_all(&pod.log_directory).unwrap();
        let request =
            || cri::RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let run = |mut runtime: cri::runtime_service_client::RuntimeServiceClient<_>| {
            let request = request();
            k.spawn(async move { runtime.run_pod_sandbox(request).await })
        };
        let first = run(k.runtime());
        within(Duration::from_secs(10), "the plugin runs", || calls.exists().then_some(()));
        first.abort();
        assert!(k.pods().is_empty(), "one that is being made is not told");
        let second = run(k.runtime());
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(&go, "").unwrap();
        let id = k.block(second).unwrap().unwrap().into_inner().pod_sandbox_id;
        assert_eq!(k.pods(), std::slice::from_ref(&id));
        assert_eq!(std::fs::read_to_string(&calls).unwrap(), "x\n", "one ADD");
        assert_eq!(k.pod_status(&id).unwrap().network.unwrap().ip, "10.9.9.9");
        k.remove_pod(&id).unwrap();
    });
}

#[test]
fn clients_that_leave_take_no_descriptor_along() {
    pods(|d, k| {
        let pod = k.pod("streams");
        let id = k.run(&pod);
        let container = k.launch(&id, &pod, &k.container("c", WAITS));
        for _ in 0..100 {
            // Never fetched.
            let request = cri::ExecRequest {
                container_id: container.clone(),
                cmd: vec!["sh".to_owned()],
                stdin: true,
                stdout: true,
                ..Default::default()
            };
            let url = k.call(k.runtime().exec(request)).unwrap().url;
            assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        }
        for n in 0..1000 {
            let mut stream = UnixStream::connect(d.path("k")).unwrap();
            if n % 2 == 0 {
                // Half a preface, or one and half a frame.
                let words: &[u8] = if n % 4 == 0 {
                    b"PRI * HT"
                } else {
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04"
                };
                let _ = stream.write_all(words);
            }
        }
        // Calls whose callers leave in the middle.
        for _ in 0..20 {
            let request = cri::ExecSyncRequest {
                container_id: container.clone(),
                cmd: ["sleep", "1"].map(str::to_owned).to_vec(),
                timeout: 2,
            };
            let mut runtime = k.runtime();
            let call = k.spawn(async move { runtime.exec_sync(request).await });
            std::thread::sleep(Duration::from_millis(20));
            call.abort();
        }
        for _ in 0..20 {
            drop(k.call(k.runtime().get_container_events(cri::GetEventsRequest {})).unwrap());
        }
        assert_eq!(k.output(&container, "echo in"), "in");
        k.remove_pod(&id).unwrap();
    });
}
