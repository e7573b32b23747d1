//! Making what the entries of a tar describe, below a root.
//!
//! Entry paths are cleaned as text; `..` above the root refuses the archive. The directory part is
//! then resolved by the kernel inside the root, so a link that an earlier entry planted leads
//! nowhere else, and the last component is only ever made new: what is in the way is removed
//! first, never written through.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pouch_rootfd::{FileTime, FileType, Metadata, PinnedFd, RootFd};
use pouch_types::{Classified, ErrorKind};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::failure::{Failure, Result, shortened};
use crate::limits;
use crate::tar::{Entry, Kind, TarReader};

/// Who owns what is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ownership {
    /// As the archive says.
    Archive,
    /// Everything belongs to (uid, gid).
    Fixed(u32, u32),
}

/// What happens when a directory would be replaced by something else or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    Anything,
    NotDirectories,
}

/// Limits of one archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Sum of the logical sizes of the files.
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
    /// Bytes of the names of its directories.
    pub(crate) names: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: limits::BYTES, entries: limits::ENTRIES, names: limits::DIRECTORY_NAMES }
    }
}

/// An entry's path, cleaned: components without `.`, `..` and empty ones, joined by `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Absolute paths start at the root.
    pub(crate) fn clean(raw: &[u8]) -> Result<Self> {
        if raw.contains(&0) {
            return Err(Failure::Refused("a file name contains a NUL byte".into()));
        }
        let mut clean: Vec<&[u8]> = Vec::new();
        for part in raw.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    if clean.pop().is_none() {
                        return Err(Failure::Refused("path leads out of the root".into()));
                    }
                }
                name => clean.push(name),
            }
        }
        Ok(Self(clean.join(&b'/')))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn parent(&self) -> Self {
        let slash = self.0.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        Self(self.0[..slash].to_vec())
    }

    pub(crate) fn name(&self) -> &OsStr {
        let from = self.0.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        OsStr::from_bytes(&self.0[from..])
    }

    pub(crate) fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

/// An open parent directory.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) dir: PinnedFd,
    /// New entries inherit the group, new directories also the bit.
    setgid: bool,
}

/// Makes entries below one directory of a root.
#[derive(Debug)]
pub(crate) struct Extractor<'a> {
    root: &'a RootFd,
    /// Where in the root the archive's root is.
    base: PathBuf,
    ownership: Ownership,
    replace: Replace,
    limits: Limits,
    parents: HashMap<Vec<u8>, Rc<Parent>>,
    /// Times of directories, which are set last because filling a directory changes them.
    /// In order, so that those below a directory are together.
    times: BTreeMap<Vec<u8>, FileTime>,
    /// Bytes of the names in it.
    names: u64,
    pub(crate) entries: u64,
    /// Sum of the logical sizes of the files.
    pub(crate) bytes: u64,
}

impl<'a> Extractor<'a> {
    pub(crate) fn new(
        root: &'a RootFd,
        base: &Path,
        ownership: Ownership,
        replace: Replace,
        limits: Limits,
    ) -> Self {
        Self {
            root,
            base: base.to_owned(),
            ownership,
            replace,
            limits,
            parents: HashMap::new(),
            times: BTreeMap::new(),
            names: 0,
            entries: 0,
            bytes: 0,
        }
    }

    /// Counts an entry against the limits.
    pub(crate) fn count(&mut self, entry: &Entry) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Failure::TooManyEntries(self.limits.entries));
        }
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > self.limits.bytes {
            let limit = crate::stream::LimitError::Length(self.limits.bytes);
            return Err(Failure::Io { what: "read archive", source: std::io::Error::other(limit) });
        }
        Ok(())
    }

    fn full_path(&self, path: &EntryPath) -> PathBuf {
        self.base.join(OsStr::from_bytes(&path.0))
    }

    /// The open directory `path`, made with its parents when missing.
    pub(crate) fn directory(&mut self, path: &EntryPath) -> Result<Rc<Parent>> {
        if let Some(known) = self.parents.get(&path.0) {
            return Ok(Rc::clone(known));
        }
        let dir = self.root.create_dir_all(self.full_path(path), 0o755)?;
        let setgid = dir.metadata()?.mode() & 0o2000 != 0;
        let parent = Rc::new(Parent { dir, setgid });
        if self.parents.len() >= limits::PARENTS {
            self.parents.clear();
        }
        self.parents.insert(path.0.clone(), Rc::clone(&parent));
        Ok(parent)
    }

    /// Forgets what is known of `path` and below it, because it is replaced.
    fn forget(&mut self, path: &EntryPath) {
        self.parents.clear();
        let below = [&path.0[..], b"/"].concat()..[&path.0[..], b"0"].concat();
        let mut gone: Vec<_> = self.times.range(below).map(|(known, _)| known.clone()).collect();
        gone.push(path.0.clone());
        for known in gone {
            if self.times.remove(&known).is_some() {
                self.names -= known.len() as u64;
            }
        }
    }

    /// Makes `entry`, whose data are next in `data`, at `path` (not the root).
    pub(crate) fn make<R: BufRead>(
        &mut self,
        path: &EntryPath,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<()> {
        let parent = self.directory(&path.parent())?;
        match entry.kind {
            Kind::File => self.file(&parent, path, entry, data),
            Kind::Directory => self.make_directory(&parent, path, entry),
            Kind::HardLink => self.hard_link(&parent, path, entry),
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.node(&parent, path, entry)
            }
        }
    }

    fn owner(&self, entry: &Entry) -> (u32, u32) {
        match self.ownership {
            Ownership::Archive => (entry.uid, entry.gid),
            Ownership::Fixed(uid, gid) => (uid, gid),
        }
    }

    /// Whether what was made needs another owner than the kernel gave it.
    fn needs_chown(&self, parent: &Parent, entry: &Entry) -> Option<(u32, u32)> {
        let owner = self.owner(entry);
        (owner != (0, 0) || parent.setgid).then_some(owner)
    }

    fn file<R: BufRead>(
        &mut self,
        parent: &Parent,
        path: &EntryPath,
        entry: &Entry,
        data: &mut TarReader<R>,
    ) -> Result<()> {
        let name = path.name();
        let file = match parent.dir.create_file_excl(name, entry.mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.clear(parent, path, entry)?;
                parent.dir.create_file_excl(name, entry.mode)?
            }
            made => made?,
        };
        write_content(&file, entry, data)?;
        let io = |what| move |errno: Errno| Failure::Io { what, source: errno.into() };
        if let Some((uid, gid)) = self.needs_chown(parent, entry) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid)).map_err(io("chown"))?;
            if entry.mode & 0o6000 != 0 {
                // A change of owner takes the set-id bits away.
                rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(io("chmod"))?;
            }
        }
        // Writing takes file capabilities away, so they come after the content.
        for (key, value) in kept_xattrs(entry) {
            match rustix::fs::fsetxattr(&file, OsStr::from_bytes(key), value, XattrFlags::empty()) {
                Err(errno) if !is_optional(key, errno) => {
                    return Err(xattr_failure(key, io("setxattr")(errno)));
                }
                _ => {}
            }
        }
        let time = Timespec {
            tv_sec: entry.modified.seconds,
            tv_nsec: i64::from(entry.modified.nanoseconds),
        };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::futimens(&file, &times).map_err(io("utimensat"))
    }

    fn make_directory(&mut self, parent: &Parent, path: &EntryPath, entry: &Entry) -> Result<()> {
        let name = path.name();
        match parent.dir.create_dir(name, entry.mode & 0o1777) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if self.clear(parent, path, entry)? == Cleared::KeptDirectory {
                    // Merge: the directory stays, its attributes become the entry's. It may be
                    // known as a parent by several names.
                    self.parents.clear();
                    return self.directory_attributes(&parent.dir.pin_dir(name)?, path, entry);
                }
                parent.dir.create_dir(name, entry.mode & 0o1777)?;
            }
            made => made?,
        }
        let plain = entry.mode & 0o6000 == 0 && entry.xattrs.is_empty();
        if plain && self.needs_chown(parent, entry).is_none() {
            return self.remember_time(path, entry.modified);
        }
        self.directory_attributes(&parent.dir.pin_dir(name)?, path, entry)
    }

    /// Gives the directory `dir` at `path` the attributes of `entry`.
    pub(crate) fn directory_attributes(
        &mut self,
        dir: &PinnedFd,
        path: &EntryPath,
        entry: &Entry,
    ) -> Result<()> {
        let (uid, gid) = self.owner(entry);
        dir.chown(Some(uid), Some(gid))?;
        dir.chmod(entry.mode)?;
        for (key, value) in kept_xattrs(entry) {
            match dir.set_xattr(OsStr::from_bytes(key), value) {
                Err(error) if !is_optional_error(key, &error) => {
                    return Err(xattr_failure(key, error.into()));
                }
                _ => {}
            }
        }
        // Its setgid bit is not what it was when it was opened as a parent.
        self.parents.remove(&path.0);
        self.remember_time(path, entry.modified)
    }

    fn remember_time(&mut self, path: &EntryPath, time: FileTime) -> Result<()> {
        if self.times.insert(path.0.clone(), time).is_none() {
            self.names += path.0.len() as u64;
        }
        if self.names > self.limits.names { Err(Failure::TooManyNames) } else { Ok(()) }
    }

    fn hard_link(&mut self, parent: &Parent, path: &EntryPath, entry: &Entry) -> Result<()> {
        if entry.link.is_empty() {
            return Err(Failure::Refused("hard link without a target".into()));
        }
        let target = EntryPath::clean(&entry.link)?;
        let object = match self.root.resolve_nofollow(self.full_path(&target)) {
            Err(error) if error.is_not_found() => return Err(missing_target(entry)),
            found => found?,
        };
        let meta = object.metadata()?;
        if is_whiteout(&meta) {
            return Err(missing_target(entry));
        }
        if meta.is_dir() {
            return Err(Failure::Refused("hard link to a directory".into()));
        }
        match parent.dir.hard_link(&object, path.name()) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let there = parent.dir.metadata_of(path.name())?;
                if same_object(&there, &meta) {
                    return Ok(());
                }
                self.clear(parent, path, entry)?;
                Ok(parent.dir.hard_link(&object, path.name())?)
            }
            done => Ok(done?),
        }
    }

    fn node(&mut self, parent: &Parent, path: &EntryPath, entry: &Entry) -> Result<()> {
        let name = path.name();
        if entry.kind == Kind::Symlink && entry.link.is_empty() {
            return Err(Failure::Refused("symbolic link without a target".into()));
        }
        if let Err(error) = make_node(&parent.dir, name, entry) {
            if error.kind() != ErrorKind::AlreadyExists {
                return Err(error.into());
            }
            self.clear(parent, path, entry)?;
            make_node(&parent.dir, name, entry)?;
        }
        if let Some((uid, gid)) = self.needs_chown(parent, entry) {
            parent.dir.chown_entry(name, Some(uid), Some(gid))?;
            if entry.mode & 0o6000 != 0 && entry.kind != Kind::Symlink {
                parent.dir.pin(name)?.chmod(entry.mode)?;
            }
        }
        for (key, value) in kept_xattrs(entry) {
            match parent.dir.set_xattr_of(name, OsStr::from_bytes(key), value) {
                // The kernel has no user.* attributes on these.
                Err(error) if !is_optional_error(key, &error) => {
                    return Err(xattr_failure(key, error.into()));
                }
                _ => {}
            }
        }
        parent.dir.set_times_of(name, Some(entry.modified), Some(entry.modified))?;
        Ok(())
    }

    /// Removes what is in the way of `entry`, except a directory that the entry would merge with.
    fn clear(&mut self, parent: &Parent, path: &EntryPath, entry: &Entry) -> Result<Cleared> {
        let there = parent.dir.metadata_of(path.name())?;
        match (there.is_dir(), entry.kind == Kind::Directory) {
            (true, true) => return Ok(Cleared::KeptDirectory),
            (true, false) if self.replace == Replace::NotDirectories => {
                return Err(Failure::Refused(
                    "cannot overwrite directory with non-directory".into(),
                ));
            }
            (false, true) if self.replace == Replace::NotDirectories => {
                return Err(Failure::Refused(
                    "cannot overwrite non-directory with directory".into(),
                ));
            }
            _ => {}
        }
        parent.dir.remove_tree(path.name())?;
        self.forget(path);
        Ok(Cleared::Removed)
    }

    /// Sets the times of the directories. Call once, when all entries are made.
    pub(crate) fn finish(mut self) -> Result<()> {
        for (path, time) in std::mem::take(&mut self.times) {
            let path = EntryPath(path);
            self.set_time(&path, time).map_err(|failure| failure.at(&path.0))?;
        }
        Ok(())
    }

    fn set_time(&self, path: &EntryPath, time: FileTime) -> Result<()> {
        let dir = match self.root.resolve_nofollow(self.full_path(path)) {
            // It was made by way of a link, and what the link led to was replaced since.
            Err(error) if error.is_not_found() || error.kind() == ErrorKind::Invalid => {
                return Ok(());
            }
            found => found?,
        };
        if dir.metadata()?.is_dir() {
            dir.set_times(Some(time), Some(time))?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cleared {
    Removed,
    KeptDirectory,
}

/// Overlay's mark that the layers below have no such file here.
pub(crate) fn is_whiteout(meta: &Metadata) -> bool {
    meta.file_type() == FileType::CharacterDevice && meta.special_device() == (0, 0)
}

fn missing_target(entry: &Entry) -> Failure {
    let target = shortened(&entry.link);
    Failure::Refused(format!("hard link to {target:?}, which is not there"))
}

pub(crate) fn same_object(a: &Metadata, b: &Metadata) -> bool {
    (a.device(), a.inode()) == (b.device(), b.inode())
}

fn make_node(
    dir: &PinnedFd,
    name: &OsStr,
    entry: &Entry,
) -> std::result::Result<(), pouch_rootfd::Error> {
    let kind = match entry.kind {
        Kind::Symlink => return dir.symlink(OsStr::from_bytes(&entry.link), name),
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo | Kind::File | Kind::HardLink | Kind::Directory => FileType::Fifo,
    };
    dir.mknod(name, kind, entry.mode, entry.device)
}

fn write_content<R: BufRead>(file: &File, entry: &Entry, data: &mut TarReader<R>) -> Result<()> {
    let Some(map) = &entry.sparse else {
        let copied = copy(file, data, entry.size)?;
        return if copied == entry.size {
            Ok(())
        } else {
            Err(crate::tar::TarError::Truncated.into())
        };
    };
    let write = |source| Failure::Io { what: "write file", source };
    let mut at = file;
    for segment in map {
        at.seek(SeekFrom::Start(segment.offset)).map_err(write)?;
        if copy(file, data, segment.length)? != segment.length {
            return Err(crate::tar::TarError::Truncated.into());
        }
    }
    rustix::fs::ftruncate(file, entry.size).map_err(|errno| write(errno.into()))
}

/// Copies up to `length` bytes straight out of the decoder's buffer.
fn copy<R: BufRead>(mut file: &File, data: &mut TarReader<R>, length: u64) -> Result<u64> {
    let mut left = length;
    while left > 0 {
        let read = data.fill_buf();
        let chunk = read.map_err(|source| Failure::Io { what: "read archive", source })?;
        if chunk.is_empty() {
            break;
        }
        let n = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&chunk[..n]).map_err(|source| Failure::Io { what: "write file", source })?;
        data.consume(n);
        left -= n as u64;
    }
    Ok(length - left)
}

/// The attributes that an archive may set. `trusted.*` would steer overlay (redirect, opaque,
/// metacopy), `security.*` other than capabilities the host's security modules.
fn kept_xattrs(entry: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    entry.xattrs.iter().map(|(key, value)| (&key[..], &value[..])).filter(|(key, _)| {
        let user = key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
        user || key.starts_with(b"system.posix_acl_") || *key == b"security.capability"
    })
}

/// Failures that leave a file usable: a file system or kind of file without such attributes, and
/// an access list that names no list.
fn is_optional(key: &[u8], errno: Errno) -> bool {
    match errno {
        Errno::NOTSUP => true,
        Errno::PERM => key.starts_with(b"user."),
        Errno::INVAL => key.starts_with(b"system."),
        _ => false,
    }
}

fn xattr_failure(key: &[u8], source: Failure) -> Failure {
    Failure::Xattr(shortened(key), Box::new(source))
}

fn is_optional_error(key: &[u8], error: &pouch_rootfd::Error) -> bool {
    error.errno().is_some_and(|raw| is_optional(key, Errno::from_raw_os_error(raw)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_or_refused() {
        let clean = |raw: &str| EntryPath::clean(raw.as_bytes()).map(|path| path.0);
        for (raw, want) in [
            ("a/b", "a/b"),
            ("/a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/../b", "b"),
            ("a/b/../../c", "c"),
            (".", ""),
            ("", ""),
            ("/", ""),
            ("a/..", ""),
        ] {
            assert_eq!(clean(raw).unwrap(), want.as_bytes(), "{raw}");
        }
        for bad in ["..", "../a", "/../a", "a/../../b", "./..", "a\0b"] {
            assert!(clean(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_directories_are_counted_once_each() {
        let tree = tempfile::tempdir().unwrap();
        let root = RootFd::open(tree.path()).unwrap();
        let limits = Limits { names: 5, ..Limits::default() };
        let base = Path::new("/");
        let mut made = Extractor::new(&root, base, Ownership::Archive, Replace::Anything, limits);
        let time = FileTime { seconds: 0, nanoseconds: 0 };
        let mut add =
            |path: &str| made.remember_time(&EntryPath::clean(path.as_bytes()).unwrap(), time);
        add("ab").unwrap();
        add("ab/c").unwrap_err();
        let mut again = Extractor::new(&root, base, Ownership::Archive, Replace::Anything, limits);
        for _ in 0..10 {
            again.remember_time(&EntryPath::clean(b"12345").unwrap(), time).unwrap();
        }
    }

    #[test]
    fn what_is_below_a_replaced_directory_is_forgotten_and_nothing_else() {
        let tree = tempfile::tempdir().unwrap();
        let root = RootFd::open(tree.path()).unwrap();
        let (base, limits) = (Path::new("/"), Limits::default());
        let mut made = Extractor::new(&root, base, Ownership::Archive, Replace::Anything, limits);
        let time = FileTime { seconds: 0, nanoseconds: 0 };
        let path = |text: &str| EntryPath::clean(text.as_bytes()).unwrap();
        for text in ["d", "d/a", "d/a/b", "d/\u{ff}", "d0", "d-", "d.x", "e/d"] {
            made.remember_time(&path(text), time).unwrap();
        }
        made.forget(&path("d"));
        let left: Vec<_> = made.times.keys().map(|known| String::from_utf8_lossy(known)).collect();
        assert_eq!(left, ["d-", "d.x", "d0", "e/d"]);
        assert_eq!(made.names, 2 + 3 + 2 + 3);
    }

    #[test]
    fn parts_of_a_path() {
        let path = EntryPath::clean(b"a/b/c").unwrap();
        assert_eq!((path.name(), path.parent().0), (OsStr::new("c"), b"a/b".to_vec()));
        let top = EntryPath::clean(b"a").unwrap();
        assert_eq!((top.name(), top.parent().is_root()), (OsStr::new("a"), true));
    }
}
