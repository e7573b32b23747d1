//! The real plugins: executed, beside the native way, and in turn with it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use pouch_cni::{
    Bandwidth, Cni, CniConfig, CniError, NativeUse, PluginFailure, ValidAttachment, Way,
};
use serde_json::{Value, json};

use crate::rig::{
    HOST, NEIGHBOUR, NEWER, Node, Pod, address, asks, host_asks, inside, ip, listen, on_node, ping,
    portmap, run, serve, view, with_plugins,
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Everything that tells one way from the other, without what is random.
#[derive(Debug, PartialEq)]
struct Seen {
    result: Value,
    pods: Vec<(Vec<String>, Vec<String>)>,
    sysctls: Vec<String>,
    bridge: Vec<String>,
    ports: Vec<String>,
    reservations: Vec<(String, String)>,
    cache: Value,
    reached: Vec<(&'static str, bool)>,
    sources: Vec<String>,
    left: Vec<String>,
    full: (bool, usize),
}

/// Names of host ends and Ethernet addresses made alike; paths of this node too.
fn alike(text: &str, node: &Node) -> String {
    let text = text.replace(&node.dir.display().to_string(), "DIR");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(c) = rest.chars().next() {
        let hex = |s: &str, n: usize| {
            s.get(..n).is_some_and(|s| s.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        let mac = rest.get(..17).is_some_and(|mac| {
            mac.split(':').count() == 6
                && mac.split(':').all(|byte| hex(byte, 2) && byte.len() == 2)
        });
        if rest.starts_with("veth") && hex(&rest[4..], 8) {
            out.push_str("VETH");
            rest = &rest[12..];
        } else if mac {
            out.push_str("MAC");
            rest = &rest[17..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// Go writes an empty `dns`, or leaves it out, as the version of its library has it.
fn without_empty_dns(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value
        && fields.get("dns") == Some(&json!({}))
    {
        fields.remove("dns");
    }
    value
}

fn sysctls(names: &[&str]) -> Vec<String> {
    let read = |name: &&str| fs::read_to_string(format!("/proc/sys/net/{name}"));
    names.iter().map(|name| format!("{name}={}", read(name).unwrap().trim())).collect()
}

/// The settings of bridge and ports that the two ways should agree in.
fn links_in_detail(node: &Node) -> (Vec<String>, Vec<String>) {
    let word = |text: &str, name: &str| {
        let mut words = text.split_whitespace().skip_while(|w| *w != name);
        format!("{name} {}", words.nth(1).unwrap_or("?"))
    };
    let detail =
        |line: &str, names: &[&str]| names.iter().map(|name| word(line, name)).collect::<Vec<_>>();
    let bridge = run("bash", &["-c", "ip -d link show dev cni0 | tr '\\n' ' '"]);
    let mut seen = detail(&bridge, &["mtu", "state", "promiscuity", "vlan_filtering"]);
    seen.push(alike(&ip("-o -4 addr show dev cni0"), node).split_off(3));
    let ports = run("bash", &["-c", "bridge -d link show"]);
    let names = ["mtu", "state", "hairpin", "isolated", "master", "learning"];
    let ports = ports.split("\n").collect::<Vec<_>>().join(" ");
    (seen, detail(&ports, &names))
}

async fn scenario(node: &Node, cni: &Cni, version: &str, changes: &[(&str, Value)]) -> Seen {
    node.network("net", version, &json!([node.bridge(changes), portmap()]));
    let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b"));
    let (first, second) = (a.add(cni).await.unwrap(), b.add(cni).await.unwrap());
    // The CHECK of Debian's portmap looks for chains of IPv6 where there is none, that of its bridge
    // for routes without a gateway, which it has added one to.
    if changes.is_empty() {
        cni.check(&b.attachment).await.unwrap();
    }
    serve(listen(&a.netns, 80));
    serve(listen(&node.neighbour, 81));
    let host = |pod: &Pod, to: Ipv4Addr| asks(&pod.netns, to, 8080).is_ok();
    let mut reached = vec![
        ("pod", ping(&b.netns, address(&first))),
        ("gateway", ping(&a.netns, [10, 22, 0, 1].into())),
        ("host", ping(&a.netns, HOST)),
        ("port on loopback", host_asks(LOOPBACK, 8080).is_ok()),
        ("port of the host", host_asks(HOST, 8080).is_ok()),
        ("port from outside", asks(&node.neighbour, HOST, 8080).is_ok()),
        ("port from another pod", host(&b, HOST)),
        ("own port", host(&a, HOST)),
    ];
    let sources = vec![
        format!("{:?}", asks(&a.netns, NEIGHBOUR, 81).ok()),
        format!("{:?}", asks(&node.neighbour, HOST, 8080).ok()),
    ];
    let (bridge, ports) = links_in_detail(node);
    let inner = inside(&a.netns, || sysctls(&["ipv4/conf/eth0/arp_notify"]));
    let outer = sysctls(&["ipv4/ip_forward", "ipv4/conf/cni0/route_localnet"]);
    let directory = node.dir.join("ipam/net");
    let mut reservations: Vec<_> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    reservations.sort();
    let cache = fs::read_to_string(node.dir.join("cache/results/net-a-eth0")).unwrap();
    let mut cache: Value = serde_json::from_str(&alike(&cache, node)).unwrap();
    cache["config"] = Value::Null;
    cache["result"] = without_empty_dns(cache["result"].take());
    let pods = vec![view(&a.netns), view(&b.netns)];
    let pods =
        pods.into_iter().map(|(x, y)| (x.iter().map(|l| alike(l, node)).collect(), y)).collect();
    assert_eq!(address(&second), Ipv4Addr::new(10, 22, 0, 3));

    // To the end of the range, where it is small.
    let (mut full, mut others) = (false, Vec::new());
    for id in ["c", "d", "e", "f", "g"] {
        let pod = node.pod(id);
        full |= pod.add(cni).await.is_err();
        others.push(pod);
    }
    let last = node.reserved("net").len();
    for pod in &others {
        cni.del(&pod.attachment).await.unwrap();
    }
    cni.del(&a.attachment).await.unwrap();
    cni.del(&a.attachment).await.unwrap();
    reached.push(("port after DEL", host_asks(LOOPBACK, 8080).is_ok()));
    pouch_netns::remove(b.netns.path()).unwrap();
    cni.del(&b.attachment).await.unwrap();
    Seen {
        result: without_empty_dns(
            serde_json::from_str(&alike(&first.raw.to_string(), node)).unwrap(),
        ),
        pods,
        sysctls: [inner, outer].concat(),
        bridge,
        ports,
        reservations,
        cache,
        reached,
        sources,
        left: node.reserved("net"),
        full: (full, last),
    }
}

fn compare(version: &'static str, changes: fn() -> Vec<(&'static str, Value)>) {
    use std::sync::mpsc::channel;
    let (sender, receiver) = channel();
    for native in [NativeUse::No, NativeUse::Yes] {
        let sender = sender.clone();
        with_plugins(move |node| async move {
            let cni = node.cni(native).await;
            sender.send(scenario(&node, &cni, version, &changes()).await).unwrap();
        });
    }
    drop(sender);
    let seen: Vec<_> = receiver.iter().collect();
    if let [executed, native] = &seen[..] {
        assert_eq!(native, executed);
        assert!(native.reached.iter().all(|(what, ok)| *ok != (*what == "port after DEL")));
        assert!(native.left.is_empty());
    }
}

#[test]
fn native_is_as_executed() {
    compare("1.0.0", Vec::new);
}

#[test]
fn native_is_as_executed_in_other_versions_and_settings() {
    compare("0.4.0", || {
        vec![
            ("isDefaultGateway", json!(true)),
            ("mtu", json!(1400)),
            (
                "ipam.routes",
                json!([{"dst": "10.77.0.0/16", "gw": "10.22.0.9"}, {"dst": "10.78.0.0/16"}]),
            ),
            ("dns", json!({"nameservers": ["10.22.0.1"], "search": ["x.example"]})),
        ]
    });
    compare("0.3.1", || {
        vec![(
            "ipam.ranges",
            json!([[{"subnet": "10.22.0.0/29", "gateway": "10.22.0.1", "rangeEnd": "10.22.0.5"}]]),
        )]
    });
}

#[test]
fn either_way_undoes_what_the_other_made() {
    with_plugins(|node| async move {
        node.usual("net", &[]);
        let state = |name: &str| CniConfig { state_dir: node.dir.join(name), ..node.config() };
        let native = Cni::open(state("state")).await.unwrap();
        // Another runtime, which knows the cache alone.
        let other = CniConfig { native: NativeUse::No, ..state("other") };
        let executed = Cni::open(other).await.unwrap();
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b").publish(8081, 80));

        a.add(&native).await.unwrap();
        if let Err(error) = executed.del(&a.attachment).await {
            // bridge 1.1 does everything and then misses its chain of iptables, once; the runtime
            // repeats a DEL that failed.
            assert!(pouch_types::error::chain(&error).contains("does not exist"), "{error}");
            executed.del(&a.attachment).await.unwrap();
        }
        assert!(node.reserved("net").is_empty());
        assert!(!inside(&a.netns, || ip("-o link show")).contains("eth0"));
        native.gc(&[]).await.unwrap();
        assert!(!run("nft", &["list", "table", "inet", "pouch_cni"]).contains("8080"));

        let rules = || run("iptables-save", &["-t", "nat"]);
        b.add(&executed).await.unwrap();
        assert!(rules().contains("8081"));
        native.del(&b.attachment).await.unwrap();
        assert!(node.reserved("net").is_empty());
        assert!(!rules().contains("8081"), "{}", rules());
        assert!(!inside(&b.netns, || ip("-o link show")).contains("eth0"));

        // In turn on one range.
        let pods: Vec<_> = (0..6).map(|n| node.pod(&format!("p{n}"))).collect();
        let mut addresses = Vec::new();
        for (n, pod) in pods.iter().enumerate() {
            let cni = if n % 2 == 0 { &native } else { &executed };
            addresses.push(address(&pod.add(cni).await.unwrap()).octets()[3]);
        }
        assert_eq!(addresses, [4, 5, 6, 7, 8, 9]);
        assert!(ping(&pods[0].netns, Ipv4Addr::new(10, 22, 0, 5)), "native to executed");
        for pod in &pods {
            native.del(&pod.attachment).await.unwrap();
        }
        assert!(node.reserved("net").is_empty());
    });
}

#[test]
fn other_kinds_of_networks_are_executed() {
    with_plugins(|node| async move {
        let ipam = json!({"type": "host-local", "dataDir": node.dir.join("ipam"),
            "subnet": "10.23.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]});
        let firewall = json!([node.bridge(&[]), {"type": "firewall"}, portmap()]);
        let ptp = json!([{"type": "ptp", "ipMasq": true, "ipam": ipam}]);
        let tuning = json!([node.bridge(&[]),
            {"type": "tuning", "sysctl": {"net.core.somaxconn": "333"}}]);
        for (name, plugins) in [("fire", firewall), ("point", ptp), ("tune", tuning)] {
            node.network(name, "1.0.0", &plugins);
            let cni = node.cni(NativeUse::Yes).await;
            let mut pod = node.pod(name);
            pod.attachment.network = Some(name.into());
            let added = pod.add(&cni).await.unwrap();
            assert!(ping(&pod.netns, HOST), "{name}");
            assert_eq!(added.pod_ips().count(), 1, "{name}");
            cni.check(&pod.attachment).await.unwrap();
            cni.del(&pod.attachment).await.unwrap();
            cni.del(&pod.attachment).await.unwrap();
            assert!(node.reserved(name).is_empty(), "{name}");
        }
    });
}

#[test]
fn who_asks_for_limits_gets_the_plugins_and_others_do_not() {
    with_plugins(|node| async move {
        ip("link add probe type veth peer name eborp");
        let tbf = [
            "qdisc", "add", "dev", "probe", "root", "tbf", "rate", "1mbit", "burst", "10k",
            "latency", "9ms",
        ];
        let able = Command::new("tc").args(tbf).output().is_ok_and(|o| o.status.success())
            && Command::new("ip")
                .args(["link", "add", "ifb9", "type", "ifb"])
                .status()
                .is_ok_and(|s| s.success());
        if !able {
            println!("skipped: this kernel has no tbf or no ifb");
            return;
        }
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        node.network("net", "1.0.0", &json!([node.bridge(&[]), portmap(), bandwidth]));
        let cni = node.cni(NativeUse::Yes).await;
        assert_eq!(cni.status().await.unwrap().way, Way::Native);
        let (mut a, b) = (node.pod("a").publish(8080, 80), node.pod("b").publish(8081, 80));
        a.attachment.bandwidth = Some(Bandwidth {
            ingress_rate: 8_000_000,
            ingress_burst: 8_000_000,
            egress_rate: 8_000_000,
            egress_burst: 8_000_000,
        });
        let before = run("tc", &["qdisc", "show"]).matches("tbf").count();
        a.add(&cni).await.unwrap();
        b.add(&cni).await.unwrap();
        let limits = || run("tc", &["qdisc", "show"]).matches("tbf").count();
        assert_eq!(limits(), before + 2, "both ways of one pod");
        assert!(run("iptables-save", &["-t", "nat"]).contains("8080"), "executed");
        assert!(run("nft", &["list", "table", "inet", "pouch_cni"]).contains("8081"), "native");
        for pod in [&a, &b] {
            cni.del(&pod.attachment).await.unwrap();
        }
        assert_eq!(limits(), before);
        assert!(node.reserved("net").is_empty());
    });
}

#[test]
fn a_network_without_a_bridge_is_executed() {
    with_plugins(|node| async move {
        let probe = ["link", "add", "probe", "link", "lan0", "type", "macvlan"];
        if !Command::new("ip").args(probe).output().is_ok_and(|o| o.status.success()) {
            println!("skipped: this kernel has no macvlan");
            return;
        }
        ip("link del probe");
        let ipam = json!({"type": "host-local", "dataDir": node.dir.join("ipam"),
            "subnet": "10.99.0.0/24", "rangeStart": "10.99.0.50"});
        let macvlan = json!([{"type": "macvlan", "master": "lan0", "ipam": ipam}]);
        node.network("flat", "1.0.0", &macvlan);
        let cni = node.cni(NativeUse::Yes).await;
        assert_eq!(cni.status().await.unwrap().way, Way::Executed);
        let pod = node.pod("a");
        pod.add(&cni).await.unwrap();
        assert!(ping(&pod.netns, NEIGHBOUR));
        cni.check(&pod.attachment).await.unwrap();
        cni.del(&pod.attachment).await.unwrap();
        assert!(node.reserved("flat").is_empty());
    });
}

#[test]
fn a_chain_that_fails_at_its_end_leaves_nothing() {
    with_plugins(|node| async move {
        node.fake("last", "[ $CNI_COMMAND = ADD ] && exit 1\nexit 0");
        node.network("net", "1.0.0", &json!([node.bridge(&[]), portmap(), {"type": "last"}]));
        let cni = node.cni(NativeUse::Yes).await;
        let pod = node.pod("a").publish(8080, 80);
        pod.add(&cni).await.unwrap_err();
        assert!(node.reserved("net").is_empty());
        assert!(!inside(&pod.netns, || ip("-o link show")).contains("eth0"));
        assert!(!run("iptables-save", &["-t", "nat"]).contains("8080"));
    });
}

#[test]
fn plugins_of_another_version_are_told_from_ready_ones() {
    with_plugins(|node| async move {
        node.network("net", "1.0.0", &json!([node.bridge(&[]), {"type": "firewall"}]));
        let cni = node.cni(NativeUse::Yes).await;
        cni.status().await.unwrap();
        node.network("net", "1.1.0", &json!([node.bridge(&[]), {"type": "firewall"}]));
        match cni.status().await {
            Err(CniError::Plugin { failure, .. }) => {
                assert!(matches!(*failure, PluginFailure::Unsupported { .. }), "{failure}");
            }
            other => println!("skipped: newer plugins are installed ({other:?})"),
        }
    });
}

#[test]
fn version_1_1_has_status_and_gc() {
    let Some(newer) = std::env::var_os(NEWER).filter(|dir| Path::new(dir).join("bridge").exists())
    else {
        println!("skipped: no plugins of version 1.1.0 ({NEWER} names their directory)");
        return;
    };
    on_node(move |node| async move {
        // The namespace of the host has IPv6 off, which their bridge does not mind.
        let plugins = json!([node.bridge(&[]), portmap()]);
        node.network("net", "1.1.0", &plugins);
        let config = CniConfig {
            bin_dirs: vec![newer.clone().into()],
            native: NativeUse::No,
            ..node.config()
        };
        let cni = Cni::open(config).await.unwrap();
        assert_eq!(cni.status().await.unwrap().version.text(), "1.1.0");
        let (a, b) = (node.pod("a").publish(8080, 80), node.pod("b"));
        let added = a.add(&cni).await.unwrap();
        assert_eq!(added.raw["cniVersion"], "1.1.0");
        b.add(&cni).await.unwrap();
        cni.check(&a.attachment).await.unwrap();
        let keep = ValidAttachment { id: "a".into(), ifname: "eth0".into() };
        cni.gc(&[keep]).await.unwrap();
        assert_eq!(node.reserved("net"), ["10.22.0.2"]);
        cni.check(&a.attachment).await.unwrap();
        cni.del(&a.attachment).await.unwrap();
        assert!(node.reserved("net").is_empty());

        let state_dir = node.dir.join("native");
        let bin_dirs = vec![newer.into()];
        let native = Cni::open(CniConfig { state_dir, bin_dirs, ..node.config() }).await.unwrap();
        assert_eq!(native.status().await.unwrap().way, Way::Native);
        a.add(&native).await.unwrap();
        native.check(&a.attachment).await.unwrap();
        cni.del(&a.attachment).await.unwrap();
        assert!(node.reserved("net").is_empty());
        a.add(&cni).await.unwrap();
        native.del(&a.attachment).await.unwrap();
        assert!(!run("iptables-save", &["-t", "nat"]).contains("8080"));
    });
}
