//! Making, finding, mounting and removing volumes.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use pouch_rootfd::{PinnedFd, RootFd};
use pouch_store::Store;
use pouch_types::{Classified, ContainerId, ErrorKind, VolumeName};

use crate::error::{Result, VolumeError};
use crate::local;
use crate::mounts::{self, Mounts};
use crate::record::{self, Record, Volume};

/// Bytes of a marker file that are read.
const MAX_MARKER: u64 = 1 << 20;
const MARKER: &str = "volume.json";
const LOCAL: &str = "local";
const TRASH: &str = ".trash-";

/// Where volumes are.
#[derive(Debug, Clone)]
pub struct VolumeConfig {
    /// Directory of the volumes, made when missing; best `<data-root>/volumes`.
    pub root: PathBuf,
}

/// All volumes. Clones share everything.
#[derive(Debug, Clone)]
pub struct Volumes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: VolumeConfig,
    root: RootFd,
    store: Store,
    mounts: Mounts,
}

/// A volume whose directory exists and whose row does not.
#[derive(Debug, Clone)]
pub struct NewVolume {
    pub(crate) record: Record,
}

impl NewVolume {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &VolumeName {
        &self.record.name
    }
}

impl Volumes {
    /// Opens the directory, deletes what a crash left of removed volumes, and takes up volumes
    /// whose rows were lost.
    ///
    /// # Errors
    /// [`VolumeError::Insecure`], I/O and store errors.
    pub async fn open(config: VolumeConfig, store: Store) -> Result<Self> {
        let directory = config.root.clone();
        let root = blocking(move || open_root(&directory)).await?;
        let inner = Inner { config, root, store, mounts: Mounts::default() };
        let this = Self { inner: Arc::new(inner) };
        let known = this.inner.store.read(record::all).await?;
        let again = this.clone();
        let lost = blocking(move || again.sweep(&known)).await?;
        if !lost.is_empty() {
            let adopt = this.inner.store.write(move |tx| {
                lost.iter().try_for_each(|record| record::insert_record(tx, record).map(drop))
            });
            adopt.await?;
        }
        Ok(this)
    }

    /// Looks through the directory: removed volumes are deleted on a thread of their own, markers
    /// without a row are returned.
    fn sweep(&self, known: &[Record]) -> Result<Vec<Record>> {
        let (mut lost, mut trash) = (Vec::new(), Vec::new());
        for entry in self.inner.root.read_dir("/")? {
            let name = entry?.name;
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(TRASH) {
                trash.push(name.to_owned());
                continue;
            }
            let Ok(name) = name.parse::<VolumeName>() else { continue };
            let row = known.iter().find(|record| record.name == name);
            // A directory without a readable marker is not touched: it may be anybody's.
            match (self.marker(&name), row) {
                (Ok(Marker::Whole(_)), Some(_)) | (Err(_), _) => {}
                (Ok(Marker::Whole(record)), None) => {
                    tracing::info!(volume = %name, "taken up from its directory");
                    lost.push(record);
                }
                // Its making was cut off, after or before the row was written.
                (Ok(Marker::Begun), Some(row)) => self.write_marker(row)?,
                (Ok(Marker::Begun), None) => self.undo(&name)?,
            }
        }
        if !trash.is_empty() {
            let root = self.inner.root.try_clone()?;
            std::thread::Builder::new()
                .name("volume-reaper".into())
                .spawn(move || trash.iter().for_each(|name| delete(&root, name)))
                .map_err(|source| VolumeError::Io {
                    operation: "start thread for",
                    path: self.inner.config.root.clone(),
                    source,
                })?;
        }
        Ok(lost)
    }

    fn marker(&self, name: &VolumeName) -> Result<Marker> {
        let path = Path::new(name.as_str()).join(MARKER);
        let bytes = self.inner.root.read_bounded(&path, MAX_MARKER)?;
        if bytes.is_empty() {
            return Ok(Marker::Begun);
        }
        let record: Record = serde_json::from_slice(&bytes)?;
        if record.name == *name {
            Ok(Marker::Whole(record))
        } else {
            Err(VolumeError::NotOurs { path: self.inner.config.root.join(path) })
        }
    }

    fn write_marker(&self, record: &Record) -> Result<()> {
        let path = Path::new(record.name.as_str()).join(MARKER);
        Ok(self.inner.root.replace_file(path, &serde_json::to_vec(record)?, 0o600)?)
    }

    /// Removes the directory of a volume that was never finished, unless it has content.
    fn undo(&self, name: &VolumeName) -> Result<()> {
        let volume = self.inner.root.resolve(name.as_str())?;
        match volume.remove_dir("_data") {
            Err(error) if !error.is_not_found() => return Ok(()),
            _ => {}
        }
        volume.remove_file(MARKER)?;
        Ok(self.inner.root.remove_dir(name.as_str())?)
    }

    /// Makes a volume, or returns the one of that name. An empty `driver` is `local`; without a
    /// name the volume is anonymous.
    ///
    /// # Errors
    /// [`VolumeError::Differs`] when the name has another driver, or other options and some were
    /// given; [`VolumeError::NoDriver`]; unknown or unusable options by name; I/O and store errors.
    pub async fn create(
        &self,
        name: Option<VolumeName>,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Volume> {
        let new = match self.prepare(name, driver, options, labels).await? {
            Prepared::Exists(volume) => return Ok(volume),
            Prepared::New(new) => new,
        };
        let row = new.clone();
        self.inner.store.write(move |tx| record::insert(tx, &row)).await?;
        self.finish(new).await
    }

    /// The first half of [`Volumes::create`], for callers that add the row to a transaction of
    /// their own by [`insert`](crate::insert) and then call [`Volumes::finish`].
    ///
    /// # Errors
    /// As [`Volumes::create`].
    pub async fn prepare(
        &self,
        name: Option<VolumeName>,
        driver: &str,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Prepared> {
        if !matches!(driver, "" | LOCAL) {
            return Err(VolumeError::NoDriver(driver.to_owned()));
        }
        local::plan(&options)?;
        let anonymous = name.is_none();
        let name = match name {
            Some(name) => name,
            None => random_name()?,
        };
        let record = Record {
            name,
            driver: LOCAL.to_owned(),
            options,
            labels,
            created_at: Timestamp::now(),
            anonymous,
        };
        let wanted = record.name.clone();
        if let Some(there) = self.inner.store.read(move |c| record::get(c, &wanted)).await? {
            compatible(&there, &record)?;
            // Its directory may have been lost with a disk.
            self.directory(&there.name).await?;
            return Ok(Prepared::Exists(there.into_volume(&self.inner.config.root)));
        }
        self.directory(&record.name).await?;
        Ok(Prepared::New(NewVolume { record }))
    }

    /// The second half of [`Volumes::create`], after the row was committed.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn finish(&self, new: NewVolume) -> Result<Volume> {
        let this = self.clone();
        blocking(move || {
            let record = new.record;
            this.write_marker(&record)?;
            Ok(record.into_volume(&this.inner.config.root))
        })
        .await
    }

    async fn directory(&self, name: &VolumeName) -> Result<()> {
        let (this, name) = (self.clone(), name.clone());
        blocking(move || {
            let top = this.inner.root.pin()?;
            let volume = ensure(&top, name.as_str(), 0o711)?;
            match volume.create_file_excl(MARKER, 0o600) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
            ensure(&volume, "_data", 0o755)?;
            Ok(())
        })
        .await
    }

    /// The volume `name`.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], store errors.
    pub async fn get(&self, name: &VolumeName) -> Result<Volume> {
        let wanted = name.clone();
        let found = self.inner.store.read(move |c| record::get(c, &wanted)).await?;
        found
            .map(|record| record.into_volume(&self.inner.config.root))
            .ok_or_else(|| VolumeError::NotFound(name.clone()))
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// Store errors.
    pub async fn list(&self) -> Result<Vec<Volume>> {
        let records = self.inner.store.read(record::all).await?;
        let root = &self.inner.config.root;
        Ok(records.into_iter().map(|record| record.into_volume(root)).collect())
    }

    /// The containers that use each volume; volumes without any are missing.
    ///
    /// # Errors
    /// Store errors.
    pub async fn users(&self) -> Result<BTreeMap<VolumeName, Vec<ContainerId>>> {
        self.inner.store.read(record::all_users).await
    }

    /// Makes the volume ready for `user`: mounts what its options name unless that is mounted.
    /// The same again is no error, so it is also how use is told after a restart of the daemon.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::Mount`], [`VolumeError::Deadline`], I/O errors.
    pub async fn attach(&self, name: &VolumeName, user: &ContainerId) -> Result<PathBuf> {
        let volume = self.get(name).await?;
        if let Some(plan) = local::plan(&volume.options)? {
            self.inner.mounts.attach(&self.inner.root, name, plan, user).await?;
        }
        Ok(volume.mountpoint)
    }

    /// `user` does not need the mount any more; the last one unmounts it. A volume that is gone is
    /// no error.
    ///
    /// # Errors
    /// [`VolumeError::Deadline`], I/O errors.
    pub async fn detach(&self, name: &VolumeName, user: &ContainerId) -> Result<()> {
        match self.get(name).await {
            Ok(volume) if volume.options.is_empty() => Ok(()),
            Ok(_) => self.inner.mounts.detach(&self.inner.root, name, user).await,
            Err(VolumeError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The volume's content, for copying into it or out of it. Waits for what is mounted there.
    ///
    /// # Errors
    /// I/O errors.
    pub fn open_data(&self, name: &VolumeName) -> Result<RootFd> {
        Ok(self.inner.root.subroot(Path::new(name.as_str()).join("_data"))?)
    }

    /// The file or directory `subpath` of a volume, resolved inside the volume. Mount it by
    /// [`PinnedFd::proc_path`], so that nobody can swap it in between.
    ///
    /// # Errors
    /// [`VolumeError::Subpath`], `NotFound`, I/O errors.
    pub fn resolve_subpath(&self, name: &VolumeName, subpath: &str) -> Result<PinnedFd> {
        let path = Path::new(subpath);
        let inside =
            path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !inside || subpath.is_empty() {
            return Err(VolumeError::Subpath(subpath.chars().take(200).collect()));
        }
        Ok(self.open_data(name)?.resolve(path)?)
    }

    /// Bytes on the disk, by walking the volume.
    ///
    /// # Errors
    /// I/O errors.
    pub async fn size(&self, name: &VolumeName) -> Result<u64> {
        let (this, name) = (self.clone(), name.clone());
        blocking(move || crate::prune::size_of(&this.open_data(&name)?)).await
    }

    /// Removes a volume and its content.
    ///
    /// # Errors
    /// [`VolumeError::NotFound`], [`VolumeError::InUse`], [`VolumeError::Mounted`],
    /// [`VolumeError::NotOurs`], I/O and store errors.
    pub async fn remove(&self, name: &VolumeName) -> Result<()> {
        self.get(name).await?;
        let wanted = name.clone();
        let used = self.inner.store.read(move |c| record::users(c, &wanted)).await?;
        if !used.is_empty() {
            return Err(VolumeError::InUse { name: name.clone(), containers: used });
        }
        self.check_ours(name).await?;
        self.inner.mounts.unmount_unused(&self.inner.root, name).await?;
        let wanted = name.clone();
        let delete_row = self.inner.store.write(move |tx| {
            // Asked again here: only the transaction decides.
            let containers = record::users(tx, &wanted)?;
            if !containers.is_empty() {
                return Err(VolumeError::InUse { name: wanted, containers });
            }
            tx.execute("DELETE FROM volumes WHERE name = ?1", [wanted.as_str()])?;
            Ok(())
        });
        delete_row.await?;
        self.inner.mounts.forget(name);
        let (this, name) = (self.clone(), name.clone());
        blocking(move || this.delete_directory(&name)).await
    }

    async fn check_ours(&self, name: &VolumeName) -> Result<()> {
        let (this, name) = (self.clone(), name.clone());
        let path = self.inner.config.root.join(name.as_str());
        blocking(move || match this.marker(&name) {
            Ok(_) => Ok(()),
            // The whole directory is gone: nothing to delete, and the row may go.
            Err(_) if this.inner.root.metadata(name.as_str()).is_err() => Ok(()),
            Err(_) => Err(VolumeError::NotOurs { path }),
        })
        .await
    }

    fn delete_directory(&self, name: &VolumeName) -> Result<()> {
        let root = &self.inner.root;
        let volume = match root.resolve(name.as_str()) {
            Err(error) if error.is_not_found() => return Ok(()),
            found => found?,
        };
        if mounts::is_mounted(&volume)? {
            return Err(VolumeError::Mounted(name.clone()));
        }
        // Renamed first: the name is free at once, and a crash leaves something that the next
        // start recognises.
        let trash = format!("{TRASH}{}", random_name()?);
        root.rename(name.as_str(), &trash)?;
        delete(root, &trash);
        Ok(())
    }
}

/// What the marker file of a directory says.
enum Marker {
    /// A volume.
    Whole(Record),
    /// A volume that is being made.
    Begun,
}

/// What [`Volumes::prepare`] found or made.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// The name has a volume.
    Exists(Volume),
    /// The directory is there; the row is to be written.
    New(NewVolume),
}

fn delete(root: &RootFd, name: &str) {
    if let Err(error) = root.remove_tree(name) {
        // It stays in the trash until the next start.
        tracing::warn!(error = %pouch_types::error::chain(&error), "delete removed volume");
    }
}

/// Whether a request for `wanted` can be answered with `there`. Options count only when some were
/// given: a container that merely names a volume does not repeat them.
pub(crate) fn compatible(there: &Record, wanted: &Record) -> Result<()> {
    let differs = |what| VolumeError::Differs { name: there.name.clone(), what };
    if there.driver != wanted.driver {
        return Err(differs("driver"));
    }
    if !wanted.options.is_empty() && there.options != wanted.options {
        return Err(differs("options"));
    }
    Ok(())
}

/// The directory `name`, made with exactly this mode when missing.
fn ensure(parent: &PinnedFd, name: &str, mode: u32) -> Result<PinnedFd> {
    match parent.create_dir(name, 0o700) {
        Ok(()) => {
            let made = parent.pin_dir(name)?;
            made.chmod(mode)?;
            Ok(made)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(parent.pin_dir(name)?),
        Err(error) => Err(error.into()),
    }
}

fn random_name() -> Result<VolumeName> {
    let io = |e: String| VolumeError::Io {
        operation: "getrandom",
        path: PathBuf::new(),
        source: std::io::Error::other(e),
    };
    let hex = pouch_types::id::random_hex().map_err(|e| io(e.to_string()))?;
    hex.parse().map_err(|e: pouch_types::name::InvalidName| io(e.to_string()))
}

fn open_root(path: &Path) -> Result<RootFd> {
    let made = RootFd::open("/")?.create_dir_all(path, 0o711)?;
    let meta = made.metadata()?;
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & !0o711 != 0 {
        return Err(VolumeError::Insecure { path: path.to_owned(), mode: meta.mode() });
    }
    Ok(RootFd::from_fd(made.into_fd())?)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| VolumeError::Cancelled)?
}
