//! Rendering of a fixed picture.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use pouch_cgroup::stats::{HugeTlb, IoEntry, Pressure, Share};
use pouch_cgroup::{Cgroup, Layout, Stats};
use pouch_engine::{NetworkCounters, PodNetworks, StateView, Status, Written};
use pouch_types::pod::{PodKey, PodMember, PodSpec};
use pouch_types::spec::ContainerSpec;

use super::*;

/// All that critest 1.37 and dashboards for cAdvisor expect.
const EXPECTED: [&str; 56] = [
    "container_blkio_device_usage_total",
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_cfs_throttled_seconds_total",
    "container_cpu_system_seconds_total",
    "container_cpu_usage_seconds_total",
    "container_cpu_user_seconds_total",
    "container_file_descriptors",
    "container_fs_inodes_free",
    "container_fs_inodes_total",
    "container_fs_limit_bytes",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_usage_bytes",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_last_seen",
    "container_memory_cache",
    "container_memory_failcnt",
    "container_memory_failures_total",
    "container_memory_kernel_usage",
    "container_memory_mapped_file",
    "container_memory_max_usage_bytes",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_network_receive_bytes_total",
    "container_network_receive_errors_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_errors_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
    "container_oom_events_total",
    "container_pressure_cpu_stalled_seconds_total",
    "container_pressure_cpu_waiting_seconds_total",
    "container_pressure_io_stalled_seconds_total",
    "container_pressure_io_waiting_seconds_total",
    "container_pressure_memory_stalled_seconds_total",
    "container_pressure_memory_waiting_seconds_total",
    "container_processes",
    "container_sockets",
    "container_spec_cpu_period",
    "container_spec_cpu_quota",
    "container_spec_cpu_shares",
    "container_spec_memory_limit_bytes",
    "container_spec_memory_reservation_limit_bytes",
    "container_spec_memory_swap_limit_bytes",
    "container_start_time_seconds",
    "container_threads",
    "container_threads_max",
    "container_ulimits_soft",
];

fn group(path: &str) -> Cgroup {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    let mounts = "1 1 0:1 / /cg rw - cgroup2 c rw\n";
    std::fs::write(root.path().join("proc/self/mountinfo"), mounts).unwrap();
    Cgroup::new(&Layout::detect_under(root.path()).unwrap(), path).unwrap()
}

/// Figures of a machine with everything: those of v2, and the peak of huge pages that v1 has.
fn stats() -> Stats {
    let mut stats = Stats { unified: true, ..Stats::default() };
    stats.cpu.total = 2_999_999_999;
    stats.cpu.user = 1_500_000_000;
    stats.cpu.throttled = 7_000_000_000;
    stats.memory.usage = 1000;
    stats.memory.limit = Some(64 << 20);
    stats.memory.swap_usage = Some(5);
    stats.memory.oom_kills = 1;
    for (name, value) in [("inactive_file", 300), ("file", 400), ("anon", 500), ("pgfault", 9)] {
        stats.memory.stat.insert(name.to_owned(), value);
    }
    stats.pids.current = 12;
    stats.pids.limit = Some(100);
    let entry = |op: &str, value| IoEntry { major: 0, minor: 4095, op: op.to_owned(), value };
    stats.io.bytes = vec![entry("Read", 1), entry("Write", 2), entry("Discard", 3)];
    stats.io.operations = vec![entry("Read", 4), entry("Write", 5)];
    stats.hugetlb.push(HugeTlb {
        page_size: "2MB".into(),
        usage: 2 << 20,
        max_usage: 4 << 20,
        ..HugeTlb::default()
    });
    let share = |seconds: u64| Share { total: seconds * 1_000_000_000, ..Share::default() };
    let pressure = Pressure { some: share(6), full: Some(share(3)) };
    stats.pressure.cpu = Some(pressure);
    stats.pressure.memory = Some(pressure);
    stats.pressure.io = Some(pressure);
    stats
}

fn container() -> ContainerView {
    let member = PodMember {
        pod: "a".repeat(64).parse().unwrap(),
        name: "web".into(),
        attempt: 0,
        labels: Default::default(),
        annotations: Default::default(),
        log_path: String::new(),
        user_specified_image: "nginx:1".into(),
    };
    let mut spec = ContainerSpec { pod: Some(member), ..ContainerSpec::default() };
    spec.resources.cpu_quota = Some(20_000);
    spec.resources.unified.insert("memory.min".into(), "4096".into());
    ContainerView {
        id: "b".repeat(64).parse().unwrap(),
        name: "k8s_web".parse().unwrap(),
        created: jiff::Timestamp::UNIX_EPOCH,
        spec: Arc::new(spec),
        image: pouch_types::ImageId(format!("sha256:{}", "c".repeat(64)).parse().unwrap()),
        path: String::new(),
        args: Vec::new(),
        state: StateView {
            status: Status::Running,
            pid: 7,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            started_at: Some(jiff::Timestamp::from_second(1_700_000_000).unwrap()),
            finished_at: None,
            health: None,
        },
        restart_count: 0,
        endpoints: Vec::new(),
        sandbox_key: None,
        mounts: Vec::new(),
        log_path: None,
        dir: "/d".into(),
        execs: Vec::new(),
        upper_dir: None,
        elsewhere: None,
    }
}

fn picture(stats: Stats) -> Picture {
    let key = PodKey { namespace: "shop".into(), name: "front".into(), ..PodKey::default() };
    let pod = PodView {
        id: "a".repeat(64).parse().unwrap(),
        spec: Arc::new(PodSpec { key, ..PodSpec::default() }),
        created: jiff::Timestamp::UNIX_EPOCH,
        phase: PodPhase::Ready,
        ips: Vec::new(),
        netns: None,
        pid: 0,
    };
    let counters = |rx_bytes| NetworkCounters { rx_bytes, ..NetworkCounters::default() };
    let reading = |path| Reading::fixed(group(path), stats.clone());
    let reading_of_container = reading("/kubepods/pod1/b");
    let pods = vec![PodReading {
        view: Arc::new(pod),
        group: Some(reading("/kubepods/pod1")),
        networks: PodNetworks {
            default: Some(("eth0".into(), counters(77))),
            others: vec![("net1".into(), counters(1))],
        },
        containers: vec![ContainerReading {
            view: Arc::new(container()),
            reading: Some(reading_of_container),
        }],
    }];
    let processes = Processes {
        count: 3,
        threads: Some(4),
        descriptors: Some(20),
        sockets: Some(2),
        open_files: Some(1024),
    };
    Picture {
        pods,
        processes: vec![processes],
        filesystem: Some(Filesystem {
            device: "/dev/vda1".into(),
            bytes: 1 << 30,
            inodes: 1000,
            inodes_free: 900,
        }),
        devices: Devices::default(),
    }
}

fn layer() -> Layer {
    Layer { written: Written { size: 8192, inodes: 3 }, at: 42 }
}

/// Samples by name and the values of the labels behind the first six.
fn samples(metrics: &[cri::Metric]) -> HashMap<(String, String), u64> {
    let sample = |metric: &cri::Metric| {
        let own = metric.label_values[family::LABELS.len()..].join(" ");
        ((metric.name.clone(), own), metric.value.unwrap().value)
    };
    metrics.iter().map(sample).collect()
}

#[test]
fn every_name_is_described_once_and_has_help() {
    let descriptors = descriptors();
    let names: Vec<&str> = descriptors.iter().map(|d| d.name.as_str()).collect();
    assert_eq!(names.iter().copied().collect::<BTreeSet<_>>(), EXPECTED.into());
    assert_eq!(names.len(), EXPECTED.len());
    for descriptor in &descriptors {
        assert!(!descriptor.help.is_empty(), "{}", descriptor.name);
        assert_eq!(descriptor.label_keys[..6], family::LABELS);
    }
}

#[test]
fn each_value_has_the_labels_of_its_descriptor_and_none_is_there_twice() {
    let all = picture(stats()).render(vec![Some(layer())]);
    let keys: HashMap<String, usize> =
        descriptors().into_iter().map(|d| (d.name, d.label_keys.len())).collect();
    let mut seen = HashSet::new();
    let pod = &all[0];
    let containers = pod.container_metrics.iter().flat_map(|c| &c.metrics);
    for metric in pod.metrics.iter().chain(containers) {
        assert_eq!(keys.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
        assert!(seen.insert((&metric.name, &metric.label_values)), "{metric:?}");
    }
    let names: BTreeSet<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, EXPECTED.into(), "a machine with everything has them all");
}

#[test]
fn a_container_in_figures() {
    let all = picture(stats()).render(vec![Some(layer())]);
    let metrics = &all[0].container_metrics[0].metrics;
    let (name, image) = ("b".repeat(64), "nginx:1");
    for metric in metrics {
        let subject = ["web", "/kubepods/pod1/b", image, &name, "shop", "front"];
        assert_eq!(metric.label_values[..6], subject);
        let counts = metric.metric_type() == cri::MetricType::Counter;
        let total = metric.name.ends_with("_total") && !metric.name.ends_with("inodes_total");
        assert_eq!(counts, total || metric.name == "container_memory_failcnt", "{}", metric.name);
        let at = if metric.name == "container_fs_usage_bytes" { 42 } else { 0 };
        assert_eq!(metric.timestamp, at, "{} was just read or is cached", metric.name);
    }
    let samples = samples(metrics);
    for (name, labels, value) in [
        ("container_cpu_usage_seconds_total", "total", 2),
        ("container_cpu_user_seconds_total", "", 1),
        ("container_cpu_cfs_throttled_seconds_total", "", 7),
        ("container_memory_working_set_bytes", "", 700),
        ("container_memory_cache", "", 400),
        ("container_memory_rss", "", 500),
        ("container_memory_swap", "", 5),
        ("container_memory_failures_total", "pgfault container", 9),
        ("container_memory_failures_total", "pgfault hierarchy", 9),
        ("container_memory_failures_total", "pgmajfault hierarchy", 0),
        ("container_oom_events_total", "", 1),
        ("container_hugetlb_max_usage_bytes", "2MB", 4 << 20),
        ("container_pressure_io_stalled_seconds_total", "", 3),
        ("container_pressure_cpu_waiting_seconds_total", "", 6),
        ("container_fs_usage_bytes", "/dev/vda1", 8192),
        ("container_fs_inodes_free", "/dev/vda1", 900),
        ("container_fs_reads_bytes_total", "0:4095", 1),
        ("container_fs_writes_total", "0:4095", 5),
        ("container_blkio_device_usage_total", "0:4095 0 4095 Discard", 3),
        ("container_threads", "", 12),
        ("container_threads_max", "", 100),
        ("container_processes", "", 3),
        ("container_sockets", "", 2),
        ("container_ulimits_soft", "max_open_files", 1024),
        ("container_spec_cpu_quota", "", 20_000),
        ("container_spec_cpu_period", "", 100_000),
        ("container_spec_cpu_shares", "", 1024),
        ("container_spec_memory_limit_bytes", "", 64 << 20),
        ("container_spec_memory_reservation_limit_bytes", "", 4096),
        ("container_spec_memory_swap_limit_bytes", "", 0),
        ("container_start_time_seconds", "", 1_700_000_000),
    ] {
        let found = samples.get(&(name.to_owned(), labels.to_owned()));
        assert_eq!(found, Some(&value), "{name} {labels}");
    }
}

#[test]
fn a_pod_has_its_group_and_its_network() {
    let all = picture(stats()).render(vec![None]);
    let pod = &all[0];
    assert_eq!(pod.pod_sandbox_id, "a".repeat(64));
    for metric in &pod.metrics {
        assert_eq!(metric.label_values[..6], ["", "/kubepods/pod1", "", "", "shop", "front"]);
    }
    let found = samples(&pod.metrics);
    let of = |name: &str, labels: &str| found.get(&(name.to_owned(), labels.to_owned())).copied();
    assert_eq!(of("container_network_receive_bytes_total", "eth0"), Some(77));
    assert_eq!(of("container_network_receive_bytes_total", "net1"), Some(1));
    assert_eq!(of("container_memory_usage_bytes", ""), Some(1000));
    let written = samples(&pod.container_metrics[0].metrics);
    assert!(!written.keys().any(|(name, _)| name == "container_fs_usage_bytes"), "not measured");
}

#[test]
fn what_is_not_counted_has_no_value() {
    let mut few = picture(Stats::default());
    few.processes = vec![Processes::default()];
    few.pods[0].group = None;
    let all = few.render(vec![None]);
    assert_eq!(all[0].metrics[0].label_values[1], "a".repeat(64), "a pod without a group");
    let names: BTreeSet<&str> =
        all[0].container_metrics[0].metrics.iter().map(|metric| metric.name.as_str()).collect();
    for absent in
        ["pressure", "hugetlb", "blkio", "fs_reads", "fs_usage", "ulimits", "sockets", "threads"]
    {
        let found = names.iter().find(|name| name.contains(absent) && !name.ends_with("_max"));
        assert_eq!(found, None);
    }
    assert!(names.contains("container_memory_swap") && names.contains("container_threads_max"));
}
