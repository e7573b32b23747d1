//! Writing a tar: ustar headers, with a pax record for what does not fit into them.

use std::io::{self, Read, Write};

use super::{BLOCK, Entry, Kind};

/// Largest number in the octal size field.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;
/// Largest number in the octal id and device fields.
const MAX_OCTAL_ID: u64 = 0o777_7777;

/// Writes entries and, at the end, the two zero blocks.
#[derive(Debug)]
pub(crate) struct TarWriter<W: Write> {
    inner: W,
    buffer: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, buffer: vec![0; 128 * 1024] }
    }

    /// Writes `entry` and, for a file, exactly `entry.size` bytes of `data`: a file that shrank
    /// while it is read is filled with zeros, one that grew is cut, since its length is told
    /// already.
    pub(crate) fn append(&mut self, entry: &Entry, data: &mut impl Read) -> io::Result<()> {
        let mut records = Vec::new();
        let name = short_name(&entry.path);
        if name.is_none() {
            record(&mut records, b"path", &entry.path);
        }
        if entry.link.len() > 100 || !entry.link.is_ascii() {
            record(&mut records, b"linkpath", &entry.link);
        }
        let stored = if entry.kind == Kind::File { entry.size } else { 0 };
        let mut decimal = |key: &[u8], value: u64, most: u64| {
            if value > most {
                record(&mut records, key, value.to_string().as_bytes());
            }
        };
        decimal(b"size", stored, MAX_OCTAL_SIZE);
        decimal(b"uid", entry.uid.into(), MAX_OCTAL_ID);
        decimal(b"gid", entry.gid.into(), MAX_OCTAL_ID);
        let seconds = entry.modified.seconds;
        let octal_time = u64::try_from(seconds).ok().filter(|time| *time <= MAX_OCTAL_SIZE);
        if octal_time.is_none() {
            record(&mut records, b"mtime", seconds.to_string().as_bytes());
        }
        for (key, value) in &entry.xattrs {
            record(&mut records, &[b"SCHILY.xattr.", &key[..]].concat(), value);
        }
        if !records.is_empty() {
            self.extended_header(&records)?;
        }
        let (prefix, name) =
            name.unwrap_or_else(|| (b"", &entry.path[..entry.path.len().min(100)]));
        let header = Fields {
            prefix,
            name,
            link: &entry.link[..entry.link.len().min(100)],
            kind: match entry.kind {
                Kind::File => b'0',
                Kind::HardLink => b'1',
                Kind::Symlink => b'2',
                Kind::CharDevice => b'3',
                Kind::BlockDevice => b'4',
                Kind::Directory => b'5',
                Kind::Fifo => b'6',
            },
            mode: entry.mode,
            uid: u64::from(entry.uid),
            gid: u64::from(entry.gid),
            size: stored,
            time: octal_time.unwrap_or(0),
            device: entry.device,
        };
        self.inner.write_all(&header.block())?;
        if stored > 0 {
            self.content(stored, data)?;
            self.pad(stored)?;
        }
        Ok(())
    }

    fn content(&mut self, stored: u64, data: &mut impl Read) -> io::Result<()> {
        let mut left = stored;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            match data.read(&mut self.buffer[..most]) {
                Ok(0) => break,
                Ok(n) => {
                    self.inner.write_all(&self.buffer[..n])?;
                    left -= n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        io::copy(&mut io::repeat(0).take(left), &mut self.inner).map(drop)
    }

    fn extended_header(&mut self, records: &[u8]) -> io::Result<()> {
        let header = Fields {
            prefix: b"",
            name: b"PaxHeaders.0/entry",
            link: b"",
            kind: b'x',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.len() as u64,
            time: 0,
            device: (0, 0),
        };
        self.inner.write_all(&header.block())?;
        self.inner.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, written: u64) -> io::Result<()> {
        let padding = written.next_multiple_of(BLOCK as u64) - written;
        io::copy(&mut io::repeat(0).take(padding), &mut self.inner).map(drop)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inner.write_all(&[0u8; 2 * BLOCK])?;
        self.inner.flush()?;
        Ok(self.inner)
    }
}

struct Fields<'a> {
    prefix: &'a [u8],
    name: &'a [u8],
    link: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
    time: u64,
    device: (u32, u32),
}

impl Fields<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        // What is too large stands in a pax record; the field then holds zero.
        let fit = |value: u64, most: u64| if value > most { 0 } else { value };
        put(0, self.name);
        put(100, format!("{:07o}", self.mode & 0o7777).as_bytes());
        put(108, format!("{:07o}", fit(self.uid, MAX_OCTAL_ID)).as_bytes());
        put(116, format!("{:07o}", fit(self.gid, MAX_OCTAL_ID)).as_bytes());
        put(124, format!("{:011o}", fit(self.size, MAX_OCTAL_SIZE)).as_bytes());
        put(136, format!("{:011o}", self.time).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", fit(self.device.0.into(), MAX_OCTAL_ID)).as_bytes());
        put(337, format!("{:07o}", fit(self.device.1.into(), MAX_OCTAL_ID)).as_bytes());
        put(345, self.prefix);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// The path as prefix and name of a ustar header, if it fits.
fn short_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((b"", path));
    }
    // The slash between them is not stored; a directory's last one belongs to the name.
    let from = path.len().saturating_sub(101);
    let slash = (from..path.len() - 1).find(|at| path[*at] == b'/' && *at > 0)?;
    (slash <= 155).then(|| (&path[..slash], &path[slash + 1..]))
}

/// Appends one pax record, whose length counts its own digits.
fn record(to: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    to.extend_from_slice(length.to_string().as_bytes());
    to.push(b' ');
    to.extend_from_slice(key);
    to.push(b'=');
    to.extend_from_slice(value);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use pouch_rootfd::FileTime;

    use super::super::TarReader;
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry {
            path: path.as_bytes().to_vec(),
            kind,
            mode: 0o4755,
            uid: 1000,
            gid: 3_000_000,
            modified: FileTime { seconds: 1_700_000_000, nanoseconds: 0 },
            size: 0,
            link: Vec::new(),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    /// What is written is read back the same, by this reader and by another library's.
    #[test]
    fn round_trip() {
        let long = format!("{}/file", "d".repeat(90).repeat(3));
        let splits = format!("{}/{}", "p".repeat(120), "n".repeat(90));
        let mut file = entry("data", Kind::File);
        file.size = 700;
        file.xattrs.push((b"security.capability".to_vec(), vec![1, 0, 0, 2, 0]));
        let mut link = entry("link", Kind::Symlink);
        link.link = "t".repeat(150).into_bytes();
        let mut device = entry("dev", Kind::CharDevice);
        device.device = (5, 1);
        let mut old = entry("before-1970", Kind::Fifo);
        old.modified.seconds = -5;
        let entries = vec![
            entry("dir/", Kind::Directory),
            entry(&long, Kind::File),
            entry(&splits, Kind::File),
            entry("ünï", Kind::File),
            file,
            link,
            device,
            old,
        ];
        let mut writer = TarWriter::new(Vec::new());
        for entry in &entries {
            // One byte short of what is told for the file with content.
            writer.append(entry, &mut io::repeat(7).take(699)).unwrap();
        }
        let bytes = writer.finish().unwrap();

        let mut reader = TarReader::new(&bytes[..]);
        for want in &entries {
            let got = reader.next_entry().unwrap().unwrap();
            assert_eq!(got.path, want.path);
            assert_eq!(
                (got.kind, got.mode, got.uid, got.gid),
                (want.kind, 0o4755, 1000, 3_000_000)
            );
            assert_eq!(got.modified, want.modified);
            assert_eq!(
                (&got.link, got.device, &got.xattrs),
                (&want.link, want.device, &want.xattrs)
            );
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            assert_eq!(data.len() as u64, want.size);
            if want.size > 0 {
                assert_eq!((data[698], data[699]), (7, 0));
            }
        }
        assert!(reader.next_entry().unwrap().is_none());

        let mut other = tar::Archive::new(&bytes[..]);
        for (got, want) in other.entries().unwrap().zip(&entries) {
            let got = got.unwrap();
            assert_eq!(&got.path_bytes()[..], &want.path[..]);
            assert_eq!(got.header().uid().unwrap(), 1000);
        }
    }
}
