//! The file that keeps a namespace alive: made, recognised, removed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::UnshareFlags;

use crate::{Ipv6, Netns, NetnsError, loopback};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;
const SELF: &str = "/proc/thread-self/ns/net";
/// Mounts that may be stacked on one path before [`remove`] gives up.
const STACKED: usize = 16;

/// Runs on a thread of its own: it leaves that thread in the new namespace.
pub(crate) fn create(path: &Path, ipv6: Ipv6) -> Result<Netns, NetnsError> {
    touch(path)?;
    let made = unshare(path).and_then(|()| {
        mount_bind(SELF, path).map_err(NetnsError::io("pin", path))?;
        sysctls(ipv6).map_err(NetnsError::io("configure", path))?;
        loopback::up().map_err(NetnsError::io("bring up lo in", path))?;
        Netns::open(path)
    });
    if made.is_err() {
        // The first error is the one to tell; the path is ours, so nothing else is hit.
        let _ = remove(path);
    }
    made
}

pub(crate) fn touch(path: &Path) -> Result<(), NetnsError> {
    let create = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let made = match create() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(NetnsError::io("make the directory of", path))?;
            create()
        }
        other => other,
    };
    match made {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(NetnsError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(NetnsError::io("make the file of", path)(error)),
    }
}

#[expect(unsafe_code, reason = "rustix marks all of unshare unsafe because of CLONE_FILES")]
fn unshare(path: &Path) -> Result<(), NetnsError> {
    // SAFETY: only the network namespace of this thread changes; no descriptor table, file system
    // root or memory is unshared, so what other threads rely on stays.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(NetnsError::io("make", path))
}

/// Sets the defaults that interfaces made later inherit; `/proc/sys/net` shows the namespace of
/// the thread that opens it. A kernel without IPv6 has no such files and needs none.
pub(crate) fn sysctls(ipv6: Ipv6) -> io::Result<()> {
    const DEFAULTS: &str = "/proc/sys/net/ipv6/conf/default";
    let set = |name: &str, value: &str| match fs::write(format!("{DEFAULTS}/{name}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    set("accept_ra", "0")?;
    match ipv6 {
        Ipv6::Disabled => set("disable_ipv6", "1"),
        Ipv6::Enabled => Ok(()),
    }
}

pub(crate) fn open_current() -> Result<Netns, NetnsError> {
    let path = Path::new(SELF);
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(NetnsError::io("open", path))?;
    Ok(Netns { fd, path: path.to_owned() })
}

pub(crate) fn expect_nsfs(fd: BorrowedFd<'_>, path: &Path) -> Result<(), NetnsError> {
    let stat = rustix::fs::fstatfs(fd).map_err(NetnsError::io("examine", path))?;
    if stat.f_type == NSFS_MAGIC {
        Ok(())
    } else {
        Err(NetnsError::NotANamespace { path: path.to_owned() })
    }
}

/// Takes the pin away; the namespace goes when its last process and descriptor have gone. Doing
/// it again is no error.
///
/// # Errors
/// [`NetnsError::Io`] when the kernel refuses; what is at `path` and is no pin is unlinked only if
/// it is an empty regular file.
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    for _ in 0..STACKED {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            // Not a mount point: all mounts are gone.
            Err(Errno::INVAL) => break,
            Err(source) => return Err(NetnsError::io("unpin", path)(source)),
        }
    }
    let meta = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(NetnsError::io("examine", path))?,
    };
    if !meta.is_file() || meta.len() != 0 {
        return Err(NetnsError::NotANamespace { path: path.to_owned() });
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(NetnsError::io("unlink", path)(error))
        }
        _ => Ok(()),
    }
}

/// The paths of all pins in `directory`, whether their namespaces are alive or not, so that the
/// caller removes those that belong to nobody. A missing directory has none.
///
/// # Errors
/// [`NetnsError::Io`] when the directory cannot be read.
pub fn list(directory: &Path) -> Result<Vec<PathBuf>, NetnsError> {
    let failed = || NetnsError::io("list", directory);
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed())?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(failed())?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Whether a live namespace is pinned on `path`.
#[cfg(test)]
pub(crate) fn is_pinned(path: &Path) -> bool {
    {
        use std::os::fd::AsFd;
        fs::File::open(path).is_ok_and(|file| expect_nsfs(file.as_fd(), path).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_is_idempotent_and_spares_foreign_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ns");
        remove(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(!is_pinned(&path));
        assert!(matches!(Netns::open(&path), Err(NetnsError::NotANamespace { .. })));
        if rustix::process::geteuid().is_root() {
            remove(&path).unwrap();
            assert!(!path.exists());
            fs::write(&path, "data").unwrap();
            assert!(matches!(remove(&path), Err(NetnsError::NotANamespace { .. })));
            assert!(path.exists());
        } else {
            println!("half skipped: umount needs root");
        }
    }

    #[test]
    fn a_missing_directory_lists_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(list(&directory.path().join("none")).unwrap().is_empty());
        fs::write(directory.path().join("b"), "").unwrap();
        fs::write(directory.path().join("a"), "").unwrap();
        assert_eq!(list(directory.path()).unwrap().len(), 2);
    }
}
