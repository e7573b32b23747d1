//! The root of a container: the bundle's root file system with the mounts, device nodes and links
//! of the specification, made in the container's new mount namespace and then entered.
//!
//! The image chose what is below the root, and other containers may change its volumes meanwhile:
//! every path is walked inside the root by descriptor, and every mount goes onto a descriptor.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{Linux, Mount, Spec};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags};

use crate::cgroup::View;
use crate::error::{IoContext, RuntimeError, SystemContext};
use crate::idmap::Copies;
use crate::mounts::{self, Attributes, Depth};

mod cgroups;
mod devices;
pub(crate) mod options;

pub(crate) use devices::Nodes;
use options::Options;

/// Directories that are made for mounts.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);
/// Links that one path may lead through, as in the kernel.
const LINKS_MAX: u32 = 40;

/// What a mount's target must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    /// Anything else.
    File,
}

/// Whether a path of the container may lead through links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Followed,
    /// For the file systems that the runtime itself relies on.
    Refused,
}

/// A root that is being made.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Mounts the root file system and everything of the specification below it.
    pub(crate) fn prepare(
        spec: &Spec,
        rootfs: &Path,
        nodes: Nodes,
        cgroups: &View,
        copies: &Copies,
    ) -> Result<Self, RuntimeError> {
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| RuntimeError::Invalid(String::from("the specification lacks linux")))?;
        // Modes are given in full. Hooks come later and have the caller's mask.
        let mask = rustix::process::umask(Mode::empty());
        detach_from_host(linux, rootfs)?;
        let open = |path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
        let (fd, under) = match copies.root() {
            None => {
                let fd = mounts::clone_path(rootfs, Depth::All).context("clone", rootfs)?;
                (fd, open(rootfs).context("open", rootfs)?)
            }
            Some(copy) => {
                let fd = rustix::io::fcntl_dupfd_cloexec(copy, 3).context("clone", rootfs)?;
                let under = match open(rootfs) {
                    // In a directory that is closed to others. Where it is does not matter to who
                    // will not see anything else.
                    Err(Errno::ACCESS) => open(Path::new("/")),
                    other => other,
                };
                (fd, under.context("open", rootfs)?)
            }
        };
        mounts::attach(fd.as_fd(), under.as_fd()).context("mount", rootfs)?;
        let root = Self { fd };
        let mut late = Vec::new();
        let list = spec.mounts().as_deref().unwrap_or_default();
        for (index, mount) in list.iter().enumerate() {
            late.extend(root.mount(mount, linux, cgroups, copies.get(index))?);
        }
        let foreign_devices = list.iter().any(|mount| {
            mount.destination() == Path::new("/dev") && mount.typ().as_deref() == Some("bind")
        });
        if !foreign_devices {
            devices::furnish(&root, linux.devices().as_deref().unwrap_or_default(), nodes)?;
        }
        for mount in late {
            Attributes::setting(mounts::RDONLY)
                .apply(mount.as_fd(), Depth::One)
                .call("mount_setattr(/dev, read-only)")?;
        }
        rustix::process::umask(mask);
        Ok(root)
    }

    /// Makes this the root of the mount namespace; the old one is let go.
    pub(crate) fn pivot(self) -> Result<(), RuntimeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old =
            rustix::fs::open("/", flags, Mode::empty()).context("open the old", Path::new("/"))?;
        rustix::process::fchdir(&self.fd).call("entering the new root")?;
        // The old root lands on top of the new one, so that no directory is needed for it.
        rustix::process::pivot_root(".", ".").call("pivot_root")?;
        rustix::process::fchdir(&old).call("entering the old root")?;
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        rustix::mount::mount_change(".", slave).call("detaching the old root from the host")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).call("unmounting the old root")?;
        rustix::process::chdir("/").call("entering the new root")
    }

    /// As [`Root::pivot`], where the old root is an initial ramdisk, which cannot be pivoted.
    pub(crate) fn move_to_top(self) -> Result<(), RuntimeError> {
        rustix::process::fchdir(&self.fd).call("entering the new root")?;
        // What the host mounted there would stay reachable below the moved root.
        for path in ["/sys", "/proc"] {
            rustix::mount::unmount(path, UnmountFlags::DETACH)
                .context("unmount", Path::new(path))?;
        }
        rustix::mount::mount_move(".", "/").call("moving the mount to the root")?;
        rustix::process::chroot(".").call("chroot")?;
        rustix::process::chdir("/").call("chdir")
    }

    /// Makes one mount. What must become read-only only when all is made is returned.
    fn mount(
        &self,
        mount: &Mount,
        linux: &Linux,
        cgroups: &View,
        copy: Option<&OwnedFd>,
    ) -> Result<Option<OwnedFd>, RuntimeError> {
        let mut options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
        let kind = mount.typ().as_deref().unwrap_or_default();
        let destination = mount.destination();
        if options.bind.is_none() && matches!(kind, "bind" | "none" | "") {
            options.bind = Some(Depth::One);
        }
        if let Some(depth) = options.bind {
            self.bind(mount, &options, depth, copy)?;
            return Ok(None);
        }
        if matches!(kind, "cgroup" | "cgroup2") {
            cgroups::mount(self, destination, &options, cgroups)?;
            return Ok(None);
        }
        let links = if matches!(kind, "proc" | "sysfs") { Links::Refused } else { Links::Followed };
        let target = self.target(destination, Kind::Directory, links)?;
        let label = linux.mount_label().as_deref().filter(|label| !label.is_empty());
        let label = label.filter(|_| links == Links::Followed).map(|l| format!("context={l}"));
        let parameters = options.parameters.iter().map(String::as_str).chain(label.as_deref());
        let late = destination == Path::new("/dev") && options.own.set & mounts::RDONLY != 0;
        let now = if late { options.own.set & !mounts::RDONLY } else { options.own.set };
        let source = mount.source().as_deref().and_then(Path::to_str);
        let made = mounts::new_filesystem(kind, source, parameters, now).map_err(|error| {
            let from = PathBuf::from(source.unwrap_or(kind));
            let to = destination.to_owned();
            RuntimeError::Mount { from, to, hint: error.message, source: error.source }
        })?;
        place(&made, &target, &options)
            .map_err(|source| failed(Path::new(kind), destination, source))?;
        Ok(late.then_some(made))
    }

    fn bind(
        &self,
        mount: &Mount,
        options: &Options,
        depth: Depth,
        copy: Option<&OwnedFd>,
    ) -> Result<(), RuntimeError> {
        let destination = mount.destination();
        let from = mount.source().as_deref().ok_or_else(|| {
            RuntimeError::Invalid(format!("the bind mount at {destination:?} has no source"))
        })?;
        let in_context = |source: io::Error| failed(from, destination, source);
        let own;
        let tree = match copy {
            Some(copy) => copy,
            None => {
                own = mounts::clone_path(from, depth).map_err(|e| in_context(e.into()))?;
                &own
            }
        };
        let stat = rustix::fs::fstat(tree).map_err(|e| in_context(e.into()))?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            _ => Kind::File,
        };
        let target = self.target(destination, kind, Links::Followed)?;
        if !options.own.is_empty() {
            options.own.apply(tree.as_fd(), Depth::One).map_err(in_context)?;
        }
        place(tree, &target, options).map_err(in_context)
    }

    /// The target of a mount, made if it is not there.
    fn target(
        &self,
        destination: &Path,
        kind: Kind,
        links: Links,
    ) -> Result<OwnedFd, RuntimeError> {
        let inside = destination.strip_prefix("/").unwrap_or(destination);
        if inside.components().all(|c| !matches!(c, Component::Normal(_))) {
            return Err(RuntimeError::Invalid(format!("mount destination {destination:?}")));
        }
        let refused = match links {
            Links::Followed => ResolveFlags::NO_MAGICLINKS,
            Links::Refused => ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS,
        };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | refused;
        let found = match rustix::fs::openat2(&self.fd, inside, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => self.make(inside, kind, links),
            other => other,
        };
        match found {
            Err(Errno::LOOP) if links == Links::Refused => Err(RuntimeError::Invalid(format!(
                "{destination:?} is or is below a link: it must be an ordinary directory"
            ))),
            other => other.context("make the mount point", destination),
        }
    }

    /// Walks a path and makes what is missing. The answer of each step is a descriptor and no link
    /// is followed by the kernel, so nothing can be made outside, whoever changes the tree.
    fn make(&self, path: &Path, kind: Kind, links: Links) -> Result<OwnedFd, Errno> {
        let mut rest: VecDeque<OsString> = parts(path).collect();
        let mut way: Vec<OwnedFd> = Vec::new();
        let mut followed = 0;
        while let Some(name) = rest.pop_front() {
            if name == ".." {
                way.pop();
                continue;
            }
            let here = way.last().map_or_else(|| self.fd.as_fd(), AsFd::as_fd);
            let last = if rest.is_empty() { kind } else { Kind::Directory };
            let found = open_or_make(here, &name, last)?;
            let stat = rustix::fs::fstat(&found)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                followed += 1;
                if links == Links::Refused || followed > LINKS_MAX {
                    return Err(Errno::LOOP);
                }
                let target = rustix::fs::readlinkat(&found, "", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    way.clear();
                }
                for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                    rest.push_front(part);
                }
                continue;
            }
            way.push(found);
        }
        // A link to the root itself leaves nothing.
        way.pop().ok_or(Errno::BUSY)
    }

    /// A directory inside, made if it is not there.
    fn directory(&self, path: &Path) -> Result<OwnedFd, RuntimeError> {
        self.target(path, Kind::Directory, Links::Followed)
    }
}

/// The names of a path, with `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        _ => None,
    })
}

fn open_or_make(parent: BorrowedFd<'_>, name: &OsStr, kind: Kind) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(parent, name, DIRECTORY_MODE),
        Kind::File => make_file(parent, name, Mode::from_raw_mode(0o755)),
    };
    match made {
        // Somebody else was faster.
        Ok(()) | Err(Errno::EXIST) => rustix::fs::openat(parent, name, flags, Mode::empty()),
        Err(error) => Err(error),
    }
}

/// An empty file to mount onto.
fn make_file(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    rustix::fs::mknodat(parent, name, FileType::RegularFile, mode, 0)
}

/// Nothing that happens in this namespace may reach the host's, unless the specification wants
/// it, and `pivot_root(2)` wants the mount above the new root to be private.
fn detach_from_host(linux: &Linux, rootfs: &Path) -> Result<(), RuntimeError> {
    let propagation = linux.rootfs_propagation().as_deref().unwrap_or_default();
    let kind = match propagation {
        "shared" | "rshared" => MountPropagationFlags::SHARED,
        "private" | "rprivate" => MountPropagationFlags::PRIVATE,
        "" | "slave" | "rslave" | "unbindable" | "runbindable" => MountPropagationFlags::DOWNSTREAM,
        other => return Err(RuntimeError::Invalid(format!("rootfsPropagation {other:?}"))),
    };
    rustix::mount::mount_change("/", kind | MountPropagationFlags::REC)
        .call("setting the propagation of the mount namespace")?;
    if kind != MountPropagationFlags::SHARED {
        return Ok(());
    }
    for above in rootfs.ancestors() {
        match rustix::mount::mount_change(above, MountPropagationFlags::PRIVATE) {
            // Not a mount point.
            Err(Errno::INVAL) => {}
            other => return other.context("make private", above),
        }
    }
    Ok(())
}

/// What the specification wants of the new root once it is the root.
pub(crate) fn set_propagation(linux: &Linux) -> Result<(), RuntimeError> {
    let kind = match linux.rootfs_propagation().as_deref() {
        Some("shared" | "rshared") => MountPropagationFlags::SHARED,
        Some("unbindable" | "runbindable") => MountPropagationFlags::UNBINDABLE,
        _ => return Ok(()),
    };
    rustix::mount::mount_change("/", kind).call("setting the propagation of the root")
}

/// Puts a mount onto its target and gives it what concerns all that is below it.
fn place(mount: &OwnedFd, target: &OwnedFd, options: &Options) -> io::Result<()> {
    if !options.recursive.is_empty() {
        options.recursive.apply(mount.as_fd(), Depth::All)?;
    }
    mounts::attach(mount.as_fd(), target.as_fd())?;
    for (kind, depth) in &options.propagation {
        Attributes::propagating(*kind).apply(mount.as_fd(), *depth)?;
    }
    Ok(())
}

fn failed(from: &Path, to: &Path, source: io::Error) -> RuntimeError {
    let hint = match source.kind() {
        io::ErrorKind::NotADirectory => String::from(
            "are you trying to mount a directory onto a file, or the other way round? check that \
             the path on the host exists and is what you expect",
        ),
        _ => String::new(),
    };
    RuntimeError::Mount { from: from.to_owned(), to: to.to_owned(), hint, source }
}

#[cfg(test)]
mod tests;
