//! What a pull, a push or a load tells its client while it works, with the words of Docker's progress
//! stream. The face makes JSON lines of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pouch_types::Digest;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;

use crate::limits;

/// One step worth telling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A pull begins: `Pulling from library/busybox`, id `latest`.
    Pulling {
        /// Tag or digest as asked for.
        id: String,
        /// Repository as people know it.
        repository: String,
    },
    /// News of one layer.
    Layer {
        /// First 12 digits of the digest that names the layer to its client: that of the blob for
        /// a pull, the diffID for a load or a push.
        id: String,
        /// What happens to it.
        state: LayerState,
    },
    /// The digest that the reference stands for.
    Digest(Digest),
    /// The last line of a pull.
    Status(String),
    /// The registry took a layer from another of its repositories.
    Mounted {
        /// First 12 digits of the diffID.
        id: String,
        /// Path of that repository.
        from: String,
    },
    /// A name is in the registry; `aux` of a push.
    Pushed {
        /// The tag.
        tag: String,
        /// Of the manifest.
        digest: Digest,
        /// Bytes of the manifest.
        size: u64,
    },
    /// One image of an archive is there; the last lines of a load. Docker sends it as `stream`.
    Loaded(Loaded),
}

/// How a loaded image is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// By this name.
    Name(String),
    /// By its id only; the archive names no tag.
    Id(String),
}

impl std::fmt::Display for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) => write!(f, "Loaded image: {name}"),
            Self::Id(id) => write!(f, "Loaded image ID: {id}"),
        }
    }
}

/// Bytes done and bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Bytes done.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What happens to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    /// Known, not begun.
    PullingFsLayer,
    /// In the queue.
    Waiting,
    /// Bytes are coming.
    Downloading(Amount),
    /// All bytes are here.
    VerifyingChecksum,
    /// The blob is kept.
    DownloadComplete,
    /// Being unpacked; `current` counts compressed bytes.
    Extracting(Amount),
    /// Done.
    PullComplete,
    /// Was here before.
    AlreadyExists,
    /// As `Extracting`, of a load.
    Loading(Amount),
    /// To be pushed.
    Preparing,
    /// Bytes are going.
    Pushing(Amount),
    /// The registry has it now.
    Pushed,
    /// The registry had it.
    LayerAlreadyExists,
}

impl LayerState {
    /// The `status` of Docker's progress line.
    #[must_use]
    pub const fn status(self) -> &'static str {
        match self {
            Self::PullingFsLayer => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading(_) => "Downloading",
            Self::VerifyingChecksum => "Verifying Checksum",
            Self::DownloadComplete => "Download complete",
            Self::Extracting(_) => "Extracting",
            Self::PullComplete => "Pull complete",
            Self::AlreadyExists => "Already exists",
            Self::Loading(_) => "Loading layer",
            Self::Preparing => "Preparing",
            Self::Pushing(_) => "Pushing",
            Self::Pushed => "Pushed",
            Self::LayerAlreadyExists => "Layer already exists",
        }
    }

    /// The `progressDetail` of Docker's progress line.
    #[must_use]
    pub const fn amount(self) -> Option<Amount> {
        match self {
            Self::Downloading(amount)
            | Self::Extracting(amount)
            | Self::Loading(amount)
            | Self::Pushing(amount) => Some(amount),
            _ => None,
        }
    }
}

/// Where events go. A client that is gone or does not want them costs nothing. One that does not
/// read delays the work once, for [`PATIENCE`], and is told what there is room for after that:
/// others may wait for the same layer.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Arc<Client>>);

/// How long a milestone waits for a client.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 5000 });

#[derive(Debug)]
struct Client {
    events: mpsc::Sender<Event>,
    /// It did not read in time.
    stalled: AtomicBool,
}

impl Progress {
    /// Nobody listens.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// A sender and its receiver, which ends when the last clone of the sender is dropped.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(limits::PROGRESS_QUEUE);
        let client = Client { events, stalled: AtomicBool::new(false) };
        (Self(Some(Arc::new(client))), receiver)
    }

    /// A milestone.
    pub(crate) async fn send(&self, event: Event) {
        let Some(client) = &self.0 else { return };
        if client.stalled.load(Ordering::Relaxed) {
            let _ = client.events.try_send(event);
        } else if let Err(SendTimeoutError::Timeout(_)) =
            client.events.send_timeout(event, PATIENCE).await
        {
            tracing::debug!("a client does not read its progress");
            client.stalled.store(true, Ordering::Relaxed);
        }
        // A closed channel means that the client went away: the work goes on without it.
    }

    pub(crate) async fn layer(&self, id: &str, state: LayerState) {
        self.send(Event::Layer { id: id.to_owned(), state }).await;
    }

    /// An amount, dropped when the client lags.
    pub(crate) fn amount(&self, id: &str, state: LayerState) {
        if let Some(client) = &self.0 {
            let _ = client.events.try_send(Event::Layer { id: id.to_owned(), state });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_delays_once() {
        let (progress, mut events) = Progress::channel();
        let begun = std::time::Instant::now();
        for n in 0..200 {
            progress.send(Event::Status(n.to_string())).await;
        }
        assert!((PATIENCE..2 * PATIENCE).contains(&begun.elapsed()));
        assert_eq!(events.recv().await, Some(Event::Status("0".into())));
        drop(events);
        progress.send(Event::Status("gone".into())).await;
    }
}
