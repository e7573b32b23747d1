//! Exec and attach: a process's streams and its client's, until the output has ended and the exit
//! code is told.
//!
//! A client that opens its streams is answered at once, but the process starts when all of them
//! are there. Once it is being started, nobody's leaving stops that half-way.

use bytes::{Buf as _, Bytes, BytesMut};
use futures::future::BoxFuture;
use pouch_client::{Channel, Demultiplexer};
use pouch_types::error::chain;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::{Asked, Context};
use crate::outlet::Outlet;
use crate::pipe::Inlet;
use crate::request::{Cause, Open, Output, Process, Resize, TerminalSize};
use crate::spdy::Incoming;
use crate::status::{Outcome, Wording};
use crate::websocket;
use crate::wire::CHUNK;

/// Bytes of sizes that were not yet complete.
const SIZES: usize = 4096;

/// The client's streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    stdin: Option<Inlet>,
    resize: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    error: Option<Outlet>,
    /// Directions that are not used, kept because dropping them resets their streams.
    unused: Vec<Outlet>,
}

/// The stream types of remote commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    Stdin,
    Stdout,
    Stderr,
    Resize,
}

impl Kind {
    fn of(incoming: &Incoming) -> Option<Self> {
        match incoming.headers.get("streamtype")? {
            "error" => Some(Self::Error),
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }
}

impl Ends {
    /// The channels of a WebSocket, which are there from the start. The client is told by an
    /// empty message on the lowest one, which kubelet's library began and clients wait for.
    pub(super) async fn of_channels(channels: Vec<websocket::Channel>) -> Option<Self> {
        let channels: [websocket::Channel; 5] = channels.try_into().ok()?;
        let [stdin, stdout, stderr, error, resize] = channels;
        let wrap = |outlet: Option<websocket::Outlet>| outlet.map(Outlet::WebSocket);
        let mut ends = Self {
            stdin: stdin.0,
            resize: resize.0,
            stdout: wrap(stdout.1),
            stderr: wrap(stderr.1),
            error: wrap(error.1),
            unused: Vec::new(),
        };
        let lowest = [&mut ends.stdout, &mut ends.stderr, &mut ends.error]
            .into_iter()
            .find_map(Option::as_mut)?;
        lowest.send(Bytes::new()).await.ok()?;
        Some(ends)
    }

    fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Error => self.error.is_some(),
            Kind::Stdin => self.stdin.is_some(),
            Kind::Stdout => self.stdout.is_some(),
            Kind::Stderr => self.stderr.is_some(),
            Kind::Resize => self.resize.is_some(),
        }
    }

    fn put(&mut self, kind: Kind, incoming: Incoming) {
        let (inlet, outlet) = incoming.accept();
        let outlet = Outlet::Spdy(outlet);
        match kind {
            Kind::Error => self.error = Some(outlet),
            Kind::Stdout => self.stdout = Some(outlet),
            Kind::Stderr => self.stderr = Some(outlet),
            Kind::Stdin => {
                self.stdin = Some(inlet);
                self.unused.push(outlet);
            }
            Kind::Resize => {
                self.resize = Some(inlet);
                self.unused.push(outlet);
            }
        }
    }

    /// Tells the client how it ended, after all else.
    async fn conclude(mut self, wording: Wording, outcome: &Outcome) {
        // A client that is gone is told nothing.
        for outlet in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            let _ = outlet.finish().await;
        }
        if let Some(mut error) = self.error.take() {
            let message = wording.say(outcome);
            if message.is_empty() || error.send(message).await.is_ok() {
                let _ = error.finish().await;
            }
        }
    }
}

/// Waits for the streams that the request says, and an error stream. Others that a client may have
/// are taken too, and nothing is done with them; what nobody knows or has twice is refused.
pub(super) async fn gather(
    mut incoming: mpsc::Receiver<Incoming>,
    asked: Asked,
    resizes: bool,
    context: &Context,
) -> Option<Ends> {
    let streams = asked.streams;
    let needed = [
        (Kind::Error, true),
        (Kind::Stdin, streams.stdin),
        (Kind::Stdout, streams.stdout),
        (Kind::Stderr, streams.stderr),
        (Kind::Resize, streams.tty && resizes),
    ];
    let mut ends = Ends::default();
    let late = tokio::time::sleep(context.shared.limits.creation);
    tokio::pin!(late);
    while needed.iter().any(|(kind, needed)| *needed && !ends.has(*kind)) {
        let opened = tokio::select! {
            opened = incoming.recv() => opened?,
            () = &mut late => {
                let missing: Vec<Kind> = needed
                    .into_iter()
                    .filter(|(kind, needed)| *needed && !ends.has(*kind))
                    .map(|(kind, _)| kind)
                    .collect();
                tracing::info!(?missing, "client did not open its streams in time");
                let text = "timed out waiting for client to create streams".to_owned();
                ends.conclude(asked.wording, &Outcome::Failed { kind: asked.kind, text }).await;
                return None;
            }
            () = context.stop.cancelled() => {
                ends.conclude(asked.wording, &stopped(asked, context)).await;
                return None;
            }
        };
        match Kind::of(&opened) {
            Some(kind) if !ends.has(kind) => ends.put(kind, opened),
            // Dropping it refuses it.
            Some(_) | None => tracing::debug!(headers = ?opened.headers, "stream refused"),
        }
    }
    Some(ends)
}

fn stopped(asked: Asked, context: &Context) -> Outcome {
    Outcome::Failed { kind: asked.kind, text: context.reason() }
}

/// Opens the process and connects it with its client.
pub(super) async fn run(mut ends: Ends, asked: Asked, open: Open, context: &Context) {
    // A task of its own: dropping this session lets it go on, and drop what it opened.
    let opening = context.shared.tracker.spawn(open());
    let opened = tokio::select! {
        opened = opening => opened,
        () = context.stop.cancelled() => {
            return ends.conclude(asked.wording, &stopped(asked, context)).await;
        }
    };
    let process = match opened.map_err(|error: JoinError| Cause::from(error)).flatten() {
        Ok(process) => process,
        Err(cause) => {
            let outcome = Outcome::failed(asked.kind, &*cause);
            tracing::debug!(?outcome, "nothing to connect a client to");
            return ends.conclude(asked.wording, &outcome).await;
        }
    };
    let Process { input, output, resize, exit } = process;
    let (stdin, sizes) = (ends.stdin.take(), ends.resize.take());
    let delivery = async {
        // The code is asked for at once, so that nothing is missed, and told last.
        tokio::join!(deliver(output, &mut ends.stdout, &mut ends.stderr), code(exit))
    };
    let inputs = async {
        tokio::join!(feed(stdin, input), set_sizes(sizes, resize));
        // The end of input is not the end.
        std::future::pending::<()>().await;
    };
    let outcome = tokio::select! {
        (delivered, code) = delivery => match (delivered, code) {
            (Ok(()), Ok(None)) => Outcome::Success,
            (Ok(()), Ok(Some(code))) => Outcome::Exited(code),
            (Ok(()), Err(cause)) => Outcome::failed(asked.kind, &*cause),
            (Err(error), _) => Outcome::failed(asked.kind, &error),
        },
        () = inputs => return,
        () = context.stop.cancelled() => stopped(asked, context),
    };
    ends.conclude(asked.wording, &outcome).await;
}

async fn code(exit: Option<BoxFuture<'static, Result<i32, Cause>>>) -> Result<Option<i32>, Cause> {
    match exit {
        Some(exit) => exit.await.map(Some),
        None => Ok(None),
    }
}

/// The output of a process could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading the output of the process")]
struct OutputError(#[source] std::io::Error);

/// Moves all output. What has no outlet, or none any more, is read and dropped: the process must
/// not wait for a client that does not want it.
async fn deliver(
    output: Output,
    stdout: &mut Option<Outlet>,
    stderr: &mut Option<Outlet>,
) -> Result<(), OutputError> {
    match output {
        Output::Terminal(mut reader) => {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(CHUNK);
                if reader.read_buf(&mut buffer).await.map_err(OutputError)? == 0 {
                    return Ok(());
                }
                send(stdout, buffer.split().freeze()).await;
            }
        }
        Output::Frames(reader) => {
            let mut frames = Demultiplexer::new(reader);
            while let Some((channel, bytes)) = frames.next().await.map_err(OutputError)? {
                match channel {
                    Channel::Stdout => send(stdout, bytes).await,
                    Channel::Stderr | Channel::Daemon => send(stderr, bytes).await,
                    Channel::Stdin => {}
                }
            }
            Ok(())
        }
    }
}

async fn send(outlet: &mut Option<Outlet>, bytes: Bytes) {
    if let Some(open) = outlet
        && !bytes.is_empty()
        && open.send(bytes).await.is_err()
    {
        *outlet = None;
    }
}

/// Moves the client's input, and its end. After a process has closed its input the rest is read
/// and dropped, so that the connection's other streams go on.
async fn feed(stdin: Option<Inlet>, input: Option<Box<dyn AsyncWrite + Send + Unpin>>) {
    let (Some(mut stdin), mut input) = (stdin, input) else { return };
    // A stream that the client reset ends the input as well.
    while let Ok(Some(bytes)) = stdin.next().await {
        if let Some(open) = &mut input {
            let written = async {
                open.write_all(&bytes).await?;
                open.flush().await
            };
            if let Err(error) = written.await {
                tracing::debug!(%error, "the process takes no input");
                input = None;
            }
        }
    }
    if let Some(mut open) = input
        && let Err(error) = open.shutdown().await
    {
        tracing::debug!(%error, "ending the input of a process");
    }
}

/// Sets sizes as they come: JSON objects one after the other, in whatever pieces.
async fn set_sizes(sizes: Option<Inlet>, resize: Option<Resize>) {
    let Some(mut sizes) = sizes else { return };
    let mut buffer = BytesMut::new();
    let mut resize = resize;
    while let Ok(Some(bytes)) = sizes.next().await {
        let Some(set) = &mut resize else { continue };
        buffer.extend_from_slice(&bytes);
        match latest(&mut buffer) {
            Ok(Some(size)) => {
                if let Err(cause) = set(size).await {
                    tracing::debug!(error = %chain(&*cause), ?size, "resizing a terminal");
                }
            }
            Ok(None) if buffer.len() <= SIZES => {}
            Ok(None) | Err(_) => {
                tracing::debug!("a client's terminal sizes make no sense");
                buffer.clear();
                resize = None;
            }
        }
    }
}

/// Takes the complete sizes out of `buffer`, of which the last one counts.
fn latest(buffer: &mut BytesMut) -> Result<Option<TerminalSize>, serde_json::Error> {
    let mut sizes = serde_json::Deserializer::from_slice(buffer).into_iter::<TerminalSize>();
    let mut last = None;
    let mut taken = 0;
    loop {
        match sizes.next() {
            Some(Ok(size)) => {
                last = Some(size);
                taken = sizes.byte_offset();
            }
            Some(Err(error)) if error.is_eof() => break,
            Some(Err(error)) => return Err(error),
            None => break,
        }
    }
    buffer.advance(taken);
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_whatever_pieces() {
        let mut buffer = BytesMut::new();
        let size = |width, height| Some(TerminalSize { width, height });
        buffer.extend_from_slice(br#"{"Width":80,"Height":24}"#);
        assert_eq!(latest(&mut buffer).unwrap(), size(80, 24));
        buffer
            .extend_from_slice(b"\n{\"Width\":1,\"Height\":2}\n{\"Height\":4,\"Width\":3}\n{\"Wi");
        assert_eq!(latest(&mut buffer).unwrap(), size(3, 4));
        assert_eq!(latest(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"dth\":5,\"Height\":6}");
        assert_eq!(latest(&mut buffer).unwrap(), size(5, 6));
        assert_eq!(latest(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(br#"{"Width":70000,"Height":1}"#);
        assert!(latest(&mut buffer).is_err());
    }
}
