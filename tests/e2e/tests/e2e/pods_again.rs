//! What kubelet asks again: one result whoever came first, and no error for what is gone.

use pouch_testkit::within;
use std::process::Command;
use std::time::Duration;
use tonic::Code;

use crate::pods::{WAITS, pods};
use pouch_cri_grpc as cri;

#[test]
fn the_same_pod_and_container_are_made_once() {
    pods(|_, k| {
        let pod = k.pod("once");
        std::fs::create_dir_all(k.log_dir("once").join("c")).unwrap();
        let runs: Vec<_> = (0..8)
            .map(|_| {
                let (mut runtime, config) = (k.runtime(), pod.clone());
                k.spawn(async move {
                    let request =
                        cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
                    runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id
                })
            })
            .collect();
        let ids: Vec<String> = runs.into_iter().map(|run| k.block(run).unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_eq!(k.run(&pod), ids[0]);
        assert_eq!(k.pods(), ids[..1]);
        assert_eq!(k.addresses().len(), 1);

        let creates: Vec<_> = (0..8)
            .map(|_| {
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id: ids[0].clone(),
                    config: Some(k.container("c", WAITS)),
                    sandbox_config: Some(pod.clone()),
                };
                let mut runtime = k.runtime();
                k.spawn(async move {
                    runtime.create_container(request).await.unwrap().into_inner().container_id
                })
            })
            .collect();
        let made: Vec<String> = creates.into_iter().map(|made| k.block(made).unwrap()).collect();
        assert!(made.iter().all(|id| *id == made[0]), "{made:?}");
        assert_eq!(k.create(&ids[0], &pod, &k.container("c", WAITS)), made[0]);
        assert_eq!(k.containers(), made[..1]);

        let starts: Vec<_> = (0..4)
            .map(|_| {
                let request = cri::StartContainerRequest { container_id: made[0].clone() };
                let mut runtime = k.runtime();
                k.spawn(async move { runtime.start_container(request).await.map(drop) })
            })
            .collect();
        let started = starts.into_iter().map(|start| k.block(start).unwrap());
        assert!(started.filter(Result::is_ok).count() >= 1);
        // An attempt that runs is not made again; the next one is another container.
        let again = k.try_create(&ids[0], &pod, &k.container("c", WAITS)).unwrap_err();
        assert_eq!(again.code(), Code::AlreadyExists);
        let mut second = k.container("c", WAITS);
        second.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(k.create(&ids[0], &pod, &second), made[0]);
        k.stop_pod(&ids[0]).unwrap();
        assert_eq!(k.try_run(&pod).unwrap_err().code(), Code::AlreadyExists);
        let mut next = pod.clone();
        next.metadata.as_mut().unwrap().attempt = 1;
        assert_ne!(k.run(&next), ids[0]);
    });
}

#[test]
fn the_end_of_what_is_gone_succeeds() {
    pods(|_, k| {
        let pod = k.pod("ends");
        let id = k.run(&pod);
        let container = k.launch(&id, &pod, &k.container("c", WAITS));
        for _ in 0..2 {
            k.stop(&container, 0).unwrap();
        }
        for _ in 0..2 {
            k.remove(&container).unwrap();
            k.stop(&container, 0).unwrap();
        }
        // All at once, with a container that runs.
        k.launch(&id, &pod, &k.container("d", WAITS));
        let ends: Vec<_> = (0..12)
            .map(|n| {
                let (mut runtime, id) = (k.runtime(), id.clone());
                k.spawn(async move {
                    if n % 2 == 0 {
                        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id };
                        runtime.stop_pod_sandbox(request).await.map(drop)
                    } else {
                        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id };
                        runtime.remove_pod_sandbox(request).await.map(drop)
                    }
                })
            })
            .collect();
        for end in ends {
            k.block(end).unwrap().unwrap();
        }
        k.stop_pod(&id).unwrap();
        k.remove_pod(&id).unwrap();
        assert_eq!((k.pods(), k.containers()), (Vec::new(), Vec::new()));
        for nothing in ["", "f", &"f".repeat(64)] {
            k.stop_pod(nothing).unwrap();
            k.remove_pod(nothing).unwrap();
            k.stop(nothing, 1).unwrap();
            k.remove(nothing).unwrap();
        }
        assert_eq!(k.pod_status(&id).unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn running_pods_are_removed_by_force() {
    pods(|_, k| {
        let pod = k.pod("force");
        let id = k.run(&pod);
        let deaf =
            k.launch(&id, &pod, &k.container("deaf", "trap '' TERM; while :; do sleep 1; done"));
        k.remove(&deaf).unwrap();
        assert!(k.containers().is_empty());
        k.launch(&id, &pod, &k.container("c", WAITS));
        k.remove_pod(&id).unwrap();
        assert_eq!((k.pods(), k.containers()), (Vec::new(), Vec::new()));
        assert!(k.addresses().is_empty());
    });
}

#[test]
fn a_pod_ends_whatever_its_network_has_lost() {
    pods(|d, k| {
        let conf = k.network_dir().join("10-pods.conflist");
        let kept = std::fs::read(&conf).unwrap();
        for lost in ["namespace", "configuration", "cache", "all"] {
            let mut pod = k.pod(lost);
            pod.port_mappings =
                vec![cri::PortMapping { container_port: 80, host_port: 81, ..Default::default() }];
            let id = k.run(&pod);
            k.launch(&id, &pod, &k.container("c", WAITS));
            if ["namespace", "all"].contains(&lost) {
                let pin = k.pod_info(&id)["networkNamespace"].as_str().unwrap().to_owned();
                let done = Command::new("umount").args(["-l", &pin]).status().unwrap();
                assert!(done.success());
                std::fs::remove_file(pin).unwrap();
            }
            if ["configuration", "all"].contains(&lost) {
                std::fs::remove_file(&conf).unwrap();
            }
            if ["cache", "all"].contains(&lost) {
                std::fs::remove_dir_all(d.exec_root().join("cni")).unwrap();
            }
            k.stop_pod(&id).unwrap();
            k.stop_pod(&id).unwrap();
            if lost == "all" {
                // Nobody knows any more what it was; the next start collects what is left.
                std::fs::write(&conf, &kept).unwrap();
                d.restart();
            }
            within(Duration::from_secs(10), &format!("the address without {lost}"), || {
                k.addresses().is_empty().then_some(())
            });
            k.remove_pod(&id).unwrap();
            std::fs::write(&conf, &kept).unwrap();
        }
    });
}
