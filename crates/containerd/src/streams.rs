//! The streams of processes: who holds them, and how a client reaches them.
//!
//! Whatever runs the container, its streams are held by a process of ours that outlives the
//! daemon and listens at an `io.sock`: our shim, or its `stdio` mode beside a foreign shim.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use pouch_types::spec::Attach;
use pouch_types::{ContainerId, ErrorKind};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::{Error, Result};

/// URI that asks the shim to hold a stream itself.
pub(crate) const HELD: &str = "pouch-io:";
/// Time to connect and be welcomed.
const ATTACH: Duration = Duration::from_secs(10);
/// Longest answer of the io socket to its one-line request.
const HELLO_MAX: usize = 4096;

/// Opens the file for what such a process says of itself.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path).map_err(Error::io("open", path))
}

#[derive(Serialize)]
struct Hello<'a> {
    id: &'a str,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

#[derive(Deserialize)]
struct Welcome {
    #[serde(default)]
    error: Option<String>,
}

/// An order to who holds the streams.
#[derive(Serialize)]
struct Order {
    order: &'static str,
    /// Of no process: a shim of before, which takes the line for an attach, refuses it so.
    id: &'static str,
}

/// Has the log of the container written to a new file at its path.
pub(crate) async fn reopen_log(socket: &Path, container: &ContainerId) -> Result<()> {
    let order = Order { order: "reopen-log", id: "." };
    ask(socket, container, "the shim's reopening of the log", &order).await.map(drop)
}

/// Connects to the streams of the main process (`exec` empty) or of an exec.
pub(crate) async fn attach(
    socket: &Path,
    container: &ContainerId,
    exec: &str,
    streams: Attach,
) -> Result<UnixStream> {
    let hello =
        Hello { id: exec, stdin: streams.stdin, stdout: streams.stdout, stderr: streams.stderr };
    ask(socket, container, "the shim's attach", &hello).await
}

/// Sends `line`, and returns the connection behind the answer.
async fn ask(
    socket: &Path,
    container: &ContainerId,
    stage: &'static str,
    line: &(impl Serialize + Sync),
) -> Result<UnixStream> {
    let work = async {
        let mut stream = UnixStream::connect(socket).await?;
        let mut line = serde_json::to_vec(line)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let answer = read_line(&mut stream).await?;
        let welcome: Welcome = serde_json::from_slice(&answer)?;
        std::io::Result::Ok((stream, welcome))
    };
    let (stream, welcome) = tokio::time::timeout(ATTACH, work)
        .await
        .map_err(|_| Error::Deadline { stage, container: container.to_string(), after: ATTACH })?
        .map_err(Error::io("attach to", socket))?;
    match welcome.error {
        Some(message) => Err(Error::Refused { kind: ErrorKind::Conflict, message }),
        None => Ok(stream),
    }
}

/// Reads byte by byte up to a newline: what follows it belongs to the stream.
async fn read_line(stream: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < HELLO_MAX {
        match stream.read_u8().await? {
            b'\n' => return Ok(line),
            byte => line.push(byte),
        }
    }
    Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "the shim's answer has no end"))
}
