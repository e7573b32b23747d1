//! A registry, proxies that spoil what it says, and a client that does what a pull does.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pouch_registry::document::{OCI_CONFIG, OCI_MANIFEST};
use pouch_registry::{
    AuthFields, Credentials, Descriptor, Had, PushTo, Recourse, Registry, RegistryConfig,
    RegistryError, Repository,
};
use pouch_testkit::{FaultProxy, LocalRegistry, RegistryOptions};
use pouch_types::{Digest, ImageRef};

pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Of the layer of the image.
pub const SIZE: usize = 3 << 20;

/// A registry with the image `a/b:1`, and a proxy that is its public address.
pub struct Rig {
    pub registry: LocalRegistry,
    pub origin: FaultProxy,
    pub layer: Descriptor,
    pub config: Descriptor,
    pub manifest: Digest,
    pub bytes: Bytes,
    pub dir: tempfile::TempDir,
}

/// Bytes without a pattern, the same each time.
pub fn noise(size: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

pub fn describe(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        platform: None,
    }
}

pub fn basic(username: &str, password: &str) -> Credentials {
    let fields = AuthFields {
        username: username.into(),
        password: password.into(),
        ..AuthFields::default()
    };
    Credentials::from_fields(fields).unwrap()
}

pub fn alice() -> Credentials {
    basic(LocalRegistry::USER, LocalRegistry::PASSWORD)
}

/// Short waits, but the patience with mirrors that is the default.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        idle_timeout: Duration::from_secs(20),
        back_off: Duration::from_millis(20),
        ..RegistryConfig::default()
    }
}

pub async fn open(config: RegistryConfig, name: &str, credentials: Credentials) -> Repository {
    let reference: ImageRef = name.parse().unwrap();
    Registry::new(config).unwrap().repository(&reference, credentials).await.unwrap()
}

/// Pushes an image of one layer; gives its manifest.
pub async fn push(repository: &Repository, layer: &Bytes) -> (Descriptor, Bytes) {
    let raw_config = Bytes::from_static(
        br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#,
    );
    let (config, layer_descriptor) = (describe(OCI_CONFIG, &raw_config), describe(LAYER, layer));
    for (descriptor, bytes) in [(&config, &raw_config), (&layer_descriptor, layer)] {
        repository.push_blob(descriptor, Arc::new(bytes.clone()), &[], &|_| {}).await.unwrap();
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{},"layers":[{}]}}"#,
        serde_json::to_string(&config).unwrap(),
        serde_json::to_string(&layer_descriptor).unwrap(),
    );
    let manifest = Bytes::from(manifest);
    let digest =
        repository.push_manifest(manifest.clone(), OCI_MANIFEST, PushTo::Tag).await.unwrap();
    assert_eq!(digest, Digest::of(&manifest));
    (config, manifest)
}

impl Rig {
    pub async fn start(options: RegistryOptions) -> Option<Self> {
        let registry = LocalRegistry::start(options)?;
        let origin = FaultProxy::start(registry.host());
        let bytes = noise(SIZE, 1);
        let repository = open(config(), &format!("{}/a/b:1", registry.host()), alice()).await;
        let (config, manifest) = push(&repository, &bytes).await;
        let (layer, manifest) = (describe(LAYER, &bytes), Digest::of(&manifest));
        let dir = tempfile::tempdir().unwrap();
        Some(Self { registry, origin, layer, config, manifest, bytes, dir })
    }

    /// The image by its public address.
    pub fn name(&self) -> String {
        format!("{}/a/b:1", self.origin.host())
    }

    /// Writes the registry's `hosts.toml` and gives a configuration that uses it.
    pub fn hosts(&self, text: &str) -> RegistryConfig {
        write_hosts(self.dir.path(), &self.origin.host(), text);
        RegistryConfig { hosts_dirs: vec![self.dir.path().to_owned()], ..config() }
    }

    /// One mirror, by its URL.
    pub fn mirrored(&self, mirror: &str) -> RegistryConfig {
        self.hosts(&format!("[host.\"{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"))
    }

    /// Does what a pull does, and compares.
    pub async fn pull(&self, repository: &Repository) {
        let document = repository.document().await.unwrap();
        assert_eq!(document.descriptor.digest, self.manifest);
        repository.small_blob(&self.config, 1 << 20).await.unwrap();
        assert!(fetch(repository, &self.layer).await.unwrap() == self.bytes);
    }
}

pub fn write_hosts(dir: &Path, host: &str, text: &str) {
    let dir = dir.join(host);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
}

/// The rest of a blob from `offset` on.
pub async fn read(
    repository: &Repository,
    layer: &Descriptor,
    offset: u64,
) -> Result<Vec<u8>, RegistryError> {
    let mut stream = repository.blob(layer, offset).await?;
    assert_eq!(stream.start(), offset);
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await? {
        bytes.extend_from_slice(&chunk);
    }
    assert!(stream.next().await?.is_none(), "the end stays the end");
    Ok(bytes)
}

/// A blob with the right digest, from whoever tells the truth; `None` when nobody does.
pub async fn fetch(repository: &Repository, layer: &Descriptor) -> Option<Vec<u8>> {
    loop {
        let bytes = read(repository, layer, 0).await.unwrap();
        if Digest::of(&bytes) == layer.digest {
            return Some(bytes);
        }
        match repository.distrust(&layer.digest, Had::All) {
            Recourse::Elsewhere => {}
            Recourse::Nowhere => return None,
        }
    }
}
