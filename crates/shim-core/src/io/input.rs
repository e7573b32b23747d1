//! The input of a process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::client::Room;
use super::queue::{Gone, Queue};
use super::watched::Watched;

/// Bytes read from a client or FIFO at once.
pub(crate) const INPUT_CHUNK: usize = 16 * 1024;

/// Standard input: a pipe's write end or the terminal, and what waits for it.
///
/// More is read from the sources only when nothing waits, so [`INPUT_CHUNK`] bounds the queue.
#[derive(Debug)]
pub(crate) struct Input {
    state: State,
    queue: Queue,
    /// A FIFO of containerd's.
    source: Option<Watched>,
}

#[derive(Debug)]
enum State {
    /// A terminal that the runtime has not made yet.
    Awaited,
    Open(Watched),
    /// To be closed when the queue is empty.
    Ending(Watched),
    Closed,
}

impl Input {
    pub(crate) fn new(sink: Option<Watched>, source: Option<Watched>) -> Self {
        let state = sink.map_or(State::Awaited, State::Open);
        Self { state, queue: Queue::default(), source }
    }

    pub(crate) fn set_sink(&mut self, fd: OwnedFd, token: u64) {
        self.state = State::Open(Watched::new(fd, token));
        self.flush();
    }

    /// A closed input takes everything, and drops it, so that its writers see no difference.
    pub(crate) fn room(&self) -> Room {
        if self.queue.is_empty() { Room::Yes } else { Room::No }
    }

    /// Nothing more reaches the process.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match &self.state {
            State::Awaited => self.queue.push(bytes),
            State::Open(sink) => {
                if let Err(Gone) = self.queue.write_through(sink, bytes) {
                    self.close();
                }
            }
            State::Ending(_) | State::Closed => {}
        }
    }

    pub(crate) fn flush(&mut self) {
        let (State::Open(sink) | State::Ending(sink)) = &self.state else { return };
        if let Err(Gone) = self.queue.flush(sink) {
            self.close();
        }
        if matches!(self.state, State::Ending(_)) && self.queue.is_empty() {
            self.close();
        }
    }

    /// End of input behind what is queued.
    pub(crate) fn end(&mut self) {
        self.source = None;
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::Open(sink) => State::Ending(sink),
            other => other,
        };
        self.flush();
    }

    /// Forgets sink, source and queue.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.source = None;
        self.queue.clear();
    }

    /// The FIFO has bytes, or its last writer closed it.
    pub(crate) fn pump(&mut self, buffer: &mut [u8]) {
        let Some(source) = &self.source else { return };
        match rustix::io::read(source, &mut buffer[..INPUT_CHUNK]) {
            Ok(0) => self.end(),
            Ok(count) => self.push(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.source = None,
        }
    }

    pub(crate) fn arm(&mut self, epoll: impl AsFd) {
        let waits = !self.queue.is_empty();
        if let State::Open(sink) | State::Ending(sink) = &mut self.state {
            sink.arm(&epoll, waits.then_some(EventFlags::OUT));
        }
        if let Some(source) = &mut self.source {
            source.arm(&epoll, (!waits).then_some(EventFlags::IN));
        }
    }
}
