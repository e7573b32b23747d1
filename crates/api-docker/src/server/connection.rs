//! One connection: its place, its transport, and whether its client is still there.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::listener::Socket;
use crate::limits;
use crate::service::Service;

/// How often a half-closed connection is looked at again.
const HALF_CLOSED_LOOK: Duration = Duration::from_millis(500);
/// Time for requests that a departed client left in the socket to be taken up.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a client is connected, which decides what must be checked about its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// A unix socket: file permissions decided.
    Local,
    /// TCP: a client certificate decided, which a browser also has.
    Network,
}

/// What all connections share.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub service: Service,
    pub tracker: TaskTracker,
    pub closing: CancellationToken,
    pub cut: CancellationToken,
}

/// Serves one connection to its end.
pub(super) async fn run(socket: Socket, shared: Shared, place: OwnedSemaphorePermit) {
    let token = shared.tracker.token();
    match socket {
        Socket::Unix(stream) => {
            let stream = Arc::new(stream);
            let hangup = Hangup(Some(Arc::clone(&stream)));
            let io = Held { io: SharedUnix(stream), _place: place, _token: token };
            http(io, Transport::Local, hangup, shared).await;
        }
        Socket::Tls(stream, acceptor) => {
            let handshake = tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(stream));
            let stream = match handshake.await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => return tracing::info!(%error, "TLS handshake failed"),
                Err(_) => return tracing::info!("TLS handshake took too long"),
            };
            let io = Held { io: stream, _place: place, _token: token };
            http(io, Transport::Network, Hangup::default(), shared).await;
        }
    }
}

async fn http<IO>(io: IO, transport: Transport, hangup: Hangup, shared: Shared)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Shared { service, closing, cut, .. } = shared;
    let gone = hangup.clone();
    let handler = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(hangup.clone());
        request.extensions_mut().insert(transport);
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(service.call(request).await) }
    });
    let connection = http1::Builder::new()
        // On TCP a departed client looks like a half-closed one until a write fails, and clients
        // half-close only after the upgrade; so only where `Hangup` can tell.
        .half_close(gone.0.is_some())
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER_READ)
        .max_header_size(limits::HEADERS)
        .serve_connection(TokioIo::new(io), handler)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut departed = pin!(async {
        gone.gone().await;
        tokio::time::sleep(LAST_WORDS).await;
    });
    let mut draining = Phase::Serving;
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return,
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            () = closing.cancelled(), if draining == Phase::Serving => {
                draining = Phase::Draining;
                connection.as_mut().graceful_shutdown();
            }
            // Dropping the connection cancels what only reads; changes run to completion.
            () = departed.as_mut() => return,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
}

/// Tells when the client of a unix socket has closed both directions.
///
/// Reading cannot tell this from a half-close, and with half-close allowed an idle stream (events
/// of a quiet engine, an attach to a silent process) would outlive its client. Without a socket to
/// watch it never resolves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hangup(Option<Arc<UnixStream>>);

impl Hangup {
    /// Resolves when the client is gone.
    pub(crate) async fn gone(&self) {
        let Some(stream) = &self.0 else { return std::future::pending().await };
        loop {
            // The priority interest is also woken by a closed read side, which both a half-close
            // and a hang-up set, and by nothing else on a stream.
            if stream.ready(Interest::PRIORITY).await.is_err() || is_hung_up(stream) {
                return;
            }
            tokio::time::sleep(HALF_CLOSED_LOOK).await;
        }
    }
}

fn is_hung_up(stream: &UnixStream) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::event::poll(&mut fds, Some(&now)) {
        Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
        Err(_) => false,
    }
}

/// A stream that keeps its place among the connections, also while it is hijacked.
#[derive(Debug)]
struct Held<IO> {
    io: IO,
    _place: OwnedSemaphorePermit,
    _token: TaskTrackerToken,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Held<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Held<IO> {
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

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// A unix stream that [`Hangup`] watches at the same time.
#[derive(Debug)]
struct SharedUnix(Arc<UnixStream>);

impl AsyncRead for SharedUnix {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(cx))?;
            match self.0.try_read(buf.initialize_unfilled()) {
                Ok(length) => {
                    buf.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SharedUnix {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(cx))?;
            match self.0.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.0, rustix::net::Shutdown::Write) {
            // The client has closed already.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn a_half_close_is_no_hang_up() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let hangup = Hangup(Some(Arc::new(ours)));
        let mut gone = pin!(hangup.gone());
        client.write_all(b"pipelined").await.unwrap();
        client.shutdown().await.unwrap();
        let early = tokio::time::timeout(HALF_CLOSED_LOOK * 2, gone.as_mut());
        assert!(early.await.is_err());
        drop(client);
        tokio::time::timeout(Duration::from_secs(5), gone.as_mut()).await.unwrap();
        // Stays resolved for the next one who asks.
        hangup.gone().await;
    }

    #[tokio::test]
    async fn without_a_socket_nobody_leaves() {
        let hangup = Hangup::default();
        let mut gone = pin!(hangup.gone());
        assert!(poll_fn(|cx| Poll::Ready(gone.as_mut().poll(cx))).await.is_pending());
    }
}
