//! Bytes on their way to a descriptor that does not take them yet.

use std::os::fd::AsFd;

use rustix::io::Errno;

/// A first-in first-out buffer. Bounded by its users; holds no memory while empty.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

/// The other side will take nothing any more.
#[derive(Debug)]
pub(crate) struct Gone;

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        // Compacting before growing keeps the allocation near the content's size.
        if self.start > 0 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            self.clear();
        }
    }

    /// Writes what `fd` takes; the count tells whether there was progress.
    pub(crate) fn flush(&mut self, fd: impl AsFd) -> Result<usize, Gone> {
        let mut written = 0;
        while !self.is_empty() {
            let count = write(&fd, &self.bytes[self.start..])?;
            if count == 0 {
                break;
            }
            self.consume(count);
            written += count;
        }
        Ok(written)
    }

    /// Writes `bytes` behind what is queued, directly as far as possible.
    pub(crate) fn write_through(&mut self, fd: impl AsFd, bytes: &[u8]) -> Result<(), Gone> {
        self.flush(&fd)?;
        let direct = if self.is_empty() { write(&fd, bytes)? } else { 0 };
        self.push(&bytes[direct..]);
        Ok(())
    }
}

/// One write; 0 when the descriptor is full.
fn write(fd: impl AsFd, bytes: &[u8]) -> Result<usize, Gone> {
    loop {
        match rustix::io::write(&fd, bytes) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(_) => return Err(Gone),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_over_a_full_pipe() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let mut queue = Queue::default();
        let data: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        for chunk in data.chunks(10_000) {
            queue.write_through(&writer, chunk).unwrap();
        }
        assert!(queue.len() > 1_000_000);
        let mut seen = Vec::new();
        let mut buffer = [0; 8192];
        while seen.len() < data.len() {
            let count = rustix::io::read(&reader, &mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..count]);
            queue.flush(&writer).unwrap();
        }
        assert_eq!(seen, data);
        assert_eq!(queue.bytes.capacity(), 0);
        drop(reader);
        assert!(queue.write_through(&writer, b"x").is_err());
    }
}
