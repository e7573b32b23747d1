//! Ethernet addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

/// A unicast Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr([u8; 6]);

impl MacAddr {
    /// The locally administered address `02:42:` and the four bytes of `address`, as Docker
    /// derives it: unique on the network because the address is, and the same after a restart, so
    /// that neighbours' ARP entries stay right.
    #[must_use]
    pub const fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The six bytes.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddr {
    type Err = NetworkError;

    /// Six hexadecimal bytes between colons or dashes.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let invalid = || NetworkError::InvalidMac { text: text.chars().take(64).collect() };
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0u8; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(invalid)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(invalid());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        // The lowest bit of the first byte marks a group: no interface may have such an address.
        if parts.next().is_some() || octets[0] & 1 == 1 || octets == [0; 6] {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

impl TryFrom<String> for MacAddr {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_as_docker_does() {
        let mac = MacAddr::of(Ipv4Addr::new(172, 30, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:1e:00:02");
        assert_eq!("02-42-AC-1E-00-02".parse::<MacAddr>().unwrap(), mac);
    }

    #[test]
    fn refuses_groups_and_garbage() {
        for bad in [
            "",
            "02:42:ac:1e:00",
            "02:42:ac:1e:00:02:03",
            "01:00:5e:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "00:00:00:00:00:00",
            "2:42:ac:1e:0:2",
            "+2:42:ac:1e:00:02",
            "02:42:ac:1e:00:02\n",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad:?}");
        }
    }
}
