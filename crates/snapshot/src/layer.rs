//! Layers: applying, listing, removing.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pouch_store::{Schema, Store, StoreError};
use pouch_types::{Digest, ErrorKind, failpoint};
use rusqlite::Connection;
use tokio::io::AsyncRead;

use crate::archive::Hashing;
use crate::error::{Result, SnapshotError};
use crate::layout::{Snapshotter, blocking, random_name};
use crate::reaper::When;

/// The table of layers.
pub const SCHEMA: Schema = Schema {
    owner: "snapshot",
    migrations: &["CREATE TABLE snapshot_layers (
        number INTEGER PRIMARY KEY,
        diff_id TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        entries INTEGER NOT NULL,
        opaque_root INTEGER NOT NULL
    ) STRICT"],
};

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of the files in it.
    pub size: u64,
    /// Entries of its tar.
    pub entries: u64,
    /// Name of its directory.
    pub(crate) number: i64,
    /// It hides everything below it.
    pub(crate) opaque_root: bool,
}

/// Reads all rows.
pub(crate) async fn load(store: &Store) -> Result<Vec<LayerInfo>> {
    store.read(rows).await
}

fn rows(connection: &Connection) -> Result<Vec<LayerInfo>> {
    let mut select = connection
        .prepare("SELECT number, diff_id, size, entries, opaque_root FROM snapshot_layers")?;
    let mut found = select.query([])?;
    let mut layers = Vec::new();
    while let Some(row) = found.next()? {
        let text: String = row.get(1)?;
        // A damaged row is a layer that is not there: it is fetched again.
        let Ok(diff_id) = text.parse::<Digest>() else { continue };
        layers.push(LayerInfo {
            number: row.get(0)?,
            diff_id,
            size: row.get::<_, i64>(2)?.unsigned_abs(),
            entries: row.get::<_, i64>(3)?.unsigned_abs(),
            opaque_root: row.get(4)?,
        });
    }
    Ok(layers)
}

impl Snapshotter {
    /// Whether the layer is complete on disk.
    #[must_use]
    pub fn has_layer(&self, diff_id: &Digest) -> bool {
        self.inner.index().layers.contains_key(diff_id)
    }

    /// The layer, if it is complete on disk.
    #[must_use]
    pub fn layer(&self, diff_id: &Digest) -> Option<LayerInfo> {
        self.inner.index().layers.get(diff_id).cloned()
    }

    /// Bytes of the files in the layer.
    ///
    /// # Errors
    /// [`SnapshotError::NoLayer`].
    pub fn layer_size(&self, diff_id: &Digest) -> Result<u64> {
        self.layer(diff_id).map(|layer| layer.size).ok_or(SnapshotError::NoLayer(*diff_id))
    }

    /// All layers, in no order.
    #[must_use]
    pub fn layers(&self) -> Vec<LayerInfo> {
        self.inner.index().layers.values().cloned().collect()
    }

    /// All layers with the time at which each was complete, in no order. One whose directory is
    /// lost is as old as can be.
    ///
    /// # Errors
    /// When the thread for it is lost.
    pub async fn dated_layers(&self) -> Result<Vec<(LayerInfo, SystemTime)>> {
        let this = self.clone();
        blocking(move || {
            let dated = this.layers().into_iter().map(|layer| {
                // Being renamed into place is the last change of the directory itself.
                let path = format!("l/{}", layer.number);
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let since = rustix::fs::statat(this.inner.root.as_fd(), path, flags)
                    .ok()
                    .and_then(|found| u64::try_from(found.st_ctime).ok())
                    .map_or(SystemTime::UNIX_EPOCH, |seconds| {
                        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
                    });
                (layer, since)
            });
            Ok(dated.collect())
        })
        .await
    }

    /// Unpacks `blob` (compressed or not) as the layer `diff_id`; an existing layer is returned
    /// without reading it. Of several calls for the same layer one works and the others wait.
    ///
    /// `digest` is what the blob itself must hash to, `None` when the caller verified it. Dropping
    /// the future stops the work and leaves nothing.
    ///
    /// # Errors
    /// [`SnapshotError::Mismatch`], [`SnapshotError::Unpack`] for a bad archive, I/O and store
    /// errors; failures of reading `blob` are [`SnapshotError::Io`].
    pub async fn apply_layer(
        &self,
        blob: impl AsyncRead + Unpin + Send,
        diff_id: Digest,
        digest: Option<Digest>,
    ) -> Result<LayerInfo> {
        let turn = self.turn(diff_id);
        let _mine = turn.lock().await;
        if let Some(known) = self.layer(&diff_id) {
            return Ok(known);
        }
        self.inner.reaper.note_activity();
        let staging = Staging::make(self).await?;
        let directory = self.inner.config.root.join("s").join(&staging.name);
        let hashing = if digest.is_some() { Hashing::Both } else { Hashing::Tar };
        let applied = self.inner.unpacker.layer(&directory, blob, hashing).await;
        let report = applied.map_err(|error| self.told_where(error))?;
        if report.diff_id != diff_id.to_string() {
            return Err(SnapshotError::Mismatch {
                what: "diff id",
                want: diff_id,
                got: report.diff_id,
            });
        }
        if let Some(want) = digest {
            let got = report.digest.unwrap_or_default();
            if want.to_string() != got {
                return Err(SnapshotError::Mismatch { what: "digest", want, got });
            }
        }
        failpoint::hit("layer:staged");
        let number = {
            let mut index = self.inner.index();
            index.next_layer += 1;
            index.next_layer - 1
        };
        let layer = LayerInfo {
            diff_id,
            size: report.size,
            entries: report.entries,
            number,
            opaque_root: report.opaque_root,
        };
        // From here on a dropped caller must not leave half: the rest runs to its end.
        let (this, row) = (self.clone(), layer.clone());
        let commit = tokio::spawn(async move { this.commit_layer(staging, row).await });
        commit.await.map_err(|_| SnapshotError::Cancelled)??;
        Ok(layer)
    }

    /// Names the disk that is full: the program below knows no path of ours.
    fn told_where(&self, error: SnapshotError) -> SnapshotError {
        match error {
            SnapshotError::Unpack { kind: ErrorKind::ResourceExhausted, message } => {
                let message = format!("below {}: {message}", self.inner.config.root.display());
                SnapshotError::Unpack { kind: ErrorKind::ResourceExhausted, message }
            }
            other => other,
        }
    }

    /// The lock of one layer. Entries of layers that nobody waits for any more are dropped.
    fn turn(&self, diff_id: Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut applying =
            self.inner.applying.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        applying.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(applying.entry(diff_id).or_default())
    }

    async fn commit_layer(&self, mut staging: Staging, layer: LayerInfo) -> Result<()> {
        let this = self.clone();
        let (name, number) = (staging.name.clone(), layer.number);
        blocking(move || {
            let root = &this.inner.root;
            let (from, to) = (root.resolve("s")?, root.resolve("l")?);
            // The row must never promise files that a power cut can still take.
            this.inner.syncs.sync(root)?;
            failpoint::hit("layer:synced");
            Ok(from.rename_noreplace(&name, &to, number.to_string())?)
        })
        .await?;
        staging.done();
        failpoint::hit("layer:renamed");
        let row = layer.clone();
        let insert = self.inner.store.write(move |tx| {
            // A row whose directory was lost makes way.
            tx.execute("DELETE FROM snapshot_layers WHERE diff_id = ?1", [row.diff_id.to_string()])
                .map_err(StoreError::from)?;
            tx.execute(
                "INSERT INTO snapshot_layers VALUES (?1, ?2, ?3, ?4, ?5)",
                (
                    row.number,
                    row.diff_id.to_string(),
                    i64::try_from(row.size).unwrap_or(i64::MAX),
                    i64::try_from(row.entries).unwrap_or(i64::MAX),
                    row.opaque_root,
                ),
            )
            .map_err(StoreError::from)?;
            Ok::<_, SnapshotError>(())
        });
        if let Err(error) = insert.await {
            self.throw_away("l", &number.to_string(), When::Now)?;
            return Err(error);
        }
        failpoint::hit("layer:recorded");
        self.inner.index().layers.insert(layer.diff_id, layer);
        self.inner.reaper.note_activity();
        Ok(())
    }

    /// Removes a layer; one that is not there is no error.
    ///
    /// # Errors
    /// [`SnapshotError::LayerInUse`] while containers stand on it; store and I/O errors.
    pub async fn remove_layer(&self, diff_id: &Digest) -> Result<()> {
        let turn = self.turn(*diff_id);
        let _mine = turn.lock().await;
        let layer = {
            let mut index = self.inner.index();
            let users = index.users(diff_id);
            if users > 0 {
                return Err(SnapshotError::LayerInUse { layer: *diff_id, users });
            }
            // Out of the index first: no container can take it up any more.
            index.layers.remove(diff_id)
        };
        let Some(layer) = layer else { return Ok(()) };
        let number = layer.number;
        let delete = self.inner.store.write(move |tx| {
            tx.execute("DELETE FROM snapshot_layers WHERE number = ?1", [number])?;
            Ok::<_, SnapshotError>(())
        });
        if let Err(error) = delete.await {
            self.inner.index().layers.insert(layer.diff_id, layer);
            return Err(error);
        }
        failpoint::hit("layer:forgotten");
        self.inner.reaper.note_activity();
        let (this, when) = (self.clone(), self.inner.reaper.when(layer.entries));
        blocking(move || this.throw_away("l", &number.to_string(), when)).await
    }
}

/// A directory below `s` that is thrown away unless it was taken.
#[derive(Debug)]
struct Staging {
    name: String,
    owner: Option<Snapshotter>,
}

impl Staging {
    async fn make(snapshotter: &Snapshotter) -> Result<Self> {
        let this = snapshotter.clone();
        let name = blocking(move || {
            let name = random_name()?;
            let staging = this.inner.root.resolve("s")?;
            staging.create_dir(&name, 0o755)?;
            // The top of a layer has this mode unless the layer says otherwise, whatever our umask.
            staging.pin_dir(&name)?.chmod(0o755)?;
            Ok(name)
        })
        .await?;
        Ok(Self { name, owner: Some(snapshotter.clone()) })
    }

    fn done(&mut self) {
        self.owner = None;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // One rename; the deletion itself happens elsewhere.
        if let Some(owner) = self.owner.take()
            && let Err(error) = owner.throw_away("s", &self.name, When::BySize)
        {
            tracing::warn!(error = %pouch_types::error::chain(&error), "discard staged layer");
        }
    }
}
