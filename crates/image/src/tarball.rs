//! A streaming reader of the outer archive of `load`, on a blocking thread.
//!
//! The usual tar readers take extended headers of any length into memory; here every header is
//! bounded. Understood: ustar, PAX (path, linkpath, size), GNU long names and base-256 sizes: what
//! Docker, skopeo, podman, buildkit and tar(1) write.

use std::io::{self, Read};

use crate::archive::{ArchiveError, Place, shortened};
use crate::limits;

const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    /// A symbolic link with its target, relative to the entry's directory.
    Symlink(Vec<u8>),
    /// A hard link with its target, relative to the root.
    Hardlink(Vec<u8>),
}

/// The header of one entry.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
}

/// The reader. Between two entries the body of the first must be read with
/// [`Tarball::body`]; what is left of it is skipped.
#[derive(Debug)]
pub(crate) struct Tarball<R> {
    input: R,
    /// Bytes of the current body that were not read, and its padding.
    left: u64,
    padding: u64,
    entries: usize,
    total: u64,
    /// The name of the current entry, for messages.
    name: Option<String>,
}

/// Extended headers apply to the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    /// Why they cannot be believed; told with the entry, whose name may be behind them.
    broken: Option<ArchiveError>,
}

impl<R: Read> Tarball<R> {
    pub(crate) const fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, entries: 0, total: 0, name: None }
    }

    /// The next entry; `None` at the end of the archive.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let place =
            |name: &Option<String>, of: fn(String) -> Place| name.clone().map_or(Place::Start, of);
        self.skip().map_err(|error| error.at(place(&self.name, Place::In)))?;
        let next = self.read().map_err(|error| error.at(place(&self.name, Place::Behind)))?;
        if let Some(entry) = &next {
            self.name = Some(shortened(&entry.name));
        }
        Ok(next)
    }

    fn read(&mut self) -> Result<Option<Entry>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > limits::ARCHIVE_ENTRIES {
                return Err(ArchiveError::TooMany {
                    what: "entries",
                    limit: limits::ARCHIVE_ENTRIES,
                });
            }
            let kind = header[156];
            match kind {
                b'x' | b'g' | b'L' | b'K' => {
                    let size = number(&header[124..136])?;
                    if size > limits::ARCHIVE_HEADER {
                        return Err(ArchiveError::Malformed("an extended header is too long"));
                    }
                    self.begin(size);
                    let mut data = Vec::new();
                    self.body().read_to_end(&mut data).map_err(ArchiveError::Read)?;
                    if data.len() as u64 != size {
                        return Err(ArchiveError::Truncated);
                    }
                    match kind {
                        b'x' if extended.broken.is_none() => {
                            extended.broken = pax(&data, &mut extended).err();
                        }
                        b'L' => extended.path = Some(until_nul(&data).to_vec()),
                        b'K' => extended.link = Some(until_nul(&data).to_vec()),
                        // Global headers carry comments, such as git's commit.
                        _ => {}
                    }
                }
                _ => {
                    let name = name(&header, &mut extended);
                    let here = Place::In(shortened(&name));
                    let entry = entry(&header, name, extended).map_err(|error| error.at(here))?;
                    self.begin(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    /// The body of the entry that [`Tarball::next`] gave last.
    pub(crate) const fn body(&mut self) -> Body<'_, R> {
        Body(self)
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let rest = self.left.saturating_add(self.padding);
        self.account(rest)?;
        let skipped = io::copy(&mut (&mut self.input).take(rest), &mut io::sink())
            .map_err(ArchiveError::Read)?;
        if skipped != rest {
            return Err(ArchiveError::Truncated);
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }

    fn account(&mut self, bytes: u64) -> Result<(), ArchiveError> {
        self.total = self.total.saturating_add(bytes);
        if self.total > limits::ARCHIVE_BYTES {
            return Err(ArchiveError::TooLarge { limit: limits::ARCHIVE_BYTES });
        }
        Ok(())
    }

    /// The next header with a right checksum; `None` at the end mark or the end of the input.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, ArchiveError> {
        let mut header = [0u8; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut header[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Truncated),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ArchiveError::Read(e)),
            }
        }
        self.account(BLOCK as u64)?;
        if header.iter().all(|&b| b == 0) {
            // The end. What follows is padding; the sender may not be done writing it.
            io::copy(&mut (&mut self.input).take(1 << 20), &mut io::sink())
                .map_err(ArchiveError::Read)?;
            return Ok(None);
        }
        let stated = number(&header[148..156])?;
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { u64::from(b' ') } else { u64::from(b) })
            .sum();
        if sum == stated {
            Ok(Some(header))
        } else {
            Err(ArchiveError::Malformed("a header's checksum is wrong: is it a tar archive?"))
        }
    }
}

/// The bytes of one entry.
#[derive(Debug)]
pub(crate) struct Body<'a, R>(&'a mut Tarball<R>);

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let tarball = &mut *self.0;
        let most = usize::try_from(tarball.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let n = tarball.input.read(&mut buf[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tarball.left -= n as u64;
        tarball.account(n as u64).map_err(io::Error::other)?;
        Ok(n)
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// An octal or base-256 number.
fn number(field: &[u8]) -> Result<u64, ArchiveError> {
    let malformed = ArchiveError::Malformed("a number in a header is malformed");
    if field[0] & 0x80 != 0 {
        // Big-endian with the top bit as mark; a set second bit is a negative number.
        let mut value = u64::from(field[0] & 0x7f);
        for &byte in &field[1..] {
            value = value.checked_mul(256).ok_or(ArchiveError::Malformed("a size is too large"))?
                + u64::from(byte);
        }
        return if field[0] & 0x40 == 0 { Ok(value) } else { Err(malformed) };
    }
    let text = until_nul(field);
    let text = std::str::from_utf8(text).unwrap_or("?").trim_matches(' ');
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| malformed)
}

fn name(header: &[u8; BLOCK], extended: &mut Extended) -> Vec<u8> {
    extended.path.take().unwrap_or_else(|| {
        let name = until_nul(&header[..100]);
        let prefix = until_nul(&header[345..500]);
        // GNU archives keep times where ustar keeps a prefix.
        if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        }
    })
}

fn entry(header: &[u8; BLOCK], name: Vec<u8>, extended: Extended) -> Result<Entry, ArchiveError> {
    if let Some(error) = extended.broken {
        return Err(error);
    }
    if name.len() > limits::ARCHIVE_NAME {
        return Err(ArchiveError::Malformed("its name is too long"));
    }
    let (kind, size) = (header[156], number(&header[124..136])?);
    let link = || extended.link.clone().unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
    let (kind, size) = match kind {
        b'0' | 0 | b'7' => (Kind::File, extended.size.unwrap_or(size)),
        b'1' => (Kind::Hardlink(link()), 0),
        b'2' => (Kind::Symlink(link()), 0),
        b'5' => (Kind::Directory, 0),
        _ => {
            return Err(ArchiveError::Entry {
                name: shortened(&name),
                why: "is neither file, directory nor link",
            });
        }
    };
    if kind == Kind::File && name.ends_with(b"/") {
        // How the oldest archives spell a directory.
        return Ok(Entry { name, kind: Kind::Directory, size });
    }
    Ok(Entry { name, kind, size })
}

/// `length key=value\n` records.
fn pax(mut data: &[u8], extended: &mut Extended) -> Result<(), ArchiveError> {
    let malformed = || ArchiveError::Malformed("a PAX header is malformed");
    while !data.is_empty() {
        let space = data.iter().position(|&b| b == b' ').ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&data[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(malformed)?;
        let record = data.get(space + 1..length).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record.iter().position(|&b| b == b'=').ok_or_else(malformed)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => extended.path = Some(value.to_vec()),
            b"linkpath" => extended.link = Some(value.to_vec()),
            b"size" => {
                let text = std::str::from_utf8(value).map_err(|_| malformed())?;
                extended.size = Some(text.parse().map_err(|_| malformed())?);
            }
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(ArchiveError::Malformed("a sparse file is not supported"));
            }
            _ => {}
        }
        data = &data[length..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Result<Vec<(String, u64)>, ArchiveError> {
        let mut tarball = Tarball::new(bytes);
        let mut found = Vec::new();
        while let Some(entry) = tarball.next()? {
            found.push((String::from_utf8(entry.name).unwrap(), entry.size));
        }
        Ok(found)
    }

    fn header(name: &str, kind: u8, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(size);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_cksum();
        header
    }

    #[test]
    fn reads_what_others_write() {
        let long = "d/".repeat(120) + "file";
        let mut builder = tar::Builder::new(Vec::new());
        for (name, data) in [("a", &b"x"[..]), (&long, &[7u8; 1000])] {
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append_data(&mut header, name, data).unwrap();
        }
        builder.append_pax_extensions([("path", &b"pax name"[..]), ("size", b"3")]).unwrap();
        let mut last = header("short", b'0', 0);
        last.set_cksum();
        let mut bytes = builder.get_mut().clone();
        bytes.extend_from_slice(last.as_bytes());
        bytes.extend_from_slice(b"abc");
        bytes.resize(bytes.len() + 509 + 1024, 0);
        assert_eq!(
            names(&bytes).unwrap(),
            [("a".to_owned(), 1), (long, 1000), ("pax name".to_owned(), 3)]
        );
        let mut tarball = Tarball::new(&bytes[..]);
        tarball.next().unwrap();
        let mut body = String::new();
        tarball.body().read_to_string(&mut body).unwrap();
        assert_eq!(body, "x");
    }

    /// How the reader complains.
    fn told(bytes: &[u8]) -> String {
        pouch_types::error::chain(&names(bytes).unwrap_err())
    }

    #[test]
    fn refuses_the_hostile() {
        // A long name of 1 TiB must not be waited for, nor kept.
        let huge = header("././@LongLink", b'L', 1 << 33);
        assert_eq!(
            told(huge.as_bytes()),
            "begin of the archive: archive is malformed: an extended header is too long"
        );
        let device = header("null", b'3', 0);
        assert!(matches!(names(device.as_bytes()), Err(ArchiveError::Entry { .. })));
        let cut = header("a", b'0', 600);
        assert_eq!(told(cut.as_bytes()), "archive entry \"a\": archive is truncated");
        let mut wrong = header("a", b'0', 0);
        wrong.as_mut_bytes()[0] = b'b';
        let second = [&header("first", b'0', 0).as_bytes()[..], wrong.as_bytes()].concat();
        assert_eq!(
            told(&second),
            "behind archive entry \"first\": archive is malformed: a header's checksum is wrong: \
             is it a tar archive?"
        );
        assert_eq!(told(&[1; 100]), "begin of the archive: archive is truncated");
        let mut letters = header("a", b'0', 0);
        letters.as_mut_bytes()[124..128].copy_from_slice(b"many");
        letters.set_cksum();
        assert_eq!(
            told(letters.as_bytes()),
            "archive entry \"a\": archive is malformed: a number in a header is malformed"
        );
        let mut long = header("././@LongLink", b'L', limits::ARCHIVE_NAME as u64 + 1);
        long.set_cksum();
        let mut long = long.as_bytes().to_vec();
        long.resize(512 * 4, b'n');
        long.extend_from_slice(header("a", b'0', 0).as_bytes());
        assert!(told(&long).ends_with("\": archive is malformed: its name is too long"));
        let mut endless = Vec::new();
        for _ in 0..=limits::ARCHIVE_ENTRIES {
            endless.extend_from_slice(header("d", b'5', 0).as_bytes());
        }
        assert_eq!(
            told(&endless),
            format!(
                "behind archive entry \"d\": archive has more than {} entries",
                limits::ARCHIVE_ENTRIES
            )
        );
        for record in ["99 path=x\n", "x path=x\n", "8 path=x", "5 pa\n", "-1 a=b\n", "0 a=b\n"] {
            assert!(pax(record.as_bytes(), &mut Extended::default()).is_err(), "{record}");
        }
        assert!(names(b"").unwrap().is_empty());
    }
}
