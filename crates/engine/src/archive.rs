//! `cp`, `export`, `diff` and sizes: the files of a container from outside.
//!
//! The root of a running container is opened through its main process, so that its volumes and
//! mounts are seen as it sees them; of one that does not run, through a mount that nobody else
//! sees, and a path below a volume or bind mount is looked up in its source. All work below the
//! root is done by pouch-unpack.

use std::path::Path;

use pouch_rootfd::RootFd;
use pouch_snapshot::{Change, PathStat};
use pouch_types::spec::MountKind;
use tokio::io::AsyncRead;

use crate::api::PutOptions;
use crate::container::Container;
use crate::view::ContainerView;
use crate::{Engine, EngineError};

/// A root and the path to look up below it.
struct Place {
    root: RootFd,
    path: String,
    read_only: bool,
}

impl Engine {
    /// What lies at a path.
    ///
    /// # Errors
    /// `NotFound` for the container or the path.
    pub async fn archive_stat(&self, key: &str, path: &str) -> Result<PathStat, EngineError> {
        let place = self.place(key, path).await?;
        let archives = self.inner.snapshots.unpacker();
        archives.stat(&place.root, &place.path).await.map_err(|e| missing(key, path, e))
    }

    /// What lies at a path, as a tar.
    ///
    /// # Errors
    /// As [`Engine::archive_stat`].
    pub async fn archive_get(
        &self,
        key: &str,
        path: &str,
    ) -> Result<(PathStat, Box<dyn AsyncRead + Send + Unpin>), EngineError> {
        let place = self.place(key, path).await?;
        let archives = self.inner.snapshots.unpacker();
        let stat =
            archives.stat(&place.root, &place.path).await.map_err(|e| missing(key, path, e))?;
        let reader = archives.get(&place.root, &place.path).map_err(|e| missing(key, path, e))?;
        self.announce(key, "archive-path");
        Ok((stat, Box::new(reader)))
    }

    /// Extracts a tar into a directory.
    ///
    /// # Errors
    /// `NotFound` for the path, `Invalid` when it is no directory or the archive is malformed,
    /// `Denied` when it is mounted read-only.
    pub async fn archive_put<R>(
        &self,
        key: &str,
        path: &str,
        options: PutOptions,
        tar: R,
    ) -> Result<(), EngineError>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let place = self.place(key, path).await?;
        if place.read_only {
            return Err(EngineError::new(
                pouch_types::ErrorKind::Denied,
                format!("container rootfs or mount at {path} is marked read-only"),
            ));
        }
        let put = pouch_snapshot::PutOptions {
            replace: if options.no_overwrite_dir_non_dir {
                pouch_snapshot::Replace::NotDirectories
            } else {
                pouch_snapshot::Replace::Anything
            },
            chown: if options.copy_uid_gid { self.owner_of_copies(key).await? } else { None },
        };
        self.inner
            .snapshots
            .unpacker()
            .put(&place.root, &place.path, put, tar)
            .await
            .map_err(|e| missing(key, path, e))?;
        self.announce(key, "extract-to-dir");
        Ok(())
    }

    /// The user that a container's copies are given to on request: its own, when it names one.
    async fn owner_of_copies(&self, key: &str) -> Result<Option<(u32, u32)>, EngineError> {
        let container = self.find(key)?;
        let process = container.view().spec.process.clone();
        if process.user.is_empty() {
            return Ok(None);
        }
        let root = if container.view().state.is_running() {
            running_root(&container)?
        } else {
            let root = self.inner.snapshots.mount_detached(&container.id).await;
            root.map_err(|e| EngineError::wrap("open the root file system", e))?
        };
        let user = crate::lifecycle::start::look_up(root, process).await?;
        Ok(Some((user.uid, user.gid)))
    }

    /// The whole root file system as a tar.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn export(
        &self,
        key: &str,
    ) -> Result<Box<dyn AsyncRead + Send + Unpin>, EngineError> {
        let place = self.place(key, "/").await?;
        let reader = self
            .inner
            .snapshots
            .unpacker()
            .export(&place.root)
            .map_err(|e| EngineError::wrap("export the container", e))?;
        self.announce(key, "export");
        Ok(Box::new(reader))
    }

    /// What the container changed of its image's files.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn changes(&self, key: &str) -> Result<Vec<Change>, EngineError> {
        let container = self.find(key)?;
        let changes = self.inner.snapshots.changes(&container.id).await;
        changes.map_err(|e| EngineError::wrap("compare with the image", e))
    }

    /// Bytes of the writable layer, and of it with the image.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn size(&self, key: &str) -> Result<(u64, u64), EngineError> {
        let container = self.find(key)?;
        let usage = self.written(key).await?;
        let image = container.view().image.to_string();
        let below = self.inner.images.resolve(&image).map_or(0, |image| image.size);
        Ok((usage.size, usage.size + below))
    }

    /// What a container has written into its root file system, by walking it.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn written(&self, key: &str) -> Result<pouch_snapshot::Usage, EngineError> {
        let container = self.find(key)?;
        let usage = self.inner.snapshots.usage(&container.id).await;
        usage.map_err(|e| EngineError::wrap("measure the container", e))
    }

    fn announce(&self, key: &str, action: &str) {
        if let Ok(view) = self.view(key) {
            let attributes = crate::engine::view_attributes(&view);
            self.inner.announce_container(action, &view.id, attributes);
        }
    }

    async fn place(&self, key: &str, path: &str) -> Result<Place, EngineError> {
        let container = self.find(key)?;
        let view = container.view();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let read_only = mounted_read_only(&view, &path);
        if view.state.is_running() {
            return Ok(Place { root: running_root(&container)?, path, read_only });
        }
        if let Some((source, rest)) = mounted_at(&view, &path) {
            let root = RootFd::open(&source)
                .map_err(|e| EngineError::wrap(format!("open the mount {source}"), e))?;
            return Ok(Place { root, path: rest, read_only });
        }
        let root = self
            .inner
            .snapshots
            .mount_detached(&container.id)
            .await
            .map_err(|e| EngineError::wrap("open the root file system", e))?;
        Ok(Place { root, path, read_only })
    }
}

/// The root as the main process sees it.
fn running_root(container: &Container) -> Result<RootFd, EngineError> {
    let pid = container.task()?.pid();
    RootFd::open(format!("/proc/{pid}/root"))
        .map_err(|e| EngineError::wrap("open the container's root", e))
}

fn missing(key: &str, path: &str, error: pouch_snapshot::SnapshotError) -> EngineError {
    use pouch_types::Classified as _;
    if error.kind() == pouch_types::ErrorKind::NotFound {
        let message = format!("Could not find the file {path} in container {key}");
        EngineError::new(pouch_types::ErrorKind::NotFound, message)
    } else {
        EngineError::wrap(format!("cannot reach {path} in container {key}"), error)
    }
}

/// The innermost mount above a path.
fn mount_above<'a>(view: &'a ContainerView, path: &str) -> Option<&'a crate::view::MountPoint> {
    view.mounts
        .iter()
        .filter(|m| Path::new(path).starts_with(&m.spec.destination))
        .max_by_key(|m| m.spec.destination.len())
}

fn mounted_read_only(view: &ContainerView, path: &str) -> bool {
    mount_above(view, path).map_or(view.spec.read_only_rootfs, |m| m.spec.read_only)
}

/// The source of the mount above a path and what is left of the path; not for tmpfs, which only
/// exists while the container runs.
fn mounted_at(view: &ContainerView, path: &str) -> Option<(String, String)> {
    let mount = mount_above(view, path)?;
    if matches!(mount.spec.kind, MountKind::Tmpfs { .. }) {
        return None;
    }
    let rest = Path::new(path).strip_prefix(&mount.spec.destination).ok()?;
    let mut below = format!("/{}", rest.display());
    // A trailing "/." means the content of a directory.
    if path.ends_with("/.") && !below.ends_with("/.") {
        below.push_str(if below.ends_with('/') { "." } else { "/." });
    }
    Some((mount.source.clone(), below))
}
