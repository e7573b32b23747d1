//! `docker run`: output, exit codes, standard input, names.

use pouch_testkit::daemon;

#[test]
fn output_and_exit_code_of_the_command_arrive() {
    daemon(|d| {
        let run = d.docker(&["run", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        run.exits(7);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
        let state = d.inspect(d.docker(&["ps", "-lq"]).ok());
        assert_eq!(state["State"]["ExitCode"], 7);
        assert_eq!(state["State"]["Status"], "exited");
        assert_eq!(state["State"]["Pid"], 0);
    });
}

#[test]
fn failures_to_start_have_docker_s_exit_codes() {
    daemon(|d| {
        d.docker(&["run", "--rm", "busybox", "/nowhere"]).exits(127).fails_with("no such file");
        d.docker(&["run", "--rm", "busybox", "no-such-command"]).exits(127);
        d.docker(&["run", "--rm", "busybox", "/etc/passwd"]).exits(126).fails_with("permission");
        d.docker(&["run", "--rm", "busybox", "/etc"]).exits(126);
        d.docker(&["run", "--rm", "--workdir", "/etc/passwd", "busybox", "true"]).exits(125);
        d.docker(&["run", "--no-such-flag", "busybox"]).exits(125);
        d.docker(&["run", "--rm", "--memory", "1k", "busybox", "true"]).exits(125);
        // The first process of a pid namespace takes no signal from within: hence the init.
        let kill = ["run", "--rm", "--init", "busybox", "sh", "-c"];
        d.docker(&[&kill[..], &["kill -9 $$"]].concat()).exits(137);
        d.docker(&[&kill[..], &["kill -TERM $$; sleep 9"]].concat()).exits(143);
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "", "--rm removes what did not start, too");
    });
}

#[test]
fn standard_input_reaches_the_command_and_its_end_too() {
    daemon(|d| {
        let run = d.docker_with(&["run", "-i", "--rm", "busybox", "wc", "-c"], &[b'x'; 300_000]);
        assert_eq!(run.ok(), "300000");
        // Output goes on after the input has ended.
        let after = ["run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep 0.3; echo behind"];
        assert_eq!(d.docker_with(&after, b"before\n").ok(), "before\nbehind");
        // Without -i there is none.
        assert_eq!(d.docker_with(&["run", "--rm", "busybox", "cat"], b"lost").ok(), "");
    });
}

#[test]
fn large_output_arrives_whole_and_unmixed() {
    daemon(|d| {
        let script = "dd if=/dev/zero bs=64k count=160 2>/dev/null | tr '\\0' a; \
                      dd if=/dev/zero bs=64k count=16 2>/dev/null | tr '\\0' b >&2";
        let run = d.docker(&["run", "--rm", "busybox", "sh", "-c", script]);
        run.check();
        assert_eq!((run.stdout.len(), run.stderr.len()), (160 << 16, 16 << 16));
        assert!(run.stdout.bytes().all(|b| b == b'a') && run.stderr.bytes().all(|b| b == b'b'));
    });
}

#[test]
fn a_terminal_has_a_size_and_is_one_stream() {
    daemon(|d| {
        let mut run = d.docker_terminal(&["run", "-it", "--rm", "busybox", "sh"]);
        run.expect("/ #");
        run.send("tty; stty size; echo err >&2\n");
        run.expect("/dev/pts/0");
        run.expect("24 80");
        run.expect("err");
        run.resize(50, 132);
        // SIGWINCH travels through the CLI, the API and the shim.
        pouch_testkit::within(std::time::Duration::from_secs(10), "the new size", || {
            run.send("stty size\n");
            std::thread::sleep(std::time::Duration::from_millis(200));
            run.output().contains("50 132").then_some(())
        });
        run.send("echo $TERM; exit 3\n");
        run.expect("xterm");
        assert_eq!(run.wait(), 3);
    });
}

#[test]
fn interrupting_the_client_interrupts_the_command() {
    daemon(|d| {
        let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done";
        let mut run = d.docker_live(&["run", "--rm", "busybox", "sh", "-c", script]);
        run.expect("ready");
        let pid = rustix::process::Pid::from_raw(run.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        run.expect("caught");
        assert_eq!(run.wait(), 5);
    });
}

#[test]
fn the_environment_is_the_image_s_then_the_user_s() {
    daemon(|d| {
        d.import("env", pouch_testkit::busybox(), &["ENV A=image", "ENV B=image", "WORKDIR /tmp"]);
        let file = d.path("env");
        std::fs::write(&file, "# a comment\nC=from file\nD\n").unwrap();
        let words = ["run", "--rm", "-e", "B=user", "--env-file", file.to_str().unwrap(), "env"];
        let all = [&words[..], &["sh", "-c", "env | sort; pwd"]].concat();
        let run = d.docker(&all);
        let lines: Vec<&str> = run.ok().lines().collect();
        for wanted in ["A=image", "B=user", "C=from file", "HOME=/root"] {
            assert!(lines.contains(&wanted), "{wanted} is not in {lines:?}");
        }
        assert!(lines.iter().any(|l| l.starts_with("PATH=/usr/local/sbin:")), "{lines:?}");
        assert!(lines.iter().any(|l| l.starts_with("HOSTNAME=")), "{lines:?}");
        assert_eq!(lines.last(), Some(&"/tmp"));
    });
}

#[test]
fn entrypoint_and_command_combine_as_docker_has_it() {
    daemon(|d| {
        let changes = [r#"ENTRYPOINT ["echo", "entry"]"#, r#"CMD ["default"]"#];
        d.import("entry", pouch_testkit::busybox(), &changes);
        assert_eq!(d.docker(&["run", "--rm", "entry"]).ok(), "entry default");
        assert_eq!(d.docker(&["run", "--rm", "entry", "a", "b"]).ok(), "entry a b");
        // A new entry point drops the image's command.
        assert_eq!(d.docker(&["run", "--rm", "--entrypoint", "echo", "entry"]).ok(), "");
        assert_eq!(d.docker(&["run", "--rm", "--entrypoint", "echo", "entry", "x"]).ok(), "x");
        let none = [r#"CMD []"#];
        d.import("none", pouch_testkit::busybox(), &none);
        d.docker(&["run", "--rm", "none"]).exits(125).fails_with("no command specified");
    });
}

#[test]
fn names_are_unique_given_or_invented() {
    daemon(|d| {
        let id = d.docker(&["create", "--name", "one", "busybox"]).ok().to_owned();
        assert_eq!(id.len(), 64);
        d.docker(&["create", "--name", "one", "busybox"]).exits(1).fails_with("already in use");
        d.docker(&["run", "--name", "one", "busybox"]).exits(125).fails_with(&id);
        d.docker(&["create", "busybox"]).check();
        let names = d.docker(&["ps", "-a", "--format", "{{.Names}}"]);
        let names: Vec<&str> = names.ok().lines().collect();
        assert_eq!(names.len(), 2);
        assert!(names.iter().all(|name| !name.is_empty()));
        // By name, by whole id, by the id's beginning.
        for key in ["one", &id, &id[..12]] {
            assert_eq!(d.docker(&["inspect", "-f", "{{.Id}}", key]).ok(), id);
        }
    });
}

#[test]
fn rm_removes_once_the_command_ended_also_when_detached() {
    daemon(|d| {
        let id = d.docker(&["run", "-d", "--rm", "busybox", "sleep", "0.5"]).ok().to_owned();
        assert_eq!(d.state(&id), "running");
        pouch_testkit::eventually("the container is gone", || {
            d.get(&format!("/containers/{id}/json")).status == 404
        });
    });
}

#[test]
fn the_client_that_vanishes_leaves_the_container_running() {
    daemon(|d| {
        let words = ["run", "--name", "box", "busybox", "sh", "-c", "echo up; sleep 60"];
        let mut run = d.docker_live(&words);
        run.expect("up");
        run.kill();
        std::thread::sleep(std::time::Duration::from_millis(300));
        assert_eq!(d.state("box"), "running");
    });
}
