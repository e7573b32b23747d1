//! `get`, `export` and `diff`: a tree becomes a tar on standard output.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use pouch_rootfd::{FileTime, FileType, Metadata, PinnedFd, RootFd};
use rustix::fs::OFlags;

use crate::extract::is_whiteout;
use crate::failure::{Failure, Result};
use crate::stat::DockerPath;
use crate::tar::{Entry, Kind, TarWriter};

/// Whether mounts below the tree are part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mounts {
    /// Volumes are; kernel file systems are shown as empty directories.
    Cross,
    Stay,
}

/// How overlay's marks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whiteouts {
    /// There are none in a merged tree.
    Plain,
    /// As `.wh.` files, for an OCI layer.
    Oci,
}

/// File systems that the kernel makes up (`statfs(2)` magic numbers): their files have no honest
/// size, and some change the machine when they are read.
const KERNEL_FILE_SYSTEMS: &[u32] = &[
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x1cd1,      // devpts
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x1980_0202, // mqueue
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x4249_4e4d, // binfmt_misc
];

/// Writes `path` of `root` as Docker's GET archive does: the top entry has the last component of
/// the path as it was asked for.
pub(crate) fn get(root: &RootFd, path: &Path) -> Result<()> {
    let asked = DockerPath::parse(path);
    let top = asked.pin(root)?;
    let mut pack = Pack::new(Mounts::Cross, Whiteouts::Plain);
    let meta = top.metadata()?;
    let name = asked.base().as_bytes().to_vec();
    if meta.is_dir() {
        // The root is called "/", so that the names below it are absolute.
        let prefix = if name == b"/" { name } else { [&name[..], b"/"].concat() };
        pack.entry(&top, &meta, prefix.clone())?;
        pack.walk(top, meta, prefix)?;
    } else {
        pack.entry(&top, &meta, name)?;
    }
    pack.finish()
}

/// Writes everything below `root`, without other mounts.
pub(crate) fn export(root: &RootFd) -> Result<()> {
    let mut pack = Pack::new(Mounts::Stay, Whiteouts::Plain);
    let top = root.pin()?;
    let meta = top.metadata()?;
    pack.walk(top, meta, Vec::new())?;
    pack.finish()
}

/// Writes an overlay upper directory as an OCI layer.
pub(crate) fn diff(upper: &RootFd) -> Result<()> {
    let mut pack = Pack::new(Mounts::Stay, Whiteouts::Oci);
    let top = upper.pin()?;
    let meta = top.metadata()?;
    pack.walk(top, meta, Vec::new())?;
    pack.finish()
}

struct Pack {
    writer: TarWriter<BufWriter<Stdout>>,
    mounts: Mounts,
    whiteouts: Whiteouts,
    /// The first path of each file with several names.
    links: HashMap<((u32, u32), u64), Vec<u8>>,
}

struct Level {
    dir: PinnedFd,
    meta: Metadata,
    /// Path in the archive, with the slash.
    prefix: Vec<u8>,
    names: std::vec::IntoIter<OsString>,
}

impl Pack {
    fn new(mounts: Mounts, whiteouts: Whiteouts) -> Self {
        let writer = TarWriter::new(BufWriter::with_capacity(256 * 1024, Stdout));
        Self { writer, mounts, whiteouts, links: HashMap::new() }
    }

    /// Writes what is below `top`, a directory, in the order of the names.
    fn walk(&mut self, top: PinnedFd, meta: Metadata, prefix: Vec<u8>) -> Result<()> {
        let mut levels = vec![self.level(top, meta, prefix)?];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next() else {
                levels.pop();
                continue;
            };
            let pinned = match level.dir.pin(&name) {
                Ok(pinned) => pinned,
                // A running container removes files while they are listed.
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error.into()),
            };
            let meta = pinned.metadata()?;
            let mut path = level.prefix.clone();
            if self.whiteouts == Whiteouts::Oci && is_whiteout(&meta) {
                path.extend_from_slice(b".wh.");
                path.extend_from_slice(name.as_bytes());
                self.marker(path)?;
                continue;
            }
            path.extend_from_slice(name.as_bytes());
            if self.whiteouts == Whiteouts::Oci && name.as_bytes().starts_with(b".wh.") {
                let failure = Failure::Refused("a file has the name of a whiteout".into());
                return Err(failure.at(&path));
            }
            if !meta.is_dir() {
                self.entry(&pinned, &meta, path)?;
                continue;
            }
            path.push(b'/');
            self.entry(&pinned, &meta, path.clone())?;
            if self.enters(&level.meta, &pinned, &meta)? {
                let next = self.level(pinned, meta, path)?;
                levels.push(next);
            }
        }
        Ok(())
    }

    fn level(&mut self, dir: PinnedFd, meta: Metadata, prefix: Vec<u8>) -> Result<Level> {
        if self.whiteouts == Whiteouts::Oci && !prefix.is_empty() {
            let opaque = dir.xattr("trusted.overlay.opaque")?;
            if opaque.as_deref() == Some(b"y") {
                self.marker([&prefix[..], b".wh..wh..opq"].concat())?;
            }
        }
        let mut names = Vec::new();
        for entry in dir.read_dir()? {
            names.push(entry?.name);
        }
        names.sort_unstable();
        Ok(Level { dir, meta, prefix, names: names.into_iter() })
    }

    fn enters(&self, above: &Metadata, dir: &PinnedFd, meta: &Metadata) -> Result<bool> {
        if meta.same_mount(above) {
            return Ok(true);
        }
        if self.mounts == Mounts::Stay {
            return Ok(false);
        }
        let info = rustix::fs::fstatfs(dir)
            .map_err(|e| Failure::Io { what: "statfs", source: e.into() })?;
        let magic = u32::try_from(info.f_type).unwrap_or_default();
        Ok(!KERNEL_FILE_SYSTEMS.contains(&magic))
    }

    /// A file without content that means something to the reader of the layer.
    fn marker(&mut self, path: Vec<u8>) -> Result<()> {
        let entry = Entry {
            path,
            kind: Kind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            modified: FileTime { seconds: 0, nanoseconds: 0 },
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        self.append(&entry, &mut io::empty())
    }

    fn append(&mut self, entry: &Entry, data: &mut impl io::Read) -> Result<()> {
        self.writer
            .append(entry, data)
            .map_err(|source| Failure::Io { what: "write archive", source }.at(&entry.path))
    }

    fn entry(&mut self, pinned: &PinnedFd, meta: &Metadata, path: Vec<u8>) -> Result<()> {
        let kind = match meta.file_type() {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            // Tar has no sockets; a socket without its server is of no use anyway.
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        let mut entry = Entry {
            path,
            kind,
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
            modified: meta.modified(),
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        };
        if kind == Kind::Symlink {
            entry.link = pinned.read_link()?.into_vec();
        } else if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            entry.device = meta.special_device();
        }
        if kind != Kind::Directory && meta.links() > 1 {
            let key = (meta.device(), meta.inode());
            if let Some(first) = self.links.get(&key) {
                entry.kind = Kind::HardLink;
                entry.link.clone_from(first);
                return self.append(&entry, &mut io::empty());
            }
            self.links.insert(key, entry.path.clone());
        }
        if matches!(kind, Kind::File | Kind::Directory) {
            entry.xattrs = kept_xattrs(pinned)?;
        }
        if kind == Kind::File {
            entry.size = meta.size();
            let mut file = pinned.open(OFlags::RDONLY)?;
            return self.append(&entry, &mut file);
        }
        self.append(&entry, &mut io::empty())
    }

    fn finish(self) -> Result<()> {
        let done = self.writer.finish();
        done.map(drop).map_err(|source| Failure::Io { what: "write archive", source })
    }
}

/// The attributes that mean the same on another machine.
pub(crate) fn kept_xattrs(pinned: &PinnedFd) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut kept = Vec::new();
    for name in pinned.xattr_names()? {
        let user = name.as_bytes().starts_with(b"user.");
        if !user && name != OsStr::new("security.capability") {
            continue;
        }
        if let Some(value) = pinned.xattr(&name)? {
            kept.push((name.into_vec(), value));
        }
    }
    Ok(kept)
}

/// Standard output without the standard library's line buffer.
#[derive(Debug)]
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(rustix::stdio::stdout(), buf)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
