//! The stdio of one process: its three streams, its log and its attached clients.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pouch_logfile::Stream;
use rustix::event::epoll::EventFlags;
use tokio::sync::oneshot;

use super::client::{Client, Framing, Hello, Pace, Room};
use super::event_loop::refuse;
use super::input::{INPUT_CHUNK, Input};
use super::log::Log;
use super::output::{Chunk, Output};
use super::queue::Gone;
use super::watched::Watched;
use super::{Key, NewSession, StdinEnd, token};

/// After the exit, a pipe that someone else holds open is read until it was silent so long.
const SILENCE: Duration = Duration::from_secs(2);
/// And no longer than this altogether.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Time that a FIFO's reader may take for the rest.
const FORWARD_STALL: Duration = Duration::from_secs(10);

/// Roles in a token. Clients count from [`FIRST_CLIENT`].
pub(crate) const STDIN_SINK: u32 = 0;
pub(crate) const STDIN_SOURCE: u32 = 1;
pub(crate) const OUTPUT: [u32; 2] = [2, 3];
pub(crate) const FORWARD: [u32; 2] = [4, 5];
const FIRST_CLIENT: u32 = 16;

#[derive(Debug)]
enum Phase {
    Created,
    Started,
    /// The process is gone; its output may not be.
    Exited {
        progress: Instant,
        limit: Instant,
    },
    /// All output is where it belongs, but for what clients have not read yet.
    Drained,
}

/// One process's stdio.
#[derive(Debug)]
pub(crate) struct Session {
    key: Key,
    pub(crate) container: Arc<str>,
    pub(crate) exec: Arc<str>,
    framing: Framing,
    stdin_end: StdinEnd,
    attachable: bool,
    phase: Phase,
    input: Option<Input>,
    outputs: Vec<Output>,
    log: Option<Log>,
    clients: Vec<Client>,
    next_client: u32,
    waiters: Vec<oneshot::Sender<()>>,
    input_waiters: Vec<oneshot::Sender<()>>,
    pub(crate) removed: bool,
}

/// What a session borrows from the loop.
pub(crate) struct Context<'a> {
    pub(crate) epoll: BorrowedFd<'a>,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) now: Instant,
}

impl Session {
    pub(crate) fn new(new: NewSession) -> Self {
        let key = new.key;
        let watched = |fd: OwnedFd, role| Watched::new(fd, token(key, role));
        let input = new.stdin.map(|stdin| {
            Input::new(
                stdin.sink.map(|fd| watched(fd, STDIN_SINK)),
                stdin.source.map(|fd| watched(fd, STDIN_SOURCE)),
            )
        });
        let streams = [(Stream::Stdout, new.stdout), (Stream::Stderr, new.stderr)];
        let outputs = streams
            .into_iter()
            .enumerate()
            .filter_map(|(index, (stream, side))| {
                let side = side?;
                Some(Output::new(
                    stream,
                    side.source.map(|fd| watched(fd, OUTPUT[index])),
                    side.forward.map(|fd| watched(fd, FORWARD[index])),
                ))
            })
            .collect();
        Self {
            key,
            container: new.container,
            exec: new.exec,
            framing: new.framing,
            stdin_end: new.stdin_end,
            attachable: new.attachable,
            phase: Phase::Created,
            input,
            outputs,
            log: new.log,
            clients: Vec::new(),
            next_client: FIRST_CLIENT,
            waiters: Vec::new(),
            input_waiters: Vec::new(),
            removed: false,
        }
    }

    /// The runtime made the terminal.
    pub(crate) fn set_terminal(&mut self, output: OwnedFd, input: OwnedFd) {
        for side in &mut self.outputs {
            // A terminal has one output; stderr is not set up for it.
            if side.stream == Stream::Stdout {
                side.set_source(output, token(self.key, OUTPUT[0]));
                break;
            }
        }
        if let Some(stdin) = &mut self.input {
            stdin.set_sink(input, token(self.key, STDIN_SINK));
        }
    }

    pub(crate) fn start(&mut self) {
        if matches!(self.phase, Phase::Created) {
            self.phase = Phase::Started;
        }
    }

    /// Takes a client after its handshake; `rest` is input that came with it.
    pub(crate) fn attach(&mut self, socket: OwnedFd, hello: Hello, rest: &[u8]) {
        let pace = match self.phase {
            Phase::Created => Pace::Early,
            _ => Pace::Late,
        };
        let id = self.next_client;
        self.next_client = id.wrapping_add(1).max(FIRST_CLIENT);
        let client = Client::new(id, socket, token(self.key, id), hello, pace);
        if client.sends()
            && let Some(input) = &mut self.input
        {
            input.push(rest);
        }
        self.clients.push(client);
    }

    /// Why no client can attach now.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        match self.phase {
            _ if !self.attachable => Some("its stdio is not held by the shim"),
            Phase::Created | Phase::Started => None,
            Phase::Exited { .. } | Phase::Drained => Some("the process has exited"),
        }
    }

    /// Has the log go on in a new file. Not when the process does not run: nothing would come into
    /// the file.
    pub(crate) fn reopen_log(&mut self, client: OwnedFd) {
        match (&self.phase, &mut self.log) {
            (Phase::Started, Some(log)) => log.reopen(client),
            (Phase::Started, None) => refuse(&client, "the container keeps no log"),
            (Phase::Created | Phase::Exited { .. } | Phase::Drained, _) => {
                refuse(&client, "the container does not run");
            }
        }
    }

    /// End of the process's input. A terminal has none but its hang-up, as under Docker.
    pub(crate) fn end_input(&mut self) {
        if let (Some(input), Framing::Docker) = (&mut self.input, self.framing) {
            input.end();
        }
    }

    /// `ended` is told when the input is closed behind what was in it.
    pub(crate) fn await_input_end(&mut self, ended: oneshot::Sender<()>) {
        self.input_waiters.push(ended);
    }

    /// The process is gone. `drained` is told when its output is where it belongs.
    pub(crate) fn exit(&mut self, drained: oneshot::Sender<()>, now: Instant) {
        self.waiters.push(drained);
        if let Some(input) = &mut self.input {
            input.close();
        }
        if !matches!(self.phase, Phase::Exited { .. } | Phase::Drained) {
            self.phase = Phase::Exited { progress: now, limit: now + DRAIN_LIMIT };
            // A terminal that never came has nothing to drain.
            for output in self.outputs.iter_mut().filter(|output| !output.has_source()) {
                output.end();
            }
        }
    }

    /// Whether the loop can forget it.
    pub(crate) fn is_over(&self) -> bool {
        self.removed && matches!(self.phase, Phase::Drained) && self.clients.is_empty()
    }

    /// Ends whatever is left, as when the container is deleted before its process ever ran.
    pub(crate) fn abandon(&mut self, now: Instant) {
        self.removed = true;
        if !matches!(self.phase, Phase::Drained) {
            for index in 0..self.outputs.len() {
                self.end_output(index);
            }
            self.outputs.iter_mut().for_each(Output::abandon_forward);
            self.finish(now);
        }
    }

    pub(crate) fn on_event(&mut self, role: u32, flags: EventFlags, context: &mut Context<'_>) {
        match role {
            STDIN_SINK => {
                if let Some(input) = &mut self.input {
                    input.flush();
                }
            }
            STDIN_SOURCE => {
                if let Some(input) = &mut self.input {
                    input.pump(context.buffer);
                }
            }
            _ if OUTPUT.contains(&role) => self.on_output(role == OUTPUT[1], context),
            _ if FORWARD.contains(&role) => {
                let stream = if role == FORWARD[1] { Stream::Stderr } else { Stream::Stdout };
                let mut took = false;
                for output in self.outputs.iter_mut().filter(|output| output.stream == stream) {
                    took |= output.flush_forward();
                }
                if took {
                    self.note_progress(context.now);
                }
            }
            _ => self.on_client(role, flags, context),
        }
    }

    fn on_output(&mut self, stderr: bool, context: &mut Context<'_>) {
        let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
        let Some(index) = self.outputs.iter().position(|output| output.stream == stream) else {
            return;
        };
        match self.outputs[index].read(context.buffer) {
            Chunk::Bytes(count) => {
                let bytes = &context.buffer[..count];
                self.deliver(index, bytes, context.now);
                self.note_progress(context.now);
            }
            Chunk::Nothing => {}
            Chunk::End => self.end_output(index),
        }
    }

    fn deliver(&mut self, index: usize, bytes: &[u8], now: Instant) {
        let output = &mut self.outputs[index];
        if let Some(log) = &mut self.log {
            output.splitter.push(bytes, now_ns(), |record| log.append(record));
            log.flush();
        }
        output.forward(bytes);
        let (stream, framing) = (output.stream, self.framing);
        self.drop_clients(|client| client.give(stream, bytes, framing, now));
    }

    fn end_output(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        if let Some(log) = &mut self.log {
            output.splitter.finish(now_ns(), |record| log.append(record));
            log.flush();
        }
        output.end();
    }

    fn on_client(&mut self, id: u32, flags: EventFlags, context: &mut Context<'_>) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else { return };
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        let writable = flags.contains(EventFlags::OUT);
        if hung_up || (writable && client.flush(self.framing, context.now).is_err()) {
            client.hang_up();
        }
        let mut ended = false;
        if client.sends() && self.input.as_ref().is_none_or(|input| input.room() == Room::Yes) {
            match client.read(&mut context.buffer[..INPUT_CHUNK]) {
                Ok(Some(0)) | Err(Gone) => {
                    client.end_input();
                    ended = true;
                }
                Ok(Some(count)) => {
                    if let Some(input) = &mut self.input {
                        input.push(&context.buffer[..count]);
                    }
                }
                Ok(None) => {}
            }
        }
        if client.is_gone() {
            self.clients.retain(|client| client.id != id);
        }
        if ended && self.stdin_end == StdinEnd::WithClient {
            self.end_input();
        }
    }

    /// Runs `step` on each client and drops those that are gone.
    fn drop_clients(&mut self, mut step: impl FnMut(&mut Client) -> Result<(), Gone>) {
        let mut lost_input = false;
        self.clients.retain_mut(|client| match step(client) {
            Ok(()) => true,
            Err(Gone) => {
                lost_input |= client.sends();
                false
            }
        });
        if lost_input && self.stdin_end == StdinEnd::WithClient {
            self.end_input();
        }
    }

    fn note_progress(&mut self, now: Instant) {
        if let Phase::Exited { progress, .. } = &mut self.phase {
            *progress = now;
        }
    }

    /// What is due by now, and what follows from the events before.
    pub(crate) fn settle(&mut self, context: &Context<'_>) {
        let now = context.now;
        if let Phase::Exited { progress, limit } = self.phase {
            for index in 0..self.outputs.len() {
                let held = self.outputs[index].holds_up();
                let late = now >= limit || now >= progress + SILENCE;
                if !self.outputs[index].has_ended() && !held && late {
                    self.end_output(index);
                }
                if now >= progress + FORWARD_STALL {
                    self.end_output(index);
                    self.outputs[index].abandon_forward();
                }
            }
            if self.outputs.iter().all(Output::is_done) {
                self.finish(now);
            }
        }
        self.drop_clients(|client| match client.deadline() {
            Some(deadline) if now >= deadline => Err(Gone),
            _ => Ok(()),
        });
        if matches!(self.phase, Phase::Drained) {
            let framing = self.framing;
            self.clients.retain_mut(|client| !client.finish(framing, now));
        }
        if self.input.as_ref().is_none_or(Input::is_closed) {
            for waiter in self.input_waiters.drain(..) {
                let _ = waiter.send(());
            }
        }
        self.arm(context.epoll);
    }

    fn finish(&mut self, now: Instant) {
        self.phase = Phase::Drained;
        self.log = None;
        self.outputs.clear();
        self.input = None;
        let framing = self.framing;
        self.clients.retain_mut(|client| !client.finish(framing, now));
        for waiter in self.waiters.drain(..) {
            // Nobody waits any more: their deadline passed.
            let _ = waiter.send(());
        }
    }

    fn arm(&mut self, epoll: impl AsFd) {
        let exited = matches!(self.phase, Phase::Exited { .. });
        let held_up = !exited && self.clients.iter().any(Client::holds_up);
        for output in &mut self.outputs {
            let reading = !held_up && !output.holds_up();
            output.arm(&epoll, reading);
        }
        let room = self.input.as_ref().map_or(Room::Yes, Input::room);
        if let Some(input) = &mut self.input {
            input.arm(&epoll);
        }
        for client in &mut self.clients {
            client.arm(&epoll, room);
        }
    }

    /// When [`Session::settle`] has something to do without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let drain = match self.phase {
            Phase::Exited { progress, limit } => {
                let held = self.outputs.iter().any(Output::holds_up);
                let patience = if held { FORWARD_STALL } else { SILENCE };
                Some((progress + patience).min(limit.max(progress + FORWARD_STALL)))
            }
            _ => None,
        };
        self.clients.iter().filter_map(Client::deadline).chain(drain).min()
    }

    pub(crate) fn shrink(&mut self) {
        if let Some(log) = &mut self.log {
            log.shrink();
        }
    }
}

fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
