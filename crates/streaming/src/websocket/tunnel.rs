//! A byte stream in binary messages, for the SPDY of newer `kubectl port-forward`.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::stream::SplitSink;
use futures::{Sink as _, Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::StreamReader;

use crate::wire::{CHUNK, Wire};

/// The two directions of a tunnel. A shutdown of writing says goodbye as WebSockets do.
pub(crate) async fn tunnel(
    wire: Wire,
) -> (impl AsyncRead + Unpin + Send, impl AsyncWrite + Unpin + Send) {
    let (sink, stream) = super::socket(wire).await.split();
    (StreamReader::new(Box::pin(bytes(stream))), Writer { sink, farewell: Farewell::Due })
}

/// The client's bytes. After its goodbye the stream goes on until the socket's end, which sends
/// the answer.
fn bytes(
    stream: impl Stream<Item = Result<Message, Error>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    stream.filter_map(async |message| match message {
        Ok(Message::Binary(bytes)) => Some(Ok(bytes)),
        Ok(Message::Text(_)) => {
            Some(Err(io::Error::new(io::ErrorKind::InvalidData, "text in a tunnel of bytes")))
        }
        Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_))
        | Err(Error::ConnectionClosed) => None,
        Err(error) => Some(Err(io::Error::other(error))),
    })
}

#[derive(Debug)]
struct Writer {
    sink: SplitSink<WebSocketStream<Wire>, Message>,
    farewell: Farewell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    Due,
    Said,
}

impl Writer {
    fn sink(&mut self) -> Pin<&mut SplitSink<WebSocketStream<Wire>, Message>> {
        Pin::new(&mut self.sink)
    }
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.sink().poll_ready(cx)).map_err(io::Error::other)?;
        let piece = &buf[..buf.len().min(CHUNK)];
        self.sink()
            .start_send(Message::Binary(Bytes::copy_from_slice(piece)))
            .map_err(io::Error::other)?;
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sink().poll_flush(cx).map_err(io::Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell == Farewell::Due {
            ready!(self.sink().poll_ready(cx)).map_err(io::Error::other)?;
            self.sink().start_send(super::goodbye(CloseCode::Normal)).map_err(io::Error::other)?;
            self.farewell = Farewell::Said;
        }
        match ready!(self.sink().poll_flush(cx)) {
            // The client said goodbye before.
            Ok(()) | Err(Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(io::Error::other(error))),
        }
    }
}
