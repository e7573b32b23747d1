//! The async face of an ingest. Hashing and writing happen on a blocking thread, one batch behind
//! the source, so that the network and the disk work at the same time.

use std::fmt;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::BlobInfo;
use crate::error::ContentError;
use crate::ingest::{Finished, Ingest};

/// Bytes collected before a batch goes to the blocking thread; twice this much is in memory.
const BATCH: usize = 1 << 20;

type Batch = JoinHandle<(Ingest, Result<(), ContentError>)>;

/// Streams bytes into an ingest. Dropping it keeps what it took: the rest is written behind the
/// scenes, and until then the ingest is busy.
pub struct Writer {
    /// `None` while a batch is under way, or after a thread was lost.
    ingest: Option<Ingest>,
    batch: Option<Batch>,
    pending: Vec<Bytes>,
    pending_bytes: usize,
    offset: u64,
}

impl Writer {
    pub(crate) fn new(ingest: Ingest) -> Self {
        let offset = ingest.offset();
        Self { ingest: Some(ingest), batch: None, pending: Vec::new(), pending_bytes: 0, offset }
    }

    /// Bytes accepted so far, those of an earlier attempt included: where the source must go on.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the next bytes. Cancel-safe: bytes that were accepted are written once.
    ///
    /// # Errors
    /// The failure of an earlier batch: [`ContentError::TooLarge`], I/O.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), ContentError> {
        if self.pending_bytes >= BATCH {
            self.dispatch().await?;
        }
        self.offset += bytes.len() as u64;
        self.pending_bytes += bytes.len();
        self.pending.push(bytes);
        Ok(())
    }

    /// Drops all bytes and starts again at offset 0, for a source that cannot go on in the middle.
    ///
    /// # Errors
    /// I/O.
    pub async fn restart(&mut self) -> Result<(), ContentError> {
        self.pending.clear();
        self.pending_bytes = 0;
        self.offset = 0;
        let mut ingest = self.settle().await?;
        self.batch = Some(tokio::task::spawn_blocking(move || {
            let result = ingest.restart();
            (ingest, result)
        }));
        Ok(())
    }

    /// As [`Ingest::finish`].
    ///
    /// # Errors
    /// As [`Ingest::finish`], and of the batches still under way.
    pub async fn finish(mut self) -> Result<Finished, ContentError> {
        self.dispatch().await?;
        let ingest = self.settle().await?;
        crate::blocking(move || ingest.finish()).await
    }

    /// Checks, syncs and renames into place in one step.
    ///
    /// # Errors
    /// As [`Ingest::finish`] and [`Finished::commit`].
    pub async fn commit(self) -> Result<BlobInfo, ContentError> {
        let finished = self.finish().await?;
        crate::blocking(move || finished.commit()).await
    }

    /// Deletes the ingest and its bytes.
    ///
    /// # Errors
    /// I/O.
    pub async fn discard(mut self) -> Result<(), ContentError> {
        let ingest = self.settle().await?;
        crate::blocking(move || ingest.discard()).await
    }

    async fn dispatch(&mut self) -> Result<(), ContentError> {
        let mut ingest = self.settle().await?;
        let batch = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.batch = Some(tokio::task::spawn_blocking(move || {
            let result = batch.iter().try_for_each(|bytes| ingest.append(bytes));
            (ingest, result)
        }));
        Ok(())
    }

    /// Waits for the batch under way and takes the ingest. Cancel-safe up to its return: a
    /// dropped wait leaves the handle in place.
    async fn settle(&mut self) -> Result<Ingest, ContentError> {
        if let Some(batch) = self.batch.as_mut() {
            let done = batch.await;
            self.batch = None;
            let (ingest, result) = done.map_err(|_| ContentError::Thread)?;
            self.ingest = Some(ingest);
            result?;
        }
        self.ingest.take().ok_or(ContentError::Thread)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let (ingest, batch) = (self.ingest.take(), self.batch.take());
        // Without a runtime the process is about to end; a later start resumes where it got to.
        if pending.is_empty() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        tokio::spawn(async move {
            let mut ingest = match (ingest, batch) {
                (Some(ingest), _) => ingest,
                (None, Some(batch)) => match batch.await {
                    Ok((ingest, Ok(()))) => ingest,
                    // A hole must not be followed by bytes.
                    _ => return,
                },
                (None, None) => return,
            };
            let written = tokio::task::spawn_blocking(move || {
                pending.iter().try_for_each(|bytes| ingest.append(bytes))
            });
            if let Ok(Err(error)) = written.await {
                tracing::debug!(%error, "the end of an interrupted download is lost");
            }
        });
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("offset", &self.offset).finish_non_exhaustive()
    }
}
