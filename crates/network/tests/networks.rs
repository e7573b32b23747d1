//! The networks on a real kernel. Each test has a host of its own; needs root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rig;

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use pouch_netns::{Ipv6, Netns};
use pouch_network::{Driver, Icc, LiveContainer, NetworkError};
use pouch_types::spec::{Port, Protocol};
use pouch_types::{Classified, ContainerId, ErrorKind};
use rig::{
    HOST, NEIGHBOUR, asks, becomes_free, binding, census, host_asks, inside, ip, listen, on_host,
    ping, refused, run, serve, serve_udp, udp_exchange,
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

#[test]
fn containers_talk_to_each_other_the_gateway_and_the_outside() {
    on_host(
        |_| {},
        |rig| async move {
            let before = census();
            let (a, b) = (rig.container("aa", vec![]).await, rig.container("bb", vec![]).await);
            let config = a.endpoint.ipv4.unwrap();
            assert_eq!(config.gateway, Ipv4Addr::new(172, 30, 0, 1));
            assert_eq!(a.endpoint.mac.unwrap().to_string(), "02:42:ac:1e:00:02");
            assert!(ping(&a.netns, b.address()), "to the other container");
            assert!(ping(&a.netns, config.gateway), "to the gateway");

            serve(listen(&rig.neighbour, 80));
            assert_eq!(asks(&a.netns, NEIGHBOUR, 80).unwrap(), HOST.to_string(), "masqueraded");

            let (link, v6) = inside(&a.netns, || {
                (
                    ip("-o link show eth0"),
                    fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap(),
                )
            });
            assert!(link.contains("02:42:ac:1e:00:02") && link.contains("LOWER_UP"), "{link}");
            assert!(!v6.contains("eth0") && v6.contains("lo"), "{v6}");

            rig.gone(a).await;
            rig.gone(b).await;
            rig.networks.close_unused().await.unwrap();
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    on_host(
        |_| {},
        |rig| async move {
            let ports = vec![
                binding(80, Protocol::Tcp, None, 8080),
                binding(53, Protocol::Udp, None, 5353),
                binding(81, Protocol::Tcp, Some("10.99.0.1"), 8081),
                binding(82, Protocol::Tcp, Some("127.0.0.1"), 8082),
                binding(99, Protocol::Sctp, None, 9999),
                binding(83, Protocol::Tcp, None, 0),
            ];
            let a = rig.container("aa", ports).await;
            let b = rig.container("bb", vec![]).await;
            for port in [80, 81, 82, 83] {
                serve(listen(&a.netns, port));
            }
            serve_udp(&a.netns, 53);
            let gateway = a.endpoint.ipv4.unwrap().gateway;

            assert_eq!(host_asks(LOOPBACK, 8080).unwrap(), gateway.to_string());
            assert_eq!(host_asks(HOST, 8080).unwrap(), HOST.to_string());
            assert_eq!(
                asks(&rig.neighbour, HOST, 8080).unwrap(),
                NEIGHBOUR.to_string(),
                "real source"
            );
            for to in [HOST, gateway] {
                assert!(asks(&b.netns, to, 8080).is_ok(), "another container through {to}");
                assert!(asks(&a.netns, to, 8080).is_ok(), "hairpin through {to}");
            }
            assert!(udp_exchange(LOOPBACK, 5353).is_ok());
            assert_eq!(
                inside(&rig.neighbour, || udp_exchange(HOST, 5353)).unwrap(),
                NEIGHBOUR.to_string()
            );
            assert!(inside(&b.netns, || udp_exchange(HOST, 5353)).is_ok());

            assert!(asks(&rig.neighbour, HOST, 8081).is_ok());
            assert!(host_asks(LOOPBACK, 8081).is_err(), "published on another address only");
            assert!(host_asks(LOOPBACK, 8082).is_ok());
            assert!(refused(&rig.neighbour, HOST, 8082), "published on loopback only");

            let free = a.endpoint.ports[5].host_port;
            assert!(free >= 32768, "{free}");
            assert!(host_asks(LOOPBACK, free).is_ok());
            assert!(
                run("nft", &["list", "map", "inet", "pouch", "ports-any"]).contains("sctp . 9999")
            );

            rig.gone(a).await;
            assert!(host_asks(LOOPBACK, 8080).is_err());
            assert!(becomes_free(|| TcpListener::bind(("0.0.0.0", 8080))));
            assert!(becomes_free(|| UdpSocket::bind(("0.0.0.0", 5353))));
        },
    );
}

/// SEC-52; CVE-2020-8558 for loopback.
#[test]
fn what_is_not_published_is_not_reached() {
    on_host(
        |_| {},
        |rig| async move {
            let ports = vec![
                binding(80, Protocol::Tcp, Some("127.0.0.1"), 8080),
                binding(81, Protocol::Tcp, None, 8081),
            ];
            let a = rig.container("aa", ports).await;
            for port in [80, 81, 90] {
                serve(listen(&a.netns, port));
            }
            assert!(host_asks(LOOPBACK, 8080).is_ok() && host_asks(a.address(), 90).is_ok());

            inside(&rig.neighbour, || ip("route add 172.30.0.0/16 via 10.99.0.1"));
            for port in [80, 81, 90] {
                assert!(refused(&rig.neighbour, a.address(), port), "direct route to port {port}");
            }
            assert!(!ping(&rig.neighbour, a.address()));
            assert!(asks(&rig.neighbour, HOST, 8081).is_ok(), "the published one still works");

            // The neighbour and a container forge a destination on loopback.
            serve(TcpListener::bind("127.0.0.1:7777").unwrap());
            for (ns, interface, via) in
                [(&rig.neighbour, "eth0", "10.99.0.1"), (&a.netns, "eth0", "172.30.0.1")]
            {
                inside(ns, move || {
                    fs::write(format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet"), "1")
                        .unwrap();
                    ip("addr del 127.0.0.1/8 dev lo");
                    ip(&format!("route add 127.0.0.0/8 via {via}"));
                });
                for port in [7777, 8080] {
                    assert!(refused(ns, LOOPBACK, port), "loopback port {port} through {via}");
                }
            }
            assert!(host_asks(LOOPBACK, 7777).is_ok());

            // The host forwarded nothing before; it has not become a router for others.
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "1");
            let far = Netns::create(&rig.dir.join("netns/far"), Ipv6::Disabled).unwrap();
            ip("link add far0 type veth peer name eth0");
            ip(&format!("link set eth0 netns {}", far.path().display()));
            ip("addr add 10.98.0.1/24 dev far0");
            ip("link set far0 up");
            inside(&far, || {
                ip("addr add 10.98.0.2/24 dev eth0");
                ip("link set eth0 up");
                ip("route add default via 10.98.0.1");
            });
            inside(&rig.neighbour, || ip("route add 10.98.0.0/24 via 10.99.0.1"));
            assert!(ping(&far, Ipv4Addr::new(10, 98, 0, 1)));
            assert!(!ping(&far, NEIGHBOUR), "transit between foreign interfaces");

            rig.gone(a).await;
            rig.networks.close_unused().await.unwrap();
            assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim(), "0");
        },
    );
}

#[test]
fn isolated_containers_meet_only_through_published_ports() {
    on_host(
        |config| config.icc = Icc::Isolated,
        |rig| async move {
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            let b = rig.container("bb", vec![]).await;
            serve(listen(&a.netns, 80));
            assert!(ping(&b.netns, a.endpoint.ipv4.unwrap().gateway));
            assert!(refused(&b.netns, a.address(), 80));
            let to = a.address();
            // By way of the gateway instead of the bridge.
            inside(&b.netns, move || ip(&format!("route add {to}/32 via 172.30.0.1")));
            assert!(refused(&b.netns, a.address(), 80));
            assert!(asks(&b.netns, HOST, 8080).is_ok());
        },
    );
}

#[test]
fn a_busy_port_is_refused_with_the_holders_name() {
    on_host(
        |_| {},
        |rig| async move {
            let before = census();
            let a = rig.container("web", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            let standing = census();
            let refuse = |name: &'static str, port| {
                let request = rig.request(name, vec![binding(80, Protocol::Tcp, None, port)]);
                Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
                let networks = rig.networks.clone();
                async move { networks.attach(request).await.unwrap_err() }
            };
            let error = refuse("second", 8080).await;
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let text = error.to_string();
            let short = a.id.short();
            assert_eq!(
                text,
                format!(
                    "bind for 0.0.0.0:8080/tcp failed: port is already allocated by container web ({short})"
                )
            );
            let foreign = TcpListener::bind("127.0.0.1:8081").unwrap();
            let text = refuse("third", 8081).await.to_string();
            assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
            drop(foreign);
            let later = TcpListener::bind("0.0.0.0:8080").unwrap_err();
            assert_eq!(later.kind(), std::io::ErrorKind::AddrInUse);

            let mut request =
                rig.request("fourth", vec![binding(80, Protocol::Tcp, Some("::"), 8082)]);
            assert!(matches!(
                rig.networks.attach(request.clone()).await,
                Err(NetworkError::Ipv6 { .. })
            ));
            // A failure after the lease: there is no such namespace.
            request.ports = vec![binding(80, Protocol::Tcp, None, 8083)];
            assert!(matches!(rig.networks.attach(request).await, Err(NetworkError::Netns(_))));
            assert!(becomes_free(|| TcpListener::bind(("0.0.0.0", 8083))));
            rig.networks.settle().await;
            assert_eq!(census(), standing);
            assert_eq!(rig.networks.inspect("bridge").await.unwrap().containers.len(), 1);

            rig.gone(a).await;
            rig.networks.close_unused().await.unwrap();
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn host_and_none_leave_no_trace_and_views_tell() {
    on_host(
        |_| {},
        |rig| async move {
            let before = census();
            let mut request = rig.request("aa", vec![binding(80, Protocol::Tcp, None, 8080)]);
            request.network = "host".into();
            request.netns = None;
            let endpoint = rig.networks.attach(request.clone()).await.unwrap();
            assert_eq!((endpoint.interface, endpoint.ipv4), (None, None));
            assert!(endpoint.ports.is_empty());
            let again = rig.networks.attach(request.clone()).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::AlreadyExists);
            let mut none = rig.request("bb", vec![]);
            none.network = "none".into();
            rig.networks.attach(none.clone()).await.unwrap();
            none.ipv4 = Some(Ipv4Addr::new(1, 2, 3, 4));
            assert_eq!(rig.networks.attach(none).await.unwrap_err().kind(), ErrorKind::Invalid);
            assert_eq!(census(), before, "lazily made");

            let all = rig.networks.list().await.unwrap();
            let names: Vec<_> = all.iter().map(|n| (n.name.as_str(), n.driver)).collect();
            assert_eq!(
                names,
                [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::Null)]
            );
            assert_eq!(all[1].containers[0].container, request.container);
            assert_eq!(all[0].options["com.docker.network.bridge.name"], "pouch0");
            let by_prefix = rig.networks.inspect(&all[0].id.as_str()[..12]).await.unwrap();
            assert_eq!(by_prefix.id, all[0].id);
            let missing = rig.networks.inspect("nosuch").await.unwrap_err();
            assert_eq!(missing.kind(), ErrorKind::NotFound);
            let reopened = rig::open(&rig.dir, |_| {}).await;
            assert_eq!(reopened.inspect("bridge").await.unwrap().id, all[0].id);

            rig.networks.detach(&request.container).await.unwrap();
            rig.networks.detach(&request.container).await.unwrap();
        },
    );
}

#[test]
fn what_is_not_ours_is_refused_and_stays() {
    on_host(
        |_| {},
        |rig| async move {
            ip("link add pouch0 type bridge");
            ip("addr add 172.30.0.1/16 dev pouch0");
            let before = census();
            let error = rig::try_open(&rig.dir, |_| {}).await.unwrap_err();
            assert!(matches!(&error, NetworkError::NotOurs { name, .. } if name == "pouch0"));
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let request = rig.request("aa", vec![]);
            Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
            assert!(matches!(
                rig.networks.attach(request).await,
                Err(NetworkError::NotOurs { .. })
            ));
            rig.networks.remove_all().await.unwrap();
            assert!(census().contains("pouch0"), "{before}");
            ip("link del pouch0");

            let taken = |config: &mut pouch_network::NetworkConfig| {
                config.subnet = Some("10.99.0.0/16".parse().unwrap());
            };
            assert!(matches!(
                rig::try_open(&rig.dir, taken).await,
                Err(NetworkError::SubnetInUse { .. })
            ));
            ip("route add 172.30.4.0/24 via 10.99.0.2");
            let moved = rig::open(&rig.dir, |_| {}).await;
            let (subnet, _) = moved.inspect("bridge").await.unwrap().ipam.unwrap();
            assert_eq!(subnet.to_string(), "172.29.0.0/16", "the first pool that is free now");
        },
    );
}

#[test]
fn the_administrators_chain_comes_first_and_survives() {
    on_host(
        |_| {},
        |rig| async move {
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            serve(listen(&a.netns, 80));
            assert!(asks(&rig.neighbour, HOST, 8080).is_ok());
            run(
                "nft",
                &["add", "rule", "inet", "pouch", "pouch-user", "ip", "saddr", "10.99.0.2", "drop"],
            );
            assert!(refused(&rig.neighbour, HOST, 8080));
            rig.networks.reapply().await.unwrap();
            assert!(refused(&rig.neighbour, HOST, 8080));

            rig.networks.remove_all().await.unwrap();
            let rules = run("nft", &["list", "ruleset"]);
            assert!(rules.contains("10.99.0.2 drop"), "{rules}");
            assert!(!rules.contains("hook") && !rules.contains("map"), "{rules}");
            assert!(!census().contains("pouch0:"));
            run("nft", &["flush", "chain", "inet", "pouch", "pouch-user"]);
            rig.networks.remove_all().await.unwrap();
            assert_eq!(run("nft", &["list", "ruleset"]), "");
        },
    );
}

#[test]
fn a_restart_finds_mends_and_sweeps() {
    on_host(
        |_| {},
        |rig| async move {
            let before = census();
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            let b = rig.container("bb", vec![binding(80, Protocol::Tcp, None, 8081)]).await;
            let c = rig.container("cc", vec![]).await;
            serve(listen(&a.netns, 80));
            let standing = ip("-o link show").lines().count();
            // What a daemon finds that was away while things happened: b died, c lost its interface,
            // somebody flushed the rules, an interface of ours belongs to nobody.
            inside(&c.netns, || ip("link del eth0"));
            run("nft", &["flush", "ruleset"]);
            ip("link add pvdeadbeef0000 type veth peer name pvpeer");
            ip("link set pvdeadbeef0000 master pouch0");
            let rig::Rig { dir, networks, neighbour } = rig;
            drop(networks);
            drop(neighbour);
            // Descriptors close when the last clone goes, and tasks end a moment after their answer.
            tokio::task::yield_now().await;
            let networks = rig::open(&dir, |_| {}).await;
            let live = [&a, &c].map(|c| LiveContainer {
                id: c.id.clone(),
                netns: Some(c.netns.path().to_owned()),
            });
            let done = networks.reconcile(live.to_vec()).await.unwrap();
            assert_eq!(done.kept, std::slice::from_ref(&a.id));
            assert_eq!(done.repaired, std::slice::from_ref(&c.id));
            assert_eq!(done.released, std::slice::from_ref(&b.id));
            assert!(done.failed.is_empty(), "{:?}", done.failed);
            assert!(done.stray_links.contains(&"pvdeadbeef0000".to_owned()));
            assert_eq!(ip("-o link show").lines().count(), standing - 1);

            assert!(host_asks(LOOPBACK, 8080).is_ok());
            assert!(ping(&c.netns, a.address()));
            assert!(TcpListener::bind("0.0.0.0:8080").is_err(), "reserved again");
            assert!(becomes_free(|| TcpListener::bind(("0.0.0.0", 8081))));
            let map = run("nft", &["list", "map", "inet", "pouch", "ports-any"]);
            assert!(map.contains("8080") && !map.contains("8081"), "{map}");

            networks.detach(&a.id).await.unwrap();
            networks.detach(&c.id).await.unwrap();
            networks.close_unused().await.unwrap();
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn flushed_rules_come_back_with_the_next_publication() {
    on_host(
        |_| {},
        |rig| async move {
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            serve(listen(&a.netns, 80));
            run("nft", &["flush", "ruleset"]);
            assert!(host_asks(LOOPBACK, 8080).is_err());
            let b = rig.container("bb", vec![binding(80, Protocol::Tcp, None, 8081)]).await;
            assert!(host_asks(LOOPBACK, 8080).is_ok());
            run("nft", &["flush", "ruleset"]);
            rig.gone(b).await;
            assert!(host_asks(LOOPBACK, 8080).is_ok());
        },
    );
}

/// SEC-52: deleted rules are back within two seconds.
#[test]
fn a_watched_ruleset_comes_back() {
    on_host(
        |_| {},
        |rig| async move {
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            let standing = census();
            let networks = rig.networks.clone();
            let watch = tokio::spawn(async move { networks.watch().await });
            tokio::time::sleep(Duration::from_millis(50)).await;
            for _ in 0..2 {
                run("nft", &["flush", "ruleset"]);
                assert_ne!(census(), standing);
                let flushed = Instant::now();
                while census() != standing {
                    assert!(flushed.elapsed() < Duration::from_secs(2));
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            rig.gone(a).await;
            rig.networks.close_unused().await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(!census().contains("table"), "our own removal is no reason to install again");
            watch.abort();
        },
    );
}

/// A client that never pauses follows the port from nobody to one container and to the next.
#[test]
fn udp_flows_follow_the_publication() {
    on_host(
        |_| {},
        |rig| async move {
            let keep = rig.container("keep", vec![]).await;
            let client = inside(&rig.neighbour, || UdpSocket::bind("0.0.0.0:40000").unwrap());
            client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let ask = || {
                let mut buffer = [0; 64];
                let _ = client.send_to(b"x", (HOST, 5353));
                client.recv_from(&mut buffer).is_ok()
            };
            assert!(!ask());
            let publish = || vec![binding(53, Protocol::Udp, None, 5353)];
            for name in ["aa", "bb"] {
                let container = rig.container(name, publish()).await;
                serve_udp(&container.netns, 53);
                assert!(ask(), "{name}");
                rig.gone(container).await;
                assert!(!ask(), "after {name}");
            }
            rig.gone(keep).await;
        },
    );
}

#[test]
fn a_thousand_ports_are_one_change() {
    on_host(
        |_| {},
        |rig| async move {
            let ports =
                (0..1000).map(|n| binding(1000 + n, Protocol::Tcp, None, 20000 + n)).collect();
            let start = Instant::now();
            let a = rig.container("aa", ports).await;
            println!("attach with 1000 ports: {:?}", start.elapsed());
            serve(listen(&a.netns, 1999));
            assert!(host_asks(LOOPBACK, 20999).is_ok());
            let rules = run("nft", &["-j", "list", "table", "inet", "pouch"]);
            assert!(rules.matches("\"rule\"").count() < 30);
            let start = Instant::now();
            rig.gone(a).await;
            println!("detach with 1000 ports: {:?}", start.elapsed());
            let map = run("nft", &["list", "map", "inet", "pouch", "ports-any"]);
            assert!(!map.contains("elements"), "{map}");
        },
    );
}

#[test]
fn daemons_with_different_bridges_do_not_meet() {
    on_host(
        |_| {},
        |rig| async move {
            let second = |config: &mut pouch_network::NetworkConfig| {
                config.bridge = "pouch1".into();
                config.state_dir = config.state_dir.join("second");
            };
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            fs::create_dir(rig.dir.join("second")).unwrap();
            let other = rig::Rig {
                networks: rig::open(&rig.dir.join("second"), second).await,
                dir: rig.dir.clone(),
                neighbour: Netns::open(rig.neighbour.path()).unwrap(),
            };
            let (subnet, _) = other.networks.inspect("bridge").await.unwrap().ipam.unwrap();
            assert_eq!(subnet.to_string(), "172.29.0.0/16");
            let request = other.request("taken", vec![binding(80, Protocol::Tcp, None, 8080)]);
            Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
            let error = other.networks.attach(request).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let b = other.container("bb", vec![]).await;

            serve(listen(&a.netns, 80));
            serve(listen(&rig.neighbour, 80));
            assert!(refused(&b.netns, a.address(), 80), "from bridge to bridge");
            assert!(asks(&b.netns, HOST, 8080).is_ok(), "published");
            rig.gone(a).await;
            rig.networks.close_unused().await.unwrap();
            assert!(asks(&b.netns, NEIGHBOUR, 80).is_ok(), "the first took only its own down");
            other.gone(b).await;
            other.networks.close_unused().await.unwrap();
            let left = census();
            assert!(!left.contains("pouch"), "{left}");
        },
    );
}

#[test]
fn a_reboot_frees_the_subnet() {
    on_host(
        |_| {},
        |rig| async move {
            let a = rig.container("aa", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            let rig::Rig { dir, networks, neighbour } = rig;
            drop(networks);
            // What a boot leaves of it: the records.
            pouch_netns::remove(a.netns.path()).unwrap();
            ip("link del pouch0");
            run("nft", &["flush", "ruleset"]);
            fs::remove_dir_all(dir.join("state")).unwrap();
            ip("route add 172.30.0.0/16 via 10.99.0.2");
            let networks = rig::open(&dir, |_| {}).await;
            let done = networks.reconcile(Vec::new()).await.unwrap();
            assert_eq!(done.released, std::slice::from_ref(&a.id));
            let rig = rig::Rig { dir, networks, neighbour };
            let b = rig.container("bb", vec![binding(80, Protocol::Tcp, None, 8080)]).await;
            assert_eq!(b.address(), Ipv4Addr::new(172, 29, 0, 2));
            rig.gone(b).await;
        },
    );
}

#[test]
fn many_at_once_share_nothing() {
    on_host(
        |_| {},
        |rig| async move {
            let requests: Vec<_> = (0..20)
                .map(|n| {
                    let request =
                        rig.request(&format!("c{n:02}"), vec![binding(80, Protocol::Tcp, None, 0)]);
                    Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
                    request
                })
                .collect();
            let mut tasks = tokio::task::JoinSet::new();
            for request in requests.clone() {
                let networks = rig.networks.clone();
                tasks.spawn(async move { networks.attach(request).await.unwrap() });
            }
            let endpoints = tasks.join_all().await;
            let addresses: HashSet<_> = endpoints.iter().map(|e| e.ipv4.unwrap().address).collect();
            let ports: HashSet<_> = endpoints.iter().map(|e| e.ports[0].host_port).collect();
            assert_eq!((addresses.len(), ports.len()), (20, 20));

            let mut tasks = tokio::task::JoinSet::new();
            for n in 0..4 {
                let request =
                    rig.request(&format!("d{n}"), vec![binding(80, Protocol::Tcp, None, 8080)]);
                Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
                let networks = rig.networks.clone();
                tasks.spawn(async move { networks.attach(request).await });
            }
            let won = tasks.join_all().await.into_iter().filter(Result::is_ok).count();
            assert_eq!(won, 1);
        },
    );
}

#[test]
fn an_abandoned_attachment_is_whole_or_nothing() {
    on_host(
        |_| {},
        |rig| async move {
            let before = census();
            for micros in [0, 300, 1000, 3000, 10_000] {
                let mut request = rig.request("aa", vec![binding(80, Protocol::Tcp, None, 8080)]);
                let path = rig.dir.join(format!("netns/n{micros}"));
                request.netns = Some(path.clone());
                drop(Netns::create(&path, Ipv6::Disabled).unwrap());
                let id = request.container.clone();
                let patience = Duration::from_micros(micros);
                let _ = tokio::time::timeout(patience, rig.networks.attach(request)).await;
                // The attachment goes on by itself; it is undone once it is there.
                let begun = Instant::now();
                while rig.networks.endpoints(&id).await.unwrap().is_empty()
                    || !run("nft", &["list", "ruleset"]).contains("8080")
                {
                    assert!(begun.elapsed() < Duration::from_secs(10), "it did not go on");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                rig.networks.detach(&id).await.unwrap();
                pouch_netns::remove(&path).unwrap();
            }
            rig.networks.close_unused().await.unwrap();
            assert_eq!(census(), before);
        },
    );
}

#[test]
fn exposed_ports_get_free_host_ports() {
    on_host(
        |_| {},
        |rig| async move {
            let mut request = rig.request("aa", vec![binding(80, Protocol::Tcp, None, 8080)]);
            let port = |number| Port { number, protocol: Protocol::Tcp };
            request.publish_exposed = vec![port(80), port(443)];
            Netns::create(request.netns.as_ref().unwrap(), Ipv6::Disabled).unwrap();
            let endpoint = rig.networks.attach(request).await.unwrap();
            let containers: Vec<_> = endpoint.ports.iter().map(|p| p.container.number).collect();
            assert_eq!(containers, [80, 443]);
            assert_ne!(endpoint.ports[1].host_port, 443);
        },
    );
}

#[test]
fn a_hundred_rounds_leave_nothing() {
    const ROUNDS: u32 = 100;
    on_host(
        |_| {},
        |rig| async move {
            let first = rig.container("first", vec![]).await;
            let before = census();
            let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
            let (mut attach, mut detach) = (Vec::new(), Vec::new());
            let mut fds = 0;
            for round in 0..ROUNDS {
                let request = rig.request("round", vec![]);
                let path = request.netns.clone().unwrap();
                drop(Netns::create(&path, Ipv6::Disabled).unwrap());
                let id: ContainerId = request.container.clone();
                let start = Instant::now();
                rig.networks.attach(request).await.unwrap();
                attach.push(start.elapsed());
                let start = Instant::now();
                rig.networks.detach(&id).await.unwrap();
                detach.push(start.elapsed());
                // What trails is the kernel's time, and would count as the next attachment's.
                rig.networks.settle().await;
                pouch_netns::remove(&path).unwrap();
                if round == 0 {
                    fds = descriptors();
                }
            }
            attach.sort();
            detach.sort();
            println!(
                "attach: median {:?}, slowest {:?}; detach: median {:?}, slowest {:?}",
                attach[50], attach[99], detach[50], detach[99]
            );
            assert_eq!(census(), before);
            // Other tests of this binary run beside this one.
            assert!(descriptors() < fds + 60, "descriptors leak");
            rig.gone(first).await;
        },
    );
}
