//! An attachment's elements in the packet rules: claimed, put there, mended.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pouch_network::rtnl::Rtnl;
use pouch_network::ruleset::Forward;
use pouch_network::{netfilter, nft};
use pouch_types::spec::Protocol;

use super::elements::{self, Element};
use super::reservations::{Owner, Reservations};
use super::rules::{self, Place};
use super::{Native, blocking};
use crate::attachment::transport;
use crate::error::CniError;
use crate::record::{How, Key, Made, Record};

/// Whether what is known of the rules can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Trust,
    Forget,
}

impl Native {
    /// Puts the elements into the rules, the rules before them.
    pub(super) async fn publish(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let shares = |other: &Made| {
            other.reservations == made.reservations
                && other.addresses.iter().any(|address| made.addresses.contains(address))
        };
        for record in self.records.native_where(key, shares) {
            // Its addresses were given to this one: another program detached it.
            self.evict(&record).await?;
        }
        self.claim(key, made).await?;
        if made.elements.is_empty() {
            return Ok(());
        }
        let added = self.put(key, made).await;
        if added.is_err() {
            // None was put there, and what has the same key is not ours to take away.
            let unpublished = Made { elements: Vec::new(), ..made.clone() };
            if let Some(record) = self.records.get(key) {
                self.records.put(Record { how: How::Native(unpublished), ..record })?;
            }
        }
        added
    }

    /// Claims the elements in the record; those who hold one without being attached any more are
    /// undone.
    async fn claim(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let network = &key.network;
        for _ in 0..=made.elements.len() {
            let Some(record) = self.records.get(key) else { break };
            let Some(holder) = self.records.claim(record, made.clone())? else { return Ok(()) };
            let How::Native(theirs) = holder.how.clone() else { break };
            let collides = |a: &&Element| made.elements.iter().any(|b| a.collides(b));
            let port = theirs.elements.iter().find(collides).map(describe).unwrap_or_default();
            let alive = {
                let (holder, patience) = (holder.clone(), self.patience);
                blocking(network, move || is_alive(&holder, &theirs, patience)).await?
            };
            if alive {
                return Err(CniError::PortInUse { network: network.clone(), port });
            }
            self.evict(&holder).await?;
        }
        let network = network.clone();
        Err(CniError::PortInUse { network, port: "of several pods".to_owned() })
    }

    async fn put(&self, key: &Key, made: &Made) -> Result<(), CniError> {
        let network = &key.network;
        let place = place_of(made);
        self.stand(network, &place, Known::Trust).await?;
        let add = async || {
            let (elements, owner) = (made.elements.clone(), owner_text(key));
            let tables = Arc::clone(&self.tables);
            let work = move || tables.add(&elements, &owner).inspect(|()| forget_flows(&elements));
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|_| CniError::Panicked { network: network.clone() })
        };
        let mut added = add().await?;
        if added.as_ref().is_err_and(elements::is_missing) {
            // Somebody flushed the rules: all of them, with everybody's elements, again.
            self.stand(network, &place, Known::Forget).await?;
            added = add().await?;
        }
        match added {
            Err(error) if elements::is_taken(&error) => {
                let ports = made.elements.iter().filter(|e| matches!(e, Element::Port { .. }));
                let ports: Vec<_> = ports.map(describe).collect();
                Err(CniError::PortInUse { network: network.clone(), port: ports.join(", ") })
            }
            other => other.map_err(CniError::link(network, "add to table", rules::TABLE)),
        }
    }

    /// Undoes a native attachment that another program has detached.
    async fn evict(&self, record: &Record) -> Result<(), CniError> {
        let Key { id, network, .. } = &record.key;
        tracing::warn!(id, network, "was detached by another program");
        self.del(record).await
    }

    /// Makes table and chains, unless they are known to stand. The first time, and after somebody
    /// flushed them, everybody's elements are put there too.
    async fn stand(&self, network: &str, place: &Place, known: Known) -> Result<(), CniError> {
        let mut standing = self.standing.lock().await;
        if known == Known::Forget {
            standing.clear();
        } else if standing.contains(place) {
            return Ok(());
        }
        let mut places = standing.clone();
        places.insert(place.clone());
        let restored = if standing.is_empty() { self.published() } else { Vec::new() };
        places.extend(restored.iter().map(|(_, made)| place_of(made)));
        let text = rules::render(places.iter());
        nft::apply(text)
            .await
            .map_err(|source| CniError::Rules { network: network.to_owned(), source })?;
        *standing = places;
        let (tables, gate) = (Arc::clone(&self.tables), Arc::clone(&self.gate));
        let records = Arc::clone(&self.records);
        blocking(network, move || {
            for (key, made) in restored {
                let _gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
                let same = |record: Record| record.how == How::Native(made.clone());
                if !records.get(&key).is_some_and(same) {
                    // Detached meanwhile.
                    continue;
                }
                if let Err(error) = tables.add(&made.elements, &owner_text(&key)) {
                    tracing::warn!(id = key.id, %error, "its rules could not be restored");
                }
            }
            Ok(())
        })
        .await
    }

    /// Puts the rules of the records in place.
    pub(super) async fn mend(&self) -> Result<(), CniError> {
        match self.published().first() {
            Some((key, made)) => self.stand(&key.network, &place_of(made), Known::Trust).await,
            None => Ok(()),
        }
    }

    fn published(&self) -> Vec<(Key, Made)> {
        let made = |record: Record| match record.how {
            How::Native(made) if !made.elements.is_empty() => Some((record.key, made)),
            How::Native(_) | How::Executed | How::Leaving { .. } => None,
        };
        self.records.all().into_iter().filter_map(made).collect()
    }
}

fn place_of(made: &Made) -> Place {
    Place::new(&made.wiring.bridge, made.wiring.addresses.iter().copied())
}

/// The comment of an element.
fn owner_text(key: &Key) -> String {
    format!("{} {}", key.id, key.ifname)
}

/// Whether the attachment still has its pair, or one of its addresses.
fn is_alive(record: &Record, made: &Made, patience: Duration) -> Result<bool, CniError> {
    let network = &record.key.network;
    let near = Rtnl::open().and_then(|mut rtnl| rtnl.link(&made.near));
    if near.map_err(CniError::link(network, "look up", &made.near))?.is_some() {
        return Ok(true);
    }
    if !made.reservations.exists() {
        return Ok(false);
    }
    let all = Reservations::lock(network, &made.reservations, patience)?;
    let owner = Owner { id: &record.key.id, ifname: &record.key.ifname };
    Ok(made.addresses.iter().any(|address| all.holds(owner, *address)))
}

pub(super) fn describe(element: &Element) -> String {
    match element {
        Element::Port { protocol, host_ip, host_port, .. } => {
            let address = host_ip.map(|ip| format!("{ip} ")).unwrap_or_default();
            format!("{address}{host_port}/{}", transport(*protocol))
        }
        Element::Masquerade { address } | Element::Returning { address } => address.to_string(),
    }
}

/// Makes the connection table forget UDP flows that a change of `elements` concerns. A UDP flow
/// keeps the translation of its first packet for as long as packets come.
pub(super) fn forget_flows(elements: &[Element]) {
    let concerned: Vec<Forward> = elements
        .iter()
        .filter_map(|element| match element {
            Element::Port {
                protocol: Protocol::Udp,
                host_ip,
                host_port,
                address: IpAddr::V4(address),
                port,
            } => Some(Forward {
                protocol: Protocol::Udp,
                host_ip: match host_ip {
                    Some(IpAddr::V4(v4)) => *v4,
                    Some(IpAddr::V6(_)) | None => Ipv4Addr::UNSPECIFIED,
                },
                host_port: *host_port,
                address: *address,
                port: *port,
            }),
            Element::Port { .. } | Element::Masquerade { .. } | Element::Returning { .. } => None,
        })
        .collect();
    if concerned.is_empty() {
        return;
    }
    let local = pouch_network::local_addresses();
    if let Err(error) = local.and_then(|local| netfilter::forget_udp(&concerned, &local)) {
        tracing::warn!(%error, "UDP flows may keep their old way");
    }
}
