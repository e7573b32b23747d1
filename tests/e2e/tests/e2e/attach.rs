//! Attaching to running containers, and leaving them.

use pouch_testkit::{Connection, daemon};

#[test]
fn attach_sees_what_comes_and_ends_with_the_container() {
    daemon(|d| {
        let script = "echo early; read x; echo got $x; exit 4";
        d.docker(&["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", script]).check();
        let mut attach = d.docker_live(&["attach", "box"]);
        // Attached once it says so in no way of its own: the daemon's answer is the upgrade.
        std::thread::sleep(std::time::Duration::from_millis(500));
        attach.send("word\n");
        attach.expect("got word");
        assert_eq!(attach.wait(), 4);
        assert!(!attach.output().contains("early"), "attach has no history");
    });
}

#[test]
fn detach_keys_leave_a_running_container() {
    daemon(|d| {
        let mut run = d.docker_terminal(&["run", "-it", "--name", "box", "busybox", "sh"]);
        run.expect("/ #");
        run.send([0x10, 0x11]);
        assert_eq!(run.wait(), 0);
        assert_eq!(d.state("box"), "running");
        let mut attach = d.docker_terminal(&["attach", "--detach-keys", "ctrl-a,x", "box"]);
        attach.send("echo again\n");
        attach.expect("again");
        // The beginning of the sequence alone goes to the command.
        attach.send([0x01, b'y']);
        attach.send([0x15]);
        attach.send("echo here\n");
        attach.expect("here");
        attach.send([0x01, b'x']);
        attach.wait();
        assert_eq!(d.state("box"), "running");
    });
}

#[test]
fn several_clients_see_the_same_and_one_that_leaves_disturbs_none() {
    daemon(|d| {
        let script = "while read x; do echo got $x; done";
        d.docker(&["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", script]).check();
        let mut first = d.docker_live(&["attach", "box"]);
        let mut second = d.docker_live(&["attach", "--no-stdin", "box"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        first.send("one\n");
        first.expect("got one");
        second.expect("got one");
        second.kill();
        first.send("two\n");
        first.expect("got two");
        first.kill();
        assert_eq!(d.state("box"), "running");
    });
}

#[test]
fn attach_needs_a_running_container() {
    daemon(|d| {
        d.docker(&["create", "--name", "box", "busybox", "true"]).check();
        d.docker(&["attach", "box"]).fails_with("cannot attach to a stopped container");
        d.docker(&["attach", "nobody"]).fails_with("no such container");
    });
}

#[test]
fn a_client_that_does_not_read_blocks_neither_container_nor_others() {
    daemon(|d| {
        let script = "while :; do echo 0123456789012345678901234567890123456789; done";
        let words = ["run", "-d", "--name", "box", "--log-opt", "max-size=1m", "--log-opt"];
        let words = [&words[..], &["max-file=2", "busybox", "sh", "-c", script]].concat();
        d.docker(&words).check();
        let head = "POST /containers/box/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: pouch\r\n\
                    Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
        let stuck = Connection::raw(&d.socket(), head.as_bytes());
        std::thread::sleep(std::time::Duration::from_secs(1));
        let before = d.docker(&["logs", "--tail", "1", "-t", "box"]).ok().to_owned();
        std::thread::sleep(std::time::Duration::from_millis(300));
        let after = d.docker(&["logs", "--tail", "1", "-t", "box"]).ok().to_owned();
        assert_ne!(before, after, "the container stands still");
        d.docker(&["stop", "-t", "0", "box"]).check();
        drop(stuck);
    });
}

#[test]
fn the_upgrade_is_announced_as_clients_know_it() {
    use std::io::Read as _;
    daemon(|d| {
        d.docker(&["run", "-d", "-i", "--name", "box", "busybox", "cat"]).check();
        for (version, kind) in [
            ("/v1.41", "application/vnd.docker.raw-stream"),
            ("/v1.43", "application/vnd.docker.multiplexed-stream"),
        ] {
            let head = format!(
                "POST {version}/containers/box/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n\
                 Host: pouch\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                 Content-Length: 0\r\n\r\nearly\n"
            );
            // The input came with the request's head, and comes back behind an 8-byte header.
            let mut connection = Connection::raw(&d.socket(), head.as_bytes());
            let mut all = Vec::new();
            let wanted = b"\x01\0\0\0\0\0\0\x06early\n";
            while !all.ends_with(wanted) {
                let mut buffer = [0; 512];
                let n = connection.stream.read(&mut buffer).unwrap();
                assert_ne!(n, 0, "ended: {}", String::from_utf8_lossy(&all));
                all.extend_from_slice(&buffer[..n]);
            }
            let text = String::from_utf8_lossy(&all).to_lowercase();
            assert!(text.starts_with("http/1.1 101 "), "{text}");
            assert!(text.contains(&format!("content-type: {kind}\r\n")), "{text}");
        }
        // Without an upgrade: 200 and the bare stream, one way.
        let head = "POST /v1.41/containers/box/attach?stream=1&stdout=1 HTTP/1.1\r\n\
                    Host: pouch\r\nContent-Length: 0\r\n\r\n";
        let mut connection = Connection::raw(&d.socket(), head.as_bytes());
        let mut buffer = [0; 512];
        let n = connection.stream.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).to_lowercase();
        // 1.0, too: what counts is that nothing frames the stream.
        assert!(text.starts_with("http/1.") && text[8..].starts_with(" 200 ok\r\n"), "{text}");
        assert!(!text.contains("chunked"), "{text}");
    });
}

/// Bytes of memory that a process holds now.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn a_long_past_is_streamed_and_not_held_in_memory() {
    use std::io::Read as _;
    const LINE: usize = 4000;
    const LINES: usize = 12_000;
    daemon(|d| {
        let script = format!("yes $(printf %0{}d 0) | head -n {LINES}", LINE - 1);
        let words = ["run", "--name", "box", "--log-opt", "max-size=-1", "-d", "busybox", "sh"];
        d.docker(&[&words[..], &["-c", &script]].concat()).check();
        d.docker(&["wait", "box"]).check();
        let before = resident(d.pid());
        let head = "POST /containers/box/attach?logs=1&stdout=1 HTTP/1.1\r\nHost: pouch\r\n\
                    Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n";
        // A client that asks and does not read yet.
        let mut connection = Connection::raw(&d.socket(), head.as_bytes());
        std::thread::sleep(std::time::Duration::from_secs(3));
        let grown = resident(d.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "the daemon grew by {grown} bytes");
        let mut all = Vec::new();
        connection.stream.read_to_end(&mut all).unwrap();
        let body = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert_eq!(all.len() - body, LINES * (8 + LINE), "each line with its header");
    });
}

#[test]
fn the_past_comes_before_what_follows_it() {
    daemon(|d| {
        let script = "echo early; read x; echo got $x";
        d.docker(&["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", script]).check();
        pouch_testkit::eventually("the first line is in the log", || {
            d.docker(&["logs", "box"]).ok() == "early"
        });
        let head = "POST /containers/box/attach?logs=1&stream=1&stdin=1&stdout=1 HTTP/1.1\r\n\
                    Host: pouch\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\
                    Content-Length: 0\r\n\r\nword\n";
        let mut connection = Connection::raw(&d.socket(), head.as_bytes());
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut connection.stream, &mut all).unwrap();
        let wanted = b"\x01\0\0\0\0\0\0\x06early\n\x01\0\0\0\0\0\0\x09got word\n";
        assert!(all.ends_with(wanted), "{}", String::from_utf8_lossy(&all));
    });
}
