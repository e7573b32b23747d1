//! What a pull or a load tells its client while it works, with the words of Docker's progress
//! stream. The face makes JSON lines of it.

use pouch_types::Digest;
use tokio::sync::mpsc;

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
        /// a pull, the diffID for a load.
        id: String,
        /// What happens to it.
        state: LayerState,
    },
    /// The digest that the reference stands for.
    Digest(Digest),
    /// The last line of a pull.
    Status(String),
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
        }
    }

    /// The `progressDetail` of Docker's progress line.
    #[must_use]
    pub const fn amount(self) -> Option<Amount> {
        match self {
            Self::Downloading(amount) | Self::Extracting(amount) | Self::Loading(amount) => {
                Some(amount)
            }
            _ => None,
        }
    }
}

/// Where events go. A client that is gone or does not want them costs nothing; a slow one delays
/// the work only at its milestones, amounts are dropped.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<mpsc::Sender<Event>>);

impl Progress {
    /// Nobody listens.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// A sender and its receiver.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(limits::PROGRESS_QUEUE);
        (Self(Some(sender)), receiver)
    }

    /// A milestone.
    pub(crate) async fn send(&self, event: Event) {
        if let Some(sender) = &self.0 {
            // A closed channel means that the client went away: the work goes on without it.
            let _ = sender.send(event).await;
        }
    }

    pub(crate) async fn layer(&self, id: &str, state: LayerState) {
        self.send(Event::Layer { id: id.to_owned(), state }).await;
    }

    /// An amount, dropped when the client lags.
    pub(crate) fn amount(&self, id: &str, state: LayerState) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(Event::Layer { id: id.to_owned(), state });
        }
    }
}
