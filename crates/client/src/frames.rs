//! The framing of attach and log streams without a terminal: an eight-byte header (stream, three
//! zeros, length in big endian) before each piece.
//!
//! Memory is bounded by one read buffer whatever length a header claims: pieces are handed on as
//! they arrive, a frame may come in several.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

const HEADER: usize = 8;
const BUFFER: usize = 32 * 1024;

/// Which stream of the process a piece belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// Echoed input; no daemon sends it today.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A failure of the daemon, as text.
    Daemon,
}

impl Channel {
    fn from_byte(byte: u8) -> io::Result<Self> {
        match byte {
            0 => Ok(Self::Stdin),
            1 => Ok(Self::Stdout),
            2 => Ok(Self::Stderr),
            3 => Ok(Self::Daemon),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unknown stream {other} in a frame header"),
            )),
        }
    }
}

/// Splits a framed stream.
#[derive(Debug)]
pub struct Demultiplexer<R> {
    reader: R,
    buffer: BytesMut,
    channel: Channel,
    remaining: usize,
}

impl<R: AsyncRead + Unpin> Demultiplexer<R> {
    /// Reads frames from `reader`.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: BytesMut::with_capacity(BUFFER),
            channel: Channel::Stdout,
            remaining: 0,
        }
    }

    /// The next piece, `None` at the end. Cancel-safe: nothing read is lost when the future is
    /// dropped.
    ///
    /// # Errors
    /// A read failure, an unknown stream, or an end within a frame.
    pub async fn next(&mut self) -> io::Result<Option<(Channel, Bytes)>> {
        loop {
            if self.remaining > 0 && !self.buffer.is_empty() {
                let n = self.remaining.min(self.buffer.len());
                self.remaining -= n;
                return Ok(Some((self.channel, self.buffer.split_to(n).freeze())));
            }
            if self.remaining == 0 && self.buffer.len() >= HEADER {
                self.channel = Channel::from_byte(self.buffer[0])?;
                self.buffer.advance(4);
                self.remaining = usize::try_from(self.buffer.get_u32()).unwrap_or(usize::MAX);
                continue;
            }
            self.buffer.reserve(BUFFER);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return if self.remaining == 0 && self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended in a frame"))
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(channel: u8, data: &[u8]) -> Vec<u8> {
        let mut out = vec![channel, 0, 0, 0];
        out.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        out.extend_from_slice(data);
        out
    }

    async fn collect(reader: impl AsyncRead + Unpin) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut demux = Demultiplexer::new(reader);
        while let Some((channel, data)) = demux.next().await? {
            match channel {
                Channel::Stderr => err.extend_from_slice(&data),
                _ => out.extend_from_slice(&data),
            }
        }
        Ok((out, err))
    }

    #[tokio::test]
    async fn separates_whatever_the_reads_are() {
        let big = vec![b'x'; 100_000];
        let wire = [frame(1, b"a"), frame(2, b"err"), frame(1, b""), frame(1, &big)].concat();
        for step in [1usize, 3, 7, 8192, wire.len()] {
            let chunks: Vec<io::Result<Bytes>> =
                wire.chunks(step).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
            let reader = tokio_util::io::StreamReader::new(futures::stream::iter(chunks));
            let (out, err) = collect(reader).await.unwrap();
            assert_eq!(out.len(), 100_001);
            assert_eq!(err, b"err");
        }
    }

    #[tokio::test]
    async fn a_huge_claimed_length_costs_no_memory() {
        let mut wire = vec![1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        wire.extend_from_slice(b"tail");
        let mut demux = Demultiplexer::new(wire.as_slice());
        assert_eq!(demux.next().await.unwrap().unwrap().1.as_ref(), b"tail");
        assert_eq!(demux.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(demux.buffer.capacity() <= 2 * BUFFER);
    }

    #[tokio::test]
    async fn refuses_garbage_and_cut_headers() {
        assert_eq!(
            collect(b"HTTP/1.1".as_slice()).await.unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
        assert_eq!(
            collect([1u8, 0].as_slice()).await.unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
    }
}
