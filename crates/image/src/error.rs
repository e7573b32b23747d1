//! Failures of image operations. Texts that clients of Docker read or match are Docker's, capital
//! letters included.

use std::io;
use std::sync::Arc;

use pouch_content::ContentError;
use pouch_registry::{DocumentError, RegistryError};
use pouch_store::StoreError;
use pouch_types::digest::InvalidDigest;
use pouch_types::reference::InvalidReference;
use pouch_types::{Classified, ContainerId, Digest, ErrorKind, ImageId};

use crate::archive::ArchiveError;
use crate::changes::InvalidChange;
use crate::config::ConfigError;
use crate::layers::LayerError;
use crate::policy::Rejected;

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// No image of that name or id.
    #[error("No such image: {0}")]
    NotFound(String),
    /// A short id that begins several ids.
    #[error("multiple IDs found with provided prefix: {0}")]
    Ambiguous(String),
    /// Not a name, not an id.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// No such name to push, as people know it.
    #[error("An image does not exist locally with the tag: {0}")]
    NotLocal(String),
    /// A name for a tag has a digest.
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// The only name of an image that a container needs.
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container \
         {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        /// The name as given.
        reference: String,
        /// First 12 digits of the container.
        container: String,
        /// First 12 digits of the image.
        image: String,
    },
    /// The name belongs to pods.
    #[error(
        "conflict: unable to remove repository reference {0:?} (must force) - it is used by \
         Kubernetes only"
    )]
    ReferenceOfPods(String),
    /// Something needs the image.
    #[error("conflict: unable to delete {image} ({}) - {because}", because.force())]
    ImageInUse {
        /// First 12 digits of the image.
        image: String,
        /// What needs it.
        because: InUse,
    },
    /// A configuration that cannot be taken.
    #[error("image configuration")]
    Config(#[source] ConfigError),
    /// Configuration and manifest (or archive) disagree.
    #[error("image lists {blobs} layers and its configuration {diff_ids}")]
    LayerCount {
        /// In the manifest or archive.
        blobs: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// An image for another machine than was asked for.
    #[error(
        "image with reference {reference} was found but does not match the specified platform: \
         wanted {wanted}, actual: {actual}"
    )]
    Platform {
        /// The name.
        reference: String,
        /// Asked for.
        wanted: String,
        /// In the configuration.
        actual: String,
    },
    /// A digest in an archive or manifest that cannot be checked.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The archive to load or import.
    #[error("image archive")]
    Archive(#[from] ArchiveError),
    /// A change to apply on import or commit.
    #[error(transparent)]
    Change(#[from] InvalidChange),
    /// A layer could not be unpacked.
    #[error("layer {diff_id}")]
    Layer {
        /// First 12 digits of its diffID, or of its blob when that is not known.
        diff_id: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// The store that keeps what is named.
    #[error("image store: {0}")]
    Registrar(&'static str, #[source] LayerError),
    /// Layers of an image are gone, and what they could be made from too.
    #[error("image {image} is not complete any more: remove and pull it again")]
    Incomplete {
        /// First 12 digits of the image.
        image: String,
        /// What is missing.
        #[source]
        source: Box<ImageError>,
    },
    /// A manifest in the content store that describes no image.
    #[error("manifest of {image}")]
    Manifest {
        /// The image's name.
        image: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// The content store.
    #[error("image content")]
    Content(#[from] ContentError),
    /// The verification policy does not let it in.
    #[error(transparent)]
    Rejected(#[from] Box<Rejected>),
    /// Signatures that the policy requires cannot be fetched.
    #[error("signatures of {image}")]
    Signatures {
        /// The image as people know it.
        image: String,
        /// Why.
        #[source]
        source: RegistryError,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The database.
    #[error("image records")]
    Store(#[from] StoreError),
    /// What the client sends broke off.
    #[error("read of the request body")]
    Input(#[source] io::Error),
    /// A record that does not parse; the image is left alone.
    #[error("record of image {0} is damaged")]
    Record(String),
    /// The failure of work that several clients waited for.
    #[error(transparent)]
    Shared(Arc<ImageError>),
    /// A worker thread or task died.
    #[error("a worker of the image store is gone")]
    Worker,
}

/// What needs an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InUse {
    /// First 12 digits of a container that runs.
    Running(String),
    /// First 12 digits of a container that does not run.
    Stopped(String),
    /// Images made from it.
    Children,
    /// Names in several repositories.
    References,
    /// A name that pods hold.
    Pods,
}

impl InUse {
    pub(crate) fn running(id: &ContainerId) -> Self {
        Self::Running(id.short().to_owned())
    }

    pub(crate) fn stopped(id: &ContainerId) -> Self {
        Self::Stopped(id.short().to_owned())
    }

    /// Whether force does not help.
    #[must_use]
    pub const fn is_hard(&self) -> bool {
        matches!(self, Self::Running(_) | Self::Children)
    }

    const fn force(&self) -> &'static str {
        if self.is_hard() { "cannot be forced" } else { "must be forced" }
    }
}

impl std::fmt::Display for InUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Running(id) => write!(f, "image is being used by running container {id}"),
            Self::Stopped(id) => write!(f, "image is being used by stopped container {id}"),
            Self::Children => f.write_str("image has dependent child images"),
            Self::References => f.write_str("image is referenced in multiple repositories"),
            Self::Pods => f.write_str("image is referenced by Kubernetes"),
        }
    }
}

impl ImageError {
    pub(crate) fn in_use(image: &ImageId, because: InUse) -> Self {
        Self::ImageInUse { image: image.short().to_owned(), because }
    }

    /// Whether the same may succeed later, so that what was fetched is worth keeping.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_passing(),
            Self::Registry(RegistryError::RateLimited { .. }) => true,
            _ => matches!(
                self.kind(),
                ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Cancelled
            ),
        }
    }

    pub(crate) fn layer(digest: &Digest) -> impl FnOnce(LayerError) -> Self {
        let diff_id = digest.hex()[..12].to_owned();
        move |source| Self::Layer { diff_id, source }
    }
}

impl From<ConfigError> for ImageError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<rusqlite::Error> for ImageError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Classified for ImageError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::Ambiguous(_) | Self::NotLocal(_) | Self::Platform { .. } => {
                ErrorKind::NotFound
            }
            Self::Reference(_) | Self::TagWithDigest | Self::LayerCount { .. } => {
                ErrorKind::Invalid
            }
            Self::ReferenceInUse { .. } | Self::ReferenceOfPods(_) | Self::ImageInUse { .. } => {
                ErrorKind::Conflict
            }
            Self::Config(e) => e.kind(),
            Self::Digest(e) => e.kind(),
            Self::Archive(e) => e.kind(),
            Self::Change(e) => e.kind(),
            Self::Layer { source, .. } | Self::Registrar(_, source) => source.kind(),
            Self::Incomplete { .. } => ErrorKind::Conflict,
            Self::Manifest { .. } => ErrorKind::Invalid,
            Self::Content(e) => e.kind(),
            Self::Rejected(_) => ErrorKind::Denied,
            Self::Signatures { source, .. } => source.kind(),
            Self::Registry(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Input(_) => ErrorKind::Cancelled,
            Self::Shared(e) => e.kind(),
            Self::Record(_) | Self::Worker => ErrorKind::Internal,
        }
    }
}
