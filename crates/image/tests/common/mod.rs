//! What the tests share: a layer store in memory, small images, and skopeo with a registry.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on panics")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use pouch_content::ContentStore;
use pouch_image::{
    Images, ImportOptions, Kept, LayerBlob, LayerError, LayerStore, Owner, Unpacked, top_layer,
};
use pouch_registry::{Registry, RegistryConfig};
use pouch_store::Store;
use pouch_types::{Digest, ErrorKind};
use tokio::io::AsyncReadExt;

/// Unpacks nothing, but checks the diffID and remembers.
#[derive(Default)]
pub struct FakeLayers {
    pub layers: Mutex<HashMap<Digest, u64>>,
    pub applied: AtomicUsize,
    /// How long ago all layers came.
    pub age: Mutex<Duration>,
}

#[async_trait]
impl LayerStore for FakeLayers {
    async fn get(&self, chain: &[Digest]) -> Result<Option<Unpacked>, LayerError> {
        let diff_id = top_layer(chain)?;
        let size = self.layers.lock().unwrap().get(diff_id).copied();
        Ok(size.map(|size| Unpacked { diff_id: *diff_id, size }))
    }

    async fn apply(&self, blob: LayerBlob, chain: &[Digest]) -> Result<Unpacked, LayerError> {
        let diff_id = top_layer(chain)?;
        let mut packed = Vec::new();
        (blob.open)().await?.read_to_end(&mut packed).await.unwrap();
        let mut plain = Vec::new();
        if packed.starts_with(&[0x1f, 0x8b]) {
            flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        } else {
            plain = packed;
        }
        if Digest::of(&plain) != *diff_id {
            return Err(LayerError::of(ErrorKind::Invalid, "wrong diff id"));
        }
        // Long enough for a second client to come in between.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.applied.fetch_add(1, Ordering::SeqCst);
        let size = plain.len() as u64;
        self.layers.lock().unwrap().insert(*diff_id, size);
        Ok(Unpacked { diff_id: *diff_id, size })
    }

    async fn remove(&self, diff_id: &Digest) -> Result<(), LayerError> {
        self.layers.lock().unwrap().remove(diff_id);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Kept>, LayerError> {
        let since = SystemTime::now() - *self.age.lock().unwrap();
        let layers = self.layers.lock().unwrap();
        Ok(layers.keys().map(|diff_id| Kept { diff_id: *diff_id, since }).collect())
    }
}

/// An image store in a directory of its own.
pub struct Rig {
    pub dir: tempfile::TempDir,
    pub images: Images,
    pub layers: Arc<FakeLayers>,
    pub store: Store,
    pub content: ContentStore,
}

pub async fn rig() -> Rig {
    let dir = tempfile::tempdir().unwrap();
    let layers = Arc::new(FakeLayers::default());
    let (images, store, content) = open(dir.path(), Arc::clone(&layers)).await;
    Rig { dir, images, layers, store, content }
}

impl Rig {
    /// As after a restart of the daemon.
    pub async fn reopen(self) -> Self {
        let Self { dir, images, layers, store, content } = self;
        drop((images, store, content));
        let (images, store, content) = open(dir.path(), Arc::clone(&layers)).await;
        Self { dir, images, layers, store, content }
    }

    pub async fn blobs(&self) -> usize {
        self.content.walk().await.unwrap().len()
    }

    pub fn layer_count(&self) -> usize {
        self.layers.layers.lock().unwrap().len()
    }
}

async fn open<L: LayerStore>(dir: &Path, layers: Arc<L>) -> (Images, Store, ContentStore) {
    let store = Store::open(&dir.join("db"), &[pouch_image::SCHEMA]).unwrap().store;
    let content = ContentStore::open(&dir.join("content")).unwrap();
    let images = Images::open(store.clone(), content.clone(), layers, registry()).await.unwrap();
    (images, store, content)
}

pub fn registry() -> Registry {
    let config = RegistryConfig {
        idle_timeout: Duration::from_secs(3),
        back_off: Duration::from_millis(10),
        attempts: 3,
        ..RegistryConfig::default()
    };
    Registry::new(config).unwrap()
}

/// Bytes as a client sends them: in pieces.
pub fn body(bytes: Vec<u8>) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin {
    let pieces: Vec<_> =
        bytes.chunks(10_007).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    futures::stream::iter(pieces)
}

pub async fn collect(mut stream: impl Stream<Item = std::io::Result<Bytes>> + Unpin) -> Vec<u8> {
    use futures::StreamExt;
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        all.extend_from_slice(&chunk.unwrap());
    }
    all
}

pub fn tar(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        builder.append_data(&mut header, name, *data).unwrap();
    }
    builder.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A root file system with Debian's static busybox, if that is installed.
pub fn busybox() -> Option<Vec<u8>> {
    let program = std::fs::read("/bin/busybox").ok()?;
    Some(tar(&[("bin/busybox", &program), ("bin/sh", &program), ("etc/hostname", b"box\n")]))
}

/// A configuration over layers, with one label to tell images apart.
pub fn config(layers: &[&[u8]], label: &str) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|l| Digest::of(l).to_string()).collect();
    serde_json::to_vec(&serde_json::json!({
        "os": "linux", "architecture": "amd64", "created": "2024-05-06T07:08:09Z",
        "config": {"Cmd": ["sh"], "Labels": {"name": label}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created_by": "test"}],
    }))
    .unwrap()
}

/// An archive as `docker save` of version 20 writes it.
pub fn docker_archive(names: &[&str], layers: &[&[u8]], label: &str) -> Vec<u8> {
    let config = config(layers, label);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let layer_names: Vec<_> = (0..layers.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    let manifest = serde_json::to_vec(&serde_json::json!([{
        "Config": config_name, "RepoTags": names, "Layers": layer_names,
    }]))
    .unwrap();
    let mut entries: Vec<(&str, &[u8])> = vec![(&config_name, &config)];
    entries.extend(layer_names.iter().map(String::as_str).zip(layers.iter().copied()));
    entries.push(("manifest.json", &manifest));
    tar(&entries)
}

pub async fn import(images: &Images, name: &str, rootfs: Vec<u8>) -> Arc<pouch_image::Image> {
    let options = ImportOptions {
        reference: Some(name.parse().unwrap()),
        changes: pouch_image::Changes::parse(["CMD [\"sh\"]", "ENV A=b"]).unwrap(),
        message: "made by a test".into(),
        platform: None,
    };
    images.import(body(rootfs), options, Owner::Docker).await.unwrap()
}

/// Whether a program is there; says so when it is not.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

pub fn skopeo(args: &[&str]) -> String {
    let output = Command::new("skopeo").arg("--insecure-policy").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Debian's docker-registry on a random port.
pub struct LocalRegistry {
    child: Child,
    pub host: String,
    _dir: tempfile::TempDir,
}

impl Drop for LocalRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl LocalRegistry {
    pub async fn start() -> Option<Self> {
        if !have("docker-registry") || !have("skopeo") {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; nobody else on this machine asks for random ports that fast.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: {host}\n",
            dir.path().join("data").display()
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, host, _dir: dir };
        for _ in 0..200 {
            if tokio::net::TcpStream::connect(&registry.host).await.is_ok() {
                return Some(registry);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("docker-registry does not listen");
    }

    /// Pushes an archive of `docker save` by skopeo, with options such as `--format oci`.
    pub fn push(&self, archive: &Path, name: &str, options: &[&str]) {
        let source = format!("docker-archive:{}", archive.display());
        let target = format!("docker://{}/{name}", self.host);
        let mut args = vec!["copy", "-q", "--dest-tls-verify=false"];
        args.extend(options);
        args.extend([source.as_str(), target.as_str()]);
        skopeo(&args);
    }
}
