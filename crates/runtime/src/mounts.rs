//! Mounts by descriptor: a detached mount is made, given its attributes and then put onto the
//! descriptor of its target.
//!
//! No path is looked up twice, so a process that shares a volume with us cannot move the source or
//! the target in between (CVE-2021-30465, CVE-2025-31133). Needs the mount calls of Linux 5.12.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// `MOUNT_ATTR_*` of `linux/mount.h`.
pub(crate) const RDONLY: u64 = 0x1;
pub(crate) const NOSUID: u64 = 0x2;
pub(crate) const NODEV: u64 = 0x4;
pub(crate) const NOEXEC: u64 = 0x8;
/// The field of the access time; its values follow.
pub(crate) const ATIME: u64 = 0x70;
pub(crate) const RELATIME: u64 = 0x0;
pub(crate) const NOATIME: u64 = 0x10;
pub(crate) const STRICTATIME: u64 = 0x20;
pub(crate) const NODIRATIME: u64 = 0x80;
pub(crate) const NOSYMFOLLOW: u64 = 0x0020_0000;
const IDMAP: u64 = 0x0010_0000;

/// Whether what is mounted below goes along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
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
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// `MS_SHARED` and its like, or 0 for no change.
    pub(crate) propagation: u64,
}

impl Attributes {
    pub(crate) fn setting(set: u64) -> Self {
        Self { set, ..Self::default() }
    }

    pub(crate) fn propagating(propagation: u64) -> Self {
        Self { propagation, ..Self::default() }
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Changes the mount that the descriptor is of.
    pub(crate) fn apply(self, mount: BorrowedFd<'_>, depth: Depth) -> io::Result<()> {
        self.call(mount, depth, 0)
    }

    /// As [`Attributes::apply`], and maps ids as the user namespace does. The mount must be
    /// detached.
    pub(crate) fn map_ids(
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
pub(crate) fn clone_at(fd: BorrowedFd<'_>, depth: Depth) -> rustix::io::Result<OwnedFd> {
    clone(fd, c"", OpenTreeFlags::AT_EMPTY_PATH, depth)
}

/// A detached copy of what is at a path of the host.
pub(crate) fn clone_path(path: &Path, depth: Depth) -> rustix::io::Result<OwnedFd> {
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

/// Puts a detached mount over its target.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, c"", target, c"", flags)
}

/// A file system that could not be made, with the kernel's own words where it has some.
#[derive(Debug)]
pub(crate) struct FilesystemError {
    pub(crate) source: io::Error,
    pub(crate) message: String,
}

/// A detached mount of a new file system. Parameters are `name=value` or a bare name.
pub(crate) fn new_filesystem<'a>(
    kind: &str,
    source: Option<&str>,
    parameters: impl IntoIterator<Item = &'a str>,
    attributes: u64,
) -> Result<OwnedFd, FilesystemError> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| FilesystemError {
        source: error.into(),
        message: format!("file system type {kind:?}"),
    })?;
    let mut here = None;
    let make = || {
        if let Some(source) = source {
            fsconfig_set_string(context.as_fd(), c"source", source)?;
        }
        for parameter in parameters {
            match parameter.split_once('=') {
                Some(("lowerdir", layers)) if layers.len() > STRING_MAX => {
                    here = set_layers(context.as_fd(), layers)?;
                }
                Some((name, value)) => fsconfig_set_string(context.as_fd(), name, value)?,
                None => fsconfig_set_flag(context.as_fd(), parameter)?,
            }
        }
        fsconfig_create(context.as_fd())?;
        // All attributes here have the values of the flags of fsmount.
        let flags = MountAttrFlags::from_bits_retain(u32::try_from(attributes).unwrap_or_default());
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)
    };
    let made = make();
    let back = here.map_or(Ok(()), rustix::process::fchdir);
    made.and_then(|made| back.map(|()| made))
        .map_err(|error| FilesystemError { source: error.into(), message: last_words(&context) })
}

/// Bytes of a value that `fsconfig` takes (fs/fsopen.c); overlay's list of layers is often longer.
const STRING_MAX: usize = 255;

/// Gives overlay a long list of layers: relative to the directory that they have in common, or one
/// by one, which takes Linux 6.7. For the former the working directory is another one until the file
/// system is made, as older kernels look at the list only then; what is returned leads back. Whoever
/// is here has no other threads.
fn set_layers(context: BorrowedFd<'_>, list: &str) -> rustix::io::Result<Option<OwnedFd>> {
    match relative(list).filter(|(_, short)| short.len() <= STRING_MAX) {
        Some((base, short)) => {
            let here = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
            rustix::process::chdir(base)?;
            let set = fsconfig_set_string(context, "lowerdir", short);
            set.or_else(|error| rustix::process::fchdir(&here).and(Err(error)))?;
            Ok(Some(here))
        }
        None => {
            let layers = layers(list);
            layers.iter().try_for_each(|l| fsconfig_set_string(context, "lowerdir+", l))?;
            Ok(None)
        }
    }
}

/// The paths of a list in which colons separate and a backslash escapes.
fn layers(list: &str) -> Vec<String> {
    let mut layers = vec![String::new()];
    let mut rest = list.chars();
    while let Some(c) = rest.next() {
        match (c, layers.last_mut()) {
            (':', _) => layers.push(String::new()),
            ('\\', Some(last)) => last.extend(rest.next()),
            (c, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    layers
}

/// The deepest directory that all layers of a list are below, and the list from there.
fn relative(list: &str) -> Option<(&str, String)> {
    let all: Vec<&str> = list.split(':').collect();
    // What is escaped stays so, which a directory to enter must not be.
    let (first, others) = all.split_first().filter(|_| !list.contains('\\'))?;
    let ends = first.match_indices('/').map(|(end, _)| end).rev();
    let mut bases = ends.filter_map(|end| first.split_at_checked(end + 1)).map(|(base, _)| base);
    let base = bases.find(|base| others.iter().all(|layer| layer.starts_with(base)))?;
    let short: Vec<&str> = all.iter().filter_map(|layer| layer.strip_prefix(base)).collect();
    Some((base, short.join(":")))
}

/// What the kernel logged to a file system context: one message for each read, after a letter for
/// its level and a blank.
fn last_words(context: &OwnedFd) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut buffer) {
        let text = buffer.get(..length).map(String::from_utf8_lossy).unwrap_or_default();
        messages.push(text.trim_end().get(2..).unwrap_or_default().to_owned());
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_apart_and_shortened() {
        assert_eq!(layers("/a/1:/a/2"), ["/a/1", "/a/2"]);
        assert_eq!(layers(r"/a\:b:/c\\d"), ["/a:b", r"/c\d"]);
        let list = "/s/snapshots/12/fs:/s/snapshots/13/fs:/s/snapshots/1/fs";
        assert_eq!(relative(list), Some(("/s/snapshots/", "12/fs:13/fs:1/fs".to_owned())));
        assert_eq!(relative("/a/x:/b/x"), Some(("/", "a/x:b/x".to_owned())));
        assert_eq!(relative("a:b"), None);
    }

    #[test]
    fn an_overlay_has_more_layers_than_a_string_names() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let here = std::env::current_dir().unwrap();
        // Together too long; without what they share as well, or not.
        for (shared, own) in [(1, 20), (20, 1)] {
            let top = tempfile::tempdir().unwrap();
            let shared = top.path().join("layer".repeat(shared));
            let name = |n: u32| shared.join(format!("{}{n}", "layer".repeat(own)));
            for n in 0..8 {
                std::fs::create_dir_all(name(n)).unwrap();
                std::fs::write(name(n).join(n.to_string()), "x").unwrap();
            }
            let all: Vec<_> = (0..8).map(|n| name(n).display().to_string()).collect();
            let parameter = format!("lowerdir={}", all.join(":"));
            let made = new_filesystem("overlay", Some("overlay"), [parameter.as_str()], RDONLY);
            let made = made.unwrap();
            for n in 0..8 {
                rustix::fs::statat(&made, n.to_string(), rustix::fs::AtFlags::empty()).unwrap();
            }
            assert_eq!(std::env::current_dir().unwrap(), here);
        }
    }

    #[test]
    fn the_kernel_says_what_it_does_not_know() {
        if !rustix::process::geteuid().is_root() {
            println!("not root");
            return;
        }
        assert!(new_filesystem("tmpfs", Some("tmpfs"), ["size=64k", "mode=755"], RDONLY).is_ok());
        let error = new_filesystem("tmpfs", None, ["colour=red"], 0).unwrap_err();
        assert!(error.message.contains("colour"), "{error:?}");
        let error = new_filesystem("no-such-type", None, [], 0).unwrap_err();
        assert!(error.message.contains("no-such-type"), "{error:?}");
    }
}
