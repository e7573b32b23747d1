//! Networking of a container: mode, names, name servers, attachments.

use pouch_docker_types::container::HostConfig;
use pouch_docker_types::network::{EndpointIpamConfig, EndpointSettings, NetworkingConfig};
use pouch_types::spec::{
    ContainerSpec, EndpointSpec, ExtraHost, NetworkMode, NetworkSpec, UtsMode,
};

use super::namespaces::container;
use super::ports;
use super::value::{address, bad, list, mac, unsupported};
use crate::http::{ApiError, ApiResult, ApiVersion};

/// The name of the default network.
const BRIDGE: &str = "bridge";
/// What `--add-host name:host-gateway` says.
const HOST_GATEWAY: &str = "host-gateway";

/// Reads a MAC address; an empty one is none.
pub(super) fn read_mac(field: &str, text: &str) -> ApiResult<Option<String>> {
    mac(field, text)
}

fn read_mode(text: &str) -> ApiResult<NetworkMode> {
    Ok(match text {
        "" | "default" => NetworkMode::Default,
        BRIDGE => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other if other.starts_with("container:") => match container(other) {
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => return Err(bad("NetworkMode", "container:<name|id> wants a name")),
        },
        name => NetworkMode::Named(name.to_owned()),
    })
}

/// The mode as inspect shows it; the default is the bridge since Docker 26.
pub(crate) fn write_mode(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default | NetworkMode::Bridge => BRIDGE.to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(name) => format!("container:{name}"),
        NetworkMode::Named(name) => name.clone(),
        NetworkMode::Pod => super::namespaces::POD.to_owned(),
    }
}

/// Fills the spec's networking. `spec.network.mac_address` may hold the deprecated field of
/// `Config` already. Answers warnings.
pub(super) fn read(
    host: &mut HostConfig,
    networking: NetworkingConfig,
    version: ApiVersion,
    spec: &mut ContainerSpec,
) -> ApiResult<Vec<String>> {
    let mut warnings = Vec::new();
    let network = &mut spec.network;
    network.mode = read_mode(&host.network_mode)?;
    network.ports = ports::read_bindings(std::mem::take(&mut host.port_bindings))?;
    network.publish_all = host.publish_all_ports;
    network.dns = host
        .dns
        .take()
        .unwrap_or_default()
        .iter()
        .map(|text| address("Dns", text))
        .collect::<ApiResult<_>>()?;
    network.dns_search = host.dns_search.take().unwrap_or_default();
    network.dns_options = host.dns_options.take().unwrap_or_default();
    for (field, words) in [("DnsSearch", &network.dns_search), ("DnsOptions", &network.dns_options)]
    {
        // They become words of a line in resolv.conf.
        if let Some(word) = words.iter().find(|w| w.is_empty() || w.contains(char::is_whitespace)) {
            return Err(bad(field, format_args!("'{word}'")));
        }
    }
    network.extra_hosts = host
        .extra_hosts
        .take()
        .unwrap_or_default()
        .iter()
        .map(|text| read_extra_host(text))
        .collect::<ApiResult<_>>()?;
    network.links = host.links.take().unwrap_or_default();
    for link in &network.links {
        check_link(link)?;
    }
    for (name, settings) in networking.endpoints_config {
        let name = if name == "default" { BRIDGE.to_owned() } else { name };
        let endpoint = read_endpoint(settings.unwrap_or_default(), version)?;
        network.endpoints.insert(name, endpoint);
    }
    if version.below(44) && network.endpoints.len() > 1 {
        let names: Vec<&str> = network.endpoints.keys().map(String::as_str).collect();
        return Err(ApiError::invalid(format!(
            "Container cannot be created with multiple network endpoints: {}",
            names.join(", ")
        )));
    }
    place_mac(spec, version, &mut warnings)?;
    check(spec, &mut warnings)?;
    check_endpoints(&spec.network)?;
    Ok(warnings)
}

/// `Config.MacAddress` belongs to the endpoint since 1.44.
fn place_mac(
    spec: &mut ContainerSpec,
    version: ApiVersion,
    warnings: &mut Vec<String>,
) -> ApiResult<()> {
    let network = &mut spec.network;
    let Some(old) = network.mac_address.clone() else {
        if version.below(44) {
            // That field of the endpoint did not exist yet.
            network.endpoints.values_mut().for_each(|endpoint| endpoint.mac_address = None);
        }
        return Ok(());
    };
    let main = network.endpoints.get(&write_mode(&network.mode));
    let other = main.and_then(|endpoint| endpoint.mac_address.as_deref());
    if !version.below(44) {
        if other.is_some_and(|other| other != old) {
            return Err(ApiError::invalid(
                "the container-wide MAC address must match the endpoint-specific MAC address for \
                 the main network, or be left empty",
            ));
        }
        warnings.push(
            "The container-wide MacAddress field is now deprecated. It should be specified in \
             EndpointsConfig instead."
                .to_owned(),
        );
    }
    Ok(())
}

/// Options that contradict the mode, in dockerd's words.
fn check(spec: &mut ContainerSpec, warnings: &mut Vec<String>) -> ApiResult<()> {
    let network = &spec.network;
    let conflict = |what: &str, with: &str| {
        Err(ApiError::invalid(format!("conflicting options: {what} and the {with}")))
    };
    const MODE: &str = "network mode";
    const JOINED: &str = "container type network mode";
    if spec.namespaces.uts == UtsMode::Host && !spec.hostname.is_empty() {
        return conflict("hostname", "UTS mode");
    }
    match &network.mode {
        NetworkMode::Container(_) => {
            for (set, what, with) in [
                (!spec.hostname.is_empty(), "hostname", MODE),
                (
                    !network.links.is_empty(),
                    "container type network can't be used with links",
                    MODE,
                ),
                (!network.dns.is_empty(), "dns", MODE),
                (!network.extra_hosts.is_empty(), "custom host-to-IP mapping", MODE),
                (network.mac_address.is_some(), "mac-address", MODE),
                (!network.ports.is_empty() || network.publish_all, "port publishing", JOINED),
                (!spec.exposed_ports.is_empty(), "port exposing", JOINED),
            ] {
                if set {
                    return conflict(what, with);
                }
            }
        }
        NetworkMode::Host => {
            if !network.links.is_empty() {
                return Err(ApiError::invalid(
                    "conflicting options: host type networking can't be used with links. This \
                     would result in undefined behavior",
                ));
            }
            if network.mac_address.is_some() {
                return conflict("mac-address", MODE);
            }
            if !network.ports.is_empty() {
                warnings
                    .push("Published ports are discarded when using host network mode".to_owned());
            }
        }
        NetworkMode::Default
        | NetworkMode::Bridge
        | NetworkMode::None
        | NetworkMode::Named(_)
        | NetworkMode::Pod => {}
    }
    Ok(())
}

/// What networks that every engine has cannot give an attachment, in dockerd's words where it has
/// some; and attachments to further networks. Networks of users answer for themselves.
fn check_endpoints(network: &NetworkSpec) -> ApiResult<()> {
    let main = match &network.mode {
        NetworkMode::Named(_) => return Ok(()),
        mode => write_mode(mode),
    };
    for (name, endpoint) in &network.endpoints {
        if *name != main {
            return Err(unsupported(
                "EndpointsConfig",
                format_args!("a container has one network, \"{main}\", and not \"{name}\" too"),
            ));
        }
        if !endpoint.aliases.is_empty() {
            return Err(ApiError::invalid(
                "network-scoped aliases are only supported for user-defined networks",
            ));
        }
        if endpoint.ipv6.is_some() {
            return Err(ApiError::invalid(
                "user specified IPv6 address is supported on user-defined networks only",
            ));
        }
        if !endpoint.links.is_empty() {
            return Err(unsupported("EndpointsConfig.Links", "use HostConfig.Links"));
        }
        if let Some(option) = endpoint.driver_opts.keys().next() {
            return Err(unsupported("EndpointsConfig.DriverOpts", option));
        }
    }
    Ok(())
}

/// `name:address`, where the address may be IPv6 or `host-gateway`.
fn read_extra_host(text: &str) -> ApiResult<ExtraHost> {
    const FIELD: &str = "ExtraHosts";
    let Some((name, to)) = text.split_once([':', '=']) else {
        return Err(ApiError::invalid(format!("bad format for add-host: {text:?}")));
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(ApiError::invalid(format!("bad format for add-host: {text:?}")));
    }
    let address = match to {
        HOST_GATEWAY => None,
        other => Some(address(FIELD, other)?),
    };
    Ok(ExtraHost { name: name.to_owned(), address })
}

fn write_extra_host(host: &ExtraHost) -> String {
    match host.address {
        Some(address) => format!("{}:{address}", host.name),
        None => format!("{}:{HOST_GATEWAY}", host.name),
    }
}

fn check_link(link: &str) -> ApiResult<()> {
    let mut parts = link.split(':');
    let name = parts.next().unwrap_or_default();
    let alias = parts.next();
    if name.is_empty() || alias.is_some_and(str::is_empty) || parts.next().is_some() {
        return Err(ApiError::invalid(format!("bad format for links: {link}")));
    }
    Ok(())
}

/// Reads what is asked of one attachment.
pub(crate) fn read_endpoint(
    settings: EndpointSettings,
    version: ApiVersion,
) -> ApiResult<EndpointSpec> {
    const FIELD: &str = "EndpointsConfig";
    let ipam = settings.ipam_config.unwrap_or_default();
    if !ipam.link_local_ips.is_empty() {
        return Err(unsupported("LinkLocalIPs", "addresses come from the network's subnet"));
    }
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let links = settings.links.unwrap_or_default();
    for link in &links {
        check_link(link)?;
    }
    let aliases = settings.aliases.unwrap_or_default();
    if let Some(alias) = aliases.iter().find(|a| a.is_empty() || a.contains(char::is_whitespace)) {
        return Err(bad(FIELD, format_args!("alias '{alias}'")));
    }
    Ok(EndpointSpec {
        aliases,
        links,
        ipv4: optional(&ipam.ipv4_address).map(|ip| address(FIELD, &ip)).transpose()?,
        ipv6: optional(&ipam.ipv6_address).map(|ip| address(FIELD, &ip)).transpose()?,
        mac_address: mac(FIELD, &settings.mac_address)?,
        driver_opts: settings.driver_opts.unwrap_or_default(),
        gateway_priority: if version.below(48) { 0 } else { settings.gw_priority },
    })
}

/// What was asked of an attachment, as inspect repeats it.
pub(crate) fn write_endpoint(endpoint: &EndpointSpec) -> EndpointSettings {
    let ipam = EndpointIpamConfig {
        ipv4_address: endpoint.ipv4.map(|ip| ip.to_string()).unwrap_or_default(),
        ipv6_address: endpoint.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        link_local_ips: Vec::new(),
    };
    EndpointSettings {
        ipam_config: (ipam != EndpointIpamConfig::default()).then_some(ipam),
        links: list(endpoint.links.clone()),
        aliases: list(endpoint.aliases.clone()),
        mac_address: endpoint.mac_address.clone().unwrap_or_default(),
        driver_opts: (!endpoint.driver_opts.is_empty()).then(|| endpoint.driver_opts.clone()),
        gw_priority: endpoint.gateway_priority,
        ..EndpointSettings::default()
    }
}

/// Writes the networking fields of a host configuration.
pub(super) fn write(spec: &ContainerSpec, host: &mut HostConfig) {
    let network = &spec.network;
    host.network_mode = write_mode(&network.mode);
    host.port_bindings = ports::write_bindings(&network.ports);
    host.publish_all_ports = network.publish_all;
    host.dns = Some(network.dns.iter().map(ToString::to_string).collect());
    host.dns_search = Some(network.dns_search.clone());
    host.dns_options = Some(network.dns_options.clone());
    host.extra_hosts = list(network.extra_hosts.iter().map(write_extra_host).collect());
    host.links = list(network.links.clone());
}

/// `NetworkingConfig` that would give the same attachments again.
#[cfg(test)]
pub(super) fn write_networking(spec: &ContainerSpec) -> NetworkingConfig {
    let endpoints_config = spec
        .network
        .endpoints
        .iter()
        .map(|(name, endpoint)| (name.clone(), Some(write_endpoint(endpoint))))
        .collect();
    NetworkingConfig { endpoints_config }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, shown) in [
            ("", "bridge"),
            ("default", "bridge"),
            ("host", "host"),
            ("none", "none"),
            ("container:web", "container:web"),
            ("front", "front"),
        ] {
            assert_eq!(write_mode(&read_mode(text).unwrap()), shown);
        }
        assert!(read_mode("container:").is_err());
    }

    #[test]
    fn extra_hosts() {
        for (text, shown) in [
            ("a:1.2.3.4", "a:1.2.3.4"),
            ("a=1.2.3.4", "a:1.2.3.4"),
            ("a:::1", "a:::1"),
            ("a:[::1]", "a:::1"),
            ("host.docker.internal:host-gateway", "host.docker.internal:host-gateway"),
        ] {
            assert_eq!(write_extra_host(&read_extra_host(text).unwrap()), shown);
        }
        for bad in ["a", ":1.2.3.4", "a:", "a:nope", "a b:1.2.3.4", "a\n:1.2.3.4"] {
            assert!(read_extra_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn contradictions() {
        let read = |change: fn(&mut HostConfig, &mut ContainerSpec)| {
            let mut host =
                HostConfig { network_mode: "container:a".into(), ..HostConfig::default() };
            let mut spec = ContainerSpec::default();
            change(&mut host, &mut spec);
            read(&mut host, NetworkingConfig::default(), ApiVersion::MAX, &mut spec)
        };
        assert!(read(|_, _| {}).unwrap().is_empty());
        for change in [
            (|_, spec| spec.hostname = "a".into()) as fn(&mut HostConfig, &mut ContainerSpec),
            |host, _| host.publish_all_ports = true,
            |host, _| host.dns = Some(vec!["1.1.1.1".into()]),
            |host, _| host.links = Some(vec!["a:b".into()]),
            |host, _| host.extra_hosts = Some(vec!["a:1.1.1.1".into()]),
            |host, spec| {
                host.network_mode = "host".into();
                spec.network.mac_address = Some("02:00:00:00:00:01".into());
            },
            |host, spec| {
                host.network_mode.clear();
                spec.hostname = "a".into();
                spec.namespaces.uts = UtsMode::Host;
            },
        ] {
            assert!(read(change).unwrap_err().message().starts_with("conflicting options: "));
        }
    }
}
