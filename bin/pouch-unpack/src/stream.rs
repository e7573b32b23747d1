//! The byte streams of an archive: standard input, its digest, the decoder, the digest of what
//! comes out, and the guards against bombs.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::rc::Rc;

use pouch_types::{Digest, Hasher};

use crate::limits::{RATIO, RATIO_FLOOR, XZ_MEMORY, ZSTD_WINDOW_LOG};

const BUFFER: usize = 256 * 1024;

/// A guard ended the stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("archive is longer than {0} bytes unpacked")]
    Length(u64),
    #[error("archive expands more than {RATIO} times")]
    Ratio,
}

/// Bytes that passed, and their hash.
#[derive(Debug, Default)]
struct Tally {
    hasher: Hasher,
    bytes: u64,
}

/// What a finished stream amounts to.
#[derive(Debug)]
pub(crate) struct Sums {
    /// Of the bytes on standard input, if that was asked for or is the same.
    pub(crate) digest: Option<Digest>,
    /// How many.
    pub(crate) compressed: u64,
    /// Of the tar.
    pub(crate) diff_id: Digest,
}

/// Which digests anybody wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashing {
    /// Of the bytes as they come and of the tar in them.
    Both,
    /// Of the tar alone: whoever feeds us hashes what he feeds.
    Tar,
    /// None.
    Off,
}

/// Standard input without the standard library's lock and buffer.
#[derive(Debug)]
struct Stdin;

impl Read for Stdin {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(rustix::stdio::stdin(), buf)?)
    }
}

struct Counted<R> {
    inner: R,
    tally: Rc<RefCell<Tally>>,
    hashed: bool,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        let mut tally = self.tally.borrow_mut();
        if self.hashed {
            tally.hasher.update(&buf[..n]);
        }
        tally.bytes += n as u64;
        Ok(n)
    }
}

/// Ends the stream at the limits.
struct Guarded<R> {
    inner: R,
    raw: Rc<RefCell<Tally>>,
    out: u64,
    max_bytes: u64,
    ratio_floor: u64,
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.out += n as u64;
        if self.out > self.max_bytes {
            return Err(io::Error::other(LimitError::Length(self.max_bytes)));
        }
        if self.out > self.ratio_floor && self.out / RATIO > self.raw.borrow().bytes {
            return Err(io::Error::other(LimitError::Ratio));
        }
        Ok(n)
    }
}

/// The archive on standard input, decompressed.
pub(crate) struct ArchiveStream {
    reader: BufReader<Counted<Guarded<Box<dyn Read>>>>,
    raw: Rc<RefCell<Tally>>,
    tar: Rc<RefCell<Tally>>,
    compressed: bool,
    raw_hashed: bool,
}

impl std::fmt::Debug for ArchiveStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArchiveStream").field("compressed", &self.compressed).finish()
    }
}

impl ArchiveStream {
    /// Looks at the first bytes of standard input and puts the right decoder behind it.
    pub(crate) fn open(max_bytes: u64, hashing: Hashing) -> io::Result<Self> {
        Self::over(Stdin, max_bytes, RATIO_FLOOR, hashing)
    }

    fn over(
        input: impl Read + 'static,
        max_bytes: u64,
        ratio_floor: u64,
        hashing: Hashing,
    ) -> io::Result<Self> {
        let (raw, tar) = (Rc::<RefCell<Tally>>::default(), Rc::<RefCell<Tally>>::default());
        let mut input = input;
        let mut head = Vec::new();
        (&mut input).take(512).read_to_end(&mut head)?;
        let format = Format::of(&head);
        let compressed = format != Format::Identity;
        // What is not compressed is hashed once, as it comes.
        let (raw_hashed, tar_hashed) = match hashing {
            Hashing::Both => (true, compressed),
            Hashing::Tar => (!compressed, compressed),
            Hashing::Off => (false, false),
        };
        let input = Counted {
            inner: Cursor::new(head).chain(input),
            tally: Rc::clone(&raw),
            hashed: raw_hashed,
        };
        let input = BufReader::with_capacity(BUFFER, input);
        let decoder: Box<dyn Read> = match format {
            Format::Identity => Box::new(input),
            Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Format::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Format::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Format::Xz => {
                let flags = liblzma::stream::CONCATENATED;
                let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)
                    .map_err(io::Error::other)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(input, stream))
            }
        };
        let guarded =
            Guarded { inner: decoder, raw: Rc::clone(&raw), out: 0, max_bytes, ratio_floor };
        let counted = Counted { inner: guarded, tally: Rc::clone(&tar), hashed: tar_hashed };
        let reader = BufReader::with_capacity(BUFFER, counted);
        Ok(Self { reader, raw, tar, compressed, raw_hashed })
    }

    /// Reads what is left behind the end of the tar, which the digests cover too.
    pub(crate) fn finish(mut self) -> io::Result<Sums> {
        loop {
            let n = self.reader.fill_buf()?.len();
            if n == 0 {
                break;
            }
            self.reader.consume(n);
        }
        let digest = |tally: &RefCell<Tally>| tally.borrow().hasher.clone().finish();
        Ok(Sums {
            digest: self.raw_hashed.then(|| digest(&self.raw)),
            compressed: self.raw.borrow().bytes,
            diff_id: digest(if self.compressed { &self.tar } else { &self.raw }),
        })
    }
}

impl Read for ArchiveStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buf)
    }
}

impl BufRead for ArchiveStream {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.reader.consume(amount);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Identity,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

impl Format {
    fn of(head: &[u8]) -> Self {
        // A tar whose first file is called "BZh…" is still a tar.
        if head.get(257..262) == Some(b"ustar") {
            return Self::Identity;
        }
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or a skippable frame before it.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn payload() -> Vec<u8> {
        (0..200_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect()
    }

    fn unpack(bytes: Vec<u8>, max: u64) -> io::Result<(Vec<u8>, Sums)> {
        let mut stream = ArchiveStream::over(Cursor::new(bytes), max, RATIO_FLOOR, Hashing::Both)?;
        let mut out = Vec::new();
        stream.read_to_end(&mut out)?;
        Ok((out, stream.finish()?))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_format_by_its_magic() {
        let plain = payload();
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&plain).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&plain).unwrap();
        let packed = [
            plain.clone(),
            gzip(&plain),
            zstd::encode_all(&plain[..], 1).unwrap(),
            bzip2.finish().unwrap(),
            xz.finish().unwrap(),
        ];
        for (format, bytes) in packed.into_iter().enumerate() {
            let want = Digest::of(&bytes);
            let length = bytes.len() as u64;
            let (out, sums) = unpack(bytes, u64::MAX).unwrap();
            assert!(out == plain, "format {format}");
            assert_eq!(sums.diff_id, Digest::of(&plain), "format {format}");
            assert_eq!((sums.digest, sums.compressed), (Some(want), length), "format {format}");
        }
    }

    #[test]
    fn the_tar_alone_is_hashed_when_the_blob_is_known() {
        let plain = payload();
        for (bytes, digest) in [(plain.clone(), Some(Digest::of(&plain))), (gzip(&plain), None)] {
            let input = Cursor::new(bytes);
            let mut stream =
                ArchiveStream::over(input, u64::MAX, RATIO_FLOOR, Hashing::Tar).unwrap();
            io::copy(&mut stream, &mut io::sink()).unwrap();
            let sums = stream.finish().unwrap();
            assert_eq!((sums.diff_id, sums.digest), (Digest::of(&plain), digest));
        }
    }

    #[test]
    fn several_members_are_one_stream() {
        let (head, tail) = (payload(), b"tail".to_vec());
        let whole = [head.clone(), tail.clone()].concat();
        let members = [gzip(&head), gzip(&tail)].concat();
        assert!(unpack(members, u64::MAX).unwrap().0 == whole);
        let frames = [&head, &tail].map(|part| zstd::encode_all(&part[..], 1).unwrap()).concat();
        assert!(unpack(frames, u64::MAX).unwrap().0 == whole);
    }

    #[test]
    fn damage_is_noticed() {
        let mut bytes = gzip(&payload());
        bytes.truncate(bytes.len() - 10);
        assert!(unpack(bytes.clone(), u64::MAX).is_err(), "truncated");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        assert!(unpack(bytes, u64::MAX).is_err(), "flipped");
        let garbage = [gzip(b"x"), b"garbage".to_vec()].concat();
        assert!(unpack(garbage, u64::MAX).is_err(), "garbage behind the end");
    }

    #[test]
    fn the_length_guard_trips_before_the_bytes_are_used() {
        let error = unpack(gzip(&payload()), 1000).unwrap_err();
        let limit = error.get_ref().unwrap().downcast_ref::<LimitError>();
        assert!(matches!(limit, Some(LimitError::Length(1000))));
    }

    #[test]
    fn the_ratio_guard_trips_on_a_bomb() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        io::copy(&mut io::repeat(0).take(64 << 20), &mut encoder).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 8 << 10);
        let mut stream =
            ArchiveStream::over(Cursor::new(bomb), u64::MAX, 1 << 20, Hashing::Off).unwrap();
        let error = io::copy(&mut stream, &mut io::sink()).unwrap_err();
        let limit = error.get_ref().unwrap().downcast_ref::<LimitError>();
        assert!(matches!(limit, Some(LimitError::Ratio)));
    }

    #[test]
    fn a_tar_whose_first_name_looks_compressed() {
        let mut block = [0u8; 512];
        block[..4].copy_from_slice(b"BZh9");
        block[257..262].copy_from_slice(b"ustar");
        assert_eq!(Format::of(&block), Format::Identity);
    }
}
