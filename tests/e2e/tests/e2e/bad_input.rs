//! What clients get wrong, by accident or not: an answer that says what, and nothing done.

use pouch_testkit::{Connection, daemon};
use serde_json::{Value, json};

#[test]
fn wrong_json_is_400_with_the_place() {
    daemon(|d| {
        for body in
            ["", "{", "[]", "\"x\"", "{\"Image\": 5}", "{\"Cmd\": {\"a\": 1}}", "{}{}", "\u{0}"]
        {
            let answer = d.request("POST", "/containers/create", body.as_bytes());
            assert_eq!(answer.status, 400, "{body:?}: {}", answer.text());
            assert!(!answer.message().is_empty(), "{body:?}: {}", answer.text());
        }
        let deep = format!("{{\"Image\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(d.request("POST", "/containers/create", deep.as_bytes()).status, 400);
        let answer =
            d.request("POST", "/containers/create", b"{\"HostConfig\": {\"Memory\": \"x\"}}");
        assert!(answer.is(400).message().contains("HostConfig"), "{}", answer.message());
    });
}

#[test]
fn huge_bodies_are_refused_and_cost_no_memory() {
    daemon(|d| {
        let rss = |pid: u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap().to_owned();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
        };
        let before = rss(d.pid());
        let mut body = b"{\"Image\":\"busybox\",\"Env\":[\"A=".to_vec();
        body.resize(64 << 20, b'x');
        let answer = d.request("POST", "/containers/create", &body);
        assert!([400, 413].contains(&answer.status), "{}", answer.status);
        assert!(rss(d.pid()) < before + (48 << 10), "{} → {} KiB", before, rss(d.pid()));
        let header =
            format!("GET /_ping HTTP/1.1\r\nHost: p\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
        let mut stream = std::os::unix::net::UnixStream::connect(d.socket()).unwrap();
        let _ = std::io::Write::write_all(&mut stream, header.as_bytes());
        drop(stream);
        d.get("/_ping").is(200);
    });
}

#[test]
fn names_and_ids_cannot_leave_their_place() {
    daemon(|d| {
        let body = json!({"Image": "busybox", "Cmd": ["true"]});
        for name in ["..%2F..%2Fetc", "a%2Fb", ".hidden", "-x", "%00", "a%20b", "a%0ab"] {
            let answer = d.post(&format!("/containers/create?name={name}"), &body);
            assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        }
        let long = "n".repeat(1000);
        assert_eq!(d.post(&format!("/containers/create?name={long}"), &body).status, 400);
        for name in ["..", ".", "../x", "a/b", "\u{0}", "-x", &"v".repeat(300)] {
            let answer = d.post("/volumes/create", &json!({"Name": name}));
            assert_eq!(answer.status, 400, "{name:?}: {}", answer.text());
        }
        for path in [
            "/containers/..%2F..%2Fetc%2Fpasswd/json",
            "/containers/%2e%2e/json",
            "/volumes/..%2F..%2Fetc",
            "/images/..%2F..%2Fetc/json",
            "/exec/..%2Fx/json",
        ] {
            let answer = d.get(path);
            assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
        }
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "");
        assert_eq!(d.docker(&["volume", "ls", "-q"]).ok(), "");
    });
}

#[test]
fn errors_name_the_field_that_is_wrong() {
    daemon(|d| {
        for (config, host, said) in [
            (json!({"WorkingDir": "relative"}), json!({}), "workdir|working"),
            (json!({"StopSignal": "SIGNOPE"}), json!({}), "signal"),
            (json!({"Env": ["=x"]}), json!({}), "env"),
            (json!({"ExposedPorts": {"99999/tcp": {}}}), json!({}), "port"),
            (json!({}), json!({"Binds": ["a:b:c:d"]}), "a:b:c:d|bind|mount|volume"),
            (json!({}), json!({"Memory": -5}), "memory"),
            (json!({}), json!({"NanoCpus": -1}), "cpu"),
            (json!({}), json!({"CpusetCpus": "a-b"}), "cpuset"),
            (json!({}), json!({"RestartPolicy": {"Name": "odd"}}), "restart"),
            (json!({}), json!({"NetworkMode": "container:"}), "network|container"),
            (json!({}), json!({"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}), "port"),
            (json!({}), json!({"PortBindings": {"80/odd": [{"HostPort": "1"}]}}), "proto|port"),
            (json!({}), json!({"LogConfig": {"Type": "odd"}}), "log"),
            (json!({}), json!({"ShmSize": -1}), "shm"),
            (json!({}), json!({"Ulimits": [{"Name": "odd", "Soft": 1, "Hard": 1}]}), "ulimit|odd"),
            (json!({}), json!({"Sysctls": {"kernel.core_pattern": "x"}}), "kernel.core_pattern"),
            (json!({}), json!({"CapAdd": ["ODD"]}), "odd"),
            (json!({}), json!({"SecurityOpt": ["odd"]}), "odd"),
            (json!({}), json!({"Devices": [{"PathOnHost": "/dev/no-such"}]}), "/dev/no-such"),
            (json!({}), json!({"Mounts": [{"Type": "odd", "Target": "/x"}]}), "odd|mount"),
            (
                json!({}),
                json!({"Mounts": [{"Type": "bind", "Target": "/x", "Source": "rel"}]}),
                "rel|mount",
            ),
            (json!({}), json!({"Tmpfs": {"relative": ""}}), "relative|tmpfs"),
            (json!({}), json!({"CgroupParent": "../../x"}), "cgroup"),
            (json!({}), json!({"PidMode": "odd"}), "pid"),
            (json!({}), json!({"ExtraHosts": ["odd"]}), "host"),
            (json!({}), json!({"BlkioWeight": 5}), "blkio"),
        ] {
            let mut body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
            for (key, value) in config.as_object().unwrap() {
                body[key] = value.clone();
            }
            let answer = d.post("/containers/create", &body);
            assert!(
                [400, 501].contains(&answer.status),
                "{body}: {} {}",
                answer.status,
                answer.text()
            );
            let message = answer.message().to_lowercase();
            assert!(said.split('|').any(|word| message.contains(word)), "{body}: {message}");
        }
        assert_eq!(d.docker(&["ps", "-aq"]).ok(), "", "refused containers were made");
    });
}

#[test]
fn unknown_fields_nulls_and_strange_cases_are_taken() {
    daemon(|d| {
        let body = json!({
            "Image": "busybox", "Cmd": ["true"], "Env": null, "Labels": null, "Volumes": null,
            "NotAFieldYet": {"x": 1}, "Entrypoint": null, "OnBuild": null, "ExposedPorts": null,
            "HostConfig": {
                "Binds": null, "PortBindings": null, "Dns": null, "CapAdd": null, "LogConfig": {},
                "RestartPolicy": {}, "NetworkMode": "default", "MaskedPaths": null,
                "SomethingNew": true, "Devices": null, "Ulimits": null,
            },
            "NetworkingConfig": {"EndpointsConfig": {}},
        });
        let made = d.post("/containers/create", &body);
        assert_eq!(made.is(201).json()["Warnings"], json!([]));
    });
}

#[test]
fn requests_that_are_no_http_end_the_connection_only() {
    use std::io::Read as _;
    daemon(|d| {
        for junk in [
            &b"\x16\x03\x01\x02\x00\x01\x00"[..],
            b"GET\r\n\r\n",
            b"\0\0\0\0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ] {
            let mut connection = Connection::raw(&d.socket(), junk);
            connection.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            let _ = connection.stream.read_to_end(&mut rest);
        }
        d.get("/_ping").is(200);
        let answer = d.request("GET", "/containers/create", b"");
        assert!([404, 405].contains(&answer.status), "{}", answer.status);
        let answer = d.post("/containers/nothing/start", &Value::Null);
        assert_eq!(answer.is(404).message(), "No such container: nothing");
    });
}

#[test]
fn ambiguous_and_short_ids() {
    daemon(|d| {
        let mut ids: Vec<String> = Vec::new();
        // Seventeen ids have two that begin alike.
        for _ in 0..17 {
            ids.push(d.docker(&["create", "busybox"]).ok().to_owned());
        }
        let twice = ids.iter().enumerate().find_map(|(n, id)| {
            ids[n + 1..].iter().any(|other| other[..1] == id[..1]).then(|| id[..1].to_owned())
        });
        let answer = d.get(&format!("/containers/{}/json", twice.unwrap()));
        assert!([400, 404].contains(&answer.status), "{}", answer.status);
        assert!(answer.message().to_lowercase().contains("multiple"), "{}", answer.message());
    });
}
