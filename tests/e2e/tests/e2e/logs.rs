//! `docker logs`, and where the lines are kept.

use pouch_testkit::daemon;

#[test]
fn both_streams_come_back_in_order_with_times_if_asked() {
    daemon(|d| {
        let script = "echo one; sleep 0.05; echo two >&2; sleep 0.05; echo three; printf four";
        d.docker(&["run", "--name", "box", "busybox", "sh", "-c", script]).check();
        let logs = d.docker(&["logs", "box"]);
        logs.check();
        assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("one\nthree\nfour", "two\n"));
        let timed = d.docker(&["logs", "-t", "box"]);
        let first = timed.ok().lines().next().unwrap().to_owned();
        let (time, text) = first.split_once(' ').unwrap();
        assert_eq!(text, "one");
        // RFC 3339 with nine digits, in UTC.
        assert_eq!((time.len(), &time[10..11], &time[29..]), (30, "T", "Z"));
    });
}

#[test]
fn tail_since_and_until_choose_lines() {
    daemon(|d| {
        let script = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.05; done";
        d.docker(&["run", "--name", "box", "busybox", "sh", "-c", script]).check();
        assert_eq!(d.docker(&["logs", "--tail", "2", "box"]).ok(), "line 5\nline 6");
        assert_eq!(d.docker(&["logs", "--tail", "0", "box"]).ok(), "");
        assert_eq!(d.docker(&["logs", "-n", "100", "box"]).ok().lines().count(), 6);
        let timed = d.docker(&["logs", "-t", "box"]);
        let third = timed.ok().lines().nth(2).unwrap().split(' ').next().unwrap().to_owned();
        let since = d.docker(&["logs", "--since", &third, "box"]);
        assert_eq!(since.ok(), "line 3\nline 4\nline 5\nline 6");
        let until = d.docker(&["logs", "--until", &third, "box"]);
        assert_eq!(until.ok(), "line 1\nline 2\nline 3");
        let both = d.docker(&["logs", "--since", &third, "--tail", "1", "box"]);
        assert_eq!(both.ok(), "line 6");
        assert_eq!(d.docker(&["logs", "--since", "1h", "box"]).ok().lines().count(), 6);
        d.docker(&["logs", "--tail", "x", "box"]).check();
        assert_eq!(d.get("/containers/box/logs").status, 400, "no stream chosen");
    });
}

#[test]
fn follow_shows_lines_as_they_come_and_ends_with_the_container() {
    daemon(|d| {
        let script = "echo one; read x; echo two; read x; echo three";
        d.docker(&["run", "-d", "-i", "--name", "box", "busybox", "sh", "-c", script]).check();
        let mut follow = d.docker_live(&["logs", "-f", "box"]);
        follow.expect("one");
        let mut attach = d.docker_live(&["attach", "box"]);
        std::thread::sleep(std::time::Duration::from_millis(400));
        attach.send("\n");
        follow.expect("two");
        attach.send("\n");
        follow.expect("three");
        assert_eq!(follow.wait(), 0);
    });
}

#[test]
fn follow_reaches_past_rotations_without_loss() {
    daemon(|d| {
        let script = "i=0; while [ $i -lt 4000 ]; do echo line $i; i=$((i+1)); done";
        let words = ["run", "-d", "--name", "box", "--log-opt", "max-size=64k", "--log-opt"];
        let all = [&words[..], &["max-file=8", "busybox", "sh", "-c", script]].concat();
        d.docker(&all).check();
        let follow = d.docker(&["logs", "-f", "box"]);
        let lines: Vec<&str> = follow.ok().lines().collect();
        assert_eq!(lines.len(), 4000);
        assert_eq!((lines[0], lines[3999]), ("line 0", "line 3999"));
    });
}

#[test]
fn rotation_bounds_what_is_kept() {
    daemon(|d| {
        let script = "i=0; while [ $i -lt 6000 ]; do echo line $i; i=$((i+1)); done";
        let words = ["run", "--name", "box", "-a", "stderr", "--log-opt", "max-size=32k"];
        let all =
            [&words[..], &["--log-opt", "max-file=2", "busybox", "sh", "-c", script]].concat();
        d.docker(&all).check();
        let logs = d.docker(&["logs", "box"]);
        let lines: Vec<&str> = logs.ok().lines().collect();
        assert_eq!(lines.last(), Some(&"line 5999"));
        // Two files of 32 KiB, and each line takes some 70 bytes as JSON.
        assert!(lines.len() < 1200, "{} lines are kept", lines.len());
    });
}

#[test]
fn drivers_keep_lines_in_their_way() {
    daemon(|d| {
        let echo = ["busybox", "echo", "kept"];
        d.docker(&[&["run", "--name", "json", "--log-driver", "json-file"][..], &echo].concat())
            .check();
        d.docker(&[&["run", "--name", "local", "--log-driver", "local"][..], &echo].concat())
            .check();
        d.docker(&[&["run", "--name", "none", "--log-driver", "none"][..], &echo].concat()).check();
        let path = d.docker(&["inspect", "-f", "{{.LogPath}}", "json"]).ok().to_owned();
        let line = std::fs::read_to_string(path).unwrap();
        let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
        assert_eq!((&line["log"], &line["stream"]), (&"kept\n".into(), &"stdout".into()));
        assert_eq!(d.docker(&["logs", "local"]).ok(), "kept");
        d.docker(&["logs", "none"]).fails_with("logging driver does not support reading");
        d.docker(&["run", "--log-driver", "syslog", "busybox"]).exits(125).fails_with("syslog");
        let odd = ["run", "--log-opt", "no-such-option=1", "busybox"];
        d.docker(&odd).exits(125).fails_with("no-such-option");
    });
}

#[test]
fn a_long_line_and_bytes_that_are_no_text_survive() {
    daemon(|d| {
        let script = "dd if=/dev/zero bs=1000 count=100 2>/dev/null | tr '\\0' x; echo; \
                      printf 'a\\0b\\377c\\n'";
        d.docker(&["run", "--name", "box", "-a", "stderr", "busybox", "sh", "-c", script]).check();
        let raw = d.get("/containers/box/logs?stdout=1").is(200).body.clone();
        // Frames of 8 bytes of header each: the payload is what counts.
        let mut text = Vec::new();
        let mut rest = &raw[..];
        while let Some((head, behind)) = rest.split_first_chunk::<8>() {
            let size = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
            text.extend_from_slice(&behind[..size]);
            rest = &behind[size..];
        }
        assert_eq!(text.iter().take_while(|&&b| b == b'x').count(), 100_000);
        // json-file is JSON, so a byte that is no UTF-8 becomes U+FFFD, as with Docker.
        assert!(text.ends_with("a\0b\u{fffd}c\n".as_bytes()), "{:?}", &text[100_000..]);
    });
}
