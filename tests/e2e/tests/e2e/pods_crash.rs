//! What a crash, a reboot or the end of a pod's own process leaves of pods.

use pouch_cri_grpc as cri;
use pouch_testkit::{eventually, within};
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;
use tonic::Code;

use crate::pods::{WAITS, pods};
use cri::ContainerState::{ContainerExited, ContainerRunning};

fn kill(pid: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn scope(pid: cri::NamespaceMode) -> Option<cri::LinuxPodSandboxConfig> {
    let options = cri::NamespaceOption { pid: pid.into(), ..Default::default() };
    let security_context = Some(cri::LinuxSandboxSecurityContext {
        namespace_options: Some(options),
        ..Default::default()
    });
    Some(cri::LinuxPodSandboxConfig { security_context, ..Default::default() })
}

#[test]
fn pods_survive_the_daemon_s_crash() {
    pods(|d, k| {
        let shared = k.pod("shared");
        let mut private = k.pod("private");
        private.linux = scope(cri::NamespaceMode::Container);
        let counts = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done";
        let exits = "trap 'exit 23' USR1; while :; do sleep 0.05; done";
        let mut known = Vec::new();
        for pod in [&shared, &private] {
            let id = k.run(pod);
            let mut own = k.container("counts", counts);
            let mut ends = k.container("ends", exits);
            let scope = pod.linux.clone().and_then(|l| l.security_context);
            let options = scope.and_then(|s| s.namespace_options);
            for config in [&mut own, &mut ends] {
                config.linux = Some(cri::LinuxContainerConfig {
                    security_context: Some(cri::LinuxContainerSecurityContext {
                        namespace_options: options.clone(),
                        ..Default::default()
                    }),
                    ..Default::default()
                });
            }
            let own = k.launch(&id, pod, &own);
            let ends = k.launch(&id, pod, &ends);
            known.push((id, own, ends));
        }
        // The traps are set.
        std::thread::sleep(Duration::from_millis(500));
        let before: Vec<_> = known
            .iter()
            .map(|(id, own, _)| {
                let ip = k.pod_status(id).unwrap().network.unwrap().ip;
                (k.pod_info(id)["pid"].clone(), d.container_pid(own), ip)
            })
            .collect();
        let ends: Vec<u32> = known.iter().map(|(_, _, ends)| d.container_pid(ends)).collect();
        d.kill9();
        for pid in ends {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            kill_process(pid, Signal::USR1).unwrap();
        }
        std::thread::sleep(Duration::from_millis(500));
        d.start_again();
        for ((id, own, ends), (pause, pid, ip)) in known.iter().zip(before) {
            assert!(k.is_ready(id));
            assert_eq!(k.pod_info(id)["pid"], pause);
            assert_eq!(d.container_pid(own), pid);
            assert_eq!(k.pod_status(id).unwrap().network.unwrap().ip, ip);
            let status = k.ended(ends);
            assert_eq!((status.exit_code, &*status.reason), (23, "Error"));
            assert_eq!(k.output(own, "echo in"), "in");
        }
        // It is the same pod still, also for who asks to run it.
        assert_eq!(k.run(&shared), known[0].0);
        let (id, own, _) = &known[0];
        let more = k.launch(id, &shared, &k.container("more", WAITS));
        let net = |container: &str| k.output(container, "readlink /proc/self/ns/net");
        assert_eq!(net(&more), net(own));
        for (name, (_, own, _)) in ["shared", "private"].iter().zip(&known) {
            k.stop(own, 0).unwrap();
            let log = std::fs::read_to_string(k.log_dir(name).join("counts/0.log")).unwrap();
            let lines: Vec<&str> = log.lines().map(|l| l.splitn(4, ' ').last().unwrap()).collect();
            assert!(lines.len() > 20, "{name}: {} lines", lines.len());
            for (n, line) in lines.iter().enumerate() {
                assert_eq!(*line, format!("line {n}"), "{name}");
            }
        }
    });
}

#[test]
fn a_pod_whose_own_process_ended_is_not_ready() {
    pods(|d, k| {
        for daemon_runs in [true, false] {
            let pod = k.pod(if daemon_runs { "watched" } else { "unwatched" });
            let id = k.run(&pod);
            let container = k.launch(&id, &pod, &k.container("c", WAITS));
            let pid = k.pod_info(&id)["pid"].as_u64().unwrap();
            if daemon_runs {
                kill(pid);
            } else {
                d.kill9();
                kill(pid);
                std::thread::sleep(Duration::from_millis(300));
                d.start_again();
            }
            eventually("the pod is not ready", || !k.is_ready(&id));
            // The kernel ends all processes of the namespace with its first.
            let status = k.ended(&container);
            assert_eq!((status.state(), status.exit_code), (ContainerExited, 137));
            let refused = k.try_create(&id, &pod, &k.container("d", WAITS)).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
            assert_eq!(k.addresses().len(), 1, "held until it is stopped");
            k.stop_pod(&id).unwrap();
            assert!(k.addresses().is_empty());
            k.remove_pod(&id).unwrap();
        }
    });
}

#[test]
fn a_reboot_ends_pods_and_their_addresses_come_back() {
    pods(|d, k| {
        let mut pod = k.pod("old");
        pod.port_mappings =
            vec![cri::PortMapping { container_port: 80, host_port: 80, ..Default::default() }];
        let id = k.run(&pod);
        let container = k.launch(&id, &pod, &k.container("c", WAITS));
        assert_eq!(k.status(&container).unwrap().state(), ContainerRunning);
        d.power_off();
        d.start_again();
        assert!(!k.is_ready(&id));
        let status = k.ended(&container);
        assert_ne!(status.exit_code, 0);
        let mut next = pod.clone();
        next.metadata.as_mut().unwrap().attempt = 1;
        k.stop_pod(&id).unwrap();
        within(Duration::from_secs(10), "its address is free", || {
            k.addresses().is_empty().then_some(())
        });
        let second = k.run(&next);
        let again = k.launch(&second, &next, &k.container("c", WAITS));
        assert_eq!(k.output(&again, "hostname"), "old");
        k.remove_pod(&id).unwrap();
        assert_eq!(k.pods(), [second]);
        // The plugins, which undo what nobody has a record of, leave empty tables of iptables.
        for family in ["ip", "ip6"] {
            let _ = d.netns().command("nft").args(["delete", "table", family, "nat"]).status();
        }
    });
}
