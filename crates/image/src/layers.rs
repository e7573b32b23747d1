//! The seam to whatever keeps unpacked layers: overlay directories, erofs files, the snapshotter of a
//! containerd. Images need four things of it and no more.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
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

/// The blob of a layer, for a store to unpack: by its name if the store reads the content store
/// itself, else by its bytes.
pub struct LayerBlob {
    /// Digest of the blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Gives its bytes, on their way from a registry or out of the content store.
    pub open: Opener,
}

/// See [`LayerBlob::open`].
pub type Opener = Box<
    dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<LayerStream, LayerError>> + Send>> + Send,
>;

impl LayerBlob {
    /// One whose bytes are there.
    pub fn of_stream(digest: Digest, size: u64, stream: LayerStream) -> Self {
        Self { digest, size, open: Box::new(move || Box::pin(async move { Ok(stream) })) }
    }
}

impl fmt::Debug for LayerBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerBlob").field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// Keeps unpacked layers. A layer is told by its chain: the diffIDs of the layers that it lies on,
/// bottom first, and at the end its own. Whether the store minds what is below is its own affair.
#[async_trait]
pub trait LayerStore: Send + Sync + 'static {
    /// The last layer of `chain`, if it is here and complete.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn get(&self, chain: &[Digest]) -> Result<Option<Unpacked>, LayerError>;

    /// Unpacks `blob` (tar, tar+gzip or tar+zstd) and keeps it as the last layer of `chain`,
    /// durably, or leaves nothing. The digest of the compressed bytes was checked when they were
    /// fetched. Dropping the future stops the work.
    ///
    /// # Errors
    /// A stream that is damaged or hostile, or another diffID than this: `Invalid`.
    async fn apply(&self, blob: LayerBlob, chain: &[Digest]) -> Result<Unpacked, LayerError>;

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
    async fn get(&self, chain: &[Digest]) -> Result<Option<Unpacked>, LayerError> {
        // A directory knows nothing of those below it.
        Ok(self.layer(top(chain)?).map(Unpacked::from))
    }

    async fn apply(&self, blob: LayerBlob, chain: &[Digest]) -> Result<Unpacked, LayerError> {
        let applied = self.apply_layer((blob.open)().await?, *top(chain)?, None).await;
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

/// The layer that a chain is about.
///
/// # Errors
/// When the chain is empty.
pub fn top(chain: &[Digest]) -> Result<&Digest, LayerError> {
    chain.last().ok_or_else(|| LayerError::of(ErrorKind::Invalid, "no layer"))
}
