//! Manifests and indexes (OCI image-spec `manifest.md`, `image-index.md`; Docker schema 2).
//!
//! The same bytes must mean one thing to every reader: a document that could be read both ways, or
//! whose media types contradict each other, is refused (CVE-2021-41190).

use bytes::Bytes;
use pouch_types::Digest;
use serde::{Deserialize, Serialize};

use crate::error::DocumentError;
use crate::platform::{Platform, Wanted};

/// Bytes of a manifest or index.
pub const MANIFEST_BYTES: u64 = 4 << 20;
/// Entries of an index, or layers of a manifest, that are looked at.
pub const ENTRIES: usize = 4096;
/// How deep indexes may be nested.
pub const INDEX_DEPTH: usize = 3;

/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Names and bounds a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Which machine it is for (entries of an index).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// An image manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
}

/// What a reference stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// One image.
    Manifest(Manifest),
    /// One image per platform.
    Index(Vec<Descriptor>),
}

/// A parsed document with its bytes.
#[derive(Debug, Clone)]
pub struct Document {
    /// Digest, size and media type of the bytes.
    pub descriptor: Descriptor,
    /// As the registry sent them.
    pub raw: Bytes,
    /// What they say.
    pub content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// What kind of document bytes of an announced media type are.
#[expect(clippy::large_enum_variant, reason = "taken apart as soon as it is made")]
pub(crate) enum Parsed {
    Content(String, Content),
    Schema1,
}

/// Reads `raw`, which was announced as `announced` (empty when nothing was said).
pub(crate) fn parse(raw: &[u8], announced: &str) -> Result<Parsed, DocumentError> {
    if SCHEMA1.contains(&announced) {
        return Ok(Parsed::Schema1);
    }
    let document: Raw =
        serde_json::from_slice(raw).map_err(|e| DocumentError::Json(e.to_string()))?;
    if document.fs_layers.is_some() {
        return Ok(Parsed::Schema1);
    }
    let inside = document.media_type.unwrap_or_default();
    // Registries that do not look at what they serve answer with a general type.
    let general = matches!(announced, "" | "application/json" | "application/octet-stream")
        || announced.starts_with("text/plain");
    if !general && !inside.is_empty() && announced != inside {
        return Err(DocumentError::MediaType(announced.to_owned(), inside));
    }
    let stated = if inside.is_empty() && !general { announced } else { &inside };
    let is_manifest = matches!(stated, OCI_MANIFEST | DOCKER_MANIFEST);
    let is_index = matches!(stated, OCI_INDEX | DOCKER_LIST);
    if !stated.is_empty() && !is_manifest && !is_index {
        return Err(DocumentError::NotAnImage(stated.chars().take(120).collect()));
    }
    let image = document.config.is_some() || document.layers.is_some();
    let bounded = |list: Vec<Descriptor>| {
        if list.len() > ENTRIES {
            return Err(DocumentError::TooMany(list.len(), ENTRIES));
        }
        Ok(list)
    };
    match (document.config, document.layers, document.manifests) {
        (_, _, Some(_)) if image => Err(DocumentError::Ambiguous),
        (Some(config), Some(layers), None) if !is_index => {
            let known = matches!(config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG)
                // Old Docker wrote this.
                || config.media_type == "application/octet-stream";
            if !known {
                return Err(DocumentError::NotAnImage(config.media_type));
            }
            let media_type = if stated.is_empty() { OCI_MANIFEST } else { stated };
            let manifest = Manifest { config, layers: bounded(layers)? };
            Ok(Parsed::Content(media_type.to_owned(), Content::Manifest(manifest)))
        }
        (None, None, Some(entries)) if !is_manifest => {
            let media_type = if stated.is_empty() { OCI_INDEX } else { stated };
            Ok(Parsed::Content(media_type.to_owned(), Content::Index(bounded(entries)?)))
        }
        (None, None, None) => Err(DocumentError::Neither),
        _ => Err(DocumentError::MediaType(stated.to_owned(), "another form".to_owned())),
    }
}

impl Manifest {
    /// Parses the bytes of an image manifest from elsewhere than a registry.
    ///
    /// # Errors
    /// [`DocumentError`], also when it is an index or of schema 1.
    pub fn parse(raw: &[u8]) -> Result<Self, DocumentError> {
        match parse(raw, "")? {
            Parsed::Content(_, Content::Manifest(manifest)) => Ok(manifest),
            Parsed::Content(media_type, Content::Index(_)) => {
                Err(DocumentError::NotAnImage(media_type))
            }
            Parsed::Schema1 => Err(DocumentError::NotAnImage(SCHEMA1[0].to_owned())),
        }
    }
}

/// Parses the bytes of a manifest or index from elsewhere than a registry, whose descriptor has
/// media type `announced`.
///
/// # Errors
/// [`DocumentError`].
pub fn parse_content(raw: &[u8], announced: &str) -> Result<Content, DocumentError> {
    match parse(raw, announced)? {
        Parsed::Content(_, content) => Ok(content),
        Parsed::Schema1 => Err(DocumentError::NotAnImage(SCHEMA1[0].to_owned())),
    }
}

/// The entry of an index that fits best.
#[must_use]
pub fn select<'a>(entries: &'a [Descriptor], wanted: &Wanted) -> Option<&'a Descriptor> {
    // Among equals the first wins, as the specification asks.
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in entries {
        let rank = match &entry.platform {
            Some(platform) => wanted.rank(platform),
            // An entry that does not say: its configuration will, if it is all there is.
            None if entries.len() == 1 => Some(0),
            None => None,
        };
        if let Some(rank) = rank
            && best.is_none_or(|(known, _)| rank > known)
        {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        let digest = Digest::of(b"x");
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":1}}"#)
    }

    fn content(raw: &str, announced: &str) -> Result<Content, DocumentError> {
        parse_content(raw.as_bytes(), announced)
    }

    #[test]
    fn reads_manifests_and_indexes() {
        let config = descriptor(OCI_CONFIG);
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]}}"#);
        for announced in ["", OCI_MANIFEST, DOCKER_MANIFEST, "application/json"] {
            assert!(matches!(content(&manifest, announced), Ok(Content::Manifest(_))));
        }
        let index = format!(r#"{{"manifests":[{}]}}"#, descriptor(OCI_MANIFEST));
        assert!(matches!(content(&index, OCI_INDEX), Ok(Content::Index(_))));
    }

    /// SEC-29.
    #[test]
    fn refuses_what_reads_two_ways() {
        let config = descriptor(OCI_CONFIG);
        let both = format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#);
        assert_eq!(content(&both, OCI_INDEX), Err(DocumentError::Ambiguous));
        assert_eq!(content(&both, OCI_MANIFEST), Err(DocumentError::Ambiguous));
        let half = r#"{"layers":[],"manifests":[]}"#;
        assert_eq!(content(half, ""), Err(DocumentError::Ambiguous));

        let manifest = format!(r#"{{"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[]}}"#);
        assert!(content(&manifest, OCI_MANIFEST).is_ok());
        for announced in [OCI_INDEX, DOCKER_MANIFEST] {
            assert!(matches!(content(&manifest, announced), Err(DocumentError::MediaType(..))));
        }
        let manifest = format!(r#"{{"config":{config},"layers":[]}}"#);
        assert!(matches!(content(&manifest, OCI_INDEX), Err(DocumentError::MediaType(..))));
        let twice = format!(r#"{{"config":{config},"layers":[],"layers":[]}}"#);
        assert!(matches!(content(&twice, ""), Err(DocumentError::Json(_))));
    }

    #[test]
    fn refuses_what_is_no_image() {
        assert!(matches!(parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, ""), Ok(Parsed::Schema1)));
        assert!(matches!(parse(b"", SCHEMA1[1]), Ok(Parsed::Schema1)));
        assert_eq!(content("{}", ""), Err(DocumentError::Neither));
        let helm = descriptor("application/vnd.cncf.helm.config.v1+json");
        let helm = format!(r#"{{"config":{helm},"layers":[]}}"#);
        assert!(matches!(content(&helm, ""), Err(DocumentError::NotAnImage(_))));
        let bad = r#"{"manifests":[{"digest":"sha256:../../x","size":1}]}"#;
        assert!(matches!(content(bad, ""), Err(DocumentError::Json(_))));
        let negative = format!(r#"{{"manifests":[{{"digest":"{}","size":-1}}]}}"#, Digest::of(b""));
        assert!(matches!(content(&negative, ""), Err(DocumentError::Json(_))));
        let deep = "[".repeat(1_000_000);
        assert!(matches!(content(&deep, ""), Err(DocumentError::Json(_))));
    }

    #[test]
    fn attestations_and_strangers_are_not_selected() {
        let entry = |os: &str, arch: &str, n: u64| Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of(&n.to_le_bytes()),
            size: n,
            platform: Some(Platform { os: os.into(), architecture: arch.into(), variant: None }),
        };
        let entries = [
            entry("unknown", "unknown", 1),
            entry("linux", "arm64", 2),
            entry("linux", "amd64", 3),
        ];
        let wanted = |text: &str| Wanted::Exactly(text.parse().unwrap());
        assert_eq!(select(&entries, &wanted("linux/arm64")).unwrap().size, 2);
        assert_eq!(select(&entries, &wanted("linux/amd64")).unwrap().size, 3);
        assert!(select(&entries, &wanted("linux/s390x")).is_none());
        let mut bare = entry("", "", 4);
        bare.platform = None;
        assert_eq!(select(&[bare.clone()], &Wanted::Host).unwrap().size, 4);
        assert!(select(&[bare.clone(), bare], &Wanted::Host).is_none());
    }
}
