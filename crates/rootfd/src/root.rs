//! The root directory and resolution inside it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::dir::ReadDir;
use crate::error::{Error, Result};
use crate::file::BoundedFile;
use crate::metadata::{FileTime, FileType, Metadata, describe};
use crate::pinned::PinnedFd;

/// `openat2` gives `EAGAIN` when something was renamed or mounted while `..` was resolved; a
/// container that renames in a loop must not hold the caller for ever.
const RESOLVE_ATTEMPTS: u32 = 64;

/// The root of a container, an image layer or a volume.
///
/// Paths are relative to it whether they begin with a slash or not. Methods that end at a name
/// (`symlink`, `remove_file`, …) resolve the directory part inside the root, links included, and
/// act on the last component without following it.
#[derive(Debug)]
pub struct RootFd {
    fd: OwnedFd,
}

impl RootFd {
    /// Opens a directory of the host by a path that the caller trusts.
    ///
    /// # Errors
    /// Not a directory, and I/O errors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path.as_ref(), flags, Mode::empty())
            .map_err(|e| Error::io("open root", path.as_ref(), e))?;
        Ok(Self { fd })
    }

    /// Takes a directory descriptor as the root.
    ///
    /// # Errors
    /// `ENOTDIR` when it is none.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        let meta = Metadata::of(&fd, OsStr::new("")).map_err(|e| Error::io("statx", "/", e))?;
        if meta.is_dir() {
            Ok(Self { fd })
        } else {
            Err(Error::io("open root", "/", Errno::NOTDIR))
        }
    }

    /// Another descriptor of the same root.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|source| Error::Io {
            operation: "dup",
            path: "/".into(),
            source,
        })?;
        Ok(Self { fd })
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// `/proc/<pid>/fd/N` of this process, by which a child or a mount call reaches the root while
    /// `self` lives.
    #[must_use]
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()))
    }

    /// A root at the directory `path` of this one.
    ///
    /// # Errors
    /// Not a directory, and as [`RootFd::resolve`].
    pub fn subroot(&self, path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let fd = self.openat2(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Self { fd })
    }

    fn openat2(&self, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RESOLVE_ATTEMPTS {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => return Err(Error::KernelTooOld),
                done => return done.map_err(|e| Error::io("open", path, e)),
            }
        }
        Err(Error::Unstable { path: path.to_owned() })
    }

    /// Pins what `path` leads to, following links inside the root.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ELOOP` (also for a magic link) and other I/O errors,
    /// [`Error::Unstable`], [`Error::KernelTooOld`].
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PinnedFd> {
        let path = path.as_ref();
        Ok(PinnedFd::new(self.openat2(path, OFlags::PATH, Mode::empty())?, path))
    }

    /// As [`RootFd::resolve`], but a link at the last component is pinned itself.
    ///
    /// # Errors
    /// As [`RootFd::resolve`].
    pub fn resolve_nofollow(&self, path: impl AsRef<Path>) -> Result<PinnedFd> {
        let path = path.as_ref();
        Ok(PinnedFd::new(self.openat2(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?, path))
    }

    /// The root itself, pinned.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn pin(&self) -> Result<PinnedFd> {
        self.resolve("/")
    }

    /// Splits `path` at its last component and pins the directory part, which must exist.
    ///
    /// # Errors
    /// [`Error::InvalidName`] when the path ends in `..` or has no last component (`/`), and as
    /// [`RootFd::resolve`].
    pub fn parent_and_name(&self, path: impl AsRef<Path>) -> Result<(PinnedFd, OsString)> {
        let path = path.as_ref();
        // Path::file_name skips a trailing `.`, which would turn `dir/.` into an entry `dir`.
        let ends_in_dot = path.as_os_str().as_bytes().ends_with(b"/.");
        let name = match path.file_name() {
            Some(name) if !ends_in_dot => name.to_owned(),
            _ => return Err(Error::InvalidName { name: path.to_owned() }),
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("/"),
        };
        Ok((self.resolve(parent)?, name))
    }

    /// Opens the regular file `path` for reading at most `max_bytes`. Anything else (fifo, device,
    /// directory, a longer file) is refused at once, without ever blocking on it.
    ///
    /// # Errors
    /// [`Error::NotRegular`], [`Error::TooLarge`], and as [`RootFd::resolve`].
    pub fn open_file(&self, path: impl AsRef<Path>, max_bytes: u64) -> Result<BoundedFile> {
        let path = path.as_ref();
        // Pinned before it is opened: opening a device node can already act on the device.
        let pinned = self.resolve(path)?;
        let meta = pinned.metadata()?;
        if meta.file_type() != FileType::RegularFile {
            let found = describe(meta.file_type());
            return Err(Error::NotRegular { path: path.to_owned(), found });
        }
        if meta.size() > max_bytes {
            return Err(Error::TooLarge { path: path.to_owned(), limit: max_bytes });
        }
        Ok(BoundedFile::new(pinned.open(OFlags::RDONLY)?, path, max_bytes))
    }

    /// The bytes of the regular file `path`, at most `max_bytes`.
    ///
    /// # Errors
    /// As [`RootFd::open_file`].
    pub fn read_bounded(&self, path: impl AsRef<Path>, max_bytes: u64) -> Result<Vec<u8>> {
        self.open_file(path, max_bytes)?.read_all()
    }

    /// The text of the regular file `path`, at most `max_bytes`.
    ///
    /// # Errors
    /// As [`RootFd::open_file`], and [`Error::NotText`].
    pub fn read_to_string_bounded(&self, path: impl AsRef<Path>, max_bytes: u64) -> Result<String> {
        self.open_file(path, max_bytes)?.read_text()
    }

    /// Makes the directory `path` and its missing parents inside the root, and pins it. Existing
    /// links to directories are followed inside the root; a dangling one is an error. The process'
    /// umask applies to `mode`.
    ///
    /// # Errors
    /// [`Error::Dangling`], `ENOTDIR`, and as [`RootFd::resolve`].
    pub fn create_dir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<PinnedFd> {
        let mut missing = Vec::new();
        let mut done = Path::new("/").join(path);
        // Upwards to what is there, so that a deep path costs what is made of it.
        let mut here = loop {
            match self.subdir(&done) {
                Err(error) if error.is_not_found() => {}
                found => break found?,
            }
            match done.components().next_back() {
                Some(Component::Normal(name)) => missing.push(name.to_owned()),
                Some(Component::ParentDir) => missing.push("..".into()),
                Some(Component::CurDir | Component::RootDir | Component::Prefix(_)) | None => {}
            }
            if !done.pop() {
                break self.pin()?;
            }
        };
        for name in missing.iter().rev() {
            // Each prefix is resolved from the root again, because only the root bounds `..` and
            // absolute links.
            done.push(name);
            here = match self.subdir(&done) {
                Err(error) if error.is_not_found() => {
                    match here.create_dir(name, mode) {
                        // Somebody else made it at the same time, or it is a dangling link, which
                        // the second look tells.
                        Err(e) if e.errno() == Some(Errno::EXIST.raw_os_error()) => {
                            self.subdir(&done).map_err(|second| {
                                if second.is_not_found() {
                                    Error::Dangling { path: done.clone() }
                                } else {
                                    e
                                }
                            })?
                        }
                        made => {
                            made?;
                            self.subdir(&done)?
                        }
                    }
                }
                found => found?,
            };
        }
        Ok(here)
    }

    fn subdir(&self, path: &Path) -> Result<PinnedFd> {
        let fd = self.openat2(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(PinnedFd::new(fd, path))
    }

    /// Makes the regular file `path`, which must not exist, open for writing.
    ///
    /// # Errors
    /// `EEXIST` (also for a link, dangling or not), and as [`RootFd::resolve`].
    pub fn create_file_excl(&self, path: impl AsRef<Path>, mode: u32) -> Result<File> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.create_file_excl(name, mode)
    }

    /// Puts a regular file with this content at `path`, replacing a file or link that is there:
    /// a link's target is never written. `mode` is exact. Readers see the old or the new file.
    ///
    /// # Errors
    /// `EISDIR` when `path` is a directory, and as [`RootFd::resolve`].
    pub fn replace_file(&self, path: impl AsRef<Path>, content: &[u8], mode: u32) -> Result<()> {
        let path = path.as_ref();
        let (parent, name) = self.parent_and_name(path)?;
        let io = |source| Error::Io { operation: "write", path: path.to_owned(), source };
        let mut attempt = 0u32;
        let (temporary, mut file) = loop {
            let temporary = format!(".pouch-{}-{attempt}", std::process::id());
            match parent.create_file_excl(&temporary, 0o600) {
                Err(e) if e.errno() == Some(Errno::EXIST.raw_os_error()) && attempt < 100 => {
                    attempt += 1;
                }
                made => break (temporary, made?),
            }
        };
        let done = file
            .write_all(content)
            .and_then(|()| {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).map_err(Into::into)
            })
            .map_err(io)
            .and_then(|()| parent.rename(&temporary, &parent, &name));
        if done.is_err() {
            // The first error is the one to report; a file of this name harms nobody.
            let _ = parent.remove_file(&temporary);
        }
        done
    }

    /// Attributes of what `path` leads to.
    ///
    /// # Errors
    /// As [`RootFd::resolve`].
    pub fn metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.resolve(path)?.metadata()
    }

    /// Attributes of `path`; of a link itself.
    ///
    /// # Errors
    /// As [`RootFd::resolve`].
    pub fn symlink_metadata(&self, path: impl AsRef<Path>) -> Result<Metadata> {
        self.resolve_nofollow(path)?.metadata()
    }

    /// The target text of the link `path`.
    ///
    /// # Errors
    /// Not a link, and as [`RootFd::resolve`].
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<OsString> {
        self.resolve_nofollow(path)?.read_link()
    }

    /// The entries of the directory `path`.
    ///
    /// # Errors
    /// Not a directory, and as [`RootFd::resolve`].
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        self.subdir(path.as_ref())?.read_dir()
    }

    /// Makes a link at `path` with the text `target`.
    ///
    /// # Errors
    /// As [`PinnedFd::symlink`].
    pub fn symlink(&self, target: impl AsRef<OsStr>, path: impl AsRef<Path>) -> Result<()> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.symlink(target, name)
    }

    /// Makes `path` another name of the object at `existing`, which is not followed.
    ///
    /// # Errors
    /// As [`PinnedFd::hard_link`].
    pub fn hard_link(&self, existing: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let object = self.resolve_nofollow(existing)?;
        let (parent, name) = self.parent_and_name(path)?;
        parent.hard_link(&object, name)
    }

    /// Makes a device node, fifo or socket; `device` is (major, minor).
    ///
    /// # Errors
    /// As [`PinnedFd::mknod`].
    pub fn mknod(
        &self,
        path: impl AsRef<Path>,
        kind: FileType,
        mode: u32,
        device: (u32, u32),
    ) -> Result<()> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.mknod(name, kind, mode, device)
    }

    /// Removes the file or link `path`.
    ///
    /// # Errors
    /// As [`PinnedFd::remove_file`].
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.remove_file(name)
    }

    /// Removes the empty directory `path`.
    ///
    /// # Errors
    /// As [`PinnedFd::remove_dir`].
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.remove_dir(name)
    }

    /// Removes `path` and everything below it.
    ///
    /// # Errors
    /// As [`PinnedFd::remove_tree`].
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<()> {
        let (parent, name) = self.parent_and_name(path)?;
        parent.remove_tree(name)
    }

    /// Renames `from` to `to`.
    ///
    /// # Errors
    /// As [`PinnedFd::rename`].
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let (from_parent, from_name) = self.parent_and_name(from)?;
        let (to_parent, to_name) = self.parent_and_name(to)?;
        from_parent.rename(from_name, &to_parent, to_name)
    }

    /// Changes the owner of `path`; of a link itself.
    ///
    /// # Errors
    /// As [`PinnedFd::chown`].
    pub fn chown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        self.resolve_nofollow(path)?.chown(uid, gid)
    }

    /// Sets the mode bits of `path`; a link is refused (`ENOTSUP`).
    ///
    /// # Errors
    /// As [`PinnedFd::chmod`].
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        self.resolve_nofollow(path)?.chmod(mode)
    }

    /// Sets the times of `path`; of a link itself.
    ///
    /// # Errors
    /// As [`PinnedFd::set_times`].
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        accessed: Option<FileTime>,
        modified: Option<FileTime>,
    ) -> Result<()> {
        self.resolve_nofollow(path)?.set_times(accessed, modified)
    }
}

impl AsFd for RootFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
