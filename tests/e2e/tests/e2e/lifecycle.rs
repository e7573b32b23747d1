//! create, start, stop, kill, restart, pause, wait, rename, rm, top, prune.

use std::time::{Duration, Instant};

use pouch_testkit::{Daemon, daemon};

fn sleeper(d: &Daemon, name: &str) {
    d.docker(&["run", "-d", "--name", name, "busybox", "sleep", "600"]).check();
}

/// A container whose first process ignores SIGTERM.
fn stubborn(d: &Daemon, name: &str) {
    let script = "trap '' TERM; echo up; while :; do sleep 0.1; done";
    d.docker(&["run", "-d", "--name", name, "busybox", "sh", "-c", script]).check();
    pouch_testkit::eventually("the trap is set", || d.docker(&["logs", name]).stdout == "up\n");
}

#[test]
fn a_container_goes_through_its_life() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "busybox", "sleep", "600"]).check();
        assert_eq!(d.state("box"), "created");
        assert_eq!(d.docker(&["start", "box"]).ok(), "box");
        assert_eq!(d.state("box"), "running");
        assert_eq!(d.post("/containers/box/start", &serde_json::Value::Null).status, 304);
        let first = d.container_pid("box");
        d.docker(&["restart", "-t", "0", "box"]).check();
        assert_ne!(d.container_pid("box"), first);
        d.docker(&["pause", "box"]).check();
        assert_eq!(d.state("box"), "paused");
        d.docker(&["pause", "box"]).fails_with("paused");
        d.docker(&["unpause", "box"]).check();
        d.docker(&["unpause", "box"]).fails_with("not paused");
        d.docker(&["rm", "box"]).fails_with("running");
        d.docker(&["stop", "-t", "0", "box"]).check();
        assert_eq!(d.state("box"), "exited");
        assert_eq!(d.inspect("box")["State"]["ExitCode"], 137);
        assert_eq!(d.post("/containers/box/stop", &serde_json::Value::Null).status, 304);
        d.docker(&["kill", "box"]).fails_with("not running");
        assert_eq!(d.docker(&["rm", "box"]).ok(), "box");
        d.docker(&["inspect", "box"]).fails_with("no such");
    });
}

#[test]
fn stop_asks_first_and_kills_when_time_is_up() {
    daemon(|d| {
        let script = "trap 'exit 11' TERM; echo up; while :; do sleep 0.05; done";
        d.docker(&["run", "-d", "--name", "polite", "busybox", "sh", "-c", script]).check();
        stubborn(d, "stubborn");
        d.docker(&["stop", "polite"]).check();
        assert_eq!(d.inspect("polite")["State"]["ExitCode"], 11);
        let began = Instant::now();
        d.docker(&["stop", "-t", "1", "stubborn"]).check();
        let took = began.elapsed();
        assert_eq!(d.inspect("stubborn")["State"]["ExitCode"], 137);
        assert!((Duration::from_secs(1)..Duration::from_secs(5)).contains(&took), "{took:?}");
        // The container's own signal and time.
        let own = "trap 'exit 12' USR1; echo up; while :; do sleep 0.05; done";
        let words = ["run", "-d", "--name", "own", "--stop-signal", "USR1", "--stop-timeout", "20"];
        d.docker(&[&words[..], &["busybox", "sh", "-c", own]].concat()).check();
        pouch_testkit::eventually("the trap is set", || {
            d.docker(&["logs", "own"]).stdout == "up\n"
        });
        d.docker(&["stop", "own"]).check();
        assert_eq!(d.inspect("own")["State"]["ExitCode"], 12);
    });
}

#[test]
fn a_stop_under_way_blocks_neither_kill_nor_removal() {
    daemon(|d| {
        stubborn(d, "one");
        stubborn(d, "two");
        let mut stop_a = d.docker_live(&["stop", "-t", "60", "one"]);
        let mut stop_b = d.docker_live(&["stop", "-t", "60", "two"]);
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        d.docker(&["kill", "one"]).check();
        d.docker(&["rm", "-f", "two"]).check();
        assert_eq!(stop_a.wait(), 0);
        stop_b.wait();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    });
}

#[test]
fn kill_sends_the_signal_that_is_named() {
    daemon(|d| {
        let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; echo up; \
                      while :; do sleep 0.05; done";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).check();
        let says = |text: &str| {
            pouch_testkit::eventually(text, || d.docker(&["logs", "box"]).stdout.contains(text));
        };
        says("up");
        d.docker(&["kill", "-s", "HUP", "box"]).check();
        says("hup");
        d.docker(&["kill", "-s", "SIGUSR1", "box"]).check();
        says("usr1");
        assert_eq!(d.state("box"), "running");
        d.docker(&["kill", "-s", "NOSUCH", "box"]).fails_with("signal");
        d.docker(&["kill", "-s", "0", "box"]).fails_with("signal");
        d.docker(&["kill", "-s", "9", "box"]).check();
        pouch_testkit::eventually("it ended", || d.state("box") == "exited");
        assert_eq!(d.inspect("box")["State"]["ExitCode"], 137);
    });
}

#[test]
fn wait_gives_exit_codes_also_of_the_past() {
    daemon(|d| {
        let script = "sleep 0.7; exit 21";
        d.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", script]).check();
        assert_eq!(d.docker(&["wait", "box"]).ok(), "21");
        assert_eq!(d.docker(&["wait", "box"]).ok(), "21");
        let mut next = d.docker_live(&["wait", "box"]);
        assert_eq!(next.wait(), 0);
        // `next-exit` waits for the next one; the head of the answer comes at once.
        let path = "/containers/box/wait?condition=next-exit";
        let socket = d.socket();
        let waiting = pouch_testkit::Connection::send(&socket, "POST", path, "text/plain", b"");
        std::thread::sleep(Duration::from_millis(100));
        d.docker(&["start", "box"]).check();
        let answer = waiting.answer();
        answer.is(200);
        assert_eq!(answer.json()["StatusCode"], 21);
        d.docker(&["wait", "nobody"]).fails_with("no such container");
        assert_eq!(
            d.post("/containers/box/wait?condition=odd", &serde_json::Value::Null).status,
            400
        );
    });
}

#[test]
fn rename_moves_the_name_at_once_and_never_onto_another() {
    daemon(|d| {
        sleeper(d, "old");
        d.docker(&["create", "--name", "other", "busybox"]).check();
        d.docker(&["rename", "old", "new"]).check();
        assert_eq!(d.inspect("new")["Name"], "/new");
        d.docker(&["inspect", "old"]).fails_with("no such");
        d.docker(&["rename", "new", "other"]).fails_with("already in use");
        d.docker(&["rename", "new", "bad/name"]).fails_with("invalid container name");
        d.docker(&["rename", "other", "old"]).check();
        d.restart();
        assert_eq!(d.inspect("new")["State"]["Status"], "running");
        assert_eq!(d.inspect("old")["State"]["Status"], "created");
    });
}

#[test]
fn top_shows_processes_as_the_host_sees_them() {
    daemon(|d| {
        sleeper(d, "box");
        let top = d.docker(&["top", "box"]);
        let lines: Vec<&str> = top.ok().lines().collect();
        assert!(lines[0].starts_with("UID") && lines[0].ends_with("CMD"), "{lines:?}");
        assert_eq!(lines.len(), 2);
        assert!(
            lines[1].contains(&d.container_pid("box").to_string())
                && lines[1].ends_with("sleep 600")
        );
        assert!(d.docker(&["top", "box", "-o", "pid,comm"]).ok().contains("sleep"));
        d.docker(&["stop", "-t", "0", "box"]).check();
        d.docker(&["top", "box"]).fails_with("is not running");
    });
}

#[test]
fn ps_filters_formats_and_knows_sizes_of_lists() {
    daemon(|d| {
        sleeper(d, "runs");
        d.docker(&["run", "--name", "ended", "--label", "k=v", "busybox", "sh", "-c", "exit 3"])
            .exits(3);
        d.docker(&["create", "--name", "new", "--label", "k", "busybox"]).check();
        let names = |words: &[&str]| {
            let all = [&["ps", "--format", "{{.Names}}"], words].concat();
            let mut names: Vec<String> = d.docker(&all).ok().lines().map(str::to_owned).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(names(&[]), "runs");
        assert_eq!(names(&["-a"]), "ended new runs");
        assert_eq!(names(&["-n", "1"]), "new");
        for (filter, wanted) in [
            ("status=exited", "ended"),
            ("status=created", "new"),
            ("exited=3", "ended"),
            ("exited=0", ""),
            ("label=k", "ended new"),
            ("label=k=v", "ended"),
            ("name=^ru", "runs"),
            ("ancestor=busybox", "ended new runs"),
            ("before=new", "ended runs"),
            ("since=runs", "ended new"),
        ] {
            assert_eq!(names(&["-a", "-f", filter]), wanted, "{filter}");
        }
        d.docker(&["ps", "-f", "no-such=1"]).fails_with("invalid filter");
        let status = d.docker(&["ps", "-a", "--format", "{{.Names}} {{.Status}}"]);
        assert!(status.ok().contains("ended Exited (3) "), "{}", status.ok());
        assert!(status.ok().contains("runs Up "), "{}", status.ok());
        assert!(status.ok().contains("new Created"), "{}", status.ok());
    });
}

#[test]
fn prune_takes_what_does_not_run_and_obeys_filters() {
    daemon(|d| {
        sleeper(d, "runs");
        d.docker(&["create", "--name", "keep", "--label", "keep", "busybox"]).check();
        let id = d.docker(&["create", "--name", "drop", "busybox"]).ok().to_owned();
        let pruned = d.docker(&["container", "prune", "-f", "--filter", "label!=keep"]);
        assert!(pruned.ok().contains(&id), "{}", pruned.ok());
        let left = d.docker(&["ps", "-a", "--format", "{{.Names}}"]);
        assert_eq!(left.ok().lines().collect::<Vec<_>>(), ["keep", "runs"]);
    });
}

#[test]
fn removal_by_force_ends_the_container_and_frees_name_and_data() {
    daemon(|d| {
        for round in 0..3 {
            sleeper(d, "box");
            let pid = d.container_pid("box");
            d.docker(&["rm", "-f", "box"]).check();
            assert!(!pouch_testkit::is_alive(pid), "round {round}: process {pid} is still there");
        }
        assert_eq!(d.delete("/containers/nobody?force=1").status, 404);
    });
}

#[test]
fn fifty_in_parallel_start_and_go() {
    daemon(|d| {
        let d = &*d;
        std::thread::scope(|scope| {
            for n in 0..50 {
                scope.spawn(move || {
                    let body = serde_json::json!({
                        "Image": "busybox",
                        "Cmd": ["sleep", "600"],
                        "HostConfig": {"NetworkMode": "none"},
                    });
                    d.post(&format!("/containers/create?name=n{n}"), &body).is(201);
                    d.post(&format!("/containers/n{n}/start"), &serde_json::Value::Null).is(204);
                });
            }
        });
        assert_eq!(d.docker(&["ps", "-q"]).ok().lines().count(), 50);
        std::thread::scope(|scope| {
            for n in 0..50 {
                scope.spawn(move || d.delete(&format!("/containers/n{n}?force=1")).is(204).status);
            }
        });
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
    });
}
