//! What a container or a pod may use, and since when it is there.

use std::time::SystemTime;

use jiff::Timestamp;
use pouch_cgroup::stats::Memory;
use pouch_cri_grpc as cri;
use pouch_types::spec::Resources;

use super::family::{Family, List};

const LAST_SEEN: Family<0> =
    Family::gauge("container_last_seen", [], "When these figures were read, seconds since 1970.");
const START: Family<0> =
    Family::gauge("container_start_time_seconds", [], "Start, seconds since 1970.");
const PERIOD: Family<0> =
    Family::gauge("container_spec_cpu_period", [], "Period of the CPU quota, in microseconds.");
const QUOTA: Family<0> = Family::gauge(
    "container_spec_cpu_quota",
    [],
    "CPU time of each period, in microseconds; none when it is not limited.",
);
const SHARES: Family<0> =
    Family::gauge("container_spec_cpu_shares", [], "Weight among others; 1024 is one share.");
const LIMIT: Family<0> =
    Family::gauge("container_spec_memory_limit_bytes", [], "Limit of memory, in bytes; 0 is none.");
const RESERVATION: Family<0> = Family::gauge(
    "container_spec_memory_reservation_limit_bytes",
    [],
    "Memory that is kept from reclaim, in bytes.",
);
const SWAP_LIMIT: Family<0> = Family::gauge(
    "container_spec_memory_swap_limit_bytes",
    [],
    "Limit of swap, on cgroup v1 of memory and swap together, in bytes; 0 is none.",
);

/// What the kernel gives a group that nobody told.
const DEFAULT_PERIOD: u64 = 100_000;
const DEFAULT_SHARES: u64 = 1024;

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    vec![
        LAST_SEEN.descriptor(),
        START.descriptor(),
        PERIOD.descriptor(),
        QUOTA.descriptor(),
        SHARES.descriptor(),
        LIMIT.descriptor(),
        RESERVATION.descriptor(),
        SWAP_LIMIT.descriptor(),
    ]
}

/// That it is there.
pub(super) fn put_life(list: &mut List, started: Option<Timestamp>) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    list.put(&LAST_SEEN, [], now.as_secs());
    if let Some(second) = started.and_then(|at| u64::try_from(at.as_second()).ok()) {
        list.put(&START, [], second);
    }
}

/// Limits: those of memory as they are in force, the others as they were asked for.
pub(super) fn put_limits(list: &mut List, asked: &Resources, memory: &Memory) {
    let set = |value: Option<u64>, default| value.filter(|value| *value > 0).unwrap_or(default);
    list.put(&PERIOD, [], set(asked.cpu_period, DEFAULT_PERIOD));
    if let Some(quota) = asked.cpu_quota.and_then(|q| u64::try_from(q).ok()).filter(|q| *q > 0) {
        list.put(&QUOTA, [], quota);
    }
    list.put(&SHARES, [], set(asked.cpu_shares, DEFAULT_SHARES));
    list.put(&LIMIT, [], memory.limit.unwrap_or_default());
    // Kubernetes protects memory by a file of v2, which cAdvisor reads here.
    let protected = asked.unified.get("memory.min").and_then(|text| text.trim().parse().ok());
    list.put(&RESERVATION, [], protected.or(asked.memory_reservation).unwrap_or_default());
    list.put(&SWAP_LIMIT, [], memory.swap_limit.unwrap_or_default());
}
