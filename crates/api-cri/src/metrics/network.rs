//! What went through the interfaces of a pod.

use pouch_cri_grpc as cri;
use pouch_engine::{NetworkCounters, PodNetworks};

use super::family::{Family, List};

type Read = fn(&NetworkCounters) -> u64;

const INTERFACE: [&str; 1] = ["interface"];

const FAMILIES: [(Family<1>, Read); 8] = [
    (Family::counter("container_network_receive_bytes_total", INTERFACE, "Bytes received."), |c| {
        c.rx_bytes
    }),
    (
        Family::counter("container_network_receive_packets_total", INTERFACE, "Packets received."),
        |c| c.rx_packets,
    ),
    (
        Family::counter(
            "container_network_receive_packets_dropped_total",
            INTERFACE,
            "Packets dropped while receiving.",
        ),
        |c| c.rx_dropped,
    ),
    (
        Family::counter(
            "container_network_receive_errors_total",
            INTERFACE,
            "Errors while receiving.",
        ),
        |c| c.rx_errors,
    ),
    (Family::counter("container_network_transmit_bytes_total", INTERFACE, "Bytes sent."), |c| {
        c.tx_bytes
    }),
    (
        Family::counter("container_network_transmit_packets_total", INTERFACE, "Packets sent."),
        |c| c.tx_packets,
    ),
    (
        Family::counter(
            "container_network_transmit_packets_dropped_total",
            INTERFACE,
            "Packets dropped while sending.",
        ),
        |c| c.tx_dropped,
    ),
    (
        Family::counter(
            "container_network_transmit_errors_total",
            INTERFACE,
            "Errors while sending.",
        ),
        |c| c.tx_errors,
    ),
];

pub(super) fn descriptors() -> Vec<cri::MetricDescriptor> {
    FAMILIES.iter().map(|(family, _)| family.descriptor()).collect()
}

pub(super) fn put(list: &mut List, networks: &PodNetworks) {
    for (name, counters) in networks.default.iter().chain(&networks.others) {
        for (family, read) in &FAMILIES {
            list.put(family, [name], read(counters));
        }
    }
}
