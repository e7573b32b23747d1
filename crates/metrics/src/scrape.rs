//! What is looked at when somebody scrapes: containers, pods and the process.

use std::collections::BTreeMap;
use std::fmt::Error;
use std::time::Duration;

use pouch_engine::{ContainerView, Engine, PodPhase, StatsSample, Status};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::process::Process;

/// Time for reading all control groups; a scrape shows what was read until then.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything at one moment.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    process: Process,
    version: String,
    images: usize,
    /// By status, all of them.
    states: BTreeMap<Status, usize>,
    /// By phase, all that are counted.
    pods: BTreeMap<&'static str, usize>,
    running: Vec<Running>,
}

/// A container that runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Running {
    id: String,
    name: String,
    image: String,
    cpu_ns: u64,
    throttled_ns: u64,
    memory: u64,
    working_set: u64,
    memory_limit: Option<u64>,
    oom_kills: u64,
    pids: u64,
    read_bytes: u64,
    written_bytes: u64,
    /// Interface, received and sent bytes.
    networks: Vec<(String, u64, u64)>,
}

impl Running {
    fn new(view: &ContainerView, sample: &StatsSample) -> Self {
        let cgroup = &sample.cgroup;
        let moved = |wanted: &str| {
            let entries = cgroup.io.bytes.iter().filter(|e| e.op.eq_ignore_ascii_case(wanted));
            entries.map(|entry| entry.value).sum()
        };
        Self {
            id: view.id.to_string(),
            name: view.name.to_string(),
            image: view.spec.image_name.clone(),
            cpu_ns: cgroup.cpu.total,
            throttled_ns: cgroup.cpu.throttled,
            memory: cgroup.memory.usage,
            working_set: cgroup.memory.working_set(),
            memory_limit: cgroup.memory.limit.filter(|limit| *limit <= sample.host_memory),
            oom_kills: cgroup.memory.oom_kills,
            pids: cgroup.pids.current,
            read_bytes: moved("read"),
            written_bytes: moved("write"),
            networks: sample
                .networks
                .iter()
                .map(|(name, counters)| (name.clone(), counters.rx_bytes, counters.tx_bytes))
                .collect(),
        }
    }
}

impl Picture {
    pub(crate) async fn take(engine: &Engine) -> Self {
        let views = engine.list();
        let mut states: BTreeMap<Status, usize> =
            Status::ALL.iter().map(|status| (*status, 0)).collect();
        for view in &views {
            *states.entry(view.state.status).or_insert(0) += 1;
        }
        let mut pods = BTreeMap::from([("ready", 0), ("notready", 0), ("removing", 0)]);
        for phase in engine.pods().iter().filter_map(|pod| phase(pod.phase)) {
            *pods.entry(phase).or_insert(0) += 1;
        }
        let mut running = Vec::new();
        let read = async {
            for view in views.iter().filter(|view| view.state.is_running()) {
                // One that ended meanwhile has no use of resources any more.
                match engine.stats(view.id.as_str()).await {
                    Ok(sample) if sample.read.is_some() => {
                        running.push(Running::new(view, &sample))
                    }
                    _ => {}
                }
            }
        };
        // Cancel-safe: what was pushed stays.
        if tokio::time::timeout(PATIENCE, read).await.is_err() {
            tracing::warn!("reading control groups takes too long; the scrape is incomplete");
        }
        Self {
            process: Process::look(),
            version: engine.version().version.clone(),
            images: engine.images().usage().images.len(),
            states,
            pods,
            running,
        }
    }

    pub(crate) fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), Error> {
        self.process.encode(&mut to)?;
        let build = to.encode_descriptor("pouch_build_info", "Version", None, MetricType::Gauge);
        gauge(build?.encode_family(&[("version", self.version.as_str())])?, 1)?;
        let images = to.encode_descriptor("pouch_images", "Images", None, MetricType::Gauge)?;
        gauge(images, number(self.images as u64))?;
        let mut states = to.encode_descriptor(
            "pouch_containers",
            "Containers by state",
            None,
            MetricType::Gauge,
        )?;
        for (status, count) in &self.states {
            let labels = [("state", status.as_str())];
            gauge(states.encode_family(&labels)?, number(*count as u64))?;
        }
        let mut pods =
            to.encode_descriptor("pouch_pods", "Pods by state", None, MetricType::Gauge)?;
        for (phase, count) in &self.pods {
            gauge(pods.encode_family(&[("state", *phase)])?, number(*count as u64))?;
        }
        self.counters(&mut to)?;
        self.gauges(&mut to)?;
        self.networks(&mut to)
    }

    fn counters(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Read = fn(&Running) -> f64;
        let metrics: [(&str, &str, Read); 5] = [
            ("cpu_seconds", "CPU time", |c| seconds(c.cpu_ns)),
            ("cpu_throttled_seconds", "Time without CPU by a quota", |c| seconds(c.throttled_ns)),
            ("oom_kills", "Processes that the kernel killed for memory", |c| float(c.oom_kills)),
            ("block_read_bytes", "Bytes read from devices", |c| float(c.read_bytes)),
            ("block_written_bytes", "Bytes written to devices", |c| float(c.written_bytes)),
        ];
        for (name, help, read) in metrics {
            let name = format!("pouch_container_{name}");
            let mut family = to.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for container in &self.running {
                counter(family.encode_family(&labels(container))?, read(container))?;
            }
        }
        Ok(())
    }

    fn gauges(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Read = fn(&Running) -> Option<u64>;
        let metrics: [(&str, &str, Read); 4] = [
            ("memory_usage_bytes", "Memory with caches", |c| Some(c.memory)),
            ("memory_working_set_bytes", "Memory without inactive caches", |c| Some(c.working_set)),
            ("memory_limit_bytes", "Limit of memory, where there is one", |c| c.memory_limit),
            ("pids", "Processes and threads", |c| Some(c.pids)),
        ];
        for (name, help, read) in metrics {
            let name = format!("pouch_container_{name}");
            let mut family = to.encode_descriptor(&name, help, None, MetricType::Gauge)?;
            for container in &self.running {
                if let Some(value) = read(container) {
                    gauge(family.encode_family(&labels(container))?, number(value))?;
                }
            }
        }
        Ok(())
    }

    fn networks(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), Error> {
        type Read = fn(&(String, u64, u64)) -> u64;
        let metrics: [(&str, &str, Read); 2] = [
            ("network_received_bytes", "Bytes received", |network| network.1),
            ("network_sent_bytes", "Bytes sent", |network| network.2),
        ];
        for (name, help, read) in metrics {
            let name = format!("pouch_container_{name}");
            let mut family = to.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for container in &self.running {
                for network in &container.networks {
                    let [id, name, image] = labels(container);
                    let labels = [id, name, image, ("interface", network.0.as_str())];
                    counter(family.encode_family(&labels)?, read(network))?;
                }
            }
        }
        Ok(())
    }
}

/// The word for a pod's sandbox; `None` for one that is not to be seen.
const fn phase(phase: PodPhase) -> Option<&'static str> {
    match phase {
        PodPhase::Making | PodPhase::Gone => None,
        PodPhase::Ready => Some("ready"),
        PodPhase::NotReady => Some("notready"),
        PodPhase::Removing => Some("removing"),
    }
}

fn labels(container: &Running) -> [(&'static str, &str); 3] {
    [
        ("id", container.id.as_str()),
        ("name", container.name.as_str()),
        ("image", container.image.as_str()),
    ]
}

fn gauge<V: EncodeGaugeValue>(
    to: prometheus_client::encoding::MetricEncoder<'_>,
    value: V,
) -> Result<(), Error> {
    ConstGauge::new(value).encode(to)
}

fn counter<V: EncodeCounterValue>(
    to: prometheus_client::encoding::MetricEncoder<'_>,
    value: V,
) -> Result<(), Error> {
    ConstCounter::new(value).encode(to)
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "53 bits are enough for a graph")]
fn float(value: u64) -> f64 {
    value as f64
}

fn seconds(nanoseconds: u64) -> f64 {
    float(nanoseconds) / 1e9
}

#[cfg(test)]
mod tests {
    use prometheus_client::collector::Collector;
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug)]
    struct Still(Picture);

    impl Collector for Still {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
            self.0.encode(encoder)
        }
    }

    fn text_of(picture: Picture) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Still(picture)));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn a_picture_in_words() {
        let container = Running {
            id: "c0ffee".into(),
            name: "a\"b\\".into(),
            image: "busybox".into(),
            cpu_ns: 1_500_000_000,
            memory: 4096,
            networks: vec![("eth0".into(), 7, 9)],
            ..Running::default()
        };
        let picture = Picture {
            states: BTreeMap::from([(Status::Running, 1), (Status::Exited, 0)]),
            pods: BTreeMap::from([("ready", 2), ("notready", 0)]),
            running: vec![container],
            ..Picture::default()
        };
        let text = text_of(picture);
        for line in [
            r#"pouch_containers{state="running"} 1"#,
            r#"pouch_containers{state="exited"} 0"#,
            r#"pouch_pods{state="ready"} 2"#,
            r#"pouch_pods{state="notready"} 0"#,
            r#"pouch_container_cpu_seconds_total{id="c0ffee",name="a\"b\\",image="busybox"} 1.5"#,
            r#"pouch_container_memory_usage_bytes{id="c0ffee",name="a\"b\\",image="busybox"} 4096"#,
            r#"pouch_container_network_sent_bytes_total{id="c0ffee",name="a\"b\\",image="busybox",interface="eth0"} 9"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(!text.contains("memory_limit_bytes{"), "no limit, no series");
        assert!(text.ends_with("# EOF\n"));
    }
}
