//! Where whole blobs are: the seam between this crate's directory and the content store of
//! somebody else.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pouch_types::{Digest, failpoint};

use crate::error::ContentError;
use crate::{BlobInfo, entries, remove};

/// Keeps whole blobs by digest. All calls block and are made on threads for such work, within the
/// daemon's runtime.
pub trait Blobs: fmt::Debug + Send + Sync {
    /// Bytes of a blob, or `None` when it is not here.
    ///
    /// # Errors
    /// When that cannot be told.
    fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError>;

    /// The first bytes of a blob, `most` of them at most.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], or the failure to read.
    fn head(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, ContentError>;

    /// A blob as a file at its beginning, and its size. What is deleted meanwhile can still be read.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], or the failure to read.
    fn open(&self, digest: &Digest) -> Result<(File, u64), ContentError>;

    /// Makes the bytes of `ingest` a blob, durably; they were checked to be it, and are not needed
    /// any more afterwards. The blob may be here already.
    ///
    /// # Errors
    /// The failure to write; nothing is kept then.
    fn keep(&self, blob: BlobInfo, ingest: &Path) -> Result<(), ContentError>;

    /// Deletes a blob; one that is not here is no error.
    ///
    /// # Errors
    /// The failure to delete.
    fn delete(&self, digest: &Digest) -> Result<(), ContentError>;

    /// All blobs that go only when they are deleted here, with the time of their coming.
    ///
    /// # Errors
    /// The failure to list.
    fn list(&self) -> Result<Vec<(BlobInfo, SystemTime)>, ContentError>;
}

/// Blobs as files of a directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }
}

impl Blobs for Directory {
    fn size(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        match self.open(digest) {
            Ok((_, size)) => Ok(Some(size)),
            Err(ContentError::NotFound(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn head(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        let (file, _) = self.open(digest)?;
        let read = file.take(most).read_to_end(&mut bytes);
        read.map_err(ContentError::io("read blob", self.path(digest)))?;
        Ok(bytes)
    }

    fn open(&self, digest: &Digest) -> Result<(File, u64), ContentError> {
        let path = self.path(digest);
        let opened = File::open(&path).and_then(|file| {
            let size = file.metadata()?.len();
            Ok((file, size))
        });
        opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => ContentError::NotFound(*digest),
            _ => ContentError::Io { action: "open blob", path, source },
        })
    }

    fn keep(&self, blob: BlobInfo, ingest: &Path) -> Result<(), ContentError> {
        let path = self.path(&blob.digest);
        if path.exists() {
            return Ok(());
        }
        let synced = File::open(ingest).and_then(|file| file.sync_data());
        synced.map_err(ContentError::io("sync ingest", ingest))?;
        failpoint::hit("content:synced");
        fs::rename(ingest, &path).map_err(ContentError::io("commit blob", &path))?;
        failpoint::hit("content:renamed");
        File::open(&self.root)
            .and_then(|dir| dir.sync_all())
            .map_err(ContentError::io("sync", &self.root))
    }

    fn delete(&self, digest: &Digest) -> Result<(), ContentError> {
        remove(&self.path(digest), "delete blob")
    }

    fn list(&self) -> Result<Vec<(BlobInfo, SystemTime)>, ContentError> {
        let mut blobs = Vec::new();
        for (name, metadata) in entries(&self.root)? {
            let since = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            match format!("sha256:{name}").parse() {
                Ok(digest) => blobs.push((BlobInfo { digest, size: metadata.len() }, since)),
                Err(_) => tracing::warn!(name, "foreign file among the blobs"),
            }
        }
        Ok(blobs)
    }
}
