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
