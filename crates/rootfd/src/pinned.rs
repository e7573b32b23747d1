//! One file or directory, held by descriptor: whatever happens to its name, operations reach it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::dir::ReadDir;
use crate::error::{Error, Result};
use crate::metadata::{FileTime, FileType, Metadata, describe};
use crate::remove;

/// Longest extended attribute (the kernel's `XATTR_SIZE_MAX`) and list of names.
const XATTR_MAX: usize = 64 * 1024;

/// An `O_PATH` descriptor of a file, link or directory.
///
/// The `name` arguments are single components; anything else is [`Error::InvalidName`]. No method
/// follows a link at `name`.
#[derive(Debug)]
pub struct PinnedFd {
    fd: OwnedFd,
    /// For messages only.
    path: PathBuf,
}

impl PinnedFd {
    pub(crate) fn new(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.to_owned() }
    }

    /// The path by which it was found: for messages, never for another look-up.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// `/proc/self/fd/N`, for interfaces that take only a path (`mount(2)`). Valid in this
    /// process while `self` lives.
    #[must_use]
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))
    }

    fn fail(&self, operation: &'static str) -> impl FnOnce(Errno) -> Error + '_ {
        move |errno| Error::io(operation, &self.path, errno)
    }

    fn fail_at<'a>(
        &'a self,
        operation: &'static str,
        name: &'a OsStr,
    ) -> impl FnOnce(Errno) -> Error + 'a {
        move |errno| Error::io(operation, self.path.join(name), errno)
    }

    // The object itself.

    /// Its attributes.
    ///
    /// # Errors
    /// I/O errors.
    pub fn metadata(&self) -> Result<Metadata> {
        Metadata::of(&self.fd, OsStr::new("")).map_err(self.fail("statx"))
    }

    /// Another descriptor of the same object.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = self.fd.try_clone().map_err(|source| Error::Io {
            operation: "dup",
            path: self.path.clone(),
            source,
        })?;
        Ok(Self { fd, path: self.path.clone() })
    }

    /// A descriptor for I/O on the same object. Only regular files: opening a fifo or device can
    /// block or act.
    ///
    /// # Errors
    /// [`Error::NotRegular`], and I/O errors.
    pub fn open(&self, flags: OFlags) -> Result<File> {
        let found = self.metadata()?.file_type();
        if found != FileType::RegularFile {
            return Err(Error::NotRegular { path: self.path.clone(), found: describe(found) });
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(CWD, self.proc_path(), flags, Mode::empty())
            .map_err(self.fail("open"))?;
        Ok(File::from(fd))
    }

    /// The target of the link that this is.
    ///
    /// # Errors
    /// Not a link, and I/O errors.
    pub fn read_link(&self) -> Result<OsString> {
        let target =
            rustix::fs::readlinkat(&self.fd, "", Vec::new()).map_err(self.fail("readlink"))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Changes the owner; `None` keeps it. A link's own owner, when this is a link.
    ///
    /// # Errors
    /// I/O errors.
    pub fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.fd, "", uid, gid, AtFlags::EMPTY_PATH).map_err(self.fail("chown"))
    }

    /// Sets the mode bits (07777). Links have none: `ENOTSUP`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn chmod(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::chmodat(CWD, self.proc_path(), mode, AtFlags::empty())
            .map_err(self.fail("chmod"))
    }

    /// Sets the times; `None` keeps one. A link's own times, when this is a link.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_times(&self, accessed: Option<FileTime>, modified: Option<FileTime>) -> Result<()> {
        rustix::fs::utimensat(&self.fd, "", &timestamps(accessed, modified), AtFlags::EMPTY_PATH)
            .map_err(self.fail("utimensat"))
    }

    /// The names of the extended attributes.
    ///
    /// # Errors
    /// I/O errors. A file system without attributes, and links (which the kernel does not offer by
    /// descriptor), have an empty list.
    pub fn xattr_names(&self) -> Result<Vec<OsString>> {
        let mut list = vec![0u8; XATTR_MAX];
        let length = match rustix::fs::listxattr(self.proc_path(), &mut list[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(self.fail("listxattr")(errno)),
        };
        let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    /// The value of an extended attribute, or `None`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn xattr(&self, name: impl AsRef<OsStr>) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0u8; XATTR_MAX];
        match rustix::fs::getxattr(self.proc_path(), name.as_ref(), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(self.fail("getxattr")(errno)),
        }
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_xattr(&self, name: impl AsRef<OsStr>, value: &[u8]) -> Result<()> {
        rustix::fs::setxattr(self.proc_path(), name.as_ref(), value, XattrFlags::empty())
            .map_err(self.fail("setxattr"))
    }

    /// Removes an extended attribute; one that is not there is no error.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_xattr(&self, name: impl AsRef<OsStr>) -> Result<()> {
        match rustix::fs::removexattr(self.proc_path(), name.as_ref()) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(()),
            Err(errno) => Err(self.fail("removexattr")(errno)),
        }
    }

    // Entries directly below the directory that this is.

    /// The entries of the directory.
    ///
    /// # Errors
    /// Not a directory, and I/O errors.
    pub fn read_dir(&self) -> Result<ReadDir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
            .map_err(self.fail("opendir"))?;
        let dir = Dir::new(fd).map_err(self.fail("opendir"))?;
        Ok(ReadDir::new(dir, &self.path))
    }

    /// Pins the entry `name`, whatever it is; a link itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn pin(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = entry_name(name.as_ref())?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(self.fail_at("open", name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// Pins the directory `name`.
    ///
    /// # Errors
    /// `ENOTDIR` for anything but a directory, also for a link to one; I/O errors.
    pub fn pin_dir(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = entry_name(name.as_ref())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(self.fail_at("open", name))?;
        Ok(Self { fd, path: self.path.join(name) })
    }

    /// The attributes of the entry `name`; of a link itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn metadata_of(&self, name: impl AsRef<OsStr>) -> Result<Metadata> {
        let name = entry_name(name.as_ref())?;
        Metadata::of(&self.fd, name).map_err(self.fail_at("statx", name))
    }

    /// Whether something is mounted on the entry `name`, found without asking what is mounted.
    ///
    /// # Errors
    /// The entry does not exist, and I/O errors.
    pub fn is_mount_point(&self, name: impl AsRef<OsStr>) -> Result<bool> {
        let name = entry_name(name.as_ref())?;
        let inside = Metadata::of_mount(&self.fd, name).map_err(self.fail_at("statx", name))?;
        Ok(!inside.same_mount(&self.metadata()?))
    }

    /// The target of the link `name`.
    ///
    /// # Errors
    /// Not a link, and I/O errors.
    pub fn read_link_of(&self, name: impl AsRef<OsStr>) -> Result<OsString> {
        let name = entry_name(name.as_ref())?;
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new())
            .map_err(self.fail_at("readlink", name))?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    /// Makes the directory `name`. The process' umask applies to `mode`.
    ///
    /// # Errors
    /// `EEXIST`, and I/O errors.
    pub fn create_dir(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        rustix::fs::mkdirat(&self.fd, name, Mode::from_raw_mode(mode & 0o7777))
            .map_err(self.fail_at("mkdir", name))
    }

    /// Makes the regular file `name`, which must not exist, open for writing. The process' umask
    /// applies to `mode`.
    ///
    /// # Errors
    /// `EEXIST` (also when `name` is a link, dangling or not), and I/O errors.
    pub fn create_file_excl(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<File> {
        let name = entry_name(name.as_ref())?;
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, name, flags, Mode::from_raw_mode(mode & 0o7777))
            .map(File::from)
            .map_err(self.fail_at("create", name))
    }

    /// Makes the link `name` with the text `target`, which is not looked at.
    ///
    /// # Errors
    /// I/O errors.
    pub fn symlink(&self, target: impl AsRef<OsStr>, name: impl AsRef<OsStr>) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        rustix::fs::symlinkat(target.as_ref(), &self.fd, name)
            .map_err(self.fail_at("symlink", name))
    }

    /// Makes `name` another name of `object`. A link is linked, not followed.
    ///
    /// # Errors
    /// I/O errors, among them `EXDEV` for another mount.
    pub fn hard_link(&self, object: &Self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        match rustix::fs::linkat(&object.fd, "", &self.fd, name, AtFlags::EMPTY_PATH) {
            // Without CAP_DAC_READ_SEARCH the kernel hides the empty path; the magic link is the
            // way that open(2) documents for O_TMPFILE.
            Err(Errno::NOENT) => {
                rustix::fs::linkat(CWD, object.proc_path(), &self.fd, name, AtFlags::SYMLINK_FOLLOW)
            }
            done => done,
        }
        .map_err(self.fail_at("link", name))
    }

    /// Makes a device node, fifo or socket. The process' umask applies to `mode`; `device` is
    /// (major, minor).
    ///
    /// # Errors
    /// I/O errors.
    pub fn mknod(
        &self,
        name: impl AsRef<OsStr>,
        kind: FileType,
        mode: u32,
        device: (u32, u32),
    ) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        let (mode, device) =
            (Mode::from_raw_mode(mode & 0o7777), rustix::fs::makedev(device.0, device.1));
        rustix::fs::mknodat(&self.fd, name, kind, mode, device).map_err(self.fail_at("mknod", name))
    }

    /// Changes the owner of the entry `name`; `None` keeps it.
    ///
    /// # Errors
    /// I/O errors.
    pub fn chown_entry(
        &self,
        name: impl AsRef<OsStr>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(&self.fd, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail_at("chown", name))
    }

    /// Sets the times of the entry `name`; `None` keeps one.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_times_of(
        &self,
        name: impl AsRef<OsStr>,
        accessed: Option<FileTime>,
        modified: Option<FileTime>,
    ) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        let times = timestamps(accessed, modified);
        rustix::fs::utimensat(&self.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.fail_at("utimensat", name))
    }

    /// Sets an extended attribute of the entry `name`, of a link itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn set_xattr_of(
        &self,
        name: impl AsRef<OsStr>,
        attribute: impl AsRef<OsStr>,
        value: &[u8],
    ) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        let path = self.proc_path().join(name);
        rustix::fs::lsetxattr(path, attribute.as_ref(), value, XattrFlags::empty())
            .map_err(self.fail_at("setxattr", name))
    }

    /// The value of an extended attribute of the entry `name`, of a link itself, or `None`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn xattr_of(
        &self,
        name: impl AsRef<OsStr>,
        attribute: impl AsRef<OsStr>,
    ) -> Result<Option<Vec<u8>>> {
        let name = entry_name(name.as_ref())?;
        let mut value = vec![0u8; XATTR_MAX];
        let path = self.proc_path().join(name);
        match rustix::fs::lgetxattr(path, attribute.as_ref(), &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                Ok(Some(value))
            }
            Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
            Err(errno) => Err(self.fail_at("getxattr", name)(errno)),
        }
    }

    /// The names of the extended attributes of the entry `name`, of a link itself.
    ///
    /// # Errors
    /// I/O errors.
    pub fn xattr_names_of(&self, name: impl AsRef<OsStr>) -> Result<Vec<OsString>> {
        let name = entry_name(name.as_ref())?;
        let mut list = vec![0u8; XATTR_MAX];
        let length = match rustix::fs::llistxattr(self.proc_path().join(name), &mut list[..]) {
            Ok(length) => length,
            Err(Errno::NOTSUP) => 0,
            Err(errno) => return Err(self.fail_at("listxattr", name)(errno)),
        };
        let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    /// Removes the entry `name`, which is no directory.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_file(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()).map_err(self.fail_at("unlink", name))
    }

    /// Removes the empty directory `name`.
    ///
    /// # Errors
    /// I/O errors.
    pub fn remove_dir(&self, name: impl AsRef<OsStr>) -> Result<()> {
        let name = entry_name(name.as_ref())?;
        rustix::fs::unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
            .map_err(self.fail_at("rmdir", name))
    }

    /// Removes the entry `name` and everything below it; nothing there is no error. Never follows
    /// a link and never enters another mount.
    ///
    /// # Errors
    /// [`Error::MountPoint`] at a mount, I/O errors; what was not reached stays.
    pub fn remove_tree(&self, name: impl AsRef<OsStr>) -> Result<()> {
        remove::tree(self.fd.as_fd(), entry_name(name.as_ref())?, &self.path)
    }

    /// Renames the entry `from` to `to` in the directory `directory`, replacing what the kernel
    /// lets it replace.
    ///
    /// # Errors
    /// I/O errors.
    pub fn rename(
        &self,
        from: impl AsRef<OsStr>,
        directory: &Self,
        to: impl AsRef<OsStr>,
    ) -> Result<()> {
        self.rename_with(from.as_ref(), directory, to.as_ref(), RenameFlags::empty())
    }

    /// As [`PinnedFd::rename`], but `EEXIST` when `to` exists.
    ///
    /// # Errors
    /// I/O errors.
    pub fn rename_noreplace(
        &self,
        from: impl AsRef<OsStr>,
        directory: &Self,
        to: impl AsRef<OsStr>,
    ) -> Result<()> {
        self.rename_with(from.as_ref(), directory, to.as_ref(), RenameFlags::NOREPLACE)
    }

    fn rename_with(
        &self,
        from: &OsStr,
        directory: &Self,
        to: &OsStr,
        flags: RenameFlags,
    ) -> Result<()> {
        let (from, to) = (entry_name(from)?, entry_name(to)?);
        rustix::fs::renameat_with(&self.fd, from, &directory.fd, to, flags)
            .map_err(self.fail_at("rename", from))
    }
}

impl AsFd for PinnedFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Checks that `name` is one component which names an entry of its directory.
pub(crate) fn entry_name(name: &OsStr) -> Result<&OsStr> {
    let bytes = name.as_bytes();
    let valid = !bytes.is_empty()
        && bytes.len() <= 255
        && bytes != b"."
        && bytes != b".."
        && !bytes.iter().any(|byte| matches!(byte, b'/' | 0));
    if valid { Ok(name) } else { Err(Error::InvalidName { name: name.into() }) }
}

fn timestamps(accessed: Option<FileTime>, modified: Option<FileTime>) -> Timestamps {
    let spec = |time: Option<FileTime>| match time {
        Some(time) => {
            Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds.min(999_999_999)) }
        }
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    };
    Timestamps { last_access: spec(accessed), last_modification: spec(modified) }
}
