//! The writable root file system of a container.

use std::path::PathBuf;

use pouch_rootfd::{FileType, PinnedFd, RootFd};
use pouch_types::{ContainerId, Digest};

use crate::error::{Result, SnapshotError};
use crate::layout::{Index, Snapshotter, blocking, discard, random_name};
use crate::mount::{self, MountEntry, Stack};
use crate::reaper::When;

/// As Docker: 125 for images leaves room for what a build adds.
pub(crate) const MAX_LAYERS: usize = 127;
/// Longest `lower` file: a digest and a newline per layer.
const MAX_LOWER: u64 = 72 * MAX_LAYERS as u64;

/// Fills the index with the containers on disk. A container whose `lower` file is missing or
/// damaged keeps its directory: [`Snapshotter::prepare`] with the engine's record repairs it.
pub(crate) fn load(root: &RootFd, trash: &PinnedFd, index: &mut Index) -> Result<()> {
    let directory = root.resolve("c")?;
    for entry in directory.read_dir()? {
        let name = entry?.name;
        let Some(id) = name.to_str().and_then(|name| name.parse::<ContainerId>().ok()) else {
            // A container that was being made.
            discard(&directory, &name, trash, When::Now)?;
            continue;
        };
        match read_lower(root, &id) {
            Ok(layers) => {
                index.containers.insert(id, layers);
            }
            Err(error) => tracing::warn!(
                container.id = %id,
                error = %pouch_types::error::chain(&error),
                "layers of a container are not known"
            ),
        }
    }
    Ok(())
}

fn read_lower(root: &RootFd, id: &ContainerId) -> Result<Vec<Digest>> {
    let path = PathBuf::from("c").join(id.as_str()).join("lower");
    let text = root.read_to_string_bounded(&path, MAX_LOWER)?;
    let parsed: std::result::Result<Vec<Digest>, _> = text.lines().map(str::parse).collect();
    // The last line ends the record, so a torn write cannot pass for a shorter list.
    match parsed {
        Ok(layers) if text.is_empty() || text.ends_with('\n') => Ok(layers),
        _ => Err(SnapshotError::Damaged { path }),
    }
}

fn write_lower(root: &RootFd, directory: &str, layers: &[Digest]) -> Result<()> {
    let text: String = layers.iter().map(|layer| format!("{layer}\n")).collect();
    Ok(root.replace_file(format!("c/{directory}/lower"), text.as_bytes(), 0o600)?)
}

impl Snapshotter {
    /// Makes the writable directory of container `key` over `layers`, bottom first. The same call
    /// again is no error, and writes the list of layers anew where it was lost.
    ///
    /// # Errors
    /// [`SnapshotError::NoLayer`], [`SnapshotError::TooManyLayers`], [`SnapshotError::Exists`] over
    /// other layers, I/O errors.
    pub async fn prepare(&self, key: &ContainerId, layers: &[Digest]) -> Result<()> {
        if layers.len() > MAX_LAYERS {
            return Err(SnapshotError::TooManyLayers { layers: layers.len(), most: MAX_LAYERS });
        }
        let (top, new) = {
            let mut index = self.inner.index();
            if let Some(missing) = layers.iter().find(|l| !index.layers.contains_key(l)) {
                return Err(SnapshotError::NoLayer(*missing));
            }
            let new = match index.containers.get(key) {
                Some(there) if there == layers => false,
                Some(_) => return Err(SnapshotError::Exists(key.clone())),
                // Taken before the directory exists, so that the layers cannot go meanwhile.
                None => {
                    index.containers.insert(key.clone(), layers.to_vec());
                    true
                }
            };
            (layers.last().and_then(|top| index.layers.get(top)).map(|top| top.number), new)
        };
        let (this, id, list) = (self.clone(), key.clone(), layers.to_vec());
        let made = blocking(move || this.make_container(&id, &list, top)).await;
        if made.is_err() && new {
            self.inner.index().containers.remove(key);
        }
        made
    }

    fn make_container(&self, key: &ContainerId, layers: &[Digest], top: Option<i64>) -> Result<()> {
        let root = &self.inner.root;
        let containers = root.resolve("c")?;
        match containers.metadata_of(key.as_str()) {
            Ok(_) => {
                return match read_lower(root, key) {
                    Ok(there) if there == layers => Ok(()),
                    _ => write_lower(root, key.as_str(), layers),
                };
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        // Made under another name: what has the container's name is whole.
        let name = format!("new-{}", random_name()?);
        containers.create_dir(&name, 0o700)?;
        let fill = || {
            let directory = containers.pin_dir(&name)?;
            directory.create_dir("work", 0o700)?;
            directory.create_dir("fs", 0o755)?;
            let fs = directory.pin_dir("fs")?;
            // Overlay shows the upper directory's own attributes as those of `/`.
            let (mode, uid, gid) = match top {
                None => (0o755, 0, 0),
                Some(number) => {
                    let meta = root.resolve("l")?.metadata_of(number.to_string())?;
                    (meta.mode(), meta.uid(), meta.gid())
                }
            };
            fs.chown(Some(uid), Some(gid))?;
            fs.chmod(mode)?;
            write_lower(root, &name, layers)?;
            Ok(containers.rename_noreplace(&name, &containers, key.as_str())?)
        };
        let filled: Result<()> = fill();
        if filled.is_err() {
            self.throw_away("c", &name, When::Now)?;
        }
        filled
    }

    /// Whether the container has a root file system.
    #[must_use]
    pub fn has_container(&self, key: &ContainerId) -> bool {
        self.inner.index().containers.contains_key(key)
    }

    /// The containers that have a root file system.
    #[must_use]
    pub fn containers(&self) -> Vec<ContainerId> {
        self.inner.index().containers.keys().cloned().collect()
    }

    /// The layer directories of `key`, and its own.
    pub(crate) fn stack(&self, key: &ContainerId) -> Result<Stack> {
        let index = self.inner.index();
        let layers =
            index.containers.get(key).ok_or_else(|| SnapshotError::NoContainer(key.clone()))?;
        let mut lower = Vec::with_capacity(layers.len());
        for layer in layers.iter().rev() {
            let layer = index.layers.get(layer).ok_or(SnapshotError::NoLayer(*layer))?;
            lower.push(layer.number);
            if layer.opaque_root {
                // Overlay takes no notice of an opaque mark on the top directory.
                break;
            }
        }
        Ok(Stack { lower, container: key.clone() })
    }

    /// What a shim mounts as the root of container `key`, as containerd describes mounts.
    ///
    /// # Errors
    /// [`SnapshotError::NoContainer`], [`SnapshotError::NoLayer`], and
    /// [`SnapshotError::TooManyLayers`] when the paths do not fit into one page.
    pub fn mounts(&self, key: &ContainerId) -> Result<Vec<MountEntry>> {
        let stack = self.stack(key)?;
        Ok(vec![self.inner.overlay.entry(&self.inner.config, &stack)?])
    }

    /// Mounts the root file system of `key` where nobody sees it. The mount lives as long as the
    /// descriptor and what is opened through it.
    ///
    /// For containers that do not run: the kernel does not define two mounts of one upper
    /// directory. A running container is reached through `/proc/<pid>/root`.
    ///
    /// # Errors
    /// As [`Snapshotter::mounts`], and [`SnapshotError::Overlay`].
    pub async fn mount_detached(&self, key: &ContainerId) -> Result<RootFd> {
        let stack = self.stack(key)?;
        let this = self.clone();
        blocking(move || this.inner.overlay.mount(&this.inner.config, &stack)).await
    }

    /// Path of the writable layer on the host, for `inspect`; nothing is opened by it.
    #[must_use]
    pub fn upper_path(&self, key: &ContainerId) -> PathBuf {
        self.inner.config.root.join(format!("c/{key}/fs"))
    }

    /// The directory that holds what container `key` changed, for
    /// [`Unpacker::diff`](crate::Unpacker::diff).
    ///
    /// # Errors
    /// [`SnapshotError::NoContainer`], I/O errors.
    pub fn upper(&self, key: &ContainerId) -> Result<RootFd> {
        if !self.has_container(key) {
            return Err(SnapshotError::NoContainer(key.clone()));
        }
        Ok(self.inner.root.subroot(format!("c/{key}/fs"))?)
    }

    /// Everything below the upper directory of `key`, or `None` when there is nothing to see.
    pub(crate) fn lower_view(&self, key: &ContainerId) -> Result<Option<RootFd>> {
        let stack = self.stack(key)?;
        mount::lower_view(&self.inner.overlay, &self.inner.config, &stack)
    }

    /// Removes the root file system of `key`; deletion itself happens in the background. One that
    /// is not there is no error.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn remove(&self, key: &ContainerId) -> Result<()> {
        let (this, id) = (self.clone(), key.clone());
        blocking(move || this.throw_away("c", id.as_str(), When::Now)).await?;
        self.inner.index().containers.remove(key);
        Ok(())
    }
}

/// Overlay's mark for a removed file.
pub(crate) fn is_whiteout(meta: &pouch_rootfd::Metadata) -> bool {
    meta.file_type() == FileType::CharacterDevice && meta.special_device() == (0, 0)
}
