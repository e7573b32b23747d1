//! The control groups as a container sees them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::options::Options;
use super::{DIRECTORY_MODE, Root, failed, place};
use crate::cgroup::View;
use crate::error::RuntimeError;
use crate::mounts::{self, Attributes, Depth, FilesystemError};

/// Where hosts have the unified hierarchy.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Mounts the view at `destination`.
pub(super) fn mount(
    root: &Root,
    destination: &Path,
    options: &Options,
    view: &View,
) -> Result<(), RuntimeError> {
    let target = root.directory(destination)?;
    let cannot = |error: FilesystemError| RuntimeError::Mount {
        from: Path::new("cgroup").to_owned(),
        to: destination.to_owned(),
        hint: error.message,
        source: error.source,
    };
    let in_context = |error| failed(Path::new("cgroup"), destination, error);
    match view {
        View::Unified => {
            let attributes = options.own.set;
            let made = match mounts::new_filesystem("cgroup2", Some("cgroup"), [], attributes) {
                // In a user namespace that does not own the cgroup namespace.
                Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                    bind(Path::new(UNIFIED), options).map_err(in_context)?
                }
                made => made.map_err(cannot)?,
            };
            place(&made, &target, options).map_err(in_context)
        }
        View::Hierarchies(hierarchies) => {
            let attributes = mounts::NOSUID | mounts::NODEV | mounts::NOEXEC;
            let top = mounts::new_filesystem("tmpfs", Some("cgroup"), ["mode=755"], attributes)
                .map_err(cannot)?;
            // Read-only comes last, because it must be filled first.
            mounts::attach(top.as_fd(), target.as_fd()).map_err(|e| in_context(e.into()))?;
            for (name, path) in hierarchies {
                hierarchy(&top, name, path, options)
                    .map_err(|error| failed(path, &destination.join(name), error))?;
            }
            let readonly = (options.own.set | options.recursive.set) & mounts::RDONLY;
            let readonly = Attributes::setting(readonly);
            if readonly.is_empty() {
                return Ok(());
            }
            readonly.apply(top.as_fd(), Depth::All).map_err(in_context)
        }
    }
}

/// One hierarchy of version 1, with a link for each of its controllers when there are several.
///
/// The container's directory is bound rather than mounted anew: with or without a cgroup namespace
/// it is the root of what the container sees.
fn hierarchy(top: &OwnedFd, name: &OsStr, path: &Path, options: &Options) -> std::io::Result<()> {
    rustix::fs::mkdirat(top, name, DIRECTORY_MODE)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(top, name, flags, Mode::empty())?;
    mounts::attach(bind(path, options)?.as_fd(), target.as_fd())?;
    let text = name.to_string_lossy();
    for controller in text.split(',').filter(|_| text.contains(',')) {
        match rustix::fs::symlinkat(name, top, controller) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn bind(path: &Path, options: &Options) -> std::io::Result<OwnedFd> {
    let tree = mounts::clone_path(path, Depth::One)?;
    options.own.apply(tree.as_fd(), Depth::One)?;
    Ok(tree)
}
