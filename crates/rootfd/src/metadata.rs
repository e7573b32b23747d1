//! What `statx(2)` says about a file.

use rustix::fs::{AtFlags, Statx, StatxFlags, statx};

pub use rustix::fs::FileType;

/// A point in time of a file system, as seconds since 1970 (which may be negative) and
/// nanoseconds below one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileTime {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// 0..1_000_000_000.
    pub nanoseconds: u32,
}

/// The attributes of a file at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Metadata(Statx);

impl Metadata {
    pub(crate) fn of<F: std::os::fd::AsFd>(
        fd: F,
        name: &std::ffi::OsStr,
    ) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW
            | AtFlags::NO_AUTOMOUNT
            | if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::empty() };
        statx(fd, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID).map(Self)
    }

    /// As much as [`Metadata::same_mount`] needs, which no file system is asked for: one of a server
    /// that is gone would never answer.
    pub(crate) fn of_mount<F: std::os::fd::AsFd>(
        fd: F,
        name: &std::ffi::OsStr,
    ) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
        statx(fd, name, flags, StatxFlags::MNT_ID).map(Self)
    }

    /// Regular file, directory, link and so on.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    /// Permission, set-id and sticky bits (07777).
    #[must_use]
    pub fn mode(&self) -> u32 {
        u32::from(self.0.stx_mode) & 0o7777
    }

    /// Owner.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.0.stx_uid
    }

    /// Group.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.0.stx_gid
    }

    /// Length in bytes; of a link, the length of its target.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.stx_size
    }

    /// Bytes allocated on the disk.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.0.stx_blocks.saturating_mul(512)
    }

    /// Number of names.
    #[must_use]
    pub fn links(&self) -> u32 {
        self.0.stx_nlink
    }

    /// Inode number, unique within [`Metadata::device`].
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.0.stx_ino
    }

    /// Major and minor number of the file system.
    #[must_use]
    pub fn device(&self) -> (u32, u32) {
        (self.0.stx_dev_major, self.0.stx_dev_minor)
    }

    /// Major and minor number of a device node.
    #[must_use]
    pub fn special_device(&self) -> (u32, u32) {
        (self.0.stx_rdev_major, self.0.stx_rdev_minor)
    }

    /// Last change of the content.
    #[must_use]
    pub fn modified(&self) -> FileTime {
        FileTime { seconds: self.0.stx_mtime.tv_sec, nanoseconds: self.0.stx_mtime.tv_nsec }
    }

    /// Last access.
    #[must_use]
    pub fn accessed(&self) -> FileTime {
        FileTime { seconds: self.0.stx_atime.tv_sec, nanoseconds: self.0.stx_atime.tv_nsec }
    }

    /// Whether both are in the same mount. Kernels before 5.8 do not tell the mount; there the
    /// file system decides, which misses bind mounts of the same file system.
    #[must_use]
    pub fn same_mount(&self, other: &Self) -> bool {
        let told = self.0.stx_mask & other.0.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        self.device() == other.device() && (!told || self.0.stx_mnt_id == other.0.stx_mnt_id)
    }
}

/// How messages call a kind of file.
pub(crate) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "regular file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character device",
        FileType::BlockDevice => "block device",
        FileType::Unknown => "file of unknown kind",
    }
}
