//! `docker pull`: from a reference to an image with its layers unpacked.
//!
//! Each layer goes its own way (see [`crate::fetch`]); the image exists when all are there.
//!
//! What a pull brought is kept when it is broken off or fails in passing, for the next one to go
//! on with, until it is a day old. A pull that trying again does not help leaves nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::try_join_all;
use pouch_content::{ContentError, IngestKey};
use pouch_registry::{
    Credentials, Descriptor, DocumentError, Manifest, Platform, RegistryError, Repository,
    Resolved, Wanted,
};
use pouch_types::{Digest, ImageId, ImageRef, failpoint};

use crate::Images;
use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner};
use crate::limits;
use crate::progress::{Event, LayerState, Progress};
use crate::rows::Record;
use crate::unpack::{Teller, packing};

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
    /// The policy's and the registry's refusals and failures, bytes that are not those of their
    /// digest, layers that cannot be unpacked, I/O.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: &Progress,
    ) -> Result<Arc<Image>, ImageError> {
        let reference = &request.reference;
        let demand = self.policy().on_pull(reference).map_err(Box::new)?;
        let repository = self.0.registry.repository(reference, request.credentials).await?;
        let repository = Arc::new(repository);
        let resolved = repository.resolve(&request.platform).await?;
        demand.check(&repository, &resolved).await?;
        failpoint::hit("pull:resolved");
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
        repository: &Arc<Repository>,
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
        let known: HashMap<Digest, Layer> = if self.0.registrar.is_some() {
            // Others read the manifest too, and look for the blobs that it names.
            HashMap::new()
        } else {
            let catalog = self.catalog();
            diff_ids.iter().filter_map(|d| Some((*d, catalog.layer(d)?))).collect()
        };
        let wanted = diff_ids
            .iter()
            .copied()
            .chain(manifest.layers.iter().map(|layer| layer.digest))
            .chain(known.values().map(|layer| layer.blob))
            .chain([resolved.descriptor.digest]);
        let wanted: Vec<Digest> = wanted.collect();
        let pinned = self.pin(wanted.iter().copied()).await?;
        for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
            if !known.contains_key(diff_id) {
                progress.layer(short(&layer.digest), LayerState::PullingFsLayer).await;
            }
        }
        let layers = match self.pull_layers(repository, &diff_ids, manifest, &known, progress).await
        {
            Ok(layers) => layers,
            Err(error) => {
                if error.is_passing() {
                    drop(pinned);
                } else {
                    pinned.release();
                    self.give_up(wanted).await;
                }
                return Err(error);
            }
        };
        failpoint::hit("pull:layers-complete");
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
        pinned.release();
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// All layers at once, as far as there are slots. The largest begin: with what is left at the
    /// end the machine should not wait for one of them alone.
    async fn pull_layers(
        &self,
        repository: &Arc<Repository>,
        diff_ids: &[Digest],
        manifest: &Manifest,
        known: &HashMap<Digest, Layer>,
        progress: &Progress,
    ) -> Result<Vec<Layer>, ImageError> {
        let mut order: Vec<_> = diff_ids.iter().zip(&manifest.layers).enumerate().collect();
        order.sort_by_key(|(_, (_, descriptor))| std::cmp::Reverse(descriptor.size));
        let mut layers = try_join_all(order.into_iter().map(|(at, (diff_id, descriptor))| {
            let known = known.get(diff_id).copied();
            let chain = &diff_ids[..=at];
            let pulled = self.pull_layer(repository, chain, descriptor, known, progress);
            async move { Ok::<_, ImageError>((at, pulled.await?)) }
        }))
        .await?;
        layers.sort_by_key(|(at, _)| *at);
        let mut complete = Vec::with_capacity(layers.len());
        for (at, pulled) in layers {
            complete.push(match pulled {
                Pulled::Complete(layer) => layer,
                // One lies on the other, so they take turns from the bottom.
                Pulled::Packed(layer) => {
                    let id = short(&layer.blob);
                    let teller = Teller::layer(progress, id, LayerState::Extracting);
                    let unpacked = self.unpack(&layer.blob, &diff_ids[..=at], teller).await?;
                    progress.layer(id, LayerState::PullComplete).await;
                    Layer { size: unpacked.size, ..layer }
                }
            });
        }
        Ok(complete)
    }

    async fn pull_layer(
        &self,
        repository: &Arc<Repository>,
        chain: &[Digest],
        descriptor: &Descriptor,
        known: Option<Layer>,
        progress: &Progress,
    ) -> Result<Pulled, ImageError> {
        let id = short(&descriptor.digest);
        let diff_id = chain.last().ok_or(ImageError::Worker)?;
        let here = self.layer(chain).await?;
        if let Some(unpacked) = here {
            let blob = self.0.content.info(&descriptor.digest).await?;
            if blob.is_some_and(|blob| blob.size == descriptor.size) {
                progress.layer(id, LayerState::AlreadyExists).await;
                return Ok(Pulled::Complete(Layer {
                    diff_id: *diff_id,
                    size: unpacked.size,
                    blob: descriptor.digest,
                    blob_size: descriptor.size,
                    packing: packing(&self.0.content, &descriptor.digest).await?,
                }));
            }
            if let Some(known) = known
                && self.0.content.exists(&known.blob).await?
            {
                progress.layer(id, LayerState::AlreadyExists).await;
                return Ok(Pulled::Complete(known));
            }
        }
        let layer = self.bring(repository, descriptor, chain, progress).await?;
        if self.0.registrar.is_some() {
            return Ok(Pulled::Packed(layer));
        }
        progress.layer(id, LayerState::PullComplete).await;
        Ok(Pulled::Complete(layer))
    }

    /// Removes what a pull brought that will not succeed by trying again.
    async fn give_up(&self, digests: Vec<Digest>) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for digest in digests {
            {
                let Some(_condemned) = self.0.pins.condemn(&digest) else { continue };
                let key = IngestKey::of_blob(&digest);
                // The last batch of a download that was stopped is written to its end.
                while let Err(error) = self.0.content.delete_ingest(&key).await {
                    if !matches!(error, ContentError::Busy(_)) || Instant::now() > deadline {
                        tracing::warn!(%digest, %error, "a partial download is left");
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            self.sweep([digest]).await;
        }
    }
}

/// A layer of a pull.
#[derive(Debug)]
enum Pulled {
    /// It is unpacked.
    Complete(Layer),
    /// Its blob is here; its size unpacked is not known yet.
    Packed(Layer),
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

pub(crate) fn short(digest: &Digest) -> &str {
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
