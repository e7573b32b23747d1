//! The usual networks in-process: `bridge` with `host-local`, published ports, masquerading.
//!
//! What the plugins would make is made by netlink, and what they would write to files is written
//! as they do, so that either may undo what the other made. Only the packet rules differ: the
//! plugins' are iptables', ours are elements of one nftables table ([`rules`]).
//!
//! An attachment is made in this order, and undone in the reverse when a step fails: record,
//! addresses reserved, pair, pod's side, gateway's addresses, elements. The record names everything
//! before it exists.

mod depart;
mod elements;
mod links;
mod plan;
mod publish;
mod ranges;
mod recipe;
mod reservations;
mod rules;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pouch_netns::Netns;
use pouch_network::rtnl::Rtnl;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::cidr::Cidr;
use crate::config::NetworkList;
use crate::error::CniError;
use crate::record::{How, Made, Record, Records};
use crate::result::AddResult;

use elements::Channel;
pub(crate) use elements::Element;
pub(crate) use plan::{Plan, is_native, plan};
use publish::describe;
use recipe::Recipe;
use reservations::Reservations;
use rules::Place;

/// What an attachment hangs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wiring {
    pub(crate) bridge: String,
    /// The addresses with their prefixes.
    pub(crate) addresses: Vec<Cidr>,
}

/// The networks that are made in-process.
#[derive(Debug)]
pub(crate) struct Native {
    records: Arc<Records>,
    patience: Duration,
    tables: Arc<Channel>,
    /// Held while elements change together with the record that tells of them, so that what is
    /// restored from records is not what a DEL just removed.
    gate: Arc<std::sync::Mutex<()>>,
    /// The places whose chains stand, as far as we know. Held while nft runs.
    standing: Mutex<BTreeSet<Place>>,
}

/// Runs what blocks for netlink, files and a lock on a thread that may.
async fn blocking<T: Send + 'static>(
    network: &str,
    work: impl FnOnce() -> Result<T, CniError> + Send + 'static,
) -> Result<T, CniError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(CniError::Panicked { network: network.to_owned() }))
}

impl Native {
    pub(crate) fn new(records: Arc<Records>, patience: Duration) -> Self {
        Self {
            records,
            patience,
            tables: Arc::default(),
            gate: Arc::default(),
            standing: Mutex::default(),
        }
    }

    /// Makes the attachment. On failure nothing is left of it.
    pub(crate) async fn add(&self, plan: Plan) -> Result<AddResult, CniError> {
        let plan = Arc::new(plan);
        let (key, network) = (plan.key(), plan.network().to_owned());
        let wiring = {
            let (plan, records, patience) =
                (Arc::clone(&plan), Arc::clone(&self.records), self.patience);
            blocking(&network, move || plan.wire(&records, patience)).await
        };
        let made = match wiring {
            Ok((result, made)) => match self.publish(&key, &made).await {
                Ok(()) => Ok(result),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if made.is_err() {
            // The first failure is the one to tell; what cannot be undone keeps its record.
            if let Some(record) = self.records.get(&key)
                && let Err(error) = self.del(&record).await
            {
                tracing::warn!(%error, "an attachment that failed could not be undone");
            }
        }
        made
    }

    /// Whether everything that the record tells of is there.
    pub(crate) async fn check(
        &self,
        plan: Plan,
        made: Made,
        result: AddResult,
    ) -> Result<(), CniError> {
        let (network, patience) = (plan.network().to_owned(), self.patience);
        let tables = Arc::clone(&self.tables);
        blocking(&network, move || {
            let network = plan.network();
            let differs =
                |what: String| Err(CniError::Differs { network: network.to_owned(), what });
            let inside = plan.inside(&result.ips, &result.routes);
            let netns =
                Netns::open(Path::new(&plan.call.netns)).map_err(CniError::netns(network))?;
            let missing = netns
                .run(move || inside.missing())
                .map_err(CniError::netns(network))?
                .map_err(CniError::link(network, "examine", &plan.call.ifname))?;
            if let Some(what) = missing {
                return differs(what);
            }
            let bridge = &made.wiring.bridge;
            let mut rtnl =
                Rtnl::open().map_err(CniError::link(network, "open a socket for", bridge))?;
            let port = links::is_port(&mut rtnl, bridge, &made.near)
                .map_err(CniError::link(network, "examine", &made.near))?;
            if !port {
                return differs(format!("{} is no port of {bridge}, or down", made.near));
            }
            let all = Reservations::lock(network, &made.reservations, patience)?;
            if let Some(address) =
                made.addresses.iter().find(|address| !all.holds(plan.owner(), **address))
            {
                return differs(format!("address {address} is not reserved for it"));
            }
            drop(all);
            for element in &made.elements {
                let there = tables.has(element).map_err(CniError::link(
                    network,
                    "examine table",
                    rules::TABLE,
                ))?;
                if !there {
                    let what = describe(element);
                    return differs(format!("{what} is missing in table {}", rules::TABLE));
                }
            }
            Ok(())
        })
        .await
    }

    /// Gives back reservations of the list that belong to nobody in `valid`.
    pub(crate) async fn collect(
        &self,
        list: &NetworkList,
        valid: HashSet<(String, String)>,
    ) -> Result<(), CniError> {
        let Some(recipe) = Recipe::of(list) else { return Ok(()) };
        let (network, patience) = (list.name.clone(), self.patience);
        let directory: PathBuf = recipe.reservations(&network);
        blocking(&list.name, move || {
            if !directory.exists() {
                return Ok(());
            }
            let released = Reservations::lock(&network, &directory, patience)?.retain(&valid)?;
            if released > 0 {
                tracing::info!(network, released, "addresses that belonged to no pod");
            }
            Ok(())
        })
        .await
    }

    /// Removes the table when no attachment is left that has elements in it.
    pub(crate) async fn close_unused(&self) -> Result<(), CniError> {
        self.settle().await?;
        let mut standing = self.standing.lock().await;
        let used =
            |record: &Record| matches!(&record.how, How::Native(m) if !m.elements.is_empty());
        if self.records.all().iter().any(used) {
            return Ok(());
        }
        standing.clear();
        let tables = Arc::clone(&self.tables);
        blocking(rules::TABLE, move || {
            tables.remove_table().map_err(CniError::link("all", "remove table", rules::TABLE))
        })
        .await
    }
}
