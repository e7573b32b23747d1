//! One layer on its way from a registry: fetched, verified, kept and unpacked in one pass.
//!
//! The bytes go from the connection to the content store and, as they come, to the layer store;
//! they are not read back from the disk. (A layer store with a registrar reads the content store
//! itself: for it, a layer is done here when its blob is kept.) The layer store takes them at its own pace and the
//! connection waits for it, so a layer costs a fixed amount of memory. Only what an earlier
//! attempt left is read from the disk, once to hash it and once to unpack it.
//!
//! The work on a layer is a task of its own, which all pulls that want the layer watch. It ends
//! with the last of them, and what came until then is kept. When it fails in a way that may be due
//! to the session it ran with, the others try with their own.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};
use pouch_content::{ContentError, Expected, IngestKey, Writer};
use pouch_registry::{Descriptor, Had, Recourse, Repository};
use pouch_types::{Classified, Digest, ErrorKind, failpoint};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::Images;
use crate::error::ImageError;
use crate::image::Layer;
use crate::layers::{LayerBlob, LayerStream, Unpacked};
use crate::progress::{Amount, LayerState, Progress};
use crate::unpack::{Counted, Teller, packing};

/// Between two pictures of a download's progress, bytes.
const STEP: u64 = 512 << 10;
/// Pieces of a download (each what one read of the connection gave, at most some 100 KiB) between
/// the connection and the layer store.
const AHEAD: usize = 8;

/// How far a layer is.
#[derive(Debug, Clone)]
enum Stage {
    /// Nothing to tell yet.
    Begun,
    /// In the queue.
    Waiting,
    Downloading(Amount),
    /// All bytes are here.
    Verifying,
    /// The blob is kept; the rest is unpacked.
    Extracting(Amount),
    Ended(Result<Layer, Arc<ImageError>>),
}

/// A layer as a manifest and a configuration name it: the blob and what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    blob: Digest,
    diff_id: Digest,
}

/// The layers on their way, while somebody waits for them.
#[derive(Debug, Default)]
pub(crate) struct Fetches(Mutex<HashMap<Key, Weak<Flight>>>);

/// One layer on its way. The last handle stops it.
#[derive(Debug)]
struct Flight {
    /// Host of the registry that it comes from.
    domain: String,
    stage: watch::Receiver<Stage>,
    work: JoinHandle<()>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.work.abort();
    }
}

/// Whose flight it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Starter,
    Joiner,
}

impl Flight {
    fn is_over(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ended(_)) || self.work.is_finished()
    }

    /// Tells `progress` what happens until it is over.
    async fn follow(&self, id: &str, progress: &Progress) -> Result<Layer, Arc<ImageError>> {
        let mut stage = self.stage.clone();
        let mut told = Told::default();
        loop {
            let now = stage.borrow_and_update().clone();
            told.tell(id, &now, progress).await;
            if let Stage::Ended(outcome) = now {
                return outcome;
            }
            if stage.changed().await.is_err() {
                return Err(Arc::new(ImageError::Worker));
            }
        }
    }
}

/// Milestones that one client was told. Only the latest stage is kept for a client that lags, so
/// each stage stands for those before it.
#[derive(Debug, Default)]
struct Told {
    waiting: bool,
    verifying: bool,
    downloaded: bool,
}

impl Told {
    async fn tell(&mut self, id: &str, stage: &Stage, progress: &Progress) {
        let past = |told: &mut bool| !std::mem::replace(told, true);
        match stage {
            Stage::Waiting if past(&mut self.waiting) => {
                progress.layer(id, LayerState::Waiting).await;
            }
            Stage::Begun | Stage::Waiting | Stage::Ended(Err(_)) => {}
            Stage::Downloading(amount) => progress.amount(id, LayerState::Downloading(*amount)),
            Stage::Verifying | Stage::Extracting(_) | Stage::Ended(Ok(_)) => {
                if past(&mut self.verifying) {
                    progress.layer(id, LayerState::VerifyingChecksum).await;
                }
                if !matches!(stage, Stage::Verifying) && past(&mut self.downloaded) {
                    progress.layer(id, LayerState::DownloadComplete).await;
                }
                if let Stage::Extracting(amount) = stage {
                    progress.amount(id, LayerState::Extracting(*amount));
                }
            }
        }
    }
}

/// Where the work on a layer tells how far it is.
#[derive(Debug, Clone)]
struct Report(Arc<watch::Sender<Stage>>);

impl Report {
    fn set(&self, stage: Stage) {
        self.0.send_replace(stage);
    }

    /// What is unpacked; that is told once nothing more is downloaded.
    fn unpacked(&self, amount: Amount) {
        self.0.send_if_modified(|stage| match stage {
            Stage::Extracting(now) => {
                *now = amount;
                true
            }
            _ => false,
        });
    }

    fn teller(&self) -> Teller {
        let report = self.clone();
        Teller::new(move |amount| report.unpacked(amount))
    }
}

impl Images {
    /// Brings the last layer of `chain`: its blob into the content store and, without a registrar,
    /// its files into the layer store. The caller pins both digests.
    pub(crate) async fn bring(
        &self,
        repository: &Arc<Repository>,
        descriptor: &Descriptor,
        chain: &[Digest],
        progress: &Progress,
    ) -> Result<Layer, ImageError> {
        let domain = repository.reference().domain();
        loop {
            let (flight, role) = self.flight(repository, descriptor, chain)?;
            match flight.follow(super::pull::short(&descriptor.digest), progress).await {
                Ok(layer) => return Ok(layer),
                Err(error) => {
                    let same_host = flight.domain == domain;
                    if role == Role::Starter || (same_host && !is_of_session(&error)) {
                        drop(flight);
                        return Err(Arc::try_unwrap(error).unwrap_or_else(ImageError::Shared));
                    }
                }
            }
        }
    }

    fn flight(
        &self,
        repository: &Arc<Repository>,
        descriptor: &Descriptor,
        chain: &[Digest],
    ) -> Result<(Arc<Flight>, Role), ImageError> {
        let diff_id = *chain.last().ok_or(ImageError::Worker)?;
        let key = Key { blob: descriptor.digest, diff_id };
        // The map is valid after every statement that holds the lock.
        let mut flights = self.0.fetches.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.strong_count() > 0);
        let known = flights.get(&key).and_then(Weak::upgrade);
        if let Some(flight) = known.filter(|flight| !flight.is_over()) {
            return Ok((flight, Role::Joiner));
        }
        let (sender, stage) = watch::channel(Stage::Begun);
        let report = Report(Arc::new(sender));
        let source = Source {
            repository: Arc::clone(repository),
            descriptor: descriptor.clone(),
            diff_id,
            chain: chain.to_vec(),
            report: report.clone(),
        };
        let images = self.clone();
        let work = tokio::spawn(async move {
            let outcome = images.take_in(&source).await;
            report.set(Stage::Ended(outcome.map_err(Arc::new)));
        });
        let domain = repository.reference().domain().to_owned();
        let flight = Arc::new(Flight { domain, stage, work });
        flights.insert(key, Arc::downgrade(&flight));
        Ok((flight, Role::Starter))
    }

    async fn take_in(&self, source: &Source) -> Result<Layer, ImageError> {
        let (blob, diff_id) = (source.descriptor.digest, source.diff_id);
        // A manifest may name the same blob for another layer, which cannot be right for both;
        // they take turns, and a flight that was just stopped writes its last bytes.
        let _turn = self.0.blobs.turn(&blob, |_| {}).await;
        let here = self.0.content.info(&blob).await?;
        let size = if here.is_some_and(|here| here.size == source.descriptor.size) {
            match self.0.registrar {
                Some(_) => 0,
                None => self.unpack_kept(source).await?.size,
            }
        } else {
            let _slot = match self.0.layer_slots.try_acquire() {
                Ok(slot) => slot,
                Err(_) => {
                    source.report.set(Stage::Waiting);
                    self.0.layer_slots.acquire().await.map_err(|_| ImageError::Worker)?
                }
            };
            match self.0.registrar {
                Some(_) => self.keep(source).await?,
                None => self.stream(source).await?.size,
            }
        };
        Ok(Layer {
            diff_id,
            size,
            blob,
            blob_size: source.descriptor.size,
            packing: packing(&self.0.content, &blob).await?,
        })
    }

    /// Unpacks the blob, which the content store has.
    async fn unpack_kept(&self, source: &Source) -> Result<Unpacked, ImageError> {
        let total = source.descriptor.size;
        source.report.set(Stage::Extracting(Amount { current: 0, total }));
        let teller = source.report.teller();
        self.unpack(&source.descriptor.digest, &source.chain, teller).await
    }

    /// Fetches the blob alone.
    async fn keep(&self, source: &Source) -> Result<u64, ImageError> {
        let (blob, total) = (source.descriptor.digest, source.descriptor.size);
        let key = IngestKey::of_blob(&blob);
        let writer = self.resume(&key, Expected::exactly(blob, total)).await?;
        failpoint::hit("pull:blob-begun");
        self.download(source, writer, None).await?;
        Ok(0)
    }

    async fn stream(&self, source: &Source) -> Result<Unpacked, ImageError> {
        let (blob, total) = (source.descriptor.digest, source.descriptor.size);
        let key = IngestKey::of_blob(&blob);
        let writer = self.resume(&key, Expected::exactly(blob, total)).await?;
        failpoint::hit("pull:blob-begun");
        let kept = writer.offset();
        let (tap, tapped) = mpsc::channel(AHEAD);
        let tapped = Tapped { pieces: tapped, piece: Bytes::new() };
        let stream: LayerStream = if kept == 0 {
            Box::new(tapped)
        } else {
            let begun = self.0.content.ingest_reader(&key).await?;
            Box::new(begun.take(kept).chain(tapped))
        };
        let stream = Counted::new(stream, source.report.teller(), total);
        let download = std::pin::pin!(self.download(source, writer, Some(tap)));
        let apply = std::pin::pin!(async {
            let blob = LayerBlob::of_stream(blob, total, Box::new(stream));
            let applied = self.0.layers.apply(blob, &source.chain).await;
            applied.map_err(ImageError::layer(&source.diff_id))
        });
        let (applied, history) = match select(download, apply).await {
            // Its failure says more than that of a layer that ended too early.
            Either::Left((Err(error), _)) => return Err(error),
            Either::Left((Ok(history), apply)) => (apply.await, history),
            Either::Right((Err(error), _)) if error.kind() != ErrorKind::Invalid => {
                return Err(error);
            }
            // Whether bytes that make no layer are at least those that were asked for decides
            // whom the error blames.
            Either::Right((applied, download)) => (applied, download.await?),
        };
        match applied {
            // What was unpacked were bytes that have been replaced since.
            Err(_) if history == History::Restarted => self.unpack_kept(source).await,
            other => other,
        }
    }

    /// Writes a blob into the content store, verified, and its new bytes into `tap` too.
    async fn download(
        &self,
        source: &Source,
        mut writer: Writer,
        mut tap: Tap,
    ) -> Result<History, ImageError> {
        let (blob, total) = (source.descriptor.digest, source.descriptor.size);
        let mut resumed = writer.offset() > 0;
        let mut history = History::Straight;
        loop {
            fetch(source, &mut writer, &mut tap).await?;
            source.report.set(Stage::Verifying);
            // The layer store has all bytes and need not wait for the disk.
            tap = None;
            match writer.commit().await {
                Ok(_) => break,
                Err(ContentError::DigestMismatch(wrong)) => {
                    // The bytes of the earlier attempt may be the bad ones, or those of a mirror:
                    // the next try is without either.
                    let had = if std::mem::take(&mut resumed) { Had::Rest } else { Had::All };
                    let recourse = source.repository.distrust(&blob, had);
                    if (had, recourse) == (Had::All, Recourse::Nowhere) {
                        return Err(ContentError::DigestMismatch(wrong).into());
                    }
                    let expected = Expected::exactly(blob, total);
                    writer = self.0.content.ingest(IngestKey::of_blob(&blob), expected).await?;
                    history = History::Restarted;
                }
                Err(error) => return Err(error.into()),
            }
        }
        failpoint::hit("pull:blob-kept");
        if self.0.registrar.is_none() {
            source.report.set(Stage::Extracting(Amount { current: total, total }));
        }
        Ok(history)
    }

    /// Takes up the ingest of a blob. The flight that had it before may be gone while its last
    /// batch is still being written; that takes milliseconds, on a bad disk seconds.
    async fn resume(&self, key: &IngestKey, expected: Expected) -> Result<Writer, ImageError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.0.content.resume(key.clone(), expected).await {
                Err(ContentError::Busy(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Whether another session with the same registry might fare better.
fn is_of_session(error: &ImageError) -> bool {
    matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound)
}

/// A layer and where it comes from.
#[derive(Debug)]
struct Source {
    repository: Arc<Repository>,
    descriptor: Descriptor,
    diff_id: Digest,
    /// The layers below it, and it.
    chain: Vec<Digest>,
    report: Report,
}

impl Source {
    fn downloaded(&self, current: u64) {
        self.report.set(Stage::Downloading(Amount { current, total: self.descriptor.size }));
    }
}

/// Whether what went to the layer store is what the blob has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum History {
    Straight,
    /// All came once more.
    Restarted,
}

/// The way of new bytes to the layer store; `None` when it wants no more.
type Tap = Option<mpsc::Sender<Bytes>>;

/// Fetches the rest of a blob. The registry's side tries again and elsewhere as long as that may
/// help; what it reports is final.
async fn fetch(source: &Source, writer: &mut Writer, tap: &mut Tap) -> Result<(), ImageError> {
    let total = source.descriptor.size;
    let mut told = writer.offset();
    source.downloaded(told);
    let mut blob = source.repository.blob(&source.descriptor, told).await?;
    while let Some(bytes) = blob.next().await? {
        writer.write(bytes.clone()).await?;
        if let Some(pieces) = tap
            && pieces.send(bytes).await.is_err()
        {
            // The layer is there, or could not be made: the blob is wanted all the same.
            *tap = None;
        }
        let offset = writer.offset();
        if offset - told >= STEP || offset == total {
            told = offset;
            source.downloaded(offset);
            if offset >= total / 10 * 9 {
                failpoint::hit("pull:blob-nine-tenths");
            }
        }
    }
    Ok(())
}

/// The other end of a [`Tap`].
#[derive(Debug)]
struct Tapped {
    pieces: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl AsyncRead for Tapped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(piece) => self.piece = piece,
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.piece.len().min(buf.remaining());
        buf.put_slice(&self.piece.split_to(n));
        Poll::Ready(Ok(()))
    }
}
