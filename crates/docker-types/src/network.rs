//! Networks and the attachments of containers to them.

use std::collections::BTreeMap;

use crate::wire::is_default;

wire! { "PascalCase";
    /// A network in lists and inspect.
    pub struct Network {
        pub name: String,
        pub id: String,
        pub created: String,
        /// `local` or `swarm`.
        pub scope: String,
        pub driver: String,
        /// API 1.47 and newer.
        #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
        pub enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6")]
        pub enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        pub ipam: Ipam,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_from: ConfigReference,
        pub config_only: bool,
        /// Endpoints by container id; empty in lists.
        pub containers: BTreeMap<String, EndpointResource>,
        pub options: Option<BTreeMap<String, String>>,
        pub labels: BTreeMap<String, String>,
    }

    /// Address management of a network.
    pub struct Ipam {
        pub driver: String,
        pub options: Option<BTreeMap<String, String>>,
        pub config: Option<Vec<IpamConfig>>,
    }

    /// One pool of addresses.
    pub struct IpamConfig {
        /// CIDR.
        #[serde(skip_serializing_if = "is_default")]
        pub subnet: String,
        /// CIDR inside `subnet` to allocate from.
        #[serde(rename = "IPRange", skip_serializing_if = "is_default")]
        pub ip_range: String,
        #[serde(skip_serializing_if = "is_default")]
        pub gateway: String,
        /// Names and addresses that are never allocated.
        #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "is_default")]
        pub auxiliary_addresses: BTreeMap<String, String>,
    }

    /// The network whose configuration another one takes.
    pub struct ConfigReference {
        pub network: String,
    }

    /// A container in a network's inspect. Addresses carry their prefix length.
    pub struct EndpointResource {
        pub name: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub mac_address: String,
        #[serde(rename = "IPv4Address")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        pub ipv6_address: String,
    }

    /// Body of `POST /networks/create`.
    pub struct NetworkCreate {
        pub name: String,
        /// Ignored since 1.44: names are always unique.
        #[serde(skip_serializing_if = "is_default")]
        pub check_duplicate: Option<bool>,
        pub driver: String,
        pub scope: String,
        #[serde(rename = "EnableIPv4", skip_serializing_if = "is_default")]
        pub enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6", skip_serializing_if = "is_default")]
        pub enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        pub ipam: Option<Ipam>,
        pub internal: bool,
        pub attachable: bool,
        pub ingress: bool,
        pub config_only: bool,
        pub config_from: Option<ConfigReference>,
        pub options: Option<BTreeMap<String, String>>,
        pub labels: Option<BTreeMap<String, String>>,
    }

    /// Reply of `POST /networks/create`.
    pub struct NetworkCreated {
        pub id: String,
        pub warning: String,
    }

    /// Body of `POST /networks/{id}/connect`.
    pub struct NetworkConnect {
        pub container: String,
        #[serde(skip_serializing_if = "is_default")]
        pub endpoint_config: Option<EndpointSettings>,
    }

    /// Body of `POST /networks/{id}/disconnect`.
    pub struct NetworkDisconnect {
        pub container: String,
        pub force: bool,
    }

    /// Reply of `POST /networks/prune`.
    pub struct NetworkPrune {
        pub networks_deleted: Option<Vec<String>>,
    }

    /// Endpoints by network name, in a create request.
    pub struct NetworkingConfig {
        pub endpoints_config: BTreeMap<String, Option<EndpointSettings>>,
    }

    /// An attachment: what was asked for first, then what it got.
    pub struct EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        pub ipam_config: Option<EndpointIpamConfig>,
        pub links: Option<Vec<String>>,
        pub aliases: Option<Vec<String>>,
        pub mac_address: String,
        pub driver_opts: Option<BTreeMap<String, String>>,
        /// API 1.48 and newer.
        pub gw_priority: i64,
        #[serde(rename = "NetworkID")]
        pub network_id: String,
        #[serde(rename = "EndpointID")]
        pub endpoint_id: String,
        pub gateway: String,
        #[serde(rename = "IPAddress")]
        pub ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        pub ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        pub ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        pub global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        pub global_ipv6_prefix_len: i64,
        /// Every name that DNS answers for it; API 1.44 and newer.
        #[serde(rename = "DNSNames")]
        pub dns_names: Option<Vec<String>>,
    }

    /// Fixed addresses of an attachment.
    pub struct EndpointIpamConfig {
        #[serde(rename = "IPv4Address", skip_serializing_if = "is_default")]
        pub ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "is_default")]
        pub ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "is_default")]
        pub link_local_ips: Vec<String>,
    }
}
