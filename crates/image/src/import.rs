//! `docker import`: one tar of a root file system becomes an image of one layer.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use pouch_content::{BlobInfo, Finished};
use pouch_registry::Platform;
use pouch_types::{Digest, DigestWriter, ImageId, ImageRef};

use crate::Images;
use crate::archive::{ArchiveError, Compression, decompress, peek, spool};
use crate::changes::Changes;
use crate::config::{ConfigError, History, ImageConfig, RootFs};
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner};
use crate::limits;
use crate::load::on_thread;
use crate::policy::Unsigned;
use crate::rows::Record;
use crate::unpack::{Teller, packing};

/// What the imported image is like.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its name; without one it is known by its id only.
    pub reference: Option<ImageRef>,
    /// Applied to an empty configuration.
    pub changes: Changes,
    /// Comment of its only history entry.
    pub message: String,
    /// For which machine; `None` is this one.
    pub platform: Option<Platform>,
}

impl Images {
    /// Makes an image of a root file system in a tar, plain or compressed (gzip, zstd, xz, bzip2).
    ///
    /// # Errors
    /// The policy's refusal, a tar that is damaged or hostile, a name with a digest, I/O.
    pub async fn import<S>(
        &self,
        input: S,
        options: ImportOptions,
        owner: Owner,
    ) -> Result<Arc<Image>, ImageError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        if options.reference.as_ref().is_some_and(|name| name.digest().is_some()) {
            return Err(ImageError::TagWithDigest);
        }
        self.policy().on_unsigned(Unsigned::Tarball).map_err(Box::new)?;
        let content = self.0.content.clone();
        let (file, diff_id) = on_thread(input, move |reader| {
            let (compression, reader) = peek(reader).map_err(ArchiveError::Read)?;
            // What the layer store unpacks is kept as it came; anything else is unfolded first.
            let file = match compression {
                Compression::Xz | Compression::Bzip2 => {
                    spool(&mut decompress(reader).map_err(ArchiveError::Read)?, &content)?
                }
                Compression::None | Compression::Gzip | Compression::Zstd => {
                    spool(&mut { reader }, &content)?
                }
            };
            let diff_id = diff_id(&file)?;
            Ok((file, diff_id))
        })
        .await?;
        let blob = file.info();
        let pinned = self.pin([blob.digest, diff_id]).await?;
        tokio::task::spawn_blocking(move || file.commit())
            .await
            .map_err(|_| ImageError::Worker)??;
        let admitted = self.import_blob(blob, diff_id, options, owner).await;
        pinned.release();
        if admitted.is_err() {
            // Nothing refers to it, unless it was here before.
            self.sweep([blob.digest, diff_id]).await;
        }
        admitted
    }

    async fn import_blob(
        &self,
        blob: BlobInfo,
        diff_id: Digest,
        options: ImportOptions,
        owner: Owner,
    ) -> Result<Arc<Image>, ImageError> {
        let unpacked = self.unpack(&blob.digest, &[diff_id], Teller::new(|_| {})).await?;
        let layer = Layer {
            diff_id,
            size: unpacked.size,
            blob: blob.digest,
            blob_size: blob.size,
            packing: packing(&self.0.content, &blob.digest).await?,
        };
        let config = configuration(&options, diff_id);
        let raw_config = serde_json::to_vec(&config).map_err(ConfigError::Json)?;
        let id = ImageId(Digest::of(&raw_config));
        let record = Record {
            id: id.clone(),
            manifest: None,
            parent: None,
            raw_config: raw_config.into(),
            config: Arc::new(config),
            layers: [layer].into(),
            last_tagged: None,
            retired: false,
        };
        let names: Vec<_> = options.reference.into_iter().map(|name| (name, None)).collect();
        self.admit(record, &names, owner).await?;
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }
}

/// The digest of the uncompressed bytes. Blocking.
fn diff_id(file: &Finished) -> Result<Digest, ImageError> {
    let plain = decompress(file.reopen()?).map_err(ArchiveError::Read)?;
    let mut hashed = DigestWriter::new(io::sink());
    let bytes = io::copy(&mut plain.take(limits::ARCHIVE_BYTES), &mut hashed)
        .map_err(ArchiveError::Read)?;
    if bytes == limits::ARCHIVE_BYTES {
        return Err(ArchiveError::TooLarge { limit: limits::ARCHIVE_BYTES }.into());
    }
    Ok(hashed.finish().1)
}

fn configuration(options: &ImportOptions, diff_id: Digest) -> ImageConfig {
    let platform =
        options.platform.clone().unwrap_or_else(|| Platform { variant: None, ..Platform::host() });
    let now = Timestamp::now().to_string();
    let mut config = ImageConfig {
        created: Some(now.clone()),
        architecture: platform.architecture,
        variant: platform.variant,
        os: platform.os,
        comment: options.message.clone(),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
        history: vec![History {
            created: Some(now),
            comment: options.message.clone(),
            ..History::default()
        }],
        ..ImageConfig::default()
    };
    options.changes.apply(&mut config.config);
    config
}
