//! One store below Docker's API and the CRI: who holds an image, and what Docker may do to pods.

use pouch_cri_grpc as cri;
use pouch_testkit::{Kubelet, Registry, busybox, docker_archive};

use crate::pods::{WAITS, pods};

fn spec(name: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec { image: name.to_owned(), ..Default::default() })
}

fn image(k: &Kubelet, name: &str) -> Option<cri::Image> {
    let request = cri::ImageStatusRequest { image: spec(name), verbose: false };
    k.call(k.images().image_status(request)).unwrap().image
}

fn listed(k: &Kubelet, name: &str) -> bool {
    let request = cri::ListImagesRequest::default();
    let images = k.call(k.images().list_images(request)).unwrap().images;
    images.iter().any(|image| image.repo_tags.iter().any(|tag| tag == name))
}

fn remove(k: &Kubelet, name: &str) {
    let request = cri::RemoveImageRequest { image: spec(name) };
    k.call(k.images().remove_image(request)).unwrap();
}

fn pull(k: &Kubelet, name: &str) -> String {
    let request = cri::PullImageRequest { image: spec(name), ..Default::default() };
    k.call(k.images().pull_image(request)).unwrap().image_ref
}

#[test]
fn what_docker_named_is_pinned_and_never_kubelet_s_to_remove() {
    pods(|d, k| {
        d.import("docker/own", busybox(), &["USER 7"]);
        let name = "docker.io/docker/own:latest";
        let known = image(k, name).unwrap();
        assert!(known.pinned && listed(k, name), "{known:?}");
        assert_eq!(known.uid.unwrap().value, 7);
        for key in [name, &known.id, "docker/own"] {
            remove(k, key);
            assert!(image(k, name).is_some(), "{key}");
        }
        d.docker(&["image", "inspect", "docker/own"]).check();
        assert!(image(k, "nothing:here").is_none());
        remove(k, "nothing:here");
    });
}

#[test]
fn what_only_pods_hold_stays_for_them() {
    pods(|d, k| {
        let Some(registry) = Registry::start(d) else { return };
        let archive = docker_archive("kube/app:1", busybox(), &serde_json::json!({}));
        registry.push(d, &archive, "kube/app:1");
        let name = format!("{}/kube/app:1", Registry::HOST);
        let id = pull(k, &name);
        let known = image(k, &name).unwrap();
        assert!(known.id == id && !known.pinned && listed(k, &name), "{known:?}");
        assert!(known.repo_digests[0].contains("/kube/app@sha256:"), "{known:?}");
        let lines = d.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
        assert!(lines.ok().lines().any(|line| line == name), "{}", lines.stdout);
        // Neither an image nor a pod's container is pruned by Docker's users.
        let pod = k.pod("held");
        let sandbox = k.run(&pod);
        let ended = k.launch(&sandbox, &pod, &k.container("c", "exit 3"));
        k.ended(&ended);
        d.docker(&["system", "prune", "-a", "-f", "--volumes"]).check();
        d.docker(&["container", "prune", "-f"]).check();
        assert!(image(k, &name).is_some());
        assert_eq!(k.status(&ended).unwrap().exit_code, 3);
        // Docker's claim beside kubelet's: each goes on its own.
        d.docker(&["pull", "-q", &name]).check();
        assert!(image(k, &name).unwrap().pinned);
        d.docker(&["rmi", &name]).check();
        assert!(image(k, &name).is_some_and(|image| !image.pinned));
        d.docker(&["pull", "-q", &name]).check();
        remove(k, &name);
        assert!(image(k, &name).is_some_and(|image| image.pinned), "docker holds it still");
        d.docker(&["rmi", &name]).check();
        assert!(image(k, &name).is_none());
        // All names at once.
        pull(k, &name);
        let by_digest = image(k, &name).unwrap().repo_digests[0].clone();
        pull(k, &by_digest);
        remove(k, &id);
        assert!(image(k, &name).is_none() && image(k, &by_digest).is_none());
        assert!(!d.docker(&["images", "-q", "--no-trunc"]).ok().contains(&id));
        k.remove_pod(&sandbox).unwrap();
        d.import("busybox", busybox(), &["CMD [\"sh\"]"]);
    });
}

#[test]
fn docker_sees_the_containers_of_pods_and_leaves_them_alone() {
    pods(|d, k| {
        let pod = k.pod("seen");
        let sandbox = k.run(&pod);
        let id = k.launch(&sandbox, &pod, &k.container("c", &format!("echo told; {WAITS}")));
        let format = "{{.ID}} {{.Names}} {{.Labels}}";
        let lines = d.docker(&["ps", "-a", "--no-trunc", "--format", format]).ok().to_owned();
        assert!(lines.contains(&id) && lines.contains("container=c"), "{lines}");
        assert!(lines.contains("k8s_c_seen_default_uid-of-seen_"), "{lines}");
        for words in [
            &["stop", "-t", "0"][..],
            &["kill"],
            &["rm", "-f"],
            &["pause"],
            &["restart", "-t", "0"],
            &["start"],
            &["update", "--memory", "64m", "--memory-swap", "-1"],
        ] {
            let refused = d.docker(&[words, &[&*id]].concat());
            assert_ne!(refused.code(), 0, "{words:?}");
            let said = format!("{}{}", refused.stdout, refused.stderr);
            assert!(said.contains("belongs to pod sandbox"), "{words:?}: {said}");
        }
        let refused = d.docker(&["rename", &id, "mine"]);
        assert!(refused.stderr.contains("belongs to pod sandbox"), "{}", refused.stderr);
        assert_eq!(k.status(&id).unwrap().state(), cri::ContainerState::ContainerRunning);
        assert_eq!(d.docker(&["exec", &id, "echo", "in"]).ok(), "in");
        assert_eq!(d.docker(&["logs", &id]).ok(), "told");
        assert!(
            d.docker(&["top", &id]).ok().contains("sleep")
                || d.docker(&["top", &id]).ok().contains("sh -c")
        );
        let stats =
            d.docker(&["stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.PIDs}}"]);
        assert!(stats.ok().contains(&id), "{}", stats.stdout);
        let told = d.inspect(&id);
        assert_eq!(told["Config"]["Labels"]["container"], "c");
        assert_eq!(told["State"]["Running"], true);
        assert_eq!(told["Config"]["Hostname"], "seen");
        // kubelet's view of Docker's own: none.
        d.docker(&["run", "-d", "--name", "own", "busybox", "sleep", "600"]).check();
        let own = d.inspect("own")["Id"].as_str().unwrap().to_owned();
        assert_eq!(k.containers(), [id]);
        assert!(k.status(&own).is_err_and(|e| e.code() == tonic::Code::NotFound));
        k.remove(&own).unwrap();
        assert_eq!(d.state("own"), "running", "kubelet removes nothing of docker's");
    });
}
