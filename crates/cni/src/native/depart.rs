//! Native attachments undone. A pair is cut off from the bridge at once and removed a moment later.

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pouch_netns::{Netns, NetnsError};
use pouch_network::rtnl::Rtnl;

use super::links::{self, Cut};
use super::plan::{Plan, release};
use super::publish::forget_flows;
use super::reservations::{Owner, Reservations};
use super::{Native, blocking, rules};
use crate::error::CniError;
use crate::record::{How, Key, Made, Record, Records};

/// For the pod's namespace to be removed after a DEL.
const LINGER: Duration = Duration::from_secs(1);

/// Removes a pair that was cut off, and its record.
fn finish(records: &Records, key: &Key, bridge: &str, near: &str) -> Result<(), CniError> {
    let mut rtnl = Rtnl::open().map_err(CniError::link(&key.network, "open a socket for", near))?;
    links::remove_near(&key.network, &mut rtnl, bridge, near)?;
    records.remove_leaving(key, near)
}

fn finish_where(records: &Records, concerned: impl Fn(&Record) -> bool) -> Result<(), CniError> {
    let mut first = Ok(());
    for record in records.all().into_iter().filter(concerned) {
        if let How::Leaving { bridge, near } = &record.how {
            let done = finish(records, &record.key, bridge, near);
            first = first.and(done);
        }
    }
    first
}

impl Native {
    /// Undoes what the record tells of. Doing it again is no error.
    ///
    /// The pair is cut off at once and removed a moment later: mostly the pod's namespace is removed
    /// meanwhile, and the pair with it, for nothing.
    pub(crate) async fn del(&self, record: &Record) -> Result<(), CniError> {
        let How::Native(made) = record.how.clone() else { return Ok(()) };
        let (record, patience) = (record.clone(), self.patience);
        let (records, tables) = (Arc::clone(&self.records), Arc::clone(&self.tables));
        let gate = Arc::clone(&self.gate);
        let key = record.key.clone();
        let left = blocking(&key.network, move || {
            let network = &record.key.network;
            {
                let _gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
                tables.remove(&made.elements).map_err(CniError::link(
                    network,
                    "remove from table",
                    rules::TABLE,
                ))?;
                let unpublished = Made { elements: Vec::new(), ..made.clone() };
                records.put(Record { how: How::Native(unpublished), ..record.clone() })?;
            }
            forget_flows(&made.elements);
            let mut rtnl =
                Rtnl::open().map_err(CniError::link(network, "open a socket for", &made.near))?;
            let bridge = made.wiring.bridge.clone();
            let cut = links::cut(&mut rtnl, &made.near).unwrap_or_else(|error| {
                // With the spanning tree protocol the bridge decides on its ports.
                tracing::debug!(%error, interface = made.near, "is removed at once");
                Cut::Gone
            });
            if cut == Cut::Gone {
                links::remove_near(network, &mut rtnl, &bridge, &made.near)?;
            }
            let owner = Owner { id: &record.key.id, ifname: &record.key.ifname };
            release(network, owner, &made, patience)?;
            if cut == Cut::Gone {
                records.remove(&record.key)?;
                return Ok(None);
            }
            let near = made.near;
            records.put(Record {
                how: How::Leaving { bridge: bridge.clone(), near: near.clone() },
                ..record
            })?;
            Ok(Some((bridge, near)))
        })
        .await?;
        if let Some((bridge, near)) = left {
            self.finish_later(key, bridge, near);
        }
        Ok(())
    }

    fn finish_later(&self, key: Key, bridge: String, near: String) {
        let records = Arc::clone(&self.records);
        // A restart finds the record.
        tokio::spawn(async move {
            tokio::time::sleep(LINGER).await;
            let network = key.network.clone();
            let done = blocking(&network, move || finish(&records, &key, &bridge, &near)).await;
            if let Err(error) = done {
                tracing::warn!(network, %error, "a pair stays until the next start");
            }
        });
    }

    /// Goes on with what the records tell of, in the background: pairs that were cut off, rules that
    /// somebody flushed.
    pub(crate) fn resume(self: &Arc<Self>) {
        for record in self.records.all() {
            if let How::Leaving { bridge, near } = record.how {
                self.finish_later(record.key, bridge, near);
            }
        }
        let native = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = native.mend().await {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(error, "the rules of pods are mended with the next one");
            }
        });
    }

    /// Removes the pairs that are in the way of a new attachment: of the same pod, or of another in
    /// its namespace, just detached.
    pub(crate) async fn vacate(&self, key: &Key, netns: &str) -> Result<(), CniError> {
        let before =
            |other: &Record| other.is_leaving() && (other.key == *key || other.netns == netns);
        let before: Vec<_> = self.records.all().into_iter().filter(before).collect();
        if before.is_empty() {
            return Ok(());
        }
        let records = Arc::clone(&self.records);
        let concerned = move |record: &Record| before.iter().any(|one| one.key == record.key);
        blocking(&key.network, move || finish_where(&records, concerned)).await
    }

    /// Removes the pairs that were cut off, now.
    pub(crate) async fn settle(&self) -> Result<(), CniError> {
        let records = Arc::clone(&self.records);
        blocking("all", move || finish_where(&records, |_| true)).await
    }

    /// Undoes an attachment of which nothing is known, for a list whose plugins are not there: what
    /// the id and the interface tell.
    pub(crate) async fn del_unknown(&self, plan: Plan) -> Result<(), CniError> {
        let (network, patience) = (plan.network().to_owned(), self.patience);
        blocking(&network, move || {
            let network = plan.network();
            match Netns::open(Path::new(&plan.call.netns)) {
                Ok(netns) => {
                    let ifname = plan.call.ifname.clone();
                    netns
                        .run(move || links::remove_far(&ifname))
                        .map_err(CniError::netns(network))?
                        .map_err(CniError::link(network, "remove", &plan.call.ifname))?;
                }
                Err(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. }) => {}
                Err(error) => return Err(CniError::netns(network)(error)),
            }
            let directory = plan.recipe.reservations(network);
            if !directory.exists() {
                return Ok(());
            }
            Reservations::lock(network, &directory, patience)?.release_all(plan.owner())
        })
        .await
    }
}
