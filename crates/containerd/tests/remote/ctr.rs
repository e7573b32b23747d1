//! Our shim in the hands of containerd's own client, without any pouchd.

use pouch_testkit::{Containerd, eventually, program};

use crate::rig::Rig;

/// A namespace that only this test uses.
const NAMESPACE: &str = "smoke";

#[tokio::test]
async fn ctr_alone_runs_containers_with_our_shim() {
    let Some(rig) = Rig::new().await else { return };
    let root = rig.dir.path().join("rootfs").display().to_string();
    let shim = program("containerd-shim-pouch-v2").display().to_string();
    let containerd: &Containerd = &rig.containerd;
    let ctr = |words: &[&str]| containerd.try_ctr(&[&["-n", NAMESPACE], words].concat());
    let run = |flags: &[&str], id: &str, command: &[&str]| {
        let given = ["run", "--rootfs", "--runtime", &shim];
        ctr(&[&given[..], flags, &[&root, id], command].concat())
    };
    // Named pipes of ctr, an exit code, and nothing left.
    let said = run(&["--rm"], "one", &["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]);
    said.exits(7);
    assert_eq!((said.stdout.as_str(), said.stderr.contains("err")), ("out\n", true));
    run(&["--rm"], "bad", &["/nowhere"]).says("nowhere");

    // One that goes on, and all that can be asked of it.
    run(&["-d"], "two", &["/bin/sleep", "1000"]).check();
    let task = |words: &[&str]| ctr(&[&["task"], words].concat());
    let status = || task(&["ls"]).ok().to_owned();
    assert!(status().contains("RUNNING"), "{}", status());
    let exec = ["exec", "--exec-id", "e", "two", "/bin/sh", "-c", "echo in; exit 3"];
    let said = task(&exec);
    said.exits(3);
    assert_eq!(said.stdout, "in\n");
    task(&["pause", "two"]).check();
    assert!(status().contains("PAUSED"), "{}", status());
    task(&["resume", "two"]).check();
    assert_eq!(task(&["ps", "two"]).ok().lines().count(), 2, "a title and a process");
    task(&["metrics", "two"]).check();
    task(&["delete", "two"]).says("running");
    task(&["kill", "-s", "SIGKILL", "two"]).check();
    eventually("it has stopped", || status().contains("STOPPED"));
    let _ = task(&["delete", "two"]);
    assert!(!status().contains("two"), "{}", status());
    ctr(&["containers", "rm", "two"]).check();
    // By force while it runs.
    run(&["-d"], "three", &["/bin/sleep", "1000"]).check();
    let _ = task(&["delete", "-f", "three"]);
    ctr(&["containers", "rm", "three"]).check();
    containerd.assert_empty(NAMESPACE);
}
