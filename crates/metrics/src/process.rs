//! The daemon's own process, as proc(5) shows it, under the names that every exporter uses.

use std::fs;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A moment of the process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_fds: u64,
    threads: u64,
    /// Since the epoch.
    started_seconds: f64,
    /// Tasks of the async runtime.
    tasks: u64,
}

impl Process {
    /// Looks at this process; what cannot be read is 0.
    pub(crate) fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut process = Self::parse(&read("/proc/self/stat"), &read("/proc/stat"));
        process.open_fds = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
        let runtime = tokio::runtime::Handle::try_current();
        process.tasks = runtime.map_or(0, |runtime| runtime.metrics().num_alive_tasks() as u64);
        process
    }

    fn parse(own: &str, machine: &str) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "ticks are small")]
        let ticks = |text: Option<&&str>| {
            let count: u64 = text.and_then(|text| text.parse().ok()).unwrap_or(0);
            count as f64 / rustix::param::clock_ticks_per_second() as f64
        };
        // The name, in parentheses, may hold anything; fields are counted behind it, from 3.
        let fields: Vec<&str> =
            own.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        let number = |n: usize| field(n).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let boot = machine
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|text| text.trim().parse::<f64>().ok())
            .unwrap_or(0.0);
        Self {
            cpu_seconds: ticks(field(14)) + ticks(field(15)),
            resident_bytes: number(24) * rustix::param::page_size() as u64,
            threads: number(20),
            started_seconds: boot + ticks(field(22)),
            ..Self::default()
        }
    }

    pub(crate) fn encode(&self, to: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let cpu = to.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of the daemon",
            None,
            MetricType::Counter,
        )?;
        ConstCounter::new(self.cpu_seconds).encode(cpu)?;
        let started = to.encode_descriptor(
            "process_start_time_seconds",
            "Start of the daemon since the epoch",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(self.started_seconds).encode(started)?;
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Memory of the daemon", self.resident_bytes),
            ("process_open_fds", "Open file descriptors of the daemon", self.open_fds),
            ("process_threads", "Threads of the daemon", self.threads),
            ("pouch_runtime_tasks", "Tasks of the daemon's async runtime", self.tasks),
        ] {
            let gauge = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(gauge)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let own = "7 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1000 1000000 300";
        let process = Process::parse(own, "cpu 1\nbtime 1700000000\n");
        let tick = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(process.cpu_seconds, 250.0 / tick + 50.0 / tick);
        assert_eq!(process.threads, 9);
        assert_eq!(process.resident_bytes, 300 * rustix::param::page_size() as u64);
        assert_eq!(process.started_seconds, 1_700_000_000.0 + 1000.0 / tick);
        assert_eq!(Process::parse("", ""), Process::default());
    }

    #[test]
    fn this_process_is_there() {
        let process = Process::look();
        assert!(process.resident_bytes > 0 && process.open_fds > 2 && process.threads > 0);
        assert!(process.started_seconds > 1_500_000_000.0);
    }
}
