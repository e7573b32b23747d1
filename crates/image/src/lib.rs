//! Images: where they come from (registry, archive, tar), what they are called, what they need on
//! disk and when that may go.
//!
//! **Identity.** An image is the digest of its configuration. Its names are references, each with
//! owners: the Docker face, the CRI face or both. A face gives up only its own claim; a name goes
//! with its last claim, an image with its last name and its last container.
//!
//! **Storage.** Rows in the store say what exists. Layers are unpacked once by diffID in the
//! [`LayerStore`]; blobs as they came are kept in the content store, because push, save and the
//! next partial pull need them. Rows are written last when something comes and first when
//! something goes, so a crash leaves bytes without rows, which a later pull takes up or which are
//! collected after a day, and never rows without bytes.
//!
//! With a [`Registrar`] both are somebody else's, who keeps what has a name there.
//!
//! **Memory.** All images are cached, parsed and immutable: list, inspect and look-ups do no I/O.
//!
//! **Trust.** Digest and size of every blob are checked while it streams, the diffID while it is
//! unpacked, wherever the bytes came from. Limits are in [`limits`]; whose images may come at all,
//! the [`Policy`] says.

#![forbid(unsafe_code)]

mod archive;
mod catalog;
mod changes;
mod commit;
pub mod config;
mod error;
mod fetch;
mod filter;
mod image;
mod import;
mod layers;
pub mod limits;
mod load;
mod names;
mod pins;
mod policy;
mod progress;
mod pull;
mod push;
mod registrar;
mod remote;
mod remove;
mod rows;
mod save;
mod sweep;
mod tarball;
mod unpack;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use pouch_content::ContentStore;
use pouch_registry::Registry;
use pouch_store::Store;
use pouch_types::{Digest, ImageId, ImageRef, failpoint};
use tokio::sync::Semaphore;

pub use archive::ArchiveError;
pub use changes::{Changes, InvalidChange};
pub use commit::CommitOptions;
pub use config::{ContainerConfig, HealthConfig, ImageConfig};
pub use error::{ImageError, InUse};
pub use filter::{LabelFilter, ListFilter};
pub use image::{Image, Layer, Owner, Owners, Packing, Step, chain_ids};
pub use import::ImportOptions;
pub use layers::{
    Kept, LayerBlob, LayerError, LayerStore, LayerStream, Opener, Unpacked, top as top_layer,
};
pub use policy::{Policy, PolicyError, Rejected};
pub use progress::{Amount, Event, LayerState, Loaded, Progress};
pub use pull::PullRequest;
pub use push::{PushRequest, PushWhat};
pub use registrar::{Ending, Hold, Maker, Named, Published, Registrar};
pub use remote::Offer;
pub use remove::{ImageUser, RemoveOptions, Removed};
pub use rows::{Released, SCHEMA, is_any, release_image, use_image};
pub use save::SaveStream;
pub use sweep::{Collect, PruneFilter, PruneReport, Usage};

use catalog::Catalog;
use fetch::Fetches;
use image::Reference;
use pins::{Flights, Pinned, Pins};
use rows::Record;

/// All images. A handle; clones share them.
#[derive(Clone)]
pub struct Images(Arc<Inner>);

pub(crate) struct Inner {
    store: Store,
    content: ContentStore,
    layers: Arc<dyn LayerStore>,
    /// There is one when content and layers are kept by somebody who collects what is not named.
    registrar: Option<Arc<dyn Registrar>>,
    registry: Registry,
    policy: RwLock<Policy>,
    catalog: RwLock<Catalog>,
    /// Held over a commit and the same change of the catalog, so that both see one order.
    change: tokio::sync::Mutex<()>,
    pins: Arc<Pins>,
    fetches: Fetches,
    /// Whose turn it is with a blob.
    blobs: Flights,
    unpacks: Flights,
    layer_slots: Semaphore,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Images").finish_non_exhaustive()
    }
}

impl Images {
    /// Loads all images and collects what was left behind long ago, then and each hour.
    ///
    /// # Errors
    /// Unreadable records, or I/O.
    pub async fn open(
        store: Store,
        content: ContentStore,
        layers: Arc<dyn LayerStore>,
        registry: Registry,
    ) -> Result<Self, ImageError> {
        Self::open_with(store, content, layers, None, registry).await
    }

    /// As [`Images::open`], with content and layers in a store that keeps what is named. Names that
    /// it has from before are taken over by [`Images::compare`].
    ///
    /// # Errors
    /// As [`Images::open`].
    pub async fn open_with(
        store: Store,
        content: ContentStore,
        layers: Arc<dyn LayerStore>,
        registrar: Option<Arc<dyn Registrar>>,
        registry: Registry,
    ) -> Result<Self, ImageError> {
        store.write(rows::delete_orphans).await?;
        let (records, references) = store.read(rows::load).await?;
        let images = Self(Arc::new(Inner {
            store,
            content,
            layers,
            registrar,
            registry,
            policy: RwLock::default(),
            catalog: RwLock::new(Catalog::new(records, references)),
            change: tokio::sync::Mutex::default(),
            pins: Arc::default(),
            fetches: Fetches::default(),
            blobs: Flights::default(),
            unpacks: Flights::default(),
            layer_slots: Semaphore::new(limits::LAYERS_AT_ONCE),
        }));
        images.collect_and_tell().await?;
        sweep::collect_hourly(&images);
        Ok(images)
    }

    /// Says what may come from now on. Until it is said, everything may.
    pub fn set_policy(&self, policy: Policy) {
        *self.0.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// What may come.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.0.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The image of a name (`repository[:tag][@digest]`) or of a full or short id, with or without
    /// `sha256:`. No I/O.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::Reference`].
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>, ImageError> {
        self.catalog().resolve(text).map(|(image, _)| image)
    }

    /// The image of an id. No I/O.
    #[must_use]
    pub fn get(&self, id: &ImageId) -> Option<Arc<Image>> {
        self.catalog().get(&id.0).cloned()
    }

    /// The images that match, newest first. No I/O.
    ///
    /// # Errors
    /// When `before` or `since` names an image that does not exist.
    pub fn list(&self, filter: &ListFilter) -> Result<Vec<Arc<Image>>, ImageError> {
        filter.apply(&self.catalog())
    }

    /// The names of an image with their owners, sorted. No I/O.
    #[must_use]
    pub fn references(&self, id: &ImageId) -> Vec<(ImageRef, Owners)> {
        self.catalog().names(&id.0).into_iter().map(|r| (r.name, r.owners)).collect()
    }

    /// The steps of an image's making, newest first. No I/O.
    ///
    /// # Errors
    /// As [`Images::resolve`].
    pub fn history(&self, text: &str) -> Result<Vec<Step>, ImageError> {
        Ok(self.resolve(text)?.history())
    }

    /// The bytes of an image's configuration, as it came.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], the database.
    pub async fn raw_config(&self, id: &ImageId) -> Result<Bytes, ImageError> {
        let wanted = id.clone();
        self.0
            .store
            .read(move |c| rows::raw_config(c, &wanted))
            .await?
            .ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// Gives an image one more name; a name that is in use moves.
    ///
    /// # Errors
    /// As [`Images::resolve`] for `source`; [`ImageError::TagWithDigest`].
    pub async fn tag(
        &self,
        source: &str,
        name: &ImageRef,
        owner: Owner,
    ) -> Result<Arc<Image>, ImageError> {
        if name.digest().is_some() {
            return Err(ImageError::TagWithDigest);
        }
        let _change = self.0.change.lock().await;
        let image = self.resolve(source)?;
        let reference = self.claimed(name, &image.id, None, owner);
        let renaming = self.renaming(&image.id.0, std::slice::from_ref(&reference));
        if let Some(registrar) = &self.0.registrar {
            let raw_config = self.raw_config(&image.id).await?;
            self.publish_renaming(registrar, &renaming, &image, &raw_config).await?;
        }
        let row = reference.clone();
        self.0.store.write(move |tx| rows::put_reference(tx, &row)).await?;
        self.catalog_mut().point(reference);
        self.withdraw(renaming.stale).await;
        Ok(image)
    }

    /// Protects digests from collection, ours and the registrar's, until the guard is dropped.
    pub(crate) async fn pin(
        &self,
        digests: impl IntoIterator<Item = Digest>,
    ) -> Result<Pinned, ImageError> {
        let hold = match &self.0.registrar {
            Some(registrar) => {
                let hold = registrar.hold().await;
                Some(hold.map_err(|source| ImageError::Registrar("hold what is made", source))?)
            }
            None => None,
        };
        let mut pinned = self.0.pins.pin(digests).await;
        pinned.hold = hold;
        Ok(pinned)
    }

    /// The row of a name with `owner`'s claim added. A claim of the other face on the name stays:
    /// what a name means to one face it means to both.
    fn claimed(
        &self,
        name: &ImageRef,
        image: &ImageId,
        manifest: Option<Digest>,
        owner: Owner,
    ) -> Reference {
        let owners = self.catalog().reference(name).map_or_else(Owners::default, |r| r.owners);
        Reference { name: name.clone(), image: image.0, manifest, owners: owners.with(owner) }
    }

    /// Makes an image that is complete on disk exist, under `names`. The caller pins its digests.
    pub(crate) async fn admit(
        &self,
        record: Record,
        names: &[(ImageRef, Option<Digest>)],
        owner: Owner,
    ) -> Result<(), ImageError> {
        self.admit_named(record, names, owner, Maker::Us).await
    }

    /// As [`Images::admit`]; `maker` says who names it in the registrar, if there is one.
    pub(crate) async fn admit_named(
        &self,
        record: Record,
        names: &[(ImageRef, Option<Digest>)],
        owner: Owner,
        maker: Maker,
    ) -> Result<(), ImageError> {
        let free = {
            let _change = self.0.change.lock().await;
            let references: Vec<Reference> = names
                .iter()
                .map(|(name, manifest)| self.claimed(name, &record.id, *manifest, owner))
                .collect();
            let renaming = self.renaming(&record.id.0, &references);
            if let Some(registrar) = &self.0.registrar
                && maker == Maker::Us
            {
                let raw_config = record.raw_config.clone();
                let image = record.clone().into_image();
                self.publish_renaming(registrar, &renaming, &image, &raw_config).await?;
            }
            let rows = (record.clone(), references.clone());
            failpoint::hit("admit:before-commit");
            self.0
                .store
                .write(move |tx| {
                    rows::put_image(tx, &rows.0)?;
                    rows.1.iter().try_for_each(|reference| rows::put_reference(tx, reference))
                })
                .await?;
            failpoint::hit("admit:committed");
            let free = {
                let mut catalog = self.catalog_mut();
                let mut record = record;
                if let Some(known) = catalog.get(&record.id.0) {
                    // As the row does: what is known already stays known.
                    record.manifest = record.manifest.or(known.manifest);
                    record.parent = known.parent.clone().or(record.parent);
                    record.last_tagged = known.last_tagged;
                }
                let free = catalog.insert(record);
                references.into_iter().for_each(|reference| catalog.point(reference));
                free
            };
            self.withdraw(renaming.stale).await;
            free
        };
        self.sweep(free).await;
        Ok(())
    }

    pub(crate) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        // A panic while it is held would be a defect in a few map operations; the rows are right
        // in any case, and going on beats refusing every image operation.
        self.0.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.0.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }
}
