//! `docker save`: one tar that is both a Docker archive and an OCI layout, over the same blobs.
//! Every Docker since 1.10, skopeo, podman and containerd load it.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use pouch_content::{ContentError, ContentStore};
use pouch_registry::document::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use pouch_registry::{Descriptor, Manifest};
use pouch_types::{Digest, ImageRef};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::Images;
use crate::config::ConfigError;
use crate::error::ImageError;
use crate::image::Image;
use crate::limits;
use crate::pins::Pinned;

/// Bytes of one chunk of the stream.
const CHUNK: usize = 1 << 18;
/// Chunks that wait for the client.
const QUEUE: usize = 4;

/// A tar being made. Dropping it stops the work.
#[derive(Debug)]
pub struct SaveStream {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    /// The blobs stay until the last byte is out.
    _pinned: Pinned,
}

impl Stream for SaveStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_recv(cx)
    }
}

/// One image to write.
#[derive(Debug)]
struct Item {
    image: Arc<Image>,
    tags: Vec<ImageRef>,
    raw_config: Bytes,
    manifest: Bytes,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciManifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OciIndex<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<IndexEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IndexEntry {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

impl Images {
    /// Writes images into one tar. A name gives the image that one tag, an id none; several names
    /// of one image are put together.
    ///
    /// # Errors
    /// As [`Images::resolve`], the database. A failure after that ends the stream with an error.
    pub async fn save(&self, names: &[String]) -> Result<SaveStream, ImageError> {
        let mut chosen: Vec<(Arc<Image>, Vec<ImageRef>)> = Vec::new();
        for name in names {
            let (image, tag) = {
                let catalog = self.catalog();
                let (image, reference) = catalog.resolve(name)?;
                let tag = reference.map(|r| r.name.clone()).filter(|n| n.digest().is_none());
                (image, tag)
            };
            match chosen.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, tags)) => tags.extend(tag.filter(|tag| !tags.contains(tag))),
                None => chosen.push((image, tag.into_iter().collect())),
            }
        }
        let wanted: Vec<Digest> = chosen
            .iter()
            .flat_map(|(image, _)| {
                image.layers.iter().map(|layer| layer.blob).chain(image.manifest)
            })
            .collect();
        let pinned = self.0.pins.pin(wanted).await;
        let mut items = Vec::new();
        for (image, tags) in chosen {
            let raw_config = self.raw_config(&image.id).await?;
            let manifest = self.manifest_of(&image, &raw_config).await?;
            for layer in image.layers.iter() {
                // Said before the first byte: a stream that breaks off says nothing.
                if !self.0.content.exists(&layer.blob).await? {
                    let source = Box::new(ContentError::NotFound(layer.blob).into());
                    let image = image.id.short().to_owned();
                    return Err(ImageError::Incomplete { image, source });
                }
            }
            items.push(Item { image, tags, raw_config, manifest });
        }
        let (sender, chunks) = mpsc::channel(QUEUE);
        let content = self.0.content.clone();
        tokio::task::spawn_blocking(move || {
            let writer = ChannelWriter { chunks: sender.clone(), buffer: Vec::new() };
            if let Err(error) = write(writer, &content, &items) {
                // When the client is gone there is nobody to tell.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(SaveStream { chunks, _pinned: pinned })
    }

    /// The manifest that an image came with, if it still describes the blobs that are here; else
    /// one of ours.
    pub(crate) async fn manifest_of(
        &self,
        image: &Image,
        raw_config: &Bytes,
    ) -> Result<Bytes, ImageError> {
        match self.manifest_it_came_with(image).await? {
            Some(raw) => Ok(raw),
            None => manifest_of_ours(image, raw_config),
        }
    }

    /// The manifest that an image came with, if it still describes the blobs that are here.
    pub(crate) async fn manifest_it_came_with(
        &self,
        image: &Image,
    ) -> Result<Option<Bytes>, ImageError> {
        let Some(digest) = &image.manifest else { return Ok(None) };
        let raw = self.0.content.read(digest, limits::MANIFEST_BYTES).await?;
        let blobs = image.layers.iter().map(|layer| layer.blob);
        let same = Manifest::parse(&raw)
            .is_ok_and(|m| m.layers.iter().map(|layer| layer.digest).eq(blobs));
        Ok(same.then_some(raw))
    }
}

/// A manifest for the blobs of an image as they are here.
pub(crate) fn manifest_of_ours(image: &Image, raw_config: &Bytes) -> Result<Bytes, ImageError> {
    let manifest = OciManifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: Descriptor {
            media_type: OCI_CONFIG.to_owned(),
            digest: image.id.0,
            size: raw_config.len() as u64,
            platform: None,
        },
        layers: image
            .layers
            .iter()
            .map(|layer| Descriptor {
                media_type: layer.packing.media_type().to_owned(),
                digest: layer.blob,
                size: layer.blob_size,
                platform: None,
            })
            .collect(),
    };
    Ok(serde_json::to_vec(&manifest).map_err(ConfigError::Json)?.into())
}

/// Collects what a tar builder writes into chunks for an async reader.
struct ChannelWriter {
    chunks: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for ChannelWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::take(&mut self.buffer);
        self.chunks.blocking_send(Ok(chunk.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn write(writer: ChannelWriter, content: &ContentStore, items: &[Item]) -> io::Result<()> {
    let mut tar = tar::Builder::new(writer);
    for directory in ["blobs/", "blobs/sha256/"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        tar.append_data(&mut header, directory, io::empty())?;
    }
    let mut written = HashSet::new();
    let (mut docker, mut index) = (Vec::new(), Vec::new());
    for item in items {
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        for layer in item.image.layers.iter() {
            if written.insert(layer.blob) {
                let (file, info) = content.open_blocking(&layer.blob).map_err(io::Error::other)?;
                append(&mut tar, &path(&layer.blob), info.size, file)?;
            }
        }
        let manifest = Digest::of(&item.manifest);
        for (digest, bytes) in [(item.image.id.0, &item.raw_config), (manifest, &item.manifest)] {
            if written.insert(digest) {
                append(&mut tar, &path(&digest), bytes.len() as u64, &bytes[..])?;
            }
        }
        docker.push(DockerEntry {
            config: path(&item.image.id.0),
            repo_tags: item.tags.iter().map(ImageRef::familiar).collect(),
            layers: item.image.layers.iter().map(|layer| path(&layer.blob)).collect(),
        });
        let entry = |annotations| IndexEntry {
            media_type: media_type(&item.manifest),
            digest: manifest,
            size: item.manifest.len() as u64,
            annotations,
        };
        if item.tags.is_empty() {
            index.push(entry(BTreeMap::new()));
        }
        index.extend(item.tags.iter().map(|name| {
            entry(BTreeMap::from([
                ("io.containerd.image.name", name.to_string()),
                ("org.opencontainers.image.ref.name", name.tag().unwrap_or_default().to_owned()),
            ]))
        }));
    }
    let index = OciIndex { schema_version: 2, media_type: OCI_INDEX, manifests: index };
    let documents = [
        ("index.json", serde_json::to_vec(&index)?),
        ("manifest.json", serde_json::to_vec(&docker)?),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ];
    for (name, bytes) in documents {
        append(&mut tar, name, bytes.len() as u64, &bytes[..])?;
    }
    tar.into_inner()?.flush()
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    data: impl Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(size);
    tar.append_data(&mut header, name, data.take(size))
}

/// The media type of a manifest, as it says itself.
pub(crate) fn media_type(manifest: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    serde_json::from_slice::<Typed>(manifest)
        .ok()
        .and_then(|typed| typed.media_type)
        .unwrap_or_else(|| OCI_MANIFEST.to_owned())
}
