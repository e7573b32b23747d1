//! The native way: what pods reach, what is left, and what other programs make of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use pouch_cni::{Attachment, CniConfig, CniError, NativeUse, PortMapping, ValidAttachment, Way};
use pouch_types::spec::Protocol;
use pouch_types::{Classified, ErrorKind};
use serde_json::json;

use crate::rig::{
    HOST, NEIGHBOUR, Node, address, asks, host_asks, inside, ip, links, listen, on_node, ping,
    refused, run, serve, serve_udp, udp_exchange, view,
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 22, 0, 1);

/// The native way, and no plugin that anybody could fall back to.
async fn alone(node: &Node) -> pouch_cni::Cni {
    let config = CniConfig { bin_dirs: vec![node.dir.join("bin")], ..node.config() };
    pouch_cni::Cni::open(config).await.unwrap()
}

fn rules() -> String {
    run("nft", &["list", "ruleset"])
}

#[test]
fn pods_reach_each_other_the_host_and_the_outside() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let cni = alone(&node).await;
        let status = cni.status().await.unwrap();
        assert_eq!((status.network.as_str(), status.way), ("net", Way::Native));
        let before = (links(), rules());
        let (a, b) = (node.pod("a"), node.pod("b"));
        inside(&a.netns, || ip("link set lo down"));
        let (first, second) = (a.add(&cni).await.unwrap(), b.add(&cni).await.unwrap());
        assert_eq!(address(&first), Ipv4Addr::new(10, 22, 0, 2));
        assert_eq!(first.interfaces.len(), 3);
        assert_eq!(first.interfaces[2].sandbox, a.netns.path().display().to_string());
        let bridge = ip("-o link show cni0");
        assert!(bridge.contains(&first.interfaces[0].mac), "{bridge}");
        assert!(inside(&a.netns, || ip("link show lo")).contains("LOWER_UP"));

        assert!(ping(&a.netns, address(&second)), "to the other pod");
        assert!(ping(&a.netns, GATEWAY), "to the host");
        assert!(ping(&a.netns, HOST), "to the host by its other address");
        serve(listen(&node.neighbour, 80));
        assert_eq!(asks(&a.netns, NEIGHBOUR, 80).unwrap(), HOST.to_string(), "masqueraded");
        serve(listen(&b.netns, 80));
        let seen = asks(&a.netns, address(&second), 80).unwrap();
        assert_eq!(seen, address(&first).to_string(), "not among pods");
        cni.check(&a.attachment).await.unwrap();

        assert_eq!(node.reserved("net"), ["10.22.0.2", "10.22.0.3"]);
        for pod in [&a, &b] {
            cni.del(&pod.attachment).await.unwrap();
            cni.del(&pod.attachment).await.unwrap();
        }
        assert!(node.reserved("net").is_empty());
        assert!(!ping(&a.netns, GATEWAY), "cut off at once");
        cni.settle().await.unwrap();
        assert!(!inside(&a.netns, || ip("-o link show")).contains("eth0"));
        cni.close_unused().await.unwrap();
        ip("link del cni0");
        assert_eq!((links(), rules()), before, "nothing else is left");
        assert_eq!(fs::read_dir(node.dir.join("state/attachments")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(node.dir.join("cache/results")).unwrap().count(), 0);
    });
}

#[test]
fn published_ports_are_reached_from_everywhere_and_only_there() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let cni = alone(&node).await;
        let mut a = node.pod("a").publish(8080, 80).publish(0, 85);
        let port = |host_port, container_port, protocol, host_ip: Option<&str>| PortMapping {
            host_port,
            container_port,
            protocol,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        a.attachment.port_mappings.extend([
            port(8081, 81, Protocol::Tcp, Some("10.99.0.1")),
            port(8082, 82, Protocol::Tcp, Some("127.0.0.1")),
            port(8083, 83, Protocol::Tcp, Some("0.0.0.0")),
            port(8084, 84, Protocol::Tcp, Some("::1")),
            port(5353, 53, Protocol::Udp, None),
            port(9999, 99, Protocol::Sctp, None),
        ]);
        let b = node.pod("b");
        let (first, _) = (a.add(&cni).await.unwrap(), b.add(&cni).await.unwrap());
        for port in [80, 81, 82, 83, 84] {
            serve(listen(&a.netns, port));
        }
        serve_udp(&a.netns, 53);

        assert_eq!(host_asks(LOOPBACK, 8080).unwrap(), GATEWAY.to_string());
        assert!(host_asks(HOST, 8080).is_ok() && host_asks(GATEWAY, 8080).is_ok());
        let seen = asks(&node.neighbour, HOST, 8080).unwrap();
        assert_eq!(seen, NEIGHBOUR.to_string(), "the real source");
        for to in [HOST, GATEWAY] {
            assert!(asks(&b.netns, to, 8080).is_ok(), "another pod through {to}");
            assert!(asks(&a.netns, to, 8080).is_ok(), "hairpin through {to}");
        }
        assert!(asks(&node.neighbour, HOST, 8083).is_ok(), "0.0.0.0 is all");
        assert!(asks(&node.neighbour, HOST, 8081).is_ok());
        assert!(host_asks(LOOPBACK, 8081).is_err(), "on another address only");
        assert!(host_asks(LOOPBACK, 8082).is_ok());
        assert!(refused(&node.neighbour, HOST, 8082), "on loopback only");
        assert!(host_asks(LOOPBACK, 8084).is_err(), "of the other family");
        assert!(udp_exchange(LOOPBACK, 5353).is_ok());
        let seen = inside(&node.neighbour, || udp_exchange(HOST, 5353)).unwrap();
        assert_eq!(seen, NEIGHBOUR.to_string());
        assert!(rules().contains("sctp . 9999"));
        // A pod's forgery (CVE-2020-8558).
        inside(&b.netns, || fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
        assert!(refused(&b.netns, LOOPBACK, 8080));
        cni.check(&a.attachment).await.unwrap();

        let c = node.pod("c").publish(8080, 80);
        let error = c.add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("8080/tcp"), "{error}");
        assert!(host_asks(LOOPBACK, 8080).is_ok(), "the first keeps it");
        assert_eq!(node.reserved("net").len(), 2, "the other left nothing");
        assert_eq!(address(&first), Ipv4Addr::new(10, 22, 0, 2));

        cni.del(&a.attachment).await.unwrap();
        assert!(host_asks(LOOPBACK, 8080).is_err());
        assert!(!rules().contains("8080"), "{}", rules());
        let later = c.add(&cni).await.unwrap();
        serve(listen(&c.netns, 80));
        assert!(host_asks(LOOPBACK, 8080).is_ok());
        assert_ne!(address(&later), address(&first), "an address comes back late");
    });
}

#[test]
fn a_daemon_that_restarts_finds_what_it_made_and_a_flush_is_mended() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b"));
        alone(&node).await.add(&a.attachment).await.unwrap();
        serve(listen(&a.netns, 80));
        let cni = alone(&node).await;
        assert!(host_asks(LOOPBACK, 8080).is_ok());
        cni.check(&a.attachment).await.unwrap();
        assert_eq!(a.add(&cni).await.unwrap_err().kind(), ErrorKind::AlreadyExists);

        b.add(&cni).await.unwrap();
        run("nft", &["flush", "ruleset"]);
        assert!(host_asks(LOOPBACK, 8080).is_err());
        let error = cni.check(&a.attachment).await.unwrap_err();
        assert!(matches!(error, CniError::Differs { .. }), "{error}");
        cni.del(&b.attachment).await.unwrap();
        b.add(&cni).await.unwrap();
        assert!(host_asks(LOOPBACK, 8080).is_ok(), "everybody's, with the next pod");
        cni.check(&a.attachment).await.unwrap();

        run("nft", &["flush", "ruleset"]);
        drop(cni);
        let cni = alone(&node).await;
        let mut tries = 0;
        while host_asks(LOOPBACK, 8080).is_err() {
            tries += 1;
            assert!(tries < 100, "by the next daemon, at its start");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        drop(cni);
        fs::remove_dir_all(node.dir.join("cache")).unwrap();
        fs::remove_file(node.dir.join("net.d/net.conflist")).unwrap();
        pouch_netns::remove(a.netns.path()).unwrap();
        let cni = alone(&node).await;
        cni.del(&a.attachment).await.unwrap();
        assert_eq!(node.reserved("net").len(), 1);
        assert!(!rules().contains("8080"));
    });
}

#[test]
fn a_pair_that_was_cut_off_is_removed_a_moment_later_or_when_it_is_in_the_way() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let pairs = || links().iter().filter(|name| name.starts_with("veth")).count();
        let gone = async || {
            for _ in 0..500 {
                if pairs() == 0 {
                    return true;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            false
        };
        let (a, b) = (node.pod("a"), node.pod("b"));
        let cni = alone(&node).await;
        a.add(&cni).await.unwrap();
        cni.del(&a.attachment).await.unwrap();
        a.add(&cni).await.unwrap();
        assert_eq!(pairs(), 1, "the same pod again");
        cni.del(&a.attachment).await.unwrap();
        let same_namespace = Attachment { id: "c".into(), ..a.attachment.clone() };
        cni.add(&same_namespace).await.unwrap();
        assert!(ping(&a.netns, GATEWAY), "another in its namespace");
        cni.del(&same_namespace).await.unwrap();
        assert!(gone().await, "by itself");

        b.add(&cni).await.unwrap();
        cni.del(&b.attachment).await.unwrap();
        drop(cni);
        let cni = alone(&node).await;
        assert!(gone().await, "by the next daemon");
        cni.settle().await.unwrap();
        assert_eq!(fs::read_dir(node.dir.join("state/attachments")).unwrap().count(), 0);
    });
}

#[test]
fn a_full_range_is_told_and_leaves_nothing() {
    on_node(|node| async move {
        let ranges = json!([[{"subnet": "10.22.0.0/29", "rangeStart": "10.22.0.4"}]]);
        node.usual("net", &[("ipam.ranges", ranges)]);
        let cni = alone(&node).await;
        let mut pods = Vec::new();
        for id in ["a", "b", "c"] {
            let pod = node.pod(id);
            pod.add(&cni).await.unwrap();
            pods.push(pod);
        }
        let late = node.pod("late");
        let before = links();
        let error = late.add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
        assert!(error.to_string().contains("10.22.0.4-10.22.0.6"), "{error}");
        cni.settle().await.unwrap();
        assert_eq!(links(), before);
        cni.del(&pods[1].attachment).await.unwrap();
        let added = late.add(&cni).await.unwrap();
        assert_eq!(address(&added), Ipv4Addr::new(10, 22, 0, 5));
    });
}

#[test]
fn two_families_are_made_at_once() {
    on_node(|node| async move {
        for of in ["all", "default"] {
            fs::write(format!("/proc/sys/net/ipv6/conf/{of}/disable_ipv6"), "0").unwrap();
        }
        let ranges = json!([[{"subnet": "10.22.0.0/16"}], [{"subnet": "fd00:22::/64"}]]);
        let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
        node.usual("net", &[("ipam.ranges", ranges), ("ipam.routes", routes)]);
        let cni = alone(&node).await;
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b"));
        let (first, second) = (a.add(&cni).await.unwrap(), b.add(&cni).await.unwrap());
        let v6: Vec<IpAddr> = second.pod_ips().filter(IpAddr::is_ipv6).collect();
        let target = v6[0].to_string();
        let reached = inside(&a.netns, move || {
            let ping = std::process::Command::new("busybox")
                .args(["ping", "-6", "-c", "1", "-W", "3", &target])
                .output();
            ping.is_ok_and(|o| o.status.success())
        });
        assert!(reached, "{v6:?}");
        assert_eq!(first.ips[1].gateway.unwrap().to_string(), "fd00:22::1");
        cni.check(&a.attachment).await.unwrap();
        let listener = inside(&a.netns, || std::net::TcpListener::bind("[::]:80").unwrap());
        serve(listener);
        let own: std::net::SocketAddr = "[fd00:22::1]:8080".parse().unwrap();
        let patience = std::time::Duration::from_secs(3);
        let connect = move || std::net::TcpStream::connect_timeout(&own, patience).is_ok();
        assert!(inside(&b.netns, connect), "another pod through the host");
        assert!(host_asks(LOOPBACK, 8080).is_ok());
        cni.del(&a.attachment).await.unwrap();
        assert!(!inside(&b.netns, connect));
        assert_eq!(node.reserved("net"), ["10.22.0.3", "fd00:22::3"]);
    });
}

#[test]
fn what_another_program_detached_makes_room() {
    on_node(|node| async move {
        let ranges = json!([[{"subnet": "10.22.0.0/30"}]]);
        node.usual("net", &[("ipam.ranges", ranges)]);
        let cni = alone(&node).await;
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b").publish(8080, 80));
        a.add(&cni).await.unwrap();
        // As the plugins' DEL: interface, reservation and cache go, our elements do not.
        inside(&a.netns, || ip("link del eth0"));
        fs::remove_file(node.dir.join("ipam/net/10.22.0.2")).unwrap();
        fs::remove_file(node.dir.join("cache/results/net-a-eth0")).unwrap();
        let added = b.add(&cni).await.unwrap();
        assert_eq!(address(&added), Ipv4Addr::new(10, 22, 0, 2), "the same address");
        serve(listen(&b.netns, 80));
        assert!(host_asks(LOOPBACK, 8080).is_ok(), "and the same port");
        cni.del(&a.attachment).await.unwrap();
        assert!(host_asks(LOOPBACK, 8080).is_ok(), "the late DEL hits nobody else");
        cni.check(&b.attachment).await.unwrap();
    });
}

#[test]
fn what_a_crash_left_half_made_is_undone_by_the_next_add_or_del() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let cni = alone(&node).await;
        let a = node.pod("a");
        a.add(&cni).await.unwrap();
        drop(cni);
        // As if the crash had come after the reservation, before the record told of it.
        let path = node.dir.join("state/attachments/a+eth0+net");
        let mut record: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["how"]["native"]["addresses"] = json!([]);
        fs::write(&path, record.to_string()).unwrap();
        fs::remove_file(node.dir.join("cache/results/net-a-eth0")).unwrap();
        let cni = alone(&node).await;
        let added = a.add(&cni).await.unwrap();
        assert_eq!(node.reserved("net"), [address(&added).to_string()]);
        assert!(ping(&a.netns, GATEWAY));
        cni.del(&a.attachment).await.unwrap();
        assert!(node.reserved("net").is_empty());
    });
}

#[test]
fn an_address_whose_reservation_was_lost_is_not_given_twice() {
    on_node(|node| async move {
        let ranges = json!([[{"subnet": "10.22.0.0/29"}]]);
        node.usual("net", &[("ipam.ranges", ranges)]);
        let cni = alone(&node).await;
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b"));
        a.add(&cni).await.unwrap();
        fs::remove_dir_all(node.dir.join("ipam")).unwrap();
        let added = b.add(&cni).await.unwrap();
        assert_eq!(address(&added), Ipv4Addr::new(10, 22, 0, 3));
        assert!(ping(&a.netns, address(&added)));
        let error = node.pod("c").publish(8080, 80).add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "nor is its port: {error}");
    });
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let cni = alone(&node).await;
        let a = node.pod("a");
        inside(&a.netns, || ip("link add eth0 type veth peer name other"));
        let before = links();
        let error = a.add(&cni).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
        assert!(node.reserved("net").is_empty());
        assert!(inside(&a.netns, || ip("link show eth0")).contains("eth0"), "not ours");
        assert_eq!(
            links().into_iter().filter(|l| l != "cni0").collect::<Vec<_>>(),
            before,
            "the bridge may stay"
        );

        let gone = Attachment { netns: "/nowhere".into(), id: "b".into(), ..a.attachment.clone() };
        assert_eq!(cni.add(&gone).await.unwrap_err().kind(), ErrorKind::NotFound);
        cni.del(&gone).await.unwrap();
        ip("addr add 10.50.0.1/24 dev cni0");
        let b = node.pod("c");
        let error = b.add(&cni).await.unwrap_err();
        cni.settle().await.unwrap();
        let text = pouch_types::error::chain(&error);
        assert!(text.contains("10.50.0.1/24"), "{text}");
        assert!(!inside(&b.netns, || ip("-o link show")).contains("eth0"));
        node.usual("net", &[("forceAddress", json!(true))]);
        b.add(&cni).await.unwrap();
        let bridge = ip("-o addr show dev cni0");
        assert!(bridge.contains("10.22.0.1/16") && !bridge.contains("10.50"), "{bridge}");
    });
}

#[test]
fn collecting_gives_back_what_belongs_to_nobody() {
    on_node(|node| async move {
        node.network("net", "1.1.0", &json!([node.bridge(&[])]));
        let cni = alone(&node).await;
        let (a, b) = (node.pod("a"), node.pod("b"));
        a.add(&cni).await.unwrap();
        b.add(&cni).await.unwrap();
        // What a power failure left.
        fs::write(node.dir.join("ipam/net/10.22.0.9"), "ghost\r\neth0").unwrap();
        let keep = ValidAttachment { id: "b".into(), ifname: "eth0".into() };
        cni.gc(&[keep]).await.unwrap();
        assert_eq!(node.reserved("net"), ["10.22.0.3"]);
        cni.settle().await.unwrap();
        assert!(!inside(&a.netns, || ip("-o link show")).contains("eth0"));
        cni.check(&b.attachment).await.unwrap();
    });
}

#[test]
fn addresses_and_mac_addresses_can_be_asked_for() {
    on_node(|node| async move {
        let takes = json!({"ips": true, "mac": true});
        node.usual(
            "net",
            &[
                ("capabilities", takes),
                ("isDefaultGateway", json!(true)),
                ("ipam.routes", json!([{"dst": "10.77.0.0/16", "gw": "10.22.0.9"}])),
            ],
        );
        let cni = alone(&node).await;
        let mut a = node.pod("a");
        a.attachment.capabilities = [
            ("ips".to_owned(), json!(["10.22.5.5"])),
            ("mac".to_owned(), json!("02:00:00:00:00:55")),
        ]
        .into();
        let added = a.add(&cni).await.unwrap();
        assert_eq!(address(&added), Ipv4Addr::new(10, 22, 5, 5));
        assert_eq!(added.interfaces[2].mac, "02:00:00:00:00:55");
        let (_, routes) = view(&a.netns);
        assert!(routes.contains(&"default via 10.22.0.1 dev eth0".to_owned()), "{routes:?}");
        assert!(routes.contains(&"10.77.0.0/16 via 10.22.0.9 dev eth0".to_owned()), "{routes:?}");
        let mut b = node.pod("b");
        b.attachment.capabilities = a.attachment.capabilities.clone();
        assert_eq!(b.add(&cni).await.unwrap_err().kind(), ErrorKind::Conflict);
    });
}

#[test]
fn many_pods_come_and_go_at_once() {
    on_node(|node| async move {
        node.usual("net", &[]);
        let cni = alone(&node).await;
        let before = links();
        let pods: Vec<_> =
            (0..30u16).map(|n| node.pod(&format!("p{n}")).publish(9000 + n, 80)).collect();
        let tasks: Vec<_> = pods
            .iter()
            .map(|pod| {
                let (cni, attachment) = (cni.clone(), pod.attachment.clone());
                tokio::spawn(async move { cni.add(&attachment).await })
            })
            .collect();
        let mut addresses = Vec::new();
        for task in tasks {
            addresses.push(address(&task.await.unwrap().unwrap()));
        }
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 30);
        for pod in &pods {
            cni.check(&pod.attachment).await.unwrap();
        }
        let tasks: Vec<_> = pods
            .iter()
            .map(|pod| {
                let (cni, attachment) = (cni.clone(), pod.attachment.clone());
                tokio::spawn(async move { cni.del(&attachment).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!(node.reserved("net").is_empty());
        cni.settle().await.unwrap();
        ip("link del cni0");
        assert_eq!(links(), before);
        assert!(!rules().contains("elements = { tcp"), "{}", rules());
    });
}

#[test]
fn a_list_that_is_not_wholly_understood_is_not_guessed_at() {
    on_node(|node| async move {
        node.usual("net", &[("vlan", json!(5))]);
        let cni = alone(&node).await;
        let error = cni.status().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(node.pod("a").add(&cni).await.is_err());
        node.usual("net", &[]);
        assert_eq!(cni.status().await.unwrap().way, Way::Native);
        let executed = pouch_cni::Cni::open(CniConfig {
            native: NativeUse::No,
            bin_dirs: vec![node.dir.join("bin")],
            ..node.config()
        });
        assert!(executed.await.unwrap().status().await.is_err());
    });
}
