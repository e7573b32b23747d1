//! One connection: a reader and a writer, and the streams between them.
//!
//! * What the writer owes to the protocol (replies, pings, windows, resets) waits in [`Debts`],
//!   bounded by the streams there are; what streams send waits in one short channel, so that a
//!   client that does not read stops its streams and nobody else.
//! * A stream's own order is that of the channel: its end comes after its data. A reset overtakes.
//! * At its end the connection says GOAWAY, closes its side and reads on for a moment: closing a
//!   socket with unread bytes in it would take back what is under way to the client.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::ProtocolError;
use super::frame::{self, Decoder, Event, Goodbye, Replies, Reset};
use super::headers::Headers;
use super::window::{INITIAL, Window};
use crate::pipe::{Budget, Fate, Feed, Gone, Inlet, Observer, pipe};
use crate::server::Limits;
use crate::wire::{CHUNK, End, FAREWELL, LINGER, Watch};

/// Data frames that wait for the writer.
const QUEUE: usize = 8;
/// Bytes taken before the peer is told of the room.
const TELL: u32 = 32 * 1024;
/// Answers of one kind that may be due.
const DEBTS: usize = 4096;
/// A frame of a stream.
#[derive(Debug)]
struct Outgoing {
    id: u32,
    bytes: Bytes,
    finished: bool,
}

/// What the writer owes.
#[derive(Debug, Default)]
struct Debts {
    replies: Vec<u32>,
    pings: Vec<u32>,
    resets: Vec<(u32, Reset)>,
    /// Streams whose `untold` is worth a frame.
    windows: Vec<u32>,
    /// Room of the connection that the peer does not know of.
    untold: u32,
}

#[derive(Debug)]
struct Entry {
    /// `None` once the client has ended its side.
    feed: Option<Feed>,
    window: Arc<Window>,
    /// Our side has ended.
    ended: bool,
    /// The session reads no more.
    abandoned: bool,
    /// Room that the peer does not know of.
    untold: u32,
}

#[derive(Debug, Default)]
struct State {
    streams: HashMap<u32, Entry>,
    /// The youngest stream that was opened.
    last: u32,
    gone_away: bool,
    initial_window: Option<i64>,
    debts: Debts,
}

/// What reader, writer and streams share.
#[derive(Debug)]
struct Core {
    state: Mutex<State>,
    owed: Notify,
    /// The peer has shown that it has flow control.
    controlled: AtomicBool,
    /// The connection's window, stream 0.
    window: Window,
    closing: CancellationToken,
    failed: AtomicBool,
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to what is owed, and wakes the writer.
    fn owe(&self, add: impl FnOnce(&mut Debts)) {
        add(&mut self.state().debts);
        self.owed.notify_one();
    }

    /// Our side of a stream is over.
    fn ended(&self, id: u32) {
        self.settle(id, |entry| entry.ended = true);
    }

    /// Nobody reads a stream any more.
    fn abandoned(&self, id: u32) {
        self.settle(id, |entry| entry.abandoned = true);
    }

    /// Removes a stream that is over. One that only the client holds open is reset: nothing would
    /// come of it, and its place is wanted.
    fn settle(&self, id: u32, change: impl FnOnce(&mut Entry)) {
        let mut state = self.state();
        let Some(entry) = state.streams.get_mut(&id) else { return };
        change(entry);
        let (over, open) = (entry.ended, entry.feed.is_some());
        let unread = entry.abandoned;
        drop(state);
        if over && !open {
            self.state().streams.remove(&id);
        } else if over && unread {
            self.reset(id, Reset::Cancel);
        }
    }

    /// Both sides of a stream are over.
    fn reset(&self, id: u32, why: Reset) {
        let removed = self.state().streams.remove(&id);
        if let Some(entry) = removed {
            entry.window.break_off();
            self.owe(|debts| debts.resets.push((id, why)));
        }
    }

    /// A session took `bytes` of a stream, or nobody wants them.
    fn taken(&self, id: u32, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut state = self.state();
        let State { streams, debts, .. } = &mut *state;
        debts.untold = debts.untold.saturating_add(bytes);
        let mut due = debts.untold >= TELL;
        if let Some(entry) = streams.get_mut(&id) {
            let told = entry.untold < TELL;
            entry.untold = entry.untold.saturating_add(bytes);
            if told && entry.untold >= TELL {
                debts.windows.push(id);
                due = true;
            }
        }
        drop(state);
        if due {
            self.owed.notify_one();
        }
    }
}

/// Looks after what the session does with a stream.
#[derive(Debug)]
struct Reading {
    core: Arc<Core>,
    id: u32,
}

impl Observer for Reading {
    fn taken(&self, bytes: usize) {
        self.core.taken(self.id, bytes);
    }

    fn abandoned(&self) {
        self.core.abandoned(self.id);
    }
}

/// A stream that the client opened. Dropped unanswered it is refused.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    inlet: Inlet,
    outlet: Outlet,
}

impl Incoming {
    /// Tells the client that the stream is there.
    pub(crate) fn accept(self) -> (Inlet, Outlet) {
        let Self { id, inlet, mut outlet, .. } = self;
        outlet.dropped = Reset::Cancel;
        outlet.core.owe(|debts| debts.replies.push(id));
        (inlet, outlet)
    }
}

/// The way to the client on one stream. Dropped before [`finish`](Self::finish) it resets the
/// stream.
pub(crate) struct Outlet {
    id: u32,
    core: Arc<Core>,
    window: Arc<Window>,
    frames: mpsc::Sender<Outgoing>,
    dropped: Reset,
    finished: bool,
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Outlet {
    /// Sends all of `bytes` as the client takes them.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let controlled = &self.core.controlled;
            let of_stream = self.window.take(bytes.len().min(CHUNK), controlled).await?;
            let granted = self.core.window.take(of_stream, controlled).await?;
            if granted < of_stream {
                self.window.grow(i64::try_from(of_stream - granted).unwrap_or(0));
            }
            self.frame(bytes.split_to(granted), false).await?;
        }
        Ok(())
    }

    /// Half-closes the stream after all that was sent.
    pub(crate) async fn finish(mut self) -> Result<(), Gone> {
        self.finished = true;
        self.frame(Bytes::new(), true).await
    }

    async fn frame(&self, bytes: Bytes, finished: bool) -> Result<(), Gone> {
        self.frames.send(Outgoing { id: self.id, bytes, finished }).await.map_err(|_| Gone)
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        if !self.finished {
            self.core.reset(self.id, self.dropped);
        }
    }
}

/// A connection that is to be driven.
#[derive(Debug)]
pub(crate) struct Connection<R, W> {
    core: Arc<Core>,
    reader: Reader<R>,
    writer: Writer<W>,
}

/// Makes a connection of two halves; what the client opens comes out of the channel, which ends
/// with the connection. Cancelling `closing` ends it in order: frames that were sent go out first.
pub(crate) fn connect<R, W>(
    read: R,
    write: W,
    watch: Watch,
    limits: &Limits,
    closing: CancellationToken,
) -> (Connection<R, W>, mpsc::Receiver<Incoming>) {
    let core = Arc::new(Core {
        state: Mutex::default(),
        owed: Notify::new(),
        controlled: AtomicBool::new(false),
        window: Window::new(INITIAL),
        closing,
        failed: AtomicBool::new(false),
    });
    let (sender, frames) = mpsc::channel(QUEUE);
    let (opened, incoming) = mpsc::channel(limits.streams.max(1));
    let reader = Reader {
        core: Arc::clone(&core),
        read,
        decoder: Decoder::new(),
        budget: Budget::new(limits.queued_bytes),
        streams: limits.streams,
        frames: sender,
        opened,
        watch,
    };
    let writer = Writer { core: Arc::clone(&core), write, replies: Replies::default(), frames };
    (Connection { core, reader, writer }, incoming)
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Connection<R, W> {
    /// Reads and writes until the end. Streams are broken by then.
    pub(crate) async fn run(self) -> End {
        let Self { core, mut reader, writer } = self;
        let mut writing = std::pin::pin!(writer.run());
        let mut writer_ended = false;
        let end = tokio::select! {
            // Whatever branch is dropped, the connection is over.
            end = reader.run() => end,
            written = &mut writing => {
                writer_ended = true;
                written.map_or_else(End::Io, |()| End::Closed)
            }
        };
        core.failed.store(matches!(end, End::Protocol(_)), Ordering::Release);
        core.closing.cancel();
        for (_, entry) in core.state().streams.drain() {
            entry.window.break_off();
        }
        core.window.break_off();
        match end {
            // Nobody is left to say goodbye to.
            End::Client | End::Io(_) => return end,
            End::Closed | End::Stopped | End::Protocol(_) => {}
        }
        if !writer_ended {
            // A client that does not read gets no goodbye.
            let _ = tokio::time::timeout(FAREWELL, writing).await;
        }
        let _ = tokio::time::timeout(LINGER, reader.discard()).await;
        end
    }
}

#[derive(Debug)]
struct Reader<R> {
    core: Arc<Core>,
    read: R,
    decoder: Decoder,
    budget: Arc<Budget>,
    streams: usize,
    frames: mpsc::Sender<Outgoing>,
    opened: mpsc::Sender<Incoming>,
    watch: Watch,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn run(&mut self) -> End {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            loop {
                match self.decoder.next(&mut buffer) {
                    Ok(Some(event)) => {
                        if let Err(error) = self.take(event) {
                            return End::Protocol(error.into());
                        }
                    }
                    Ok(None) => break,
                    Err(error) => return End::Protocol(error.into()),
                }
                if self.budget.is_spent() {
                    tokio::select! {
                        () = self.budget.room() => {}
                        // What is queued has no taker any more.
                        () = self.watch.closed() => return End::Client,
                    }
                }
            }
            buffer.reserve(CHUNK);
            match self.read.read_buf(&mut buffer).await {
                Ok(0) => return End::Client,
                Ok(_) => {}
                Err(error) => return End::Io(error),
            }
        }
    }

    /// Reads to the end of what the client sends.
    async fn discard(&mut self) {
        let mut buffer = vec![0; CHUNK];
        while matches!(self.read.read(&mut buffer).await, Ok(length) if length > 0) {}
    }

    fn take(&mut self, event: Event) -> Result<(), ProtocolError> {
        match event {
            Event::Opened { id, headers, finished, unidirectional } => {
                self.open(id, headers, finished, unidirectional)?;
            }
            Event::Data { id, bytes, finished } => self.data(id, bytes, finished),
            Event::Headers { id, finished } => {
                if finished {
                    self.finish(id);
                }
            }
            Event::Reset { id } => {
                let removed = self.core.state().streams.remove(&id);
                if let Some(entry) = removed {
                    if let Some(feed) = &entry.feed {
                        feed.break_off();
                    }
                    entry.window.break_off();
                }
            }
            Event::Settings { window } => self.settings(window)?,
            Event::Window { id, delta } => self.window(id, delta)?,
            Event::Ping { id } => {
                // Even ones would be answers to ours, and we send none.
                if !id.is_multiple_of(2) {
                    self.core.owe(|debts| debts.pings.push(id));
                }
            }
            Event::GoAway => self.core.state().gone_away = true,
        }
        let debts = &self.core.state().debts;
        let most = debts.pings.len().max(debts.resets.len()).max(debts.windows.len());
        if most > DEBTS { Err(ProtocolError::Flood) } else { Ok(()) }
    }

    fn open(
        &mut self,
        id: u32,
        headers: Headers,
        finished: bool,
        unidirectional: bool,
    ) -> Result<(), ProtocolError> {
        let mut state = self.core.state();
        if id.is_multiple_of(2) || id <= state.last {
            return Err(ProtocolError::StreamId(id));
        }
        state.last = id;
        if state.gone_away || state.streams.len() >= self.streams {
            state.debts.resets.push((id, Reset::Refused));
            drop(state);
            self.core.owed.notify_one();
            return Ok(());
        }
        let (feed, inlet) = pipe(&self.budget);
        if finished {
            feed.finish();
        }
        let window = Arc::new(Window::new(state.initial_window.unwrap_or(INITIAL)));
        let entry = Entry {
            feed: (!finished).then_some(feed),
            window: Arc::clone(&window),
            ended: unidirectional,
            abandoned: false,
            untold: 0,
        };
        state.streams.insert(id, entry);
        drop(state);
        let inlet = inlet.observed(Reading { core: Arc::clone(&self.core), id });
        let outlet = Outlet {
            id,
            core: Arc::clone(&self.core),
            window,
            frames: self.frames.clone(),
            dropped: Reset::Refused,
            finished: false,
        };
        // Not taken: the session is over, or behind by more streams than there may be.
        let _ = self.opened.try_send(Incoming { id, headers, inlet, outlet });
        Ok(())
    }

    fn data(&mut self, id: u32, bytes: Bytes, finished: bool) {
        let length = bytes.len();
        let fate = {
            let state = self.core.state();
            let feed = state.streams.get(&id).and_then(|entry| entry.feed.as_ref());
            // Of a stream that is over: the client could not know yet.
            feed.map_or(Fate::Dropped, |feed| feed.push(bytes))
        };
        if fate == Fate::Dropped {
            self.core.taken(0, length);
        }
        if finished {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: u32) {
        let mut state = self.core.state();
        if let Some(entry) = state.streams.get_mut(&id) {
            if let Some(feed) = entry.feed.take() {
                feed.finish();
            }
            if entry.ended {
                state.streams.remove(&id);
            }
        }
    }

    fn settings(&mut self, window: Option<u32>) -> Result<(), ProtocolError> {
        self.core.controlled.store(true, Ordering::Release);
        let Some(window) = window.map(i64::from) else { return Ok(()) };
        let mut state = self.core.state();
        let delta = window - state.initial_window.replace(window).unwrap_or(INITIAL);
        // Streams that are open change by the difference.
        let sane = state.streams.iter().find(|(_, entry)| !entry.window.grow(delta));
        sane.map_or(Ok(()), |(id, _)| Err(ProtocolError::Window(*id)))
    }

    fn window(&mut self, id: u32, delta: u32) -> Result<(), ProtocolError> {
        self.core.controlled.store(true, Ordering::Release);
        let sane = if id == 0 {
            self.core.window.grow(i64::from(delta))
        } else {
            let state = self.core.state();
            state.streams.get(&id).is_none_or(|entry| entry.window.grow(i64::from(delta)))
        };
        if sane { Ok(()) } else { Err(ProtocolError::Window(id)) }
    }
}

#[derive(Debug)]
struct Writer<W> {
    core: Arc<Core>,
    write: W,
    replies: Replies,
    frames: mpsc::Receiver<Outgoing>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    async fn run(mut self) -> std::io::Result<()> {
        loop {
            self.pay().await?;
            let outgoing = tokio::select! {
                biased;
                () = self.core.owed.notified() => continue,
                outgoing = self.frames.recv() => outgoing,
                () = self.core.closing.cancelled(), if !self.frames.is_closed() => {
                    // What was sent before is still given out.
                    self.frames.close();
                    continue;
                }
            };
            let Some(Outgoing { id, bytes, finished }) = outgoing else { break };
            // A reply that became due in between goes first.
            self.pay().await?;
            if !self.core.state().streams.contains_key(&id) {
                // It was reset meanwhile.
                continue;
            }
            let header = frame::data(id, bytes.len(), finished);
            let mut frame = Buf::chain(&header[..], bytes);
            self.write.write_all_buf(&mut frame).await?;
            self.write.flush().await?;
            if finished {
                self.core.ended(id);
            }
        }
        self.pay().await?;
        let mut goodbye = BytesMut::new();
        let why = match self.core.failed.load(Ordering::Acquire) {
            true => Goodbye::Protocol,
            false => Goodbye::Ok,
        };
        let last = self.core.state().last;
        frame::go_away(&mut goodbye, last, why);
        self.write.write_all(&goodbye).await?;
        self.write.shutdown().await
    }

    /// Writes what is owed.
    async fn pay(&mut self) -> std::io::Result<()> {
        let mut out = BytesMut::new();
        {
            let mut state = self.core.state();
            let State { streams, debts, .. } = &mut *state;
            for id in std::mem::take(&mut debts.replies) {
                self.replies.write(&mut out, id);
            }
            for id in std::mem::take(&mut debts.pings) {
                frame::ping(&mut out, id);
            }
            for id in std::mem::take(&mut debts.windows) {
                if let Some(entry) = streams.get_mut(&id) {
                    frame::window(&mut out, id, std::mem::take(&mut entry.untold));
                }
            }
            if debts.untold >= TELL {
                frame::window(&mut out, 0, std::mem::take(&mut debts.untold));
            }
            for (id, why) in std::mem::take(&mut debts.resets) {
                frame::reset(&mut out, id, why);
            }
        }
        if out.is_empty() {
            return Ok(());
        }
        self.write.write_all(&out).await?;
        self.write.flush().await
    }
}
