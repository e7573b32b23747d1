//! The directories on disk, opening them, and what is known in memory.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pouch_rootfd::{PinnedFd, RootFd};
use pouch_store::Store;
use pouch_types::{ContainerId, Digest};

use crate::archive::Unpacker;
use crate::container;
use crate::error::{Result, SnapshotError};
use crate::layer::{self, LayerInfo};
use crate::mount::Overlay;
use crate::reaper::{Reaper, When};
use crate::rounds::Rounds;

/// Where things are.
#[derive(Debug, Clone)]
pub struct SnapshotConfig {
    /// Directory for layers and containers, made when missing; best `<data-root>/overlay`.
    pub root: PathBuf,
    /// Directory for what does not survive a reboot; best `<exec-root>/overlay`.
    pub state: PathBuf,
    /// The `pouch-unpack` program.
    pub unpack_binary: PathBuf,
}

/// Layers and the root file systems over them. Clones share everything.
#[derive(Debug, Clone)]
pub struct Snapshotter {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: SnapshotConfig,
    pub(crate) root: RootFd,
    pub(crate) store: Store,
    pub(crate) overlay: Overlay,
    pub(crate) unpacker: Unpacker,
    pub(crate) reaper: Reaper,
    pub(crate) syncs: Rounds,
    index: Mutex<Index>,
    /// One lock per layer that is being applied.
    pub(crate) applying: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) layers: HashMap<Digest, LayerInfo>,
    pub(crate) containers: HashMap<ContainerId, Vec<Digest>>,
    /// The next number for a layer directory.
    pub(crate) next_layer: i64,
}

impl Index {
    pub(crate) fn users(&self, layer: &Digest) -> usize {
        self.containers.values().filter(|layers| layers.contains(layer)).count()
    }
}

impl Snapshotter {
    /// Opens the directories, makes what is missing, removes what a crash left, and tries an
    /// overlay mount.
    ///
    /// # Errors
    /// [`SnapshotError::Insecure`], [`SnapshotError::Overlay`], I/O and store errors.
    pub async fn open(config: SnapshotConfig, store: Store) -> Result<Self> {
        let rows = layer::load(&store).await?;
        let opening = move || Self::open_blocking(config, store, rows);
        tokio::task::spawn_blocking(opening).await.map_err(|_| SnapshotError::Cancelled)?
    }

    fn open_blocking(config: SnapshotConfig, store: Store, rows: Vec<LayerInfo>) -> Result<Self> {
        let root = private_directory(&config.root)?;
        let state = private_directory(&config.state)?;
        for name in ["l", "c", "s", "t"] {
            root.create_dir_all(name, 0o700)?;
        }
        short_link(&state, &config)?;
        let mut index = Index { next_layer: 1, ..Index::default() };
        let (staging, trash) = (root.resolve("s")?, root.resolve("t")?);
        for entry in staging.read_dir()? {
            discard(&staging, entry?.name.as_os_str(), &trash, When::BySize)?;
        }
        load_layers(&root, &trash, rows, &mut index)?;
        container::load(&root, &trash, &mut index)?;
        let overlay = Overlay::probe(&root, &config)?;
        let reaper = Reaper::start(root.try_clone()?)?;
        let unpacker = Unpacker::new(config.unpack_binary.clone());
        let inner = Inner {
            config,
            root,
            store,
            overlay,
            unpacker,
            reaper,
            syncs: Rounds::default(),
            index: Mutex::new(index),
            applying: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The program that reads foreign archives.
    #[must_use]
    pub fn unpacker(&self) -> &Unpacker {
        &self.inner.unpacker
    }

    /// Moves `directory/name` out of sight and has it deleted.
    pub(crate) fn throw_away(&self, directory: &str, name: &str, when: When) -> Result<()> {
        let root = &self.inner.root;
        discard(&root.resolve(directory)?, name.as_ref(), &root.resolve("t")?, when)?;
        self.inner.reaper.wake();
        Ok(())
    }
}

impl Inner {
    pub(crate) fn index(&self) -> MutexGuard<'_, Index> {
        // No code that holds the lock can panic half-way through a change.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs `work` on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SnapshotError::Cancelled)?
}

/// Renames `name` into the trash under a name that nothing has.
pub(crate) fn discard(
    from: &PinnedFd,
    name: &std::ffi::OsStr,
    trash: &PinnedFd,
    when: When,
) -> Result<()> {
    let unique = format!("{}{}", when.prefix(), random_name()?);
    match from.rename(name, trash, unique.as_str()) {
        Err(error) if error.is_not_found() => Ok(()),
        done => Ok(done?),
    }
}

/// A name for a temporary directory.
pub(crate) fn random_name() -> Result<String> {
    let id = ContainerId::random()
        .map_err(|e| SnapshotError::io("getrandom", "", std::io::Error::other(e)))?;
    Ok(id.short().to_owned())
}

/// Opens a directory that only we may enter, making it when missing.
fn private_directory(path: &Path) -> Result<RootFd> {
    let made = RootFd::open("/")?.create_dir_all(path, 0o700)?;
    let meta = made.metadata()?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !ours || meta.mode() & !0o710 != 0 {
        return Err(SnapshotError::Insecure { path: path.to_owned(), mode: meta.mode() });
    }
    Ok(RootFd::from_fd(made.into_fd())?)
}

/// Makes `<state>/l` lead to `<root>/l`.
fn short_link(state: &RootFd, config: &SnapshotConfig) -> Result<()> {
    let target = config.root.join("l");
    match state.read_link("l") {
        Ok(there) if there == target => return Ok(()),
        Ok(_) => state.remove_file("l")?,
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(state.symlink(&target, "l")?)
}

/// Fills the index from the rows; rows without a directory and directories without a row go.
fn load_layers(
    root: &RootFd,
    trash: &PinnedFd,
    rows: Vec<LayerInfo>,
    index: &mut Index,
) -> Result<()> {
    let directory = root.resolve("l")?;
    let mut there = HashSet::new();
    for entry in directory.read_dir()? {
        let name = entry?.name;
        match name.to_str().and_then(|name| name.parse::<i64>().ok()) {
            Some(number) => {
                there.insert(number);
            }
            None => discard(&directory, &name, trash, When::Now)?,
        }
    }
    for row in rows {
        index.next_layer = index.next_layer.max(row.number + 1);
        if there.remove(&row.number) {
            index.layers.insert(row.diff_id, row);
        } else {
            tracing::warn!(layer = %row.diff_id, "the directory of a layer is gone");
        }
    }
    for number in there {
        index.next_layer = index.next_layer.max(number + 1);
        discard(&directory, number.to_string().as_ref(), trash, When::BySize)?;
    }
    Ok(())
}
