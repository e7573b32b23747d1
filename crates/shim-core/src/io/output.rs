//! One output stream of a process: where it comes from and, under containerd, where it goes.

use std::os::fd::{AsFd, OwnedFd};

use pouch_logfile::{LineSplitter, Stream};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::queue::{Gone, Queue};
use super::watched::Watched;

/// An output stream.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) stream: Stream,
    /// A pipe's read end or the terminal; absent before a terminal exists and after the end.
    source: Option<Watched>,
    ended: bool,
    pub(crate) splitter: LineSplitter,
    forward: Option<Forward>,
}

/// A FIFO or file that output is copied to.
#[derive(Debug)]
struct Forward {
    sink: Watched,
    queue: Queue,
}

/// One read of an output.
pub(crate) enum Chunk {
    Bytes(usize),
    Nothing,
    End,
}

impl Output {
    pub(crate) fn new(stream: Stream, source: Option<Watched>, forward: Option<Watched>) -> Self {
        Self {
            stream,
            source,
            ended: false,
            splitter: LineSplitter::new(stream),
            forward: forward.map(|sink| Forward { sink, queue: Queue::default() }),
        }
    }

    pub(crate) fn set_source(&mut self, fd: OwnedFd, token: u64) {
        self.source = Some(Watched::new(fd, token));
    }

    /// A descriptor to read from exists.
    pub(crate) fn has_source(&self) -> bool {
        self.source.is_some()
    }

    /// No more bytes will come.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Nothing is left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.forward.is_none()
    }

    /// Bytes wait for the FIFO's reader.
    pub(crate) fn holds_up(&self) -> bool {
        self.forward.as_ref().is_some_and(|forward| !forward.queue.is_empty())
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> Chunk {
        let Some(source) = &self.source else { return Chunk::Nothing };
        match rustix::io::read(source, buffer) {
            Ok(0) => Chunk::End,
            Ok(count) => Chunk::Bytes(count),
            Err(Errno::AGAIN | Errno::INTR) => Chunk::Nothing,
            // EIO is how a terminal ends: its last slave is closed.
            Err(_) => Chunk::End,
        }
    }

    pub(crate) fn forward(&mut self, bytes: &[u8]) {
        if let Some(forward) = &mut self.forward
            && let Err(Gone) = forward.queue.write_through(&forward.sink, bytes)
        {
            self.forward = None;
        }
    }

    /// The FIFO takes bytes again. True if it took some.
    pub(crate) fn flush_forward(&mut self) -> bool {
        let Some(forward) = &mut self.forward else { return false };
        match forward.queue.flush(&forward.sink) {
            Ok(written) => {
                self.close_when_flushed();
                written > 0
            }
            Err(Gone) => {
                self.forward = None;
                true
            }
        }
    }

    /// The source is at its end, or is given up.
    pub(crate) fn end(&mut self) {
        self.source = None;
        self.ended = true;
        self.close_when_flushed();
    }

    /// Gives up what the FIFO's reader does not take.
    pub(crate) fn abandon_forward(&mut self) {
        self.forward = None;
    }

    /// Readers of a FIFO see its end when the last writer, which we are, closes it.
    fn close_when_flushed(&mut self) {
        if self.ended && !self.holds_up() {
            self.forward = None;
        }
    }

    pub(crate) fn arm(&mut self, epoll: impl AsFd, reading: bool) {
        if let Some(source) = &mut self.source {
            source.arm(&epoll, reading.then_some(EventFlags::IN));
        }
        if let Some(forward) = &mut self.forward {
            let waits = !forward.queue.is_empty();
            forward.sink.arm(&epoll, waits.then_some(EventFlags::OUT));
        }
    }
}
