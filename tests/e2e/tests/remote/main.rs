//! The daemon over an existing containerd: what it costs, what it outlives, whose shims it takes.
//! `POUCH_CONTAINERD` names another containerd than that in PATH.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

mod gone;
mod images;
mod many;
mod moving;
mod namespace;
mod versions;

use std::time::Duration;

use pouch_testkit::{Containerd, Daemon, Host, eventually, have};

/// Ends on SIGTERM, which a first process without a handler does not.
pub(crate) const OBEDIENT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

pub(crate) fn remote(test: impl FnOnce(&mut Daemon)) {
    remote_with(Host::new(), test);
}

pub(crate) fn remote_with(host: Host, test: impl FnOnce(&mut Daemon)) {
    if Containerd::binary().is_some() {
        host.on_containerd().run(test);
    }
}

/// Asserts how many calls containerd gets by `work` and shortly after.
#[track_caller]
fn costs(d: &mut Daemon, calls: u64, what: &str, work: impl FnOnce(&Daemon)) {
    let before = d.containerd().unwrap().calls();
    work(d);
    // Exits are handled and objects removed behind the answer.
    std::thread::sleep(Duration::from_millis(1000));
    let since = d.containerd().unwrap().calls_since(&before);
    assert_eq!(since.values().sum::<u64>(), calls, "{what}: {since:?}");
}

#[track_caller]
fn docker(d: &mut Daemon, calls: u64, words: &[&str]) {
    costs(d, calls, &words.join(" "), |d| {
        d.docker(words).check();
    });
}

#[test]
fn nothing_costs_more_calls_than_it_must() {
    remote(|d| budget(d, 1));
}

#[test]
fn nothing_costs_more_calls_than_it_must_with_images_of_our_own() {
    remote_with(Host::new().with_own_images(), |d| budget(d, 0));
}

/// `root` is what a root file system costs, once when it is made and once when it goes.
fn budget(d: &mut Daemon, root: u64) {
    // What the warm-up put off.
    std::thread::sleep(Duration::from_millis(1000));
    docker(d, root, &["create", "--name", "one", "busybox", "sleep", "1000"]);
    docker(d, 3, &["start", "one"]);
    docker(d, 3, &["exec", "one", "true"]);
    docker(d, 3, &["exec", "-d", "one", "true"]);
    docker(d, 1, &["pause", "one"]);
    docker(d, 1, &["unpause", "one"]);
    docker(d, 0, &["top", "one"]);
    docker(d, 0, &["stats", "--no-stream", "one"]);
    docker(d, 0, &["update", "--memory", "64m", "--memory-swap", "64m", "one"]);
    docker(d, 1, &["kill", "-s", "HUP", "one"]);
    docker(d, 3, &["kill", "one"]);
    docker(d, root, &["rm", "one"]);
    docker(d, 5 + 2 * root, &["run", "--rm", "busybox", "true"]);
    docker(d, 3 + root, &["run", "-d", "--name", "two", "busybox", "sh", "-c", OBEDIENT]);
    docker(d, 5, &["restart", "two"]);
    docker(d, 3, &["stop", "two"]);
    docker(d, 3, &["start", "two"]);
    docker(d, 3 + root, &["rm", "-f", "two"]);
    docker(d, 3 + root, &["run", "-d", "--name", "three", "busybox", "sleep", "1000"]);
    docker(d, 4, &["stop", "-t", "1", "three"]);
    docker(d, root, &["rm", "three"]);
    for number in 0..10 {
        d.docker(&["run", "-d", "--name", &format!("n{number}"), "busybox", "sleep", "1000"])
            .check();
        d.docker(&["tag", "busybox", &format!("name{number}")]).check();
    }
    let looks = [&["ps"][..], &["inspect", "n0"], &["images"], &["history", "busybox"]];
    let inspect = ["image", "inspect", "busybox"];
    for words in looks.into_iter().chain([&inspect[..], &["version"], &["info"]]) {
        docker(d, 0, words);
    }
    // Version, subscription, its mark, two lists, and one of images; whatever runs and is there.
    let before = d.containerd().unwrap().calls();
    d.restart();
    std::thread::sleep(Duration::from_millis(1000));
    let mut since = d.containerd().unwrap().calls_since(&before);
    // On a busy machine the mark may be too early and be repeated.
    assert!(matches!(since.insert("events.Publish".to_owned(), 1), Some(1..=3)));
    assert_eq!(since.values().sum::<u64>(), 5 + root, "{since:?}");
    costs(d, 0, "ten seconds of nothing", |_| std::thread::sleep(Duration::from_secs(10)));
    assert_eq!(d.state("n0"), "running");
    docker(d, 3, &["kill", "n0"]);
    // The daemon does not know any more what it has not asked for.
    docker(d, 3, &["start", "n0"]);
}

#[test]
fn containers_outlive_containerd_and_what_ends_meanwhile_is_noticed() {
    remote(|d| {
        d.docker(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).check();
        d.docker(&["run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 3; exit 7"])
            .check();
        let policy = ["run", "-d", "--name", "again", "--restart", "always", "busybox"];
        d.docker(&[&policy[..], &["sh", "-c", "sleep 3"]].concat()).check();
        let pid = d.container_pid("stays");
        d.containerd().unwrap().kill9();
        d.docker(&["exec", "stays", "true"]).says("containerd unavailable");
        d.docker(&["run", "--rm", "busybox", "true"]).says("containerd unavailable");
        assert_eq!(d.state("stays"), "running");
        std::thread::sleep(Duration::from_millis(3500));
        d.containerd().unwrap().start_again();
        eventually("the end is noticed", || d.state("ends") == "exited");
        assert_eq!(d.inspect("ends")["State"]["ExitCode"], 7);
        eventually("the policy acts", || d.inspect("again")["RestartCount"].as_u64() >= Some(1));
        d.docker(&["exec", "stays", "true"]).check();
        assert_eq!(d.container_pid("stays"), pid);
        d.docker(&["run", "--rm", "busybox", "true"]).check();
    });
}

#[test]
fn both_daemons_may_be_restarted_in_either_order() {
    remote(|d| {
        d.docker(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"]).check();
        let pid = d.container_pid("stays");
        d.kill9();
        d.containerd().unwrap().kill9();
        d.containerd().unwrap().start_again();
        d.start_again();
        assert_eq!(d.container_pid("stays"), pid);
        d.docker(&["exec", "stays", "true"]).check();
        d.containerd().unwrap().kill9();
        d.kill9();
        d.containerd().unwrap().start_again();
        d.start_again();
        assert_eq!(d.container_pid("stays"), pid);
        assert_eq!(d.docker(&["exec", "stays", "echo", "well"]).ok(), "well");
        let shim = d.shim_pid("stays");
        let shim = rustix::process::Pid::from_raw(i32::try_from(shim).unwrap()).unwrap();
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        eventually("the shim's death ends the container", || d.state("stays") == "exited");
        assert_eq!(d.inspect("stays")["State"]["ExitCode"], 137);
    });
}

#[test]
fn a_foreign_shim_runs_containers_as_ours_does() {
    if !have("runc") {
        return;
    }
    remote(|d| {
        let runc = ["--runtime", "io.containerd.runc.v2"];
        let run = |words: &[&'static str]| [&["run"][..], &runc, words].concat();
        let outcome = d.docker(&run(&["--rm", "busybox", "sh", "-c", "echo out; exit 3"]));
        outcome.exits(3);
        assert_eq!(outcome.stdout, "out\n");
        let echoed = d.docker_with(&run(&["--rm", "-i", "busybox", "cat"]), b"in and out");
        assert_eq!(echoed.ok(), "in and out");
        // Together more than a pipe holds.
        let script = "i=0; while [ $i -lt 30 ]; do printf '%09000d\\n' $i; i=$((i+1)); \
            sleep 0.1; done; exit 9";
        d.docker(&run(&["-d", "--name", "one", "busybox", "sh", "-c", script])).check();
        assert_eq!(d.docker(&["exec", "one", "echo", "well"]).ok(), "well");
        // A dead daemon blocks nothing and loses no line.
        d.kill9();
        std::thread::sleep(Duration::from_secs(4));
        d.start_again();
        eventually("the end is noticed", || d.state("one") == "exited");
        assert_eq!(d.inspect("one")["State"]["ExitCode"], 9);
        let logs = d.docker(&["logs", "one"]);
        for (number, line) in logs.ok().lines().enumerate() {
            assert_eq!((line.len(), line.parse::<usize>().ok()), (9000, Some(number)));
        }
        assert_eq!(logs.ok().lines().count(), 30);
        d.docker(&run(&["--rm", "busybox", "nowhere"])).exits(127);
        d.docker(&["create", "--runtime", "nothing", "busybox"]).fails_with("unknown or invalid");
    });
}
