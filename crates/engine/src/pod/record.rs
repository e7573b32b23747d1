//! What the store keeps of a pod's sandbox, and the copy beside it for a database that is lost.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use pouch_store::StoreError;
use pouch_types::ContainerId;
use pouch_types::pod::PodSpec;
use rusqlite::{Connection, Transaction};
use serde::{Deserialize, Serialize};

use super::state::PodState;

/// The pods' table. A pod has one sandbox of each attempt.
pub(crate) const TABLE: &str = "CREATE TABLE pods (
    id TEXT PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT";

/// Name of the copy in the pod's directory.
const COPY: &str = "record.json";
/// No record is larger: a specification is bounded by the request that made it.
const COPY_MAX: u64 = 16 << 20;

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
        let record = serde_json::to_string(self)
            .map_err(|source| StoreError::Row { table: "pods", source })?;
        tx.execute(
            "INSERT INTO pods (id, key, record) VALUES (?1, ?2, ?3) \
             ON CONFLICT (id) DO UPDATE SET record = ?3",
            (self.id.as_str(), self.spec.key.to_string(), record),
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

    /// All rows; one that does not parse is reported and left out.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn load_all(connection: &Connection) -> Result<Vec<Self>, StoreError> {
        let mut statement = connection.prepare("SELECT id, record FROM pods")?;
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
        let mut records = Vec::new();
        for row in rows {
            let (id, json) = row?;
            match serde_json::from_str(&json) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(pod.id = id, %error, "unreadable pod record"),
            }
        }
        Ok(records)
    }

    /// Writes the copy: whole or not at all, durable or not.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write_copy(&self, dir: &Path) -> io::Result<()> {
        let temporary = dir.join("record.json.new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, dir.join(COPY))
    }

    /// Reads the copy.
    ///
    /// # Errors
    /// The file system's, or `InvalidData`.
    pub(crate) fn read_copy(dir: &Path) -> io::Result<Self> {
        use std::io::Read as _;
        let mut text = Vec::new();
        std::fs::File::open(dir.join(COPY))?.take(COPY_MAX).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}
