//! One container at a time: attached step by step, undone in reverse on failure, detached.

use std::io::ErrorKind::AlreadyExists;
use std::net::IpAddr;
use std::sync::Arc;

use pouch_types::ContainerId;
use pouch_types::spec::Protocol;

use super::{Inner, blocking};
use crate::bridge::INTERFACE;
use crate::driver::NetworkDriver;
use crate::endpoint::{AttachRequest, Endpoint};
use crate::error::NetworkError;
use crate::lease::{self, EndpointRow, NewLease};
use crate::ruleset::Forward;
use crate::{netfilter, ports, survey};

/// The map elements of an endpoint.
pub(super) fn forwards(endpoint: &Endpoint) -> Vec<Forward> {
    let Some(ipv4) = endpoint.ipv4 else { return Vec::new() };
    endpoint
        .ports
        .iter()
        .filter_map(|port| match port.host_ip {
            IpAddr::V4(host_ip) => Some(Forward {
                protocol: port.container.protocol,
                host_ip,
                host_port: port.host_port,
                address: ipv4.address,
                port: port.container.number,
            }),
            IpAddr::V6(_) => None,
        })
        .collect()
}

/// Makes UDP clients that never pause see the change. Best effort: without it they see it after
/// their next pause.
async fn forget_flows(changed: Vec<Forward>) {
    if !changed.iter().any(|f| f.protocol == Protocol::Udp) {
        return;
    }
    let done = blocking(move || {
        let forget = || netfilter::forget_udp(&changed, &survey::local_addresses()?);
        forget().map_err(NetworkError::link("forget the flows of", "udp"))
    });
    if let Err(error) = done.await {
        let error = pouch_types::error::chain(&error);
        tracing::warn!(error, "stale UDP flows may keep their translation");
    }
}

impl Inner {
    pub(super) async fn attach(
        self: Arc<Self>,
        request: AttachRequest,
    ) -> Result<Endpoint, NetworkError> {
        let network = self.resolve(&request.network)?.clone();
        let driver = self.driver(network.driver);
        let validated = driver.validate(&request)?;
        let addressed = validated.addressing.is_some();
        let wanted = if addressed {
            let default_ip = self.config.default_host_ip;
            ports::plan(&request.ports, &request.publish_exposed, default_ip)?
        } else {
            Vec::new()
        };
        let _plant = if addressed { Some(self.plant().await?) } else { None };
        let (container, name) = (request.container, request.name.as_str().to_owned());
        let reserved = if wanted.is_empty() {
            Vec::new()
        } else {
            let (inner, id, name) = (Arc::clone(&self), container.clone(), name.clone());
            // A refusal reads much of /proc to name the holder.
            blocking(move || ports::patiently(|| inner.ports().reserve(&id, &name, &wanted)))
                .await?
        };
        let endpoint_id = pouch_types::id::random_hex()
            .map_err(|e| NetworkError::Random(std::io::Error::other(e)))?;
        let lease = NewLease {
            container: container.clone(),
            name: name.clone(),
            network,
            endpoint_id,
            netns: validated.netns,
            interface: addressed.then(|| INTERFACE.to_owned()),
            addressing: validated.addressing,
            ports: reserved.clone(),
        };
        let leased = match self.store.write(move |tx| lease::insert(tx, lease)).await {
            Ok(leased) => leased,
            Err(error) => {
                self.ports().release_ports(&container, &reserved);
                return Err(error);
            }
        };
        let row = EndpointRow { container, name, leased };
        if let Err(error) = self.bring_up(&driver, &row).await {
            if let Err(undo) = self.drop_endpoint(&row).await {
                let container = row.container.as_str();
                tracing::error!(container, error = %undo, "an attachment was not undone");
            }
            return Err(error);
        }
        Ok(row.leased.endpoint)
    }

    pub(super) async fn bring_up(
        &self,
        driver: &Arc<dyn NetworkDriver>,
        row: &EndpointRow,
    ) -> Result<(), NetworkError> {
        let set_up = || {
            let (driver, leased) = (Arc::clone(driver), row.leased.clone());
            blocking(move || driver.setup(&leased))
        };
        match set_up().await {
            Err(NetworkError::Link { source, .. }) if source.kind() == AlreadyExists => {
                // A namespace that is used again may still have the interface of its last use.
                drop(self.trailing.write().await);
                set_up().await?;
            }
            other => other?,
        }
        let added = forwards(&row.leased.endpoint);
        if added.is_empty() {
            return Ok(());
        }
        let _rules = self.rules.lock().await;
        let published = self.ruleset.publish(&added).await;
        if let Err(error) = published {
            // Somebody flushed the rules; the row is there, so a fresh set has our ports too.
            tracing::warn!(error = %error, "packet rules are gone; installing them again");
            self.install().await?;
        }
        forget_flows(added).await;
        Ok(())
    }

    pub(super) async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let id = container.clone();
        let rows = self.store.read(move |db| lease::endpoints(db, Some(&id))).await?;
        for row in &rows {
            self.drop_endpoint(row).await?;
        }
        Ok(())
    }

    /// Rules, rows, reservation, interface. An interface without a row is swept at the next start,
    /// so its removal may trail.
    pub(super) async fn drop_endpoint(&self, row: &EndpointRow) -> Result<(), NetworkError> {
        let endpoint = &row.leased.endpoint;
        let removed = forwards(endpoint);
        let id = endpoint.endpoint_id.clone();
        let delete = self.store.write(move |tx| lease::delete(tx, &id));
        if removed.is_empty() {
            delete.await?;
        } else {
            let _rules = self.rules.lock().await;
            let withdrawn = self.ruleset.withdraw(&removed).await;
            delete.await?;
            if let Err(error) = withdrawn
                && self.stands()
            {
                tracing::warn!(error = %error, "packet rules are gone; installing them again");
                self.install().await?;
            }
            forget_flows(removed).await;
        }
        self.ports().release_ports(&row.container, &endpoint.ports);
        let guard = Arc::clone(&self.trailing).read_owned().await;
        let (driver, endpoint) = (self.driver_of(endpoint), endpoint.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = driver.teardown(&endpoint) {
                let error = pouch_types::error::chain(&error);
                tracing::error!(endpoint = endpoint.endpoint_id, error, "interface not removed");
            }
            drop(guard);
        });
        Ok(())
    }
}
