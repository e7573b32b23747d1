//! Streams of a container that may not run yet.
//!
//! `docker run` attaches before it starts. The two ends handed out then are empty until the start
//! connects them, between the making of the process and its first instruction, so that nothing it
//! prints is lost. When the start fails they just end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt as _;
use pouch_types::spec::Attach;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot;

/// A client that waits for the start.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) streams: Attach,
    reader: oneshot::Sender<OwnedReadHalf>,
    writer: oneshot::Sender<OwnedWriteHalf>,
}

impl Waiting {
    /// Connects the client to the streams of the process.
    pub(crate) fn connect(self, stream: UnixStream) {
        let (reader, writer) = stream.into_split();
        // The client may have left meanwhile; dropping a half then tells the shim.
        let _ = self.reader.send(reader);
        let _ = self.writer.send(writer);
    }
}

/// Both ends for a client, and the promise of their connection.
pub(crate) fn waiting(streams: Attach) -> (Waiting, LazyRead, LazyWrite) {
    let (reader, read) = oneshot::channel();
    let (writer, write) = oneshot::channel();
    (
        Waiting { streams, reader, writer },
        LazyRead(Lazy::Waiting(read)),
        LazyWrite(Lazy::Waiting(write)),
    )
}

#[derive(Debug)]
enum Lazy<T> {
    Waiting(oneshot::Receiver<T>),
    Ready(T),
    /// The start failed, or never came.
    Over,
}

impl<T: Unpin> Lazy<T> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<&mut T>> {
        if let Self::Waiting(receiver) = self {
            *self = match receiver.poll_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(value)) => Self::Ready(value),
                Poll::Ready(Err(_)) => Self::Over,
            };
        }
        Poll::Ready(match self {
            Self::Ready(value) => Some(value),
            Self::Waiting(_) | Self::Over => None,
        })
    }
}

/// Output, from the start on.
#[derive(Debug)]
pub(crate) struct LazyRead(Lazy<OwnedReadHalf>);

impl AsyncRead for LazyRead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match futures::ready!(self.0.poll(cx)) {
            Some(half) => Pin::new(half).poll_read(cx, buf),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// Input, from the start on; what is written earlier waits.
#[derive(Debug)]
pub(crate) struct LazyWrite(Lazy<OwnedWriteHalf>);

impl LazyWrite {
    fn half(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Pin<&mut OwnedWriteHalf>>> {
        Poll::Ready(match futures::ready!(self.0.poll(cx)) {
            Some(half) => Ok(Pin::new(half)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }
}

impl AsyncWrite for LazyWrite {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        futures::ready!(self.half(cx))?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        futures::ready!(self.half(cx))?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        futures::ready!(self.half(cx))?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    #[tokio::test]
    async fn nothing_is_lost_before_the_start() {
        let (promise, mut read, mut write) = waiting(Attach::default());
        let client = tokio::spawn(async move {
            write.write_all(b"in").await.unwrap();
            write.shutdown().await.unwrap();
            let mut output = String::new();
            read.read_to_string(&mut output).await.unwrap();
            output
        });
        tokio::task::yield_now().await;
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        promise.connect(ours);
        let mut input = String::new();
        theirs.read_to_string(&mut input).await.unwrap();
        theirs.write_all(b"out").await.unwrap();
        drop(theirs);
        assert_eq!((input.as_str(), client.await.unwrap().as_str()), ("in", "out"));
    }

    #[tokio::test]
    async fn a_start_that_fails_ends_the_streams() {
        let (promise, mut read, mut write) = waiting(Attach::default());
        drop(promise);
        assert_eq!(read.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(write.write_all(b"x").await.is_err());
    }
}
