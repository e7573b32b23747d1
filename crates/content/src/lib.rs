//! Blobs by digest in a local directory, `<root>/blobs/sha256/<hex>`, or in the store of somebody
//! else ([`Blobs`]), and what is on its way there in `<root>/ingest/<key>`.
//!
//! Invariants: a file below `blobs` has the digest of its name and was on disk before it got that
//! name, so a crash leaves whole blobs and partial ingests, never a partial blob. A blob is never
//! written to again. The bytes of an ingest survive a crash and can be resumed. One ingest has at
//! most one writer in this process, and one process owns a root.
//!
//! The store decides nothing about lifetime: what may be deleted is known to the images.

#![forbid(unsafe_code)]

mod blobs;
mod error;
mod ingest;
mod writer;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use pouch_types::Digest;

pub use blobs::Blobs;
pub use error::{ContentError, IngestKey, Mismatch};
pub use ingest::{Expected, Finished, Ingest};
pub use writer::Writer;

use blobs::Directory;
use ingest::Start;

/// Bytes that one trip to a blocking thread reads.
const READ_BUFFER: usize = 1 << 20;

/// A blob in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Bytes on their way.
#[derive(Debug, Clone)]
pub struct IngestInfo {
    /// Its name.
    pub key: IngestKey,
    /// Bytes so far.
    pub size: u64,
    /// When the last byte came.
    pub modified: SystemTime,
}

/// A handle on the store; clones share it.
#[derive(Debug, Clone)]
pub struct ContentStore(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) blobs: Box<dyn Blobs>,
    ingests: PathBuf,
    active: Mutex<HashSet<IngestKey>>,
}

impl Inner {
    fn ingest_path(&self, key: &IngestKey) -> PathBuf {
        self.ingests.join(key.as_str())
    }

    fn active(&self) -> MutexGuard<'_, HashSet<IngestKey>> {
        // The set is valid after every statement that holds the lock.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_directory(path: &Path) -> Result<(), ContentError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(ContentError::io("create", path))
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, ContentError>
where
    F: FnOnce() -> Result<T, ContentError> + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(|_| ContentError::Thread)?
}

impl ContentStore {
    /// Opens the store at `root` and makes what is missing (directories 0700). Blocking: for the
    /// start of the daemon.
    ///
    /// # Errors
    /// I/O.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let blobs = root.join("blobs/sha256");
        make_directory(&blobs)?;
        Self::open_over(root, Box::new(Directory::new(blobs)))
    }

    /// As [`ContentStore::open`], with whole blobs elsewhere; only what is on its way lies below
    /// `root`.
    ///
    /// # Errors
    /// I/O.
    pub fn open_over(root: &Path, blobs: Box<dyn Blobs>) -> Result<Self, ContentError> {
        let ingests = root.join("ingest");
        make_directory(&ingests)?;
        Ok(Self(Arc::new(Inner { blobs, ingests, active: Mutex::default() })))
    }

    /// Size of a blob, or `None` when it is not here.
    ///
    /// # Errors
    /// I/O.
    pub async fn info(&self, digest: &Digest) -> Result<Option<BlobInfo>, ContentError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || Ok(inner.blobs.size(&digest)?.map(|size| BlobInfo { digest, size }))).await
    }

    /// Whether the blob is here.
    ///
    /// # Errors
    /// I/O.
    pub async fn exists(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(self.info(digest).await?.is_some())
    }

    /// Opens a blob of at most `cap` bytes for async reading. It can be deleted meanwhile; the
    /// open handle still reads it.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], [`ContentError::TooLarge`], I/O.
    pub async fn reader(&self, digest: &Digest, cap: u64) -> Result<Reader, ContentError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        let (file, size) = blocking(move || inner.blobs.open(&digest)).await?;
        if size > cap {
            return Err(ContentError::TooLarge { limit: cap });
        }
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(READ_BUFFER);
        Ok(Reader { file, info: BlobInfo { digest, size } })
    }

    /// Opens a blob on the calling (blocking) thread, or to hand its descriptor to a program.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], I/O.
    pub fn open_blocking(&self, digest: &Digest) -> Result<(File, BlobInfo), ContentError> {
        let (file, size) = self.0.blobs.open(digest)?;
        Ok((file, BlobInfo { digest: *digest, size }))
    }

    /// Reads a whole blob of at most `cap` bytes and checks its digest again: these bytes are
    /// going to be parsed, and a disk can rot.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], [`ContentError::TooLarge`], [`ContentError::Corrupt`], I/O.
    pub async fn read(&self, digest: &Digest, cap: u64) -> Result<Bytes, ContentError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || {
            let size = inner.blobs.size(&digest)?.ok_or(ContentError::NotFound(digest))?;
            if size > cap {
                return Err(ContentError::TooLarge { limit: cap });
            }
            let bytes = inner.blobs.head(&digest, cap)?;
            if Digest::of(&bytes) == digest {
                Ok(bytes.into())
            } else {
                Err(ContentError::Corrupt(digest))
            }
        })
        .await
    }

    /// The first bytes of a blob, `most` of them at most.
    ///
    /// # Errors
    /// [`ContentError::NotFound`], I/O.
    pub async fn head(&self, digest: &Digest, most: u64) -> Result<Bytes, ContentError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || inner.blobs.head(&digest, most).map(Bytes::from)).await
    }

    /// Stores a small blob that is in memory.
    ///
    /// # Errors
    /// I/O.
    pub async fn put(&self, bytes: Bytes) -> Result<BlobInfo, ContentError> {
        let store = self.clone();
        blocking(move || {
            let mut ingest =
                store.ingest_blocking(IngestKey::unique("put")?, Expected::default())?;
            ingest.append(&bytes)?;
            ingest.finish()?.commit()
        })
        .await
    }

    /// Starts an ingest from nothing.
    ///
    /// # Errors
    /// [`ContentError::Busy`], I/O.
    pub async fn ingest(&self, key: IngestKey, expect: Expected) -> Result<Writer, ContentError> {
        let store = self.clone();
        blocking(move || store.ingest_blocking(key, expect)).await.map(Writer::new)
    }

    /// Starts an ingest after the bytes that an earlier attempt left, if any;
    /// [`Writer::offset`] says where.
    ///
    /// # Errors
    /// [`ContentError::Busy`], I/O.
    pub async fn resume(&self, key: IngestKey, expect: Expected) -> Result<Writer, ContentError> {
        let inner = Arc::clone(&self.0);
        blocking(move || Ingest::open(inner, key, expect, Start::Resume)).await.map(Writer::new)
    }

    /// Opens the bytes that an ingest has so far, for reading from their beginning. The handle
    /// goes on to read them when they have become a blob.
    ///
    /// # Errors
    /// I/O.
    pub async fn ingest_reader(&self, key: &IngestKey) -> Result<tokio::fs::File, ContentError> {
        let path = self.0.ingest_path(key);
        let file =
            blocking(move || File::open(&path).map_err(ContentError::io("open ingest", &path)))
                .await?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(READ_BUFFER);
        Ok(file)
    }

    /// As [`ContentStore::ingest`], on the calling (blocking) thread.
    ///
    /// # Errors
    /// [`ContentError::Busy`], I/O.
    pub fn ingest_blocking(
        &self,
        key: IngestKey,
        expect: Expected,
    ) -> Result<Ingest, ContentError> {
        Ingest::open(Arc::clone(&self.0), key, expect, Start::Afresh)
    }

    /// Deletes a blob; one that is not here is no error.
    ///
    /// # Errors
    /// I/O.
    pub async fn delete(&self, digest: &Digest) -> Result<(), ContentError> {
        let (inner, digest) = (Arc::clone(&self.0), *digest);
        blocking(move || inner.blobs.delete(&digest)).await
    }

    /// Deletes an ingest that nobody writes.
    ///
    /// # Errors
    /// [`ContentError::Busy`], I/O.
    pub async fn delete_ingest(&self, key: &IngestKey) -> Result<(), ContentError> {
        let (inner, key) = (Arc::clone(&self.0), key.clone());
        blocking(move || {
            // Held over the removal, so that no writer starts in between.
            let active = inner.active();
            if active.contains(&key) {
                return Err(ContentError::Busy(key));
            }
            remove(&inner.ingest_path(&key), "delete ingest")
        })
        .await
    }

    /// All blobs, in no order. What came or went during the walk may be missing or present.
    ///
    /// # Errors
    /// I/O.
    pub async fn walk(&self) -> Result<Vec<BlobInfo>, ContentError> {
        self.walk_where(|_| true).await
    }

    /// As [`ContentStore::walk`], but only blobs whose last byte came before a time.
    ///
    /// # Errors
    /// I/O.
    pub async fn walk_before(&self, before: SystemTime) -> Result<Vec<BlobInfo>, ContentError> {
        self.walk_where(move |since| since < before).await
    }

    async fn walk_where(
        &self,
        wanted: impl Fn(SystemTime) -> bool + Send + 'static,
    ) -> Result<Vec<BlobInfo>, ContentError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let blobs = inner.blobs.list()?.into_iter();
            Ok(blobs.filter(|(_, since)| wanted(*since)).map(|(blob, _)| blob).collect())
        })
        .await
    }

    /// All ingests, those being written included.
    ///
    /// # Errors
    /// I/O.
    pub async fn ingests(&self) -> Result<Vec<IngestInfo>, ContentError> {
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let mut ingests = Vec::new();
            for (name, metadata) in entries(&inner.ingests)? {
                let Ok(key) = name.parse::<IngestKey>() else {
                    tracing::warn!(name, "foreign file among the ingests");
                    continue;
                };
                let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                ingests.push(IngestInfo { key, size: metadata.len(), modified });
            }
            Ok(ingests)
        })
        .await
    }
}

fn remove(path: &Path, action: &'static str) -> Result<(), ContentError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(ContentError::io(action, path)),
    }
}

fn entries(dir: &Path) -> Result<Vec<(String, fs::Metadata)>, ContentError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(ContentError::io("list", dir))? {
        let entry = entry.map_err(ContentError::io("list", dir))?;
        // A name that vanished since it was listed is not there.
        if let (Ok(name), Ok(metadata)) = (entry.file_name().into_string(), entry.metadata()) {
            found.push((name, metadata));
        }
    }
    Ok(found)
}

/// A blob being read. Its size is known and fixed.
#[derive(Debug)]
pub struct Reader {
    file: tokio::fs::File,
    info: BlobInfo,
}

impl Reader {
    /// Digest and size.
    #[must_use]
    pub const fn info(&self) -> BlobInfo {
        self.info
    }
}

impl tokio::io::AsyncRead for Reader {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.file).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn big() -> Vec<u8> {
        (0..3_500_000u32).flat_map(|i| i.to_le_bytes()).collect()
    }

    #[tokio::test]
    async fn streams_hashes_and_commits() {
        let (_dir, store) = store();
        let data = big();
        let digest = Digest::of(&data);
        let expected = Expected::exactly(digest, data.len() as u64);
        let mut writer = store.ingest(IngestKey::of_blob(&digest), expected).await.unwrap();
        for chunk in data.chunks(77_777) {
            writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        assert!(!store.exists(&digest).await.unwrap());
        let info = writer.commit().await.unwrap();
        assert_eq!(info, BlobInfo { digest, size: data.len() as u64 });
        let mut read = Vec::new();
        store.reader(&digest, u64::MAX).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!(read, data);
        assert_eq!(store.walk().await.unwrap(), [info]);
        assert!(store.ingests().await.unwrap().is_empty());
        store.delete(&digest).await.unwrap();
        store.delete(&digest).await.unwrap();
        assert!(matches!(store.read(&digest, 1).await, Err(ContentError::NotFound(_))));
    }

    #[tokio::test]
    async fn wrong_bytes_never_become_a_blob() {
        let (_dir, store) = store();
        let wanted = Digest::of(b"right");
        let mut writer =
            store.ingest(IngestKey::of_blob(&wanted), Expected::exactly(wanted, 5)).await.unwrap();
        writer.write(Bytes::from_static(b"wrong")).await.unwrap();
        assert!(matches!(writer.commit().await, Err(ContentError::DigestMismatch(_))));
        assert!(store.walk().await.unwrap().is_empty());
        assert!(store.ingests().await.unwrap().is_empty(), "bad bytes must not be resumed");
    }

    #[tokio::test]
    async fn takes_no_byte_beyond_the_limit() {
        let (_dir, store) = store();
        let key = IngestKey::unique("t").unwrap();
        let mut writer = store.ingest(key.clone(), Expected::at_most(10)).await.unwrap();
        writer.write(Bytes::from_static(&[0; 11])).await.unwrap();
        assert!(matches!(writer.commit().await, Err(ContentError::TooLarge { limit: 10 })));
        let left = store.ingests().await.unwrap();
        assert_eq!((left[0].size, &left[0].key), (0, &key));
    }

    #[tokio::test]
    async fn an_interrupted_ingest_goes_on_where_it_stopped() {
        let (_dir, store) = store();
        let data = big();
        let digest = Digest::of(&data);
        let key = IngestKey::of_blob(&digest);
        let expected = Expected::exactly(digest, data.len() as u64);
        let mut writer = store.resume(key.clone(), expected).await.unwrap();
        assert_eq!(writer.offset(), 0);
        assert!(matches!(store.resume(key.clone(), expected).await, Err(ContentError::Busy(_))));
        writer.write(Bytes::copy_from_slice(&data[..5_000_000])).await.unwrap();
        assert!(matches!(writer.commit().await, Err(ContentError::Short { .. })));

        let mut writer = store.resume(key, expected).await.unwrap();
        assert_eq!(writer.offset(), 5_000_000);
        writer.write(Bytes::copy_from_slice(&data[5_000_000..])).await.unwrap();
        assert_eq!(writer.commit().await.unwrap().digest, digest);
    }

    #[tokio::test]
    async fn a_writer_that_is_dropped_keeps_what_it_took() {
        let (_dir, store) = store();
        let data = big();
        let key = IngestKey::of_blob(&Digest::of(&data));
        let mut writer = store.resume(key.clone(), Expected::default()).await.unwrap();
        for chunk in data[..3_333_333].chunks(100_000) {
            writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        drop(writer);
        let writer = loop {
            match store.resume(key.clone(), Expected::default()).await {
                Err(ContentError::Busy(_)) => tokio::task::yield_now().await,
                other => break other.unwrap(),
            }
        };
        assert_eq!(writer.offset(), 3_333_333);
        let mut read = Vec::new();
        store.ingest_reader(&key).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert!(read == data[..3_333_333]);
    }

    #[tokio::test]
    async fn old_blobs_are_told_from_new_ones() {
        let (dir, store) = store();
        let old = store.put(Bytes::from_static(b"old")).await.unwrap();
        store.put(Bytes::from_static(b"new")).await.unwrap();
        let path = dir.path().join("blobs/sha256").join(old.digest.hex());
        let hour = std::time::Duration::from_secs(3600);
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - 2 * hour).unwrap();
        assert_eq!(store.walk_before(SystemTime::now() - hour).await.unwrap(), [old]);
    }

    #[tokio::test]
    async fn a_source_that_cannot_resume_restarts() {
        let (_dir, store) = store();
        let key = IngestKey::unique("t").unwrap();
        let mut writer = store.ingest(key, Expected::exactly(Digest::of(b"ab"), 2)).await.unwrap();
        writer.write(Bytes::from_static(b"xy")).await.unwrap();
        writer.restart().await.unwrap();
        assert_eq!(writer.offset(), 0);
        writer.write(Bytes::from_static(b"ab")).await.unwrap();
        writer.commit().await.unwrap();
    }

    #[tokio::test]
    async fn a_rotten_blob_is_not_parsed() {
        let (dir, store) = store();
        let info = store.put(Bytes::from_static(b"{}")).await.unwrap();
        store.put(Bytes::from_static(b"{}")).await.unwrap();
        let path = dir.path().join("blobs/sha256").join(info.digest.hex());
        fs::write(path, b"[]").unwrap();
        assert!(matches!(store.read(&info.digest, 10).await, Err(ContentError::Corrupt(_))));
        assert!(matches!(store.read(&info.digest, 1).await, Err(ContentError::TooLarge { .. })));
    }

    #[tokio::test]
    async fn a_finished_ingest_that_nobody_commits_leaves_nothing() {
        let (_dir, store) = store();
        let key = IngestKey::unique("load").unwrap();
        let mut ingest = store.ingest_blocking(key, Expected::default()).unwrap();
        ingest.append(b"x").unwrap();
        drop(ingest.finish().unwrap());
        assert!(store.ingests().await.unwrap().is_empty());
        assert!(store.walk().await.unwrap().is_empty());
    }

    #[test]
    fn keys_are_never_paths() {
        for bad in ["", "..", "a/b", "A", "a\0", &"a".repeat(129)] {
            assert!(bad.parse::<IngestKey>().is_err(), "{bad:?}");
        }
    }
}
