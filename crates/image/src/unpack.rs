//! From a kept blob to an unpacked layer, once per diffID however many want it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pouch_content::{ContentError, ContentStore};
use pouch_types::Digest;
use tokio::io::{AsyncRead, ReadBuf};

use crate::Images;
use crate::error::ImageError;
use crate::image::Packing;
use crate::layers::{LayerBlob, LayerError, LayerStream, Unpacked};
use crate::progress::{Amount, LayerState, Progress};

/// Between two pictures of the progress, bytes.
const STEP: u64 = 1 << 20;

/// Where the unpacking of one layer is told.
#[derive(Clone)]
pub(crate) struct Teller(Arc<dyn Fn(Amount) + Send + Sync>);

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Teller")
    }
}

impl Teller {
    pub(crate) fn new(tell: impl Fn(Amount) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Tells `progress` of the layer `id`.
    pub(crate) fn layer(progress: &Progress, id: &str, state: fn(Amount) -> LayerState) -> Self {
        let (progress, id) = (progress.clone(), id.to_owned());
        Self::new(move |amount| progress.amount(&id, state(amount)))
    }

    fn amount(&self, current: u64, total: u64) {
        (self.0)(Amount { current, total });
    }
}

/// Counts what is read.
pub(crate) struct Counted<R> {
    inner: R,
    teller: Teller,
    current: u64,
    told: u64,
    total: u64,
}

impl<R> Counted<R> {
    pub(crate) fn new(inner: R, teller: Teller, total: u64) -> Self {
        Self { inner, teller, current: 0, told: 0, total }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = polled {
            self.current += (buf.filled().len() - before) as u64;
            if self.current - self.told >= STEP || self.current == self.total {
                self.told = self.current;
                self.teller.amount(self.current, self.total);
            }
        }
        polled
    }
}

impl Images {
    /// Unpacks a blob whose digest was checked as the last layer of `chain`, unless that is there.
    /// The caller pins both.
    pub(crate) async fn unpack(
        &self,
        blob: &Digest,
        chain: &[Digest],
        teller: Teller,
    ) -> Result<Unpacked, ImageError> {
        let diff_id = chain.last().ok_or(ImageError::Worker)?;
        let watched = teller.clone();
        let turn = self
            .0
            .unpacks
            .turn(diff_id, move |amount| watched.amount(amount.current, amount.total))
            .await;
        if let Some(layer) = self.layer(chain).await? {
            return Ok(layer);
        }
        let _slot = self.0.layer_slots.acquire().await.map_err(|_| ImageError::Worker)?;
        let info = self.0.content.info(blob).await?.ok_or(ContentError::NotFound(*blob))?;
        let total = info.size;
        turn.report(Amount { current: 0, total });
        let content = self.0.content.clone();
        let open = async move {
            let reader = content.reader(&info.digest, u64::MAX).await;
            let reader = reader.map_err(|error| LayerError::new(&error))?;
            Ok(Box::new(Counted::new(reader, teller, total)) as LayerStream)
        };
        let blob = LayerBlob { digest: *blob, size: total, open: Box::new(move || Box::pin(open)) };
        let applied = self.0.layers.apply(blob, chain).await;
        let unpacked = applied.map_err(ImageError::layer(diff_id))?;
        turn.report(Amount { current: total, total });
        Ok(unpacked)
    }

    /// The last layer of `chain`, if it is unpacked.
    pub(crate) async fn layer(&self, chain: &[Digest]) -> Result<Option<Unpacked>, ImageError> {
        let diff_id = chain.last().ok_or(ImageError::Worker)?;
        self.0.layers.get(chain).await.map_err(ImageError::layer(diff_id))
    }
}

/// How a blob is packed, by its first bytes.
pub(crate) async fn packing(content: &ContentStore, blob: &Digest) -> Result<Packing, ImageError> {
    Ok(Packing::sniff(&content.head(blob, 8).await?))
}
