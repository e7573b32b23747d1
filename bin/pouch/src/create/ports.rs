//! `-p` and `--expose`: `[[address:][host port[-last]]:]port[-last][/protocol]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pouch_docker_types::Empty;
use pouch_docker_types::container::{PortBinding, PortMap};

use crate::failure::Failure;

/// What the flags amount to.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) exposed: BTreeMap<String, Empty>,
    pub(super) bindings: PortMap,
}

pub(super) fn published(publish: &[String], expose: &[String]) -> Result<Published, Failure> {
    let mut out = Published::default();
    for text in publish {
        one(text, &mut out)
            .map_err(|why| Failure::new(format!("invalid port {text:?} for --publish: {why}")))?;
    }
    for text in expose {
        let fail = |why: String| Failure::new(format!("invalid port {text:?} for --expose: {why}"));
        if text.contains(':') {
            return Err(fail("use --publish for ports of the host".to_owned()));
        }
        let (ports, protocol) = protocol(text).map_err(fail)?;
        let (first, last) = range(ports).map_err(fail)?;
        for port in first..=last {
            out.exposed.insert(format!("{port}/{protocol}"), Empty {});
        }
    }
    Ok(out)
}

fn one(text: &str, out: &mut Published) -> Result<(), String> {
    let (rest, protocol) = protocol(text)?;
    let (host, container) = match rest.rsplit_once(':') {
        Some((host, container)) => (host, container),
        None => ("", rest),
    };
    let (address, host_ports) = match host.rsplit_once(':') {
        Some((address, ports)) => (address, ports),
        // `[::1]` alone would be an address without ports; a single word is ports.
        None => ("", host),
    };
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(format!("{address:?} is not an IP address"));
    }
    if container.is_empty() {
        return Err("the container's port is missing".to_owned());
    }
    let (first, last) = range(container)?;
    let hosts = if host_ports.is_empty() { None } else { Some(range(host_ports)?) };
    if let Some((low, high)) = hosts {
        let (ours, theirs) = (last - first, high - low);
        // A range for one port lets the daemon choose within it.
        if ours != theirs && first != last {
            return Err("the ranges of host and container differ in length".to_owned());
        }
    }
    for (offset, port) in (first..=last).enumerate() {
        let key = format!("{port}/{protocol}");
        let host_port = match hosts {
            None => String::new(),
            Some((low, high)) if first == last && low != high => format!("{low}-{high}"),
            Some((low, _)) => (usize::from(low) + offset).to_string(),
        };
        out.exposed.insert(key.clone(), Empty {});
        let binding = PortBinding { host_ip: address.to_owned(), host_port };
        out.bindings.entry(key).or_default().get_or_insert_default().push(binding);
    }
    Ok(())
}

fn protocol(text: &str) -> Result<(&str, String), String> {
    let (ports, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    match protocol.as_str() {
        "tcp" | "udp" | "sctp" => Ok((ports, protocol)),
        _ => Err(format!("unknown protocol {protocol:?}: want tcp, udp or sctp")),
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let port = |digits: &str| {
        digits.parse::<u16>().map_err(|_| format!("{digits:?} is not a port number"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err(format!("{text:?} is not a range")) } else { Ok((first, last)) }
}
