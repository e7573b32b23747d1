//! A client that does what it is told, for tests.

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::{self, Decoder, Event};
use super::headers::{Deflater, Headers};
use crate::tests::{Head, patience, request};

/// What a stream has come to.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) replied: bool,
    pub(crate) data: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) reset: bool,
}

#[derive(Debug)]
pub(crate) struct Client<S> {
    socket: S,
    deflater: Deflater,
    decoder: Decoder,
    buffer: BytesMut,
    next: u32,
    pub(crate) streams: HashMap<u32, Seen>,
    pub(crate) windows: HashMap<u32, u32>,
    pub(crate) pings: HashSet<u32>,
    pub(crate) gone_away: bool,
    pub(crate) closed: bool,
}

impl Client<TcpStream> {
    /// Upgrades to SPDY with a protocol.
    pub(crate) async fn connect(url: &str, protocol: &str) -> Result<Self, Head> {
        let headers = format!(
            "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}\r\n"
        );
        let (socket, head) = request(url, "POST", &headers).await;
        if head.status == 101 { Ok(Self::over(socket)) } else { Err(head) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(crate) fn over(socket: S) -> Self {
        Self {
            socket,
            deflater: Deflater::new().unwrap(),
            decoder: Decoder::new(),
            buffer: BytesMut::new(),
            next: 1,
            streams: HashMap::new(),
            windows: HashMap::new(),
            pings: HashSet::new(),
            gone_away: false,
            closed: false,
        }
    }

    pub(crate) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let pairs = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let mut out = BytesMut::new();
        frame::open(&mut out, &mut self.deflater, id, &Headers(pairs));
        self.write(&out).await;
        id
    }

    /// Opens a stream of a remote command.
    pub(crate) async fn open_type(&mut self, kind: &str) -> u32 {
        self.open(&[("streamtype", kind)]).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    pub(crate) async fn send(&mut self, id: u32, bytes: &[u8]) {
        for piece in bytes.chunks(30_000) {
            self.write(&[&frame::data(id, piece.len(), false), piece].concat()).await;
        }
    }

    pub(crate) async fn finish(&mut self, id: u32) {
        self.write(&frame::data(id, 0, true)).await;
    }

    pub(crate) async fn reset(&mut self, id: u32) {
        self.told(|out| frame::reset(out, id, frame::Reset::Cancel)).await;
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        self.told(|out| frame::ping(out, id)).await;
    }

    pub(crate) async fn settings(&mut self, initial_window: u32) {
        self.told(|out| frame::settings(out, initial_window)).await;
    }

    pub(crate) async fn window(&mut self, id: u32, delta: u32) {
        self.told(|out| frame::window(out, id, delta)).await;
    }

    async fn told(&mut self, add: impl FnOnce(&mut BytesMut)) {
        let mut out = BytesMut::new();
        add(&mut out);
        self.write(&out).await;
    }

    pub(crate) fn data(&self, id: u32) -> &[u8] {
        self.streams.get(&id).map_or(&[], |seen| &seen.data)
    }

    pub(crate) fn text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.data(id)).into_owned()
    }

    /// Whether the server has ended its side of a stream, one way or the other.
    pub(crate) fn over_with(&self, id: u32) -> bool {
        self.streams.get(&id).is_some_and(|seen| seen.finished || seen.reset)
    }

    /// Reads until something holds.
    pub(crate) async fn until(&mut self, holds: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !holds(self) {
                assert!(!self.closed, "closed before it held");
                self.read().await;
            }
        };
        tokio::time::timeout(patience(), waiting).await.unwrap();
    }

    /// Reads to the end of the connection, and closes it as well.
    pub(crate) async fn drain(&mut self) {
        self.until(|client| client.closed).await;
        let _ = self.socket.shutdown().await;
    }

    async fn read(&mut self) {
        match self.socket.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => self.closed = true,
            Ok(_) => {}
        }
        while let Some(event) = self.decoder.next(&mut self.buffer).unwrap() {
            match event {
                Event::Headers { id, .. } => self.seen(id).replied = true,
                Event::Data { id, bytes, finished } => {
                    let seen = self.seen(id);
                    assert!(seen.replied, "data before the reply");
                    assert!(!seen.finished, "data after the end");
                    seen.data.extend_from_slice(&bytes);
                    seen.finished = finished;
                }
                Event::Reset { id } => self.seen(id).reset = true,
                Event::Window { id, delta } => *self.windows.entry(id).or_default() += delta,
                Event::Ping { id } => {
                    self.pings.insert(id);
                }
                Event::GoAway => self.gone_away = true,
                Event::Opened { .. } | Event::Settings { .. } => panic!("{event:?}"),
            }
        }
    }

    fn seen(&mut self, id: u32) -> &mut Seen {
        self.streams.entry(id).or_default()
    }
}
