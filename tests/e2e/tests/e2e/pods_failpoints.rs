//! The crash matrix of pods: the daemon dies at each named step of a pod's life and at each step of
//! the start of its container; a new one finds a pod in a state that exists, the same can be asked
//! again, and nothing is left behind.

use pouch_cri_grpc as cri;
use pouch_testkit::{Daemon, Host, Kubelet};
use pouch_types::failpoint;
use tonic::Code;

use crate::pods::WAITS;

fn points(part: usize) -> Vec<&'static str> {
    const PARTS: usize = 4;
    let all = failpoint::POD.iter().chain(failpoint::CONTAINER);
    all.skip(part).step_by(PARTS).copied().collect()
}

/// Goes through a pod's life until the daemon dies at its point.
fn live(k: &Kubelet, pod: &cri::PodSandboxConfig) -> Result<(), tonic::Status> {
    let id = k.try_run(pod)?;
    let container = k.try_create(&id, pod, &k.container("c", WAITS))?;
    k.start(&container)?;
    k.stop(&container, 20)?;
    k.remove(&container)?;
    let second = k.try_create(&id, pod, &k.container("d", WAITS))?;
    k.start(&second)?;
    k.stop_pod(&id)?;
    k.remove_pod(&id)
}

fn matrix(part: usize) {
    if crate::pods::elsewhere() {
        return;
    }
    Host::new().with_pods().run(|d| {
        d.stop();
        let before = d.census_of_disk();
        for point in points(part) {
            println!("--- {point}");
            d.start_again_with("POUCH_FAILPOINT", &format!("{point}:abort"));
            crash_at(d, point);
            d.clear();
            d.stop();
            let left = d.census_of_disk().since(&before);
            assert!(left.is_empty(), "{point} left behind:\n{left}");
        }
        d.start_again();
    });
}

fn crash_at(d: &mut Daemon, point: &str) {
    let k = d.kubelet();
    let pod = k.pod("box");
    let ended = live(&k, &pod);
    pouch_testkit::eventually(&format!("the daemon dies at {point}"), || !d.is_running());
    assert!(ended.is_err(), "{point}: somebody answered");
    d.start_again();
    for id in k.containers() {
        // One that is being removed is gone any time.
        let Ok(status) = k.status(&id) else { continue };
        let known = status.state() != cri::ContainerState::ContainerUnknown;
        assert!(known || point.contains("remov"), "{point}: {status:?}");
    }
    // As kubelet does it: what was not answered is asked again, and what has ended is followed by
    // the next attempt.
    let mut next = pod.clone();
    let id = k.try_run(&next).unwrap_or_else(|status| {
        assert_eq!(status.code(), Code::AlreadyExists, "{point}: {status}");
        next.metadata.as_mut().unwrap().attempt = 1;
        k.run(&next)
    });
    assert!(k.is_ready(&id), "{point}");
    let mut config = k.container("c", WAITS);
    let made = k.try_create(&id, &next, &config).unwrap_or_else(|status| {
        assert_eq!(status.code(), Code::AlreadyExists, "{point}: {status}");
        config.metadata.as_mut().unwrap().attempt = 1;
        k.create(&id, &next, &config)
    });
    k.start(&made).unwrap();
    assert_eq!(k.output(&made, "hostname"), "box", "{point}");
    let told = k.pod_status(&id).unwrap().network.unwrap().ip;
    assert!(k.output(&made, "ip -4 addr show eth0").contains(&told), "{point}");
    for id in k.pods() {
        k.stop_pod(&id).unwrap();
        k.remove_pod(&id).unwrap();
    }
    assert_eq!((k.pods(), k.containers()), (Vec::new(), Vec::new()), "{point}");
    assert_eq!(k.addresses(), Vec::<String>::new(), "{point}");
    // The whole life once more.
    live(&k, &pod).unwrap();
}

#[test]
fn crash_matrix_of_pods_first_quarter() {
    matrix(0);
}

#[test]
fn crash_matrix_of_pods_second_quarter() {
    matrix(1);
}

#[test]
fn crash_matrix_of_pods_third_quarter() {
    matrix(2);
}

#[test]
fn crash_matrix_of_pods_fourth_quarter() {
    matrix(3);
}

#[test]
fn every_point_of_a_pod_is_in_one_quarter() {
    let mut all: Vec<&str> = (0..4).flat_map(points).collect();
    let mut listed = [failpoint::POD, failpoint::CONTAINER].concat();
    all.sort_unstable();
    listed.sort_unstable();
    assert_eq!(all, listed);
    assert!(all.len() >= 24, "points of the matrix are gone");
}
