//! Daemons and shims of different builds side by side, on both backends. `POUCH_OLDER_PROGRAMS`
//! names a directory with the programs of an earlier build.

use std::path::{Path, PathBuf};

use pouch_testkit::{Backend, Daemon, Host, daemon, eventually};

use crate::{OBEDIENT, remote};

fn older() -> Option<PathBuf> {
    let dir = std::env::var_os("POUCH_OLDER_PROGRAMS").map(PathBuf::from);
    if dir.is_none() {
        println!("skipped: POUCH_OLDER_PROGRAMS names no directory of older programs");
    }
    dir
}

/// Containers of one build's daemon and shims, in the hands of the other's daemon.
fn handed_over(d: &mut Daemon, from: Option<&Path>, to: Option<&Path>) {
    d.restart_from(from);
    let run = |d: &Daemon, name: &str, flags: &[&str], script: &str| {
        let words = [&["run", "-d", "--name", name], flags, &["busybox", "sh", "-c", script]];
        d.docker(&words.concat()).check();
    };
    let count = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.05; done";
    run(d, "talks", &["-p", "8080:80"], count);
    run(d, "ends", &[], "trap 'exit 5' TERM; while :; do sleep 0.05; done");
    run(d, "again", &["--restart", "always"], OBEDIENT);
    run(d, "ended", &[], "echo said; exit 4");
    d.docker(&["wait", "ended"]).check();
    d.docker(&["create", "--name", "made", "busybox", "echo", "made"]).check();
    let pids = ["talks", "ends", "again"].map(|name| d.container_pid(name));
    d.restart_from(to);
    assert_eq!(["talks", "ends", "again"].map(|name| d.container_pid(name)), pids);
    assert_eq!(d.docker(&["exec", "talks", "echo", "in"]).ok(), "in");
    d.docker(&["exec", "talks", "sh", "-c", "exit 6"]).exits(6);
    let logs = d.docker(&["logs", "talks"]);
    assert!(logs.ok().lines().enumerate().all(|(n, line)| line == format!("line {n}")));
    d.docker(&["pause", "talks"]).check();
    d.docker(&["unpause", "talks"]).check();
    d.docker(&["update", "--memory", "64m", "--memory-swap", "64m", "talks"]).check();
    d.docker(&["kill", "-s", "TERM", "ends"]).check();
    eventually("the end is told", || d.state("ends") == "exited");
    assert_eq!(d.inspect("ends")["State"]["ExitCode"], 5);
    assert_eq!(d.inspect("ended")["State"]["ExitCode"], 4);
    assert_eq!(d.docker(&["logs", "ended"]).ok(), "said");
    d.docker(&["exec", "again", "kill", "-TERM", "1"]).check();
    eventually("the policy acts, with a shim of this build", || {
        let pid = d.inspect("again")["State"]["Pid"].as_u64().unwrap();
        pid != 0 && pid != u64::from(pids[2])
    });
    d.docker(&["stop", "-t", "1", "talks"]).check();
    d.docker(&["start", "talks"]).check();
    assert_eq!(d.docker(&["start", "-a", "made"]).ok(), "made");
    d.docker(&["rm", "-f", "talks", "ends", "again", "ended", "made"]).check();
}

fn both_ways(d: &mut Daemon, older: &Path) {
    handed_over(d, Some(older), None);
    handed_over(d, None, Some(older));
    d.restart_from(None);
}

#[test]
fn shims_and_daemons_of_two_builds_work_together_on_the_embedded_backend() {
    if let Some(older) = older() {
        daemon(|d| both_ways(d, &older));
    }
}

#[test]
fn shims_and_daemons_of_two_builds_work_together_over_containerd() {
    if let Some(older) = older() {
        remote(|d| both_ways(d, &older));
    }
}

#[test]
fn what_an_older_daemon_runs_is_not_lost_by_moving_over() {
    let Some(older) = older() else { return };
    // Its records do not say which backend made them.
    if pouch_testkit::Containerd::binary().is_none() {
        return;
    }
    Host::new().on_containerd().run(|d| {
        d.restart_from(Some(&older));
        d.docker(&["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).check();
        let pid = d.container_pid("one");
        d.restart_from(None);
        d.restart_on(Backend::Local);
        assert_eq!((d.state("one"), d.container_pid("one")), ("running".to_owned(), pid));
        d.docker(&["stop", "one"]).says("--backend remote");
        d.restart_on(Backend::Remote);
        d.restart_from(Some(&older));
        assert_eq!(d.container_pid("one"), pid);
        d.restart_from(None);
        assert_eq!(d.docker(&["exec", "one", "echo", "in"]).ok(), "in");
        d.docker(&["rm", "-f", "one"]).check();
        crate::moving::back_to_containerd(d);
    });
}
