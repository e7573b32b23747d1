//! The daemon's own options: configuration, sockets, signals, metrics.

use std::process::Command;

use pouch_testkit::{Host, daemon, eventually, program};
use rustix::process::Signal;

#[test]
fn validate_names_line_and_key() {
    daemon(|d| {
        let file = d.path("wrong.json");
        let check = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new(program("pouchd"));
            let output =
                command.arg("--validate").arg("--config-file").arg(&file).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert!(check("{\"debug\": true}").0);
        let (valid, said) = check("{\n  \"debug\": true,\n  \"data-rot\": \"/x\"\n}");
        assert!(!valid && said.contains("line 3") && said.contains("data-rot"), "{said}");
        let (valid, said) = check("{\"hosts\": [\"tcp://0.0.0.0:2375\"]}");
        assert!(!valid && said.contains("tlsverify"), "{said}");
    });
}

#[test]
fn hangup_reloads_the_log_level() {
    daemon(|d| {
        std::fs::write(d.path("config.json"), "{\"debug\": true}").unwrap();
        d.signal(Signal::HUP);
        eventually("the log says so", || d.log().contains("reloaded the log level"));
        std::fs::write(d.path("config.json"), "{\"debug\": nonsense}").unwrap();
        d.signal(Signal::HUP);
        eventually("the log says what is wrong", || d.log().contains("line 1"));
        d.get("/_ping").is(200);
        std::fs::write(d.path("config.json"), "{}").unwrap();
    });
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    daemon(|d| {
        let mut second = d.netns().command(program("pouchd"));
        second.arg("--data-root").arg(d.data_root()).arg("--exec-root").arg(d.path("x2"));
        second.arg("-H").arg(format!("unix://{}", d.path("s2").display()));
        second.arg("--pidfile").arg(d.path("pid2"));
        let output = second.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(said.contains(&d.pid().to_string()), "{said}");
        d.get("/_ping").is(200);
    });
}

#[test]
fn two_daemons_run_side_by_side() {
    daemon(|a| {
        daemon(|b| {
            a.docker(&["run", "-d", "--name", "same", "busybox", "sleep", "60"]).check();
            b.docker(&["run", "-d", "--name", "same", "busybox", "sleep", "60"]).check();
            assert_eq!(a.docker(&["ps", "-q"]).ok().lines().count(), 1);
            assert_ne!(a.container_pid("same"), b.container_pid("same"));
        });
        assert_eq!(a.state("same"), "running");
    });
}

#[test]
fn metrics_are_served_where_asked() {
    Host::new().flags(&["--metrics-addr", "127.0.0.1:9323"]).run(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let text = d.netns().enter(|| {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect("127.0.0.1:9323").unwrap();
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        });
        assert!(text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("# TYPE "), "{text}");
        let running = text.lines().find(|l| l.contains("state=\"running\"")).unwrap_or_default();
        assert!(running.ends_with(" 1"), "{text}");
    });
}

#[test]
fn readiness_is_notified_and_the_socket_can_be_inherited() {
    daemon(|d| {
        d.stop();
        let notify = d.path("notify");
        let receiver = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        d.start_again_with("NOTIFY_SOCKET", notify.to_str().unwrap());
        let mut buffer = [0; 256];
        let n = receiver.recv(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..n]).contains("READY=1"));
        d.stop();
        let n = receiver.recv(&mut buffer).unwrap();
        assert!(String::from_utf8_lossy(&buffer[..n]).contains("STOPPING=1"));
        d.start_again();
    });
}

#[test]
fn defaults_of_the_configuration_reach_containers() {
    let flags =
        ["--init", "--log-driver", "local", "--dns", "192.0.2.3", "--log-opt", "max-size=1m"];
    Host::new().flags(&flags).run(|d| {
        d.docker(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]).check();
        let c = d.inspect("box");
        assert_eq!(c["HostConfig"]["LogConfig"]["Type"], "local");
        assert_eq!(c["HostConfig"]["LogConfig"]["Config"]["max-size"], "1m");
        let resolv = d.docker(&["exec", "box", "cat", "/etc/resolv.conf"]).ok().to_owned();
        assert!(resolv.contains("nameserver 192.0.2.3"), "{resolv}");
        let ps = d.docker(&["exec", "box", "ps"]).ok().to_owned();
        assert!(ps.lines().nth(1).unwrap().contains("init"), "{ps}");
    });
}
