//! The seam to whatever keeps unpacked layers: overlay directories, erofs files, a remote
//! snapshotter. Images need three things of it and no more.

use std::time::SystemTime;

use async_trait::async_trait;
use pouch_snapshot::{LayerInfo, Snapshotter};
use pouch_types::{Classified, Digest, ErrorKind};
use tokio::io::AsyncRead;

/// A failure of the layer store, with its class kept.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct LayerError {
    kind: ErrorKind,
    text: String,
}

impl LayerError {
    /// Flattens an error and its causes: this one crosses a `dyn` seam.
    pub fn new(error: &dyn Classified) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            cause = inner.source();
        }
        Self { kind: error.kind(), text }
    }

    /// An error of a layer store that has no type of its own.
    pub fn of(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl Classified for LayerError {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// A layer that is unpacked and durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Bytes of its files.
    pub size: u64,
}

/// A layer in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// When it came.
    pub since: SystemTime,
}

/// Bytes of a layer blob, compressed as they are.
pub type LayerStream = Box<dyn AsyncRead + Send + Unpin>;

/// Keeps unpacked layers by diffID.
#[async_trait]
pub trait LayerStore: Send + Sync + 'static {
    /// The layer, if it is here and complete.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn get(&self, diff_id: &Digest) -> Result<Option<Unpacked>, LayerError>;

    /// Unpacks `blob` (tar, tar+gzip or tar+zstd) and keeps it under its diffID, durably, or
    /// leaves nothing. The digest of the compressed bytes was checked when they were fetched.
    /// Dropping the future stops the work.
    ///
    /// # Errors
    /// A stream that is damaged or hostile, or another diffID than this: `Invalid`.
    async fn apply(&self, blob: LayerStream, diff_id: &Digest) -> Result<Unpacked, LayerError>;

    /// Forgets a layer; one that is not here is no error.
    ///
    /// # Errors
    /// When it cannot be removed now, for example because it is mounted.
    async fn remove(&self, diff_id: &Digest) -> Result<(), LayerError>;

    /// All layers that are here.
    ///
    /// # Errors
    /// When they cannot be listed.
    async fn list(&self) -> Result<Vec<Kept>, LayerError>;
}

impl From<LayerInfo> for Unpacked {
    fn from(layer: LayerInfo) -> Self {
        Self { diff_id: layer.diff_id, size: layer.size }
    }
}

#[async_trait]
impl LayerStore for Snapshotter {
    async fn get(&self, diff_id: &Digest) -> Result<Option<Unpacked>, LayerError> {
        Ok(self.layer(diff_id).map(Unpacked::from))
    }

    async fn apply(&self, blob: LayerStream, diff_id: &Digest) -> Result<Unpacked, LayerError> {
        let applied = self.apply_layer(blob, *diff_id, None).await;
        applied.map(Unpacked::from).map_err(|error| LayerError::new(&error))
    }

    async fn remove(&self, diff_id: &Digest) -> Result<(), LayerError> {
        self.remove_layer(diff_id).await.map_err(|error| LayerError::new(&error))
    }

    async fn list(&self) -> Result<Vec<Kept>, LayerError> {
        let dated = self.dated_layers().await.map_err(|error| LayerError::new(&error))?;
        Ok(dated.into_iter().map(|(layer, since)| Kept { diff_id: layer.diff_id, since }).collect())
    }
}
