//! A node for each test: a host on a small LAN, directories of its own, pods.

#[path = "../../../network/tests/rig/lan.rs"]
mod lan;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pouch_cni::{Added, Attachment, Cni, CniConfig, CniError, Deadlines, NativeUse, PortMapping};
use pouch_netns::{Ipv6, Netns};
use pouch_types::spec::Protocol;
use serde_json::{Value, json};

pub(crate) use lan::{
    HOST, NEIGHBOUR, asks, host_asks, inside, ip, listen, ping, refused, run, serve, serve_udp,
    udp_exchange,
};

/// Where Debian has its plugins.
pub(crate) const DEBIAN: &str = "/usr/lib/cni";
/// Where newer ones are, of version 1.1.0, when somebody has built them.
pub(crate) const NEWER: &str = "POUCH_CNI_BIN";

pub(crate) struct Node {
    pub(crate) dir: PathBuf,
    pub(crate) neighbour: Netns,
}

/// Runs `body` on a fresh node.
pub(crate) fn on_node<F, W>(body: W)
where
    W: FnOnce(Node) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    lan::on_lan(|dir, neighbour| {
        for name in ["net.d", "bin"] {
            fs::create_dir(dir.join(name)).unwrap();
        }
        body(Node { dir, neighbour })
    });
}

/// As [`on_node`], where the programs of Debian's package are.
pub(crate) fn with_plugins<F, W>(body: W)
where
    W: FnOnce(Node) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    if Path::new(DEBIAN).join("bridge").exists() {
        on_node(body);
    } else {
        println!("skipped: no plugins in {DEBIAN}");
    }
}

impl Node {
    pub(crate) fn config(&self) -> CniConfig {
        let seconds = Duration::from_secs;
        CniConfig {
            conf_dir: self.dir.join("net.d"),
            bin_dirs: vec![self.dir.join("bin"), DEBIAN.into()],
            cache_dir: self.dir.join("cache"),
            state_dir: self.dir.join("state"),
            native: NativeUse::Yes,
            deadlines: Deadlines {
                add: seconds(20),
                del: seconds(20),
                check: seconds(20),
                status: seconds(20),
            },
        }
    }

    pub(crate) async fn cni(&self, native: NativeUse) -> Cni {
        Cni::open(CniConfig { native, ..self.config() }).await.unwrap()
    }

    /// Writes a list of these plugins.
    pub(crate) fn network(&self, name: &str, version: &str, plugins: &Value) {
        let list = json!({"cniVersion": version, "name": name, "plugins": plugins});
        fs::write(self.dir.join(format!("net.d/{name}.conflist")), list.to_string()).unwrap();
    }

    /// A plugin in shell. It logs each command with what it is told to `log`.
    pub(crate) fn fake(&self, name: &str, script: &str) {
        let log = self.dir.join("log");
        let text = format!(
            "#!/bin/sh\nin=$(cat)\necho \"{name} $CNI_COMMAND $CNI_IFNAME $in\" >> {}\n{script}\n",
            log.display()
        );
        let path = self.dir.join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Which plugin was given which command, in order.
    pub(crate) fn log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let two = |line: &str| line.split(' ').take(2).collect::<Vec<_>>().join(" ");
        text.lines().map(two).collect()
    }

    /// What the plugin was told last with that command.
    pub(crate) fn told(&self, plugin: &str, command: &str) -> Value {
        let text = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let start = format!("{plugin} {command} ");
        let line = text.lines().rev().find(|line| line.starts_with(&start)).unwrap();
        serde_json::from_str(line.splitn(4, ' ').nth(3).unwrap()).unwrap()
    }

    pub(crate) fn pod(&self, id: &str) -> Pod {
        let path = self.dir.join("netns").join(id);
        let netns = Netns::create(&path, Ipv6::Disabled).unwrap();
        let attachment = Attachment {
            id: id.to_owned(),
            netns: path,
            ifname: "eth0".into(),
            args: vec![
                ("IgnoreUnknown".into(), "1".into()),
                ("K8S_POD_NAMESPACE".into(), "default".into()),
            ],
            ..Attachment::default()
        };
        Pod { netns, attachment }
    }

    /// The reservations in the bridge network's directory.
    pub(crate) fn reserved(&self, network: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.join("ipam").join(network)).into_iter().flatten();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|name| name.parse::<IpAddr>().is_ok()).collect();
        names.sort();
        names
    }

    /// The usual node: a bridge with masquerading, and ports.
    pub(crate) fn usual(&self, name: &str, changes: &[(&str, Value)]) {
        self.network(name, "1.0.0", &json!([self.bridge(changes), portmap()]));
    }

    pub(crate) fn bridge(&self, changes: &[(&str, Value)]) -> Value {
        let mut bridge = json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "hairpinMode": true,
            "ipam": {"type": "host-local", "dataDir": self.dir.join("ipam"),
                     "ranges": [[{"subnet": "10.22.0.0/16"}]],
                     "routes": [{"dst": "0.0.0.0/0"}]}
        });
        for (key, value) in changes {
            match key.strip_prefix("ipam.") {
                Some(key) => bridge["ipam"][key] = value.clone(),
                None => bridge[*key] = value.clone(),
            }
        }
        bridge
    }
}

pub(crate) fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}})
}

pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) fn publish(mut self, host_port: u16, container_port: u16) -> Self {
        self.attachment.port_mappings.push(PortMapping {
            host_port,
            container_port,
            protocol: Protocol::Tcp,
            host_ip: None,
        });
        self
    }

    pub(crate) async fn add(&self, cni: &Cni) -> Result<Added, CniError> {
        cni.add(&self.attachment).await
    }
}

pub(crate) fn address(added: &Added) -> Ipv4Addr {
    match added.pod_ips().next().unwrap() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("{v6}"),
    }
}

/// What a pod's namespace has: addresses and routes, without numbers that differ.
pub(crate) fn view(netns: &Netns) -> (Vec<String>, Vec<String>) {
    inside(netns, || {
        let lines = |text: String| {
            let mut lines: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
            lines.sort();
            lines
        };
        let addresses = ip("-o addr show dev eth0");
        let addresses = addresses
            .lines()
            .filter(|line| !line.contains(" fe80:"))
            .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("\n");
        let routes = ip("route show") + &ip("-6 route show");
        (lines(addresses), lines(routes).into_iter().filter(|l| !l.starts_with("fe80:")).collect())
    })
}

pub(crate) fn links() -> Vec<String> {
    let all = ip("-o link show");
    let name = |line: &str| line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut names: Vec<_> =
        all.lines().map(name).map(|n| n.split(['@', ':']).next().unwrap().to_owned()).collect();
    names.sort();
    names
}
