//! A connection that left HTTP: the raw duplex of attach, exec and session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How the daemon writes the output of an attached process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// A terminal: bytes as they are.
    Raw,
    /// Frames, see [`crate::Demultiplexer`].
    Multiplexed,
}

/// The raw stream. `shutdown` closes our direction only: the process sees the end of its input
/// and its output keeps coming.
pub struct Hijacked {
    io: TokioIo<Upgraded>,
    announced: Option<Framing>,
}

impl Hijacked {
    pub(crate) fn new(upgraded: Upgraded, content_type: Option<&str>) -> Self {
        // Below API 1.42 everything is called raw, so only the other answer is a promise.
        let announced = match content_type {
            Some("application/vnd.docker.multiplexed-stream") => Some(Framing::Multiplexed),
            _ => None,
        };
        Self { io: TokioIo::new(upgraded), announced }
    }

    /// What the daemon promised in the reply's content type, if that is decisive; without it the
    /// container's `Tty` decides.
    #[must_use]
    pub const fn announced(&self) -> Option<Framing> {
        self.announced
    }

    /// The reading and the writing half.
    #[must_use]
    pub fn split(self) -> (tokio::io::ReadHalf<Self>, tokio::io::WriteHalf<Self>) {
        tokio::io::split(self)
    }
}

impl std::fmt::Debug for Hijacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hijacked").field("announced", &self.announced).finish_non_exhaustive()
    }
}

impl AsyncRead for Hijacked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Hijacked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
