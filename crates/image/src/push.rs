//! `docker push`: an image to a registry.
//!
//! An image that came with a manifest goes as it came, byte by byte, so that it keeps its digest.
//! Another gets a manifest of ours; its layers that are plain tars, as archives hold them, are
//! packed first and kept so.

use std::fs::File;
use std::sync::Arc;

use futures::future::try_join_all;
use pouch_registry::document::OCI_CONFIG;
use pouch_registry::{
    Credentials, Descriptor, FileSource, Login, Manifest, PushTo, Pushed, Repository,
};
use pouch_types::{Digest, ImageRef};
use tokio::sync::Semaphore;

use crate::Images;
use crate::commit::spool;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner, Packing, Reference};
use crate::limits;
use crate::pins::Pinned;
use crate::progress::{Amount, Event, LayerState, Progress};
use crate::pull::short;
use crate::rows::{self, Record};

/// Between two pictures of an upload's progress, bytes.
const STEP: u64 = 512 << 10;
/// Other repositories of the registry that are named as places where a blob may be already.
const MOUNTS: usize = 3;

/// What to push.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// A name with a tag, or a repository with all its tags.
    pub what: PushWhat,
    /// Of the registry.
    pub credentials: Credentials,
    /// Whose claim the name by digest becomes.
    pub owner: Owner,
}

/// Which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushWhat {
    /// This one.
    Tag(ImageRef),
    /// All of the repository of this one.
    AllTags(ImageRef),
}

impl PushWhat {
    /// The repository, under any of its tags.
    #[must_use]
    pub const fn reference(&self) -> &ImageRef {
        match self {
            Self::Tag(reference) | Self::AllTags(reference) => reference,
        }
    }
}

impl Images {
    /// Pushes one name or all of a repository. Returns what was pushed.
    ///
    /// # Errors
    /// [`ImageError::NotLocal`], the registry's refusals and failures, I/O. What was pushed before
    /// stays pushed.
    pub async fn push(
        &self,
        request: PushRequest,
        progress: &Progress,
    ) -> Result<Vec<(ImageRef, Arc<Image>)>, ImageError> {
        let repository_name = request.what.reference();
        let chosen: Vec<Reference> = {
            let catalog = self.catalog();
            match &request.what {
                PushWhat::Tag(name) => catalog.reference(name).cloned().into_iter().collect(),
                PushWhat::AllTags(any) => catalog.tags_of(any),
            }
        };
        if chosen.is_empty() {
            return Err(ImageError::NotLocal(match &request.what {
                PushWhat::Tag(name) => name.familiar(),
                PushWhat::AllTags(any) => any.familiar_repository(),
            }));
        }
        let shown = format!("{}/{}", repository_name.domain(), repository_name.path());
        let text = format!("The push refers to repository [{shown}]");
        progress.send(Event::Status(text)).await;
        let mut pushed = Vec::new();
        for reference in chosen {
            let Some(image) = self.get(&pouch_types::ImageId(reference.image)) else { continue };
            let session = self.0.registry.repository(&reference.name, request.credentials.clone());
            self.push_one(&session.await?, &image, request.owner, progress).await?;
            pushed.push((reference.name, image));
        }
        Ok(pushed)
    }

    /// Tries credentials at a registry, whose `host` is as in an image's name or as `docker login`
    /// sends it.
    ///
    /// # Errors
    /// The registry's refusals and failures.
    pub async fn check_login(
        &self,
        host: &str,
        credentials: &Credentials,
    ) -> Result<Login, ImageError> {
        Ok(self.0.registry.check_login(host, credentials).await?)
    }

    async fn push_one(
        &self,
        repository: &Repository,
        image: &Arc<Image>,
        owner: Owner,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let name = repository.reference();
        for layer in image.layers.iter().rev() {
            progress.layer(short(&layer.diff_id), LayerState::Preparing).await;
        }
        let wanted = image.layers.iter().flat_map(|layer| [layer.blob, layer.diff_id]);
        let pinned = self.0.pins.pin(wanted.chain(image.manifest)).await;
        let raw_config = self.raw_config(&image.id).await?;
        let mut image = Arc::clone(image);
        let mut packed = Vec::new();
        let raw = match self.manifest_it_came_with(&image).await? {
            Some(raw) => raw,
            None => {
                (image, packed) = self.pack(&image).await?;
                crate::save::manifest_of_ours(&image, &raw_config)?
            }
        };
        let media_type = crate::save::media_type(&raw);
        let manifest = Manifest::parse(&raw).map_err(|_| ImageError::Worker)?;
        let slots = Semaphore::new(limits::UPLOADS);
        let blobs = image.layers.iter().zip(&manifest.layers);
        try_join_all(blobs.map(|(layer, descriptor)| {
            self.push_layer(repository, layer, descriptor, &slots, progress)
        }))
        .await?;
        let config = Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: image.id.0,
            size: raw_config.len() as u64,
            platform: None,
        };
        repository.push_blob(&config, Arc::new(raw_config), &[], &|_| {}).await?;
        let size = raw.len() as u64;
        let digest = repository.push_manifest(raw, &media_type, PushTo::Tag).await?;
        self.name_by_digest(name, &image, digest, owner).await?;
        drop(pinned);
        packed.into_iter().for_each(Pinned::release);
        let tag = name.tag().unwrap_or_default().to_owned();
        let text = format!("{tag}: digest: {digest} size: {size}");
        progress.send(Event::Status(text)).await;
        progress.send(Event::Pushed { tag, digest, size }).await;
        Ok(())
    }

    async fn push_layer(
        &self,
        repository: &Repository,
        layer: &Layer,
        descriptor: &Descriptor,
        slots: &Semaphore,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let id = short(&layer.diff_id);
        if slots.available_permits() == 0 {
            progress.layer(id, LayerState::Waiting).await;
        }
        let _slot = slots.acquire().await.map_err(|_| ImageError::Worker)?;
        let source = FileSource::new(self.open_blob(layer.blob).await?);
        let near = self.catalog().repositories_with(&layer.blob, repository.reference(), MOUNTS);
        let (total, told) = (descriptor.size, std::sync::atomic::AtomicU64::new(0));
        let sent = |current: u64| {
            let before = told.load(std::sync::atomic::Ordering::Relaxed);
            if current < before || current - before >= STEP || current == total {
                told.store(current, std::sync::atomic::Ordering::Relaxed);
                progress.amount(id, LayerState::Pushing(Amount { current, total }));
            }
        };
        let state = match repository.push_blob(descriptor, Arc::new(source), &near, &sent).await? {
            Pushed::Present => LayerState::LayerAlreadyExists,
            Pushed::Mounted(from) => {
                progress.send(Event::Mounted { id: id.to_owned(), from }).await;
                return Ok(());
            }
            Pushed::Uploaded => LayerState::Pushed,
        };
        progress.layer(id, state).await;
        Ok(())
    }

    async fn open_blob(&self, blob: Digest) -> Result<File, ImageError> {
        let content = self.0.content.clone();
        let opened = tokio::task::spawn_blocking(move || content.open_blocking(&blob));
        Ok(opened.await.map_err(|_| ImageError::Worker)??.0)
    }

    /// Packs the layers that are plain tars, and keeps them so from now on.
    async fn pack(&self, image: &Arc<Image>) -> Result<(Arc<Image>, Vec<Pinned>), ImageError> {
        let mut layers = Vec::new();
        let mut pins = Vec::new();
        if image.layers.iter().all(|layer| layer.packing != Packing::Tar) {
            return Ok((Arc::clone(image), pins));
        }
        for layer in image.layers.iter() {
            if layer.packing != Packing::Tar {
                layers.push(*layer);
                continue;
            }
            let (tar, content) = (self.open_blob(layer.blob).await?, self.0.content.clone());
            let packing = tokio::task::spawn_blocking(move || spool(tar, &content));
            let (file, diff_id) = packing.await.map_err(|_| ImageError::Worker)??;
            if diff_id != layer.diff_id {
                return Err(pouch_content::ContentError::Corrupt(layer.blob).into());
            }
            let blob = file.info();
            pins.push(self.pin([blob.digest]).await?);
            let keep = tokio::task::spawn_blocking(move || file.commit());
            keep.await.map_err(|_| ImageError::Worker)??;
            layers.push(Layer {
                blob: blob.digest,
                blob_size: blob.size,
                packing: Packing::Gzip,
                ..*layer
            });
        }
        let record = self.record(&image.id).await?;
        self.admit(Record { layers: layers.into(), ..record }, &[], Owner::Docker).await?;
        let packed = self.get(&image.id).ok_or_else(|| ImageError::NotFound(image.id.to_string()));
        Ok((packed?, pins))
    }

    /// The image is known in the registry by this digest from now on.
    async fn name_by_digest(
        &self,
        name: &ImageRef,
        image: &Image,
        digest: Digest,
        owner: Owner,
    ) -> Result<(), ImageError> {
        let _change = self.0.change.lock().await;
        if self.get(&image.id).is_none() {
            // Removed meanwhile: it was pushed all the same.
            return Ok(());
        }
        let reference = self.claimed(&name.with_digest(digest), &image.id, Some(digest), owner);
        let row = reference.clone();
        self.0.store.write(move |tx| rows::put_reference(tx, &row)).await?;
        self.catalog_mut().point(reference);
        Ok(())
    }
}
