//! From one backend to the other and back: nothing is lost, and nothing is done to what belongs to
//! the backend that does not serve.

use std::collections::BTreeMap;

use pouch_testkit::{Backend, Daemon, Host, eventually, have, is_alive};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::remote_with;

/// Exits with 7 on SIGTERM.
const SEVEN: &str = "trap 'exit 7' TERM; while :; do sleep 0.05; done";

fn term(pid: u32) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

fn run(d: &Daemon, name: &str, flags: &[&str], command: &[&str]) {
    let words = [&["run", "-d", "--name", name], flags, &["busybox"], command].concat();
    d.docker(&words).check();
}

/// What `pouch system backend` counts: running and all, by backend.
fn counts(d: &Daemon) -> BTreeMap<String, (u64, u64)> {
    let text = d.pouch(&["system", "backend", "--format", "json"]);
    let info: Value = serde_json::from_str(text.ok()).unwrap();
    let containers = info["Containers"].as_object().unwrap().iter();
    let number = |value: &Value| value.as_u64().unwrap();
    containers
        .map(|(name, count)| (name.clone(), (number(&count["Running"]), number(&count["Total"]))))
        .collect()
}

/// The embedded backend's last run is over; what it has of its own is nothing that is left behind.
pub(crate) fn back_to_containerd(d: &mut Daemon) {
    d.restart_on(Backend::Remote);
    let state = d.exec_root();
    std::fs::remove_dir(state.join("t")).expect("no run is left");
    std::fs::remove_file(state.join("events.sock")).unwrap();
}

/// Leaves containers in every state with `home`, and looks at them with the other backend.
fn there_and_back(d: &mut Daemon, home: Backend, flags: &[&str]) {
    let (other, name) = match home {
        Backend::Local => (Backend::Remote, "local"),
        Backend::Remote => (Backend::Local, "remote"),
    };
    d.restart_on(home);
    run(d, "runs", &[flags, &["-p", "8080:80", "-v", "vol:/v"]].concat(), &["sleep", "1000"]);
    run(d, "ends", flags, &["sh", "-c", SEVEN]);
    run(d, "again", &[flags, &["--restart", "always"]].concat(), &["sh", "-c", SEVEN]);
    run(d, "frozen", flags, &["sleep", "1000"]);
    d.docker(&["pause", "frozen"]).check();
    run(d, "waits", &[], &["sh", "-c", "exit 3"]);
    d.docker(&["wait", "waits"]).check();
    d.docker(&["create", "--name", "made", "busybox", "echo", "made"]).check();
    let pids = ["runs", "ends", "again", "frozen"].map(|name| d.container_pid(name));
    let address = d.inspect("runs")["NetworkSettings"]["IPAddress"].clone();
    assert!(address.as_str().is_some_and(|address| !address.is_empty()));

    d.restart_on(other);
    // All are there, and it can be told which are whose.
    let list = d.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
    let lines: Vec<&str> = list.ok().lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    for line in &lines {
        let tied = !line.starts_with("waits") && !line.starts_with("made");
        assert_eq!(line.contains(&format!("(backend {name})")), tied, "{line}");
    }
    let filter = format!("label=dev.pouch.backend={name}");
    assert_eq!(d.docker(&["ps", "-q", "--filter", &filter]).ok().lines().count(), 4);
    assert_eq!(counts(d)[name], (4, 4));
    assert_eq!((d.state("runs"), d.state("frozen")), ("running".into(), "paused".into()));
    assert_eq!(d.container_pid("runs"), pids[0]);
    assert_eq!(d.inspect("runs")["NetworkSettings"]["IPAddress"], address);
    let back = format!("--backend {name}");
    let told = d.inspect("runs")["State"]["Error"].as_str().unwrap().to_owned();
    assert!(told.contains(&back), "{told}");
    for words in [
        &["start", "runs"][..],
        &["start", "ends"],
        &["stop", "runs"],
        &["restart", "-t", "0", "runs"],
        &["kill", "runs"],
        &["pause", "runs"],
        &["unpause", "frozen"],
        &["exec", "runs", "true"],
        &["wait", "runs"],
        &["cp", "runs:/etc/passwd", "-"],
        &["rm", "runs"],
        &["rm", "-f", "runs"],
        &["run", "--rm", "--network", "container:runs", "busybox", "true"],
    ] {
        d.docker(words).says(&back);
    }
    // docker's own says nothing of the answer.
    d.pouch(&["attach", "--no-stdin", "runs"]).says(&back);
    // What is tied to no backend runs here, from the same root file system.
    assert_eq!(d.docker(&["start", "-a", "made"]).ok(), "made");
    d.docker(&["start", "-a", "waits"]).exits(3);
    d.docker(&["rm", "waits", "made"]).check();
    // What belongs to those others is not given to somebody else.
    let taken = ["run", "--rm", "--name", "late", "-p", "8080:80", "busybox", "true"];
    d.docker(&taken).says("8080");
    let _ = d.docker(&["rm", "late"]);
    run(d, "guest", &[], &["sleep", "1000"]);
    assert_ne!(d.inspect("guest")["NetworkSettings"]["IPAddress"], address);
    d.docker(&["volume", "rm", "vol"]).fails_with("in use");
    d.docker(&["rename", "runs", "renamed"]).check();
    d.docker(&["container", "prune", "-f"]).check();
    d.docker(&["rm", "-f", "guest"]).check();
    // They end meanwhile. A foreign shim's end is on record only with its containerd's daemon.
    term(pids[1]);
    term(pids[2]);
    eventually("they have ended", || !is_alive(pids[1]) && !is_alive(pids[2]));
    if flags.is_empty() {
        eventually("the end is shown", || d.state("ends") == "exited");
        assert_eq!(d.inspect("ends")["State"]["ExitCode"], 7);
        d.docker(&["rm", "ends"]).says(&back);
    }
    // Also a second daemon with the wrong backend changes nothing, however it ends.
    d.crash();
    assert_eq!(d.container_pid("renamed"), pids[0]);

    d.restart_on(home);
    assert_eq!(counts(d).values().map(|(_, all)| all).sum::<u64>(), 4);
    assert_eq!(d.container_pid("renamed"), pids[0]);
    assert_eq!(d.inspect("renamed")["NetworkSettings"]["IPAddress"], address);
    assert_eq!(d.inspect("renamed")["Config"]["Labels"].get("dev.pouch.backend"), None);
    assert_eq!(d.docker(&["exec", "renamed", "echo", "well"]).ok(), "well");
    assert_eq!((d.state("frozen"), d.container_pid("frozen")), ("paused".into(), pids[3]));
    d.docker(&["unpause", "frozen"]).check();
    eventually("the end is known", || d.state("ends") == "exited");
    assert_eq!(d.inspect("ends")["State"]["ExitCode"], 7);
    eventually("the policy acts", || d.state("again") == "running");
    assert!(d.inspect("again")["RestartCount"].as_u64() >= Some(1));
    let all = ["rm", "-f", "-v", "renamed", "ends", "again", "frozen"];
    d.docker(&all).check();
    d.docker(&["volume", "rm", "vol"]).check();
    back_to_containerd(d);
}

#[test]
fn what_the_embedded_backend_runs_is_left_alone_by_the_other() {
    movable(|d| there_and_back(d, Backend::Local, &[]));
}

#[test]
fn what_containerd_runs_is_left_alone_by_the_embedded_backend() {
    movable(|d| there_and_back(d, Backend::Remote, &[]));
}

#[test]
fn what_a_foreign_shim_runs_is_left_alone_by_the_embedded_backend() {
    if have("runc") {
        movable(|d| there_and_back(d, Backend::Remote, &["--runtime", "io.containerd.runc.v2"]));
    }
}

#[test]
fn after_a_reboot_no_container_is_tied_to_a_backend() {
    movable(|d| {
        run(d, "policy", &["--restart", "always"], &["sleep", "1000"]);
        run(d, "plain", &[], &["sleep", "1000"]);
        d.power_off();
        d.start_again();
        eventually("the policy acts", || d.state("policy") == "running");
        d.stop();
        d.power_off();
        // containerd still has objects of both.
        d.start_again_on(Backend::Local);
        eventually("the policy acts here", || d.state("policy") == "running");
        assert_eq!(d.state("plain"), "exited");
        assert_eq!(d.docker(&["exec", "policy", "echo", "in"]).ok(), "in");
        d.docker(&["start", "plain"]).check();
        assert_eq!(counts(d)["local"], (2, 2));
        d.docker(&["rm", "-f", "policy", "plain"]).check();
        back_to_containerd(d);
    });
}

#[test]
fn a_container_that_wants_a_foreign_shim_waits_for_a_containerd() {
    movable(|d| {
        let runtime = ["--runtime", "io.containerd.runc.v2"];
        d.docker(&[&["create", "--name", "odd"][..], &runtime, &["busybox", "true"]].concat())
            .check();
        d.restart_on(Backend::Local);
        d.docker(&["start", "odd"]).fails_with("io.containerd.runc.v2");
        d.docker(&["start", "odd"]).fails_with("--backend remote");
        assert_eq!(d.state("odd"), "created", "it is as it was");
        d.docker(&["rm", "odd"]).check();
        back_to_containerd(d);
    });
}

/// A daemon that can serve either backend.
fn movable(test: impl FnOnce(&mut Daemon)) {
    remote_with(Host::new().with_own_images(), test);
}
