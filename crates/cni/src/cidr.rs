//! An address with the length of its network's prefix, as in `10.1.0.5/16`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An address and a prefix that fits its family. The host's bits are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// A text that is no address with a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address with a prefix")]
pub struct InvalidCidr(String);

impl Cidr {
    /// `None` when the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// The address, with the host's bits.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the network's part in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv4.
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.address.is_ipv4()
    }

    /// The network that the address is in.
    #[must_use]
    pub fn network(self) -> Self {
        let mask = self.mask();
        Self { address: number_to(self.address, number(self.address) & mask), prefix: self.prefix }
    }

    /// The last address of the network; of IPv4 the broadcast address.
    pub(crate) fn last(self) -> IpAddr {
        let hosts = !self.mask() & everything(self.address);
        number_to(self.address, number(self.address) | hosts)
    }

    /// Whether `other` is in this network.
    #[must_use]
    pub fn contains(self, other: IpAddr) -> bool {
        let mask = self.mask();
        self.address.is_ipv4() == other.is_ipv4()
            && number(self.address) & mask == number(other) & mask
    }

    fn mask(self) -> u128 {
        let bits = u32::from(bits(self.address));
        let hosts = bits - u32::from(self.prefix);
        everything(self.address).checked_shr(hosts).map_or(0, |ones| ones << hosts)
    }
}

/// Bits of an address of that family.
pub(crate) const fn bits(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

const fn everything(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(_) => u32::MAX as u128,
        IpAddr::V6(_) => u128::MAX,
    }
}

/// The address as a number, comparable within its family.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// A number as an address of the family of `like`.
fn number_to(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

/// The address after this one; the family's last is its own successor.
pub(crate) fn next(address: IpAddr) -> IpAddr {
    number_to(address, number(address).saturating_add(1))
}

/// The address before this one.
pub(crate) fn previous(address: IpAddr) -> IpAddr {
    number_to(address, number(address).saturating_sub(1))
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let invalid = || InvalidCidr(text.chars().take(64).collect());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|_| digits).ok_or_else(invalid)?;
        Self::new(address.parse().map_err(|_| invalid())?, prefix).ok_or_else(invalid)
    }
}

impl TryFrom<String> for Cidr {
    type Error = InvalidCidr;

    fn try_from(text: String) -> Result<Self, InvalidCidr> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_their_ends() {
        assert_eq!(cidr("10.1.2.3/16").network().to_string(), "10.1.0.0/16");
        assert_eq!(cidr("10.1.2.3/16").last().to_string(), "10.1.255.255");
        assert_eq!(cidr("fd00::5/64").network().to_string(), "fd00::/64");
        assert_eq!(cidr("fd00::5/64").last().to_string(), "fd00::ffff:ffff:ffff:ffff");
        assert_eq!(cidr("1.2.3.4/0").network().to_string(), "0.0.0.0/0");
        assert_eq!(cidr("::1/0").network().to_string(), "::/0");
        assert!(cidr("0.0.0.0/0").contains("9.9.9.9".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::9".parse().unwrap()));
        assert!(!cidr("10.1.0.0/24").contains("10.1.1.0".parse().unwrap()));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in ["10.0.0.1", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/+8", "x/8", "::/129", ""] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?}");
        }
    }
}
