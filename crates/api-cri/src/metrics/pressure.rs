//! Time lost by waiting. There is none on cgroup v1.

use pouch_cgroup::stats::{Pressure, Pressures};
use pouch_cri_grpc as cri;

use super::family::{Family, List, seconds};

/// All waited, some waited.
type Pair = (Family<0>, Family<0>);

const CPU: Pair = (
    Family::counter(
        "container_pressure_cpu_stalled_seconds_total",
        [],
        "Time in which all tasks waited for a processor, in seconds.",
    ),
    Family::counter(
        "container_pressure_cpu_waiting_seconds_total",
        [],
        "Time in which tasks waited for a processor, in seconds.",
    ),
);
const MEMORY: Pair = (
    Family::counter(
        "container_pressure_memory_stalled_seconds_total",
        [],
        "Time in which all tasks waited for memory, in seconds.",
    ),
    Family::counter(
        "container_pressure_memory_waiting_seconds_total",
        [],
        "Time in which tasks waited for memory, in seconds.",
    ),
);
const IO: Pair = (
    Family::counter(
        "container_pressure_io_stalled_seconds_total",
        [],
        "Time in which all tasks waited for devices, in seconds.",
    ),
    Family::counter(
        "container_pressure_io_waiting_seconds_total",
        [],
        "Time in which tasks waited for devices, in seconds.",
    ),
);

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    let pairs = [CPU, MEMORY, IO];
    pairs.iter().flat_map(|(all, some)| [all.descriptor(), some.descriptor()]).collect()
}

pub(super) fn put(list: &mut List, pressure: &Pressures) {
    let mut one = |(all, some): &Pair, pressure: Option<&Pressure>| {
        let Some(pressure) = pressure else { return };
        if let Some(full) = &pressure.full {
            list.put(all, [], seconds(full.total));
        }
        list.put(some, [], seconds(pressure.some.total));
    };
    one(&CPU, pressure.cpu.as_ref());
    one(&MEMORY, pressure.memory.as_ref());
    one(&IO, pressure.io.as_ref());
}
