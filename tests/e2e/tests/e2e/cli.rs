//! Our own CLI against our own daemon. `bin/pouch/tests` compares it with docker's in detail.

use pouch_testkit::{Live, daemon};

#[test]
fn the_everyday_commands_work() {
    daemon(|d| {
        assert_eq!(d.pouch(&["run", "--rm", "busybox", "echo", "hello"]).ok(), "hello");
        d.pouch(&["run", "busybox", "sh", "-c", "exit 7"]).exits(7);
        d.pouch(&["run", "--rm", "busybox", "/nowhere"]).exits(127);
        d.pouch(&["run", "--rm", "busybox", "/etc/passwd"]).exits(126);
        d.pouch(&["run", "--no-such-flag"]).exits(125);
        let id =
            d.pouch(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).ok().to_owned();
        assert_eq!(id.len(), 64);
        let ps = d.pouch(&["ps"]);
        assert!(ps.ok().contains("sleep 600") && ps.ok().contains(&id[..12]), "{}", ps.ok());
        d.pouch(&["exec", "box", "sh", "-c", "exit 9"]).exits(9);
        assert_eq!(d.pouch_with(&["exec", "-i", "box", "cat"], b"through").ok(), "through");
        assert_eq!(d.pouch(&["inspect", "-f", "{{.State.Status}}", "box"]).ok(), "running");
        let file = d.path("f");
        std::fs::write(&file, "copied\n").unwrap();
        d.pouch(&["cp", file.to_str().unwrap(), "box:/tmp/f"]).check();
        assert_eq!(d.pouch(&["exec", "box", "cat", "/tmp/f"]).ok(), "copied");
        d.pouch(&["stop", "-t", "0", "box"]).check();
        assert_eq!(d.pouch(&["wait", "box"]).ok(), "137");
        d.pouch(&["rm", "box"]).check();
        d.pouch(&["volume", "create", "vol"]).check();
        assert_eq!(d.pouch(&["volume", "ls", "-q"]).ok(), "vol");
        assert!(d.pouch(&["images"]).ok().contains("busybox"));
        assert!(d.pouch(&["version"]).ok().contains("Server"));
        assert!(d.pouch(&["info"]).ok().contains("Storage Driver"));
    });
}

#[test]
fn a_terminal_works() {
    daemon(|d| {
        let mut run = Live::terminal(&d.pouch_command(&["run", "-it", "--rm", "busybox", "sh"]));
        run.expect("/ #");
        run.send("stty size; exit 4\n");
        run.expect("24 80");
        assert_eq!(run.wait(), 4);
    });
}

#[test]
fn it_says_what_and_why_and_what_to_do() {
    daemon(|d| {
        let none = d.pouch(&["run", "no-such-image:x"]);
        none.exits(125);
        let mut command = d.pouch_command(&["ps"]);
        command.env("DOCKER_HOST", "unix:///nowhere/at/all.sock");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains("/nowhere/at/all.sock") && said.contains("pouchd"), "{said}");
    });
}

#[test]
fn import_as_quickstart_does_it() {
    daemon(|d| {
        d.pouch_with(&["import", "-", "quick"], pouch_testkit::busybox()).check();
        assert_eq!(d.pouch(&["run", "--rm", "quick", "echo", "fine"]).ok(), "fine");
        let load = pouch_testkit::docker_archive(
            "l:1",
            pouch_testkit::busybox(),
            &serde_json::json!({"Cmd": ["echo", "loaded"]}),
        );
        d.pouch_with(&["load"], &load).check();
        assert_eq!(d.pouch(&["run", "--rm", "l:1"]).ok(), "loaded");
        let saved = d.path("s.tar");
        d.pouch(&["save", "-o", saved.to_str().unwrap(), "l:1"]).check();
        assert!(std::fs::metadata(&saved).unwrap().len() > 1 << 20);
    });
}

#[test]
fn dial_stdio_carries_the_api() {
    daemon(|d| {
        let mut dial = Live::piped(d.pouch_command(&["system", "dial-stdio"]));
        dial.send("GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        dial.expect("200 OK");
        dial.expect("\r\n\r\nOK");
    });
}

#[test]
fn a_start_that_fails_says_it_once_and_in_docker_s_words() {
    daemon(|d| {
        let words = "failed to create task for container: failed to create shim task: OCI runtime \
                     create failed: ";
        for (program, code, why) in [
            ("nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"),
            ("/no/such", 127, "exec: \"/no/such\": stat /no/such: no such file or directory"),
            ("/etc/passwd", 126, "exec: \"/etc/passwd\": permission denied"),
        ] {
            for run in [
                d.docker(&["run", "--rm", "busybox", program]),
                d.pouch(&["run", "--rm", "busybox", program]),
            ] {
                run.exits(code).says(words).says(why);
                for part in ["OCI runtime", "failed to create", "exec:"] {
                    let times = if part == "failed to create" { 2 } else { 1 };
                    assert_eq!(run.stderr.matches(part).count(), times, "{}", run.stderr);
                }
            }
        }
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let exec = d.docker(&["exec", "box", "nosuch"]);
        exec.exits(127);
        let said = format!("{}{}", exec.stdout, exec.stderr);
        assert_eq!(said.matches("OCI runtime exec failed").count(), 1, "{said}");
        let user = d.docker(&["run", "--rm", "-u", "zz", "busybox", "true"]);
        user.exits(125).says("response from daemon: unable to find user zz: no matching entries");
    });
}

#[test]
fn flags_that_cannot_be_honoured_are_refused_by_name() {
    daemon(|d| {
        for (words, flag, code) in [
            (&["run", "--use-api-socket", "busybox"][..], "--use-api-socket", 125),
            (&["create", "--disable-content-trust=false", "busybox"], "--disable-content-trust", 1),
            (&["run", "--cpu-count", "1", "busybox"], "CpuCount", 125),
            (&["run", "--io-maxbandwidth", "1m", "busybox"], "IOMaximumBandwidth", 125),
            (&["run", "--storage-opt", "size=1g", "busybox"], "StorageOpt", 125),
            (&["start", "--checkpoint", "c", "box"], "--checkpoint", 1),
            (&["images", "--tree"], "--tree", 1),
            (&["save", "--platform", "linux/none", "busybox"], "platform", 1),
            (&["volume", "ls", "--cluster"], "--cluster", 1),
            (&["volume", "create", "--sharing", "all"], "--sharing", 1),
        ] {
            let run = d.pouch(words);
            run.exits(code).says(flag);
            assert!(run.stdout.is_empty(), "{words:?}: {}", run.stdout);
        }
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
        // Too many words are no unknown flag; a group of commands shows them.
        d.pouch(&["ps", "word"]).exits(1);
        d.pouch(&["ps", "--word"]).exits(125);
        assert!(d.pouch(&["container"]).ok().contains("prune"));
    });
}

#[test]
fn lists_are_the_docker_cli_s_to_the_letter() {
    daemon(|d| {
        d.docker(&["volume", "create", "--label", "a=b", "vol"]).check();
        let words =
            ["run", "-d", "--name", "box", "-v", "vol:/v", "--label", "k=v", "-p", "8080:80"];
        d.docker(&[&words[..], &["busybox", "sleep", "600"]].concat()).check();
        d.docker(&["create", "--name", "made", "busybox", "ls", "a b"]).check();
        // Past the second in which `Up Less than a second` and its like change.
        std::thread::sleep(std::time::Duration::from_millis(2500));
        let stable = |text: &str| {
            // `Up 3 seconds` moves on between two commands.
            text.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty() && !cell.contains("second"))
                .collect::<Vec<_>>()
                .join(" | ")
        };
        for words in [
            &["ps"][..],
            &["ps", "-a", "--no-trunc"],
            &["ps", "-as"],
            &["ps", "-aq"],
            &["ps", "--format", "{{.ID}} {{.Names}} {{.Ports}} {{.Mounts}} {{.Labels}}"],
            &["ps", "--format", "table {{.Names}}\t{{.Image}}"],
            &["images"],
            &["images", "--digests", "--no-trunc"],
            &["images", "--format", "{{.Repository}} {{.VirtualSize}} {{.UniqueSize}}"],
            &["volume", "ls"],
            &["volume", "ls", "--format", "json"],
            &["network", "ls"],
            &["network", "ls", "--format", "json"],
            &["history", "busybox"],
            &["port", "box"],
            &["top", "box"],
            &["system", "df"],
            &["system", "df", "-v"],
            &["inspect", "vol"],
            &["inspect", "-f", "{{json .HostConfig.PortBindings}}", "box"],
            &["diff", "made"],
            &["start", "nobody"],
            &["rename", "made", "box"],
            &["port", "box", "81"],
            &["wait", "nobody"],
        ] {
            let (docker, pouch) = (d.docker(words), d.pouch(words));
            assert_eq!(stable(&pouch.stdout), stable(&docker.stdout), "{words:?}");
            assert_eq!(pouch.code(), docker.code(), "{words:?}");
            if docker.code() == 0 {
                assert_eq!(pouch.stderr, docker.stderr, "{words:?}");
            }
        }
        let head = |run: pouch_testkit::Outcome| run.ok().lines().next().unwrap().to_owned();
        let words = ["stats", "--no-stream"];
        assert_eq!(head(d.pouch(&words)), head(d.docker(&words)));
    });
}
