//! Root file systems of containers with ids of their own (Linux 5.19).
//!
//! The mount option `idmap=PATH` names a pinned user namespace. The layers of an overlay are
//! copied as mounts that show their files as that namespace's, and the overlay is made of the
//! copies: no file is changed, and all containers share the layers whatever ids they have. What
//! the container writes has its own ids, so the upper directory is not mapped; its root begins as
//! the lower root appears.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use pouch_mountfd::{Attributes, Depth};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, move_mount};

use crate::error::TaskError;

/// The option's name with its sign.
pub(crate) const OPTION: &str = "idmap=";
/// Layers of one overlay; the kernel takes 500.
const MAX_LAYERS: usize = 500;

/// A user namespace whose ids a mount gets.
pub(crate) struct IdMap {
    path: PathBuf,
    namespace: File,
}

impl IdMap {
    pub(crate) fn open(path: &str) -> Result<Self, TaskError> {
        let path = PathBuf::from(path);
        let namespace =
            File::open(&path).map_err(TaskError::io("open the user namespace", &path))?;
        Ok(Self { path, namespace })
    }

    /// A detached copy of what is at `path`, with its mounts below if `flags` say so.
    fn copy(&self, path: &Path, flags: MountFlags) -> Result<OwnedFd, TaskError> {
        let depth = if flags.contains(MountFlags::REC) { Depth::All } else { Depth::One };
        let copy = pouch_mountfd::clone_path(path, depth)
            .map_err(TaskError::errno("copy the mount of", path))?;
        Attributes::default()
            .map_ids(copy.as_fd(), depth, self.namespace.as_fd())
            .map_err(TaskError::io("map the ids of", path))?;
        Ok(copy)
    }

    /// Mounts `source` at `target` with mapped ids; other flags are the caller's.
    pub(crate) fn bind(
        &self,
        source: &Path,
        target: &Path,
        flags: MountFlags,
    ) -> Result<(), TaskError> {
        attach(&self.copy(source, flags)?, target)
    }

    /// The options of an overlay at `target` with mapped copies for its layers, which are mounted
    /// until the [`Layers`] go: the overlay keeps its own.
    pub(crate) fn layers(
        &self,
        options: &[String],
        target: &Path,
    ) -> Result<(Vec<String>, Layers), TaskError> {
        let invalid = |detail: &str| TaskError::Invalid {
            what: "mount options",
            detail: format!("{detail} (idmap of {})", self.path.display()),
        };
        let lower = options.iter().find_map(|option| option.strip_prefix("lowerdir="));
        let lower = lower.ok_or_else(|| invalid("no lowerdir"))?;
        let lower: Vec<&Path> = lower.split(':').map(Path::new).collect();
        if lower.len() > MAX_LAYERS {
            return Err(invalid("too many layers"));
        }
        let mut name = target.as_os_str().to_owned();
        name.push(".l");
        let mut layers = Layers { directory: name.into(), mounted: Vec::new() };
        std::fs::create_dir(&layers.directory).map_err(TaskError::io("make", &layers.directory))?;
        for (index, layer) in lower.iter().enumerate() {
            let copy = self.copy(layer, MountFlags::empty())?;
            if let (0, Some(upper)) =
                (index, options.iter().find_map(|option| option.strip_prefix("upperdir=")))
            {
                begin_as(Path::new(upper), layer, &copy)?;
            }
            let point = layers.directory.join(index.to_string());
            std::fs::create_dir(&point).map_err(TaskError::io("make", &point))?;
            layers.mounted.push(point.clone());
            attach(&copy, &point)?;
        }
        let points: Vec<_> = layers.mounted.iter().map(|point| point.to_string_lossy()).collect();
        let lower = format!("lowerdir={}", points.join(":"));
        let options = options
            .iter()
            .map(|option| if option.starts_with("lowerdir=") { &lower } else { option })
            .cloned()
            .collect();
        Ok((options, layers))
    }
}

/// Gives the root of an upper directory that nobody changed yet to whom the lower one's appears
/// to belong.
fn begin_as(upper: &Path, layer: &Path, copy: &OwnedFd) -> Result<(), TaskError> {
    let owner = |path: &Path| {
        let metadata = std::fs::metadata(path).map_err(TaskError::io("inspect", path))?;
        Ok::<_, TaskError>((metadata.uid(), metadata.gid()))
    };
    let mapped = rustix::fs::fstat(copy).map_err(TaskError::errno("inspect", layer))?;
    let (uid, gid) = owner(upper)?;
    // Ids that a container has never are those of the unmapped layers.
    if (uid, gid) == owner(layer)? && (uid, gid) != (mapped.st_uid, mapped.st_gid) {
        std::os::unix::fs::chown(upper, Some(mapped.st_uid), Some(mapped.st_gid))
            .map_err(TaskError::io("give away", upper))?;
    }
    Ok(())
}

fn attach(mount: &OwnedFd, target: &Path) -> Result<(), TaskError> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(TaskError::errno("mount at", target))
}

/// Mapped copies of layers, as long as an overlay is being made of them.
pub(crate) struct Layers {
    directory: PathBuf,
    mounted: Vec<PathBuf>,
}

impl Drop for Layers {
    fn drop(&mut self) {
        for point in &self.mounted {
            // One that was not attached is none; what stays is the mount namespace's, which ends
            // with the shim.
            let _ = rustix::mount::unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
            let _ = std::fs::remove_dir(point);
        }
        let _ = std::fs::remove_dir(&self.directory);
    }
}
