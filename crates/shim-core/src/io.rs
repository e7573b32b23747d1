//! The io thread and how the control thread speaks to it.
//!
//! All bytes of stdio pass through one thread of their own, because a write to a log file can
//! block; the control thread must go on answering `Kill` and `Delete` meanwhile. The control
//! thread sends [`Command`]s through a bounded channel and an eventfd, and waits, with a deadline,
//! only for output to be drained.

mod client;
mod event_loop;
mod input;
mod log;
mod output;
mod queue;
mod session;
mod watched;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::EventfdFlags;
use tokio::sync::{mpsc, oneshot};

pub(crate) use client::Framing;
pub(crate) use log::Log;

/// Names a session on the io thread; never used twice.
pub(crate) type Key = u32;

/// epoll's data for a session's descriptor.
fn token(key: Key, role: u32) -> u64 {
    u64::from(key) << 32 | u64::from(role)
}

/// When the process's input ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StdinEnd {
    /// With the first client's input (or connection).
    WithClient,
    /// Only when it is asked for.
    OnRequest,
}

/// Standard input of a new session.
#[derive(Debug, Default)]
pub(crate) struct StdinSide {
    /// The pipe's write end; absent for a terminal that is yet to come.
    pub(crate) sink: Option<OwnedFd>,
    /// A FIFO to copy from.
    pub(crate) source: Option<OwnedFd>,
}

/// An output of a new session.
#[derive(Debug, Default)]
pub(crate) struct OutputSide {
    /// The pipe's read end; absent for a terminal that is yet to come.
    pub(crate) source: Option<OwnedFd>,
    /// A FIFO or file to copy to.
    pub(crate) forward: Option<OwnedFd>,
}

/// The stdio of a process that is about to be made. All descriptors are non-blocking.
#[derive(Debug)]
pub(crate) struct NewSession {
    pub(crate) key: Key,
    pub(crate) container: Arc<str>,
    /// Empty for the container's own process.
    pub(crate) exec: Arc<str>,
    pub(crate) framing: Framing,
    pub(crate) stdin_end: StdinEnd,
    /// Clients of the io socket may attach.
    pub(crate) attachable: bool,
    pub(crate) stdin: Option<StdinSide>,
    pub(crate) stdout: Option<OutputSide>,
    pub(crate) stderr: Option<OutputSide>,
    pub(crate) log: Option<Log>,
}

/// What the control thread asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve attach clients of a container.
    Listen { container: Arc<str>, listener: OwnedFd },
    /// Stop that.
    Unlisten { container: Arc<str> },
    /// Take over a session.
    Add(Box<NewSession>),
    /// The terminal exists; two descriptors of its master.
    Terminal { key: Key, output: OwnedFd, input: OwnedFd },
    /// Clients that come from now on are late.
    Started { key: Key },
    /// The process is gone.
    Exited { key: Key, drained: oneshot::Sender<()> },
    /// Tell when its input has ended, which it may have.
    AwaitInputEnd { key: Key, ended: oneshot::Sender<()> },
    /// End its input.
    CloseStdin { key: Key },
    /// Forget it, once its clients have what was read.
    Remove { key: Key },
    /// End the thread, once the clients have what was read or do not take it.
    Finish { done: oneshot::Sender<()> },
}

/// The control thread's end.
#[derive(Debug, Clone)]
pub(crate) struct IoThread {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
}

/// Commands in flight; more make their senders wait.
const COMMANDS: usize = 64;
/// Nothing on that thread recurses or keeps large values on its stack.
const STACK: usize = 256 * 1024;

impl IoThread {
    /// Starts the thread.
    pub(crate) fn spawn() -> io::Result<Self> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake = Arc::new(wake);
        let event_loop = event_loop::EventLoop::new(receiver, Arc::clone(&wake))?;
        std::thread::Builder::new()
            .name("io".to_owned())
            .stack_size(STACK)
            .spawn(move || event_loop.run())?;
        Ok(Self { commands, wake })
    }

    /// Hands `command` over; waits while the thread is behind, so callers that must not wait put a
    /// deadline around it.
    pub(crate) async fn send(&self, command: Command) {
        // The thread ends only by Finish, after which nothing is left to be done.
        if self.commands.send(command).await.is_ok() {
            let _ = rustix::io::write(&*self.wake, &1_u64.to_ne_bytes());
        }
    }
}
