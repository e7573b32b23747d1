//! What a token stands for: the work, and the streams that it is to be given.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use pouch_types::{Classified, ErrorKind};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// A failure of the consumer. Its text and that of its causes is what the client reads.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Which streams a client gets, as `ExecRequest` and `AttachRequest` of CRI v1 say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSet {
    /// The client's input goes to the process.
    pub stdin: bool,
    /// The client gets standard output; all output when there is a terminal.
    pub stdout: bool,
    /// The client gets standard error; not together with `tty`.
    pub stderr: bool,
    /// There is a terminal, which the client may resize.
    pub tty: bool,
}

/// A combination of streams that no client can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// A terminal has one output.
    #[error("tty and stderr cannot both be true")]
    TerminalWithStderr,
    /// There would be nothing to do.
    #[error("one of stdin, stdout, or stderr must be set")]
    NoStream,
}

impl Classified for InvalidRequest {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// The size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Lines.
    pub height: u16,
}

/// Sets the size of a terminal. A failure is logged and changes nothing for the client.
pub type Resize = Box<dyn FnMut(TerminalSize) -> BoxFuture<'static, Result<(), Cause>> + Send>;

/// What a process says.
pub enum Output {
    /// A terminal's bytes.
    Terminal(Box<dyn AsyncRead + Send + Unpin>),
    /// Standard output and error in Docker's frames: stream, three zeros, length in big endian,
    /// bytes. Streams that the client did not ask for are read and dropped.
    Frames(Box<dyn AsyncRead + Send + Unpin>),
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal(_) => "Terminal",
            Self::Frames(_) => "Frames",
        })
    }
}

/// The streams of a process that was started or attached to.
///
/// All of it is dropped when the client leaves: then the process has an end of input and an output
/// that nobody reads, and goes on, as it does with containerd. Who wants it dead ends it when
/// `exit` is dropped.
pub struct Process {
    /// Standard input; only when the client asked for it. Its end of input is a shutdown.
    pub input: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// The session lasts until the end of output.
    pub output: Output,
    /// `None` when there is nothing to resize. Called with one size after the other.
    pub resize: Option<Resize>,
    /// The exit code, which is told after all output was. `None` when it is not to be told
    /// (attach): then the end of output is success. Polled from the start.
    pub exit: Option<BoxFuture<'static, Result<i32, Cause>>>,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("input", &self.input.is_some())
            .field("output", &self.output)
            .field("resize", &self.resize.is_some())
            .field("exit", &self.exit.is_some())
            .finish()
    }
}

impl Process {
    /// A process behind a socket that takes raw input and gives `streams`' form of output.
    #[must_use]
    pub fn over(socket: UnixStream, streams: StreamSet) -> Self {
        let (read, write) = socket.into_split();
        let output = match streams.tty {
            true => Output::Terminal(Box::new(read)),
            false => Output::Frames(Box::new(read)),
        };
        let input = streams.stdin.then(|| Box::new(write) as _);
        Self { input, output, resize: None, exit: None }
    }
}

/// A connection into a pod. A shutdown of writing is a half-close.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub(crate) type Open = Box<dyn FnOnce() -> BoxFuture<'static, Result<Process, Cause>> + Send>;

pub(crate) type Connect =
    Arc<dyn Fn(u16) -> BoxFuture<'static, Result<Box<dyn Duplex>, Cause>> + Send + Sync>;

/// Work that a client is to be connected to.
pub struct Request(pub(crate) Work);

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Request").field(&self.0).finish()
    }
}

pub(crate) enum Work {
    Command { kind: Command, streams: StreamSet, open: Open },
    Forward { ports: Vec<u16>, connect: Connect },
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command { kind, streams, .. } => {
                f.debug_tuple("Command").field(kind).field(streams).finish()
            }
            Self::Forward { ports, .. } => f.debug_tuple("Forward").field(ports).finish(),
        }
    }
}

/// The two that have a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    Exec,
    Attach,
}

impl Request {
    /// Runs a command. `open` starts it; it is called once the client has opened all of its
    /// streams, and runs to its end even when the client leaves meanwhile.
    ///
    /// # Errors
    /// A set of streams that cannot be.
    pub fn exec<F, R>(streams: StreamSet, open: F) -> Result<Self, InvalidRequest>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<Process, Cause>> + Send + 'static,
    {
        Self::command(Command::Exec, streams, open)
    }

    /// Attaches to what runs. `open` as in [`exec`](Self::exec).
    ///
    /// # Errors
    /// A set of streams that cannot be.
    pub fn attach<F, R>(streams: StreamSet, open: F) -> Result<Self, InvalidRequest>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<Process, Cause>> + Send + 'static,
    {
        Self::command(Command::Attach, streams, open)
    }

    fn command<F, R>(kind: Command, streams: StreamSet, open: F) -> Result<Self, InvalidRequest>
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<Process, Cause>> + Send + 'static,
    {
        if streams.tty && streams.stderr {
            return Err(InvalidRequest::TerminalWithStderr);
        }
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return Err(InvalidRequest::NoStream);
        }
        let open: Open = Box::new(move || Box::pin(open()) as Pin<Box<_>>);
        Ok(Self(Work::Command { kind, streams, open }))
    }

    /// Forwards ports. `connect` is called for each connection, within the pod's network; `ports`
    /// are those of the CRI request, which only clients of the WebSocket form before the tunnel
    /// make use of: all others name the port with each connection.
    #[must_use]
    pub fn port_forward<F, R>(ports: Vec<u16>, connect: F) -> Self
    where
        F: Fn(u16) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Box<dyn Duplex>, Cause>> + Send + 'static,
    {
        let connect: Connect = Arc::new(move |port| Box::pin(connect(port)) as Pin<Box<_>>);
        Self(Work::Forward { ports, connect })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_streams_are_checked_as_kubelet_does() {
        let exec = |streams| {
            Request::exec(streams, || async { Err::<Process, Cause>("unused".into()) }).map(drop)
        };
        let all = StreamSet { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(exec(all), Ok(()));
        assert_eq!(exec(StreamSet { tty: true, ..all }), Err(InvalidRequest::TerminalWithStderr));
        assert_eq!(exec(StreamSet::default()), Err(InvalidRequest::NoStream));
        let only_tty = StreamSet { tty: true, ..StreamSet::default() };
        assert_eq!(exec(only_tty), Err(InvalidRequest::NoStream));
    }
}
