//! Figures of containers and pods as the contract has them.
//!
//! * `sweep` reads control groups, each once per call;
//! * `sampler` remembers what a rate and a size on disk need between calls;
//! * this renders.

mod sampler;
pub(crate) mod sweep;

use std::sync::Arc;
use std::time::SystemTime;

use pouch_cgroup::stats::{Memory, Pressure, Share};
use pouch_cri_grpc as cri;
use pouch_engine::{ContainerView, EngineError, NetworkCounters, PodNetworks, PodView};

use crate::api::Api;
use crate::translate::{container, pod};
pub(crate) use sampler::{Layer, Sampler};
use sweep::{ContainerReading, PodReading, Reading};

/// Nanoseconds since 1970.
pub(crate) fn timestamp() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

const fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// A line of memory.stat under its name of cgroup v1 or v2.
pub(crate) fn line(memory: &Memory, names: [&str; 2]) -> u64 {
    names.iter().find_map(|name| memory.stat.get(*name)).copied().unwrap_or_default()
}

fn psi(pressure: Option<&Pressure>) -> Option<cri::PsiStats> {
    let data = |share: &Share| {
        let percent = |hundredths| f64::from(hundredths) / 100.0;
        cri::PsiData {
            total: share.total,
            avg10: percent(share.avg10),
            avg60: percent(share.avg60),
            avg300: percent(share.avg300),
        }
    };
    pressure.map(|p| cri::PsiStats { full: p.full.as_ref().map(data), some: Some(data(&p.some)) })
}

fn cpu(total: u64, rate: Option<u64>, psi: Option<cri::PsiStats>, at: i64) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(total),
        // Without a rate kubelet makes its own, which it would not of a zero.
        usage_nano_cores: rate.and_then(value),
        psi,
    }
}

fn memory(memory: &Memory, psi: Option<cri::PsiStats>, at: i64) -> cri::MemoryUsage {
    let working_set = memory.working_set();
    cri::MemoryUsage {
        timestamp: at,
        working_set_bytes: value(working_set),
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(line(memory, ["total_rss", "anon"])),
        page_faults: value(line(memory, ["total_pgfault", "pgfault"])),
        major_page_faults: value(line(memory, ["total_pgmajfault", "pgmajfault"])),
        psi,
    }
}

fn io(stats: &pouch_cgroup::Stats, at: i64) -> Option<cri::IoUsage> {
    // There is nothing else in it.
    let psi = psi(stats.pressure.io.as_ref())?;
    Some(cri::IoUsage { timestamp: at, psi: Some(psi) })
}

/// Bytes of swap alone, which v1 limits together with memory; `None` where it is not counted.
pub(crate) fn swapped(stats: &pouch_cgroup::Stats) -> Option<u64> {
    let memory = &stats.memory;
    let used = memory.swap_usage?;
    if stats.unified {
        return Some(used);
    }
    // The two counters are read one after the other; the line is exact.
    let line = memory.stat.get("total_swap").copied();
    Some(line.unwrap_or_else(|| used.saturating_sub(memory.usage)))
}

fn swap(stats: &pouch_cgroup::Stats, at: i64) -> Option<cri::SwapUsage> {
    let memory = &stats.memory;
    let used = swapped(stats)?;
    let limit = memory.swap_limit.map(|limit| match stats.unified {
        true => limit,
        false => limit.saturating_sub(memory.limit.unwrap_or(limit)),
    });
    Some(cri::SwapUsage {
        timestamp: at,
        // Without a limit it is what the node has, which is no figure of this one.
        swap_available_bytes: limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

/// Without a first interface, as on the node's network or when the pod has ended, there is nothing to
/// tell: kubelet (1.37) reads that of whatever it is given, and crashes without one.
fn network(networks: &PodNetworks, at: i64) -> Option<cri::NetworkUsage> {
    let interface = |(name, counters): &(String, NetworkCounters)| cri::NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: value(counters.rx_bytes),
        rx_errors: value(counters.rx_errors),
        tx_bytes: value(counters.tx_bytes),
        tx_errors: value(counters.tx_errors),
    };
    Some(cri::NetworkUsage {
        timestamp: at,
        default_interface: Some(networks.default.as_ref().map(interface)?),
        interfaces: networks.others.iter().map(interface).collect(),
    })
}

/// What containers use together: a pod without a group of its own is that.
#[derive(Debug, Default)]
struct Sum {
    cpu: u64,
    memory: Memory,
    processes: u64,
}

impl Sum {
    fn add(&mut self, stats: &pouch_cgroup::Stats) {
        self.cpu += stats.cpu.total;
        self.processes += stats.pids.current;
        self.memory.usage += stats.memory.usage;
        for (name, value) in &stats.memory.stat {
            *self.memory.stat.entry(name.clone()).or_default() += value;
        }
    }

    /// Of all of a pod's containers.
    fn of(containers: &[ContainerReading]) -> Self {
        let mut sum = Self::default();
        containers.iter().filter_map(|c| c.reading.as_ref()).for_each(|r| sum.add(&r.stats));
        sum
    }
}

impl Api {
    /// The figures of one container; of one that does not run only what it has written.
    pub(crate) async fn container_stats(
        &self,
        view: &Arc<ContainerView>,
    ) -> Result<cri::ContainerStats, EngineError> {
        let (engine, asked) = (self.engine.clone(), Arc::clone(view));
        let read = sweep::beside(move || sweep::container(&engine, asked)).await??;
        let layers = self.sampler.layers(&self.engine, std::slice::from_ref(view)).await;
        self.rendered(&read, layers.into_iter().next().flatten())
            .ok_or_else(|| EngineError::no_such_container(view.id.as_str()))
    }

    /// The figures of those containers that run.
    pub(crate) async fn containers_stats(
        &self,
        views: Vec<Arc<ContainerView>>,
    ) -> Vec<cri::ContainerStats> {
        let engine = self.engine.clone();
        let read = sweep::beside(move || sweep::containers(&engine, views)).await;
        self.rendered_all(&read.unwrap_or_default()).await
    }

    async fn rendered_all(&self, read: &[ContainerReading]) -> Vec<cri::ContainerStats> {
        let views: Vec<_> = read.iter().map(|read| Arc::clone(&read.view)).collect();
        let layers = self.sampler.layers(&self.engine, &views).await;
        read.iter().zip(layers).filter_map(|(read, layer)| self.rendered(read, layer)).collect()
    }

    /// `None` for a container that is in no pod.
    fn rendered(
        &self,
        read: &ContainerReading,
        layer: Option<Layer>,
    ) -> Option<cri::ContainerStats> {
        let view = &read.view;
        let member = view.spec.pod.as_ref()?;
        let (mut used, reading) = (cri::ContainerStats::default(), read.reading.as_ref());
        if let Some(Reading { stats, seen, at, .. }) = reading {
            let rate = self.sampler.rate(&view.id, stats.cpu.total, *seen);
            used.cpu = Some(cpu(stats.cpu.total, rate, psi(stats.pressure.cpu.as_ref()), *at));
            used.memory = Some(memory(&stats.memory, psi(stats.pressure.memory.as_ref()), *at));
            used.swap = swap(stats, *at);
            used.io = io(stats, *at);
        }
        used.attributes = Some(container::attributes(view, member));
        used.writable_layer = Some(cri::FilesystemUsage {
            timestamp: layer.map_or_else(timestamp, |layer| layer.at),
            fs_id: Some(cri::FilesystemIdentifier {
                mountpoint: self.engine.config().data_root.to_string_lossy().into_owned(),
            }),
            used_bytes: layer.and_then(|layer| value(layer.written.size)),
            inodes_used: layer.and_then(|layer| value(layer.written.inodes)),
        });
        Some(used)
    }

    /// The figures of a pod with those of its containers.
    pub(crate) async fn pod_stats(
        &self,
        view: &Arc<PodView>,
    ) -> Result<cri::PodSandboxStats, EngineError> {
        let (engine, asked) = (self.engine.clone(), Arc::clone(view));
        let read = sweep::beside(move || sweep::one_pod(&engine, asked)).await??;
        let containers = self.rendered_all(&read.containers).await;
        Ok(self.rendered_pod(&read, containers))
    }

    /// The figures of pods with those of their containers.
    pub(crate) async fn pods_stats(&self, views: Vec<Arc<PodView>>) -> Vec<cri::PodSandboxStats> {
        let engine = self.engine.clone();
        let read = sweep::beside(move || sweep::pods(&engine, views)).await.unwrap_or_default();
        let containers: Vec<_> = read.iter().flat_map(|pod| pod.containers.clone()).collect();
        let mut rendered = self.rendered_all(&containers).await.into_iter();
        read.iter()
            .map(|pod| {
                let containers = rendered.by_ref().take(pod.containers.len()).collect();
                self.rendered_pod(pod, containers)
            })
            .collect()
    }

    fn rendered_pod(
        &self,
        read: &PodReading,
        containers: Vec<cri::ContainerStats>,
    ) -> cri::PodSandboxStats {
        let view = &read.view;
        let sum = Sum::of(&read.containers);
        let now = timestamp();
        let (at, seen) = match &read.group {
            Some(group) => (group.at, group.seen),
            None => (now, std::time::Instant::now()),
        };
        let stats = read.group.as_ref().map(|group| &group.stats);
        let (total, used) = match stats {
            Some(stats) => (stats.cpu.total, &stats.memory),
            None => (sum.cpu, &sum.memory),
        };
        let processes = stats.map_or(0, |stats| stats.pids.current).max(sum.processes);
        // Pressure does not add up: who waits at the same time waits once.
        let pressure = stats.map(|stats| stats.pressure).unwrap_or_default();
        let rate = self.sampler.rate(&view.id, total, seen);
        let linux = cri::LinuxPodSandboxStats {
            cpu: Some(cpu(total, rate, psi(pressure.cpu.as_ref()), at)),
            memory: Some(memory(used, psi(pressure.memory.as_ref()), at)),
            network: network(&read.networks, now),
            process: Some(cri::ProcessUsage { timestamp: at, process_count: value(processes) }),
            containers,
            io: stats.and_then(|stats| io(stats, at)),
        };
        cri::PodSandboxStats {
            attributes: Some(pod::attributes(view)),
            linux: Some(linux),
            windows: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_told_has_a_first_interface() {
        let of = |name: &str| (name.to_owned(), NetworkCounters::default());
        let mut networks = PodNetworks { others: vec![of("eth1")], ..PodNetworks::default() };
        assert_eq!(network(&networks, 1), None);
        networks.default = Some(of("eth0"));
        let told = network(&networks, 1).unwrap();
        assert_eq!(told.default_interface.unwrap().name, "eth0");
        assert_eq!(told.interfaces.len(), 1);
    }

    #[test]
    fn swap_of_v1_is_what_memory_is_not() {
        let stats = |unified, swap_limit| pouch_cgroup::Stats {
            unified,
            memory: Memory {
                usage: 100,
                limit: Some(200),
                swap_usage: Some(130),
                swap_limit,
                ..Memory::default()
            },
            ..pouch_cgroup::Stats::default()
        };
        let both = swap(&stats(false, Some(300)), 0).unwrap();
        assert_eq!(both.swap_usage_bytes, value(30));
        assert_eq!(both.swap_available_bytes, value(70));
        let alone = swap(&stats(true, Some(300)), 0).unwrap();
        assert_eq!((alone.swap_usage_bytes, alone.swap_available_bytes), (value(130), value(170)));
        assert_eq!(swap(&stats(true, None), 0).unwrap().swap_available_bytes, None);
        let mut exact = stats(false, None);
        exact.memory.stat.insert("total_swap".into(), 28);
        assert_eq!(swap(&exact, 0).unwrap().swap_usage_bytes, value(28));
        exact.memory.swap_usage = None;
        assert_eq!(swap(&exact, 0), None, "not counted");
    }

    #[test]
    fn pressure_is_in_percent_and_io_is_nothing_without_it() {
        let some = Share { avg10: 1234, avg60: 5, avg300: 10_000, total: 7_000 };
        let wire = psi(Some(&Pressure { some, full: None })).unwrap();
        let waited = wire.some.unwrap();
        assert_eq!((waited.avg10, waited.avg60, waited.avg300), (12.34, 0.05, 100.0));
        assert_eq!((waited.total, wire.full), (7_000, None));
        let mut stats = pouch_cgroup::Stats::default();
        assert_eq!(io(&stats, 1), None);
        stats.pressure.io = Some(Pressure::default());
        assert_eq!(io(&stats, 1).unwrap().timestamp, 1);
    }

    #[test]
    fn a_pod_without_a_group_is_its_containers_together() {
        let stats = |inactive: u64| {
            let mut stats = pouch_cgroup::Stats::default();
            stats.cpu.total = 5;
            stats.pids.current = 2;
            stats.memory.usage = 100;
            stats.memory.stat.insert("inactive_file".into(), inactive);
            stats
        };
        let mut sum = Sum::default();
        sum.add(&stats(10));
        sum.add(&stats(30));
        assert_eq!((sum.cpu, sum.processes, sum.memory.usage), (10, 4, 200));
        assert_eq!(memory(&sum.memory, None, 0).working_set_bytes, value(160));
    }
}
