//! What `/dev` holds: the nodes that every container has, those of the specification, and links.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Root, make_file};
use crate::error::{IoContext, RuntimeError};
use crate::mounts::{self, Depth};

/// How device nodes come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// By `mknod(2)`.
    Made,
    /// As bind mounts of the host's, in a user namespace, where none can be made.
    Bound,
}

/// The default devices of the OCI runtime specification 1.2 (config-linux.md), all with mode 0666.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Its links.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// A node to be.
struct Node<'a> {
    path: &'a Path,
    kind: FileType,
    device: u64,
    mode: Mode,
    owner: (u32, u32),
}

impl<'a> Node<'a> {
    fn of(device: &'a LinuxDevice) -> Result<Self, RuntimeError> {
        let invalid = || RuntimeError::Invalid(format!("device {:?}", device.path()));
        let number = |number: i64| u32::try_from(number).map_err(|_| invalid());
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
            LinuxDeviceType::P => FileType::Fifo,
            LinuxDeviceType::A => return Err(invalid()),
        };
        let device_number = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(number(device.major())?, number(device.minor())?),
        };
        Ok(Self {
            path: device.path(),
            kind,
            device: device_number,
            mode: Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        })
    }

    /// Makes the node inside, or takes the one that is there and the same.
    fn make(&self, root: &Root, nodes: Nodes) -> Result<(), RuntimeError> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(RuntimeError::Invalid(format!("device {:?}", self.path)));
        };
        let parent = root.directory(parent)?;
        if nodes == Nodes::Bound && self.kind != FileType::Fifo {
            return self.bind(&parent);
        }
        match rustix::fs::mknodat(&parent, name, self.kind, self.mode, self.device) {
            Ok(()) => {
                let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
                if self.owner == (0, 0) {
                    return Ok(());
                }
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(&parent, name, Some(uid), Some(gid), flags)
                    .context("give away the device", self.path)
            }
            Err(Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)
                    .context("inspect", self.path)?;
                self.check(&stat)
            }
            Err(Errno::PERM) => self.bind(&parent),
            Err(error) => Err(error).context("make the device", self.path),
        }
    }

    /// Puts the host's node of that path there.
    fn bind(&self, parent: &OwnedFd) -> Result<(), RuntimeError> {
        let name = self.path.file_name().unwrap_or_default();
        let tree = mounts::clone_path(self.path, Depth::One).context("bind", self.path)?;
        self.check(&rustix::fs::fstat(&tree).context("inspect", self.path)?)?;
        match make_file(parent.as_fd(), name, Mode::empty()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).context("make the mount point", self.path),
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(parent, name, flags, Mode::empty())
            .context("open the mount point", self.path)?;
        mounts::attach(tree.as_fd(), target.as_fd()).context("bind", self.path)
    }

    fn check(&self, stat: &rustix::fs::Stat) -> Result<(), RuntimeError> {
        let same = FileType::from_raw_mode(stat.st_mode) == self.kind
            && (self.kind == FileType::Fifo || stat.st_rdev == self.device);
        if same {
            return Ok(());
        }
        Err(RuntimeError::Invalid(format!("{:?} is not the device that it should be", self.path)))
    }
}

/// Makes nodes and links. A default device that the specification names is its.
pub(super) fn furnish(
    root: &Root,
    asked: &[LinuxDevice],
    nodes: Nodes,
) -> Result<(), RuntimeError> {
    let dev = root.directory(Path::new("/dev"))?;
    for device in asked {
        Node::of(device)?.make(root, nodes)?;
    }
    for (path, major, minor) in DEFAULTS {
        let path = Path::new(path);
        if asked.iter().any(|device| device.path() == path) {
            continue;
        }
        let device = rustix::fs::makedev(major, minor);
        let mode = Mode::from_raw_mode(0o666);
        let kind = FileType::CharacterDevice;
        Node { path, kind, device, mode, owner: (0, 0) }.make(root, nodes)?;
    }
    let link = |target: &str, name: &str| match rustix::fs::symlinkat(target, &dev, name) {
        // An image may bring its own.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).context("make the link /dev", Path::new(name)),
    };
    for (name, target) in LINKS {
        link(target, name)?;
    }
    if rustix::fs::access("/proc/kcore", rustix::fs::Access::EXISTS).is_ok() {
        link("/proc/kcore", "core")?;
    }
    // A terminal is of the container's own devpts, whatever node the image has.
    match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => link("pts/ptmx", "ptmx"),
        Err(error) => Err(error).context("replace", Path::new("/dev/ptmx")),
    }
}
