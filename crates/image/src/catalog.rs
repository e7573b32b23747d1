//! All images and names in memory. It mirrors the rows: a change is committed first, then made
//! here, both under the one lock of [`crate::Images`]. Lists, inspects and look-ups read only
//! this.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jiff::Timestamp;
use pouch_types::{Digest, ImageId, ImageRef};

use crate::error::ImageError;
use crate::image::{Image, Layer, Owners, Reference};
use crate::rows::Record;

#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Images with a row that is not retired.
    images: BTreeMap<Digest, Arc<Image>>,
    references: BTreeMap<ImageRef, Reference>,
    /// Digests that each retired image still needs.
    retired: HashMap<Digest, Vec<Digest>>,
    /// How many images, retired ones included, need a layer, blob or manifest.
    needed: HashMap<Digest, usize>,
}

fn digests(layers: &[Layer], manifest: Option<Digest>) -> Vec<Digest> {
    let layers = layers.iter().flat_map(|layer| [layer.diff_id, layer.blob]);
    let mut all: Vec<Digest> = layers.chain(manifest).collect();
    all.sort_unstable();
    all.dedup();
    all
}

impl Catalog {
    pub(crate) fn new(records: Vec<Record>, references: Vec<Reference>) -> Self {
        let mut catalog = Self::default();
        for record in records {
            catalog.insert(record);
        }
        for reference in references {
            catalog.references.insert(reference.name.clone(), reference);
        }
        let ids: Vec<Digest> = catalog.images.keys().copied().collect();
        ids.iter().for_each(|id| catalog.rename(id));
        catalog
    }

    fn need(&mut self, digests: &[Digest]) {
        for digest in digests {
            *self.needed.entry(*digest).or_default() += 1;
        }
    }

    /// Returns what nobody needs any more.
    fn unneed(&mut self, digests: Vec<Digest>) -> Vec<Digest> {
        let mut free = Vec::new();
        for digest in digests {
            if let Some(count) = self.needed.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    self.needed.remove(&digest);
                    free.push(digest);
                }
            }
        }
        free
    }

    pub(crate) fn is_needed(&self, digest: &Digest) -> bool {
        self.needed.contains_key(digest)
    }

    /// Takes an image; returns what an earlier form of it needed and nobody needs now.
    pub(crate) fn insert(&mut self, record: Record) -> Vec<Digest> {
        let id = record.id.0;
        self.need(&digests(&record.layers, record.manifest));
        let before = match self.images.get(&id) {
            Some(old) => Some(digests(&old.layers, old.manifest)),
            None => self.retired.remove(&id),
        };
        if record.retired {
            self.retired.insert(id, digests(&record.layers, record.manifest));
        } else {
            self.images.insert(id, Arc::new(record.into_image()));
            self.rename(&id);
        }
        before.map_or_else(Vec::new, |before| self.unneed(before))
    }

    /// Hides an image whose bytes a container still uses.
    pub(crate) fn retire(&mut self, id: &Digest) {
        if let Some(image) = self.images.remove(id) {
            self.retired.insert(*id, digests(&image.layers, image.manifest));
        }
    }

    /// Drops an image; returns what nobody needs any more.
    pub(crate) fn remove(&mut self, id: &Digest) -> Vec<Digest> {
        let needed = match self.images.remove(id) {
            Some(image) => Some(digests(&image.layers, image.manifest)),
            None => self.retired.remove(id),
        };
        needed.map_or_else(Vec::new, |needed| self.unneed(needed))
    }

    /// Points a name to an image.
    pub(crate) fn point(&mut self, reference: Reference) {
        let image = reference.image;
        let tag = reference.name.digest().is_none();
        let before = self.references.insert(reference.name.clone(), reference);
        let before = before.map(|before| before.image);
        if let Some(before) = before.filter(|before| *before != image) {
            self.rename(&before);
        }
        self.rename(&image);
        if tag
            && before != Some(image)
            && let Some(image) = self.images.get_mut(&image)
        {
            Arc::make_mut(image).last_tagged = Some(Timestamp::now());
        }
    }

    /// Drops a name.
    pub(crate) fn unpoint(&mut self, name: &ImageRef) {
        if let Some(reference) = self.references.remove(name) {
            self.rename(&reference.image);
        }
    }

    /// Brings the names in an [`Image`] up to date.
    fn rename(&mut self, id: &Digest) {
        let (mut tags, mut names, mut owners) = (Vec::new(), Vec::new(), Owners::default());
        for reference in self.names(id) {
            let list = if reference.name.digest().is_none() { &mut tags } else { &mut names };
            list.push(reference.name.familiar());
            owners = Owners::from_bits(owners.bits() | reference.owners.bits());
        }
        if let Some(image) = self.images.get_mut(id) {
            // Whoever holds the old picture keeps it.
            let image = Arc::make_mut(image);
            image.repo_tags = tags;
            image.repo_digests = names;
            image.owners = owners;
        }
    }

    pub(crate) fn names(&self, id: &Digest) -> Vec<Reference> {
        self.references.values().filter(|r| r.image == *id).cloned().collect()
    }

    pub(crate) fn reference(&self, name: &ImageRef) -> Option<&Reference> {
        self.references.get(name)
    }

    /// All tags of the repository of a name.
    pub(crate) fn tags_of(&self, any: &ImageRef) -> Vec<Reference> {
        let same = |r: &&Reference| {
            r.name.digest().is_none()
                && (r.name.domain(), r.name.path()) == (any.domain(), any.path())
        };
        self.references.values().filter(same).cloned().collect()
    }

    /// Paths of other repositories in the registry of a name that have a blob, as far as is known:
    /// it came from there or was sent there.
    pub(crate) fn repositories_with(
        &self,
        blob: &Digest,
        name: &ImageRef,
        most: usize,
    ) -> Vec<String> {
        let mut paths: Vec<String> = self
            .references
            .values()
            .filter(|r| r.name.domain() == name.domain() && r.name.path() != name.path())
            .filter(|r| r.manifest.is_some())
            .filter(|r| {
                let image = self.images.get(&r.image);
                image.is_some_and(|i| i.layers.iter().any(|layer| layer.blob == *blob))
            })
            .map(|r| r.name.path().to_owned())
            .collect();
        paths.dedup();
        paths.truncate(most);
        paths
    }

    pub(crate) fn get(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// All that have a row, retired ones included.
    pub(crate) fn ids(&self) -> Vec<Digest> {
        self.images.keys().chain(self.retired.keys()).copied().collect()
    }

    pub(crate) fn is_retired(&self, id: &Digest) -> bool {
        self.retired.contains_key(id)
    }

    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    pub(crate) fn children(&self, id: &ImageId) -> bool {
        self.images.values().any(|image| image.parent.as_ref() == Some(id))
    }

    /// Any image's record of a layer, for an image that lists the same layer.
    pub(crate) fn layer(&self, diff_id: &Digest) -> Option<Layer> {
        self.images
            .values()
            .find_map(|image| image.layers.iter().find(|layer| layer.diff_id == *diff_id))
            .copied()
    }

    /// The image that `text` names: a reference, a full or short id, with or without `sha256:`.
    /// Says also which name was meant, or `None` for an id.
    pub(crate) fn resolve(
        &self,
        text: &str,
    ) -> Result<(Arc<Image>, Option<&Reference>), ImageError> {
        let hex = text.strip_prefix("sha256:");
        if hex.is_none() && !is_full_id(text) {
            match text.parse::<ImageRef>() {
                Ok(name) => {
                    // A tag beside a digest says nothing: the digest decides.
                    let name = match name.digest() {
                        Some(digest) => name.with_digest(*digest),
                        None => name,
                    };
                    let found = self.references.get(&name);
                    if let Some(reference) = found
                        && let Some(image) = self.images.get(&reference.image)
                    {
                        return Ok((Arc::clone(image), Some(reference)));
                    }
                    return match self.by_prefix(text)? {
                        Some(image) => Ok((image, None)),
                        None => Err(ImageError::NotFound(name.familiar())),
                    };
                }
                Err(error) => {
                    return match self.by_prefix(text)? {
                        Some(image) => Ok((image, None)),
                        None => Err(error.into()),
                    };
                }
            }
        }
        match self.by_prefix(hex.unwrap_or(text))? {
            Some(image) => Ok((image, None)),
            None => Err(ImageError::NotFound(text.chars().take(80).collect())),
        }
    }

    fn by_prefix(&self, prefix: &str) -> Result<Option<Arc<Image>>, ImageError> {
        let is_hex = prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hex || prefix.is_empty() || prefix.len() > 64 {
            return Ok(None);
        }
        // The smallest digest with that prefix: hex digits sort as their text does.
        let Ok(first) = format!("sha256:{prefix:0<64}").parse::<Digest>() else {
            return Ok(None);
        };
        let mut matches = self
            .images
            .range(first..)
            .take_while(|(digest, _)| digest.hex().starts_with(prefix))
            .map(|(_, image)| image);
        match (matches.next(), matches.next()) {
            (Some(_), Some(_)) => Err(ImageError::Ambiguous(prefix.to_owned())),
            (found, _) => Ok(found.cloned()),
        }
    }
}

fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::ImageConfig;
    use crate::image::{Owner, Packing};

    pub(crate) fn record(n: u64) -> Record {
        let layer = |name: String| Layer {
            diff_id: Digest::of(name.as_bytes()),
            size: 10,
            blob: Digest::of(format!("{name} packed").as_bytes()),
            blob_size: 5,
            packing: Packing::Gzip,
        };
        let config = ImageConfig {
            os: "linux".into(),
            architecture: "amd64".into(),
            created: Some(format!("2024-01-01T00:00:{:02}Z", n % 60)),
            ..ImageConfig::default()
        };
        Record {
            id: ImageId(Digest::of(&n.to_le_bytes())),
            manifest: None,
            parent: None,
            raw_config: bytes::Bytes::new(),
            config: Arc::new(config),
            layers: [layer("base".into()), layer(format!("top {n}"))].into(),
            last_tagged: None,
            retired: false,
        }
    }

    pub(crate) fn name(text: &str, n: u64) -> Reference {
        Reference {
            name: text.parse().unwrap(),
            image: Digest::of(&n.to_le_bytes()),
            manifest: None,
            owners: Owners::default().with(Owner::Docker),
        }
    }

    #[test]
    fn finds_by_every_form_of_name_and_id() {
        let records: Vec<_> = (0..40).map(record).collect();
        let catalog =
            Catalog::new(records, vec![name("busybox", 7), name("localhost:5000/a:1", 8)]);
        let id = Digest::of(&7u64.to_le_bytes());
        let full = id.to_string();
        for text in [
            "busybox",
            "busybox:latest",
            "docker.io/library/busybox",
            &full,
            id.hex(),
            &id.hex()[..12],
            &format!("sha256:{}", &id.hex()[..12]),
        ] {
            assert_eq!(catalog.resolve(text).unwrap().0.id.0, id, "{text}");
        }
        assert!(catalog.resolve("busybox").unwrap().1.is_some());
        assert!(catalog.resolve(&id.hex()[..12]).unwrap().1.is_none());
        assert_eq!(
            catalog.resolve("localhost:5000/a:1").unwrap().0.repo_tags,
            ["localhost:5000/a:1"]
        );
        // 40 ids share 16 first digits.
        let ambiguous = (0..16u8)
            .map(|d| format!("{d:x}"))
            .filter(|d| matches!(catalog.resolve(d), Err(ImageError::Ambiguous(_))))
            .count();
        assert!(ambiguous > 0);
        let missing = |text: &str| catalog.resolve(text).unwrap_err().to_string();
        assert_eq!(missing("nope"), "No such image: nope:latest");
        assert_eq!(missing("busybox:2"), "No such image: busybox:2");
        assert!(matches!(catalog.resolve("UPPER"), Err(ImageError::Reference(_))));
        assert!(catalog.resolve("sha256:").is_err());
        assert!(catalog.resolve("").is_err());
    }

    #[test]
    fn a_name_that_moves_leaves_the_old_image_without_it() {
        let mut catalog = Catalog::new(vec![record(1), record(2)], vec![name("a", 1)]);
        catalog.point(name("a", 2));
        let tags = |n: u64| catalog.get(&Digest::of(&n.to_le_bytes())).unwrap().repo_tags.clone();
        assert!(tags(1).is_empty());
        assert_eq!(tags(2), ["a:latest"]);
    }

    #[test]
    fn shared_layers_are_free_only_with_the_last_image() {
        let mut catalog = Catalog::new(vec![record(1), record(2)], Vec::new());
        let base = Digest::of(b"base");
        let free = catalog.remove(&Digest::of(&1u64.to_le_bytes()));
        assert_eq!(free.len(), 2, "its own layer and that layer's blob");
        assert!(!free.contains(&base) && catalog.is_needed(&base));
        let two = Digest::of(&2u64.to_le_bytes());
        catalog.retire(&two);
        assert!(catalog.is_needed(&base), "a retired image keeps its layers");
        assert!(catalog.resolve(&two.to_string()).is_err());
        assert_eq!(catalog.remove(&two).len(), 4);
        assert!(catalog.needed.is_empty());
    }

    #[test]
    fn an_image_that_comes_again_with_other_blobs_frees_the_old_ones() {
        let mut catalog = Catalog::new(vec![record(1)], Vec::new());
        let mut again = record(1);
        let mut layers = again.layers.to_vec();
        layers[1].blob = Digest::of(b"other packing");
        again.layers = layers.into();
        assert_eq!(catalog.insert(again), [Digest::of(b"top 1 packed")]);
    }
}
