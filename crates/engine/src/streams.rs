//! Attach and resize: the streams of a container's main process.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::future::BoxFuture;
use pouch_types::spec::Attach;
use tokio::io::{AsyncRead, ReadBuf};

use crate::api::{AttachOptions, Attached, LogOptions, LogRecord, LogStream};
use crate::container::attach;
use crate::container::state::Phase;
use crate::{Engine, EngineError};

impl Engine {
    /// Attaches to a container. To one that does not run yet the streams begin with its start.
    ///
    /// # Errors
    /// `Conflict` when it is frozen or its shim refuses; `NotFound`.
    pub async fn attach(&self, key: &str, options: AttachOptions) -> Result<Attached, EngineError> {
        let container = self.find(key)?;
        let view = container.view();
        let phase = container.snapshot().phase;
        if phase == Phase::Paused {
            return Err(EngineError::conflict(format!(
                "container {} is paused, unpause the container before attach",
                view.id
            )));
        }
        let tty = view.spec.process.tty;
        let streams = Attach {
            stdin: options.streams.stdin && view.spec.process.open_stdin,
            ..options.streams
        };
        let past = match options.logs && (streams.stdout || streams.stderr) {
            true => Some(Past::new(self.past_output(key, streams).await?)),
            false => None,
        };
        if !options.stream {
            let output: Output = match past {
                Some(past) => Box::new(past),
                None => Box::new(tokio::io::empty()),
            };
            return Ok(Attached { tty, output, input: None });
        }
        let task = if phase == Phase::Running { Some(container.task()?) } else { None };
        let attached = match (task, past) {
            (Some(task), None) => {
                let stream = task
                    .attach(streams)
                    .await
                    .map_err(|e| EngineError::wrap("cannot attach", e))?;
                let (read, write) = stream.into_split();
                Attached {
                    tty,
                    output: Box::new(read),
                    input: streams.stdin.then(|| Box::new(write) as _),
                }
            }
            (Some(task), Some(past)) => {
                let (waiting, live, write) = attach::waiting(streams);
                let join = Box::pin(async move {
                    let stream = task.attach(streams).await.map_err(io::Error::other)?;
                    waiting.connect(stream);
                    Ok(())
                });
                Attached {
                    tty,
                    output: Box::new(Replayed { past: Some(past), join: Some(join), live }),
                    input: streams.stdin.then(|| Box::new(write) as _),
                }
            }
            (None, past) => {
                let (waiting, live, write) = attach::waiting(streams);
                container.run().waiting.push(waiting);
                Attached {
                    tty,
                    output: Box::new(Replayed { past, join: None, live }),
                    input: streams.stdin.then(|| Box::new(write) as _),
                }
            }
        };
        let attributes = crate::engine::view_attributes(&view);
        self.inner.announce_container("attach", &view.id, attributes);
        Ok(attached)
    }

    /// What the log holds now.
    async fn past_output(&self, key: &str, streams: Attach) -> Result<LogStream, EngineError> {
        let options =
            LogOptions { stdout: streams.stdout, stderr: streams.stderr, ..LogOptions::default() };
        self.logs(key, options).await
    }

    /// Sets the size of the terminal, in characters.
    ///
    /// # Errors
    /// `Conflict` when it does not run.
    pub async fn resize(&self, key: &str, width: u16, height: u16) -> Result<(), EngineError> {
        let container = self.find(key)?;
        let task = container.task()?;
        task.resize(width, height).await.map_err(|e| EngineError::wrap("cannot resize", e))?;
        let view = container.view();
        let mut attributes = crate::engine::view_attributes(&view);
        attributes.insert("height".to_owned(), height.to_string());
        attributes.insert("width".to_owned(), width.to_string());
        self.inner.announce_container("resize", &view.id, attributes);
        Ok(())
    }
}

type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A log as an attached client reads it. Holds one record; the reader of the log waits for its
/// client.
#[derive(Debug)]
struct Past {
    log: LogStream,
    piece: io::Cursor<Vec<u8>>,
}

impl Past {
    fn new(log: LogStream) -> Self {
        Self { log, piece: io::Cursor::default() }
    }
}

/// The bytes of a record in the form of the stream.
fn framed(record: LogRecord, tty: bool) -> Vec<u8> {
    let LogRecord { stream, bytes, .. } = record;
    if tty {
        return bytes;
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let mut piece = Vec::with_capacity(bytes.len() + 8);
    piece.extend_from_slice(&[stream, 0, 0, 0]);
    piece.extend_from_slice(&length.to_be_bytes());
    piece.extend_from_slice(&bytes);
    piece
}

impl AsyncRead for Past {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut this.piece).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match ready!(this.log.records.poll_recv(cx)) {
                Some(Ok(record)) => this.piece = io::Cursor::new(framed(record, this.log.tty)),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// The past, then what comes.
///
/// The process is joined when the client has taken the past: the shim leaves out what a client
/// that lags does not take, and one that still reads a long log lags. What is written in the
/// moment between the two is in the log alone.
struct Replayed {
    past: Option<Past>,
    join: Option<BoxFuture<'static, io::Result<()>>>,
    live: attach::LazyRead,
}

impl fmt::Debug for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayed").field("past", &self.past).finish_non_exhaustive()
    }
}

impl AsyncRead for Replayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(past) = &mut this.past {
            let before = buf.filled().len();
            ready!(Pin::new(past).poll_read(cx, buf))?;
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.past = None;
        }
        if let Some(join) = &mut this.join {
            let joined = ready!(join.as_mut().poll(cx));
            this.join = None;
            joined?;
        }
        Pin::new(&mut this.live).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::sync::mpsc;

    use super::*;

    fn record(stream: u8, text: &str) -> LogRecord {
        LogRecord {
            stream,
            time: jiff::Timestamp::UNIX_EPOCH,
            bytes: text.into(),
            attributes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn the_past_comes_first_and_is_read_no_faster_than_its_client() {
        let (sender, records) = mpsc::channel(1);
        let past = Past::new(LogStream { tty: false, records });
        let (waiting, live, _write) = attach::waiting(Attach::default());
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let join = Box::pin(async move {
            waiting.connect(ours);
            Ok(())
        });
        let mut output = Replayed { past: Some(past), join: Some(join), live };
        sender.send(Ok(record(1, "a\n"))).await.unwrap();
        assert!(sender.try_send(Ok(record(2, "b\n"))).is_err(), "nobody reads yet");
        let mut first = [0; 10];
        output.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"\x01\0\0\0\0\0\0\x02a\n");
        sender.send(Ok(record(2, "b\n"))).await.unwrap();
        drop(sender);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"live").await.unwrap();
        drop(theirs);
        let mut rest = Vec::new();
        output.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"\x02\0\0\0\0\0\0\x02b\nlive");
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_ends_the_stream_with_an_error() {
        let (sender, records) = mpsc::channel(1);
        let mut past = Past::new(LogStream { tty: true, records });
        sender.send(Err(EngineError::invalid("torn"))).await.unwrap();
        let error = past.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert!(error.to_string().contains("torn"));
    }
}
