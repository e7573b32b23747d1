//! Which lists are made in-process: those whose every word is understood.
//!
//! A list qualifies when it is `bridge` with `host-local`, followed by nothing but `portmap`,
//! `bandwidth` and `loopback`, and when each key of each of them is one that [`Recipe`] has a
//! field for. Go matches keys without regard to case and takes much that is odd; whatever is odd
//! here is left to the plugins, which know what they make of it.

use std::net::IpAddr;
use std::path::PathBuf;

use pouch_network::MacAddr;
use pouch_types::spec::Protocol;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ranges::Ipam;
use crate::cache::arguments;
use crate::config::{NetworkList, PluginConf};
use crate::plugin::Call;
use crate::result::Dns;

/// VLAN filtering and trunks are the plugin's.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct BridgeFile {
    #[serde(default = "default_bridge")]
    bridge: String,
    #[serde(default)]
    is_gateway: bool,
    #[serde(default)]
    is_default_gateway: bool,
    #[serde(default)]
    force_address: bool,
    #[serde(default)]
    ip_masq: bool,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    hairpin_mode: bool,
    #[serde(default)]
    promisc_mode: bool,
    #[serde(default)]
    vlan: u32,
    ipam: super::ranges::IpamFile,
    dns: Option<Dns>,
}

fn default_bridge() -> String {
    "cni0".into()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortmapFile {
    snat: Option<bool>,
}

/// For plugins that have no settings which we know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoSettings {}

/// How the bridge is to be.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) name: String,
    pub(crate) gateway: Gateway,
    pub(crate) other_address: OtherAddress,
    pub(crate) masquerade: Masquerade,
    /// The kernel's choice when absent.
    pub(crate) mtu: Option<u32>,
    pub(crate) hairpin: pouch_network::links::Hairpin,
    pub(crate) promiscuous: Promiscuous,
}

/// What the bridge is to the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gateway {
    /// It has no address.
    No,
    /// It has the gateway's address.
    Address,
    /// That, and pods route everything by it.
    Default,
}

/// What happens to an address of the bridge in the way of the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherAddress {
    Refuse,
    Replace,
}

/// Whether what leaves the subnet gets the host's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masquerade {
    On,
    Off,
}

/// Whether the bridge takes all frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promiscuous {
    On,
    Off,
}

/// Whether hosts' and pods' own connections to published ports find their way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snat {
    On,
    Off,
}

/// A list that can be made in-process.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    pub(crate) bridge: Bridge,
    pub(crate) ipam: Ipam,
    pub(crate) dns: Option<Dns>,
    /// Capabilities that the bridge takes arguments for.
    takes: Vec<String>,
    portmap: Option<(Snat, Ports)>,
    takes_bandwidth: bool,
}

/// Whether portmap is given the ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    Given,
    Withheld,
}

/// A published port as portmap takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PortFile<'a> {
    host_port: u16,
    container_port: u16,
    protocol: &'a str,
    #[serde(rename = "hostIP")]
    host_ip: Option<IpAddr>,
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    pub(crate) protocol: Protocol,
    /// Never the unspecified address; the family stays when it was.
    pub(crate) host_ip: Option<IpAddr>,
    pub(crate) families: Families,
}

/// The families that a port is published in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Families {
    Both,
    V4,
    V6,
}

impl Families {
    pub(crate) const fn include(self, address: IpAddr) -> bool {
        match self {
            Self::Both => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What one attachment asks of a recipe.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
    pub(crate) ports: Vec<Published>,
    pub(crate) snat: Option<Snat>,
}

/// The settings of a plugin, beside what every plugin has.
fn settings<T: DeserializeOwned>(plugin: &PluginConf) -> Option<T> {
    let mut own = plugin.raw.clone();
    for every in ["type", "name", "cniVersion"] {
        if !own.remove(every).is_none_or(|value| value.is_string()) {
            return None;
        }
    }
    // Read already.
    own.remove("capabilities");
    T::deserialize(Value::Object(own)).ok()
}

/// Whether the plugin takes no arguments but these.
fn takes_only(plugin: &PluginConf, known: &[&str]) -> bool {
    plugin.capabilities.iter().all(|capability| known.contains(&capability.as_str()))
}

impl Recipe {
    /// The recipe of a list, or `None` when plugins must be run.
    pub(crate) fn of(list: &NetworkList) -> Option<Self> {
        let (first, others) = list.plugins.split_first()?;
        if first.kind != "bridge" {
            return None;
        }
        let file: BridgeFile = settings(first)?;
        if !takes_only(first, &["ips", "mac", "ipRanges"])
            || file.vlan != 0
            || (file.hairpin_mode && file.promisc_mode)
            || !is_interface(&file.bridge)
        {
            return None;
        }
        let mut recipe = Self {
            ipam: Ipam::of(file.ipam)?,
            bridge: Bridge {
                name: file.bridge,
                gateway: match (file.is_default_gateway, file.is_gateway) {
                    (true, _) => Gateway::Default,
                    (false, true) => Gateway::Address,
                    (false, false) => Gateway::No,
                },
                other_address: if file.force_address {
                    OtherAddress::Replace
                } else {
                    OtherAddress::Refuse
                },
                masquerade: if file.ip_masq { Masquerade::On } else { Masquerade::Off },
                mtu: (file.mtu != 0).then_some(file.mtu),
                hairpin: if file.hairpin_mode {
                    pouch_network::links::Hairpin::On
                } else {
                    pouch_network::links::Hairpin::Off
                },
                promiscuous: if file.promisc_mode { Promiscuous::On } else { Promiscuous::Off },
            },
            dns: file.dns.filter(|dns| *dns != Dns::default()),
            takes: first.capabilities.clone(),
            portmap: None,
            takes_bandwidth: false,
        };
        for plugin in others {
            recipe.take(plugin)?;
        }
        Some(recipe)
    }

    fn take(&mut self, plugin: &PluginConf) -> Option<()> {
        match plugin.kind.as_str() {
            "portmap" if self.portmap.is_none() && takes_only(plugin, &["portMappings"]) => {
                let file: PortmapFile = settings(plugin)?;
                let snat = if file.snat.unwrap_or(true) { Snat::On } else { Snat::Off };
                let deaf = plugin.capabilities.is_empty();
                let ports = if deaf { Ports::Withheld } else { Ports::Given };
                self.portmap = Some((snat, ports));
            }
            "bandwidth" if takes_only(plugin, &["bandwidth"]) => {
                let NoSettings {} = settings(plugin)?;
                self.takes_bandwidth |= !plugin.capabilities.is_empty();
            }
            "loopback" if takes_only(plugin, &[]) => {
                let NoSettings {} = settings(plugin)?;
            }
            _ => return None,
        }
        Some(())
    }

    /// What the call asks, or `None` when only the plugins know.
    pub(crate) fn ask(&self, call: &Call) -> Option<Asked> {
        let args = arguments(&call.args);
        // An address or a MAC address by CNI_ARGS, and unknown arguments that nobody allowed.
        let unknown_allowed =
            args.get("IgnoreUnknown").is_some_and(|v| *v == "1" || v.eq_ignore_ascii_case("true"));
        if args.contains_key("IP")
            || args.contains_key("MAC")
            || (!args.is_empty() && !unknown_allowed)
        {
            return None;
        }
        let given = &call.capability_args;
        let taken = |name: &str| given.get(name).filter(|_| self.takes.iter().any(|t| t == name));
        if taken("ipRanges").is_some() || (self.takes_bandwidth && given.contains_key("bandwidth"))
        {
            return None;
        }
        let mut asked = Asked::default();
        if let Some(ips) = taken("ips") {
            asked.addresses = addresses(ips)?;
        }
        if let Some(mac) = taken("mac") {
            asked.mac = Some(mac.as_str()?.parse().ok()?);
        }
        if let (Some((snat, Ports::Given)), Some(ports)) = (self.portmap, given.get("portMappings"))
        {
            asked.ports = ports.as_array()?.iter().map(published).collect::<Option<Vec<_>>>()?;
            asked.snat = Some(snat);
        }
        Some(asked)
    }

    /// Where the reservations of the network are.
    pub(crate) fn reservations(&self, network: &str) -> PathBuf {
        self.ipam.data_dir.join(network)
    }
}

/// A name that the kernel takes, and nft's grammar and paths read as one word.
fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && crate::config::is_name(name)
}

/// `10.1.0.5` or `10.1.0.5/16`; host-local ignores the prefix.
fn addresses(value: &Value) -> Option<Vec<IpAddr>> {
    let parse = |item: &Value| {
        let text = item.as_str()?;
        text.split_once('/').map_or(text, |(address, _)| address).parse().ok()
    };
    value.as_array()?.iter().map(parse).collect()
}

fn published(value: &Value) -> Option<Published> {
    let file = PortFile::deserialize(value).ok()?;
    if file.host_port == 0 || file.container_port == 0 {
        return None;
    }
    let protocol = match file.protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let families = match file.host_ip {
        None => Families::Both,
        Some(IpAddr::V4(_)) => Families::V4,
        Some(IpAddr::V6(_)) => Families::V6,
    };
    Some(Published {
        host_port: file.host_port,
        container_port: file.container_port,
        protocol,
        host_ip: file.host_ip.filter(|ip| !ip.is_unspecified()),
        families,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Map, json};

    use super::*;

    fn list(plugins: &Value) -> NetworkList {
        let text = json!({"cniVersion": "1.0.0", "name": "n", "plugins": plugins}).to_string();
        NetworkList::parse(text.as_bytes(), Path::new("/x/y.conflist")).unwrap()
    }

    fn bridge(more: &[(&str, Value)]) -> Value {
        let mut all = json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
            "ipam": {"type": "host-local", "subnet": "10.1.0.0/16",
                     "routes": [{"dst": "0.0.0.0/0"}]}
        });
        for (key, value) in more {
            all[*key] = value.clone();
        }
        all
    }

    #[test]
    fn the_usual_lists_are_native() {
        let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
        let bandwidth = json!({"type": "bandwidth", "capabilities": {"bandwidth": true}});
        let all = list(&json!([bridge(&[]), portmap, bandwidth, {"type": "loopback"}]));
        let recipe = Recipe::of(&all).unwrap();
        assert_eq!(recipe.bridge.gateway, Gateway::Address);
        let ports = json!([{"hostPort": 80, "containerPort": 8080, "protocol": "tcp",
                            "hostIP": "0.0.0.0"}]);
        let mut call = Call {
            args: vec![("IgnoreUnknown".into(), "1".into()), ("K8S_POD_UID".into(), "1".into())],
            capability_args: Map::from_iter([("portMappings".into(), ports)]),
            ..Call::default()
        };
        let asked = recipe.ask(&call).unwrap();
        assert_eq!(asked.snat, Some(Snat::On));
        assert_eq!((asked.ports[0].host_ip, asked.ports[0].families), (None, Families::V4));
        call.capability_args.insert("bandwidth".into(), json!({"ingressRate": 1}));
        assert!(recipe.ask(&call).is_none(), "limits are the plugin's");
    }

    #[test]
    fn what_is_not_wholly_understood_is_executed() {
        let refused = [
            json!([bridge(&[("vlan", json!(5))])]),
            json!([bridge(&[("isgateway", json!(true))])]),
            json!([bridge(&[("macspoofchk", json!(false))])]),
            json!([bridge(&[("mtu", json!("1500"))])]),
            json!([bridge(&[("mtu", json!(-1))])]),
            json!([bridge(&[("bridge", json!("a/b"))])]),
            json!([bridge(&[("args", json!({}))])]),
            json!([bridge(&[("ipam", json!({}))])]),
            json!([bridge(&[("ipam", json!({"type": "dhcp"}))])]),
            json!([bridge(&[("ipam", json!({"type": "host-local", "subnet": "10.0.0.0/31"}))])]),
            json!([bridge(&[("capabilities", json!({"dns": true}))])]),
            json!([bridge(&[("hairpinMode", json!(true)), ("promiscMode", json!(true))])]),
            json!([bridge(&[]), {"type": "firewall"}]),
            json!([bridge(&[]), {"type": "tuning"}]),
            json!([bridge(&[]), {"type": "portmap", "backend": "nftables"}]),
            json!([bridge(&[]), {"type": "bandwidth", "ingressRate": 1}]),
            json!([{"type": "loopback"}, bridge(&[])]),
            json!([{"type": "ptp"}]),
        ];
        for plugins in refused {
            assert!(Recipe::of(&list(&plugins)).is_none(), "{plugins}");
        }
    }

    #[test]
    fn arguments_that_only_plugins_read_are_left_to_them() {
        let recipe = Recipe::of(&list(&json!([bridge(&[])]))).unwrap();
        let ask = |args: &[(&str, &str)]| {
            let args = args.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
            recipe.ask(&Call { args, ..Call::default() })
        };
        assert!(ask(&[]).is_some());
        assert!(ask(&[("IgnoreUnknown", "true"), ("X", "1")]).is_some());
        assert!(ask(&[("X", "1")]).is_none());
        assert!(ask(&[("IgnoreUnknown", "1"), ("IP", "10.1.0.9")]).is_none());
        assert!(ask(&[("IgnoreUnknown", "1"), ("MAC", "02:00:00:00:00:01")]).is_none());
    }

    #[test]
    fn addresses_are_asked_for_only_where_the_bridge_says_so() {
        let capability_args = Map::from_iter([
            ("ips".to_owned(), json!(["10.1.0.9/16"])),
            ("mac".to_owned(), json!("02:00:00:00:00:01")),
        ]);
        let call = Call { capability_args, ..Call::default() };
        let deaf = Recipe::of(&list(&json!([bridge(&[])]))).unwrap();
        assert!(deaf.ask(&call).unwrap().addresses.is_empty());
        let both = json!({"ips": true, "mac": true});
        let hearing = Recipe::of(&list(&json!([bridge(&[("capabilities", both)])]))).unwrap();
        let asked = hearing.ask(&call).unwrap();
        assert_eq!(asked.addresses, ["10.1.0.9".parse::<IpAddr>().unwrap()]);
        assert_eq!(asked.mac.unwrap().to_string(), "02:00:00:00:00:01");
    }
}
