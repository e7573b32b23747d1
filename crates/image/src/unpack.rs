//! From a kept blob to an unpacked layer, once per diffID however many want it.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pouch_content::ContentStore;
use pouch_types::Digest;
use tokio::io::{AsyncRead, ReadBuf};

use crate::Images;
use crate::error::ImageError;
use crate::image::Packing;
use crate::layers::{LayerError, Unpacked};
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
    /// Unpacks a blob whose digest was checked, unless its layer is there. The caller pins both.
    pub(crate) async fn unpack(
        &self,
        blob: &Digest,
        diff_id: &Digest,
        teller: Teller,
    ) -> Result<Unpacked, ImageError> {
        let watched = teller.clone();
        let turn = self
            .0
            .unpacks
            .turn(diff_id, move |amount| watched.amount(amount.current, amount.total))
            .await;
        if let Some(layer) = self.layer(diff_id).await? {
            return Ok(layer);
        }
        let _slot = self.0.layer_slots.acquire().await.map_err(|_| ImageError::Worker)?;
        let reader = self.0.content.reader(blob, u64::MAX).await?;
        let total = reader.info().size;
        turn.report(Amount { current: 0, total });
        let stream = Counted::new(reader, teller, total);
        let unpacked = self
            .0
            .layers
            .apply(Box::new(stream), diff_id)
            .await
            .map_err(ImageError::layer(diff_id))?;
        turn.report(Amount { current: total, total });
        Ok(unpacked)
    }

    /// The unpacked layer, if it is there.
    pub(crate) async fn layer(&self, diff_id: &Digest) -> Result<Option<Unpacked>, ImageError> {
        let found: Result<_, LayerError> = self.0.layers.get(diff_id).await;
        found.map_err(ImageError::layer(diff_id))
    }
}

/// How a blob is packed, by its first bytes.
pub(crate) async fn packing(content: &ContentStore, blob: &Digest) -> Result<Packing, ImageError> {
    let (content, blob) = (content.clone(), *blob);
    let read = tokio::task::spawn_blocking(move || {
        let (file, _) = content.open_blocking(&blob)?;
        let mut head = Vec::new();
        // A head that cannot be read will not be unpacked either, with a better message.
        let _ = file.take(8).read_to_end(&mut head);
        Ok::<_, ImageError>(Packing::sniff(&head))
    });
    read.await.map_err(|_| ImageError::Worker)?
}
