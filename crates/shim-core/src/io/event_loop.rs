//! The io thread: one epoll loop for the stdio of all processes of the shim.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use tokio::sync::{mpsc, oneshot};

use super::client::{Hello, Order, STALL};
use super::session::{Context, Session};
use super::watched::Watched;
use super::{Command, Key, token};

/// Bytes read at once.
const BUFFER: usize = 64 * 1024;
/// Quiet time after which buffers are given back.
const IDLE: Duration = Duration::from_secs(1);
/// Time that a client has for its first line.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes that its first line may have.
const HELLO_LIMIT: usize = 4096;
/// Connections that may be in their handshake.
const MAX_PENDING: usize = 64;
/// Pause after accept(2) failed (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Keys of tokens that belong to no session.
const LISTENER: Key = Key::MAX;
const PENDING: Key = Key::MAX - 1;
const WAKE: Key = Key::MAX - 2;

#[derive(Debug)]
struct Listening {
    container: Arc<str>,
    socket: Watched,
    paused_until: Option<Instant>,
}

/// A connection that has not said yet what it wants.
#[derive(Debug)]
struct Pending {
    container: Arc<str>,
    socket: OwnedFd,
    line: Vec<u8>,
    deadline: Instant,
}

/// State of the io thread.
pub(super) struct EventLoop {
    epoll: OwnedFd,
    commands: mpsc::Receiver<Command>,
    wake: Arc<OwnedFd>,
    sessions: BTreeMap<Key, Session>,
    listeners: BTreeMap<u32, Listening>,
    pending: BTreeMap<u32, Pending>,
    next: u32,
    buffer: Vec<u8>,
    finishing: Option<(oneshot::Sender<()>, Instant)>,
}

impl EventLoop {
    pub(super) fn new(commands: mpsc::Receiver<Command>, wake: Arc<OwnedFd>) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*wake, EventData::new_u64(token(WAKE, 0)), EventFlags::IN)?;
        Ok(Self {
            epoll,
            commands,
            wake,
            sessions: BTreeMap::new(),
            listeners: BTreeMap::new(),
            pending: BTreeMap::new(),
            next: 0,
            buffer: Vec::new(),
            finishing: None,
        })
    }

    /// Runs until told to finish, or until the control thread is gone.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(32);
        loop {
            let timeout = self.timeout();
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            ) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "waiting for stdio failed");
                    return;
                }
            }
            if events.is_empty() {
                self.shrink();
            } else if self.buffer.is_empty() {
                self.buffer = vec![0; BUFFER];
            }
            let now = Instant::now();
            for event in &events {
                let (data, flags) = (event.data.u64(), event.flags);
                self.dispatch(data, flags, now);
            }
            if !self.take_commands(now) && self.finishing.is_none() {
                return;
            }
            self.settle(now);
            if let Some((done, limit)) = self.finishing.take() {
                let lagging = self.sessions.values().any(|session| !session.is_over());
                if !lagging || now >= limit {
                    let _ = done.send(());
                    return;
                }
                self.finishing = Some((done, limit));
            }
        }
    }

    fn dispatch(&mut self, data: u64, flags: EventFlags, now: Instant) {
        // Token layout: key above, role below.
        let key = Key::try_from(data >> 32).unwrap_or(WAKE);
        let role = u32::try_from(data & u64::from(u32::MAX)).unwrap_or(0);
        match key {
            WAKE => {
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            }
            LISTENER => self.accept(role, now),
            PENDING => self.greet(role),
            _ => {
                if let Some(session) = self.sessions.get_mut(&key) {
                    let mut context =
                        Context { epoll: self.epoll.as_fd(), buffer: &mut self.buffer, now };
                    session.on_event(role, flags, &mut context);
                }
            }
        }
    }

    /// False when the control thread is gone.
    fn take_commands(&mut self, now: Instant) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.apply(command, now),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn apply(&mut self, command: Command, now: Instant) {
        match command {
            Command::Listen { container, listener } => {
                let id = self.fresh();
                let socket = Watched::new(listener, token(LISTENER, id));
                self.listeners.insert(id, Listening { container, socket, paused_until: None });
            }
            Command::Unlisten { container } => {
                self.listeners.retain(|_, listening| listening.container != container);
            }
            Command::Add(new) => {
                let key = new.key;
                self.sessions.insert(key, Session::new(*new));
            }
            Command::Terminal { key, output, input } => {
                self.with(key, |session| session.set_terminal(output, input));
            }
            Command::Started { key } => self.with(key, Session::start),
            Command::Exited { key, drained } => {
                self.with(key, |session| session.exit(drained, now));
            }
            Command::AwaitInputEnd { key, ended } => {
                self.with(key, |session| session.await_input_end(ended));
            }
            Command::CloseStdin { key } => self.with(key, Session::end_input),
            Command::Remove { key } => self.with(key, |session| session.abandon(now)),
            Command::Finish { done } => {
                self.listeners.clear();
                self.pending.clear();
                for session in self.sessions.values_mut() {
                    session.abandon(now);
                }
                self.finishing = Some((done, now + STALL));
            }
        }
    }

    fn with(&mut self, key: Key, step: impl FnOnce(&mut Session)) {
        if let Some(session) = self.sessions.get_mut(&key) {
            step(session);
        }
    }

    fn fresh(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn settle(&mut self, now: Instant) {
        let context = Context { epoll: self.epoll.as_fd(), buffer: &mut [], now };
        for session in self.sessions.values_mut() {
            session.settle(&context);
        }
        self.sessions.retain(|_, session| !session.is_over());
        self.pending.retain(|_, pending| now < pending.deadline);
        let full = self.pending.len() >= MAX_PENDING;
        for listening in self.listeners.values_mut() {
            listening.paused_until = listening.paused_until.filter(|until| now < *until);
            let accepting = listening.paused_until.is_none() && !full;
            listening.socket.arm(&self.epoll, accepting.then_some(EventFlags::IN));
        }
    }

    /// Until the next deadline; `None` without one.
    fn timeout(&self) -> Option<Timespec> {
        let now = Instant::now();
        let idle = (!self.buffer.is_empty()).then(|| now + IDLE);
        let deadlines = self
            .sessions
            .values()
            .filter_map(Session::deadline)
            .chain(self.pending.values().map(|pending| pending.deadline))
            .chain(self.listeners.values().filter_map(|listening| listening.paused_until))
            .chain(self.finishing.as_ref().map(|(_, limit)| *limit))
            .chain(idle);
        let left = deadlines.min()?.saturating_duration_since(now);
        // Rounded up, so that a deadline is past when the wait ends.
        let left = left + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn shrink(&mut self) {
        self.buffer = Vec::new();
        self.sessions.values_mut().for_each(Session::shrink);
    }

    fn accept(&mut self, id: u32, now: Instant) {
        let Some(listening) = self.listeners.get_mut(&id) else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&listening.socket, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => {
                tracing::warn!(%error, "accepting an attach client failed");
                listening.paused_until = Some(now + ACCEPT_PAUSE);
                return;
            }
        };
        if !crate::sys::is_trusted_peer(&socket) {
            return;
        }
        let container = Arc::clone(&listening.container);
        let id = self.fresh();
        let data = EventData::new_u64(token(PENDING, id));
        if epoll::add(&self.epoll, &socket, data, EventFlags::IN).is_ok() {
            let deadline = now + HANDSHAKE;
            self.pending.insert(id, Pending { container, socket, line: Vec::new(), deadline });
        }
    }

    /// Reads on in a handshake; a complete one becomes a client.
    fn greet(&mut self, id: u32) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        let mut chunk = [0; 512];
        match rustix::io::read(&pending.socket, &mut chunk) {
            Ok(0) => {
                self.pending.remove(&id);
                return;
            }
            Ok(count) => pending.line.extend_from_slice(&chunk[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => {
                self.pending.remove(&id);
                return;
            }
        }
        let end = pending.line.iter().position(|&b| b == b'\n');
        if end.is_none() && pending.line.len() < HELLO_LIMIT {
            return;
        }
        let Some(pending) = self.pending.remove(&id) else { return };
        let _ = epoll::delete(&self.epoll, &pending.socket);
        let (line, rest) = match end {
            Some(end) => (&pending.line[..end], &pending.line[end + 1..]),
            None => (&pending.line[..], &[][..]),
        };
        let hello = serde_json::from_slice::<Hello>(line);
        let hello = match hello {
            Ok(hello) if end.is_some() => hello,
            _ => return refuse(&pending.socket, "the first line is not a request to attach"),
        };
        let wanted = if hello.order.is_some() { "" } else { &*hello.id };
        let session = self.sessions.values_mut().find(|session| {
            !session.removed && session.container == pending.container && *session.exec == *wanted
        });
        match session {
            Some(session) if hello.order == Some(Order::ReopenLog) => {
                session.reopen_log(pending.socket);
            }
            None => refuse(&pending.socket, "no such process"),
            Some(session) => match session.refusal() {
                Some(reason) => refuse(&pending.socket, reason),
                None => session.attach(pending.socket, hello, rest),
            },
        }
    }
}

/// Answers on a fresh connection, whose buffer is empty.
pub(super) fn refuse(socket: &OwnedFd, reason: &str) {
    let text = format!("{}\n", serde_json::json!({ "error": reason }));
    say(socket, &text);
}

/// As [`refuse`], of an order that was obeyed.
pub(super) fn accept_order(socket: &OwnedFd) {
    say(socket, "{\"ok\":true}\n");
}

fn say(socket: &OwnedFd, text: &str) {
    let _ = rustix::net::send(socket, text.as_bytes(), rustix::net::SendFlags::NOSIGNAL);
}
