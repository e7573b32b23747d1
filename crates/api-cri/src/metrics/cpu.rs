//! Processor time.

use pouch_cgroup::stats::Cpu;
use pouch_cri_grpc as cri;

use super::family::{Family, List, seconds};

const USER: Family<0> = Family::counter(
    "container_cpu_user_seconds_total",
    [],
    "Processor time in user mode, in seconds.",
);
const SYSTEM: Family<0> = Family::counter(
    "container_cpu_system_seconds_total",
    [],
    "Processor time in the kernel, in seconds.",
);
const USAGE: Family<1> =
    Family::counter("container_cpu_usage_seconds_total", ["cpu"], "Processor time, in seconds.");
const PERIODS: Family<0> =
    Family::counter("container_cpu_cfs_periods_total", [], "Periods of the CPU quota that passed.");
const THROTTLED_PERIODS: Family<0> = Family::counter(
    "container_cpu_cfs_throttled_periods_total",
    [],
    "Periods in which the CPU quota was used up.",
);
const THROTTLED: Family<0> = Family::counter(
    "container_cpu_cfs_throttled_seconds_total",
    [],
    "Time spent waiting for CPU quota, in seconds.",
);

/// What kubelet's cAdvisor writes for a counter of all processors.
const ALL_CPUS: &str = "total";

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    vec![
        USER.descriptor(),
        SYSTEM.descriptor(),
        USAGE.descriptor(),
        PERIODS.descriptor(),
        THROTTLED_PERIODS.descriptor(),
        THROTTLED.descriptor(),
    ]
}

pub(super) fn put(list: &mut List, cpu: &Cpu) {
    list.put(&USER, [], seconds(cpu.user));
    list.put(&SYSTEM, [], seconds(cpu.system));
    list.put(&USAGE, [ALL_CPUS], seconds(cpu.total));
    list.put(&PERIODS, [], cpu.periods);
    list.put(&THROTTLED_PERIODS, [], cpu.throttled_periods);
    list.put(&THROTTLED, [], seconds(cpu.throttled));
}
