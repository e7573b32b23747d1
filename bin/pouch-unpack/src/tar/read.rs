//! Reading a tar, one entry at a time.

use std::io::{self, BufRead, Read};

use pouch_rootfd::FileTime;

use super::pax::{self, Overrides};
use super::sparse::{self, Segment};
use super::{BLOCK, Broken, Entry, Kind, Place, TarError};
use crate::limits::{DEVICE_MAJOR, DEVICE_MINOR, EXTENSION, EXTENSIONS, SEGMENTS};

/// Iterates over the entries of a tar.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    inner: R,
    /// Stored bytes of the current entry that were not read yet.
    left: u64,
    /// Zeros behind them up to the next block.
    padding: u64,
    /// The end was seen.
    done: bool,
    /// The name of the current entry, for messages; `None` before the first.
    name: Option<Vec<u8>>,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, left: 0, padding: 0, done: false, name: None }
    }

    /// The name of the last entry, for messages about what follows it.
    pub(crate) fn into_name(self) -> Option<Vec<u8>> {
        self.name
    }

    /// The next entry; its data are then read from `self`.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, Broken> {
        if let Err(error) = self.skip_rest() {
            let place = self.name.take().map_or(Place::Start, Place::In);
            return Err(Broken { place, error });
        }
        let extended = self.extended().map_err(|error| {
            let place = self.name.take().map_or(Place::Start, Place::Behind);
            Broken { place, error }
        })?;
        let Some((block, mut overrides)) = extended else { return Ok(None) };
        let header = Header(&block);
        let path = overrides.path.clone().unwrap_or_else(|| header.path());
        let broken = |error| Broken { place: Place::In(path.clone()), error };
        if let Some(error) = overrides.broken.take() {
            return Err(broken(error));
        }
        let entry = self.entry(&header, path.clone(), overrides).map_err(broken)?;
        self.name = Some(entry.path.clone());
        Ok(Some(entry))
    }

    /// The next entry's header with what the extended headers before it say; `None` at the end.
    fn extended(&mut self) -> Result<Option<([u8; BLOCK], Overrides)>, TarError> {
        let mut overrides = Overrides::default();
        let mut extensions = 0u32;
        let mut expects_entry = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.next_header()? else {
                return if expects_entry { Err(TarError::Truncated) } else { Ok(None) };
            };
            let header = Header(&block);
            header.check()?;
            let kind = block[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                return Ok(Some((block, overrides)));
            }
            let size = header.number(124, 12, "size")?;
            extensions += 1;
            if extensions > EXTENSIONS {
                return Err(TarError::TooManyHeaders);
            }
            if size > EXTENSION {
                return Err(TarError::HeaderTooLong(size));
            }
            self.begin(size);
            let data = self.extension(size)?;
            // A global header is of no entry; neither Docker nor containerd applies what it says.
            expects_entry |= kind != b'g';
            match kind {
                // Told with the entry, whose name may be in the header behind this one.
                b'x' if overrides.broken.is_none() => {
                    overrides.broken = pax::parse(&data, &mut overrides).err();
                }
                b'L' => overrides.path = Some(until_nul(&data).to_vec()),
                b'K' => overrides.link = Some(until_nul(&data).to_vec()),
                _ => {}
            }
        }
    }

    fn begin(&mut self, stored: u64) {
        self.left = stored;
        let block = BLOCK as u64;
        self.padding = (block - stored % block) % block;
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        let mut data = Vec::new();
        (&mut *self).take(size).read_to_end(&mut data)?;
        if data.len() as u64 == size { Ok(data) } else { Err(TarError::Truncated) }
    }

    /// Reads the next header block; `None` at the end of the archive, which is two zero blocks or,
    /// as Go accepts it, the end of the stream at a block.
    fn next_header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.done {
            return Ok(None);
        }
        let mut zeros = 0;
        loop {
            let mut block = [0u8; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.inner.read(&mut block[filled..]) {
                    Ok(0) => break,
                    Ok(n) => filled += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e.into()),
                }
            }
            match filled {
                0 => break,
                BLOCK if block.iter().all(|byte| *byte == 0) => {
                    zeros += 1;
                    if zeros == 2 {
                        break;
                    }
                }
                // One zero block alone is no end; Go refuses what follows it, and so does this.
                BLOCK if zeros == 0 => return Ok(Some(block)),
                BLOCK => return Err(TarError::Checksum),
                _ => return Err(TarError::Truncated),
            }
        }
        self.done = true;
        Ok(None)
    }

    fn skip_rest(&mut self) -> Result<(), TarError> {
        let mut skip = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        while skip > 0 {
            let available = self.inner.fill_buf()?.len();
            if available == 0 {
                return Err(TarError::Truncated);
            }
            let n = usize::try_from(skip).unwrap_or(usize::MAX).min(available);
            self.inner.consume(n);
            skip -= n as u64;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        mut path: Vec<u8>,
        over: Overrides,
    ) -> Result<Entry, TarError> {
        let header_size = header.number(124, 12, "size")?;
        let type_flag = header.0[156];
        let kind = match type_flag {
            // Before POSIX a directory was a file whose name ends in a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::UnknownType(char::from(other))),
        };
        // Only files have data, whatever the header of another kind claims (as Go reads it).
        let stored = if kind == Kind::File { over.size.unwrap_or(header_size) } else { 0 };
        let mut size = stored;
        let mut map = None;
        self.begin(stored);
        if type_flag == b'S' {
            let (segments, real) = self.gnu_sparse(header, stored)?;
            (map, size) = (Some(segments), real);
        } else if kind == Kind::File && over.sparse.is_present() {
            let segments = if over.sparse.major == Some(1) && over.sparse.minor == Some(0) {
                sparse::read_map_1_0(self)?.0
            } else {
                sparse::from_pairs(&over.sparse.map)?
            };
            size = over.sparse.real_size.ok_or(TarError::Sparse)?;
            sparse::check(&segments, size, self.left)?;
            map = Some(segments);
            if let Some(name) = over.sparse.name {
                path = name;
            }
        }
        let id = |value: Option<u64>, at, field| -> Result<u32, TarError> {
            let value = match value {
                Some(value) => value,
                None => header.number(at, 8, field)?,
            };
            // (uid_t)-1 means "do not change" to the kernel, so it is no owner.
            u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or(TarError::Field(field))
        };
        let device = if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            header.device()?
        } else {
            (0, 0)
        };
        Ok(Entry {
            path,
            kind,
            mode: u32::try_from(header.number(100, 8, "mode")? & 0o7777).unwrap_or_default(),
            uid: id(over.uid, 108, "uid")?,
            gid: id(over.gid, 116, "gid")?,
            modified: match over.modified {
                Some(time) => time,
                None => FileTime { seconds: header.signed(136, 12, "mtime")?, nanoseconds: 0 },
            },
            size,
            link: over.link.unwrap_or_else(|| until_nul(&header.0[157..257]).to_vec()),
            device,
            xattrs: over.xattrs,
            sparse: map,
        })
    }

    /// GNU's own sparse format: four segments in the header, more in blocks behind it.
    fn gnu_sparse(
        &mut self,
        header: &Header<'_>,
        stored: u64,
    ) -> Result<(Vec<Segment>, u64), TarError> {
        let real = header.number(483, 12, "real size")?;
        let mut map = Vec::new();
        let mut more = segments(&header.0[386..482], &mut map)? && header.0[482] != 0;
        while more {
            // These blocks stand before the data and are not part of its length.
            let mut block = [0u8; BLOCK];
            self.inner.read_exact(&mut block).map_err(|_| TarError::Truncated)?;
            more = segments(&block[..504], &mut map)? && block[504] != 0;
            // The cap, before the next block is believed.
            if map.len() > SEGMENTS {
                return Err(TarError::Sparse);
            }
        }
        sparse::check(&map, real, stored)?;
        Ok((map, real))
    }
}

/// Adds the segments of one table; false at its end mark.
fn segments(table: &[u8], map: &mut Vec<Segment>) -> Result<bool, TarError> {
    for pair in table.chunks_exact(24) {
        if pair[0] == 0 {
            return Ok(false);
        }
        let offset = number(&pair[..12]).ok_or(TarError::Sparse)?;
        let length = number(&pair[12..]).ok_or(TarError::Sparse)?;
        map.push(Segment { offset, length });
    }
    Ok(true)
}

/// The stored bytes of the current entry.
impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buf[..most])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Truncated)),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let available = self.inner.fill_buf()?;
        if available.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, TarError::Truncated));
        }
        Ok(&available[..available.len().min(most)])
    }

    fn consume(&mut self, amount: usize) {
        self.left -= amount as u64;
        self.inner.consume(amount);
    }
}

struct Header<'a>(&'a [u8; BLOCK]);

impl Header<'_> {
    fn check(&self) -> Result<(), TarError> {
        let told = self.number(148, 8, "checksum")?;
        let (mut unsigned, mut signed) = (0u64, 0i64);
        for (at, byte) in self.0.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        // Some old programs summed signed bytes.
        if told == unsigned || i64::try_from(told) == Ok(signed) {
            Ok(())
        } else {
            Err(TarError::Checksum)
        }
    }

    fn path(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        // GNU keeps times where POSIX keeps the prefix.
        let posix = &self.0[257..263] == b"ustar\0";
        let prefix = if posix { until_nul(&self.0[345..500]) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    fn number(&self, at: usize, length: usize, field: &'static str) -> Result<u64, TarError> {
        number(&self.0[at..at + length]).ok_or(TarError::Field(field))
    }

    /// Major and minor number.
    fn device(&self) -> Result<(u32, u32), TarError> {
        let part = |at, field| {
            u32::try_from(self.number(at, 8, field)?).map_err(|_| TarError::Field(field))
        };
        let (major, minor) = (part(329, "devmajor")?, part(337, "devminor")?);
        if major > DEVICE_MAJOR || minor > DEVICE_MINOR {
            return Err(TarError::Device(major, minor));
        }
        Ok((major, minor))
    }

    /// A number that base 256 may give as negative.
    fn signed(&self, at: usize, length: usize, field: &'static str) -> Result<i64, TarError> {
        let bytes = &self.0[at..at + length];
        if bytes[0] != 0xff {
            return i64::try_from(self.number(at, length, field)?)
                .map_err(|_| TarError::Field(field));
        }
        let (head, tail) = bytes.split_at(length - 8);
        let mut low = [0u8; 8];
        low.copy_from_slice(tail);
        let value = i64::from_be_bytes(low);
        if head.iter().all(|byte| *byte == 0xff) && value < 0 {
            Ok(value)
        } else {
            Err(TarError::Field(field))
        }
    }
}

/// A numeric field: octal digits between blanks and NULs, or GNU's base 256.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        // The top bit marks the form, the next one is the sign.
        if field[0] != 0x80 {
            return None;
        }
        return field[1..].iter().try_fold(0u64, |value, byte| {
            (value >> 56 == 0).then(|| value << 8 | u64::from(*byte))
        });
    }
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    digits[..end].iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => (value >> 61 == 0).then(|| value << 3 | u64::from(digit - b'0')),
        _ => None,
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-000001\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), None);
        let mut wide = [0xffu8; 12];
        wide[0] = 0x80;
        assert_eq!(number(&wide), None, "more than 64 bits");
    }

    #[test]
    fn any_bytes_end_in_an_error_or_an_entry() {
        use proptest::prelude::*;
        proptest!(ProptestConfig::with_cases(300), |(bytes in proptest::collection::vec(any::<u8>(), 0..4096))| {
            let mut reader = TarReader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next_entry() {}
        });
    }

    /// Valid checksums, arbitrary fields: what a fuzzer with a fixed checksum finds.
    #[test]
    fn any_header_with_a_valid_checksum() {
        use proptest::prelude::*;
        proptest!(ProptestConfig::with_cases(2000), |(
            fields in proptest::collection::vec((0usize..512, any::<u8>()), 0..40),
            kind in proptest::sample::select(b"01234567xgLKSV".to_vec()),
            tail in proptest::collection::vec(any::<u8>(), 0..2048),
        )| {
            let mut block = [0u8; BLOCK];
            block[..4].copy_from_slice(b"name");
            block[257..265].copy_from_slice(b"ustar\x0000");
            for (at, byte) in fields {
                block[at] = byte;
            }
            block[156] = kind;
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let bytes = [&block[..], &tail].concat();
            let mut reader = TarReader::new(&bytes[..]);
            while let Ok(Some(entry)) = reader.next_entry() {
                let mut sink = Vec::new();
                let _ = (&mut reader).take(1 << 20).read_to_end(&mut sink);
                prop_assert!(sink.len() as u64 <= entry.size.max(sink.len() as u64));
            }
        });
    }
}
