//! An attached client: one connection of the io socket after its handshake.
//!
//! A client that attached before the process started is *early*: it gets every byte, and while it
//! lags the process is held up, as in `docker run … | less`. A *late* one never holds up anything:
//! it has [`LATE_BUFFER`] bytes on top of its socket's, what does not fit is left out (and said,
//! where the framing has room for it), and after [`STALL`] without progress it is dropped.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use pouch_logfile::Stream;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use serde::Deserialize;

use super::queue::{Gone, Queue};
use super::watched::Watched;

/// Bytes that a late client may lag behind.
pub(crate) const LATE_BUFFER: usize = 256 * 1024;
/// Time without progress after which a client that lags is given up.
pub(crate) const STALL: Duration = Duration::from_secs(10);
/// Send buffer asked for when the last bytes are to be left with the kernel.
const FINAL_BUFFER: usize = 1024 * 1024;

/// What a client may ask for instead of the streams. Its line has an `id` that no process has, so
/// that a shim of before, which knows no orders, refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The log's file was renamed; write to a new one. Answered when that is so.
    ReopenLog,
}

/// The line that a client begins with.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Hello {
    /// Concerns the container; the other fields mean nothing then.
    #[serde(default)]
    pub(crate) order: Option<Order>,
    /// Exec id; empty for the container's own process.
    #[serde(default)]
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) stdin: bool,
    #[serde(default)]
    pub(crate) stdout: bool,
    #[serde(default)]
    pub(crate) stderr: bool,
}

/// When a client came, which decides who waits for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Early,
    Late,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u32,
    socket: Watched,
    hello: Hello,
    pace: Pace,
    queue: Queue,
    progress: Instant,
    skipped: u64,
    /// Its end of input was not seen yet.
    sends: bool,
    /// It reads nothing any more, but input that it sent before may be left.
    hung_up: bool,
    closing: bool,
}

/// Docker's frame header: the stream, three zeros, the payload's length.
fn header(stream: Stream, length: usize) -> [u8; 8] {
    let mut header = [0; 8];
    header[0] = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    // Payloads are reads of the loop's buffer, far below 4 GiB.
    header[4..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    header
}

impl Client {
    pub(crate) fn new(id: u32, socket: OwnedFd, token: u64, hello: Hello, pace: Pace) -> Self {
        let mut queue = Queue::default();
        queue.push(b"{\"ok\":true}\n");
        let sends = hello.stdin;
        Self {
            id,
            socket: Watched::new(socket, token),
            hello,
            pace,
            queue,
            progress: Instant::now(),
            skipped: 0,
            sends,
            hung_up: false,
            closing: false,
        }
    }

    fn wants(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.hello.stdout,
            Stream::Stderr => self.hello.stderr,
        }
    }

    /// Whether its input still goes to the process.
    pub(crate) fn sends(&self) -> bool {
        self.sends
    }

    pub(crate) fn end_input(&mut self) {
        self.sends = false;
    }

    /// The connection is closed at its other end.
    pub(crate) fn hang_up(&mut self) {
        self.hung_up = true;
        self.queue.clear();
    }

    /// Nothing can come from it or go to it.
    pub(crate) fn is_gone(&self) -> bool {
        self.hung_up && !self.sends
    }

    /// Whether reading more of the process's output has to wait for this client.
    pub(crate) fn holds_up(&self) -> bool {
        self.pace == Pace::Early && !self.queue.is_empty()
    }

    /// Output of the process; framed unless it is a terminal's.
    pub(crate) fn give(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        framing: Framing,
        now: Instant,
    ) -> Result<(), Gone> {
        if self.hung_up || !self.wants(stream) {
            return Ok(());
        }
        if self.pace == Pace::Late && self.queue.len() + bytes.len() > LATE_BUFFER {
            self.skipped += bytes.len() as u64;
            return Ok(());
        }
        if self.queue.is_empty() {
            self.progress = now;
        }
        match framing {
            Framing::Raw => self.queue.write_through(&self.socket, bytes),
            Framing::Docker => self.give_frame(stream, bytes),
        }
    }

    fn give_frame(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Gone> {
        let header = header(stream, bytes.len());
        let mut sent = 0;
        if self.queue.is_empty() {
            let parts = [IoSlice::new(&header), IoSlice::new(bytes)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sent = match sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR | Errno::NOBUFS) => 0,
                Err(_) => return Err(Gone),
            };
        }
        self.queue.push(header.get(sent..).unwrap_or_default());
        self.queue.push(bytes.get(sent.saturating_sub(header.len())..).unwrap_or_default());
        Ok(())
    }

    /// The socket takes bytes again.
    pub(crate) fn flush(&mut self, framing: Framing, now: Instant) -> Result<(), Gone> {
        if self.queue.flush(&self.socket)? > 0 {
            self.progress = now;
        }
        if self.queue.is_empty() && self.skipped > 0 {
            let notice =
                format!("[pouch] {} bytes were left out: the client is too slow\n", self.skipped);
            self.skipped = 0;
            if framing == Framing::Docker {
                self.give_frame(Stream::Stderr, notice.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads input into `buffer`; `None` when there is none now, 0 at its end.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Gone> {
        match rustix::io::read(&self.socket, buffer) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(_) => Err(Gone),
        }
    }

    /// No output follows: leaves the rest with the kernel, and ends the connection when it took
    /// all. `false` while bytes remain.
    pub(crate) fn finish(&mut self, framing: Framing, now: Instant) -> bool {
        if !self.closing {
            self.closing = true;
            self.progress = now;
            if !self.queue.is_empty() {
                // The peer can read what the kernel holds even after this process is gone.
                let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(
                    &self.socket,
                    FINAL_BUFFER,
                );
            }
        }
        if self.flush(framing, now).is_err() {
            return true;
        }
        if !self.queue.is_empty() {
            return false;
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        true
    }

    /// When it is to be given up, if it lags and nobody waits for it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let patience = self.pace == Pace::Late || self.closing;
        (patience && !self.queue.is_empty()).then(|| self.progress + STALL)
    }

    /// `takes_input`: the process's input has room.
    pub(crate) fn arm(&mut self, epoll: impl AsFd, takes_input: Room) {
        let mut flags = EventFlags::empty();
        if self.sends && takes_input == Room::Yes {
            flags |= EventFlags::IN;
        }
        if !self.queue.is_empty() {
            flags |= EventFlags::OUT;
        }
        // A hang-up is reported again and again, so it is watched only while it can be answered.
        let flags = (!self.hung_up || !flags.is_empty()).then_some(flags);
        self.socket.arm(epoll, flags);
    }
}

/// How output is written to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Raw,
    Docker,
}

/// Whether the process's input takes more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    No,
}
