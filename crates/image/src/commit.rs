//! `docker commit`: what a container changed becomes one more layer on its image.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::Stream;
use jiff::Timestamp;
use pouch_content::{ContentError, ContentStore, Expected, Finished, IngestKey};
use pouch_types::{Digest, DigestWriter, ImageId, ImageRef, failpoint};

use crate::Images;
use crate::archive::ArchiveError;
use crate::config::{ConfigError, ContainerConfig, History};
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner, Packing};
use crate::limits;
use crate::load::on_thread;
use crate::rows::{self, Record};
use crate::unpack::Teller;

/// A tar without entries.
const EMPTY_TAR: [u8; 1024] = [0; 1024];

/// What the new image is like.
#[derive(Debug, Clone)]
pub struct CommitOptions {
    /// Its name; without one it is known by its id only.
    pub reference: Option<ImageRef>,
    /// The image of the container, which may have lost its names since.
    pub parent: ImageId,
    /// Defaults of containers made from it.
    pub config: ContainerConfig,
    /// What the container ran, for the history.
    pub created_by: String,
    /// Who commits.
    pub author: String,
    /// Free text.
    pub message: String,
}

impl Images {
    /// Makes an image of a parent and a layer, which comes as a plain tar. A tar without entries
    /// makes no layer, as in Docker.
    ///
    /// The container keeps the parent from going for the time of the call.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] for the parent, one layer too many, a name with a digest, I/O.
    pub async fn commit<S>(
        &self,
        diff: S,
        options: CommitOptions,
        owner: Owner,
    ) -> Result<Arc<Image>, ImageError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        if options.reference.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(ImageError::TagWithDigest);
        }
        let parent = self.record(&options.parent).await?;
        if parent.layers.len() >= limits::LAYERS {
            return Err(ConfigError::TooManyLayers(parent.layers.len() + 1).into());
        }
        let content = self.0.content.clone();
        let (file, diff_id) = on_thread(diff, move |reader| spool(reader, &content)).await?;
        failpoint::hit("commit:spooled");
        let blob = file.info();
        let below = parent.layers.iter().flat_map(|layer| [layer.diff_id, layer.blob]);
        let pinned = self.pin(below.chain([blob.digest, diff_id])).await?;
        // Before the pin the parent could still go with its container.
        self.record(&options.parent).await?;
        let committed = async {
            let layer = if diff_id == Digest::of(&EMPTY_TAR) {
                None
            } else {
                let keep = tokio::task::spawn_blocking(move || file.commit());
                keep.await.map_err(|_| ImageError::Worker)??;
                let below = parent.layers.iter().map(|layer| layer.diff_id);
                let chain: Vec<Digest> = below.chain([diff_id]).collect();
                let unpacked = self.unpack(&blob.digest, &chain, Teller::new(|_| {})).await?;
                Some(Layer {
                    diff_id,
                    size: unpacked.size,
                    blob: blob.digest,
                    blob_size: blob.size,
                    packing: Packing::Gzip,
                })
            };
            self.admit_commit(parent, layer, options, owner).await
        }
        .await;
        pinned.release();
        if committed.is_err() {
            self.sweep([blob.digest, diff_id]).await;
        }
        committed
    }

    async fn admit_commit(
        &self,
        parent: Record,
        layer: Option<Layer>,
        options: CommitOptions,
        owner: Owner,
    ) -> Result<Arc<Image>, ImageError> {
        let now = Timestamp::now().to_string();
        let mut config = (*parent.config).clone();
        config.created = Some(now.clone());
        config.author.clone_from(&options.author);
        config.comment.clone_from(&options.message);
        config.config = options.config;
        config.rootfs.diff_ids.extend(layer.map(|layer| layer.diff_id));
        config.history.push(History {
            created: Some(now),
            created_by: options.created_by,
            author: options.author,
            comment: options.message,
            empty_layer: layer.is_none(),
        });
        let raw_config: Bytes = serde_json::to_vec(&config).map_err(ConfigError::Json)?.into();
        // What this store writes it must be able to read again.
        let config = crate::config::ImageConfig::parse(&raw_config)?;
        let id = ImageId(Digest::of(&raw_config));
        let record = Record {
            id: id.clone(),
            manifest: None,
            parent: (!parent.retired).then_some(parent.id),
            raw_config,
            config: Arc::new(config),
            layers: parent.layers.iter().copied().chain(layer).collect(),
            last_tagged: None,
            retired: false,
        };
        let names: Vec<_> = options.reference.into_iter().map(|name| (name, None)).collect();
        self.admit(record, &names, owner).await?;
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }

    /// An image's row, also of one that only a container still needs.
    pub(crate) async fn record(&self, id: &ImageId) -> Result<Record, ImageError> {
        let wanted = id.clone();
        let found = self.0.store.read(move |c| rows::find(c, &wanted)).await?;
        found.ok_or_else(|| ImageError::NotFound(id.to_string()))
    }
}

/// Keeps a tar compressed; its own digest is that of the tar. Blocking.
pub(crate) fn spool(
    mut tar: impl Read,
    content: &ContentStore,
) -> Result<(Finished, Digest), ImageError> {
    let expected = Expected::at_most(limits::ARCHIVE_BYTES);
    let ingest = content.ingest_blocking(IngestKey::unique("commit")?, expected)?;
    let mut packed = DigestWriter::new(GzEncoder::new(ingest, Compression::default()));
    io::copy(&mut tar, &mut packed).map_err(unwrap)?;
    let (packed, diff_id, _) = packed.finish();
    let ingest = packed.finish().map_err(unwrap)?;
    Ok((ingest.finish()?, diff_id))
}

/// The content store's own error out of what a writer makes of it.
fn unwrap(error: io::Error) -> ImageError {
    match error.downcast::<ContentError>() {
        Ok(error) => error.into(),
        Err(error) => ArchiveError::Read(error).into(),
    }
}
