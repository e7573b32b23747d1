//! Mounts by descriptor: a detached mount is made, given its attributes and then put onto the
//! descriptor of its target.
//!
//! No path is looked up twice, so a process that shares a volume with us cannot move the source or
//! the target in between (CVE-2021-30465, CVE-2025-31133). Needs the mount calls of Linux 5.12.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};

pub(crate) use pouch_mountfd::{Attributes, Depth, RDONLY, clone_at, clone_path};

/// More `MOUNT_ATTR_*` of `linux/mount.h`.
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
