//! What a registrar is told of our images, and what is taken over from it.
//!
//! Each image that has a row has at least one name there: its tags, else its names by digest, else
//! one of its own that nobody can type ([`nameless`]). Names that others make, move and take away
//! are followed: an image that they name comes here and is unpacked, and one whose name they take
//! away goes, unless a container uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use pouch_registry::document::{INDEX_DEPTH, parse_content, select};
use pouch_registry::{Content, Manifest, Wanted};
use pouch_types::{Classified as _, Digest, ErrorKind, ImageId, ImageRef};

use crate::Images;
use crate::config::ImageConfig;
use crate::error::ImageError;
use crate::image::{Image, Layer, Owner, Reference};
use crate::layers::LayerError;
use crate::limits;
use crate::policy::Unsigned;
use crate::registrar::{Maker, Named, Published, Registrar};
use crate::remove::{Plan, RemoveOptions};
use crate::rows::Record;
use crate::unpack::{Teller, packing};

/// The name of an image that has no other.
fn nameless(id: &Digest) -> String {
    format!("<none>@{id}")
}

/// The names by which an image with these references is to be known.
fn wanted(id: &Digest, references: &[Reference]) -> BTreeSet<String> {
    let (digests, tags): (Vec<_>, Vec<_>) =
        references.iter().partition(|reference| reference.name.digest().is_some());
    let chosen = if tags.is_empty() { digests } else { tags };
    if chosen.is_empty() {
        return BTreeSet::from([nameless(id)]);
    }
    chosen.into_iter().map(|reference| reference.name.to_string()).collect()
}

/// The reference that a name in the registrar is, spelled out as all of them are there.
fn full_name(text: &str) -> Option<ImageRef> {
    text.parse::<ImageRef>().ok().filter(|name| name.to_string() == text)
}

fn failed(doing: &'static str) -> impl FnOnce(LayerError) -> ImageError {
    move |source| ImageError::Registrar(doing, source)
}

/// Names before and after a change.
#[derive(Debug, Default)]
pub(crate) struct Renaming {
    /// What other images are to be known by, because they lose names.
    others: Vec<(Digest, BTreeSet<String>)>,
    /// What the image itself is to be known by.
    own: BTreeSet<String>,
    /// Names that nothing has afterwards.
    pub(crate) stale: Vec<String>,
}

impl Images {
    /// What pointing `added` to the image `id` changes.
    pub(crate) fn renaming(&self, id: &Digest, added: &[Reference]) -> Renaming {
        let catalog = self.catalog();
        let is_added = |name: &ImageRef| added.iter().any(|reference| reference.name == *name);
        let losers: BTreeSet<Digest> = added
            .iter()
            .filter_map(|reference| catalog.reference(&reference.name))
            .map(|reference| reference.image)
            .filter(|image| image != id)
            .collect();
        let mut renaming = Renaming::default();
        for loser in losers {
            let mut rest = catalog.names(&loser);
            rest.retain(|reference| !is_added(&reference.name));
            renaming.others.push((loser, wanted(&loser, &rest)));
        }
        let before = catalog.names(id);
        let mut after = before.clone();
        after.retain(|reference| !is_added(&reference.name));
        after.extend(added.iter().cloned());
        renaming.own = wanted(id, &after);
        let known = catalog.get(id).is_some();
        renaming.stale = wanted(id, &before)
            .into_iter()
            .filter(|name| known && !renaming.own.contains(name))
            .collect();
        renaming
    }

    /// Tells the registrar of names that are about to be: first those of images that lose some.
    pub(crate) async fn publish_renaming(
        &self,
        registrar: &Arc<dyn Registrar>,
        renaming: &Renaming,
        image: &Image,
        raw_config: &Bytes,
    ) -> Result<(), ImageError> {
        for (id, names) in &renaming.others {
            let Some(loser) = self.get(&ImageId(*id)) else { continue };
            self.publish(registrar, &loser, names.clone()).await?;
        }
        let published = self.published(image, raw_config.clone(), renaming.own.clone()).await?;
        registrar.publish(&published).await.map_err(failed("name the image"))
    }

    /// Gives an image that has rows names in the registrar.
    async fn publish(
        &self,
        registrar: &Arc<dyn Registrar>,
        image: &Image,
        names: BTreeSet<String>,
    ) -> Result<(), ImageError> {
        let raw_config = self.raw_config(&image.id).await?;
        let published = self.published(image, raw_config, names).await?;
        registrar.publish(&published).await.map_err(failed("name the image"))
    }

    async fn published(
        &self,
        image: &Image,
        config: Bytes,
        names: BTreeSet<String>,
    ) -> Result<Published, ImageError> {
        let manifest = self.manifest_of(image, &config).await?;
        Ok(Published {
            names: names.into_iter().collect(),
            media_type: crate::save::media_type(&manifest),
            manifest,
            config,
            blobs: image.layers.iter().map(|layer| layer.blob).collect(),
            chain: image.diff_ids().copied().collect(),
        })
    }

    /// Takes names away that nothing has any more. What fails is made up for when the two sides are
    /// compared.
    pub(crate) async fn withdraw(&self, names: Vec<String>) {
        if let Some(registrar) = &self.0.registrar
            && !names.is_empty()
            && let Err(error) = registrar.withdraw(&names).await
        {
            tracing::warn!(?names, %error, "names of images stay in containerd for now");
        }
    }

    /// After a removal: says how the images that stay are known, and takes the other names away.
    pub(crate) async fn follow_removal(&self, before: BTreeMap<Digest, BTreeSet<String>>) {
        let Some(registrar) = &self.0.registrar else { return };
        let mut stale = Vec::new();
        for (id, names) in before {
            let (after, known) = {
                let catalog = self.catalog();
                let known = catalog.get(&id).is_some() || catalog.is_retired(&id);
                (wanted(&id, &catalog.names(&id)), known)
            };
            if !known {
                stale.extend(names);
                continue;
            }
            if !after.is_subset(&names)
                && let Err(error) = self.publish_again(registrar, &id, after.clone()).await
            {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(image = %id, error, "an image without names is not held");
            }
            stale.extend(names.into_iter().filter(|name| !after.contains(name)));
        }
        self.withdraw(stale).await;
    }

    /// By its row, since a retired image is in no list.
    async fn publish_again(
        &self,
        registrar: &Arc<dyn Registrar>,
        id: &Digest,
        names: BTreeSet<String>,
    ) -> Result<(), ImageError> {
        let record = self.record(&ImageId(*id)).await?;
        let raw_config = record.raw_config.clone();
        let published = self.published(&record.into_image(), raw_config, names).await?;
        registrar.publish(&published).await.map_err(failed("name the image"))
    }

    /// How images are known now, to compare with after a change.
    pub(crate) fn known_as<'a>(
        &self,
        ids: impl Iterator<Item = &'a Digest>,
    ) -> BTreeMap<Digest, BTreeSet<String>> {
        let catalog = self.catalog();
        ids.map(|id| (*id, wanted(id, &catalog.names(id)))).collect()
    }

    /// Compares all names with the registrar's: what others did meanwhile is followed, and what we
    /// could not tell is told. Without a registrar there is nothing to compare. An image that
    /// cannot be taken over is left out, with a word in the log.
    ///
    /// # Errors
    /// When the registrar's names cannot be listed. Then nothing is changed.
    pub async fn compare(&self) -> Result<(), ImageError> {
        let Some(registrar) = &self.0.registrar else { return Ok(()) };
        let listed = registrar.list().await.map_err(failed("list the images"))?;
        let known = {
            // Whoever names an image there has its row in before this is had.
            let _change = self.0.change.lock().await;
            let ids = self.catalog().ids();
            self.known_as(ids.iter())
        };
        let holder: BTreeMap<&String, &Digest> =
            known.iter().flat_map(|(id, names)| names.iter().map(move |n| (n, id))).collect();
        for named in &listed {
            match (named.maker, holder.get(&named.name)) {
                (Maker::Us, Some(_)) => {}
                (Maker::Us, None) => self.withdraw_unless_used(&named.name).await,
                (Maker::Others, _) => self.follow_named(named).await,
            }
        }
        let there: BTreeSet<&String> = listed.iter().map(|named| &named.name).collect();
        for (name, id) in holder.iter().filter(|(name, _)| !there.contains(**name)) {
            if **name == nameless(id) {
                self.hold_nameless(registrar, id, name).await;
            } else {
                // Looked up once more: it may have come since the list was made.
                self.follow(name).await?;
            }
        }
        Ok(())
    }

    /// Takes away a name of ours that had no row a moment ago.
    async fn withdraw_unless_used(&self, name: &str) {
        let _change = self.0.change.lock().await;
        let ids = self.catalog().ids();
        let known = self.known_as(ids.iter());
        if !known.values().any(|names| names.contains(name)) {
            self.withdraw(vec![name.to_owned()]).await;
        }
    }

    /// An image without names that the registrar does not know: a crash came between.
    async fn hold_nameless(&self, registrar: &Arc<dyn Registrar>, id: &Digest, name: &str) {
        let names = BTreeSet::from([name.to_owned()]);
        if let Err(error) = self.publish_again(registrar, id, names).await {
            let error = pouch_types::error::chain(&error);
            tracing::warn!(image = %id, error, "an image without names is not held");
        }
    }

    /// A name that somebody else made, moved or took away in the registrar.
    ///
    /// # Errors
    /// The registrar's, and the database's.
    pub async fn follow(&self, name: &str) -> Result<(), ImageError> {
        let Some(registrar) = &self.0.registrar else { return Ok(()) };
        match registrar.look_up(name).await.map_err(failed("look an image up"))? {
            None => self.lose(name).await,
            Some(named) if named.maker == Maker::Us => Ok(()),
            Some(named) => {
                self.follow_named(&named).await;
                Ok(())
            }
        }
    }

    /// Whether a name means anything here.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        full_name(name).is_some_and(|name| self.catalog().reference(&name).is_some())
    }

    async fn follow_named(&self, named: &Named) {
        // What is no full name of an image means nothing here: CRI names images by their ids too,
        // and what is short there would be another name here.
        let Some(name) = full_name(&named.name) else { return };
        {
            let catalog = self.catalog();
            if let Some(known) = catalog.reference(&name)
                && let Some(image) = catalog.get(&known.image)
                && [known.manifest, image.manifest].contains(&Some(named.target))
            {
                return;
            }
        }
        match self.adopt(&name, named).await {
            Ok(()) => tracing::info!(image = named.name, "took over an image from containerd"),
            Err(error) => {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(image = named.name, error, "an image in containerd is of no use");
            }
        }
    }

    /// Takes over what somebody else named.
    async fn adopt(&self, name: &ImageRef, named: &Named) -> Result<(), ImageError> {
        let Some(registrar) = &self.0.registrar else { return Ok(()) };
        self.policy().on_unsigned(Unsigned::OciArchive).map_err(Box::new)?;
        let pinned = self.pin([]).await?;
        let adopted = async {
            let (digest, manifest) = self.manifest_behind(named).await?;
            let raw_config = self.0.content.read(&manifest.config.digest, limits::CONFIG_BYTES);
            let raw_config = raw_config.await?;
            let config = ImageConfig::parse(&raw_config)?;
            let chain = config.rootfs.diff_ids.clone();
            if chain.len() != manifest.layers.len() {
                let (blobs, diff_ids) = (manifest.layers.len(), chain.len());
                return Err(ImageError::LayerCount { blobs, diff_ids });
            }
            let mut layers = Vec::new();
            for (at, blob) in manifest.layers.iter().enumerate() {
                let (blob, size) = (blob.digest, blob.size);
                let unpacked = self.unpack(&blob, &chain[..=at], Teller::new(|_| {})).await?;
                layers.push(Layer {
                    diff_id: chain[at],
                    size: unpacked.size,
                    blob,
                    blob_size: size,
                    packing: packing(&self.0.content, &blob).await?,
                });
            }
            let id = ImageId(Digest::of(&raw_config));
            registrar.tie(&id, &chain).await.map_err(failed("tie the layers to the image"))?;
            let record = Record {
                id,
                manifest: Some(digest),
                parent: None,
                raw_config,
                config: Arc::new(config),
                layers: layers.into(),
                last_tagged: None,
                retired: false,
            };
            let names = [(name.clone(), Some(named.target))];
            self.admit_named(record, &names, Owner::Docker, Maker::Others).await
        }
        .await;
        pinned.release();
        adopted
    }

    /// The manifest for this machine that a name leads to.
    async fn manifest_behind(&self, named: &Named) -> Result<(Digest, Manifest), ImageError> {
        let wrong = |source| ImageError::Manifest { image: named.name.clone(), source };
        let (mut digest, mut media_type) = (named.target, named.media_type.clone());
        for _ in 0..INDEX_DEPTH {
            let raw = self.0.content.read(&digest, limits::MANIFEST_BYTES).await?;
            match parse_content(&raw, &media_type).map_err(wrong)? {
                Content::Manifest(manifest) => return Ok((digest, manifest)),
                Content::Index(entries) => {
                    let chosen = select(&entries, &Wanted::Host);
                    let chosen = chosen.ok_or_else(|| ImageError::Platform {
                        reference: named.name.clone(),
                        wanted: "this machine's".to_owned(),
                        actual: "others".to_owned(),
                    })?;
                    digest = chosen.digest;
                    media_type.clone_from(&chosen.media_type);
                }
            }
        }
        Err(wrong(pouch_registry::DocumentError::Neither))
    }

    /// Somebody else took a name away.
    async fn lose(&self, name: &str) -> Result<(), ImageError> {
        let Some(name) = full_name(name) else { return Ok(()) };
        let change = self.0.change.lock().await;
        let (plan, id) = {
            let catalog = self.catalog();
            let Some(lost) = catalog.reference(&name).cloned() else { return Ok(()) };
            let id = lost.image;
            let same =
                |other: &ImageRef| other.domain() == name.domain() && other.path() == name.path();
            let names = catalog.names(&id);
            let tagged = names.iter().any(|other| {
                other.name != name && same(&other.name) && other.name.digest().is_none()
            });
            // With the last tag of a repository its digests go, as at a removal by us.
            let goes = |other: &Reference| {
                other.name == name
                    || (!tagged && same(&other.name) && other.name.digest().is_some())
            };
            let (gone, rest): (Vec<_>, Vec<_>) = names.into_iter().partition(goes);
            let images = match catalog.get(&id) {
                Some(image) if rest.is_empty() => vec![Arc::clone(image)],
                _ => Vec::new(),
            };
            let references = gone
                .into_iter()
                .map(|reference| Reference { owners: Default::default(), ..reference })
                .collect();
            (Plan { references, images, removed: Vec::new() }, id)
        };
        let forced = RemoveOptions { force: true, ..RemoveOptions::default() };
        self.carry_out(plan, forced).await?;
        drop(change);
        tracing::info!(image = %name.familiar(), %id, "an image was removed in containerd");
        Ok(())
    }

    /// Unpacks an image's layers once more where they are gone: another snapshotter is in use, or
    /// somebody removed them.
    ///
    /// # Errors
    /// When their blobs are gone too.
    pub async fn unpack_again(&self, image: &Image) -> Result<(), ImageError> {
        let Some(registrar) = &self.0.registrar else { return Ok(()) };
        let pinned = self.pin(image.layers.iter().map(|layer| layer.blob)).await?;
        let chain: Vec<Digest> = image.diff_ids().copied().collect();
        let unpacked = async {
            for (at, layer) in image.layers.iter().enumerate() {
                self.unpack(&layer.blob, &chain[..=at], Teller::new(|_| {})).await?;
            }
            registrar.tie(&image.id, &chain).await.map_err(failed("tie the layers to the image"))
        }
        .await;
        pinned.release();
        match unpacked {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(ImageError::Incomplete {
                image: image.id.short().to_owned(),
                source: Box::new(error),
            }),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::name;

    #[test]
    fn an_image_is_known_by_tags_else_digests_else_by_itself() {
        let id = Digest::of(&1u64.to_le_bytes());
        let tag = name("busybox", 1);
        let digest = Reference { name: tag.name.with_digest(id), ..tag.clone() };
        let both = wanted(&id, &[tag.clone(), digest.clone()]);
        assert_eq!(both, BTreeSet::from(["docker.io/library/busybox:latest".to_owned()]));
        let one = wanted(&id, &[digest]);
        assert_eq!(one, BTreeSet::from([format!("docker.io/library/busybox@{id}")]));
        assert_eq!(wanted(&id, &[]), BTreeSet::from([nameless(&id)]));
        assert!(nameless(&id).parse::<ImageRef>().is_err(), "nobody can type it");
        assert!(full_name("docker.io/library/busybox:latest").is_some());
        for other in ["busybox:latest", "docker.io/library/busybox", &id.to_string(), "<none>@x"] {
            assert!(full_name(other).is_none(), "{other}");
        }
    }
}
