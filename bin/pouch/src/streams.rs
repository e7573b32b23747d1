//! The bytes between the user and an attached process.

use bytes::Bytes;
use pouch_client::{Channel, Demultiplexer, Framing, Hijacked, ReplyBody};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, Stderr, Stdout};
use tokio::sync::mpsc;

use crate::failure::Failure;
use crate::output::broken;
use crate::terminal::{DetachFilter, RawMode};

/// What one read of the user's input takes.
const INPUT_CHUNK: usize = 32 * 1024;
/// Chunks of input that may wait for the daemon.
const INPUT_QUEUE: usize = 4;

/// How an attachment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The daemon closed the output.
    Output,
    /// The user typed the detach keys.
    Detached,
}

/// What to do with the user's input.
#[derive(Debug)]
pub(crate) enum Input {
    /// Nothing is sent.
    None,
    /// As it is, then the end of input.
    Plain,
    /// Key by key from a raw terminal; the keys detach.
    Terminal(Vec<u8>),
}

/// An attachment that is ready to be pumped.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) stream: Hijacked,
    pub(crate) framing: Framing,
    pub(crate) input: Input,
}

impl Attachment {
    /// Moves bytes until the output ends or the user detaches. The terminal is raw meanwhile when
    /// both the process and the user have one.
    pub(crate) async fn pump(self) -> Result<Ended, Failure> {
        let raw = match &self.input {
            Input::Terminal(_) => RawMode::enter()?,
            Input::None | Input::Plain => None,
        };
        let framing = self.stream.announced().unwrap_or(self.framing);
        let (reader, mut writer) = self.stream.split();
        let output = copy_output(reader, framing);
        let input = async move {
            let mut filter = match self.input {
                // The writing half stays open: closing it would be the end of the process's input.
                Input::None => return std::future::pending().await,
                Input::Plain => None,
                Input::Terminal(keys) => Some(DetachFilter::new(keys)),
            };
            let mut chunks = read_stdin();
            while let Some(chunk) = chunks.recv().await {
                let (bytes, detach) = match &mut filter {
                    Some(filter) => filter.pass(&chunk),
                    None => (chunk.into(), false),
                };
                // A process that reads no more is no error: its output still matters.
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    return std::future::pending().await;
                }
                if detach {
                    return Ended::Detached;
                }
            }
            // What cannot be closed has been closed by the other side.
            let _ = writer.shutdown().await;
            std::future::pending().await
        };
        // Neither branch is resumed after the other has ended, so none needs to be cancel-safe.
        let ended = tokio::select! {
            result = output => result.map(|()| Ended::Output),
            ended = input => Ok(ended),
        };
        drop(raw);
        ended
    }
}

/// Reads stdin on a thread of its own: a read of a terminal cannot be cancelled, and making the
/// descriptor non-blocking would do so for everybody who shares it.
fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    std::thread::spawn(move || {
        use std::io::Read as _;
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0u8; INPUT_CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

struct Sinks {
    stdout: Stdout,
    stderr: Stderr,
}

impl Sinks {
    fn new() -> Self {
        Self { stdout: tokio::io::stdout(), stderr: tokio::io::stderr() }
    }

    async fn write(&mut self, channel: Channel, bytes: &[u8]) -> Result<(), Failure> {
        let result = match channel {
            Channel::Stdout | Channel::Stdin => match self.stdout.write_all(bytes).await {
                Ok(()) => self.stdout.flush().await,
                failed => failed,
            },
            Channel::Stderr => match self.stderr.write_all(bytes).await {
                Ok(()) => self.stderr.flush().await,
                failed => failed,
            },
            Channel::Daemon => {
                let text = String::from_utf8_lossy(bytes);
                return Err(Failure::new(format!("error from daemon in stream: {}", text.trim())));
            }
        };
        result.map_err(|error| broken(&error))
    }
}

/// Writes the output of a process until it ends.
pub(crate) async fn copy_output(
    mut reader: impl AsyncRead + Unpin,
    framing: Framing,
) -> Result<(), Failure> {
    let mut sinks = Sinks::new();
    let lost =
        |error: std::io::Error| Failure::new(format!("connection to the daemon lost: {error}"));
    match framing {
        Framing::Raw => {
            let mut buffer = vec![0u8; INPUT_CHUNK];
            loop {
                let n = reader.read(&mut buffer).await.map_err(lost)?;
                if n == 0 {
                    return Ok(());
                }
                sinks.write(Channel::Stdout, &buffer[..n]).await?;
            }
        }
        Framing::Multiplexed => {
            let mut frames = Demultiplexer::new(reader);
            while let Some((channel, bytes)) = frames.next().await.map_err(lost)? {
                sinks.write(channel, &bytes).await?;
            }
            Ok(())
        }
    }
}

/// Writes a reply's body to stdout or to a file.
pub(crate) async fn save(body: ReplyBody, path: Option<&std::path::Path>) -> Result<(), Failure> {
    let mut reader = body.into_reader();
    match path {
        None => copy_output(reader, Framing::Raw).await,
        Some(path) => {
            // Under another name until it is complete, so that a broken transfer leaves no half
            // archive that looks like a whole one.
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(format!(".partial-{}", std::process::id()));
            let partial = path.with_file_name(name);
            let written = async {
                let mut file = tokio::fs::File::create(&partial).await?;
                tokio::io::copy(&mut reader, &mut file).await?;
                file.flush().await?;
                tokio::fs::rename(&partial, path).await
            };
            let result = written.await;
            if result.is_err() {
                // The failure to report is the first one.
                let _ = tokio::fs::remove_file(&partial).await;
            }
            result.map_err(|error| Failure::io("write", path, &error))
        }
    }
}
