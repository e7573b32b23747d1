//! The tables, and every statement on them.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use pouch_store::{Schema, StoreError};
use pouch_types::{ContainerId, Digest, ImageId};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owners, Packing, Reference};

/// The tables of this crate.
///
/// `images.retired` is set when an image was removed by force while a container still uses it: it
/// has no name and no list shows it, but its layers stay until the last use ends.
pub const SCHEMA: Schema = Schema {
    owner: "image",
    migrations: &["
CREATE TABLE images (
    id          TEXT PRIMARY KEY,
    manifest    TEXT,
    parent      TEXT,
    config      BLOB NOT NULL,
    last_tagged INTEGER,
    retired     INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE image_layers (
    image     TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position  INTEGER NOT NULL,
    diff_id   TEXT NOT NULL,
    size      INTEGER NOT NULL,
    blob      TEXT NOT NULL,
    blob_size INTEGER NOT NULL,
    packing   TEXT NOT NULL,
    PRIMARY KEY (image, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE image_refs (
    reference TEXT PRIMARY KEY,
    image     TEXT NOT NULL REFERENCES images (id),
    manifest  TEXT,
    owners    INTEGER NOT NULL CHECK (owners BETWEEN 1 AND 3)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_refs_image ON image_refs (image);
CREATE TABLE image_use (
    image     TEXT NOT NULL REFERENCES images (id),
    container TEXT NOT NULL,
    PRIMARY KEY (image, container)
) STRICT, WITHOUT ROWID;
"],
};

/// An image as its rows have it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: ImageId,
    pub(crate) manifest: Option<Digest>,
    pub(crate) parent: Option<ImageId>,
    pub(crate) raw_config: Bytes,
    pub(crate) config: Arc<ImageConfig>,
    pub(crate) layers: Arc<[Layer]>,
    pub(crate) last_tagged: Option<Timestamp>,
    pub(crate) retired: bool,
}

impl Record {
    /// The image, without names.
    pub(crate) fn into_image(self) -> Image {
        Image {
            id: self.id,
            manifest: self.manifest,
            parent: self.parent,
            created: self.config.created_at(),
            config: self.config,
            size: self.layers.iter().map(|layer| layer.size).sum(),
            layers: self.layers,
            last_tagged: self.last_tagged,
            repo_tags: Vec::new(),
            repo_digests: Vec::new(),
            owners: Owners::default(),
        }
    }
}

fn digest(row: &Row<'_>, column: usize) -> Result<Digest, ImageError> {
    let text: String = row.get(column)?;
    text.parse().map_err(|_| ImageError::Record(text))
}

fn optional_digest(row: &Row<'_>, column: usize) -> Result<Option<Digest>, ImageError> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse().map_err(|_| ImageError::Record(text))).transpose()
}

// SQLite's integers are signed; sizes beyond 8 EiB do not exist.
fn to_sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn from_sql(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn layers(c: &Connection, id: &str) -> Result<Arc<[Layer]>, ImageError> {
    let mut select = c.prepare(
        "SELECT diff_id, size, blob, blob_size, packing FROM image_layers
         WHERE image = ?1 ORDER BY position",
    )?;
    let mut rows = select.query([id])?;
    let mut layers = Vec::new();
    while let Some(row) = rows.next()? {
        let packing: String = row.get(4)?;
        layers.push(Layer {
            diff_id: digest(row, 0)?,
            size: from_sql(row.get(1)?),
            blob: digest(row, 2)?,
            blob_size: from_sql(row.get(3)?),
            packing: Packing::from_str(&packing)
                .ok_or_else(|| ImageError::Record(id.to_owned()))?,
        });
    }
    Ok(layers.into())
}

fn record(c: &Connection, row: &Row<'_>) -> Result<Record, ImageError> {
    let id = digest(row, 0)?;
    let raw: Vec<u8> = row.get(3)?;
    let tagged: Option<i64> = row.get(4)?;
    Ok(Record {
        id: ImageId(id),
        manifest: optional_digest(row, 1)?,
        parent: optional_digest(row, 2)?.map(ImageId),
        config: Arc::new(ImageConfig::parse(&raw)?),
        raw_config: raw.into(),
        layers: layers(c, &id.to_string())?,
        last_tagged: tagged.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        retired: row.get(5)?,
    })
}

const COLUMNS: &str = "id, manifest, parent, config, last_tagged, retired";

/// All images and references.
pub(crate) fn load(c: &Connection) -> Result<(Vec<Record>, Vec<Reference>), ImageError> {
    let mut select = c.prepare(&format!("SELECT {COLUMNS} FROM images"))?;
    let mut rows = select.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        records.push(record(c, row)?);
    }
    let mut select = c.prepare("SELECT reference, image, manifest, owners FROM image_refs")?;
    let mut rows = select.query([])?;
    let mut references = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        references.push(Reference {
            name: name.parse().map_err(|_| ImageError::Record(name))?,
            image: digest(row, 1)?,
            manifest: optional_digest(row, 2)?,
            owners: Owners::from_bits(row.get(3)?),
        });
    }
    Ok((records, references))
}

/// One image, retired or not.
pub(crate) fn find(c: &Connection, id: &ImageId) -> Result<Option<Record>, ImageError> {
    let mut select = c.prepare(&format!("SELECT {COLUMNS} FROM images WHERE id = ?1"))?;
    let mut rows = select.query([id.to_string()])?;
    rows.next()?.map(|row| record(c, row)).transpose()
}

/// The bytes of a configuration, whose digest is the id.
pub(crate) fn raw_config(c: &Connection, id: &ImageId) -> Result<Option<Bytes>, ImageError> {
    let raw: Option<Vec<u8>> = c
        .query_row("SELECT config FROM images WHERE id = ?1", [id.to_string()], |r| r.get(0))
        .optional()?;
    Ok(raw.map(Bytes::from))
}

/// Writes an image. One that exists is brought back if it was retired, and takes the manifest and
/// the layer blobs of this making: those are the ones that were pinned and seen to be there.
pub(crate) fn put_image(tx: &Transaction<'_>, image: &Record) -> Result<(), ImageError> {
    let id = image.id.to_string();
    tx.execute(
        "INSERT INTO images (id, manifest, parent, config, last_tagged, retired)
         VALUES (?1, ?2, ?3, ?4, ?5, 0)
         ON CONFLICT (id) DO UPDATE SET
             manifest = coalesce(excluded.manifest, manifest),
             parent = coalesce(parent, excluded.parent),
             retired = 0",
        (
            &id,
            image.manifest.map(|d| d.to_string()),
            image.parent.as_ref().map(ToString::to_string),
            &image.raw_config[..],
            image.last_tagged.map(Timestamp::as_millisecond),
        ),
    )?;
    let mut insert = tx.prepare(
        "INSERT OR REPLACE INTO image_layers
         (image, position, diff_id, size, blob, blob_size, packing)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for (position, layer) in image.layers.iter().enumerate() {
        insert.execute((
            &id,
            to_sql(position as u64),
            layer.diff_id.to_string(),
            to_sql(layer.size),
            layer.blob.to_string(),
            to_sql(layer.blob_size),
            layer.packing.as_str(),
        ))?;
    }
    Ok(())
}

/// Points a name to an image. When a tag comes to an image, that is its time of tagging.
pub(crate) fn put_reference(tx: &Transaction<'_>, r: &Reference) -> Result<(), ImageError> {
    let (name, image) = (r.name.to_string(), r.image.to_string());
    let before: Option<String> = tx
        .query_row("SELECT image FROM image_refs WHERE reference = ?1", [&name], |row| row.get(0))
        .optional()?;
    tx.execute(
        "INSERT OR REPLACE INTO image_refs (reference, image, manifest, owners)
         VALUES (?1, ?2, ?3, ?4)",
        (&name, &image, r.manifest.map(|d| d.to_string()), r.owners.bits()),
    )?;
    if r.name.digest().is_none() && before.as_ref() != Some(&image) {
        tx.execute(
            "UPDATE images SET last_tagged = ?2 WHERE id = ?1",
            (&image, Timestamp::now().as_millisecond()),
        )?;
    }
    Ok(())
}

pub(crate) fn delete_reference(tx: &Transaction<'_>, name: &str) -> Result<(), ImageError> {
    tx.execute("DELETE FROM image_refs WHERE reference = ?1", [name])?;
    Ok(())
}

/// The containers that use an image.
pub(crate) fn users(tx: &Transaction<'_>, image: &str) -> Result<Vec<String>, ImageError> {
    let mut select = tx.prepare("SELECT container FROM image_use WHERE image = ?1")?;
    let users = select.query_map([image], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(users)
}

/// Whether the rows of an image are gone or only hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// No row is left.
    Gone,
    /// A container still uses it.
    Retired,
}

/// Deletes an image without names, or retires it when containers use it.
pub(crate) fn delete_image(tx: &Transaction<'_>, image: &str) -> Result<Deleted, ImageError> {
    if users(tx, image)?.is_empty() {
        tx.execute("DELETE FROM images WHERE id = ?1", [image])?;
        Ok(Deleted::Gone)
    } else {
        tx.execute("UPDATE images SET retired = 1 WHERE id = ?1", [image])?;
        Ok(Deleted::Retired)
    }
}

/// Records that a container uses an image, in the transaction that records the container.
///
/// # Errors
/// [`ImageError::NotFound`] when the image was removed meanwhile; the database.
pub fn use_image(
    tx: &Transaction<'_>,
    image: &ImageId,
    container: &ContainerId,
) -> Result<(), ImageError> {
    let found: Option<i64> = tx
        .prepare("SELECT 1 FROM images WHERE id = ?1 AND retired = 0")?
        .query_row([image.to_string()], |row| row.get(0))
        .optional()?;
    if found.is_none() {
        return Err(ImageError::NotFound(image.to_string()));
    }
    tx.prepare("INSERT OR IGNORE INTO image_use (image, container) VALUES (?1, ?2)")?
        .execute((image.to_string(), container.as_str()))?;
    Ok(())
}

/// What [`release_image`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Released {
    /// The image stays.
    Kept,
    /// That was the last use of an image that had been removed: its rows are gone. After the
    /// commit, call [`Images::forget`](crate::Images::forget), which frees its bytes.
    Gone,
}

/// Records that a container no longer uses an image, in the transaction that removes it.
///
/// # Errors
/// The database.
pub fn release_image(
    tx: &Transaction<'_>,
    image: &ImageId,
    container: &ContainerId,
) -> Result<Released, ImageError> {
    let id = image.to_string();
    tx.prepare("DELETE FROM image_use WHERE image = ?1 AND container = ?2")?
        .execute((&id, container.as_str()))?;
    let gone = tx
        .prepare(
            "DELETE FROM images WHERE id = ?1 AND retired = 1
             AND NOT EXISTS (SELECT 1 FROM image_use WHERE image = ?1)",
        )?
        .execute([&id])?;
    Ok(if gone == 0 { Released::Kept } else { Released::Gone })
}

/// Drops the uses of containers that do not exist any more, and images that nothing holds.
///
/// # Errors
/// The database.
pub(crate) fn delete_orphans(tx: &Transaction<'_>) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM images WHERE retired = 1
         AND NOT EXISTS (SELECT 1 FROM image_use WHERE image = images.id)",
        [],
    )?;
    Ok(())
}

/// Whether there are images.
///
/// # Errors
/// The database.
pub async fn is_any(store: &pouch_store::Store) -> Result<bool, ImageError> {
    let found = |c: &Connection| -> Result<bool, ImageError> {
        Ok(c.query_row("SELECT EXISTS (SELECT 1 FROM images)", [], |row| row.get(0))?)
    };
    store.read(found).await
}
