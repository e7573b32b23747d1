//! Root file systems of containers: active snapshots with the container's id for a key.
//!
//! The mounts of each are kept in `<directory>/<container id>`, so that neither a start nor a look
//! at a container asks for them. The file comes before the snapshot and goes after it: what a crash
//! left in containerd has a file without mounts here and goes with it. A removal that fails because
//! containerd is away is tried again until it succeeds; while there is none, nothing runs here.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pouch_containerd::Error;
use pouch_containerd_grpc::diff::DiffRequest;
use pouch_containerd_grpc::snapshots::{PrepareSnapshotRequest, ViewSnapshotRequest};
use pouch_containerd_grpc::types::Mount;
use pouch_image::Packing;
use pouch_rootfd::RootFd;
use pouch_snapshot::{Change, DiffReader, MountEntry, Roots, SnapshotError, Unpacker, Usage};
use pouch_types::{Classified as _, ContainerId, Digest, ErrorKind};
use serde::{Deserialize, Serialize};

use crate::call::{LAYER, TREE};
use crate::layers::name_of;
use crate::{ContainerdStore, Shared};

type Result<T> = std::result::Result<T, SnapshotError>;

/// Label of what the collector never takes.
const ROOT: &str = "containerd.io/gc.root";
/// Longest file of a record: the mounts of 127 layers are a tenth of it.
const RECORD_MAX: u64 = 1 << 20;

/// The first and the longest pause between attempts to remove what containerd was away for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// A root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    snapshotter: String,
    /// Name of the layer that it stands on; empty for none.
    parent: String,
    /// None until it is made.
    mounts: Option<Vec<Entry>>,
}

/// A mount, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    kind: String,
    source: String,
    options: Vec<String>,
}

/// The roots that are known.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    known: Mutex<HashMap<ContainerId, Record>>,
    /// Those that are to go; there is a task for them while there are any.
    doomed: Mutex<HashSet<ContainerId>>,
}

impl Records {
    pub(crate) fn open(directory: PathBuf) -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut known = HashMap::new();
        for entry in std::fs::read_dir(&directory)? {
            let name = entry?.file_name();
            let Some(id) = name.to_str().and_then(|name| name.parse::<ContainerId>().ok()) else {
                // A file that was being written.
                let _ = std::fs::remove_file(directory.join(name));
                continue;
            };
            let record = read(&directory.join(name)).unwrap_or_else(|error| {
                tracing::warn!(container.id = %id, %error, "the record of a root is damaged");
                Record { snapshotter: String::new(), parent: String::new(), mounts: None }
            });
            known.insert(id, record);
        }
        Ok(Self { directory, known: Mutex::new(known), doomed: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<ContainerId, Record>> {
        // The map is valid after every statement that holds the lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doomed(&self) -> MutexGuard<'_, HashSet<ContainerId>> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &ContainerId) -> Option<Record> {
        self.known().get(key).cloned()
    }

    /// Writes a record down. Not synced by itself: the commit of the container's row, which follows
    /// on the same file system, takes the file along.
    async fn put(&self, key: &ContainerId, record: Record) -> std::io::Result<()> {
        self.known().insert(key.clone(), record.clone());
        let (directory, name) = (self.directory.clone(), key.to_string());
        let write = move || {
            let mut file = tempfile::Builder::new().prefix("new-").tempfile_in(&directory)?;
            serde_json::to_writer(&mut file, &record)?;
            file.flush()?;
            file.persist(directory.join(name)).map_err(|e| e.error)?;
            Ok(())
        };
        tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
    }

    fn forget(&self, key: &ContainerId) -> std::io::Result<()> {
        match std::fs::remove_file(self.directory.join(key.as_str())) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.known().remove(key);
        Ok(())
    }

    fn io(
        &self,
        operation: &'static str,
        key: &ContainerId,
    ) -> impl FnOnce(std::io::Error) -> SnapshotError {
        let path = self.directory.join(key.as_str());
        move |source| SnapshotError::Io { operation, path, source }
    }
}

fn read(path: &Path) -> std::io::Result<Record> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(RECORD_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

impl From<Mount> for Entry {
    fn from(mount: Mount) -> Self {
        Self { kind: mount.r#type, source: mount.source, options: mount.options }
    }
}

impl From<Entry> for MountEntry {
    fn from(entry: Entry) -> Self {
        Self { kind: entry.kind, source: entry.source, options: entry.options }
    }
}

impl From<Entry> for Mount {
    fn from(entry: Entry) -> Self {
        Self {
            r#type: entry.kind,
            source: entry.source,
            target: String::new(),
            options: entry.options,
        }
    }
}

/// An error with the name that its object has in containerd.
fn failed(doing: impl Into<String>) -> impl FnOnce(Error) -> SnapshotError {
    let doing = doing.into();
    move |error| SnapshotError::Elsewhere { doing, kind: error.kind(), source: Box::new(error) }
}

/// What is compared with a container's root: the layers below it.
#[derive(Debug)]
struct View {
    key: String,
    mounts: Vec<Entry>,
}

impl Shared {
    fn root(&self, key: &ContainerId) -> Result<(Record, Vec<Entry>)> {
        let record = self.roots.get(key).ok_or_else(|| SnapshotError::NoContainer(key.clone()))?;
        let mounts = record.mounts.clone();
        let mounts = mounts.ok_or_else(|| SnapshotError::NoContainer(key.clone()))?;
        Ok((record, mounts))
    }

    async fn make_root(&self, key: &ContainerId, record: &Record) -> Result<Vec<Entry>> {
        let call = self.call("prepare a root", TREE);
        let now = jiff::Timestamp::now().to_string();
        let request = call.request(PrepareSnapshotRequest {
            snapshotter: record.snapshotter.clone(),
            key: key.to_string(),
            parent: record.parent.clone(),
            labels: HashMap::from([(ROOT.to_owned(), now)]),
        });
        let answer = call.answer(self.pool.snapshots().prepare(request)).await;
        let doing =
            format!("prepare a snapshot of {} over {:?}", record.snapshotter, record.parent);
        let mounts = answer.map_err(failed(doing))?.mounts;
        Ok(mounts.into_iter().map(Entry::from).collect())
    }

    /// The layers below a root, to be let go with [`Shared::let_go`].
    async fn view(&self, record: &Record) -> Result<View> {
        let key = format!("pouch-view-{}", random()?);
        let call = self.making("view a snapshot", TREE);
        let request = call.request(ViewSnapshotRequest {
            snapshotter: record.snapshotter.clone(),
            key: key.clone(),
            parent: record.parent.clone(),
            labels: HashMap::new(),
        });
        let answer = call.answer(self.pool.snapshots().view(request)).await;
        let doing = format!("view {:?} of {}", record.parent, record.snapshotter);
        let mounts = answer.map_err(failed(doing))?.mounts;
        Ok(View { key, mounts: mounts.into_iter().map(Entry::from).collect() })
    }

    async fn let_go(&self, record: &Record, view: View) {
        if let Err(error) = self.remove_snapshot(&record.snapshotter, &view.key).await {
            tracing::warn!(%error, key = view.key, "a view is left to its lease");
        }
    }

    /// What lies in `right` and not in `left`, as a plain tar in the content store, then as a file.
    async fn difference(&self, left: &[Entry], right: &[Entry]) -> Result<std::fs::File> {
        let call = self.making("compare a container with its image", LAYER);
        let mounts = |entries: &[Entry]| entries.iter().cloned().map(Mount::from).collect();
        let request = call.request(DiffRequest {
            left: mounts(left),
            right: mounts(right),
            media_type: Packing::Tar.media_type().to_owned(),
            r#ref: format!("pouch-diff-{}", random()?),
            labels: HashMap::new(),
        });
        let answer = call.answer(self.pool.diff().diff(request)).await;
        let diff = answer.map_err(failed("compare the container with its image"))?.diff;
        let digest: Option<Digest> = diff.and_then(|diff| diff.digest.parse().ok());
        let digest = digest.ok_or_else(|| {
            failed("compare the container with its image")(Error::Codec(
                "containerd made no layer of it".to_owned(),
            ))
        })?;
        let (file, _) = self.blob_file(&digest).await.map_err(failed("read the changes"))?;
        Ok(file)
    }
}

fn random() -> Result<String> {
    let random = pouch_types::id::random_hex()
        .map_err(|e| failed("find a name")(Error::Codec(format!("no random bytes: {e}"))))?;
    Ok(random[..16].to_owned())
}

impl ContainerdStore {
    /// What a container changed, and what it stands on for `look` at both.
    async fn compared<T: Send + 'static>(
        &self,
        key: &ContainerId,
        look: impl FnOnce(std::fs::File, Option<RootFd>) -> Result<T> + Send + 'static,
        lower: Lower,
    ) -> Result<T> {
        let shared = &self.shared;
        let (record, mounts) = shared.root(key)?;
        let hold = shared.leases.hold().await.map_err(failed("make a lease"))?;
        let view = shared.view(&record).await?;
        let made = async {
            let file = shared.difference(&view.mounts, &mounts).await?;
            let below: Vec<MountEntry> = view.mounts.iter().cloned().map(Into::into).collect();
            let state = shared.config.state.clone();
            let work = move || {
                let below = match lower {
                    Lower::Opened => Some(pouch_snapshot::open_mounts(&below, &state)?),
                    Lower::Ignored => None,
                };
                look(file, below)
            };
            tokio::task::spawn_blocking(work).await.map_err(|_| SnapshotError::Cancelled)?
        }
        .await;
        shared.let_go(&record, view).await;
        hold.release();
        made
    }
}

impl ContainerdStore {
    async fn remove_now(&self, key: &ContainerId) -> Result<()> {
        let shared = &self.shared;
        let Some(record) = shared.roots.get(key) else { return Ok(()) };
        // A damaged record does not say.
        let snapshotter = match record.snapshotter.as_str() {
            "" => &shared.config.snapshotter,
            known => known,
        };
        let removed = shared.remove_snapshot(snapshotter, key.as_str()).await;
        removed.map_err(failed(format!("remove the snapshot of {snapshotter}")))?;
        shared.roots.forget(key).map_err(shared.roots.io("remove", key))
    }

    /// Removes a root as soon as it can be done.
    fn remove_later(&self, key: ContainerId) {
        let mut doomed = self.shared.roots.doomed();
        let first = doomed.is_empty();
        doomed.insert(key);
        if first {
            self.shared.runtime.spawn(sweep(self.clone()));
        }
    }
}

async fn sweep(store: ContainerdStore) {
    let mut pause = PAUSES.0;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
        let doomed: Vec<ContainerId> = store.shared.roots.doomed().iter().cloned().collect();
        for key in doomed {
            match store.remove_now(&key).await {
                Ok(()) => {
                    tracing::info!(container.id = %key, "removed a root that was left in containerd");
                    let mut doomed = store.shared.roots.doomed();
                    doomed.remove(&key);
                    if doomed.is_empty() {
                        return;
                    }
                }
                Err(error) => {
                    let error = pouch_types::error::chain(&error);
                    tracing::debug!(container.id = %key, error, "not removed from containerd yet");
                }
            }
        }
    }
}

/// Whether the layers below are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lower {
    Opened,
    Ignored,
}

#[async_trait]
impl Roots for ContainerdStore {
    fn driver(&self) -> &str {
        &self.shared.config.snapshotter
    }

    fn unpacker(&self) -> &Unpacker {
        &self.shared.unpacker
    }

    async fn prepare(&self, key: &ContainerId, layers: &[Digest]) -> Result<()> {
        let shared = &self.shared;
        let parent = name_of(layers);
        match shared.roots.get(key) {
            Some(Record { mounts: Some(_), parent: there, .. }) if there == parent => return Ok(()),
            Some(Record { mounts: Some(_), .. }) => return Err(SnapshotError::Exists(key.clone())),
            Some(Record { mounts: None, .. }) | None => {}
        }
        let snapshotter = shared.config.snapshotter.clone();
        let mut record = Record { snapshotter, parent, mounts: None };
        let written = shared.roots.put(key, record.clone()).await;
        written.map_err(shared.roots.io("write", key))?;
        let made = match shared.make_root(key, &record).await {
            Ok(mounts) => {
                record.mounts = Some(mounts);
                let written = shared.roots.put(key, record).await;
                written.map_err(shared.roots.io("write", key))
            }
            Err(error) => Err(error),
        };
        if made.is_err() {
            // What is left of it goes now or later; why it failed is what is told.
            let _ = self.remove(key).await;
        }
        made
    }

    fn containers(&self) -> Vec<ContainerId> {
        self.shared.roots.known().keys().cloned().collect()
    }

    fn mounts(&self, key: &ContainerId) -> Result<Vec<MountEntry>> {
        let (_, mounts) = self.shared.root(key)?;
        Ok(mounts.into_iter().map(Into::into).collect())
    }

    async fn mount_detached(&self, key: &ContainerId) -> Result<RootFd> {
        let mounts = self.mounts(key)?;
        let state = self.shared.config.state.clone();
        let open = move || pouch_snapshot::open_mounts(&mounts, &state);
        tokio::task::spawn_blocking(open).await.map_err(|_| SnapshotError::Cancelled)?
    }

    fn upper_path(&self, key: &ContainerId) -> Option<PathBuf> {
        let (_, mounts) = self.shared.root(key).ok()?;
        let mut options = mounts.iter().flat_map(|mount| &mount.options);
        let upper = options.find_map(|option| option.strip_prefix("upperdir="));
        // A snapshotter that copies gives the directory itself.
        let copied = || match mounts.as_slice() {
            [only] if only.kind == "bind" => Some(only.source.as_str()),
            _ => None,
        };
        upper.or_else(copied).map(PathBuf::from)
    }

    async fn diff(&self, key: &ContainerId) -> Result<DiffReader> {
        let file = self.compared(key, |file, _| Ok(file), Lower::Ignored).await?;
        Ok(Box::new(tokio::fs::File::from_std(file)))
    }

    async fn changes(&self, key: &ContainerId) -> Result<Vec<Change>> {
        let look = |file, lower: Option<RootFd>| pouch_snapshot::changes_in(file, lower);
        self.compared(key, look, Lower::Opened).await
    }

    async fn usage(&self, key: &ContainerId) -> Result<Usage> {
        let (record, _) = self.shared.root(key)?;
        let usage = self.shared.usage_of(&record.snapshotter, key.as_str()).await;
        let usage = usage.map_err(failed("measure the snapshot of the container"))?;
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Usage { size: count(usage.size), inodes: count(usage.inodes) })
    }

    async fn remove(&self, key: &ContainerId) -> Result<()> {
        match self.remove_now(key).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                let error = pouch_types::error::chain(&error);
                tracing::warn!(container.id = %key, error, "a root goes when containerd is back");
                self.remove_later(key.clone());
                Ok(())
            }
            other => other,
        }
    }
}
