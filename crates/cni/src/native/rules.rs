//! The packet rules of native attachments: one table, `inet pouch_cni`.
//!
//! | chain | hook, priority | why |
//! | --- | --- | --- |
//! | `guard` | prerouting, raw | nothing from a bridge to or from 127.0.0.0/8: with published ports the bridge has `route_localnet`, so the kernel itself no longer drops it (CVE-2020-8558) |
//! | `prerouting` | prerouting, dstnat | published ports, from outside and from pods |
//! | `output` | output, -100 | published ports, from the host itself |
//! | `postrouting` | postrouting, srcnat | the host's address for what a pod sends out of its subnet, and for what could not find back |
//!
//! Rules stand once; a pod is elements of maps: `masq4` by its address to a chain of its subnet,
//! `back4` likewise, `ports4` and `ports4-addr` by transport and port to it, and the same for IPv6.
//! Chains of a subnet are made with the first pod in it, by the program `nft`, and stay until
//! [`Channel::remove_table`](super::elements::Channel::remove_table). The elements of 127.0.0.1 are what
//! keeps `localhost:port` working; packets that come in with such a destination are not
//! translated.

use std::fmt::Write as _;

use crate::cidr::Cidr;

/// Ours alone, so that no other program's rules are ever touched.
pub(crate) const TABLE: &str = "pouch_cni";

/// What a subnet behind a bridge needs before its pods have elements.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) bridge: String,
    /// In order and without the host's bits.
    pub(crate) subnets: Vec<String>,
}

impl Place {
    pub(crate) fn new(bridge: &str, addresses: impl Iterator<Item = Cidr>) -> Self {
        let mut subnets: Vec<_> = addresses.map(|a| a.network().to_string()).collect();
        subnets.sort();
        subnets.dedup();
        Self { bridge: bridge.to_owned(), subnets }
    }
}

pub(crate) const fn masquerade(address: Cidr) -> &'static str {
    if address.is_v4() { "masq4" } else { "masq6" }
}

pub(crate) const fn returning(address: Cidr) -> &'static str {
    if address.is_v4() { "back4" } else { "back6" }
}

pub(crate) const fn ports(address: std::net::IpAddr, by_address: bool) -> &'static str {
    match (address.is_ipv4(), by_address) {
        (true, false) => "ports4",
        (true, true) => "ports4-addr",
        (false, false) => "ports6",
        (false, true) => "ports6-addr",
    }
}

/// A word that nft's grammar takes: letters, digits, `.`, `_` and `-`.
fn word(subnet: Cidr) -> String {
    subnet.network().to_string().replace('/', "_").replace(':', "-")
}

pub(crate) fn masquerade_chain(address: Cidr) -> String {
    format!("masq-{}", word(address))
}

pub(crate) fn returning_chain(address: Cidr) -> String {
    format!("back-{}", word(address))
}

const SETS: [&str; 9] = [
    "set {t} bridges { type ifname; }",
    "map {t} ports4 { type inet_proto . inet_service : ipv4_addr . inet_service; }",
    "map {t} ports4-addr { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }",
    "map {t} ports6 { type inet_proto . inet_service : ipv6_addr . inet_service; }",
    "map {t} ports6-addr { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }",
    "map {t} masq4 { type ipv4_addr : verdict; }",
    "map {t} masq6 { type ipv6_addr : verdict; }",
    "map {t} back4 { type ipv4_addr : verdict; }",
    "map {t} back6 { type ipv6_addr : verdict; }",
];

const CHAINS: [(&str, &str, &[&str]); 4] = [
    (
        "guard",
        "type filter hook prerouting priority raw; policy accept;",
        &[
            "iifname @bridges ip daddr 127.0.0.0/8 drop",
            "iifname @bridges ip saddr 127.0.0.0/8 drop",
        ],
    ),
    (
        "prerouting",
        "type nat hook prerouting priority dstnat; policy accept;",
        &[
            "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports4-addr",
            "ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @ports4",
            "meta nfproto ipv6 fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6-addr",
            "meta nfproto ipv6 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6",
        ],
    ),
    (
        "output",
        "type nat hook output priority -100; policy accept;",
        &[
            "meta nfproto ipv4 fib daddr type local dnat ip to ip daddr . meta l4proto . th dport map @ports4-addr",
            "meta nfproto ipv4 fib daddr type local dnat ip to meta l4proto . th dport map @ports4",
            // ::1 cannot leave the host, whatever becomes of the destination.
            "ip6 daddr != ::1 fib daddr type local dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6-addr",
            "ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @ports6",
        ],
    ),
    (
        "postrouting",
        "type nat hook postrouting priority srcnat; policy accept;",
        &[
            "ct status dnat ip daddr vmap @back4",
            "ct status dnat ip6 daddr vmap @back6",
            "ip daddr 224.0.0.0/4 return",
            "ip6 daddr ff00::/8 return",
            "ip saddr vmap @masq4",
            "ip6 saddr vmap @masq6",
        ],
    ),
];

/// The batch that makes the table, and the chains of `places`, what they should be. No element is
/// lost by it; bridges are added.
pub(crate) fn render<'a>(places: impl Iterator<Item = &'a Place>) -> String {
    let t = format!("inet {TABLE}");
    let mut text = format!("add table {t}\n");
    // Writing to a String cannot fail.
    for set in SETS {
        let _ = writeln!(text, "add {}", set.replace("{t}", &t));
    }
    for (chain, hook, _) in CHAINS {
        let _ = writeln!(text, "add chain {t} {chain} {{ {hook} }}");
        let _ = writeln!(text, "flush chain {t} {chain}");
    }
    for (chain, _, rules) in CHAINS {
        for rule in rules {
            let _ = writeln!(text, "add rule {t} {chain} {rule}");
        }
    }
    for place in places {
        let _ = writeln!(text, "add element {t} bridges {{ \"{}\" }}", place.bridge);
        for subnet in place.subnets.iter().filter_map(|s| s.parse::<Cidr>().ok()) {
            let ip = if subnet.is_v4() { "ip" } else { "ip6" };
            let (out, back) = (masquerade_chain(subnet), returning_chain(subnet));
            for chain in [&out, &back] {
                let _ = writeln!(text, "add chain {t} {chain}\nflush chain {t} {chain}");
            }
            let _ = writeln!(text, "add rule {t} {out} {ip} daddr {subnet} return");
            let _ = writeln!(text, "add rule {t} {out} masquerade");
            // A pod that reaches a neighbour, or itself, by a port of the host: the answer must
            // pass the host, or it would come from an address that nobody asked.
            let _ = writeln!(text, "add rule {t} {back} {ip} saddr {subnet} masquerade");
            if subnet.is_v4() {
                let _ = writeln!(text, "add rule {t} {back} ip saddr 127.0.0.0/8 masquerade");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_name_chains_that_nft_can_read() {
        let addresses = ["10.1.0.5/16", "fd00:1::5/64", "10.1.0.9/16"];
        let place = Place::new("cni0", addresses.iter().map(|a| a.parse().unwrap()));
        assert_eq!(place.subnets, ["10.1.0.0/16", "fd00:1::/64"]);
        let text = render([&place].into_iter());
        assert!(text.contains("add chain inet pouch_cni masq-10.1.0.0_16\n"), "{text}");
        assert!(text.contains("masq-fd00-1--_64 ip6 daddr fd00:1::/64 return\n"), "{text}");
        assert!(text.contains("bridges { \"cni0\" }"));
        assert!(!text.contains("flush map") && !text.contains("{t}"));
    }
}
