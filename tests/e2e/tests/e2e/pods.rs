//! Pods and their containers as kubelet sees them: what they share, how they end, what is told.

use pouch_cri_grpc as cri;
use pouch_testkit::{Daemon, Host, Kubelet, within};
use std::time::Duration;
use tonic::Code;

use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};

/// Runs until it is told to end.
pub(crate) const WAITS: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// Whether the tests run over a containerd; says that one of pods is skipped then.
pub(crate) fn elsewhere() -> bool {
    let over = std::env::var_os("POUCH_E2E_BACKEND").is_some_and(|backend| backend == "remote");
    if over {
        println!("skipped: pods are tested on the embedded backend");
    }
    over
}

/// Runs a test with the CRI.
pub(crate) fn pods(test: impl FnOnce(&mut Daemon, &Kubelet)) {
    if elsewhere() {
        return;
    }
    Host::new().with_pods().run(|d| {
        let kubelet = d.kubelet();
        test(d, &kubelet);
    });
}

fn limits(memory: i64, shares: i64) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_shares: shares,
        ..Default::default()
    }
}

#[test]
fn containers_of_a_pod_share_what_is_the_pod_s() {
    pods(|_, k| {
        let pod = k.pod("web");
        let id = k.run(&pod);
        let one = k.launch(&id, &pod, &k.container("one", WAITS));
        let two = k.launch(&id, &pod, &k.container("two", WAITS));
        for space in ["net", "ipc", "uts", "pid"] {
            let of =
                |container: &str| k.output(container, &format!("readlink /proc/self/ns/{space}"));
            assert_eq!(of(&one), of(&two), "{space}");
        }
        let mounts = |container: &str| k.output(container, "readlink /proc/self/ns/mnt");
        assert_ne!(mounts(&one), mounts(&two));
        k.output(&one, "echo shared > /dev/shm/file");
        assert_eq!(k.output(&two, "cat /dev/shm/file"), "shared");
        assert_eq!(k.output(&two, "hostname"), "web");
        assert_eq!(k.output(&two, "cat /etc/hostname"), "web");
        let told = k.pod_status(&id).unwrap().network.unwrap().ip;
        assert!(told.starts_with("10.214.0."), "{told}");
        assert!(k.output(&one, "ip -4 addr show eth0").contains(&told));
        assert!(k.output(&two, "cat /etc/hosts").contains(&format!("{told}\tweb")));
        k.output(&one, "echo served > /tmp/f; nc -l -p 80 < /tmp/f > /dev/null 2>&1 &");
        let said = within(Duration::from_secs(10), "the other container answers", || {
            let done = k.exec(&two, "nc -w 2 127.0.0.1 80 < /dev/null", 10).unwrap();
            (done.exit_code == 0).then_some(done.stdout)
        });
        assert_eq!(said, b"served\n");
        // The first process is the pod's own, and the parent of orphans.
        assert!(k.output(&one, "cat /proc/1/cmdline | tr '\\0' ' '").contains("--pause"));
        assert_eq!(k.addresses(), [told]);
        k.stop_pod(&id).unwrap();
        assert_eq!(k.addresses(), Vec::<String>::new());
        assert!(!k.is_ready(&id));
        assert_eq!(k.status(&one).unwrap().state(), ContainerExited);
        k.remove_pod(&id).unwrap();
        assert_eq!(k.status(&one).unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn each_end_of_a_container_has_its_state_and_its_reason() {
    pods(|_, k| {
        let pod = k.pod("ends");
        let id = k.run(&pod);
        let made = k.create(&id, &pod, &k.container("lives", WAITS));
        let status = k.status(&made).unwrap();
        assert_eq!((status.state(), status.started_at), (ContainerCreated, 0));
        k.start(&made).unwrap();
        let status = k.status(&made).unwrap();
        assert_eq!((status.state(), status.finished_at), (ContainerRunning, 0));
        assert!(status.started_at >= status.created_at && status.created_at > 0);
        k.stop(&made, 20).unwrap();
        let status = k.status(&made).unwrap();
        assert_eq!(
            (status.state(), status.exit_code, &*status.reason),
            (ContainerExited, 0, "Completed")
        );
        assert!(status.finished_at >= status.started_at);
        // They run once.
        assert_eq!(k.start(&made).unwrap_err().code(), Code::FailedPrecondition);

        let failed = k.launch(&id, &pod, &k.container("fails", "exit 7"));
        let status = k.ended(&failed);
        assert_eq!((status.exit_code, &*status.reason), (7, "Error"));

        let mut hungry = k.container("hungry", "x=a; while :; do x=$x$x; done");
        hungry.linux = Some(cri::LinuxContainerConfig {
            resources: Some(limits(16 << 20, 0)),
            ..Default::default()
        });
        let hungry = k.launch(&id, &pod, &hungry);
        let status = k.ended(&hungry);
        assert_eq!((status.exit_code, &*status.reason), (137, "OOMKilled"));

        let mut missing = k.container("missing", "");
        missing.command = vec!["/no/such/program".to_owned()];
        let missing = k.create(&id, &pod, &missing);
        let refused = k.start(&missing).unwrap_err();
        assert!(refused.message().contains("/no/such/program"), "{refused}");
        let status = k.status(&missing).unwrap();
        assert_eq!(
            (status.state(), status.exit_code, &*status.reason),
            (ContainerExited, 128, "StartError")
        );
        assert!(status.message.contains("/no/such/program"), "{}", status.message);
    });
}

#[test]
fn logs_have_the_format_of_the_cri_and_are_reopened() {
    pods(|_, k| {
        let pod = k.pod("logs");
        let id = k.run(&pod);
        let script = "echo out; echo err >&2; printf part; trap 'echo more; exit 0' TERM; \
                      while :; do sleep 0.05; done";
        let container = k.launch(&id, &pod, &k.container("c", script));
        let path = k.log_dir("logs").join("c/0.log");
        assert_eq!(k.status(&container).unwrap().log_path, path.to_string_lossy());
        let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        within(Duration::from_secs(10), "both lines are there", || {
            (read(&path).lines().count() >= 2).then_some(())
        });
        let renamed = path.with_extension("old");
        std::fs::rename(&path, &renamed).unwrap();
        let reopen = || {
            let request = cri::ReopenContainerLogRequest { container_id: container.clone() };
            k.call(k.runtime().reopen_container_log(request))
        };
        reopen().unwrap();
        assert!(path.exists());
        k.stop(&container, 20).unwrap();
        let all = read(&renamed) + &read(&path);
        for (stream, tag, text) in [("stdout", "F", "out"), ("stderr", "F", "err")] {
            let end = format!(" {stream} {tag} {text}");
            assert!(all.lines().any(|line| line.ends_with(&end)), "{end}: {all}");
        }
        assert!(read(&path).contains("more"), "{all}");
        for line in all.lines() {
            let fields: Vec<&str> = line.splitn(4, ' ').collect();
            assert!(fields.len() == 4 && ["P", "F"].contains(&fields[2]), "{line:?}");
            assert!(fields[0].len() >= 20 && fields[0].contains('T'), "{line:?}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(reopen().unwrap_err().code(), Code::FailedPrecondition);
        assert!(!path.exists(), "no log is made for a container that does not run");
    });
}

#[test]
fn commands_have_an_exit_code_a_cap_and_a_deadline() {
    pods(|_, k| {
        let pod = k.pod("exec");
        let id = k.run(&pod);
        let container = k.launch(&id, &pod, &k.container("c", WAITS));
        let done = k.exec(&container, "echo out; echo err >&2; exit 9", 10).unwrap();
        assert_eq!(
            (&*done.stdout, &*done.stderr, done.exit_code),
            (&b"out\n"[..], &b"err\n"[..], 9)
        );
        let done = k.exec(&container, "kill -9 $$", 10).unwrap();
        assert_eq!(done.exit_code, 137);
        let done = k.exec(&container, "head -c 20000000 /dev/zero", 50).unwrap();
        // With all that is around it no more than a message that kubelet takes.
        assert_eq!((done.stdout.len(), done.exit_code), ((16 << 20) - 1024, 0));
        // What it started goes with it, also what left its session.
        let script = "setsid sleep 4321 & sleep 4321 & sleep 4321";
        assert_eq!(k.exec(&container, script, 1).unwrap_err().code(), Code::DeadlineExceeded);
        within(Duration::from_secs(10), "all sleepers are gone", || {
            let left = k.output(&container, "ps -o args | grep '[s]leep 4321' || true");
            left.is_empty().then_some(())
        });
        assert_eq!(k.status(&container).unwrap().state(), ContainerRunning);
        assert!(k.exec("nothing", "true", 1).is_err_and(|e| e.code() == Code::NotFound));
        k.stop(&container, 0).unwrap();
        assert!(k.exec(&container, "true", 1).is_err_and(|e| e.code() == Code::FailedPrecondition));
    });
}

#[test]
fn resources_change_while_a_container_runs() {
    pods(|_, k| {
        let pod = k.pod("limits");
        let id = k.run(&pod);
        let mut config = k.container("c", WAITS);
        config.linux = Some(cri::LinuxContainerConfig {
            resources: Some(limits(64 << 20, 512)),
            ..Default::default()
        });
        let container = k.launch(&id, &pod, &config);
        let update = |linux| {
            let request = cri::UpdateContainerResourcesRequest {
                container_id: container.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            k.call(k.runtime().update_container_resources(request))
        };
        update(limits(96 << 20, 256)).unwrap();
        let told = k.status(&container).unwrap().resources.unwrap().linux.unwrap();
        assert_eq!((told.memory_limit_in_bytes, told.cpu_shares), (96 << 20, 256));
        let seen = k.output(
            &container,
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max",
        );
        assert_eq!(seen, (96 << 20).to_string());
        let request = cri::ContainerStatsRequest { container_id: container.clone() };
        let stats = k.call(k.runtime().container_stats(request)).unwrap().stats.unwrap();
        assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
        assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: id.clone() };
        let stats = k.call(k.runtime().pod_sandbox_stats(request)).unwrap().stats.unwrap();
        let linux = stats.linux.unwrap();
        assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
        assert_eq!(linux.containers.len(), 1);
        assert!(update(limits(-5, 0)).is_err());
    });
}

#[test]
fn ports_of_the_host_lead_into_the_pod() {
    pods(|d, k| {
        let mut pod = k.pod("ports");
        pod.port_mappings =
            vec![cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
        let id = k.run(&pod);
        let serve = "while :; do echo hello | nc -l -p 80; done";
        k.launch(&id, &pod, &k.container("c", serve));
        let ask = || {
            use std::io::Read as _;
            let mut said = String::new();
            d.netns().enter(|| {
                let to = format!("{}:8080", pouch_testkit::Netns::ADDRESS);
                let mut stream = std::net::TcpStream::connect(to).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                stream.read_to_string(&mut said).ok()
            });
            (said == "hello\n").then_some(())
        };
        within(Duration::from_secs(15), "the published port answers", ask);
        k.remove_pod(&id).unwrap();
        assert!(ask().is_none(), "the port is closed with its pod");
    });
}

#[test]
fn events_tell_what_became_of_a_pod_in_order() {
    use cri::ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    pods(|_, k| {
        let request = cri::GetEventsRequest {};
        let mut stream = k.call(k.runtime().get_container_events(request)).unwrap();
        let pod = k.pod("told");
        let id = k.run(&pod);
        let container = k.launch(&id, &pod, &k.container("c", "exit 4"));
        k.ended(&container);
        k.remove(&container).unwrap();
        k.stop_pod(&id).unwrap();
        k.remove_pod(&id).unwrap();
        let wanted = [
            (&id, Created),
            (&id, Started),
            (&container, Created),
            (&container, Started),
            (&container, Stopped),
            (&container, Deleted),
            (&id, Stopped),
            (&id, Deleted),
        ];
        let mut last = 0;
        for (of, kind) in wanted {
            let event = k.block(stream.message()).unwrap().unwrap();
            assert_eq!((&event.container_id, event.container_event_type()), (of, kind));
            assert!(event.created_at >= last, "{kind:?}");
            last = event.created_at;
            if kind != Deleted {
                let status = event.pod_sandbox_status.unwrap();
                assert_eq!(status.id, id, "{kind:?}");
                assert_eq!(status.metadata.unwrap().name, "told");
            }
            if of == &container && kind == Stopped {
                let told = &event.containers_statuses[0];
                assert_eq!((told.exit_code, told.state()), (4, ContainerExited));
            }
        }
    });
}
