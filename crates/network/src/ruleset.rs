//! The packet rules: one nftables table `inet pouch` (`inet pouch_<bridge>` for a daemon whose
//! bridge is not `pouch0`).
//!
//! | chain | hook, priority | why |
//! | --- | --- | --- |
//! | `guard` | prerouting, raw (-300) | before connection tracking: nothing from the bridge to or from 127.0.0.0/8. The bridge has `route_localnet`, so the kernel itself no longer drops it |
//! | `prerouting` | prerouting, dstnat (-100) | published ports, for packets from outside and from containers |
//! | `output` | output, -100 | published ports, for the host's own packets, 127.0.0.1 among them |
//! | `forward` | forward, filter (0) | into the bridge only replies and what a published port translated; `pouch-user` first |
//! | `postrouting` | postrouting, srcnat (100) | the host's address for what leaves it; the bridge's for what could not find its way back |
//!
//! Published ports are elements of two maps, `ports-addr` (one host address) and `ports-any`, from
//! transport and port to the container's address and port. Neither their number nor that of the
//! containers adds a rule.
//!
//! 127.0.0.0/8 is never translated in `prerouting`: the host's own packets are translated in
//! `output`, so what arrives with such a destination is a neighbour's forgery (SEC-52).
//!
//! **The host's own firewall.** `accept` in one table does not overrule another's drop: a host
//! with an iptables `FORWARD` policy of DROP (a Docker host, ufw) drops our containers' traffic
//! until its administrator lets the bridge through; we never add rules outside our table. An
//! administrator's rules for containers belong in `pouch-user`, which sees forwarded packets
//! first, is made empty, and is never changed or emptied by us. It outlives
//! [`Ruleset::remove`] if it has rules.

use std::fmt::Write as _;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use pouch_types::spec::Protocol;
use pouch_types::{Classified, ErrorKind};

use crate::config::{Icc, Masquerade};
use crate::subnet::Subnet;

/// The chain for the administrator's own rules.
pub const USER_CHAIN: &str = "pouch-user";

/// A failure to change the packet rules.
#[derive(Debug, thiserror::Error)]
pub enum RulesetError {
    /// The program `nft` is not installed.
    #[error("nft is not installed (package nftables)")]
    Missing,
    /// It could not be run.
    #[error("cannot run {program}")]
    Run {
        /// Its path.
        program: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// It refused; nothing was changed.
    #[error("nft refused: {message}")]
    Refused {
        /// What it said, cut.
        message: String,
    },
    /// Its answer is not what it documents.
    #[error("nft gave an answer that does not parse")]
    Answer(#[source] serde_json::Error),
    /// It did not end in time and was killed.
    #[error("nft did not end within {0:?}")]
    Deadline(Duration),
}

impl Classified for RulesetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing => ErrorKind::Unsupported,
            Self::Run { source, .. } => pouch_types::error::io_kind(source),
            Self::Refused { .. } | Self::Answer(_) => ErrorKind::Internal,
            Self::Deadline(_) => ErrorKind::DeadlineExceeded,
        }
    }
}

/// What the rules are built for.
#[derive(Debug, Clone)]
pub struct Base {
    /// The bridge.
    pub bridge: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// Direct traffic between containers.
    pub icc: Icc,
    /// Source address of what leaves the host.
    pub masquerade: Masquerade,
    /// Forwarding between interfaces that are not ours.
    pub transit: ForeignTransit,
}

/// What happens to forwarded packets that neither come from nor go to our bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignTransit {
    /// They pass, as far as we are concerned.
    Pass,
    /// They are dropped unless a bridge is involved: forwarding was off before we turned it on,
    /// so nothing but a bridge, whose owner may have come later, can rely on it.
    Drop,
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Transport.
    pub protocol: Protocol,
    /// Host address; 0.0.0.0 is all.
    pub host_ip: Ipv4Addr,
    /// Host port.
    pub host_port: u16,
    /// Container's address.
    pub address: Ipv4Addr,
    /// Container's port.
    pub port: u16,
}

/// How packet rules get into the kernel. Each method is atomic.
#[async_trait]
pub trait Ruleset: Send + Sync + std::fmt::Debug {
    /// Makes the rules exactly those of `base` and `published`, whatever was there.
    async fn install(&self, base: &Base, published: &[Forward]) -> Result<(), RulesetError>;

    /// Adds published ports. Fails when the rules are not installed.
    async fn publish(&self, added: &[Forward]) -> Result<(), RulesetError>;

    /// Removes published ports. Fails, and removes none, when one of them is not there.
    async fn withdraw(&self, removed: &[Forward]) -> Result<(), RulesetError>;

    /// Removes everything that is ours; an absent table is no error.
    async fn remove(&self) -> Result<(), RulesetError>;
}

/// The name of the table for a daemon with this bridge.
#[must_use]
pub fn table_name(bridge: &str) -> String {
    match bridge {
        "pouch0" => "pouch".into(),
        other => format!("pouch_{other}"),
    }
}

const CHAINS: [(&str, &str); 5] = [
    ("guard", "type filter hook prerouting priority raw; policy accept;"),
    ("prerouting", "type nat hook prerouting priority dstnat; policy accept;"),
    ("output", "type nat hook output priority -100; policy accept;"),
    ("forward", "type filter hook forward priority filter; policy accept;"),
    ("postrouting", "type nat hook postrouting priority srcnat; policy accept;"),
];
const MAPS: [(&str, &str); 2] = [
    ("ports-addr", "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;"),
    ("ports-any", "type inet_proto . inet_service : ipv4_addr . inet_service;"),
];
/// Elements in one command line.
const ELEMENTS: usize = 512;

/// The batch that makes the table what it should be. Every value in it is a number, an address or
/// the bridge's checked name.
pub(crate) fn render_install(table: &str, base: &Base, published: &[Forward]) -> String {
    let mut text = String::new();
    let t = format!("inet {table}");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("add table {t}"));
    line(format!("add chain {t} {USER_CHAIN}"));
    for (map, kind) in MAPS {
        line(format!("add map {t} {map} {{ {kind} }}"));
        line(format!("flush map {t} {map}"));
    }
    for (chain, hook) in CHAINS {
        line(format!("add chain {t} {chain} {{ {hook} }}"));
        line(format!("flush chain {t} {chain}"));
    }
    for (chain, rule) in rules(base) {
        line(format!("add rule {t} {chain} {rule}"));
    }
    text.push_str(&render_elements("add", table, published, Form::Full));
    text
}

fn rules(base: &Base) -> Vec<(&'static str, String)> {
    let b = format!("\"{}\"", base.bridge);
    let subnet = base.subnet;
    let by_address = "dnat ip to ip daddr . meta l4proto . th dport map @ports-addr";
    let by_port = "dnat ip to meta l4proto . th dport map @ports-any";
    let mut rules = vec![
        ("guard", format!("iifname {b} ip daddr 127.0.0.0/8 drop")),
        ("guard", format!("iifname {b} ip saddr 127.0.0.0/8 drop")),
        ("prerouting", format!("ip daddr != 127.0.0.0/8 fib daddr type local {by_address}")),
        ("prerouting", format!("ip daddr != 127.0.0.0/8 fib daddr type local {by_port}")),
        ("output", format!("fib daddr type local {by_address}")),
        ("output", format!("fib daddr type local {by_port}")),
        ("forward", format!("jump {USER_CHAIN}")),
    ];
    if base.transit == ForeignTransit::Drop {
        let foreign = format!("iifname != {b} oifname != {b}");
        let rule = format!("{foreign} meta iifkind != \"bridge\" meta oifkind != \"bridge\" drop");
        rules.push(("forward", rule));
    }
    rules.push(("forward", format!("iifname != {b} oifname != {b} accept")));
    rules.push(("forward", "ct state established,related accept".into()));
    // A bridged frame passes here too where br_netfilter is on, with the bridge on both sides.
    rules.push(("forward", format!("oifname {b} ct status dnat accept")));
    let between = match base.icc {
        Icc::Allowed => "accept",
        Icc::Isolated => "drop",
    };
    rules.push(("forward", format!("iifname {b} oifname {b} {between}")));
    rules.push(("forward", format!("oifname {b} drop")));
    if base.masquerade == Masquerade::On {
        rules.push(("postrouting", format!("ip saddr {subnet} oifname != {b} masquerade")));
    }
    // From the host's 127.0.0.1 to a container: it could not answer that address.
    rules.push(("postrouting", format!("oifname {b} ip saddr 127.0.0.0/8 masquerade")));
    // From a container through a published port to one on the same bridge, itself perhaps: the
    // answer must pass the host, or it would come from an address that nobody asked.
    rules.push(("postrouting", format!("oifname {b} ip saddr {subnet} ct status dnat masquerade")));
    rules
}

/// Whether an element is written with its value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Full,
    Key,
}

/// `add element` or `delete element` commands for all of `forwards`.
pub(crate) fn render_elements(verb: &str, table: &str, forwards: &[Forward], form: Form) -> String {
    let (any, addr): (Vec<&Forward>, Vec<&Forward>) =
        forwards.iter().partition(|f| f.host_ip.is_unspecified());
    let mut text = String::new();
    for (map, forwards) in [("ports-addr", addr), ("ports-any", any)] {
        for some in forwards.chunks(ELEMENTS) {
            let elements = some.iter().map(|f| element(f, form)).collect::<Vec<_>>().join(", ");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{verb} element inet {table} {map} {{ {elements} }}");
        }
    }
    text
}

fn element(f: &Forward, form: Form) -> String {
    // A number: nft would look a name up in /etc/protocols, which a small host may lack.
    let protocol = match f.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let mut text = String::new();
    if !f.host_ip.is_unspecified() {
        text = format!("{} . ", f.host_ip);
    }
    let _ = write!(text, "{protocol} . {}", f.host_port);
    if form == Form::Full {
        let _ = write!(text, " : {} . {}", f.address, f.port);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(host_ip: [u8; 4], host_port: u16) -> Forward {
        Forward {
            protocol: Protocol::Tcp,
            host_ip: host_ip.into(),
            host_port,
            address: Ipv4Addr::new(172, 30, 0, 2),
            port: 80,
        }
    }

    #[test]
    fn a_range_is_a_few_lines_and_each_map_gets_its_own() {
        let mut range: Vec<_> = (8000..9000).map(|p| forward([0; 4], p)).collect();
        range.push(forward([127, 0, 0, 1], 80));
        let text = render_elements("add", "pouch", &range, Form::Full);
        assert_eq!(text.lines().count(), 3);
        assert!(text.starts_with(
            "add element inet pouch ports-addr { 127.0.0.1 . 6 . 80 : 172.30.0.2 . 80 }\n"
        ));
        assert!(text.contains("6 . 8999 : 172.30.0.2 . 80 }"));
        let text = render_elements("delete", "pouch", &range[..1], Form::Key);
        assert_eq!(text, "delete element inet pouch ports-any { 6 . 8000 }\n");
        assert_eq!(render_elements("add", "pouch", &[], Form::Full), "");
    }

    #[test]
    fn the_user_chain_is_never_flushed_and_comes_first() {
        let mut base = Base {
            bridge: "pouch0".into(),
            subnet: "172.30.0.0/16".parse().unwrap(),
            icc: Icc::Allowed,
            masquerade: Masquerade::On,
            transit: ForeignTransit::Drop,
        };
        let text = render_install("pouch", &base, &[]);
        assert!(!text.contains("flush chain inet pouch pouch-user"));
        let first = text.lines().find(|l| l.starts_with("add rule inet pouch forward")).unwrap();
        assert_eq!(first, "add rule inet pouch forward jump pouch-user");
        assert!(text.contains("meta iifkind"));
        assert!(text.contains("iifname \"pouch0\" oifname \"pouch0\" accept"));
        base.icc = Icc::Isolated;
        base.masquerade = Masquerade::Off;
        base.transit = ForeignTransit::Pass;
        let text = render_install("pouch", &base, &[]);
        assert!(text.contains("iifname \"pouch0\" oifname \"pouch0\" drop"));
        assert!(!text.contains("meta iifkind"));
        assert!(!text.contains("ip saddr 172.30.0.0/16 oifname != "));
    }

    #[test]
    fn daemons_with_other_bridges_have_other_tables() {
        assert_eq!(table_name("pouch0"), "pouch");
        assert_eq!(table_name("br-test"), "pouch_br-test");
    }
}
