//! `docker pull`: from a reference to an image with its layers unpacked.
//!
//! Each layer goes its own way: fetched into the content store (resumed where an earlier attempt
//! stopped), verified, unpacked. A blob is fetched once however many clients want it; when the
//! client whose pull fetches it goes away, the next one goes on where it was.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use pouch_content::{ContentError, Expected, IngestKey, Writer};
use pouch_registry::{
    Credentials, Descriptor, DocumentError, Platform, RegistryError, Repository, Resolved, Wanted,
};
use pouch_types::{Digest, ImageId, ImageRef};
use tokio::sync::Semaphore;

use crate::Images;
use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner};
use crate::limits;
use crate::progress::{Amount, Event, LayerState, Progress};
use crate::rows::Record;
use crate::unpack::{Teller, packing};

/// Between two pictures of a download's progress, bytes.
const STEP: u64 = 512 << 10;

/// What to pull.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Tag or digest.
    pub reference: ImageRef,
    /// Of the registry.
    pub credentials: Credentials,
    /// For which machine.
    pub platform: Wanted,
    /// Who wants it.
    pub owner: Owner,
}

impl Images {
    /// Pulls an image.
    ///
    /// Dropping the future stops the pull; what was fetched is kept for the next one.
    ///
    /// # Errors
    /// The registry's refusals and failures, bytes that are not those of their digest, layers that
    /// cannot be unpacked, I/O.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: &Progress,
    ) -> Result<Arc<Image>, ImageError> {
        let reference = &request.reference;
        let repository = self.0.registry.repository(reference, request.credentials).await?;
        let resolved = repository.resolve(&request.platform).await?;
        let id = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        // Docker leaves the registry's host out of this line.
        progress.send(Event::Pulling { id, repository: reference.path().to_owned() }).await;
        let names = names(reference, &resolved);
        let before = self.catalog().reference(&names[0].0).map(|known| known.image);
        let image = self
            .pull_image(&repository, resolved, &request.platform, &names, request.owner, progress)
            .await?;
        if let Some(digest) = names.iter().find_map(|(_, digest)| *digest) {
            progress.send(Event::Digest(digest)).await;
        }
        let news = if before == Some(image.id.0) {
            "Image is up to date for"
        } else {
            "Downloaded newer image for"
        };
        progress.send(Event::Status(format!("Status: {news} {}", names[0].0.familiar()))).await;
        Ok(image)
    }

    async fn pull_image(
        &self,
        repository: &Repository,
        resolved: Resolved,
        platform: &Wanted,
        names: &[(ImageRef, Option<Digest>)],
        owner: Owner,
        progress: &Progress,
    ) -> Result<Arc<Image>, ImageError> {
        let manifest = &resolved.manifest;
        if manifest.layers.len() > limits::LAYERS {
            return Err(crate::config::ConfigError::TooManyLayers(manifest.layers.len()).into());
        }
        let raw_config = repository.small_blob(&manifest.config, limits::CONFIG_BYTES).await?;
        let config = ImageConfig::parse(&raw_config)?;
        check_platform(platform, &config, repository.reference())?;
        let diff_ids = config.rootfs.diff_ids.clone();
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::LayerCount {
                blobs: manifest.layers.len(),
                diff_ids: diff_ids.len(),
            });
        }
        for layer in &manifest.layers {
            check_layer(layer, repository)?;
        }
        // Another image may have the same layer in another packing; then that blob serves.
        let known: HashMap<Digest, Layer> = {
            let catalog = self.catalog();
            diff_ids.iter().filter_map(|d| Some((*d, catalog.layer(d)?))).collect()
        };
        let wanted = diff_ids
            .iter()
            .copied()
            .chain(manifest.layers.iter().map(|layer| layer.digest))
            .chain(known.values().map(|layer| layer.blob))
            .chain([resolved.descriptor.digest]);
        let pinned = self.0.pins.pin(wanted).await;
        for layer in &manifest.layers {
            progress.layer(short(&layer.digest), LayerState::PullingFsLayer).await;
        }
        let slots = Semaphore::new(limits::DOWNLOADS);
        let layers =
            try_join_all(diff_ids.iter().zip(&manifest.layers).map(|(diff_id, descriptor)| {
                let known = known.get(diff_id).copied();
                self.pull_layer(repository, diff_id, descriptor, known, &slots, progress)
            }))
            .await?;
        self.0.content.put(resolved.raw.clone()).await?;
        let id = ImageId(Digest::of(&raw_config));
        let record = Record {
            id: id.clone(),
            manifest: Some(resolved.descriptor.digest),
            parent: None,
            raw_config,
            config: Arc::new(config),
            layers: layers.into(),
            last_tagged: None,
            retired: false,
        };
        self.admit(record, names, owner).await?;
        drop(pinned);
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    async fn pull_layer(
        &self,
        repository: &Repository,
        diff_id: &Digest,
        descriptor: &Descriptor,
        known: Option<Layer>,
        slots: &Semaphore,
        progress: &Progress,
    ) -> Result<Layer, ImageError> {
        let id = short(&descriptor.digest);
        let here = self.layer(diff_id).await?;
        if let Some(unpacked) = here {
            let blob = self.0.content.info(&descriptor.digest).await?;
            if blob.is_some_and(|blob| blob.size == descriptor.size) {
                progress.layer(id, LayerState::AlreadyExists).await;
                return Ok(Layer {
                    diff_id: *diff_id,
                    size: unpacked.size,
                    blob: descriptor.digest,
                    blob_size: descriptor.size,
                    packing: packing(&self.0.content, &descriptor.digest).await?,
                });
            }
            if let Some(known) = known
                && self.0.content.exists(&known.blob).await?
            {
                progress.layer(id, LayerState::AlreadyExists).await;
                return Ok(known);
            }
        }
        {
            let waiting = slots.try_acquire();
            let _slot = match waiting {
                Ok(slot) => slot,
                Err(_) => {
                    progress.layer(id, LayerState::Waiting).await;
                    slots.acquire().await.map_err(|_| ImageError::Worker)?
                }
            };
            self.fetch(repository, descriptor, progress).await?;
        }
        progress.layer(id, LayerState::DownloadComplete).await;
        let teller =
            Teller { progress: progress.clone(), id: id.to_owned(), state: LayerState::Extracting };
        let unpacked = self.unpack(&descriptor.digest, diff_id, teller).await?;
        progress.layer(id, LayerState::PullComplete).await;
        Ok(Layer {
            diff_id: *diff_id,
            size: unpacked.size,
            blob: descriptor.digest,
            blob_size: descriptor.size,
            packing: packing(&self.0.content, &descriptor.digest).await?,
        })
    }

    /// Brings a blob into the content store, verified, unless it is there.
    async fn fetch(
        &self,
        repository: &Repository,
        descriptor: &Descriptor,
        progress: &Progress,
    ) -> Result<(), ImageError> {
        let digest = descriptor.digest;
        let id = short(&digest);
        let watch = |amount| progress.amount(id, LayerState::Downloading(amount));
        let turn = self.0.fetches.turn(&digest, watch).await;
        if self.0.content.exists(&digest).await? {
            return Ok(());
        }
        let expected = Expected::exactly(digest, descriptor.size);
        let mut writer = self.resume(&digest, expected).await?;
        let mut resumed = writer.offset() > 0;
        let tell = |offset: u64| {
            let amount = Amount { current: offset, total: descriptor.size };
            turn.report(amount);
            progress.amount(id, LayerState::Downloading(amount));
        };
        loop {
            download(repository, descriptor, &mut writer, tell).await?;
            progress.layer(id, LayerState::VerifyingChecksum).await;
            match writer.commit().await {
                Ok(_) => return Ok(()),
                // The bytes of the earlier attempt may be the bad ones: once more without them.
                Err(ContentError::DigestMismatch(_)) if resumed => {
                    resumed = false;
                    writer = self.0.content.ingest(IngestKey::of_blob(&digest), expected).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Images {
    /// Takes up the ingest of a blob. The pull that had it before may be gone while its last batch
    /// is still being written; that takes milliseconds, on a bad disk seconds.
    async fn resume(&self, digest: &Digest, expected: Expected) -> Result<Writer, ImageError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match self.0.content.resume(IngestKey::of_blob(digest), expected).await {
                Err(ContentError::Busy(_)) if Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// Writes the rest of a blob. Tries again after a passing failure; attempts count only while
/// nothing comes.
async fn download(
    repository: &Repository,
    descriptor: &Descriptor,
    writer: &mut Writer,
    tell: impl Fn(u64),
) -> Result<(), ImageError> {
    let mut attempt = 0;
    let mut reached = writer.offset();
    while writer.offset() < descriptor.size {
        let failure = match stream(repository, descriptor, writer, &tell).await {
            Ok(()) if writer.offset() >= descriptor.size => break,
            // A body that ends early with nothing said is a broken connection too.
            Ok(()) => None,
            Err(ImageError::Registry(error)) if error.is_transient() => Some(error),
            Err(error) => return Err(error),
        };
        if writer.offset() > reached {
            (attempt, reached) = (0, writer.offset());
        }
        attempt += 1;
        let Some(wait) = repository.back_off(attempt) else {
            return Err(match failure {
                Some(error) => error.into(),
                None => {
                    let (expected, actual) = (descriptor.size, writer.offset());
                    ContentError::Short { expected, actual }.into()
                }
            });
        };
        tokio::time::sleep(wait).await;
    }
    Ok(())
}

async fn stream(
    repository: &Repository,
    descriptor: &Descriptor,
    writer: &mut Writer,
    tell: &impl Fn(u64),
) -> Result<(), ImageError> {
    let mut blob = repository.blob(descriptor, writer.offset()).await?;
    if blob.start() != writer.offset() {
        writer.restart().await?;
    }
    let mut told = writer.offset();
    tell(told);
    while let Some(bytes) = blob.next().await? {
        writer.write(bytes).await?;
        let offset = writer.offset();
        if offset - told >= STEP || offset == descriptor.size {
            told = offset;
            tell(offset);
        }
    }
    Ok(())
}

/// Under which names the image will be known, each with the digest that the registry gave for it:
/// the reference itself first, then the name by digest.
fn names(reference: &ImageRef, resolved: &Resolved) -> Vec<(ImageRef, Option<Digest>)> {
    let digest = resolved.top.digest;
    let pinned = (reference.with_digest(digest), Some(digest));
    match (reference.digest(), reference.tag()) {
        (None, Some(_)) => vec![(reference.clone(), Some(digest)), pinned],
        _ => vec![pinned],
    }
}

fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

fn check_platform(
    wanted: &Wanted,
    config: &ImageConfig,
    reference: &ImageRef,
) -> Result<(), ImageError> {
    let Wanted::Exactly(wanted) = wanted else { return Ok(()) };
    let actual = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
    };
    // Many configurations leave the variant out, so it is for the index to match.
    let family = Platform { variant: None, ..wanted.clone() };
    if family.accepts(&actual) {
        return Ok(());
    }
    Err(ImageError::Platform {
        reference: reference.familiar(),
        wanted: wanted.to_string(),
        actual: actual.to_string(),
    })
}

/// Refuses what is no layer. URLs that a descriptor may carry are never fetched: layers come from
/// the registry that the user named.
fn check_layer(layer: &Descriptor, repository: &Repository) -> Result<(), ImageError> {
    let base = layer
        .media_type
        .strip_suffix("+gzip")
        .or_else(|| layer.media_type.strip_suffix("+zstd"))
        .or_else(|| layer.media_type.strip_suffix(".gzip"))
        .or_else(|| layer.media_type.strip_suffix(".zstd"))
        .unwrap_or(&layer.media_type);
    let known = matches!(
        base,
        "" | "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
    );
    let refuse = |why| {
        let reference = repository.reference().familiar();
        Err(ImageError::Registry(RegistryError::Document { reference, why }))
    };
    if !known {
        let shown = layer.media_type.chars().take(120).collect();
        return refuse(DocumentError::NotAnImage(shown));
    }
    if layer.size > limits::ARCHIVE_BYTES {
        let (what, limit) = ("layer", limits::ARCHIVE_BYTES);
        return Err(ImageError::Registry(RegistryError::TooLarge { what, limit }));
    }
    Ok(())
}
