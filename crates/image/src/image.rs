//! One image as the rest of the engine sees it: immutable, shared, complete.

use std::sync::Arc;

use jiff::Timestamp;
use pouch_types::{Digest, ImageId, ImageRef};

use crate::config::{History, ImageConfig};

/// Who holds a reference (see the crate documentation).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The Docker face.
    Docker,
    /// The CRI face.
    Cri,
}

/// A set of [`Owner`]s, never empty on a live reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Owners(u8);

impl Owners {
    const fn bit(owner: Owner) -> u8 {
        match owner {
            Owner::Docker => 1,
            Owner::Cri => 2,
        }
    }

    /// Whether `owner` is among them.
    #[must_use]
    pub const fn contains(self, owner: Owner) -> bool {
        self.0 & Self::bit(owner) != 0
    }

    /// With `owner`.
    #[must_use]
    pub const fn with(self, owner: Owner) -> Self {
        Self(self.0 | Self::bit(owner))
    }

    /// Without `owner`.
    #[must_use]
    pub const fn without(self, owner: Owner) -> Self {
        Self(self.0 & !Self::bit(owner))
    }

    /// Whether nobody is left.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) const fn bits(self) -> u8 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u8) -> Self {
        Self(bits & 3)
    }
}

/// How the blob of a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Plain tar.
    Tar,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Packing {
    /// The OCI media type of such a layer.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    pub(crate) fn from_str(text: &str) -> Option<Self> {
        [Self::Tar, Self::Gzip, Self::Zstd].into_iter().find(|p| p.as_str() == text)
    }

    /// By the first bytes of the blob, which decide: what an archive or a manifest says can be
    /// wrong.
    #[must_use]
    pub fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A zstd frame, or a skippable one as zstd:chunked begins with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Tar,
        }
    }
}

/// One layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Digest of the uncompressed tar; names the unpacked layer.
    pub diff_id: Digest,
    /// Bytes unpacked.
    pub size: u64,
    /// The blob as it came, kept in the content store.
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    /// How the blob is packed.
    pub packing: Packing,
}

/// An image. `repo_tags` and `repo_digests` are as of the moment it was asked for.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of the configuration.
    pub id: ImageId,
    /// The manifest it was made from, in the content store; `None` for an archive without one.
    pub manifest: Option<Digest>,
    /// The image that it was committed from.
    pub parent: Option<ImageId>,
    /// Its parsed configuration.
    pub config: Arc<ImageConfig>,
    /// Bottom first.
    pub layers: Arc<[Layer]>,
    /// Bytes unpacked, all layers.
    pub size: u64,
    /// When it says that it was made.
    pub created: Option<Timestamp>,
    /// When a tag last began to point to it.
    pub last_tagged: Option<Timestamp>,
    /// Names with tags, as people know them.
    pub repo_tags: Vec<String>,
    /// Names with digests, as people know them.
    pub repo_digests: Vec<String>,
    /// The owners of all its references together.
    pub owners: Owners,
}

impl Image {
    /// The diffIDs, bottom first.
    pub fn diff_ids(&self) -> impl DoubleEndedIterator<Item = &Digest> + ExactSizeIterator {
        self.layers.iter().map(|layer| &layer.diff_id)
    }

    /// Whether no tag points to it; a name with a digest alone does not count, as in Docker.
    #[must_use]
    pub fn is_dangling(&self) -> bool {
        self.repo_tags.is_empty()
    }

    /// Chain ids (OCI image-spec, config.md), bottom first.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        chain_ids(self.diff_ids())
    }

    /// The steps of its making, newest first, as `docker history` shows them.
    #[must_use]
    pub fn history(&self) -> Vec<Step> {
        let mut layers = self.layers.iter();
        let mut steps: Vec<Step> = self
            .config
            .history
            .iter()
            .map(|history| Step {
                size: if history.empty_layer { 0 } else { layers.next().map_or(0, |l| l.size) },
                history: history.clone(),
                id: None,
                tags: Vec::new(),
            })
            .collect();
        // Layers that the history does not mention are there all the same.
        steps.extend(layers.map(|layer| Step {
            size: layer.size,
            history: History::default(),
            id: None,
            tags: Vec::new(),
        }));
        steps.reverse();
        if let Some(newest) = steps.first_mut() {
            newest.id = Some(self.id.clone());
            newest.tags.clone_from(&self.repo_tags);
        }
        steps
    }
}

/// One line of `docker history`.
#[derive(Debug, Clone)]
pub struct Step {
    /// The image that this step ended in, if that is known: the newest one.
    pub id: Option<ImageId>,
    /// Its tags.
    pub tags: Vec<String>,
    /// What was done.
    pub history: History,
    /// Bytes that it added.
    pub size: u64,
}

/// Chain ids of a list of diffIDs, bottom first.
#[must_use]
pub fn chain_ids<'a>(diff_ids: impl Iterator<Item = &'a Digest>) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => *diff_id,
            Some(parent) => {
                let text = format!("{parent} {diff_id}");
                Digest::of(text.as_bytes())
            }
        };
        chain.push(next);
    }
    chain
}

/// One name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    pub(crate) name: ImageRef,
    pub(crate) image: Digest,
    /// Digest that the registry gave for the name, when it came from one.
    pub(crate) manifest: Option<Digest>,
    pub(crate) owners: Owners,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let a = Digest::of(b"a");
        let b = Digest::of(b"b");
        let chain = chain_ids([&a, &b].into_iter());
        assert_eq!(chain, [a, Digest::of(format!("{a} {b}").as_bytes())]);
    }

    #[test]
    fn packing_is_what_the_bytes_say() {
        assert_eq!(Packing::sniff(&[0x1f, 0x8b, 8]), Packing::Gzip);
        assert_eq!(Packing::sniff(&[0x28, 0xb5, 0x2f, 0xfd, 0]), Packing::Zstd);
        assert_eq!(Packing::sniff(&[0x50, 0x2a, 0x4d, 0x18, 0]), Packing::Zstd);
        assert_eq!(Packing::sniff(b"bin/"), Packing::Tar);
        assert_eq!(Packing::sniff(b""), Packing::Tar);
    }
}
