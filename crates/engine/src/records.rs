//! Records as JSON: rows of a table, and the copy that lies in the directory of what a row is of.
//!
//! The copy is written without fsync after each commit. It serves to rebuild a database that was
//! lost, and is no promise.

use std::io::{self, Read as _};
use std::path::Path;

use pouch_store::StoreError;
use rusqlite::Connection;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Name of the copy.
const COPY: &str = "record.json";
/// No record is larger: a specification is bounded by the request that made it.
const COPY_MAX: u64 = 16 << 20;

/// A record as its row holds it.
///
/// # Errors
/// When it cannot be written as JSON.
pub(crate) fn json(record: &impl Serialize, table: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(record).map_err(|source| StoreError::Row { table, source })
}

/// All rows of a table with the columns `id` and `record`; one that does not parse is reported and
/// left out.
///
/// # Errors
/// The store's.
pub(crate) fn load_all<T: DeserializeOwned>(
    connection: &Connection,
    table: &'static str,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare(&format!("SELECT id, record FROM {table}"))?;
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut records = Vec::new();
    for row in rows {
        let (id, json) = row?;
        match serde_json::from_str(&json) {
            Ok(record) => records.push(record),
            Err(error) => tracing::error!(id, table, %error, "unreadable record"),
        }
    }
    Ok(records)
}

/// Writes the copy: whole or not at all, durable or not.
///
/// # Errors
/// The file system's.
pub(crate) fn write_copy(record: &impl Serialize, dir: &Path) -> io::Result<()> {
    let temporary = dir.join("record.json.new");
    std::fs::write(&temporary, serde_json::to_vec(record)?)?;
    std::fs::rename(temporary, dir.join(COPY))
}

/// Reads the copy.
///
/// # Errors
/// The file system's, or `InvalidData`.
pub(crate) fn read_copy<T: DeserializeOwned>(dir: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    std::fs::File::open(dir.join(COPY))?.take(COPY_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
