//! Kubernetes' channels: the first byte of each message is a channel's number.
//!
//! In the base64 form it is a digit, and the rest is base64. With `v5` a message of 255 and a
//! channel says that the client sends no more on it; before, a client cannot say so.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::pipe::{Budget, Feed, Gone, Inlet, pipe};
use crate::server::Limits;
use crate::wire::{CHUNK, End, FAREWELL, LINGER, Watch, Wire};

/// Messages that wait for the writer.
const QUEUE: usize = 8;
/// Says that a channel ends.
const CLOSE: u8 = 255;

/// How a channel's bytes stand in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    /// Binary, and the client can half-close.
    Closable,
    Base64,
}

/// Who speaks on a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Nobody: what comes is dropped.
    Ignored,
    Client,
    Server,
    Both,
}

impl Codec {
    fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary | Self::Closable => {
                let mut message = BytesMut::with_capacity(1 + bytes.len());
                message.put_u8(channel);
                message.put_slice(bytes);
                Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
                text.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(bytes, &mut text);
                Message::Text(text.into())
            }
        }
    }

    /// A channel and its bytes; `None` when there is nothing in the message to go by.
    fn decode(self, message: &Bytes) -> Option<(u8, Bytes)> {
        let (&channel, rest) = message.split_first()?;
        match self {
            Self::Binary | Self::Closable => Some((channel, message.slice(1..))),
            Self::Base64 => {
                Some((channel.checked_sub(b'0')?, Bytes::from(STANDARD.decode(rest).ok()?)))
            }
        }
    }
}

#[derive(Debug)]
struct Outgoing {
    channel: u8,
    bytes: Bytes,
}

/// The way to the client on one channel.
#[derive(Debug)]
pub(crate) struct Outlet {
    channel: u8,
    messages: mpsc::Sender<Outgoing>,
}

impl Outlet {
    /// Sends all of `bytes`; none of them is an empty message.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        loop {
            let piece = bytes.split_to(bytes.len().min(CHUNK));
            let outgoing = Outgoing { channel: self.channel, bytes: piece };
            self.messages.send(outgoing).await.map_err(|_| Gone)?;
            if bytes.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Both ends of a channel, as far as it has them.
pub(crate) type Channel = (Option<Inlet>, Option<Outlet>);

/// A connection that is to be driven.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: Reader,
    writer: Writer,
    closing: CancellationToken,
}

/// Makes a connection with a channel for each of `directions`. Cancelling `closing` ends it after
/// what was sent.
pub(crate) async fn connect(
    wire: Wire,
    codec: Codec,
    directions: &[Direction],
    limits: &Limits,
    closing: CancellationToken,
) -> (Connection, Vec<Channel>) {
    let watch = wire.watch();
    let (sink, stream) = super::socket(wire).await.split();
    let budget = Budget::new(limits.queued_bytes);
    let (messages, outgoing) = mpsc::channel(QUEUE);
    let mut feeds = Vec::with_capacity(directions.len());
    let mut channels = Vec::with_capacity(directions.len());
    for (channel, direction) in (0u8..CLOSE).zip(directions) {
        let inlet = match direction {
            Direction::Client | Direction::Both => {
                let (feed, inlet) = pipe(&budget);
                feeds.push(Some(feed));
                Some(inlet)
            }
            Direction::Ignored | Direction::Server => {
                feeds.push(None);
                None
            }
        };
        let outlet = match direction {
            Direction::Server | Direction::Both => {
                Some(Outlet { channel, messages: messages.clone() })
            }
            Direction::Ignored | Direction::Client => None,
        };
        channels.push((inlet, outlet));
    }
    let reader = Reader { codec, stream, feeds, budget, watch };
    let writer = Writer { codec, sink, outgoing, closing: closing.clone() };
    (Connection { reader, writer, closing }, channels)
}

impl Connection {
    /// Reads and writes until the end. Channels are broken by then.
    pub(crate) async fn run(self) -> End {
        let Self { mut reader, mut writer, closing } = self;
        let end = tokio::select! {
            // Whatever branch is dropped, the connection is over; a message that was half written
            // is completed by the next one, within the library.
            end = reader.run() => end,
            written = writer.run() => written.map_or_else(super::end, |()| End::Closed),
        };
        closing.cancel();
        reader.feeds.clear();
        let code = match &end {
            End::Client | End::Io(_) => return end,
            End::Closed | End::Stopped => CloseCode::Normal,
            End::Protocol(_) => CloseCode::Protocol,
        };
        // A client that does not read gets no goodbye.
        let told = tokio::time::timeout(FAREWELL, writer.sink.send(super::goodbye(code)));
        if matches!(told.await, Ok(Ok(()))) {
            let _ = tokio::time::timeout(LINGER, reader.discard()).await;
        }
        end
    }
}

#[derive(Debug)]
struct Reader {
    codec: Codec,
    stream: SplitStream<WebSocketStream<Wire>>,
    feeds: Vec<Option<Feed>>,
    budget: Arc<Budget>,
    watch: Watch,
}

impl Reader {
    async fn run(&mut self) -> End {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return super::end(error),
                None => return End::Client,
            };
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::from(text),
                // The library answers pings.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                Message::Close(_) => {
                    // Reading on sends its answer.
                    let _ = tokio::time::timeout(LINGER, self.discard()).await;
                    return End::Client;
                }
            };
            if let Err(end) = self.take(&bytes) {
                return end;
            }
            if self.budget.is_spent() {
                tokio::select! {
                    () = self.budget.room() => {}
                    // What is queued has no taker any more.
                    () = self.watch.closed() => return End::Client,
                }
            }
        }
    }

    fn take(&mut self, message: &Bytes) -> Result<(), End> {
        if self.codec == Codec::Closable && message.first() == Some(&CLOSE) {
            let feed = match message[..] {
                [_, channel] => self.feeds.get(usize::from(channel)),
                _ => None,
            };
            let Some(feed) = feed else {
                return Err(End::Protocol("close of a channel that there is not".into()));
            };
            if let Some(feed) = feed {
                feed.finish();
            }
            return Ok(());
        }
        // As kubelet does, what is for no channel is passed over.
        if let Some((channel, bytes)) = self.codec.decode(message)
            && let Some(Some(feed)) = self.feeds.get(usize::from(channel))
        {
            feed.push(bytes);
        }
        Ok(())
    }

    /// Reads to the end of what the client sends.
    async fn discard(&mut self) {
        while matches!(self.stream.next().await, Some(Ok(_))) {}
    }
}

#[derive(Debug)]
struct Writer {
    codec: Codec,
    sink: SplitSink<WebSocketStream<Wire>, Message>,
    outgoing: mpsc::Receiver<Outgoing>,
    closing: CancellationToken,
}

impl Writer {
    async fn run(&mut self) -> Result<(), Error> {
        loop {
            let outgoing = tokio::select! {
                biased;
                outgoing = self.outgoing.recv() => outgoing,
                () = self.closing.cancelled(), if !self.outgoing.is_closed() => {
                    // What was sent before is still given out.
                    self.outgoing.close();
                    continue;
                }
            };
            match outgoing {
                Some(Outgoing { channel, bytes }) => {
                    self.sink.send(self.codec.encode(channel, &bytes)).await?;
                }
                // All outlets are gone: the session has ended or is about to.
                None if self.closing.is_cancelled() => return Ok(()),
                None => self.closing.cancelled().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let bytes = |message: Message| message.into_data();
        let binary = bytes(Codec::Binary.encode(1, b"hi"));
        assert_eq!(binary, &b"\x01hi"[..]);
        assert_eq!(Codec::Binary.decode(&binary), Some((1, Bytes::from_static(b"hi"))));
        let text = bytes(Codec::Base64.encode(3, b"foo\n"));
        assert_eq!(text, &b"3Zm9vCg=="[..]);
        assert_eq!(Codec::Base64.decode(&text), Some((3, Bytes::from_static(b"foo\n"))));
        assert_eq!(bytes(Codec::Base64.encode(1, b"")), &b"1"[..]);
        assert_eq!(Codec::Base64.decode(&Bytes::from_static(b"0***")), None);
        assert_eq!(Codec::Base64.decode(&Bytes::from_static(b"\x00AAAA")), None);
        assert_eq!(Codec::Closable.decode(&Bytes::new()), None);
    }
}
