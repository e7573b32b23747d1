//! One ingest, on a blocking thread: an append-only file that is hashed while it is written and
//! becomes a blob only when its digest and size are right and its bytes are on disk.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use pouch_types::{Digest, Hasher};

use crate::error::{ContentError, IngestKey, Mismatch};
use crate::{BlobInfo, Inner};

/// What the finished blob must be. `None` leaves a property open.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// The digest; a mismatch discards the bytes.
    pub digest: Option<Digest>,
    /// The exact size in bytes.
    pub size: Option<u64>,
    /// The most bytes that are taken when the size is not known; `None` is no cap but the disk.
    pub cap: Option<u64>,
}

impl Expected {
    /// Exactly this blob.
    #[must_use]
    pub const fn exactly(digest: Digest, size: u64) -> Self {
        Self { digest: Some(digest), size: Some(size), cap: None }
    }

    /// Anything of at most `cap` bytes.
    #[must_use]
    pub const fn at_most(cap: u64) -> Self {
        Self { digest: None, size: None, cap: Some(cap) }
    }

    fn limit(&self) -> Option<u64> {
        self.size.or(self.cap)
    }
}

/// How an ingest starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// From nothing; bytes of an earlier attempt are dropped.
    Afresh,
    /// After the bytes of an earlier attempt, which are hashed again.
    Resume,
}

/// An ingest under way. It implements [`Write`]; dropping it keeps its bytes in the ingest.
pub struct Ingest {
    store: Arc<Inner>,
    key: IngestKey,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    written: u64,
    expected: Expected,
}

impl Ingest {
    pub(crate) fn open(
        store: Arc<Inner>,
        key: IngestKey,
        expected: Expected,
        start: Start,
    ) -> Result<Self, ContentError> {
        let path = store.ingest_path(&key);
        if !store.active().insert(key.clone()) {
            return Err(ContentError::Busy(key));
        }
        // From here on the value's drop frees the key.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(start == Start::Afresh)
            .mode(0o600)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => {
                store.active().remove(&key);
                return Err(ContentError::Io { action: "open ingest", path, source });
            }
        };
        let mut ingest =
            Self { store, key, path, file, hasher: Hasher::new(), written: 0, expected };
        if start == Start::Resume {
            ingest.rehash()?;
        }
        Ok(ingest)
    }

    fn rehash(&mut self) -> Result<(), ContentError> {
        let mut buffer = vec![0u8; 1 << 18];
        loop {
            let n = match self.file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(ContentError::io("read ingest", &self.path)(e)),
            };
            self.hasher.update(&buffer[..n]);
            self.written += n as u64;
        }
        if self.expected.limit().is_some_and(|limit| self.written > limit) {
            // Cannot be the beginning of what is wanted.
            self.restart()?;
        }
        Ok(())
    }

    /// Drops all bytes and starts again at offset 0.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), ContentError> {
        use std::io::Seek;
        self.file.set_len(0).map_err(ContentError::io("truncate ingest", &self.path))?;
        self.file.rewind().map_err(ContentError::io("rewind ingest", &self.path))?;
        self.hasher = Hasher::new();
        self.written = 0;
        Ok(())
    }

    /// Bytes written so far, those of an earlier attempt included: where the source must go on.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.written
    }

    /// Appends all of `bytes`.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] before anything beyond the limit is written; I/O.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        if let Some(limit) = self.expected.limit()
            && self.written + bytes.len() as u64 > limit
        {
            return Err(ContentError::TooLarge { limit });
        }
        self.file.write_all(bytes).map_err(ContentError::io("write ingest", &self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Checks and syncs the bytes and says what they are, without making them a blob yet: the
    /// caller may first have to protect the digest from collection.
    ///
    /// # Errors
    /// [`ContentError::DigestMismatch`] (the bytes are deleted), [`ContentError::Short`] (they are
    /// kept), I/O.
    pub fn finish(self) -> Result<Finished, ContentError> {
        if let Some(size) = self.expected.size
            && self.written != size
        {
            return Err(ContentError::Short { expected: size, actual: self.written });
        }
        let actual = self.hasher.clone().finish();
        if let Some(expected) = self.expected.digest
            && expected != actual
        {
            self.discard()?;
            return Err(ContentError::DigestMismatch(Box::new(Mismatch { expected, actual })));
        }
        let info = BlobInfo { digest: actual, size: self.written };
        Ok(Finished { ingest: self, info })
    }

    /// Deletes the ingest and its bytes.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn discard(self) -> Result<(), ContentError> {
        fs::remove_file(&self.path).map_err(ContentError::io("remove ingest", &self.path))
    }
}

impl Write for Ingest {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.append(buf).map_err(io::Error::other)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.store.active().remove(&self.key);
    }
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").field("key", &self.key).field("written", &self.written).finish()
    }
}

/// A complete ingest whose digest is known and right. Dropping it deletes its bytes.
#[derive(Debug)]
pub struct Finished {
    ingest: Ingest,
    info: BlobInfo,
}

impl Finished {
    /// Digest and size of the bytes.
    #[must_use]
    pub const fn info(&self) -> BlobInfo {
        self.info
    }

    /// A second handle on the bytes, at their beginning, before they are a blob.
    ///
    /// # Errors
    /// When the file cannot be opened again.
    pub fn reopen(&self) -> Result<File, ContentError> {
        File::open(&self.ingest.path).map_err(ContentError::io("open ingest", &self.ingest.path))
    }

    /// Makes the bytes a blob: durable, then visible. A blob of that digest may exist already.
    ///
    /// # Errors
    /// I/O.
    pub fn commit(self) -> Result<BlobInfo, ContentError> {
        let ingest = &self.ingest;
        ingest.store.blobs.keep(self.info, &ingest.path)?;
        Ok(self.info)
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        // After a commit the name is gone already; a leftover is collected at the next start.
        if let Err(error) = fs::remove_file(&self.ingest.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.ingest.path.display(), %error, "leftover ingest");
        }
    }
}
