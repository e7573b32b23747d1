//! Images and roots in a real containerd. Needs root, containerd and pouch-unpack;
//! `POUCH_CONTAINERD` names another containerd than that in PATH.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use pouch_containerd_grpc::{Pool, PoolConfig};
use pouch_containerd_images::{ContainerdStore, OpenError, StoreConfig};
use pouch_content::ContentStore;
use pouch_image::{Image, Images, Owner, Progress, Registrar, RemoveOptions};
use pouch_registry::{Registry, RegistryConfig};
use pouch_snapshot::{ChangeKind, Roots};
use pouch_store::Store;
use pouch_testkit::{Archive, Containerd, docker_archive, program};
use pouch_types::{Classified as _, ContainerId, Digest, ErrorKind};

struct Rig {
    containerd: Containerd,
    dir: tempfile::TempDir,
    store: ContainerdStore,
    images: Images,
}

fn pool(containerd: &Containerd) -> Pool {
    Pool::new(PoolConfig {
        socket: containerd.socket(),
        namespace: "pouch".to_owned(),
        connections: NonZeroUsize::MIN,
    })
    .unwrap()
}

fn config(dir: &tempfile::TempDir, snapshotter: &str) -> StoreConfig {
    StoreConfig {
        snapshotter: snapshotter.to_owned(),
        directory: dir.path().join("containerd"),
        state: dir.path().join("state"),
        owner: dir.path().display().to_string(),
        unpack_binary: program("pouch-unpack"),
    }
}

async fn open(
    containerd: &Containerd,
    dir: &tempfile::TempDir,
    snapshotter: &str,
) -> (ContainerdStore, Images) {
    let store = ContainerdStore::open(config(dir, snapshotter), pool(containerd)).await.unwrap();
    let rows = Store::open(&dir.path().join("db"), &[pouch_image::SCHEMA]).unwrap().store;
    let content = dir.path().join("content");
    let content = ContentStore::open_over(&content, Box::new(store.clone())).unwrap();
    let kept = Arc::new(store.clone());
    let registrar: Arc<dyn Registrar> = kept.clone();
    let registry = Registry::new(RegistryConfig::default()).unwrap();
    let images = Images::open_with(rows, content, kept, Some(registrar), registry).await.unwrap();
    (store, images)
}

impl Rig {
    async fn new(snapshotter: &str) -> Option<Self> {
        let binary = Containerd::binary()?;
        let containerd = Containerd::start(&binary);
        let dir = tempfile::Builder::new().prefix("pi").tempdir_in("/var/tmp").unwrap();
        let (store, images) = open(&containerd, &dir, snapshotter).await;
        Some(Self { containerd, dir, store, images })
    }

    /// As a new daemon would.
    async fn reopen(self, snapshotter: &str) -> Self {
        let Self { containerd, dir, store, images } = self;
        drop((store, images));
        let (store, images) = open(&containerd, &dir, snapshotter).await;
        images.compare().await.unwrap();
        Self { containerd, dir, store, images }
    }

    async fn load(&self, name: &str, file: &str) -> Arc<Image> {
        let mut layer = Archive::new();
        layer.dir("etc", 0o755);
        layer.file("etc/kept", 0o644, file.as_bytes());
        layer.file("etc/gone", 0o644, b"");
        let archive = docker_archive(name, &layer.finish(), &serde_json::json!({}));
        let body = futures::stream::iter([Ok(Bytes::from(archive))]);
        self.images.load(body, Owner::Docker, &Progress::none()).await.unwrap().remove(0)
    }

    fn ctr(&self, words: &[&str]) -> Vec<String> {
        let said = self.containerd.ctr(&[&["-n", "pouch"], words].concat());
        said.lines().map(|line| line.trim().to_owned()).collect()
    }

    /// What is in the content store and in the snapshotter.
    fn kept(&self, snapshotter: &str) -> (Vec<String>, Vec<String>) {
        let snapshots = self.ctr(&["snapshots", "--snapshotter", snapshotter, "ls"]);
        (self.ctr(&["content", "ls", "-q"]), snapshots[1..].to_vec())
    }

    /// Runs the collector.
    fn collect(&self) {
        let _ = self.ctr(&["leases", "create", "--id", "throw-away"]);
        let _ = self.ctr(&["leases", "delete", "--sync", "throw-away"]);
    }

    async fn remove(&self, name: &str) {
        self.images.remove(name, RemoveOptions::default(), |_| Vec::new()).await.unwrap();
    }
}

fn id(digit: &str) -> ContainerId {
    digit.repeat(64).parse().unwrap()
}

fn layers(image: &Image) -> Vec<Digest> {
    image.diff_ids().copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshotter_that_is_not_there_is_named_with_those_that_are() {
    let Some(rig) = Rig::new("overlayfs").await else { return };
    let opened = ContainerdStore::open(config(&rig.dir, "nope"), pool(&rig.containerd)).await;
    let error = opened.unwrap_err();
    assert!(matches!(error, OpenError::NoSnapshotter { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("\"nope\"") && text.contains("overlayfs") && text.contains("native"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_name_outlives_the_collector_and_goes_with_its_last_one() {
    let Some(rig) = Rig::new("overlayfs").await else { return };
    let image = rig.load("box:1", "one").await;
    let before = rig.kept("overlayfs");
    assert_eq!((before.0.len(), before.1.len()), (3, 1), "manifest, configuration, layer");
    assert_eq!(rig.ctr(&["images", "ls", "-q"]), ["docker.io/library/box:1"]);
    rig.collect();
    assert_eq!(rig.kept("overlayfs"), before);
    rig.images.tag("box:1", &"box:2".parse().unwrap(), Owner::Docker).await.unwrap();
    rig.remove("box:1").await;
    assert_eq!(rig.ctr(&["images", "ls", "-q"]), ["docker.io/library/box:2"]);
    assert_eq!(rig.kept("overlayfs"), before);
    // A name that moves leaves its image without one, and known all the same.
    let second = rig.load("box:2", "two").await;
    assert_ne!(second.id, image.id);
    assert!(rig.images.get(&image.id).unwrap().is_dangling());
    rig.collect();
    assert_eq!(rig.kept("overlayfs").0.len(), 6);
    rig.remove("box:2").await;
    rig.remove(&image.id.to_string()).await;
    assert_eq!(rig.ctr(&["images", "ls", "-q"]), [""; 0]);
    assert_eq!(rig.kept("overlayfs"), (Vec::new(), Vec::new()));
    assert_eq!(rig.ctr(&["leases", "ls", "-q"]), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_was_broken_off_is_kept_until_everything_is_collected() {
    let Some(rig) = Rig::new("overlayfs").await else { return };
    let hold = rig.store.hold().await.unwrap();
    let content = rig.dir.path().join("content");
    let content = ContentStore::open_over(&content, Box::new(rig.store.clone())).unwrap();
    let blob = content.put(Bytes::from_static(b"half of an image")).await.unwrap();
    rig.collect();
    assert!(content.exists(&blob.digest).await.unwrap(), "held while it is worked on");
    drop(hold);
    rig.collect();
    assert!(content.exists(&blob.digest).await.unwrap(), "waits for the next attempt");
    assert_eq!(rig.ctr(&["leases", "ls", "-q"]).len(), 1);
    rig.images.collect(pouch_image::Collect::Everything).await.unwrap();
    assert!(!content.exists(&blob.digest).await.unwrap());
    assert_eq!(rig.ctr(&["leases", "ls", "-q"]), [""; 0]);
}

async fn roots_over(snapshotter: &str) {
    let Some(rig) = Rig::new(snapshotter).await else { return };
    let image = rig.load("box", "one").await;
    let key = id("a");
    rig.store.prepare(&key, &layers(&image)).await.unwrap();
    rig.store.prepare(&key, &layers(&image)).await.unwrap();
    let root = rig.store.mount_detached(&key).await.unwrap();
    root.replace_file("etc/new", b"12345", 0o644).unwrap();
    root.replace_file("etc/kept", b"other", 0o644).unwrap();
    root.remove_file("etc/gone").unwrap();
    drop(root);
    let changes = rig.store.changes(&key).await.unwrap();
    let told: Vec<_> = changes.iter().map(|c| (c.path.to_str().unwrap(), c.kind)).collect();
    let want = [
        ("/etc", ChangeKind::Modified),
        ("/etc/gone", ChangeKind::Deleted),
        ("/etc/kept", ChangeKind::Modified),
        ("/etc/new", ChangeKind::Added),
    ];
    assert_eq!(told, want);
    let mut tar = tar::Archive::new(read(rig.store.diff(&key).await.unwrap()).await);
    let names: Vec<_> =
        tar.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
    assert!(names.contains(&"etc/.wh.gone".to_owned()), "{names:?}");
    assert!(rig.store.usage(&key).await.unwrap().size > 0);
    // It stands while its image goes, and over a restart on either side.
    rig.remove("box").await;
    rig.collect();
    let mut rig = rig.reopen(snapshotter).await;
    rig.containerd.kill9();
    rig.containerd.start_again();
    assert_eq!(rig.store.containers(), std::slice::from_ref(&key));
    let root = rig.store.mount_detached(&key).await.unwrap();
    assert_eq!(root.metadata("etc/new").unwrap().size(), 5);
    drop(root);
    rig.store.remove(&key).await.unwrap();
    rig.store.remove(&key).await.unwrap();
    assert!(rig.store.containers().is_empty());
    rig.collect();
    assert_eq!(rig.kept(snapshotter), (Vec::new(), Vec::new()));
    // What it stood on is gone by now.
    let error = rig.store.prepare(&key, &layers(&image)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(rig.store.containers().is_empty(), "nothing is left of a root that failed");
}

async fn read(mut reader: pouch_snapshot::DiffReader) -> std::io::Cursor<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).await.unwrap();
    std::io::Cursor::new(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_over_overlay() {
    roots_over("overlayfs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roots_over_any_other_snapshotter() {
    roots_over("native").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_others_are_followed() {
    let Some(rig) = Rig::new("overlayfs").await else { return };
    let image = rig.load("box", "one").await;
    let (ours, theirs) = ("docker.io/library/box:latest", "docker.io/library/theirs:1");
    let _ = rig.ctr(&["images", "tag", ours, theirs]);
    // A name that is none here, and one that leads to nothing.
    let _ = rig.ctr(&["images", "tag", ours, "short"]);
    rig.images.follow(theirs).await.unwrap();
    rig.images.follow("short").await.unwrap();
    assert_eq!(rig.images.resolve("theirs:1").unwrap().id, image.id);
    assert_eq!(image.id, rig.images.resolve("box").unwrap().id);
    let _ = rig.ctr(&["images", "rm", theirs]);
    rig.images.follow(theirs).await.unwrap();
    assert!(rig.images.resolve("theirs:1").is_err());
    // All at once, after both were away.
    let _ = rig.ctr(&["images", "tag", ours, theirs]);
    let _ = rig.ctr(&["images", "rm", ours]);
    let rig = rig.reopen("overlayfs").await;
    assert!(rig.images.resolve("box").is_err());
    assert_eq!(rig.images.resolve("theirs:1").unwrap().id, image.id);
    let before = rig.kept("overlayfs");
    let rig = rig.reopen("overlayfs").await;
    assert_eq!(rig.kept("overlayfs"), before);
    assert_eq!(rig.images.resolve("theirs:1").unwrap().id, image.id, "and nothing flaps");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_objects_are_left_alone() {
    let Some(rig) = Rig::new("overlayfs").await else { return };
    let image = rig.load("box", "one").await;
    let ours = "docker.io/library/box:latest";
    let _ = rig.ctr(&["images", "tag", ours, "docker.io/library/theirs:1"]);
    rig.store.prepare(&id("b"), &layers(&image)).await.unwrap();
    for blob in rig.ctr(&["content", "ls", "-q"]) {
        let _ = rig.ctr(&["content", "rm", &blob]);
    }
    let rig = rig.reopen("overlayfs").await;
    assert_eq!(rig.images.resolve("box").unwrap().id, image.id);
    assert!(rig.images.resolve("theirs:1").is_err(), "nobody knows what it was");
    let error = rig.images.save(&["box".to_owned()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    // What a root stands on stays with it.
    assert!(rig.store.mount_detached(&id("b")).await.unwrap().metadata("etc/kept").is_ok());
    std::fs::write(rig.dir.path().join("containerd/roots").join(id("b").as_str()), "{").unwrap();
    let rig = rig.reopen("overlayfs").await;
    assert!(rig.store.mounts(&id("b")).is_err(), "its record is damaged");
    rig.store.remove(&id("b")).await.unwrap();
    rig.remove("box").await;
}
