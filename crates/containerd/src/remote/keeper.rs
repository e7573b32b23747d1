//! Streams of containers that foreign shims run: the `stdio` mode of our shim's binary.
//!
//! One process per container makes and holds the named pipes that such a shim wants, writes the
//! log and serves attach clients. It is not ours once it runs: the daemon's death leaves it alone,
//! and the next daemon finds it by its socket.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio as Redirect;
use std::time::Duration;

use pouch_types::{ContainerId, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::{Error, LogMode, LogTarget, Result, Stdin, Stdio, Terminal};

/// Time for an order; closing waits for the last output.
const ORDER: Duration = Duration::from_secs(20);
/// Bytes of an answer.
const ANSWER_MAX: u64 = 16 * 1024;

/// The keeper of one container.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    id: ContainerId,
    socket: PathBuf,
}

#[derive(Debug, Serialize)]
#[serde(tag = "order", rename_all = "kebab-case")]
enum Order<'a> {
    Open { exec: &'a str, terminal: bool, stdin: bool, stdin_once: bool, log: Option<LogOrder<'a>> },
    Started { exec: &'a str },
    AwaitInputEnd { exec: &'a str },
    Close { exec: &'a str },
    Finish,
}

#[derive(Debug, Serialize)]
struct LogOrder<'a> {
    driver: &'a str,
    path: &'a Path,
    max_size: u64,
    max_files: u32,
    non_blocking: bool,
    buffer_size: u64,
    attributes: BTreeMap<&'a str, &'a str>,
}

/// Paths of a process's pipes; empty for what it does not have.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Pipes {
    #[serde(default)]
    error: Option<String>,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Keeper {
    /// That of a run whose directory is `dir`.
    pub(crate) fn of(id: &ContainerId, dir: &Path) -> Self {
        Self { id: id.clone(), socket: dir.join("ctl.sock") }
    }

    /// Starts the process.
    pub(crate) fn spawn(&self, shim: &Path, namespace: &str, dir: &Path) -> Result<()> {
        let listener = StdUnixListener::bind(&self.socket)
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(Error::io("bind", &self.socket))?;
        let log = dir.join("stdio.log");
        let stderr = crate::streams::open_log(&log)?;
        // The child is reaped by tokio when it ends; until then it is nobody's business.
        tokio::process::Command::new(shim)
            .args(["-namespace", namespace, "-id", self.id.as_str(), "-bundle"])
            .arg(dir)
            .arg("stdio")
            .stdin(Redirect::from(OwnedFd::from(listener)))
            .stdout(Redirect::null())
            .stderr(Redirect::from(stderr))
            .current_dir("/")
            .process_group(0)
            .spawn()
            .map_err(Error::io("start", shim))?;
        Ok(())
    }

    /// Makes the pipes of a process, the container's first one if `exec` is empty.
    pub(crate) async fn open(
        &self,
        exec: &str,
        stdio: Stdio,
        log: Option<&LogTarget>,
    ) -> Result<Pipes> {
        let log = log.map(|log| {
            let (non_blocking, buffer_size) = match log.mode {
                LogMode::Blocking => (false, 0),
                LogMode::NonBlocking(bytes) => (true, bytes),
            };
            let attributes = log.attributes.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            LogOrder {
                driver: log.driver.as_str(),
                path: &log.path,
                max_size: log.max_size,
                max_files: log.max_files,
                non_blocking,
                buffer_size,
                attributes: attributes.collect(),
            }
        });
        let order = Order::Open {
            exec,
            terminal: stdio.terminal == Terminal::Yes,
            stdin: stdio.stdin != Stdin::Null,
            stdin_once: stdio.stdin == Stdin::Once,
            log,
        };
        self.order(&order).await
    }

    /// The process starts: who attaches from now on is late.
    pub(crate) async fn started(&self, exec: &str) -> Result<()> {
        self.order(&Order::Started { exec }).await.map(drop)
    }

    /// Returns when the process's input has ended, or nobody can say so any more.
    pub(crate) async fn input_end(&self, exec: &str) -> Result<()> {
        self.talk(&Order::AwaitInputEnd { exec }).await.map(drop)
    }

    /// The process is gone. Returns when its output is where it belongs.
    pub(crate) async fn close(&self, exec: &str) -> Result<()> {
        self.order(&Order::Close { exec }).await.map(drop)
    }

    /// Ends the keeper, when all output is where it belongs. One that is gone is no error.
    pub(crate) async fn finish(&self) -> Result<()> {
        match self.order(&Order::Finish).await {
            Err(Error::Io { source, .. })
                if matches!(
                    source.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(())
            }
            other => other.map(drop),
        }
    }

    async fn order(&self, order: &Order<'_>) -> Result<Pipes> {
        tokio::time::timeout(ORDER, self.talk(order)).await.map_err(|_| Error::Deadline {
            stage: "the keeper of streams",
            container: self.id.to_string(),
            after: ORDER,
        })?
    }

    async fn talk(&self, order: &Order<'_>) -> Result<Pipes> {
        let work = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let mut line = serde_json::to_vec(order)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            // One order per connection: what comes after the answer is its end.
            stream.shutdown().await?;
            let mut answer = Vec::new();
            stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
            std::io::Result::Ok(serde_json::from_slice::<Pipes>(&answer)?)
        };
        let pipes = work.await.map_err(Error::io("give an order to", &self.socket))?;
        match pipes.error {
            Some(message) => Err(Error::Refused { kind: ErrorKind::Internal, message }),
            None => Ok(pipes),
        }
    }
}
