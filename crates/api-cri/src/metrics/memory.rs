//! Memory, swap and huge pages.

use pouch_cgroup::Stats;
use pouch_cgroup::stats::Memory;
use pouch_cri_grpc as cri;

use super::family::{Family, List};
use crate::stats::{line, swapped};

const CACHE: Family<0> = Family::gauge("container_memory_cache", [], "Page cache, in bytes.");
const RSS: Family<0> = Family::gauge("container_memory_rss", [], "Anonymous memory, in bytes.");
const KERNEL: Family<0> =
    Family::gauge("container_memory_kernel_usage", [], "Memory of the kernel, in bytes.");
const MAPPED: Family<0> =
    Family::gauge("container_memory_mapped_file", [], "Files mapped into memory, in bytes.");
const SWAP: Family<0> = Family::gauge("container_memory_swap", [], "Swap in use, in bytes.");
const FAILURES: Family<0> =
    Family::counter("container_memory_failcnt", [], "Times that the limit of memory was hit.");
const USAGE: Family<0> = Family::gauge(
    "container_memory_usage_bytes",
    [],
    "Memory in use with all of the page cache, in bytes.",
);
const MAX_USAGE: Family<0> =
    Family::gauge("container_memory_max_usage_bytes", [], "Most memory ever in use, in bytes.");
const WORKING_SET: Family<0> = Family::gauge(
    "container_memory_working_set_bytes",
    [],
    "Memory in use without page cache that is not, in bytes.",
);
const FAULTS: Family<2> = Family::counter(
    "container_memory_failures_total",
    ["failure_type", "scope"],
    "Page faults, minor and major.",
);
const OOM: Family<0> = Family::counter(
    "container_oom_events_total",
    [],
    "Processes that the kernel killed for want of memory.",
);
const HUGE: Family<1> =
    Family::gauge("container_hugetlb_usage_bytes", ["pagesize"], "Huge pages in use, in bytes.");
const HUGE_MAX: Family<1> = Family::gauge(
    "container_hugetlb_max_usage_bytes",
    ["pagesize"],
    "Most huge pages ever in use, in bytes; cgroup v1 alone counts it.",
);

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    vec![
        CACHE.descriptor(),
        RSS.descriptor(),
        KERNEL.descriptor(),
        MAPPED.descriptor(),
        SWAP.descriptor(),
        FAILURES.descriptor(),
        USAGE.descriptor(),
        MAX_USAGE.descriptor(),
        WORKING_SET.descriptor(),
        FAULTS.descriptor(),
        OOM.descriptor(),
        HUGE.descriptor(),
        HUGE_MAX.descriptor(),
    ]
}

pub(super) fn put(list: &mut List, stats: &Stats) {
    let memory = &stats.memory;
    list.put(&CACHE, [], line(memory, ["total_cache", "file"]));
    list.put(&RSS, [], line(memory, ["total_rss", "anon"]));
    list.put(&KERNEL, [], kernel(memory));
    list.put(&MAPPED, [], line(memory, ["total_mapped_file", "file_mapped"]));
    list.put(&SWAP, [], swapped(stats).unwrap_or_default());
    list.put(&FAILURES, [], memory.failures);
    list.put(&USAGE, [], memory.usage);
    list.put(&MAX_USAGE, [], memory.max_usage);
    list.put(&WORKING_SET, [], memory.working_set());
    // v1 counts a group alone and with those below, v2 only together.
    for kind in ["pgfault", "pgmajfault"] {
        let below = format!("total_{kind}");
        list.put(&FAULTS, [kind, "container"], line(memory, [kind, kind]));
        list.put(&FAULTS, [kind, "hierarchy"], line(memory, [&below, kind]));
    }
    list.put(&OOM, [], memory.oom_kills);
    for pages in &stats.hugetlb {
        list.put(&HUGE, [&pages.page_size], pages.usage);
        // Not less than what is in use, where it is counted.
        if pages.max_usage > 0 {
            list.put(&HUGE_MAX, [&pages.page_size], pages.max_usage);
        }
    }
}

/// v1 has a counter, v2 since Linux 5.18 a line, and its parts before that.
fn kernel(memory: &Memory) -> u64 {
    const PARTS: [&str; 4] = ["kernel_stack", "pagetables", "percpu", "slab"];
    let line = || memory.stat.get("kernel").copied();
    let parts = || PARTS.iter().filter_map(|name| memory.stat.get(*name)).sum();
    memory.kernel_usage.or_else(line).unwrap_or_else(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_kernel_is_what_the_kernel_calls_so() {
        let mut memory = Memory::default();
        assert_eq!(kernel(&memory), 0);
        for (name, value) in [("slab", 3), ("slab_reclaimable", 100), ("percpu", 4)] {
            memory.stat.insert(name.into(), value);
        }
        assert_eq!(kernel(&memory), 7, "before Linux 5.18");
        memory.stat.insert("kernel".into(), 9);
        assert_eq!(kernel(&memory), 9);
        memory.kernel_usage = Some(11);
        assert_eq!(kernel(&memory), 11, "v1");
    }
}
