//! Networks and volumes.

use std::collections::BTreeMap;

use pouch_docker_types::network::{ConfigReference, EndpointResource, Ipam, IpamConfig, Network};
use pouch_docker_types::volume::Volume as WireVolume;
use pouch_network::{Driver, NetworkView};
use pouch_volume::Volume;

use super::time;
use crate::http::ApiVersion;

/// Whether a network is shown with its containers; lists leave them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Listed,
    Inspected,
}

/// A network in lists and inspect.
pub(crate) fn network(view: &NetworkView, detail: Detail, version: ApiVersion) -> Network {
    let config = view.ipam.iter().map(|(subnet, gateway)| IpamConfig {
        subnet: subnet.to_string(),
        gateway: gateway.to_string(),
        ..IpamConfig::default()
    });
    // Never `null`: clients loop over it.
    let config = Some(config.collect());
    let containers: BTreeMap<_, _> = match detail {
        Detail::Listed => BTreeMap::new(),
        Detail::Inspected => view
            .containers
            .iter()
            .map(|attached| {
                let endpoint = &attached.endpoint;
                let ipv4 = endpoint.ipv4.map(|ip| format!("{}/{}", ip.address, ip.prefix));
                let resource = EndpointResource {
                    name: attached.name.clone(),
                    endpoint_id: endpoint.endpoint_id.clone(),
                    mac_address: endpoint.mac.map(|mac| mac.to_string()).unwrap_or_default(),
                    ipv4_address: ipv4.unwrap_or_default(),
                    ipv6_address: String::new(),
                };
                (attached.container.to_string(), resource)
            })
            .collect(),
    };
    Network {
        name: view.name.clone(),
        id: view.id.to_string(),
        created: time::write(time::of_system(view.created)),
        scope: "local".to_owned(),
        driver: view.driver.as_str().to_owned(),
        enable_ipv4: (!version.below(47)).then_some(view.driver == Driver::Bridge),
        enable_ipv6: Default::default(),
        ipam: Ipam { driver: "default".to_owned(), options: None, config },
        internal: Default::default(),
        attachable: Default::default(),
        ingress: Default::default(),
        config_from: ConfigReference::default(),
        config_only: Default::default(),
        containers,
        options: Some(view.options.clone()),
        labels: BTreeMap::new(),
    }
}

/// A volume in lists and inspect.
pub(crate) fn volume(volume: &Volume) -> WireVolume {
    let map = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    WireVolume {
        created_at: time::write(Some(volume.created_at)),
        driver: volume.driver.clone(),
        labels: map(&volume.labels),
        mountpoint: volume.mountpoint.display().to_string(),
        name: volume.name.to_string(),
        options: map(&volume.options),
        scope: "local".to_owned(),
        status: None,
        usage_data: None,
    }
}
