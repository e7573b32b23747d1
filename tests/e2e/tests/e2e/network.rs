//! Networks of containers and published ports, seen from the host that the daemon runs on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use pouch_testkit::{Daemon, Netns, daemon, eventually};

/// What the other side sends until it closes, over TCP from the daemon's host.
fn fetch(d: &Daemon, address: &str) -> Option<String> {
    let address: SocketAddr = address.parse().unwrap();
    d.netns().enter(move || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    })
}

/// A web server that serves /etc, with these options.
fn server(d: &Daemon, name: &str, options: &[&str]) {
    let words = [&["run", "-d", "--name", name, "--hostname", name], options].concat();
    d.docker(&[&words[..], &["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"]].concat()).check();
}

fn serves(d: &Daemon, address: &str, name: &str) {
    eventually(&format!("{name} answers at {address}"), || {
        fetch(d, address).is_some_and(|text| text.ends_with(&format!("{name}\n")))
    });
}

#[test]
fn none_has_loopback_only_and_host_has_the_host_s_links() {
    daemon(|d| {
        let links = |network: &str| {
            let words = ["run", "--rm", "--network", network, "busybox", "ls", "/sys/class/net"];
            d.docker(&words).ok().replace('\n', " ")
        };
        assert_eq!(links("none"), "lo");
        assert_eq!(links("bridge"), "eth0 lo");
        assert!(links("host").contains("lan0"));
    });
}

#[test]
fn bridged_containers_reach_each_other_the_gateway_and_know_names() {
    daemon(|d| {
        server(d, "web", &[]);
        let address = d.inspect("web")["NetworkSettings"]["IPAddress"].as_str().unwrap().to_owned();
        assert!(address.starts_with("172.31.0."), "{address}");
        let url = format!("http://{address}/hostname");
        let get = d.docker(&["run", "--rm", "busybox", "wget", "-qO-", &url]);
        assert_eq!(get.ok(), "web");
        serves(d, &format!("{address}:80"), "web");
        d.docker(&["run", "--rm", "busybox", "ping", "-c1", "-W2", "172.31.0.1"]).check();
        // Its own name is in its hosts file.
        let hosts = d.docker(&["exec", "web", "cat", "/etc/hosts"]).ok().to_owned();
        assert!(hosts.lines().any(|l| l == format!("{address}\tweb")), "{hosts}");
        assert!(hosts.lines().any(|l| l.starts_with("127.0.0.1\tlocalhost")), "{hosts}");
    });
}

#[test]
fn hosts_and_resolver_files_carry_what_was_asked() {
    daemon(|d| {
        let words = [
            "run",
            "--rm",
            "--dns",
            "192.0.2.1",
            "--dns-search",
            "example.org",
            "--dns-option",
            "ndots:3",
            "--add-host",
            "db:192.0.2.7",
            "--add-host",
            "me:host-gateway",
            "busybox",
            "cat",
            "/etc/resolv.conf",
            "/etc/hosts",
        ];
        let text = d.docker(&words).ok().to_owned();
        for line in [
            "nameserver 192.0.2.1",
            "search example.org",
            "options ndots:3",
            "192.0.2.7\tdb",
            "172.31.0.1\tme",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in:\n{text}");
        }
        // What a container writes into them stays its own.
        let script = "echo 192.0.2.9 mine >> /etc/hosts && cat /etc/hosts";
        assert!(d.docker(&["run", "--rm", "busybox", "sh", "-c", script]).ok().contains("mine"));
        d.docker(&["run", "--add-host", "bad", "busybox"]).exits(125);
        d.docker(&["run", "--dns", "not-an-address", "busybox"]).exits(125);
    });
}

#[test]
fn tcp_ports_are_published_where_asked() {
    daemon(|d| {
        let words = ["-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "80"];
        server(d, "web", &words);
        serves(d, "127.0.0.1:8080", "web");
        serves(d, &format!("{}:8080", Netns::ADDRESS), "web");
        serves(d, "127.0.0.1:8081", "web");
        assert!(fetch(d, &format!("{}:8081", Netns::ADDRESS)).is_none(), "only on loopback");
        let port = d.docker(&["port", "web", "80/tcp"]).ok().to_owned();
        let mut lines: Vec<&str> = port.lines().collect();
        lines.sort_unstable();
        assert_eq!(&lines[..1], ["0.0.0.0:8080"].map(|_| lines[0]));
        assert!(lines.contains(&"0.0.0.0:8080") && lines.contains(&"127.0.0.1:8081"), "{lines:?}");
        // The one that nobody named is above the ports that programs ask for.
        let random = lines.iter().find(|l| !l.contains(":808")).unwrap();
        let number: u16 = random.rsplit(':').next().unwrap().parse().unwrap();
        assert!(number >= 32768, "{random}");
        serves(d, &format!("127.0.0.1:{number}"), "web");
        d.docker(&["rm", "-f", "web"]).check();
        assert!(fetch(d, "127.0.0.1:8080").is_none());
    });
}

#[test]
fn udp_ports_are_published() {
    daemon(|d| {
        let words = ["run", "-d", "--name", "echo", "-p", "5353:53/udp", "busybox", "sleep", "600"];
        d.docker(&words).check();
        // A server from here in the container's namespace: busybox has none for UDP.
        let server = d.enter_container("echo", || UdpSocket::bind("0.0.0.0:53").unwrap());
        let client = d.netns().enter(|| UdpSocket::bind("127.0.0.1:0").unwrap());
        for socket in [&server, &client] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        let mut buffer = [0; 16];
        client.send_to(b"ask", "127.0.0.1:5353").unwrap();
        let (n, peer) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"ask");
        server.send_to(b"answer", peer).unwrap();
        let (n, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..n], from.port()), (&b"answer"[..], 5353));
    });
}

#[test]
fn ranges_and_exposed_ports_are_published() {
    daemon(|d| {
        server(d, "range", &["-p", "9000-9002:80-82"]);
        serves(d, "127.0.0.1:9000", "range");
        let ports = d.inspect("range")["NetworkSettings"]["Ports"].clone();
        assert_eq!(ports["82/tcp"][0]["HostPort"], "9002");
        server(d, "all", &["-P", "--expose", "80"]);
        let port = d.inspect("all")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"].clone();
        serves(d, &format!("127.0.0.1:{}", port.as_str().unwrap()), "all");
    });
}

#[test]
fn a_port_in_use_is_refused_with_who_holds_it() {
    daemon(|d| {
        server(d, "first", &["-p", "8080:80"]);
        let second = ["run", "-d", "--name", "second", "-p", "8080:80", "busybox", "sleep", "60"];
        let run = d.docker(&second);
        run.exits(125).fails_with("8080");
        assert!(run.stderr.contains("first"), "it does not say who: {}", run.stderr);
        // A process of the host's.
        let listener = d.netns().enter(|| std::net::TcpListener::bind("0.0.0.0:8090").unwrap());
        let third = ["run", "-d", "--name", "third", "-p", "8090:80", "busybox", "sleep", "60"];
        d.docker(&third).exits(125).fails_with("8090");
        drop(listener);
        d.docker(&["start", "third"]).check();
        // And the other way round: ours are taken for everybody else.
        let error = d.netns().enter(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        d.docker(&["rm", "-f", "first"]).check();
        d.docker(&["start", "second"]).check();
    });
}

#[test]
fn published_ports_survive_the_daemon_s_restart_and_crash() {
    daemon(|d| {
        server(d, "web", &["-p", "8080:80"]);
        serves(d, "127.0.0.1:8080", "web");
        d.restart();
        serves(d, "127.0.0.1:8080", "web");
        d.kill9();
        // Nobody's process is in the way of a packet.
        serves(d, "127.0.0.1:8080", "web");
        d.start_again();
        serves(d, "127.0.0.1:8080", "web");
        let error = d.netns().enter(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap_err());
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    });
}

#[test]
fn a_container_on_another_s_network_shares_all_of_it() {
    daemon(|d| {
        server(d, "web", &["-p", "8080:80"]);
        let words = ["run", "--rm", "--network", "container:web", "busybox", "wget", "-qO-"];
        let get = d.docker(&[&words[..], &["http://127.0.0.1/hostname"]].concat());
        assert_eq!(get.ok(), "web");
        let clash = ["create", "--network", "container:web", "-p", "1:1", "busybox"];
        d.docker(&clash).fails_with("port");
        let hostname = ["create", "--network", "container:web", "-h", "x", "busybox"];
        d.docker(&hostname).fails_with("hostname");
        d.docker(&["stop", "-t", "0", "web"]).check();
        let words = ["run", "--network", "container:web", "busybox"];
        d.docker(&words).exits(125).fails_with("non running");
    });
}

#[test]
fn containers_go_out_under_the_host_s_address() {
    daemon(|d| {
        let peer = d.netns().enter(|| {
            let listener = std::net::TcpListener::bind((Netns::ADDRESS, 7000)).unwrap();
            std::thread::scope(|scope| {
                let accept = scope.spawn(|| listener.accept().unwrap().1);
                let words = ["run", "--rm", "busybox", "nc", "-w", "3", Netns::ADDRESS, "7000"];
                d.docker_with(&words, b"x").check();
                accept.join().unwrap()
            })
        });
        // To the host itself there is no need for a disguise.
        assert!(peer.ip().to_string().starts_with("172.31.0."), "{peer}");
    });
}
