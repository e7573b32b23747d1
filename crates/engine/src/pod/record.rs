//! What the store keeps of a pod's sandbox.

use std::net::IpAddr;

use jiff::Timestamp;
use pouch_store::StoreError;
use pouch_types::ContainerId;
use pouch_types::pod::PodSpec;
use rusqlite::Transaction;
use serde::{Deserialize, Serialize};

use super::state::PodState;
use crate::records;

/// The pods' table. A pod has one sandbox of each attempt.
pub(crate) const TABLE: &str = "CREATE TABLE pods (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT";

/// Its name.
pub(crate) const NAME: &str = "pods";

/// Everything about a sandbox that must survive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) id: ContainerId,
    pub(crate) created: Timestamp,
    pub(crate) spec: PodSpec,
    pub(crate) state: PodState,
    /// Addresses in the order in which the network gave them.
    pub(crate) ips: Vec<IpAddr>,
    /// `/proc/sys/kernel/random/boot_id` under which its namespaces were made.
    pub(crate) boot_id: String,
}

impl PodRecord {
    /// Adds or replaces the row.
    ///
    /// # Errors
    /// A unique violation when another sandbox has the same key.
    pub(crate) fn put(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        tx.execute(
            "INSERT INTO pods (id, key, record) VALUES (?1, ?2, ?3) \
             ON CONFLICT (id) DO UPDATE SET record = ?3",
            (self.id.as_str(), self.spec.key.to_string(), records::json(self, NAME)?),
        )?;
        Ok(())
    }

    /// Removes the row.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn delete(tx: &Transaction<'_>, id: &ContainerId) -> Result<(), StoreError> {
        tx.execute("DELETE FROM pods WHERE id = ?1", [id.as_str()])?;
        Ok(())
    }
}
