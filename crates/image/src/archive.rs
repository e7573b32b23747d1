//! Reads the archive of `load` as a stream into the content store: every file becomes an ingest
//! that is hashed and named nowhere yet. Names in the archive are only keys of a map; none is ever
//! a path on the host.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use bytes::Bytes;
use pouch_content::{ContentError, ContentStore, Expected, Finished, IngestKey};
use pouch_types::{Classified, ErrorKind};
use tokio::sync::mpsc;

use crate::limits;
use crate::tarball::{Entry, Kind, Tarball};

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The bytes could not be read or decompressed.
    #[error("read archive")]
    Read(#[source] io::Error),
    /// It ends in the middle.
    #[error("archive is truncated")]
    Truncated,
    /// It breaks the format.
    #[error("archive is malformed: {0}")]
    Malformed(&'static str),
    /// One of its entries is not acceptable.
    #[error("archive entry {name:?} {why}")]
    Entry {
        /// Its name, shortened.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// More of something than the limit.
    #[error("archive has more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// One of its entries, or the one that should be next, cannot be read.
    #[error("{place}")]
    At {
        /// Where that is.
        place: Place,
        /// Why.
        #[source]
        source: Box<Self>,
    },
    /// It unfolds to far more than it is.
    #[error("archive expands more than {} times", limits::RATIO)]
    Ratio,
    /// It unfolds to more than the limit.
    #[error("archive is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Neither format.
    #[error("archive has neither manifest.json nor index.json: not an image archive")]
    NoImages,
    /// One of its documents does not parse.
    #[error("{name} of the archive does not parse")]
    Json {
        /// Which document.
        name: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A file that a document refers to is not in it.
    #[error("archive lacks {0:?}")]
    Missing(String),
    /// A document breaks its rules.
    #[error("{name} of the archive: {why}")]
    Document {
        /// Which document.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// The content store refused.
    #[error("keep archive")]
    Content(#[source] ContentError),
}

impl Classified for ArchiveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Content(error) => error.kind(),
            Self::At { source, .. } => source.kind(),
            _ => ErrorKind::Invalid,
        }
    }
}

impl ArchiveError {
    /// Says where it is, unless that is known.
    pub(crate) fn at(self, place: Place) -> Self {
        match self {
            known @ (Self::At { .. } | Self::Entry { .. }) => known,
            error => Self::At { place, source: Box::new(error) },
        }
    }
}

/// Where in an archive something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the entry of this name.
    In(String),
    /// Behind the entry of this name: that of the next one cannot be read.
    Behind(String),
    /// Before any entry.
    Start,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::In(name) => write!(f, "archive entry {name:?}"),
            Self::Behind(name) => write!(f, "behind archive entry {name:?}"),
            Self::Start => f.write_str("begin of the archive"),
        }
    }
}

/// What of a name goes into a message.
pub(crate) fn shortened(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).collect()
}

/// A stream of bytes from async code, read on a blocking thread.
#[derive(Debug)]
pub(crate) struct ChannelReader {
    source: mpsc::Receiver<io::Result<Bytes>>,
    chunk: Bytes,
}

impl ChannelReader {
    pub(crate) const fn new(source: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { source, chunk: Bytes::new() }
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.source.blocking_recv() {
                None => return Ok(0),
                Some(chunk) => self.chunk = chunk?,
            }
        }
        let n = self.chunk.len().min(buf.len());
        buf[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}

/// Compressions of a stream as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    pub(crate) fn sniff(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// A reader whose first bytes were looked at.
pub(crate) type Peeked<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// Reads the first bytes of `input` and gives them back in front of the rest.
pub(crate) fn peek<R: Read>(mut input: R) -> io::Result<(Compression, Peeked<R>)> {
    let mut head = Vec::new();
    (&mut input).take(8).read_to_end(&mut head)?;
    Ok((Compression::sniff(&head), io::Cursor::new(head).chain(input)))
}

/// Counts what passes.
struct Counted<R> {
    inner: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.set(self.bytes.get() + n as u64);
        Ok(n)
    }
}

/// Ends a stream that unfolds to far more than it is.
struct Guarded<R> {
    inner: R,
    packed: Rc<Cell<u64>>,
    unpacked: u64,
    floor: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.unpacked += n as u64;
        if self.unpacked > self.floor && self.unpacked / limits::RATIO > self.packed.get() {
            return Err(io::Error::other(ArchiveError::Ratio));
        }
        Ok(n)
    }
}

/// Unfolds `input` by what it begins with; a bomb ends in [`ArchiveError::Ratio`].
pub(crate) fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    unfold(input, limits::RATIO_FLOOR)
}

fn unfold<'a>(input: impl Read + 'a, floor: u64) -> io::Result<Box<dyn Read + 'a>> {
    let (compression, input) = peek(input)?;
    let packed = Rc::<Cell<u64>>::default();
    let input = Counted { inner: input, bytes: Rc::clone(&packed) };
    let input = BufReader::with_capacity(1 << 17, input);
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::None => return Ok(Box::new(input)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(input)?),
        Compression::Xz => {
            // The dictionary is the stream's choice; 64 MiB is what the strongest preset takes.
            let stream = liblzma::stream::Stream::new_stream_decoder(
                128 << 20,
                liblzma::stream::CONCATENATED,
            )
            .map_err(io::Error::other)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
        }
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    };
    Ok(Box::new(Guarded { inner, packed, unpacked: 0, floor }))
}

#[derive(Debug)]
enum Member {
    File(Box<Finished>),
    Link(String),
}

/// The files of an archive by name.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    members: HashMap<String, Member>,
    /// Bytes of documents that were read.
    read: Cell<u64>,
}

impl Archive {
    /// Reads all of `input` into ingests. Blocking. `seen` is told the bytes of each file.
    pub(crate) fn read(input: impl Read, store: &ContentStore) -> Result<Self, ArchiveError> {
        let start = |error| ArchiveError::Read(error).at(Place::Start);
        let mut tarball = Tarball::new(decompress(input).map_err(start)?);
        let mut members = HashMap::new();
        while let Some(entry) = tarball.next()? {
            let member = match entry.kind {
                Kind::Directory => continue,
                Kind::File => {
                    let here = Place::In(shortened(&entry.name));
                    let finished = spool(&mut tarball.body(), store);
                    Member::File(Box::new(finished.map_err(|error| error.at(here))?))
                }
                Kind::Symlink(ref target) => {
                    let name = normal(b"", &entry.name)?;
                    let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
                    Member::Link(normal(directory.as_bytes(), target).map_err(|_| outward(&entry))?)
                }
                Kind::Hardlink(ref target) => {
                    Member::Link(normal(b"", target).map_err(|_| outward(&entry))?)
                }
            };
            members.insert(normal(b"", &entry.name)?, member);
        }
        Ok(Self { members, read: Cell::new(0) })
    }

    /// The file of a name, through links within the archive.
    pub(crate) fn file(&self, name: &str) -> Option<&Finished> {
        let mut name = normal(b"", name.as_bytes()).ok()?;
        for _ in 0..=limits::ARCHIVE_LINKS {
            match self.members.get(&name)? {
                Member::File(file) => return Some(file),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }

    /// Takes the file of a name, so that it can become a blob.
    pub(crate) fn take(&mut self, name: &str) -> Option<Finished> {
        let mut name = normal(b"", name.as_bytes()).ok()?;
        for _ in 0..=limits::ARCHIVE_LINKS {
            match self.members.get(&name)? {
                Member::Link(target) => name = target.clone(),
                Member::File(_) => match self.members.remove(&name)? {
                    Member::File(file) => return Some(*file),
                    Member::Link(_) => return None,
                },
            }
        }
        None
    }

    /// The bytes of a document of at most `cap` bytes, if it is there. Blocking.
    pub(crate) fn document(&self, name: &str, cap: u64) -> Result<Option<Bytes>, ArchiveError> {
        let Some(file) = self.file(name) else { return Ok(None) };
        if file.info().size > cap {
            return Err(ArchiveError::Document {
                name: name.to_owned(),
                why: format!("is larger than {cap} bytes"),
            });
        }
        self.read.set(self.read.get().saturating_add(file.info().size));
        if self.read.get() > limits::ARCHIVE_DOCUMENTS {
            let why = format!(
                "the archive's tables name more than {} bytes of documents",
                limits::ARCHIVE_DOCUMENTS
            );
            return Err(ArchiveError::Document { name: name.to_owned(), why });
        }
        let mut bytes = Vec::new();
        file.reopen()
            .map_err(ArchiveError::Content)?
            .take(cap)
            .read_to_end(&mut bytes)
            .map_err(ArchiveError::Read)?;
        Ok(Some(bytes.into()))
    }
}

/// Copies `input` into an ingest.
pub(crate) fn spool(input: &mut impl Read, store: &ContentStore) -> Result<Finished, ArchiveError> {
    let key = IngestKey::unique("load").map_err(ArchiveError::Content)?;
    let expected = Expected::at_most(limits::ARCHIVE_BYTES);
    let mut ingest = store.ingest_blocking(key, expected).map_err(ArchiveError::Content)?;
    let mut buffer = vec![0u8; 1 << 17];
    loop {
        let n = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => {
                discard(ingest);
                return Err(ArchiveError::Read(e));
            }
        };
        if let Err(error) = ingest.append(&buffer[..n]) {
            discard(ingest);
            return Err(ArchiveError::Content(error));
        }
    }
    ingest.finish().map_err(ArchiveError::Content)
}

fn discard(ingest: pouch_content::Ingest) {
    if let Err(error) = ingest.discard() {
        tracing::warn!(%error, "leftover ingest");
    }
}

fn outward(link: &Entry) -> ArchiveError {
    let why = "is a link to what cannot be in the archive";
    ArchiveError::Entry { name: shortened(&link.name), why }
}

/// One spelling for each name; refuses those that lead out of the archive.
fn normal(directory: &[u8], name: &[u8]) -> Result<String, ArchiveError> {
    let refuse = |why| ArchiveError::Entry { name: shortened(name), why };
    let text = std::str::from_utf8(name).map_err(|_| refuse("has a name that is not UTF-8"))?;
    let directory =
        std::str::from_utf8(directory).map_err(|_| refuse("has a name that is not UTF-8"))?;
    if text.starts_with('/') {
        return Err(refuse("has an absolute name or target"));
    }
    if text.contains('\0') {
        return Err(refuse("has a NUL byte in its name"));
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in directory.split('/').chain(text.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                if parts.pop().is_none() {
                    return Err(refuse("leads out of the archive"));
                }
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(refuse("has no name"));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn store() -> (tempfile::TempDir, ContentStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        (dir, store)
    }

    fn raw(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, body) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            let link = kind.is_symlink() || kind.is_hard_link();
            header.set_size(if link { 0 } else { body.len() as u64 });
            if link {
                header.as_old_mut().linkname[..body.len()].copy_from_slice(body.as_bytes());
            }
            header.set_cksum();
            let body = if link { &[] } else { body.as_bytes() };
            builder.append(&header, body).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;
    const SYMLINK: tar::EntryType = tar::EntryType::Symlink;

    #[test]
    fn links_within_the_archive_are_followed() {
        let (_dir, store) = store();
        let bytes = raw(&[
            ("a/layer.tar", FILE, "body"),
            ("b/layer.tar", SYMLINK, "../a/layer.tar"),
            ("c", tar::EntryType::Link, "b/layer.tar"),
            ("loop", SYMLINK, "loop"),
        ]);
        let mut archive = Archive::read(&bytes[..], &store).unwrap();
        for name in ["a/layer.tar", "./b/layer.tar", "c"] {
            assert_eq!(archive.document(name, 10).unwrap().unwrap(), "body", "{name}");
        }
        assert!(archive.file("loop").is_none());
        assert!(archive.file("../c").is_none());
        assert!(archive.document("c", 3).is_err());
        assert!(archive.take("c").is_some());
        assert!(archive.file("a/layer.tar").is_none());
    }

    /// SEC-27 for the outer archive.
    #[test]
    fn names_and_links_that_lead_out_are_refused() {
        for (name, kind, body) in [
            ("../x", FILE, ""),
            ("/etc/x", FILE, ""),
            ("a/../../x", FILE, ""),
            (".", FILE, ""),
            ("a", SYMLINK, "/etc/passwd"),
            ("a/b", SYMLINK, "../../etc/passwd"),
            ("a", tar::EntryType::Link, "../etc/passwd"),
            ("a", tar::EntryType::Char, ""),
            ("a", tar::EntryType::Fifo, ""),
        ] {
            let (dir, store) = store();
            let bytes = raw(&[("first", FILE, "x"), (name, kind, body)]);
            assert!(Archive::read(&bytes[..], &store).is_err(), "{name} {body}");
            let left = std::fs::read_dir(dir.path().join("ingest")).unwrap().count();
            assert_eq!(left, 0, "{name}: nothing stays behind");
        }
    }

    #[test]
    fn a_bomb_ends_at_the_ratio() {
        let zeros = vec![0u8; 4 << 20];
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&zeros).unwrap();
        let bzip2 = |bytes: &[u8]| {
            let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
            bz.write_all(bytes).unwrap();
            bz.finish().unwrap()
        };
        for bomb in
            [gzip.finish().unwrap(), bzip2(&zeros), zstd::encode_all(&zeros[..], 3).unwrap()]
        {
            let run = |floor| io::copy(&mut unfold(&bomb[..], floor).unwrap(), &mut io::sink());
            assert_eq!(run(8 << 20).unwrap(), 4 << 20, "below the floor it is no bomb");
            let error = run(1 << 20).unwrap_err();
            let why = error.get_ref().unwrap().downcast_ref::<ArchiveError>();
            assert!(matches!(why, Some(ArchiveError::Ratio)), "{error}");
        }
    }

    /// A table can name one big document again and again.
    #[test]
    fn documents_are_bounded_together() {
        let (_dir, store) = store();
        let bytes = raw(&[("c", FILE, &"x".repeat(8 << 20))]);
        let archive = Archive::read(&bytes[..], &store).unwrap();
        for _ in 0..limits::ARCHIVE_DOCUMENTS / (8 << 20) {
            archive.document("c", limits::CONFIG_BYTES).unwrap().unwrap();
        }
        let error = archive.document("c", limits::CONFIG_BYTES).unwrap_err();
        assert!(matches!(error, ArchiveError::Document { .. }), "{error}");
    }

    #[test]
    fn unfolds_every_compression_and_refuses_a_cut_one() {
        let plain = raw(&[("f", FILE, &"data".repeat(10_000))]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&plain).unwrap();
        let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bz.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(&plain[..], 3).unwrap();
        for bytes in [
            plain.clone(),
            gzip.finish().unwrap(),
            xz.finish().unwrap(),
            bz.finish().unwrap(),
            zstd,
        ] {
            let (dir, store) = store();
            let archive = Archive::read(&bytes[..], &store).unwrap();
            assert_eq!(archive.file("f").unwrap().info().size, 40_000);
            drop(archive);
            assert!(Archive::read(&bytes[..bytes.len() / 2], &store).is_err());
            assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
        }
    }
}
