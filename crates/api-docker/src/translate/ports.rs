//! Ports: `80/tcp`, ranges, and where they are published.

use std::collections::{BTreeMap, BTreeSet};

use pouch_docker_types::container::{PortBinding as WireBinding, PortMap};
use pouch_types::spec::{Port, PortBinding, Protocol};

use super::value::{address, bad};
use crate::http::ApiResult;

/// Ports of one request; more cannot be meant and would cost memory.
const PORTS_MAX: usize = 65_536;

/// `80`, `80-90`: first and last.
fn read_range(field: &str, text: &str) -> ApiResult<(u16, u16)> {
    let wrong = || bad(field, format_args!("invalid port range '{text}'"));
    let number = |digits: &str| digits.parse::<u16>().map_err(|_| wrong());
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    if first > last {
        return Err(wrong());
    }
    Ok((first, last))
}

/// `80/tcp`, `80-90/udp`, `80`.
fn read_spec(field: &str, text: &str) -> ApiResult<(u16, u16, Protocol)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(bad(field, format_args!("invalid protocol '{other}'"))),
    };
    let (first, last) = read_range(field, numbers)?;
    if first == 0 {
        return Err(bad(field, format_args!("invalid port '{text}'")));
    }
    Ok((first, last, protocol))
}

/// The keys of `ExposedPorts`.
pub(super) fn read_set<'a>(
    field: &str,
    keys: impl Iterator<Item = &'a String>,
) -> ApiResult<BTreeSet<Port>> {
    let mut ports = BTreeSet::new();
    for key in keys {
        let (first, last, protocol) = read_spec(field, key)?;
        ports.extend((first..=last).map(|number| Port { number, protocol }));
    }
    Ok(ports)
}

/// `HostConfig.PortBindings`.
pub(super) fn read_bindings(map: PortMap) -> ApiResult<Vec<PortBinding>> {
    const FIELD: &str = "PortBindings";
    let mut bindings = Vec::new();
    for (key, hosts) in map {
        let (first, last, protocol) = read_spec(FIELD, &key)?;
        for host in hosts.unwrap_or_default() {
            let host_ip = match host.host_ip.as_str() {
                "" => None,
                text => Some(address(FIELD, text)?),
            };
            let host_ports = match host.host_port.as_str() {
                "" | "0" => None,
                text => Some(read_range(FIELD, text)?),
            };
            for number in first..=last {
                let container = Port { number, protocol };
                bindings.push(PortBinding { container, host_ip, host_ports });
            }
            if bindings.len() > PORTS_MAX {
                return Err(bad(FIELD, "too many ports"));
            }
        }
    }
    Ok(bindings)
}

/// `80/tcp`.
pub(crate) fn write_port(port: Port) -> String {
    format!("{}/{}", port.number, port.protocol.as_str())
}

/// `HostConfig.PortBindings` as inspect shows it.
pub(super) fn write_bindings(bindings: &[PortBinding]) -> PortMap {
    let mut map: PortMap = BTreeMap::new();
    for binding in bindings {
        let host_port = match binding.host_ports {
            None => String::new(),
            Some((first, last)) if first == last => first.to_string(),
            Some((first, last)) => format!("{first}-{last}"),
        };
        let host_ip = binding.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
        map.entry(write_port(binding.container))
            .or_default()
            .get_or_insert_default()
            .push(WireBinding { host_ip, host_port });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(key: &str, ip: &str, port: &str) -> ApiResult<Vec<PortBinding>> {
        let host = WireBinding { host_ip: ip.to_owned(), host_port: port.to_owned() };
        read_bindings(BTreeMap::from([(key.to_owned(), Some(vec![host]))]))
    }

    #[test]
    fn reads() {
        let one = &bind("80/tcp", "", "8080").unwrap()[0];
        assert_eq!(
            (one.container.number, one.host_ip, one.host_ports),
            (80, None, Some((8080, 8080)))
        );
        assert_eq!(bind("80", "::1", "").unwrap()[0].host_ip, Some("::1".parse().unwrap()));
        assert_eq!(bind("53/UDP", "0.0.0.0", "0").unwrap()[0].host_ports, None);
        assert_eq!(bind("80-82", "", "8000-8010").unwrap().len(), 3);
        assert!(read_bindings(BTreeMap::from([("80/tcp".to_owned(), None)])).unwrap().is_empty());
        for (key, ip, port) in [
            ("0/tcp", "", ""),
            ("65536", "", ""),
            ("80/icmp", "", ""),
            ("x", "", ""),
            ("90-80", "", ""),
            ("80", "nope", ""),
            ("80", "", "x"),
            ("80", "", "9-8"),
            ("80", "", "70000"),
            ("", "", ""),
        ] {
            assert!(bind(key, ip, port).is_err(), "{key} {ip} {port}");
        }
    }

    #[test]
    fn exposed_ranges_are_spread() {
        let keys = ["80-82/tcp".to_owned(), "81".to_owned(), "53/udp".to_owned()];
        assert_eq!(read_set("ExposedPorts", keys.iter()).unwrap().len(), 4);
    }
}
