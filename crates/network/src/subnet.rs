//! IPv4 subnets: arithmetic, and the choice of one that the host does not use.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// An IPv4 subnet in canonical form: no host bits set, prefix length 0 to 32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    base: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// The subnet of `prefix` bits that `address` lies in; `None` when `prefix` exceeds 32.
    #[must_use]
    pub fn around(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        let base = Ipv4Addr::from_bits(address.to_bits() & mask(prefix)?);
        Some(Self { base, prefix })
    }

    /// Its first address, which no host has.
    #[must_use]
    pub const fn base(self) -> Ipv4Addr {
        self.base
    }

    /// Bits of the network part.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Its last address, that of everybody.
    #[must_use]
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base.to_bits() | !mask(self.prefix).unwrap_or(u32::MAX))
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.base..=self.broadcast()).contains(&address)
    }

    /// Whether `address` may belong to an interface in it.
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && address != self.base && address != self.broadcast()
    }

    /// Whether they share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.base) || other.contains(self.base)
    }

    /// The host addresses after `cursor`, then those up to it: allocation in this order gives an
    /// address again only after all others. A cursor outside starts from the first.
    pub(crate) fn hosts_after(self, cursor: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let (first, end) =
            (self.base.to_bits().saturating_add(1), self.broadcast().to_bits().max(1));
        let next = match cursor.to_bits().saturating_add(1) {
            next if (first..end).contains(&next) => next,
            _ => first,
        };
        (next..end).chain(first..next).map(Ipv4Addr::from_bits)
    }

    /// The candidates for a bridge, in order of preference: the private 172 range from its end,
    /// since other engines take it from its beginning, then parts of 192.168 and 10.
    #[must_use]
    pub fn default_pools() -> Vec<Self> {
        let wide = (18..=30).rev().map(|n| (Ipv4Addr::new(172, n, 0, 0), 16));
        let small = (192u8..=240).step_by(16).map(|n| (Ipv4Addr::new(192, 168, n, 0), 20));
        let ten = (200..=214).rev().map(|n| (Ipv4Addr::new(10, n, 0, 0), 16));
        wide.chain(small).chain(ten).map(|(base, prefix)| Self { base, prefix }).collect()
    }
}

fn mask(prefix: u8) -> Option<u32> {
    match prefix {
        0 => Some(0),
        1..=32 => Some(u32::MAX << (32 - prefix)),
        _ => None,
    }
}

/// The first of `pools` that overlaps nothing in `used`.
pub(crate) fn first_free(pools: &[Subnet], used: &[Subnet]) -> Option<Subnet> {
    pools.iter().copied().find(|pool| !used.iter().any(|subnet| subnet.overlaps(*pool)))
}

impl FromStr for Subnet {
    type Err = NetworkError;

    /// Parses `a.b.c.d/n`; host bits are dropped, as Docker does for `--subnet`.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        text.split_once('/')
            .and_then(|(base, prefix)| Self::around(base.parse().ok()?, prefix.parse().ok()?))
            .ok_or_else(|| NetworkError::InvalidSubnet { text: text.chars().take(64).collect() })
    }
}

impl TryFrom<String> for Subnet {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_normalises() {
        assert_eq!(net("172.30.5.1/16").to_string(), "172.30.0.0/16");
        assert_eq!(net("0.0.0.0/0").broadcast(), Ipv4Addr::BROADCAST);
        for bad in ["", "1.2.3.4", "1.2.3.4/33", "1.2.3/8", "::/64", "1.2.3.4/-1"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("172.30.0.0/16", "172.30.4.0/24", true),
            ("172.30.0.0/16", "172.31.0.0/16", false),
            ("10.0.0.0/8", "10.255.255.255/32", true),
            ("0.0.0.0/0", "10.0.0.0/8", true),
        ] {
            assert_eq!(net(a).overlaps(net(b)), expected, "{a} {b}");
            assert_eq!(net(b).overlaps(net(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn hosts_go_round_and_skip_the_ends() {
        let all = |cursor| net("10.0.0.0/29").hosts_after(cursor).collect::<Vec<_>>();
        let host = |n| Ipv4Addr::new(10, 0, 0, n);
        assert_eq!(all(host(0)), (1..=6).map(host).collect::<Vec<_>>());
        assert_eq!(all(host(4)), [5, 6, 1, 2, 3, 4].map(host));
        assert_eq!(all(host(6)), (1..=6).map(host).collect::<Vec<_>>());
        assert_eq!(all(Ipv4Addr::new(9, 9, 9, 9)), (1..=6).map(host).collect::<Vec<_>>());
        assert_eq!(net("10.0.0.0/32").hosts_after(host(0)).count(), 0);
        assert_eq!(net("10.0.0.0/31").hosts_after(host(0)).count(), 0);
    }

    #[test]
    fn the_first_pool_that_nobody_uses_is_taken() {
        let pools = Subnet::default_pools();
        assert_eq!(first_free(&pools, &[]), Some(net("172.30.0.0/16")));
        assert_eq!(first_free(&pools, &[net("172.30.9.0/24")]), Some(net("172.29.0.0/16")));
        assert_eq!(first_free(&pools, &[net("172.16.0.0/12")]), Some(net("192.168.192.0/20")));
        assert_eq!(first_free(&pools, &[net("0.0.0.0/0")]), None);
    }
}
