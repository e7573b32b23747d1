//! A host of its own for each test: a network namespace with a neighbour on a small LAN.

mod lan;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pouch_netns::{Ipv6, Netns};
use pouch_network::{AttachRequest, Endpoint, NetworkConfig, Networks, SCHEMA};
use pouch_store::Store;
use pouch_types::ContainerId;
use pouch_types::spec::{Port, PortBinding, Protocol};

pub(crate) use lan::{
    HOST, NEIGHBOUR, asks, host_asks, inside, ip, listen, on_lan, ping, refused, run, serve,
    serve_udp, udp_exchange,
};

pub(crate) struct Rig {
    pub(crate) dir: PathBuf,
    pub(crate) networks: Networks,
    pub(crate) neighbour: Netns,
}

pub(crate) struct Container {
    pub(crate) id: ContainerId,
    pub(crate) netns: Netns,
    pub(crate) endpoint: Endpoint,
}

impl Container {
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.endpoint.ipv4.unwrap().address
    }
}

/// Runs `body` on a fresh host with networks.
pub(crate) fn on_host<F, W>(configure: fn(&mut NetworkConfig), body: W)
where
    W: FnOnce(Rig) -> F + Send + 'static,
    F: Future<Output = ()>,
{
    on_lan(move |dir: PathBuf, neighbour| async move {
        let networks = open(&dir, configure).await;
        body(Rig { dir, networks, neighbour }).await;
    });
}

pub(crate) async fn open(dir: &Path, configure: fn(&mut NetworkConfig)) -> Networks {
    try_open(dir, configure).await.unwrap()
}

pub(crate) async fn try_open(
    dir: &Path,
    configure: fn(&mut NetworkConfig),
) -> Result<Networks, pouch_network::NetworkError> {
    let store = Store::open(&dir.join("db"), &[SCHEMA]).unwrap().store;
    let mut config = NetworkConfig::new(dir.join("state"));
    configure(&mut config);
    Networks::open(config, store).await
}

pub(crate) fn binding(
    port: u16,
    protocol: Protocol,
    host_ip: Option<&str>,
    host: u16,
) -> PortBinding {
    PortBinding {
        container: Port { number: port, protocol },
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        host_ports: (host != 0).then_some((host, host)),
    }
}

impl Rig {
    pub(crate) fn request(&self, name: &str, ports: Vec<PortBinding>) -> AttachRequest {
        AttachRequest {
            container: ContainerId::random().unwrap(),
            name: name.parse().unwrap(),
            network: "bridge".into(),
            netns: Some(self.dir.join("netns").join(name)),
            mac: None,
            ipv4: None,
            ports,
            publish_exposed: Vec::new(),
        }
    }

    pub(crate) async fn container(&self, name: &str, ports: Vec<PortBinding>) -> Container {
        let request = self.request(name, ports);
        let netns =
            Netns::create_async(request.netns.as_ref().unwrap(), Ipv6::Disabled).await.unwrap();
        let id = request.container.clone();
        let endpoint = self.networks.attach(request).await.unwrap();
        Container { id, netns, endpoint }
    }

    pub(crate) async fn gone(&self, container: Container) {
        self.networks.detach(&container.id).await.unwrap();
        pouch_netns::remove(container.netns.path()).unwrap();
    }
}

/// What this crate may leave on the host: links, rules, the sysctl.
pub(crate) fn census() -> String {
    format!(
        "{}{}{}",
        ip("-o link show").lines().map(|l| l.split(' ').nth(1).unwrap_or("")).collect::<String>(),
        run("nft", &["list", "ruleset"]),
        fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()
    )
}

/// Whether `bind` succeeds, now or in a moment: a process that another test is starting has copies
/// of all descriptors until its exec.
pub(crate) fn becomes_free<T>(bind: impl Fn() -> std::io::Result<T>) -> bool {
    (0..50).any(|_| bind().inspect_err(|_| std::thread::sleep(Duration::from_millis(10))).is_ok())
}
