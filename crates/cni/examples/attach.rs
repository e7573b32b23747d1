//! How long ADD and DEL take, natively and by Debian's plugins: medians of 20, in a network
//! namespace of its own. `cargo run --release -p pouch-cni --example attach [PODS]`, as root; with
//! PODS so many pods are there already.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on panics")]

use std::path::Path;
use std::time::{Duration, Instant};

use pouch_cni::{Attachment, Cni, CniConfig, NativeUse, PortMapping};
use pouch_netns::{Ipv6, Netns};
use pouch_types::spec::Protocol;
use serde_json::json;

const ROUNDS: u16 = 20;

fn main() {
    let before = std::env::args().nth(1).map_or(0, |n| n.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let host = Netns::create(&dir.path().join("netns/host"), Ipv6::Disabled).unwrap();
    let at = dir.path().to_owned();
    let work = std::thread::spawn(move || {
        host.enter_thread().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure(&at, before));
    });
    let ended = work.join();
    for path in pouch_netns::list(&dir.path().join("netns")).unwrap() {
        pouch_netns::remove(&path).unwrap();
    }
    ended.unwrap();
}

async fn measure(dir: &Path, before: u16) {
    std::fs::create_dir(dir.join("net.d")).unwrap();
    let list = json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": dir.join("ipam"),
                  "ranges": [[{"subnet": "10.22.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}]});
    std::fs::write(dir.join("net.d/1.conflist"), list.to_string()).unwrap();
    for (way, native) in [("native", NativeUse::Yes), ("executed", NativeUse::No)] {
        let config = CniConfig {
            conf_dir: dir.join("net.d"),
            cache_dir: dir.join("cache"),
            native,
            ..CniConfig::new(dir.join("state"))
        };
        let cni = Cni::open(config).await.unwrap();
        let pod = |id: String, port: u16| {
            let netns = dir.join("netns").join(&id);
            Netns::create(&netns, Ipv6::Disabled).unwrap();
            Attachment {
                port_mappings: vec![PortMapping {
                    host_port: port,
                    container_port: 80,
                    protocol: Protocol::Tcp,
                    host_ip: None,
                }],
                id,
                netns,
                ifname: "eth0".into(),
                args: vec![("IgnoreUnknown".into(), "1".into())],
                ..Attachment::default()
            }
        };
        let standing: Vec<_> =
            (0..before).map(|n| pod(format!("{way}-old{n}"), 20_000 + n)).collect();
        for one in &standing {
            cni.add(one).await.unwrap();
        }
        let (mut adds, mut dels) = (Vec::new(), Vec::new());
        for n in 0..ROUNDS {
            let pod = pod(format!("{way}-{n}"), 9000 + n);
            let begin = Instant::now();
            cni.add(&pod).await.unwrap();
            adds.push(begin.elapsed());
            let begin = Instant::now();
            cni.del(&pod).await.unwrap();
            dels.push(begin.elapsed());
            // As a runtime does; what is left of the pair goes with it.
            pouch_netns::remove(&pod.netns).unwrap();
        }
        println!("{way}, {before} pods before: ADD {}, DEL {}", tell(adds), tell(dels));
        for one in &standing {
            cni.del(one).await.unwrap();
        }
    }
}

fn tell(mut times: Vec<Duration>) -> String {
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    format!("{median:.1?} (worst {worst:.1?})")
}
