//! One process of a container: its first one or an exec.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pouch_cgroup::Leader;
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::Winsize;
use tokio::sync::{oneshot, watch};

use crate::blocking;
use crate::child::Tracked;
use crate::error::TaskError;
use crate::exit::Exit;
use crate::io::Key;
use crate::stdio::{ChildStdio, Terminal};

/// Time that killing all that came from an exec may take.
const KILL: Duration = Duration::from_secs(10);

/// The streams as the request named them, for `State`.
#[derive(Debug, Clone, Default)]
pub(crate) struct StdioNames {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Where a process is in its life.
#[derive(Debug)]
pub(crate) enum Life {
    /// An exec that was added and not started; what it needs for that.
    Added { spec: Vec<u8>, stdio: ChildStdio },
    /// It is being made: an exec's runtime command runs.
    Making,
    /// Made by the runtime, waiting for its start.
    Created(Arc<Tracked>),
    /// Runs.
    Running(Arc<Tracked>),
    /// Ended, or could not be made.
    Stopped,
}

impl Life {
    fn name(&self) -> &'static str {
        match self {
            Self::Added { .. } | Self::Making | Self::Created(_) => "created",
            Self::Running(_) => "running",
            Self::Stopped => "stopped",
        }
    }
}

#[derive(Debug)]
struct Inner {
    life: Life,
    pid: u32,
    exit: Option<Exit>,
    master: Option<OwnedFd>,
    /// Asked for before there was a terminal.
    size: Option<Winsize>,
    drained: Option<oneshot::Receiver<()>>,
}

/// A process.
#[derive(Debug)]
pub(crate) struct Process {
    /// Empty for the container's first one.
    pub(crate) exec: Arc<str>,
    pub(crate) key: Key,
    pub(crate) terminal: Terminal,
    pub(crate) names: StdioNames,
    inner: Mutex<Inner>,
    /// Set when the exit was published.
    ended: watch::Sender<Option<Exit>>,
    /// Held while it starts, so that its exit is published after its start.
    pub(crate) starting: tokio::sync::Mutex<()>,
}

/// What `State` tells of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Snapshot {
    pub(crate) pid: u32,
    pub(crate) status: Status,
    pub(crate) exit: Option<Exit>,
}

/// The states that callers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Created,
    Running,
    Stopped,
}

impl Process {
    pub(crate) fn new(
        exec: &str,
        key: Key,
        terminal: Terminal,
        names: StdioNames,
        life: Life,
        size: Option<Winsize>,
    ) -> Self {
        Self {
            exec: exec.into(),
            key,
            terminal,
            names,
            inner: Mutex::new(Inner {
                life,
                pid: 0,
                exit: None,
                master: None,
                size,
                drained: None,
            }),
            ended: watch::Sender::new(None),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.lock();
        let status = match inner.life {
            Life::Added { .. } | Life::Making | Life::Created(_) => Status::Created,
            Life::Running(_) => Status::Running,
            Life::Stopped => Status::Stopped,
        };
        Snapshot { pid: inner.pid, status, exit: inner.exit }
    }

    /// The runtime made it.
    pub(crate) fn set_created(&self, pid: u32, tracked: Arc<Tracked>) {
        let mut inner = self.lock();
        inner.pid = pid;
        inner.life = Life::Created(tracked);
    }

    /// It was started; unless it is gone already.
    pub(crate) fn set_running(&self) {
        let mut inner = self.lock();
        if let Life::Created(tracked) = &inner.life {
            inner.life = Life::Running(Arc::clone(tracked));
        }
    }

    /// It ended. The waiters are told by [`Process::publish_exit`].
    pub(crate) fn set_stopped(&self, exit: Exit) {
        let mut inner = self.lock();
        inner.life = Life::Stopped;
        inner.exit = Some(exit);
    }

    pub(crate) fn publish_exit(&self, exit: Exit) {
        self.ended.send_replace(Some(exit));
    }

    /// Takes what an added exec needs to be made.
    pub(crate) fn begin(&self) -> Result<(Vec<u8>, ChildStdio), TaskError> {
        let mut inner = self.lock();
        match std::mem::replace(&mut inner.life, Life::Making) {
            Life::Added { spec, stdio } => Ok((spec, stdio)),
            other => {
                let state = other.name();
                inner.life = other;
                Err(TaskError::State { action: "start", state })
            }
        }
    }

    /// Fails unless it waits for its start.
    pub(crate) fn expect_created(&self) -> Result<(), TaskError> {
        match &self.lock().life {
            Life::Created(_) => Ok(()),
            other => Err(TaskError::State { action: "start", state: other.name() }),
        }
    }

    /// Fails while it runs.
    pub(crate) fn expect_not_running(&self) -> Result<(), TaskError> {
        match &self.lock().life {
            life @ (Life::Making | Life::Running(_)) => {
                Err(TaskError::State { action: "delete", state: life.name() })
            }
            Life::Added { .. } | Life::Created(_) | Life::Stopped => Ok(()),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<(), TaskError> {
        let tracked = match &self.lock().life {
            Life::Created(tracked) | Life::Running(tracked) => Arc::clone(tracked),
            Life::Added { .. } | Life::Making => {
                return Err(TaskError::State { action: "signal", state: "created" });
            }
            Life::Stopped => return Err(TaskError::Finished),
        };
        match tracked.signal(signal) {
            Ok(()) => Ok(()),
            Err(Errno::SRCH) => Err(TaskError::Finished),
            Err(errno) => Err(TaskError::errno("signal", "the process")(errno)),
        }
    }

    /// Signals an exec and all that came from it, which may outlive it.
    pub(crate) async fn signal_family(&self, signal: Signal) -> Result<(), TaskError> {
        let (pid, leader) = {
            let inner = self.lock();
            let leader = match inner.life {
                Life::Created(_) | Life::Running(_) => Leader::Held,
                Life::Stopped => Leader::Reaped,
                Life::Added { .. } | Life::Making => {
                    return Err(TaskError::State { action: "signal", state: "created" });
                }
            };
            (inner.pid, leader)
        };
        if pid == 0 {
            return Err(TaskError::Finished);
        }
        let family = move || match signal {
            Signal::KILL => pouch_cgroup::kill_family(pid, leader, Instant::now() + KILL),
            other => pouch_cgroup::signal_family(pid, leader, other).map(drop),
        };
        blocking::run("kill", family)
            .await?
            .map_err(|source| TaskError::Cgroup { action: "signal all processes of", source })
    }

    /// Waits until its exit was published.
    pub(crate) async fn ended(&self) -> Option<Exit> {
        let mut ended = self.ended.subscribe();
        // The sender lives in self.
        ended.wait_for(Option::is_some).await.ok().and_then(|exit| *exit)
    }

    /// Sets the terminal's size, now or when there is one.
    pub(crate) fn resize(&self, size: Winsize) -> Result<(), TaskError> {
        if self.terminal == Terminal::No {
            return Err(TaskError::Invalid {
                what: "resize",
                detail: "the process has no terminal".to_owned(),
            });
        }
        let mut inner = self.lock();
        inner.size = Some(size);
        match &inner.master {
            Some(master) => rustix::termios::tcsetwinsize(master, size)
                .map_err(TaskError::errno("resize", "the terminal")),
            None => Ok(()),
        }
    }

    /// The terminal exists.
    pub(crate) fn set_master(&self, master: OwnedFd) {
        let mut inner = self.lock();
        if let Some(size) = inner.size {
            // The runtime may have set the same one; a failure leaves the kernel's default.
            let _ = rustix::termios::tcsetwinsize(&master, size);
        }
        inner.master = Some(master);
    }

    /// The terminal is of no use any more.
    pub(crate) fn drop_master(&self) {
        self.lock().master = None;
    }

    pub(crate) fn set_drained(&self, drained: oneshot::Receiver<()>) {
        self.lock().drained = Some(drained);
    }

    pub(crate) fn take_drained(&self) -> Option<oneshot::Receiver<()>> {
        self.lock().drained.take()
    }
}
