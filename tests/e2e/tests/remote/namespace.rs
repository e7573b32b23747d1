//! The namespace in containerd.

use pouch_testkit::{Containerd, Daemon, Host};

#[track_caller]
fn ids(d: &mut Daemon, namespace: &str) -> String {
    d.containerd().unwrap().ctr(&["-n", namespace, "tasks", "ls", "-q"])
}

#[test]
fn ctr_sees_the_containers_in_the_namespace_that_is_asked_for() {
    if Containerd::binary().is_none() {
        return;
    }
    Host::new().on_containerd().run(|d| {
        d.docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).check();
        let id = d.inspect("one")["Id"].as_str().unwrap().to_owned();
        assert_eq!(ids(d, "pouch").trim(), id);
        assert_eq!(ids(d, "k8s.io"), "");
        assert!(d.get("/info").json()["Warnings"].as_array().is_none_or(|all| {
            all.iter().all(|warning| !warning.as_str().unwrap().contains("k8s.io"))
        }));
        assert_eq!(d.get("/info").json()["Containerd"]["Namespaces"]["Containers"], "pouch");
    });
    let flags = ["--containerd-namespace", "k8s.io"];
    Host::new().flags(&flags).on_containerd().run(|d| {
        d.docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).check();
        let id = d.inspect("one")["Id"].as_str().unwrap().to_owned();
        assert_eq!(ids(d, "k8s.io").trim(), id);
        assert_eq!(ids(d, "pouch"), "");
        assert!(d.log().contains("k8s.io"), "the log warns");
        assert!(d.docker(&["info"]).stderr.contains("k8s.io"), "info warns");
        assert!(d.pouch(&["system", "backend"]).stderr.contains("k8s.io"));
        assert_eq!(d.get("/pouch/backend").json()["Containerd"]["Namespace"], "k8s.io");
    });
}
