//! `docker exec`.

use pouch_testkit::{Daemon, daemon};
use serde_json::json;

fn sleeper(d: &Daemon, name: &str) {
    d.docker(&["run", "-d", "--name", name, "busybox", "sleep", "600"]).check();
}

#[test]
fn output_input_and_exit_code_are_the_command_s() {
    daemon(|d| {
        sleeper(d, "box");
        let run = d.docker(&["exec", "box", "sh", "-c", "echo out; echo err >&2; exit 9"]);
        run.exits(9);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
        let count = d.docker_with(&["exec", "-i", "box", "wc", "-c"], &[b'x'; 100_000]);
        assert_eq!(count.ok(), "100000");
        d.docker(&["exec", "box", "/nowhere"]).exits(127);
        d.docker(&["exec", "box", "/etc/passwd"]).exits(126);
        d.docker(&["exec", "box", "sh", "-c", "kill -9 $$"]).exits(137);
        d.docker(&["exec", "nobody", "true"]).exits(1).fails_with("no such container");
    });
}

#[test]
fn the_command_shares_the_container_and_takes_options_of_its_own() {
    daemon(|d| {
        d.docker(&[
            "run",
            "-d",
            "--name",
            "box",
            "-e",
            "A=container",
            "-w",
            "/home",
            "busybox",
            "sleep",
            "600",
        ])
        .check();
        assert_eq!(d.docker(&["exec", "box", "sh", "-c", "echo $A; pwd"]).ok(), "container\n/home");
        let words = ["exec", "-e", "A=exec", "-w", "/tmp", "-u", "alice", "box"];
        let all = [&words[..], &["sh", "-c", "echo $A; pwd; id -u; id -g; id -Gn"]].concat();
        assert_eq!(d.docker(&all).ok(), "exec\n/tmp\n1000\n1000\nalice extra");
        // The same pid namespace: the container's first process is seen.
        assert!(d.docker(&["exec", "box", "ps"]).ok().contains("sleep 600"));
        d.docker(&["exec", "-u", "nobody-here", "box", "true"]).says("nobody-here");
        d.docker(&["exec", "-w", "/no/such", "box", "true"]).says("/no/such");
    });
}

#[test]
fn a_terminal_works_and_takes_sizes() {
    daemon(|d| {
        sleeper(d, "box");
        let mut exec = d.docker_terminal(&["exec", "-it", "box", "sh"]);
        exec.expect("/ #");
        exec.send("stty size\n");
        exec.expect("24 80");
        exec.send("exit 6\n");
        assert_eq!(exec.wait(), 6);
    });
}

#[test]
fn detached_commands_run_on_and_are_found_by_inspect() {
    daemon(|d| {
        sleeper(d, "box");
        d.docker(&["exec", "-d", "box", "sh", "-c", "echo done > /tmp/mark; exit 3"]).check();
        pouch_testkit::eventually("the mark is there", || {
            d.docker(&["exec", "box", "cat", "/tmp/mark"]).stdout == "done\n"
        });
        let made = d.post("/containers/box/exec", &json!({"Cmd": ["sh", "-c", "exit 3"]}));
        let id = made.is(201).json()["Id"].as_str().unwrap().to_owned();
        assert_eq!(d.get(&format!("/exec/{id}/json")).is(200).json()["Running"], false);
        d.post(&format!("/exec/{id}/start"), &json!({"Detach": true})).is(200);
        pouch_testkit::eventually("the exit code is known", || {
            d.get(&format!("/exec/{id}/json")).json()["ExitCode"] == 3
        });
        let again = d.post(&format!("/exec/{id}/start"), &json!({"Detach": true}));
        again.is(409);
    });
}

#[test]
fn it_needs_a_container_that_runs_and_is_not_paused() {
    daemon(|d| {
        d.docker(&["create", "--name", "created", "busybox", "true"]).check();
        d.docker(&["exec", "created", "true"]).fails_with("is not running");
        sleeper(d, "box");
        d.docker(&["pause", "box"]).check();
        d.docker(&["exec", "box", "true"]).fails_with("paused");
        d.docker(&["unpause", "box"]).check();
        d.docker(&["exec", "box", "true"]).check();
    });
}

#[test]
fn commands_end_with_their_container() {
    daemon(|d| {
        sleeper(d, "box");
        let mut exec = d.docker_live(&["exec", "box", "sh", "-c", "echo up; sleep 600"]);
        exec.expect("up");
        d.docker(&["kill", "box"]).check();
        assert_eq!(exec.wait(), 137, "{}", exec.output());
    });
}

#[test]
fn many_at_once_are_all_answered() {
    daemon(|d| {
        sleeper(d, "box");
        let d = &*d;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|n| {
                    let script = format!("echo {n}; exit {n}");
                    scope.spawn(move || {
                        let run = d.docker(&["exec", "box", "sh", "-c", &script]);
                        run.exits(n);
                        assert_eq!(run.stdout, format!("{n}\n"));
                    })
                })
                .collect();
            for thread in threads {
                thread.join().unwrap();
            }
        });
    });
}

#[test]
fn privileged_commands_have_all_capabilities_and_plain_ones_the_container_s() {
    daemon(|d| {
        sleeper(d, "box");
        let caps = |words: &[&str]| {
            let all = [words, &["box", "grep", "^Cap", "/proc/self/status"]].concat();
            d.docker(&all).ok().to_owned()
        };
        let container =
            d.docker(&["exec", "box", "grep", "^Cap", "/proc/1/status"]).ok().to_owned();
        assert_eq!(caps(&["exec"]), container);
        let all = caps(&["exec", "--privileged"]);
        assert_ne!(all, container);
        assert!(all.contains("CapInh:\t0000000000000000"), "{all}");
        assert!(all.contains("CapAmb:\t0000000000000000"), "{all}");
    });
}
