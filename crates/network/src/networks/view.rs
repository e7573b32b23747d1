//! Networks as `docker network inspect` shows them.

use std::collections::BTreeMap;

use super::Inner;
use crate::config::{Icc, Masquerade};
use crate::endpoint::{Attached, Driver, NetworkView};
use crate::lease::{EndpointRow, NetworkRow};

impl Inner {
    pub(super) fn view(&self, row: &NetworkRow, endpoints: &[EndpointRow]) -> NetworkView {
        let is_bridge = row.driver == Driver::Bridge;
        let containers = endpoints
            .iter()
            .filter(|e| e.leased.endpoint.network_id == row.id)
            .map(|e| Attached {
                container: e.container.clone(),
                name: e.name.clone(),
                endpoint: e.leased.endpoint.clone(),
            })
            .collect();
        NetworkView {
            id: row.id.clone(),
            name: row.name.clone(),
            driver: row.driver,
            created: row.created,
            ipam: is_bridge.then_some((self.bridge.subnet, self.bridge.gateway)),
            options: if is_bridge { self.bridge_options() } else { BTreeMap::new() },
            containers,
        }
    }

    pub(super) fn bridge_options(&self) -> BTreeMap<String, String> {
        let icc = self.config.icc == Icc::Allowed;
        let masquerade = self.config.masquerade == Masquerade::On;
        [
            ("com.docker.network.bridge.default_bridge", "true".to_owned()),
            ("com.docker.network.bridge.enable_icc", icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade", masquerade.to_string()),
            (
                "com.docker.network.bridge.host_binding_ipv4",
                self.config.default_host_ip.to_string(),
            ),
            ("com.docker.network.bridge.name", self.bridge.name.clone()),
            ("com.docker.network.driver.mtu", self.bridge.mtu.to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
    }
}
