//! `docker load`: archives of `docker save` (new and old), skopeo and podman, and OCI layouts.
//!
//! The archive is first read as a whole into unnamed ingests, because its table of contents may
//! come last; then each image it lists is checked, its layers are unpacked, and it is admitted.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use pouch_content::BlobInfo;
use pouch_registry::document::{Content, parse_content};
use pouch_registry::{Descriptor, Manifest, Wanted};
use pouch_types::{Digest, ImageId, ImageRef, failpoint};
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::Images;
use crate::archive::{Archive, ArchiveError, ChannelReader};
use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner, Packing};
use crate::limits;
use crate::policy::Unsigned;
use crate::progress::{Event, LayerState, Loaded, Progress};
use crate::rows::Record;
use crate::sweep::Collect;
use crate::unpack::Teller;

const CONTAINERD_NAME: &str = "io.containerd.image.name";
const OCI_NAME: &str = "org.opencontainers.image.ref.name";

/// One image that an archive lists.
#[derive(Debug)]
struct Listed {
    raw_config: Bytes,
    config: ImageConfig,
    /// Name in the archive, digest, packing; bottom first.
    layers: Vec<(String, BlobInfo, Packing)>,
    manifest: Option<Bytes>,
    names: Vec<ImageRef>,
}

/// An entry of Docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// The top of an OCI layout.
#[derive(Deserialize)]
struct LayoutIndex {
    manifests: Vec<LayoutEntry>,
}

#[derive(Deserialize)]
struct LayoutEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    annotations: Option<BTreeMap<String, String>>,
}

impl Images {
    /// Loads every image of an archive, plain or compressed (gzip, zstd, xz, bzip2).
    ///
    /// # Errors
    /// As [`Images::load_for`].
    pub async fn load<S>(
        &self,
        input: S,
        owner: Owner,
        progress: &Progress,
    ) -> Result<Vec<Arc<Image>>, ImageError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        self.load_for(Wanted::Host, input, owner, progress).await
    }

    /// Loads the images of an archive that are for a machine. Without a choice, one for another
    /// machine than this is taken too.
    ///
    /// # Errors
    /// The policy's refusal, [`ImageError::Platform`] when no image is for the machine that was
    /// chosen, an archive that is damaged or hostile, a layer that cannot be unpacked, I/O. Images
    /// that came before the failure stay.
    pub async fn load_for<S>(
        &self,
        wanted: Wanted,
        input: S,
        owner: Owner,
        progress: &Progress,
    ) -> Result<Vec<Arc<Image>>, ImageError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    {
        let content = self.0.content.clone();
        let policy = self.policy();
        let (mut archive, listed) = on_thread(input, move |reader| {
            let archive = Archive::read(reader, &content)?;
            let (format, listed) = list(&archive, &wanted)?;
            policy.on_unsigned(format).map_err(Box::new)?;
            Ok((archive, chosen(listed, &wanted)?))
        })
        .await?;
        failpoint::hit("load:spooled");
        let mut loaded = Vec::new();
        for one in listed {
            let names = one.names.clone();
            let image = match self.load_one(&mut archive, one, owner, progress).await {
                Ok(image) => image,
                Err(error) => {
                    // The client has it all: unlike a download, nothing is worth keeping.
                    if let Err(error) = self.collect(Collect::Everything).await {
                        tracing::warn!(%error, "what a failed load left is collected later");
                    }
                    return Err(error);
                }
            };
            for name in &names {
                progress.send(Event::Loaded(Loaded::Name(name.familiar()))).await;
            }
            if names.is_empty() {
                progress.send(Event::Loaded(Loaded::Id(image.id.to_string()))).await;
            }
            loaded.push(image);
        }
        // Files that nothing refers to are deleted with it.
        tokio::task::spawn_blocking(move || drop(archive)).await.map_err(|_| ImageError::Worker)?;
        Ok(loaded)
    }

    async fn load_one(
        &self,
        archive: &mut Archive,
        listed: Listed,
        owner: Owner,
        progress: &Progress,
    ) -> Result<Arc<Image>, ImageError> {
        let diff_ids = &listed.config.rootfs.diff_ids;
        let manifest = listed.manifest.as_deref().map(Digest::of);
        // An image without a manifest is not bound to blobs: those that are here will do.
        let known: HashMap<Digest, Layer> = if manifest.is_none() {
            let catalog = self.catalog();
            diff_ids.iter().filter_map(|d| Some((*d, catalog.layer(d)?))).collect()
        } else {
            HashMap::new()
        };
        let wanted = diff_ids
            .iter()
            .copied()
            .chain(listed.layers.iter().map(|(_, blob, _)| blob.digest))
            .chain(known.values().map(|layer| layer.blob))
            .chain(manifest);
        let pinned = self.pin(wanted).await?;
        let loaded = self.load_pinned(archive, listed, &known, owner, progress).await;
        // The client has it all: a second attempt needs nothing of a failed one.
        pinned.release();
        loaded
    }

    async fn load_pinned(
        &self,
        archive: &mut Archive,
        listed: Listed,
        known: &HashMap<Digest, Layer>,
        owner: Owner,
        progress: &Progress,
    ) -> Result<Arc<Image>, ImageError> {
        let diff_ids = &listed.config.rootfs.diff_ids;
        let manifest = listed.manifest.as_deref().map(Digest::of);
        let mut layers = Vec::new();
        for (at, (diff_id, (name, blob, packing))) in
            diff_ids.iter().zip(&listed.layers).enumerate()
        {
            let chain = &diff_ids[..=at];
            if let Some(layer) = known.get(diff_id)
                && self.catalog().is_needed(&layer.blob)
                && self.0.content.exists(&layer.blob).await?
                && self.layer(chain).await?.is_some()
            {
                layers.push(*layer);
                continue;
            }
            // Another image of this archive may have taken the file already.
            if let Some(file) = archive.take(name) {
                tokio::task::spawn_blocking(move || file.commit())
                    .await
                    .map_err(|_| ImageError::Worker)??;
            }
            let teller = Teller::layer(progress, &diff_id.hex()[..12], LayerState::Loading);
            let unpacked = self.unpack(&blob.digest, chain, teller).await?;
            layers.push(Layer {
                diff_id: *diff_id,
                size: unpacked.size,
                blob: blob.digest,
                blob_size: blob.size,
                packing: *packing,
            });
        }
        if let Some(raw) = listed.manifest {
            self.0.content.put(raw).await?;
        }
        let id = ImageId(Digest::of(&listed.raw_config));
        let record = Record {
            id: id.clone(),
            manifest,
            parent: None,
            raw_config: listed.raw_config,
            config: Arc::new(listed.config),
            layers: layers.into(),
            last_tagged: None,
            retired: false,
        };
        let names: Vec<_> = listed.names.into_iter().map(|name| (name, manifest)).collect();
        self.admit(record, &names, owner).await?;
        self.get(&id).ok_or_else(|| ImageError::NotFound(id.to_string()))
    }
}

/// Feeds an async stream to blocking work.
pub(crate) async fn on_thread<S, T, F>(mut input: S, work: F) -> Result<T, ImageError>
where
    S: Stream<Item = io::Result<Bytes>> + Send + Unpin,
    F: FnOnce(ChannelReader) -> Result<T, ImageError> + Send + 'static,
    T: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    let mut worker = tokio::task::spawn_blocking(move || work(ChannelReader::new(receiver)));
    let idle = Duration::from_secs(limits::INPUT_IDLE_SECONDS);
    loop {
        let next = match tokio::time::timeout(idle, input.next()).await {
            Ok(next) => next,
            Err(_) => Some(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client sent nothing for too long",
            ))),
        };
        match next {
            Some(Ok(chunk)) => {
                if sender.send(Ok(chunk)).await.is_err() {
                    // The worker is done, well or not; the rest is of no use.
                    break;
                }
            }
            Some(Err(error)) => {
                // The worker sees a broken stream and cleans up; the cause is told here.
                let _ = sender.send(Err(io::ErrorKind::BrokenPipe.into())).await;
                drop(sender);
                let _ = worker.await;
                return Err(ImageError::Input(error));
            }
            None => {
                drop(sender);
                break;
            }
        }
    }
    (&mut worker).await.map_err(|_| ImageError::Worker)?
}

fn list(archive: &Archive, wanted: &Wanted) -> Result<(Unsigned, Vec<Listed>), ImageError> {
    let docker = archive.document("manifest.json", limits::MANIFEST_BYTES)?;
    let layout = archive.document("index.json", limits::MANIFEST_BYTES)?;
    match (docker, layout) {
        (Some(docker), layout) => {
            Ok((Unsigned::DockerArchive, list_docker(archive, &docker, layout.as_deref(), wanted)?))
        }
        (None, Some(layout)) => Ok((Unsigned::OciArchive, list_layout(archive, &layout, wanted)?)),
        (None, None) => Err(ArchiveError::NoImages.into()),
    }
}

/// Those of the images that are for the machine that was chosen.
fn chosen(mut listed: Vec<Listed>, wanted: &Wanted) -> Result<Vec<Listed>, ImageError> {
    let Wanted::Exactly(platform) = wanted else { return Ok(listed) };
    let mut refused = None;
    listed.retain(|one| {
        let name = one.names.first().map_or_else(|| "of the archive".to_owned(), |n| n.familiar());
        match one.config.check_platform(&name, platform) {
            Ok(()) => true,
            Err(error) => {
                refused = Some(error);
                false
            }
        }
    });
    match refused {
        Some(error) if listed.is_empty() => Err(error),
        _ => Ok(listed),
    }
}

fn json<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(bytes)
        .map_err(|source| ArchiveError::Json { name: name.to_owned(), source })
}

fn list_docker(
    archive: &Archive,
    table: &[u8],
    layout: Option<&[u8]>,
    wanted: &Wanted,
) -> Result<Vec<Listed>, ImageError> {
    let entries: Vec<DockerEntry> = json("manifest.json", table)?;
    check_count("images", entries.len())?;
    // A new archive has both tables; the second one keeps the manifests.
    let manifests = layout.map_or_else(Vec::new, |layout| {
        list_layout(archive, layout, wanted).unwrap_or_else(|error| {
            tracing::debug!(%error, "index.json beside manifest.json is of no use");
            Vec::new()
        })
    });
    let mut listed = Vec::new();
    for entry in entries {
        let raw_config = archive
            .document(&entry.config, limits::CONFIG_BYTES)?
            .ok_or_else(|| ArchiveError::Missing(entry.config.clone()))?;
        let tags = entry.repo_tags.unwrap_or_default();
        check_count("names of one image", tags.len())?;
        let names =
            tags.iter().map(|tag| tag.parse::<ImageRef>()).collect::<Result<Vec<_>, _>>()?;
        let paths = entry.layers.unwrap_or_default();
        let mut one = assemble(archive, raw_config, paths, None, names)?;
        let twin = manifests.iter().find(|other| {
            other.raw_config == one.raw_config
                && other.layers.iter().map(|l| l.1).eq(one.layers.iter().map(|l| l.1))
        });
        one.manifest = twin.and_then(|twin| twin.manifest.clone());
        listed.push(one);
    }
    Ok(listed)
}

fn list_layout(
    archive: &Archive,
    table: &[u8],
    wanted: &Wanted,
) -> Result<Vec<Listed>, ImageError> {
    let index: LayoutIndex = json("index.json", table)?;
    check_count("images", index.manifests.len())?;
    let mut listed: Vec<Listed> = Vec::new();
    for entry in index.manifests {
        let mut names = layout_names(entry.annotations.unwrap_or_default())?;
        let Some((raw, manifest)) = layout_manifest(archive, &entry.descriptor, wanted)? else {
            continue;
        };
        let raw_config = blob(archive, &manifest.config.digest, limits::CONFIG_BYTES)?;
        // One entry per tag is how a layout gives an image several names.
        if let Some(known) = listed.iter_mut().find(|known| known.manifest.as_ref() == Some(&raw)) {
            known.names.append(&mut names);
            continue;
        }
        let paths = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let one = assemble(archive, raw_config, paths, Some(raw), names)?;
        for (descriptor, (name, found, _)) in manifest.layers.iter().zip(&one.layers) {
            if descriptor.digest != found.digest {
                return Err(mismatch(name, &descriptor.digest, &found.digest));
            }
        }
        listed.push(one);
    }
    Ok(listed)
}

fn check_count(what: &'static str, count: usize) -> Result<(), ArchiveError> {
    if count > limits::ARCHIVE_IMAGES {
        return Err(ArchiveError::TooMany { what, limit: limits::ARCHIVE_IMAGES });
    }
    Ok(())
}

fn layout_names(annotations: BTreeMap<String, String>) -> Result<Vec<ImageRef>, ImageError> {
    if let Some(name) = annotations.get(CONTAINERD_NAME) {
        return Ok(vec![name.parse()?]);
    }
    match annotations.get(OCI_NAME) {
        // A bare tag names nothing without a repository.
        Some(name) if name.contains(['/', ':']) => Ok(vec![name.parse()?]),
        _ => Ok(Vec::new()),
    }
}

/// The manifest of an entry; of an index the one that is wanted. `None` for what is no
/// image, such as an attestation, and for platforms that are not in the archive.
fn layout_manifest(
    archive: &Archive,
    descriptor: &Descriptor,
    wanted: &Wanted,
) -> Result<Option<(Bytes, Manifest)>, ImageError> {
    if descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown") {
        return Ok(None);
    }
    let mut digest = descriptor.digest;
    let mut media_type = descriptor.media_type.clone();
    for _ in 0..pouch_registry::document::INDEX_DEPTH {
        let raw = blob(archive, &digest, limits::MANIFEST_BYTES)?;
        let content = parse_content(&raw, &media_type).map_err(|why| ArchiveError::Document {
            name: blob_path(&digest),
            why: why.to_string(),
        })?;
        match content {
            Content::Manifest(manifest) => return Ok(Some((raw, manifest))),
            Content::Index(entries) => {
                let present: Vec<Descriptor> = entries
                    .into_iter()
                    .filter(|entry| archive.file(&blob_path(&entry.digest)).is_some())
                    .collect();
                let chosen = pouch_registry::document::select(&present, wanted);
                let Some(chosen) = chosen else { return Ok(None) };
                digest = chosen.digest;
                media_type.clone_from(&chosen.media_type);
            }
        }
    }
    Err(ArchiveError::Document {
        name: blob_path(&digest),
        why: "indexes are nested too deep".to_owned(),
    }
    .into())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn mismatch(name: &str, expected: &Digest, actual: &Digest) -> ImageError {
    let why = format!("digest mismatch: expected {expected}, got {actual}");
    ArchiveError::Document { name: name.to_owned(), why }.into()
}

/// A document of a layout, its digest checked.
fn blob(archive: &Archive, digest: &Digest, cap: u64) -> Result<Bytes, ImageError> {
    let path = blob_path(digest);
    let raw = archive.document(&path, cap)?.ok_or_else(|| ArchiveError::Missing(path.clone()))?;
    let actual = Digest::of(&raw);
    if actual == *digest { Ok(raw) } else { Err(mismatch(&path, digest, &actual)) }
}

fn assemble(
    archive: &Archive,
    raw_config: Bytes,
    paths: Vec<String>,
    manifest: Option<Bytes>,
    names: Vec<ImageRef>,
) -> Result<Listed, ImageError> {
    let config = ImageConfig::parse(&raw_config)?;
    let diff_ids = config.rootfs.diff_ids.len();
    if paths.len() != diff_ids {
        return Err(ImageError::LayerCount { blobs: paths.len(), diff_ids });
    }
    let mut layers = Vec::new();
    for path in paths {
        let file = archive.file(&path).ok_or_else(|| ArchiveError::Missing(path.clone()))?;
        let mut head = Vec::new();
        file.reopen()?.take(8).read_to_end(&mut head).map_err(ArchiveError::Read)?;
        layers.push((path, file.info(), Packing::sniff(&head)));
    }
    Ok(Listed { raw_config, config, layers, manifest, names })
}
