//! Names of images: Image objects, and the labels that tie what they name together.

use std::collections::HashMap;

use async_trait::async_trait;
use pouch_containerd::Error;
use pouch_containerd::remote::image_mark;
use pouch_containerd_grpc::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use pouch_containerd_grpc::types::Descriptor;
use pouch_image::{Hold, LayerError, Maker, Named, Published, Registrar};
use pouch_types::{Classified as _, Digest, ErrorKind, ImageId};

use crate::call::{COLLECT, QUICK, Result};
use crate::layers::{for_images, name_of};
use crate::{ContainerdStore, Shared};

/// Labels by which the collector goes from a manifest to what it names.
const REFERS_TO_CONFIG: &str = "containerd.io/gc.ref.content.config";
/// And to its layers, with a number behind.
const REFERS_TO_LAYER: &str = "containerd.io/gc.ref.content.l.";
/// From a configuration to the topmost layer, with the snapshotter behind.
const REFERS_TO_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";

impl Shared {
    fn snapshot_labels(&self, chain: &[Digest]) -> HashMap<String, String> {
        if chain.is_empty() {
            return HashMap::new();
        }
        let key = format!("{REFERS_TO_SNAPSHOT}{}", self.config.snapshotter);
        HashMap::from([(key, name_of(chain))])
    }

    async fn publish(&self, published: &Published) -> Result<()> {
        let config = Digest::of(&published.config);
        let labels = self.snapshot_labels(&published.chain);
        self.put_blob(published.config.clone(), &labels).await?;
        let blobs = published.blobs.iter().enumerate();
        let labels = blobs
            .map(|(n, blob)| (format!("{REFERS_TO_LAYER}{n}"), blob.to_string()))
            .chain([(REFERS_TO_CONFIG.to_owned(), config.to_string())])
            .collect();
        self.put_blob(published.manifest.clone(), &labels).await?;
        for name in &published.names {
            let (key, value) = image_mark(&self.config.owner, name);
            let image = Image {
                name: name.clone(),
                labels: HashMap::from([(key, value)]),
                target: Some(Descriptor {
                    media_type: published.media_type.clone(),
                    digest: Digest::of(&published.manifest).to_string(),
                    size: i64::try_from(published.manifest.len()).unwrap_or(i64::MAX),
                    annotations: HashMap::new(),
                }),
            };
            self.set_name(image).await?;
        }
        Ok(())
    }

    /// Makes a name or points it elsewhere. Somebody else may do so too meanwhile.
    async fn set_name(&self, image: Image) -> Result<()> {
        let call = self.making("name an image", QUICK);
        let request = call.request(CreateImageRequest { image: Some(image.clone()) });
        match call.answer(self.pool.images().create(request)).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            other => return other.map(drop),
        }
        let call = self.making("point an image's name elsewhere", QUICK);
        let message = UpdateImageRequest { image: Some(image.clone()), update_mask: None };
        match call.answer(self.pool.images().update(call.request(message))).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other.map(drop),
        }
        let call = self.making("name an image", QUICK);
        let request = call.request(CreateImageRequest { image: Some(image) });
        call.answer(self.pool.images().create(request)).await.map(drop)
    }

    async fn withdraw(&self, names: &[String]) -> Result<()> {
        // What still holds for work that has ended would hold what is to go.
        self.leases.settled().await;
        let mut failure = None;
        for (at, name) in names.iter().enumerate() {
            let call = self.call("take an image's name away", COLLECT);
            let sync = at + 1 == names.len();
            let request = call.request(DeleteImageRequest { name: name.clone(), sync });
            match call.answer(self.pool.images().delete(request)).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn named(&self, image: Image) -> Option<Named> {
        let target = image.target?;
        let (key, value) = image_mark(&self.config.owner, &image.name);
        let ours = image.labels.get(&key) == Some(&value);
        let Ok(digest) = target.digest.parse() else {
            tracing::warn!(image = image.name, digest = target.digest, "names nothing we know");
            return None;
        };
        Some(Named {
            name: image.name,
            target: digest,
            media_type: target.media_type,
            maker: if ours { Maker::Us } else { Maker::Others },
        })
    }
}

fn done<T>(answer: std::result::Result<T, Error>) -> std::result::Result<T, LayerError> {
    answer.map_err(|error| for_images(&error))
}

#[async_trait]
impl Registrar for ContainerdStore {
    async fn hold(&self) -> std::result::Result<Hold, LayerError> {
        done(self.shared.leases.hold().await)
    }

    async fn publish(&self, image: &Published) -> std::result::Result<(), LayerError> {
        // Its documents may be there already, held by a name that goes meanwhile.
        let hold = done(self.shared.leases.hold().await)?;
        let published = done(self.shared.publish(image).await);
        hold.release();
        published
    }

    async fn tie(&self, config: &ImageId, chain: &[Digest]) -> std::result::Result<(), LayerError> {
        let labels = self.shared.snapshot_labels(chain);
        done(self.shared.label_blob(&config.0, &labels).await)
    }

    async fn withdraw(&self, names: &[String]) -> std::result::Result<(), LayerError> {
        done(self.shared.withdraw(names).await)
    }

    async fn look_up(&self, name: &str) -> std::result::Result<Option<Named>, LayerError> {
        let shared = &self.shared;
        let call = shared.call("look an image up", QUICK);
        let request = call.request(GetImageRequest { name: name.to_owned() });
        match call.answer(shared.pool.images().get(request)).await {
            Ok(answer) => Ok(answer.image.and_then(|image| shared.named(image))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(for_images(&error)),
        }
    }

    async fn list(&self) -> std::result::Result<Vec<Named>, LayerError> {
        let shared = &self.shared;
        let call = shared.call("list images", QUICK);
        let request = call.request(ListImagesRequest { filters: Vec::new() });
        let answer = done(call.answer(shared.pool.images().list(request)).await)?;
        Ok(answer.images.into_iter().filter_map(|image| shared.named(image)).collect())
    }

    async fn collect(&self) -> std::result::Result<(), LayerError> {
        done(self.shared.leases.end_all().await)
    }
}
