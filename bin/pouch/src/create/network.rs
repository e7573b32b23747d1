//! `--network` with its aliases and addresses, `--add-host`.

use std::net::IpAddr;

use pouch_docker_types::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};

use crate::failure::Failure;
use crate::flags::container::ContainerFlags;

/// Where a container is attached.
#[derive(Debug, Default)]
pub(super) struct Attachments {
    pub(super) mode: String,
    pub(super) config: Option<NetworkingConfig>,
}

#[derive(Debug, Default, Clone, PartialEq)]
struct Endpoint {
    network: String,
    settings: EndpointSettings,
    ipam: EndpointIpamConfig,
}

pub(super) fn attachments(flags: &ContainerFlags) -> Result<Attachments, Failure> {
    let mut endpoints =
        flags.network.iter().map(|text| endpoint(text)).collect::<Result<Vec<_>, _>>()?;
    if endpoints.is_empty() {
        endpoints.push(Endpoint { network: "default".to_owned(), ..Endpoint::default() });
    }
    // The flags of their own speak of the first network.
    let first = &mut endpoints[0];
    first.ipam.ipv4_address = either(&flags.ip, &first.ipam.ipv4_address);
    first.ipam.ipv6_address = either(&flags.ip6, &first.ipam.ipv6_address);
    first.ipam.link_local_ips.extend(flags.link_local_ip.iter().cloned());
    first.settings.mac_address = either(&flags.mac_address, &first.settings.mac_address);
    if !flags.network_alias.is_empty() {
        first.settings.aliases.get_or_insert_default().extend(flags.network_alias.iter().cloned());
    }
    let user_defined = !matches!(first.network.as_str(), "default" | "bridge" | "host" | "none")
        && !first.network.starts_with("container:");
    // Links of a user-defined network belong to the attachment.
    if !flags.link.is_empty() && user_defined {
        first.settings.links = Some(flags.link.clone());
    }
    let mode = first.network.clone();
    let plain = endpoints.len() == 1
        && endpoints[0].settings == EndpointSettings::default()
        && endpoints[0].ipam == EndpointIpamConfig::default();
    let config = (!plain).then(|| NetworkingConfig {
        endpoints_config: endpoints
            .into_iter()
            .map(|endpoint| {
                let ipam =
                    Some(endpoint.ipam).filter(|ipam| *ipam != EndpointIpamConfig::default());
                let settings = EndpointSettings { ipam_config: ipam, ..endpoint.settings };
                (endpoint.network, Some(settings))
            })
            .collect(),
    });
    Ok(Attachments { mode, config })
}

fn either(flag: &str, other: &str) -> String {
    if flag.is_empty() { other.to_owned() } else { flag.to_owned() }
}

/// `NAME`, or `name=NAME,alias=…,ip=…`.
fn endpoint(text: &str) -> Result<Endpoint, Failure> {
    let fail =
        |why: String| Failure::new(format!("invalid argument {text:?} for --network: {why}"));
    if !text.contains('=') {
        return Ok(Endpoint { network: text.to_owned(), ..Endpoint::default() });
    }
    let mut out = Endpoint::default();
    for field in super::mounts::fields(text).map_err(fail)? {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| fail(format!("{field:?} is not a key=value pair")))?;
        let value = value.to_owned();
        match key.trim().to_lowercase().as_str() {
            "name" => out.network = value,
            "alias" => out.settings.aliases.get_or_insert_default().push(value),
            "ip" => out.ipam.ipv4_address = value,
            "ip6" => out.ipam.ipv6_address = value,
            "mac-address" => out.settings.mac_address = value,
            "link-local-ip" => out.ipam.link_local_ips.push(value),
            "gw-priority" => {
                out.settings.gw_priority =
                    value.parse().map_err(|_| fail(format!("{value:?} is not a number")))?;
            }
            "driver-opt" => {
                let (name, option) = value
                    .split_once('=')
                    .ok_or_else(|| fail(format!("driver-opt {value:?} is not a key=value pair")))?;
                let options = out.settings.driver_opts.get_or_insert_default();
                options.insert(name.to_owned(), option.to_owned());
            }
            key => return Err(fail(format!("unknown key {key:?}"))),
        }
    }
    if out.network.is_empty() {
        return Err(fail("a name is missing".to_owned()));
    }
    Ok(out)
}

/// `host:ip`, `host=ip`, `host:host-gateway`; sent in the form that all daemons read.
pub(super) fn extra_hosts(flags: &[String]) -> Result<Option<Vec<String>>, Failure> {
    let hosts = flags
        .iter()
        .map(|text| {
            let fail =
                || Failure::new(format!("bad format for --add-host: {text:?} (want HOST:IP)"));
            let (name, address) = text
                .split_once('=')
                .filter(|(name, _)| !name.contains(':'))
                .or_else(|| text.split_once(':'))
                .ok_or_else(fail)?;
            let bare =
                address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
            if name.is_empty() || (bare != "host-gateway" && bare.parse::<IpAddr>().is_err()) {
                return Err(Failure::new(format!("invalid IP address in --add-host: {address:?}")));
            }
            Ok(format!("{name}:{bare}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Some(hosts))
}
