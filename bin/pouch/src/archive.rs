//! Tar streams of `cp`: made from local files, and unpacked below a local directory.
//!
//! What comes out of a container is hostile. [`unpack`] therefore takes only relative names without
//! `..`, walks to each parent without following a link that the archive itself could have made, and
//! replaces rather than opens what stands at the end.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use bytes::{Buf as _, Bytes};
use tar::{Archive, Builder, EntryType, Header};
use tokio::sync::mpsc;

/// Chunks that may wait between the tar thread and the connection.
const QUEUE: usize = 8;

/// The first component of each name, before and after.
#[derive(Debug, Clone)]
pub(crate) struct Rename {
    pub(crate) from: OsString,
    pub(crate) to: OsString,
}

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Us.
    Caller,
    /// As in the archive, `-a`.
    Archive,
}

/// A blocking writer whose bytes come out of a bounded channel.
#[derive(Debug)]
struct ChannelWriter(mpsc::Sender<io::Result<Bytes>>);

impl Write for ChannelWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let chunk = Bytes::copy_from_slice(buf);
        self.0.blocking_send(Ok(chunk)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A blocking reader of a bounded channel.
#[derive(Debug)]
pub(crate) struct ChannelReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buf.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// A channel into a blocking reader.
pub(crate) fn channel() -> (mpsc::Sender<io::Result<Bytes>>, ChannelReader) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (sender, ChannelReader { receiver, current: Bytes::new() })
}

/// The tar of `source` under the name `name`, as it is made by a thread of its own.
///
/// A failure of the thread becomes a failure of the stream, so that the daemon sees a body that
/// broke off and not a short archive that ended well.
pub(crate) fn pack(source: PathBuf, name: PathBuf) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::spawn(move || {
        let failed = sender.clone();
        let write = || -> io::Result<()> {
            let mut builder =
                Builder::new(io::BufWriter::with_capacity(64 * 1024, ChannelWriter(sender)));
            builder.follow_symlinks(false);
            append(&mut builder, &source, &name)?;
            builder.into_inner()?.flush()
        };
        if let Err(error) = write() {
            // Nobody listens any more when the connection has broken first.
            let _ = failed.blocking_send(Err(error));
        }
    });
    receiver
}

fn append<W: Write>(builder: &mut Builder<W>, source: &Path, name: &Path) -> io::Result<()> {
    let explain =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", source.display()));
    let meta = std::fs::symlink_metadata(source).map_err(explain)?;
    if meta.is_dir() {
        builder.append_dir(name, source).map_err(explain)?;
        let mut children: Vec<_> = std::fs::read_dir(source)
            .map_err(explain)?
            .collect::<Result<_, _>>()
            .map_err(explain)?;
        children.sort_by_key(std::fs::DirEntry::file_name);
        for child in children {
            append(builder, &child.path(), &name.join(child.file_name()))?;
        }
        return Ok(());
    }
    let kind = meta.file_type();
    if std::os::unix::fs::FileTypeExt::is_socket(&kind) {
        // Tar has no sockets, and a copied one would be of no use.
        return Ok(());
    }
    builder.append_path_with_name(source, name).map_err(explain)
}

/// Unpacks `tar` below `directory`, and returns the bytes of its files.
pub(crate) fn unpack(
    tar: impl Read,
    directory: &Path,
    rename: Option<&Rename>,
    owner: Owner,
) -> io::Result<u64> {
    let mut archive = Archive::new(tar);
    let mut total = 0;
    // Modes of directories come last: one without the right to write would stop what is below.
    let mut modes: Vec<(PathBuf, u32)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(name) = safe_name(&entry.path()?, rename)? else { continue };
        let target = parent_of(directory, &name)?;
        let header = entry.header().clone();
        let mode = header.mode()? & 0o7777;
        match header.entry_type() {
            EntryType::Directory => {
                directory_at(&target)?;
                modes.push((target.clone(), mode));
            }
            EntryType::Regular | EntryType::Continuous => {
                clear(&target)?;
                let mut file = std::fs::File::create_new(&target)?;
                total += io::copy(&mut entry, &mut file)?;
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                set_time(&file, &header)?;
            }
            EntryType::Symlink => {
                clear(&target)?;
                let link =
                    entry.link_name()?.ok_or_else(|| bad("a symbolic link has no target"))?;
                symlink(&link, &target)?;
            }
            EntryType::Link => {
                let link = entry.link_name()?.ok_or_else(|| bad("a hard link has no target"))?;
                let source =
                    safe_name(&link, rename)?.ok_or_else(|| bad("a hard link to the directory"))?;
                let source = parent_of(directory, &source)?;
                clear(&target)?;
                std::fs::hard_link(&source, &target)?;
            }
            EntryType::XGlobalHeader => continue,
            // Devices and FIFOs stay where they make sense.
            _ => continue,
        }
        if owner == Owner::Archive && header.entry_type() != EntryType::Link {
            let id = |n: u64| u32::try_from(n).map_err(|_| bad("an owner is out of range"));
            std::os::unix::fs::lchown(&target, Some(id(header.uid()?)?), Some(id(header.gid()?)?))?;
        }
    }
    for (path, mode) in modes.into_iter().rev() {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(total)
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive is not acceptable: {reason}"))
}

/// The name to create, relative and without `.` and `..`; `None` for the directory itself.
fn safe_name(path: &Path, rename: Option<&Rename>) -> io::Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => parts.push(OsString::from(".")),
            Component::Normal(name) => parts.push(name.to_owned()),
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                return Err(bad("a name leaves the directory"));
            }
        }
    }
    if let (Some(rename), Some(first)) = (rename, parts.first_mut())
        && *first == rename.from
    {
        first.clone_from(&rename.to);
    }
    let name: PathBuf = parts.iter().filter(|part| part.as_bytes() != b".").collect();
    Ok(Some(name).filter(|name| name.components().next().is_some()))
}

/// `directory/name`, with every directory on the way there made, and none of them a link.
fn parent_of(directory: &Path, name: &Path) -> io::Result<PathBuf> {
    let mut path = directory.to_owned();
    let mut parts = name.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        if parts.peek().is_some() {
            directory_at(&path)?;
        }
    }
    Ok(path)
}

fn directory_at(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(()),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("cannot overwrite non-directory {} with a directory", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => std::fs::create_dir(path),
        Err(error) => Err(error),
    }
}

/// Removes what is no directory.
fn clear(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("cannot overwrite directory {} with a non-directory", path.display()),
        )),
        Ok(_) => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn set_time(file: &std::fs::File, header: &Header) -> io::Result<()> {
    let modified = std::time::UNIX_EPOCH + std::time::Duration::from_secs(header.mtime()?);
    file.set_modified(modified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(source: &Path, name: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut receiver = pack(source.to_owned(), name.into());
        while let Some(chunk) = receiver.blocking_recv() {
            out.extend_from_slice(&chunk.unwrap());
        }
        out
    }

    fn raw(kind: EntryType, name: &str, link: &str, data: &[u8]) -> Vec<u8> {
        let mut header = Header::new_gnu();
        // Written past the checks of the builder, as an attacker would.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_cksum();
        let mut out = header.as_bytes().to_vec();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    #[test]
    fn trees_survive_the_round_trip_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("src");
        std::fs::create_dir_all(source.join("sub")).unwrap();
        std::fs::write(source.join("sub/f"), "hello").unwrap();
        std::fs::set_permissions(source.join("sub/f"), std::fs::Permissions::from_mode(0o751))
            .unwrap();
        symlink("sub/f", source.join("l")).unwrap();
        let tar = packed(&source, "src");
        let rename = Rename { from: "src".into(), to: "dst".into() };
        let total = unpack(tar.as_slice(), dir.path(), Some(&rename), Owner::Caller).unwrap();
        assert_eq!(total, 5);
        let file = dir.path().join("dst/sub/f");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o751);
        assert_eq!(std::fs::read_link(dir.path().join("dst/l")).unwrap(), Path::new("sub/f"));
    }

    #[test]
    fn the_archive_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let out = outside.to_str().unwrap();
        let up = raw(EntryType::Regular, "../out/x", "", b"x");
        let absolute = raw(EntryType::Regular, &format!("{out}/x"), "", b"x");
        let through =
            [raw(EntryType::Symlink, "l", out, b""), raw(EntryType::Regular, "l/x", "", b"x")]
                .concat();
        let hard = raw(EntryType::Link, "h", "../out/x", b"");
        let link_dir =
            [raw(EntryType::Symlink, "d", out, b""), raw(EntryType::Directory, "d/", "", b"")]
                .concat();
        for tar in [up, absolute, through, hard, link_dir] {
            assert!(unpack(tar.as_slice(), &inside, None, Owner::Caller).is_err());
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        }
        // A file at the end of a link replaces the link.
        std::fs::write(outside.join("keep"), "old").unwrap();
        let over = [
            raw(EntryType::Symlink, "f", &format!("{out}/keep"), b""),
            raw(EntryType::Regular, "f", "", b"new"),
        ]
        .concat();
        std::fs::remove_file(inside.join("l")).unwrap();
        unpack(over.as_slice(), &inside, None, Owner::Caller).unwrap();
        assert_eq!(std::fs::read_to_string(outside.join("keep")).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(inside.join("f")).unwrap(), "new");
    }

    #[test]
    fn kinds_are_not_swapped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("f"), "").unwrap();
        let file_over_dir = raw(EntryType::Regular, "d", "", b"x");
        let dir_over_file = raw(EntryType::Directory, "f/", "", b"");
        assert!(unpack(file_over_dir.as_slice(), dir.path(), None, Owner::Caller).is_err());
        assert!(unpack(dir_over_file.as_slice(), dir.path(), None, Owner::Caller).is_err());
    }

    #[test]
    fn a_missing_source_breaks_the_stream() {
        let mut receiver = pack("/nonexistent/x".into(), "x".into());
        let mut last = None;
        while let Some(chunk) = receiver.blocking_recv() {
            last = Some(chunk);
        }
        assert!(last.unwrap().is_err());
    }
}
