//! What can go wrong with layers and root file systems.

use std::io;
use std::path::PathBuf;

use pouch_store::StoreError;
use pouch_types::{Classified, ContainerId, Digest, ErrorKind};

/// Result of every operation of this crate.
pub type Result<T> = std::result::Result<T, SnapshotError>;

/// A failed operation on layers or root file systems.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// No such layer.
    #[error("layer {0} does not exist")]
    NoLayer(Digest),
    /// No such container root.
    #[error("container {0} has no root file system")]
    NoContainer(ContainerId),
    /// The key has a root file system over other layers.
    #[error("container {0} has a root file system already")]
    Exists(ContainerId),
    /// Containers stand on the layer.
    #[error("layer {layer} is used by {users} containers")]
    LayerInUse {
        /// Which layer.
        layer: Digest,
        /// How many.
        users: usize,
    },
    /// More layers than overlay takes in one mount here.
    #[error("image has {layers} layers: at most {most} can be mounted")]
    TooManyLayers {
        /// How many it has.
        layers: usize,
        /// How many fit.
        most: usize,
    },
    /// The bytes of a layer are not the ones that were asked for.
    #[error("layer {what} mismatch: want {want}, got {got}")]
    Mismatch {
        /// `digest` (compressed) or `diff id`.
        what: &'static str,
        /// As the manifest or configuration says.
        want: Digest,
        /// As computed from the bytes.
        got: String,
    },
    /// `--storage-opt`.
    #[error("storage option {name:?}: {reason}")]
    StorageOption {
        /// The option's name.
        name: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// `pouch-unpack` refused or failed; the message is for the user.
    #[error("{message}")]
    Unpack {
        /// As the program classified it.
        kind: ErrorKind,
        /// As the program said it.
        message: String,
    },
    /// `pouch-unpack` died or spoke nonsense.
    #[error("{program} ended abnormally ({status})", program = program.display())]
    UnpackCrashed {
        /// Path of the program.
        program: PathBuf,
        /// Exit status or signal, and what it said last.
        status: String,
    },
    /// A wait ended.
    #[error("{stage} took longer than {seconds} s")]
    Deadline {
        /// What was being done.
        stage: &'static str,
        /// The limit.
        seconds: u64,
    },
    /// A directory of ours is open to others.
    #[error("{} is owned by another user or has mode {mode:o}, wider than 710", path.display())]
    Insecure {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The kernel or the file system below cannot do overlay mounts.
    #[error("overlay mounts do not work below {}", path.display())]
    Overlay {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// More changed paths than are listed.
    #[error("more than {0} changed paths")]
    TooManyChanges(usize),
    /// A tree with more levels than are walked with open descriptors.
    #[error("more than {0} nested directories")]
    TooDeep(usize),
    /// The directory of a container is damaged.
    #[error("record {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// A file operation.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A file operation below one of our directories.
    #[error(transparent)]
    Tree(#[from] pouch_rootfd::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshotter of somebody else refused or failed.
    #[error("{doing}")]
    Elsewhere {
        /// What was tried, with the name that it has there.
        doing: String,
        /// Its class.
        kind: ErrorKind,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Mounts that make up a root cannot be made.
    #[error("cannot mount {kind} from {origin}")]
    Mount {
        /// Type of the file system.
        kind: String,
        /// Source of the mount.
        origin: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A blocking task was dropped: the process is going down.
    #[error("cancelled")]
    Cancelled,
    /// There is nothing at a path inside a root file system, or a link is on the way to it.
    #[error("there is no directory or file {path:?}")]
    NoSubpath {
        /// As asked for.
        path: String,
    },
    /// A part of this kind of mount cannot be mounted.
    #[error("a part of a mount of kind {kind} cannot be mounted")]
    SubpathKind {
        /// The kind.
        kind: String,
    },
}

impl SnapshotError {
    pub(crate) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }
}

impl From<rusqlite::Error> for SnapshotError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Classified for SnapshotError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoLayer(_) | Self::NoContainer(_) | Self::NoSubpath { .. } => ErrorKind::NotFound,
            Self::Exists(_) => ErrorKind::AlreadyExists,
            Self::LayerInUse { .. } => ErrorKind::Conflict,
            Self::Mismatch { .. } => ErrorKind::Invalid,
            Self::StorageOption { .. } | Self::Overlay { .. } | Self::SubpathKind { .. } => {
                ErrorKind::Unsupported
            }
            Self::Unpack { kind, .. } | Self::Elsewhere { kind, .. } => *kind,
            Self::Deadline { .. } => ErrorKind::DeadlineExceeded,
            Self::TooManyChanges(_) | Self::TooDeep(_) | Self::TooManyLayers { .. } => {
                ErrorKind::ResourceExhausted
            }
            Self::UnpackCrashed { .. } | Self::Insecure { .. } | Self::Damaged { .. } => {
                ErrorKind::Internal
            }
            Self::Io { source, .. } | Self::Mount { source, .. } => {
                pouch_types::error::io_kind(source)
            }
            Self::Tree(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }
}
