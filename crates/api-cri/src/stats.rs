//! Figures of containers and pods: rates from two looks at a counter, and the size of what a
//! container wrote from a walk that runs beside the calls, never in one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use pouch_cri_grpc as cri;
use pouch_engine::{
    ContainerView, Engine, EngineError, NetworkCounters, PodView, StatsSample, Written,
};
use pouch_types::ContainerId;
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::translate::{container, pod};

/// Between two looks at one counter for a rate: what comes sooner gets the rate of before.
const RATE_STEP: Duration = Duration::from_millis(500);
/// How old the size of a writable layer may be before it is measured again.
const WRITTEN_AGE: Duration = Duration::from_secs(10);
/// Walks at a time.
static WALKS: Semaphore = Semaphore::const_new(2);

/// A counter as it was seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    total: u64,
    /// Nanoseconds of CPU time per second.
    rate: u64,
}

/// The size of a writable layer as it was measured.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    written: Written,
    /// `None` while the first walk is under way.
    at: Option<Instant>,
    walking: bool,
}

/// Memory of earlier looks.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    cpu: Mutex<HashMap<ContainerId, Seen>>,
    disk: Mutex<HashMap<ContainerId, Measured>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sampler {
    /// CPU time per second since the last look.
    fn rate(&self, id: &ContainerId, total: u64, now: Instant) -> u64 {
        let mut seen = lock(&self.cpu);
        let entry = seen.entry(id.clone()).or_insert(Seen { at: now, total, rate: 0 });
        let passed = now.saturating_duration_since(entry.at);
        if passed >= RATE_STEP {
            let used = u128::from(total.saturating_sub(entry.total));
            let rate = used * 1_000_000_000 / passed.as_nanos().max(1);
            *entry = Seen { at: now, total, rate: u64::try_from(rate).unwrap_or(u64::MAX) };
        }
        entry.rate
    }

    /// What the container has written, as it was last measured; measures again beside the call
    /// when that was long ago.
    fn written_by(self: &Arc<Self>, engine: &Engine, id: &ContainerId) -> Written {
        let mut disk = lock(&self.disk);
        let entry = disk.entry(id.clone()).or_default();
        let old = entry.at.is_none_or(|at| at.elapsed() >= WRITTEN_AGE);
        if old && !entry.walking {
            entry.walking = true;
            let (sampler, engine, id) = (Arc::clone(self), engine.clone(), id.clone());
            tokio::spawn(async move {
                // The semaphore is never closed.
                let _place = WALKS.acquire().await;
                let measured = engine.written(id.as_str()).await;
                let mut disk = lock(&sampler.disk);
                let Some(entry) = disk.get_mut(&id) else { return };
                entry.walking = false;
                entry.at = Some(Instant::now());
                if let Ok(written) = measured {
                    entry.written = written;
                }
            });
        }
        entry.written
    }

    /// What all containers of pods have written, and forgets those that are gone.
    pub(crate) fn written(self: &Arc<Self>, engine: &Engine) -> Total {
        let views = engine.pod_containers();
        let lives = |id: &ContainerId| views.iter().any(|view| view.id == *id);
        lock(&self.disk).retain(|id, _| lives(id));
        lock(&self.cpu).retain(|id, _| lives(id) || engine.pod(id.as_str()).is_ok());
        let mut total = Total::default();
        for view in &views {
            let written = self.written_by(engine, &view.id);
            total.bytes += written.size;
            total.inodes += written.inodes;
        }
        total
    }
}

/// Disk use of several containers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Total {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Nanoseconds since 1970.
pub(crate) fn timestamp() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)
}

const fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

/// A line of memory.stat under its name of cgroup v1 or v2.
fn stat(memory: &pouch_cgroup::stats::Memory, names: [&str; 2]) -> u64 {
    names.iter().find_map(|name| memory.stat.get(*name)).copied().unwrap_or_default()
}

fn cpu(total: u64, rate: u64, at: i64) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp: at,
        usage_core_nano_seconds: value(total),
        usage_nano_cores: value(rate),
        psi: None,
    }
}

fn memory(memory: &pouch_cgroup::stats::Memory, at: i64) -> cri::MemoryUsage {
    let working_set = memory.working_set();
    cri::MemoryUsage {
        timestamp: at,
        working_set_bytes: value(working_set),
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(stat(memory, ["total_rss", "anon"])),
        page_faults: value(stat(memory, ["total_pgfault", "pgfault"])),
        major_page_faults: value(stat(memory, ["total_pgmajfault", "pgmajfault"])),
        psi: None,
    }
}

/// Swap alone, which v1 counts together with memory.
fn swap(stats: &pouch_cgroup::Stats, at: i64) -> Option<cri::SwapUsage> {
    let memory = &stats.memory;
    let used = memory.swap_usage?;
    let alone = |both: u64, memory: u64| match stats.unified {
        true => both,
        false => both.saturating_sub(memory),
    };
    let used = alone(used, memory.usage);
    let limit = memory.swap_limit.map(|limit| alone(limit, memory.limit.unwrap_or(limit)));
    Some(cri::SwapUsage {
        timestamp: at,
        swap_available_bytes: value(limit.unwrap_or_default().saturating_sub(used)),
        swap_usage_bytes: value(used),
    })
}

fn interface((name, counters): &(String, NetworkCounters)) -> cri::NetworkInterfaceUsage {
    cri::NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: value(counters.rx_bytes),
        rx_errors: value(counters.rx_errors),
        tx_bytes: value(counters.tx_bytes),
        tx_errors: value(counters.tx_errors),
    }
}

impl Api {
    /// The figures of one container; of one that does not run only what it has written.
    pub(crate) async fn container_stats(
        &self,
        view: &ContainerView,
    ) -> Result<cri::ContainerStats, EngineError> {
        let member = view
            .spec
            .pod
            .as_ref()
            .ok_or_else(|| EngineError::no_such_container(view.id.as_str()))?;
        let sample: StatsSample = self.engine.stats(view.id.as_str()).await?;
        let at = timestamp();
        let runs = sample.read.is_some();
        let total = sample.cgroup.cpu.total;
        let rate = if runs { self.sampler.rate(&view.id, total, Instant::now()) } else { 0 };
        let written = self.sampler.written_by(&self.engine, &view.id);
        Ok(cri::ContainerStats {
            attributes: Some(container::attributes(view, member)),
            cpu: runs.then(|| cpu(total, rate, at)),
            memory: runs.then(|| memory(&sample.cgroup.memory, at)),
            writable_layer: Some(cri::FilesystemUsage {
                timestamp: at,
                fs_id: Some(cri::FilesystemIdentifier {
                    mountpoint: self.engine.config().data_root.to_string_lossy().into_owned(),
                }),
                used_bytes: value(written.size),
                inodes_used: value(written.inodes),
            }),
            swap: if runs { swap(&sample.cgroup, at) } else { None },
            io: None,
        })
    }

    /// The figures of a pod with those of its containers.
    pub(crate) async fn pod_stats(
        &self,
        view: &PodView,
    ) -> Result<cri::PodSandboxStats, EngineError> {
        let usage = self.engine.pod_usage(view.id.as_str()).await?;
        let at = timestamp();
        let mut containers = Vec::new();
        let mut processes = 0;
        let mut sums = (0, pouch_cgroup::stats::Memory::default());
        for container in self.engine.pod_containers() {
            let ours = container.spec.pod.as_ref().is_some_and(|m| m.pod == view.id);
            if !ours || !container.state.is_running() {
                continue;
            }
            // One that ends meanwhile is not part of the picture.
            let Ok(sample) = self.engine.stats(container.id.as_str()).await else { continue };
            processes += sample.cgroup.pids.current;
            sums.0 += sample.cgroup.cpu.total;
            add(&mut sums.1, &sample.cgroup.memory);
            containers.extend(self.container_stats(&container).await.ok());
        }
        // Without a group of its own a pod is what its containers are together.
        let (total, used) = match &usage.cgroup {
            Some(stats) => {
                processes = processes.max(stats.pids.current);
                (stats.cpu.total, &stats.memory)
            }
            None => (sums.0, &sums.1),
        };
        let rate = self.sampler.rate(&view.id, total, Instant::now());
        let mut interfaces = usage.networks.iter().map(interface);
        let linux = cri::LinuxPodSandboxStats {
            cpu: Some(cpu(total, rate, at)),
            memory: Some(memory(used, at)),
            network: Some(cri::NetworkUsage {
                timestamp: at,
                default_interface: interfaces.next(),
                interfaces: interfaces.collect(),
            }),
            process: Some(cri::ProcessUsage { timestamp: at, process_count: value(processes) }),
            containers,
            io: None,
        };
        Ok(cri::PodSandboxStats {
            attributes: Some(pod::attributes(view)),
            linux: Some(linux),
            windows: None,
        })
    }
}

/// Adds what one container uses to what others do.
fn add(into: &mut pouch_cgroup::stats::Memory, one: &pouch_cgroup::stats::Memory) {
    into.usage += one.usage;
    for (name, value) in &one.stat {
        *into.stat.entry(name.clone()).or_default() += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_time_between_two_looks() {
        let sampler = Sampler::default();
        let id: ContainerId = "a".repeat(64).parse().unwrap();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(sampler.rate(&id, 1_000_000_000, at(0)), 0, "there is no before");
        assert_eq!(sampler.rate(&id, 3_000_000_000, at(1000)), 2_000_000_000);
        assert_eq!(sampler.rate(&id, 9_000_000_000, at(1100)), 2_000_000_000, "too soon");
        assert_eq!(sampler.rate(&id, 0, at(3000)), 0, "a counter that began anew");
    }

    #[test]
    fn swap_of_v1_is_what_memory_is_not() {
        let stats = |unified| pouch_cgroup::Stats {
            unified,
            memory: pouch_cgroup::stats::Memory {
                usage: 100,
                limit: Some(200),
                swap_usage: Some(130),
                swap_limit: Some(300),
                ..Default::default()
            },
            ..Default::default()
        };
        let both = swap(&stats(false), 0).unwrap();
        assert_eq!(both.swap_usage_bytes, value(30));
        assert_eq!(both.swap_available_bytes, value(70));
        assert_eq!(swap(&stats(true), 0).unwrap().swap_usage_bytes, value(130));
    }
}
