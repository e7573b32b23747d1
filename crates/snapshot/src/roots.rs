//! The seam to whatever keeps the root file systems of containers: this crate's overlay directories
//! or the snapshotter of a containerd.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use pouch_rootfd::RootFd;
use pouch_types::{ContainerId, Digest};
use tokio::io::AsyncRead;

use crate::archive::Unpacker;
use crate::changes::Change;
use crate::error::Result;
use crate::layout::Snapshotter;
use crate::mount::MountEntry;
use crate::usage::Usage;

/// A layer as a plain tar.
pub type DiffReader = Box<dyn AsyncRead + Send + Unpin>;

/// Keeps the writable root file system of each container.
#[async_trait]
pub trait Roots: fmt::Debug + Send + Sync + 'static {
    /// What clients know it by.
    fn driver(&self) -> &str;

    /// The program that reads foreign archives.
    fn unpacker(&self) -> &Unpacker;

    /// Makes the root of container `key` over `layers`, bottom first. The same call again is no
    /// error.
    ///
    /// # Errors
    /// Of kind `NotFound` when the layers are not here.
    async fn prepare(&self, key: &ContainerId, layers: &[Digest]) -> Result<()>;

    /// The containers that have a root.
    fn containers(&self) -> Vec<ContainerId>;

    /// What a shim mounts as the root of `key`.
    ///
    /// # Errors
    /// When there is none.
    fn mounts(&self, key: &ContainerId) -> Result<Vec<MountEntry>>;

    /// Mounts the root of a container that does not run where nobody sees it. The mount lives as
    /// long as the descriptor and what is opened through it.
    ///
    /// # Errors
    /// When there is none, or it cannot be mounted.
    async fn mount_detached(&self, key: &ContainerId) -> Result<RootFd>;

    /// Path of the writable layer on the host, where there is one, for `inspect`.
    fn upper_path(&self, key: &ContainerId) -> Option<PathBuf>;

    /// What container `key` changed, as an OCI layer.
    ///
    /// # Errors
    /// When there is no root, or it cannot be compared. Everything else is an error of reading.
    async fn diff(&self, key: &ContainerId) -> Result<DiffReader>;

    /// What container `key` changed, by path.
    ///
    /// # Errors
    /// As [`Roots::diff`], and a list that is too long.
    async fn changes(&self, key: &ContainerId) -> Result<Vec<Change>>;

    /// How much container `key` has written.
    ///
    /// # Errors
    /// When there is no root, or it cannot be measured.
    async fn usage(&self, key: &ContainerId) -> Result<Usage>;

    /// Removes the root of `key`. One that is not there is no error.
    ///
    /// # Errors
    /// When it stays.
    async fn remove(&self, key: &ContainerId) -> Result<()>;
}

#[async_trait]
impl Roots for Snapshotter {
    fn driver(&self) -> &str {
        // As Docker calls overlay mounts over one directory per layer.
        "overlay2"
    }

    fn unpacker(&self) -> &Unpacker {
        &self.inner.unpacker
    }

    async fn prepare(&self, key: &ContainerId, layers: &[Digest]) -> Result<()> {
        self.prepare(key, layers).await
    }

    fn containers(&self) -> Vec<ContainerId> {
        self.containers()
    }

    fn mounts(&self, key: &ContainerId) -> Result<Vec<MountEntry>> {
        self.mounts(key)
    }

    async fn mount_detached(&self, key: &ContainerId) -> Result<RootFd> {
        self.mount_detached(key).await
    }

    fn upper_path(&self, key: &ContainerId) -> Option<PathBuf> {
        Some(self.upper_path(key))
    }

    async fn diff(&self, key: &ContainerId) -> Result<DiffReader> {
        let upper = self.upper(key)?;
        Ok(Box::new(self.unpacker().diff(&upper)?))
    }

    async fn changes(&self, key: &ContainerId) -> Result<Vec<Change>> {
        self.changes(key).await
    }

    async fn usage(&self, key: &ContainerId) -> Result<Usage> {
        self.usage(key).await
    }

    async fn remove(&self, key: &ContainerId) -> Result<()> {
        self.remove(key).await
    }
}
