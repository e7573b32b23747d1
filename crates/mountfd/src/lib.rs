//! Mounts by descriptor: detached copies of mounts, and their attributes. Needs the mount calls of
//! Linux 5.12.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_IDMAP`.
const IDMAP: u64 = 0x0010_0000;

/// Whether what is mounted below goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    One,
    /// With all mounts below it.
    All,
}

impl Depth {
    fn tree(self) -> OpenTreeFlags {
        match self {
            Self::One => OpenTreeFlags::empty(),
            Self::All => OpenTreeFlags::AT_RECURSIVE,
        }
    }

    fn at(self) -> libc::c_int {
        match self {
            Self::One => 0,
            Self::All => libc::AT_RECURSIVE,
        }
    }
}

/// A change of a mount's attributes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Those to set.
    pub set: u64,
    /// Those to clear.
    pub clear: u64,
    /// `MS_SHARED` and its like, or 0 for no change.
    pub propagation: u64,
}

impl Attributes {
    /// Sets these and leaves all else.
    #[must_use]
    pub fn setting(set: u64) -> Self {
        Self { set, ..Self::default() }
    }

    /// Changes the propagation alone.
    #[must_use]
    pub fn propagating(propagation: u64) -> Self {
        Self { propagation, ..Self::default() }
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Changes the mount that the descriptor is of.
    ///
    /// # Errors
    /// The failure of `mount_setattr(2)`.
    pub fn apply(self, mount: BorrowedFd<'_>, depth: Depth) -> io::Result<()> {
        self.call(mount, depth, 0)
    }

    /// As [`Attributes::apply`], and maps ids as the user namespace does. The mount must be
    /// detached, and its file system one that maps (`EINVAL` otherwise).
    ///
    /// # Errors
    /// The failure of `mount_setattr(2)`.
    pub fn map_ids(
        mut self,
        mount: BorrowedFd<'_>,
        depth: Depth,
        namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.set |= IDMAP;
        self.call(mount, depth, u64::from(namespace.as_raw_fd().unsigned_abs()))
    }

    fn call(self, mount: BorrowedFd<'_>, depth: Depth, userns_fd: u64) -> io::Result<()> {
        #[repr(C)]
        struct MountAttr {
            set: u64,
            clear: u64,
            propagation: u64,
            userns_fd: u64,
        }
        let Self { set, clear, propagation } = self;
        let attr = MountAttr { set, clear, propagation, userns_fd };
        // SAFETY: the descriptor is open, the path is a C string, and the kernel reads exactly
        // `size_of::<MountAttr>()` bytes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                mount.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH | depth.at(),
                &raw const attr,
                size_of::<MountAttr>(),
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// A detached copy of the mount at the descriptor, showing what the descriptor is of.
///
/// # Errors
/// The failure of `open_tree(2)`.
pub fn clone_at(fd: BorrowedFd<'_>, depth: Depth) -> rustix::io::Result<OwnedFd> {
    clone(fd, c"", OpenTreeFlags::AT_EMPTY_PATH, depth)
}

/// A detached copy of what is at a path of the host.
///
/// # Errors
/// The failure of `open_tree(2)`.
pub fn clone_path(path: &Path, depth: Depth) -> rustix::io::Result<OwnedFd> {
    clone(CWD, path, OpenTreeFlags::empty(), depth)
}

fn clone<P: rustix::path::Arg>(
    from: BorrowedFd<'_>,
    path: P,
    flags: OpenTreeFlags,
    depth: Depth,
) -> rustix::io::Result<OwnedFd> {
    let always = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(from, path, always | flags | depth.tree())
}
