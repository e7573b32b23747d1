//! The seam to a store that keeps what is referred to: it has names for images of its own, which
//! other programs see and change, and collects by itself what no name leads to.
//!
//! Without one, the images say what is deleted; with one they only say what is named. The order is:
//! what comes is held, made, named there, and gets its rows last; what goes loses its rows first and
//! its name there next. So a crash leaves a name of ours without a row, which is taken away when
//! the two are compared, and a name of ours is never missing there for another reason than that
//! somebody removed it.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use pouch_types::{Digest, ImageId};

use crate::layers::LayerError;

/// What an operation makes stays until this is dropped, and for a day after that unless it was
/// [`released`](Hold::release): work that was broken off is gone on with.
pub struct Hold(Option<Release>);

type Release = Box<dyn FnOnce(Ending) + Send + Sync>;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// What it made is named, or of no use.
    Done,
    /// What it made may be gone on with.
    BrokenOff,
}

impl Hold {
    /// One that is told how it ends.
    pub fn new(release: impl FnOnce(Ending) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(release)))
    }

    /// Ends it: nothing has to be kept on its account.
    pub fn release(mut self) {
        if let Some(release) = self.0.take() {
            release(Ending::Done);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(release) = self.0.take() {
            release(Ending::BrokenOff);
        }
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// An image with the names that lead to it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Full names, at least one.
    pub names: Vec<String>,
    /// The manifest.
    pub manifest: Bytes,
    /// Its media type.
    pub media_type: String,
    /// The configuration.
    pub config: Bytes,
    /// Blobs of the layers, bottom first.
    pub blobs: Vec<Digest>,
    /// diffIDs of the layers, bottom first.
    pub chain: Vec<Digest>,
}

/// What a name there leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The manifest or index.
    pub target: Digest,
    /// Its media type.
    pub media_type: String,
    /// Who made the name.
    pub maker: Maker,
}

/// See [`Named::maker`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// This daemon.
    Us,
    /// Somebody else.
    Others,
}

/// A store that keeps what is referred to.
#[async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Holds what is made, and what is found there by looking, from now on.
    ///
    /// # Errors
    /// When the store refuses.
    async fn hold(&self) -> Result<Hold, LayerError>;

    /// Writes the image's documents, ties them to its layers, and gives it its names, which move if
    /// they are in use. All of it must be held.
    ///
    /// # Errors
    /// When the store refuses.
    async fn publish(&self, image: &Published) -> Result<(), LayerError>;

    /// Ties the configuration of an image that somebody else named to its layers here.
    ///
    /// # Errors
    /// When the store refuses.
    async fn tie(&self, config: &ImageId, chain: &[Digest]) -> Result<(), LayerError>;

    /// Takes names away, and waits until what only they led to is gone. A name that is not there is
    /// no error.
    ///
    /// # Errors
    /// When the store refuses.
    async fn withdraw(&self, names: &[String]) -> Result<(), LayerError>;

    /// What a name leads to, if it is there.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn look_up(&self, name: &str) -> Result<Option<Named>, LayerError>;

    /// All names.
    ///
    /// # Errors
    /// When they cannot be listed.
    async fn list(&self) -> Result<Vec<Named>, LayerError>;

    /// Lets go what was held for work that was broken off, and collects.
    ///
    /// # Errors
    /// When the store refuses.
    async fn collect(&self) -> Result<(), LayerError>;
}
