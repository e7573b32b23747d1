//! What a registry has, in memory and without any check: for images that no registry would take,
//! and for those that are too large to be pushed for each test.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::archive::sha256;

/// OCI manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// A plain layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Things by their path below `/v2/`. Served by [`FaultProxy::of`](crate::FaultProxy::of).
#[derive(Debug, Default)]
pub struct Shelf {
    things: BTreeMap<String, Thing>,
    /// The `authorization` that it wants to see.
    authorization: Option<String>,
}

#[derive(Debug)]
struct Thing {
    media_type: String,
    digest: String,
    bytes: Arc<Vec<u8>>,
}

/// What is answered to one request.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Shelf {
    /// Who gets in where that matters, for `docker login`.
    pub const USER: &str = "alice";
    /// Her password.
    pub const PASSWORD: &str = "s3cret";
    /// Both, as they are sent.
    pub const AUTHORIZATION: &str = "Basic YWxpY2U6czNjcmV0";

    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on only [`Shelf::USER`] gets in, by basic auth.
    pub fn lock(&mut self) {
        self.authorization = Some(Self::AUTHORIZATION.to_owned());
    }

    /// Puts bytes under a path below `/v2/`.
    pub fn put(&mut self, path: &str, media_type: &str, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        let digest = format!("sha256:{}", sha256(&bytes));
        let thing = Thing { media_type: media_type.to_owned(), digest, bytes: Arc::new(bytes) };
        self.things.insert(path.to_owned(), thing);
    }

    /// Puts a blob and gives its descriptor.
    pub fn blob(&mut self, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
        let described = describe(media_type, bytes);
        let digest = described["digest"].as_str().unwrap();
        self.put(&format!("{repository}/blobs/{digest}"), "application/octet-stream", bytes);
        described
    }

    /// Puts a manifest or index under a tag and its digest, and gives its descriptor.
    pub fn document(&mut self, repository: &str, tag: &str, document: &Value) -> Value {
        let media_type = document["mediaType"].as_str().unwrap_or(OCI_MANIFEST);
        let bytes = document.to_string().into_bytes();
        let described = describe(media_type, &bytes);
        let digest = described["digest"].as_str().unwrap();
        self.put(&format!("{repository}/manifests/{digest}"), media_type, &bytes[..]);
        self.put(&format!("{repository}/manifests/{tag}"), media_type, bytes);
        described
    }

    /// Puts an image of plain layers and gives its manifest.
    pub fn image(
        &mut self,
        repository: &str,
        tag: &str,
        layers: &[&[u8]],
        config: &Value,
    ) -> Value {
        let layers: Vec<Value> =
            layers.iter().map(|layer| self.blob(repository, OCI_LAYER, layer)).collect();
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(repository, OCI_CONFIG, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        self.document(repository, tag, &manifest);
        manifest
    }

    pub(crate) fn answer(
        &self,
        method: &str,
        path: &str,
        range: Option<String>,
        authorization: Option<String>,
    ) -> Taken {
        let path = path.split('?').next().unwrap_or_default();
        let refuse = |status, headers: &[(&str, &str)], code: &str| {
            let body = json!({"errors": [{"code": code, "message": "as the test wants it"}]});
            let headers = headers.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
            Taken { status, headers, body: body.to_string().into_bytes() }
        };
        if self.authorization.is_some() && authorization != self.authorization {
            let challenge = [("www-authenticate", "Basic realm=\"shelf\"")];
            return refuse(401, &challenge, "UNAUTHORIZED");
        }
        let name = path.strip_prefix("/v2/").unwrap_or_default();
        if name.is_empty() {
            return Taken { status: 200, headers: Vec::new(), body: Vec::new() };
        }
        let Some(thing) = self.things.get(name) else {
            let is_blob = name.contains("/blobs/");
            return refuse(404, &[], if is_blob { "BLOB_UNKNOWN" } else { "MANIFEST_UNKNOWN" });
        };
        let mut headers = vec![
            ("content-type".to_owned(), thing.media_type.clone()),
            ("docker-content-digest".to_owned(), thing.digest.clone()),
        ];
        if method == "HEAD" {
            headers.push(("content-length".to_owned(), thing.bytes.len().to_string()));
            return Taken { status: 200, headers, body: Vec::new() };
        }
        let (size, asked) = (thing.bytes.len(), range.as_deref().and_then(parse_range));
        let Some((first, last)) = asked else {
            return Taken { status: 200, headers, body: thing.bytes.to_vec() };
        };
        let end = last.map_or(size, |last| (last + 1).min(size));
        if first >= end {
            return refuse(416, &[], "RANGE_INVALID");
        }
        headers.push(("content-range".to_owned(), format!("bytes {first}-{}/{size}", end - 1)));
        Taken { status: 206, headers, body: thing.bytes[first..end].to_vec() }
    }
}

/// Media type, digest and size of bytes, as manifests have them.
#[must_use]
pub fn describe(media_type: &str, bytes: &[u8]) -> Value {
    let digest = format!("sha256:{}", sha256(bytes));
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// First and last byte of `bytes=5-9`.
fn parse_range(text: &str) -> Option<(usize, Option<usize>)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    Some((first.parse().ok()?, last))
}

/// Bytes without a pattern, the same each time.
#[must_use]
pub fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
