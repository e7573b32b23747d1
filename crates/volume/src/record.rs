//! Rows: volumes and who uses them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use pouch_store::{Schema, StoreError};
use pouch_types::{ContainerId, VolumeName};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::error::{Result, VolumeError};

/// The tables of volumes.
pub const SCHEMA: Schema = Schema {
    owner: "volume",
    migrations: &["CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        driver TEXT NOT NULL,
        options TEXT NOT NULL,
        labels TEXT NOT NULL,
        created_at TEXT NOT NULL,
        anonymous INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE volume_use (
        volume TEXT NOT NULL REFERENCES volumes (name),
        container_id TEXT NOT NULL,
        destination TEXT NOT NULL,
        PRIMARY KEY (container_id, destination)
    ) STRICT;
    CREATE INDEX volume_use_by_volume ON volume_use (volume);"],
};

const COLUMNS: &str = "name, driver, options, labels, created_at, anonymous";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name; 64 hex digits for an anonymous one.
    pub name: VolumeName,
    /// `local`.
    pub driver: String,
    /// As given.
    pub options: BTreeMap<String, String>,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Made without a name: `prune` takes it by default, `rm -v` with its container.
    pub anonymous: bool,
    /// The directory on the host.
    pub mountpoint: PathBuf,
}

/// What is written, to the row and to the marker file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) name: VolumeName,
    pub(crate) driver: String,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created_at: Timestamp,
    pub(crate) anonymous: bool,
}

impl Record {
    pub(crate) fn into_volume(self, root: &std::path::Path) -> Volume {
        let mountpoint = root.join(self.name.as_str()).join("_data");
        let Self { name, driver, options, labels, created_at, anonymous } = self;
        Volume { name, driver, options, labels, created_at, anonymous, mountpoint }
    }
}

fn parse(row: &Row<'_>) -> rusqlite::Result<Option<Record>> {
    // A row that does not parse was damaged from outside; the volume's marker still tells all.
    let text = |n: usize| row.get::<_, String>(n);
    let parsed = (
        text(0)?.parse::<VolumeName>(),
        serde_json::from_str(&text(2)?),
        serde_json::from_str(&text(3)?),
        text(4)?.parse::<Timestamp>(),
    );
    let (Ok(name), Ok(options), Ok(labels), Ok(created_at)) = parsed else { return Ok(None) };
    Ok(Some(Record { name, driver: text(1)?, options, labels, created_at, anonymous: row.get(5)? }))
}

pub(crate) fn get(connection: &Connection, name: &VolumeName) -> Result<Option<Record>> {
    let sql = format!("SELECT {COLUMNS} FROM volumes WHERE name = ?1");
    let mut select = connection.prepare(&sql)?;
    Ok(select.query_row([name.as_str()], parse).optional()?.flatten())
}

pub(crate) fn all(connection: &Connection) -> Result<Vec<Record>> {
    let mut select = connection.prepare(&format!("SELECT {COLUMNS} FROM volumes ORDER BY name"))?;
    let rows = select.query_map([], parse)?;
    let rows: rusqlite::Result<Vec<_>> = rows.collect();
    Ok(rows?.into_iter().flatten().collect())
}

/// Writes the row of a volume unless the name has one; the row that counts is returned.
pub(crate) fn insert_record(tx: &Transaction<'_>, record: &Record) -> Result<Record> {
    tx.execute(
        "INSERT INTO volumes VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
        (
            record.name.as_str(),
            &record.driver,
            serde_json::to_string(&record.options)?,
            serde_json::to_string(&record.labels)?,
            record.created_at.to_string(),
            record.anonymous,
        ),
    )?;
    get(tx, &record.name)?.ok_or_else(|| VolumeError::NotFound(record.name.clone()))
}

/// Adds the row of a prepared volume in the caller's transaction, so that making a container and
/// its volumes is one durable write. Finish with [`crate::Volumes::finish`] after the commit.
///
/// # Errors
/// [`VolumeError::Differs`] when the name was taken meanwhile, store errors.
pub fn insert(tx: &Transaction<'_>, new: &crate::NewVolume) -> Result<()> {
    let there = insert_record(tx, &new.record)?;
    crate::volumes::compatible(&there, &new.record)
}

/// Records that `container` mounts `volume` at `destination`. The same again is no error.
///
/// # Errors
/// [`VolumeError::NotFound`], store errors.
pub fn use_volume(
    tx: &Transaction<'_>,
    volume: &VolumeName,
    container: &ContainerId,
    destination: &str,
) -> Result<()> {
    let done = tx.execute(
        "INSERT INTO volume_use VALUES (?1, ?2, ?3)
         ON CONFLICT (container_id, destination) DO UPDATE SET volume = excluded.volume",
        (volume.as_str(), container.as_str(), destination),
    );
    match done.map_err(StoreError::from) {
        Err(error) if error.is_foreign_key_violation() => {
            Err(VolumeError::NotFound(volume.clone()))
        }
        done => Ok(done.map(drop)?),
    }
}

/// Forgets every use by `container`.
///
/// # Errors
/// Store errors.
pub fn release(tx: &Transaction<'_>, container: &ContainerId) -> Result<()> {
    tx.execute("DELETE FROM volume_use WHERE container_id = ?1", [container.as_str()])?;
    Ok(())
}

/// The containers that use `volume`, by id.
///
/// # Errors
/// Store errors.
pub fn users(connection: &Connection, volume: &VolumeName) -> Result<Vec<ContainerId>> {
    let mut select = connection
        .prepare("SELECT DISTINCT container_id FROM volume_use WHERE volume = ?1 ORDER BY 1")?;
    let ids = select.query_map([volume.as_str()], |row| row.get::<_, String>(0))?;
    let ids: rusqlite::Result<Vec<String>> = ids.collect();
    Ok(ids?.iter().filter_map(|id| id.parse().ok()).collect())
}

pub(crate) fn all_users(connection: &Connection) -> Result<BTreeMap<VolumeName, Vec<ContainerId>>> {
    let mut select =
        connection.prepare("SELECT DISTINCT volume, container_id FROM volume_use ORDER BY 1, 2")?;
    let rows =
        select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut found: BTreeMap<VolumeName, Vec<ContainerId>> = BTreeMap::new();
    for row in rows {
        let (volume, container) = row?;
        if let (Ok(volume), Ok(container)) = (volume.parse(), container.parse()) {
            found.entry(volume).or_default().push(container);
        }
    }
    Ok(found)
}
