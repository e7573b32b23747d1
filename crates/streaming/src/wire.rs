//! The socket of an upgraded connection, and whether anything moves on it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::request::Cause;

/// Bytes read at once, and at most in one frame of ours.
pub(crate) const CHUNK: usize = 32 * 1024;
/// Time for a client to close after our goodbye.
pub(crate) const LINGER: Duration = Duration::from_secs(3);
/// Time for a client that misbehaved or sleeps to take our goodbye.
pub(crate) const FAREWELL: Duration = Duration::from_secs(10);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The client closed it.
    #[error("the client left")]
    Client,
    /// It was closed from our side.
    #[error("closed")]
    Closed,
    /// It was stopped, and neither session nor client came to an end.
    #[error("stopped")]
    Stopped,
    /// The client broke the protocol.
    #[error("protocol error")]
    Protocol(#[source] Cause),
    /// The socket failed.
    #[error("socket")]
    Io(#[source] io::Error),
}

/// When bytes last moved. Shared by all who look after one connection.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    /// Milliseconds since `began`.
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { began: Instant::now(), last: AtomicU64::new(0) }
    }

    fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Until nothing has moved for `limit`.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let last = self.began + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let due = last + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// A socket that is read, written and watched at the same time; one reader and one writer.
#[derive(Debug, Clone)]
pub(crate) struct Wire {
    socket: Arc<TcpStream>,
    /// What came with the request's last packet.
    early: Bytes,
    activity: Arc<Activity>,
}

impl Wire {
    pub(crate) fn new(socket: TcpStream, early: Bytes) -> Self {
        Self { socket: Arc::new(socket), early, activity: Arc::new(Activity::new()) }
    }

    /// To watch it; what arrived early is not in there.
    pub(crate) fn watch(&self) -> Watch {
        Watch { socket: Arc::clone(&self.socket), activity: Arc::clone(&self.activity) }
    }
}

/// Looks after a [`Wire`].
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    socket: Arc<TcpStream>,
    pub(crate) activity: Arc<Activity>,
}

impl Watch {
    /// Until the client has closed its side, also while bytes before that are unread. For when
    /// nobody reads: a reader sees the end in its order.
    pub(crate) async fn closed(&self) {
        // The priority interest is woken by a closed read side and by nothing else here.
        let _ = self.socket.ready(Interest::PRIORITY).await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let length = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early[..length]);
            self.early.advance(length);
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(self.socket.poll_read_ready(cx))?;
            match self.socket.try_read(buf.initialize_unfilled()) {
                Ok(length) => {
                    self.activity.touch();
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Wire {
    fn poll_writing(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_write_ready(cx))?;
            match write(&self.socket) {
                Ok(length) => {
                    self.activity.touch();
                    return Poll::Ready(Ok(length));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |socket| socket.try_write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |socket| socket.try_write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.socket, rustix::net::Shutdown::Write) {
            // The client has closed already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
