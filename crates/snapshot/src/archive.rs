//! Running `pouch-unpack`: the process that reads foreign archives and walks foreign trees.
//!
//! The child gets a clean environment, three pipes and the path of a root, which is
//! `/proc/<this process>/fd/<n>` for a [`RootFd`]. Dropping a future or a reader kills it.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitStatus, Stdio};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pouch_rootfd::RootFd;
use pouch_types::{Classified, ErrorKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::error::{Result, SnapshotError};

/// Buffer between the source of an archive and the child, and the size asked for the pipe.
const BUFFER: usize = 256 * 1024;
/// Longest report or error line.
const MAX_REPORT: u64 = 64 * 1024;
/// `stat` reads one file's attributes; only a dead network file system takes longer.
const STAT_DEADLINE: Duration = Duration::from_secs(30);

/// What `HEAD archive` tells about a path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    /// Last component of the path as asked for.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Go's `os.FileMode`.
    pub mode: u32,
    /// RFC 3339 with nanoseconds.
    pub mtime: String,
    /// Where a link ends, as an absolute path in the container; empty for anything else.
    pub link_target: String,
}

/// How an archive is extracted into a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PutOptions {
    /// May a directory replace another kind of file and the other way round.
    pub replace: Replace,
    /// Give everything this (uid, gid) instead of the archive's.
    pub chown: Option<(u32, u32)>,
}

/// What an extracted entry may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// Everything.
    #[default]
    Anything,
    /// `noOverwriteDirNonDir`: no directory by another kind, nor the reverse.
    NotDirectories,
}

/// What was extracted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PutReport {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the files.
    pub size: u64,
}

/// What was copied into a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct CopyReport {
    /// Files, directories and links.
    pub entries: u64,
    /// The volume had content, so nothing was touched.
    pub skipped: bool,
}

/// What `pouch-unpack layer` reports.
#[derive(Debug, Deserialize)]
pub(crate) struct LayerReport {
    /// Only when it was asked for.
    pub(crate) digest: Option<String>,
    pub(crate) diff_id: String,
    pub(crate) size: u64,
    pub(crate) entries: u64,
    pub(crate) opaque_root: bool,
}

/// What of a layer is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hashing {
    /// The blob and the tar in it.
    Both,
    /// The tar; the blob is verified elsewhere.
    Tar,
}

#[derive(Deserialize)]
struct ErrorLine {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    kind: ErrorKind,
    message: String,
}

/// Starts `pouch-unpack`. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Unpacker {
    binary: PathBuf,
}

impl Unpacker {
    /// With the program at `binary`, an absolute path.
    #[must_use]
    pub fn new(binary: PathBuf) -> Self {
        Self { binary }
    }

    /// Unpacks a layer blob into the empty directory `directory`.
    pub(crate) async fn layer(
        &self,
        directory: &Path,
        blob: impl AsyncRead + Unpin + Send,
        hashing: Hashing,
    ) -> Result<LayerReport> {
        let mut arguments = vec![OsStr::new("layer"), "--root".as_ref(), directory.as_ref()];
        if hashing == Hashing::Tar {
            arguments.push("--blob-verified".as_ref());
        }
        self.start(arguments)?.report(Some(blob)).await
    }

    /// What `path` in `root` is.
    ///
    /// # Errors
    /// [`SnapshotError::Unpack`] with kind `NotFound` or `Invalid`, [`SnapshotError::Deadline`].
    pub async fn stat(&self, root: &RootFd, path: impl AsRef<Path>) -> Result<PathStat> {
        let at = root.proc_path();
        let running = self.start([
            OsStr::new("stat"),
            "--root".as_ref(),
            at.as_ref(),
            "--path".as_ref(),
            path.as_ref().as_ref(),
        ])?;
        let report = running.report(None::<tokio::io::Empty>);
        tokio::time::timeout(STAT_DEADLINE, report).await.map_err(|_| SnapshotError::Deadline {
            stage: "stat in the container",
            seconds: STAT_DEADLINE.as_secs(),
        })?
    }

    /// `path` in `root` as a tar whose top entry has the path's last component.
    ///
    /// # Errors
    /// The program does not start. Everything else is an error of reading: ask [`Unpacker::stat`]
    /// first.
    pub fn get(&self, root: &RootFd, path: impl AsRef<Path>) -> Result<ArchiveReader> {
        let root = root.try_clone()?;
        let at = root.proc_path();
        let running = self.start([
            OsStr::new("get"),
            "--root".as_ref(),
            at.as_ref(),
            "--path".as_ref(),
            path.as_ref().as_ref(),
        ])?;
        Ok(running.into_reader(root))
    }

    /// Everything below `root` as a tar, without what is mounted there.
    ///
    /// # Errors
    /// The program does not start; everything else is an error of reading.
    pub fn export(&self, root: &RootFd) -> Result<ArchiveReader> {
        let root = root.try_clone()?;
        let at = root.proc_path();
        let running = self.start([OsStr::new("export"), "--root".as_ref(), at.as_ref()])?;
        Ok(running.into_reader(root))
    }

    /// The upper directory of a container as an OCI layer (see
    /// [`Snapshotter::upper`](crate::Snapshotter::upper)).
    ///
    /// # Errors
    /// The program does not start; everything else is an error of reading.
    pub fn diff(&self, upper: &RootFd) -> Result<ArchiveReader> {
        let root = upper.try_clone()?;
        let at = root.proc_path();
        let running = self.start([OsStr::new("diff"), "--upper".as_ref(), at.as_ref()])?;
        Ok(running.into_reader(root))
    }

    /// Extracts `archive` (compressed or not) into the existing directory `path` of `root`.
    ///
    /// # Errors
    /// [`SnapshotError::Unpack`]: `NotFound`, `Invalid` (not a directory, bad archive),
    /// `Conflict`, `ResourceExhausted`; failures of reading `archive` are [`SnapshotError::Io`].
    pub async fn put(
        &self,
        root: &RootFd,
        path: impl AsRef<Path>,
        options: PutOptions,
        archive: impl AsyncRead + Unpin + Send,
    ) -> Result<PutReport> {
        let mut arguments: Vec<OsString> = vec![
            "put".into(),
            "--root".into(),
            root.proc_path().into(),
            "--path".into(),
            path.as_ref().into(),
        ];
        if options.replace == Replace::NotDirectories {
            arguments.push("--no-overwrite-dir-non-dir".into());
        }
        if let Some((uid, gid)) = options.chown {
            arguments.extend(["--chown".into(), format!("{uid}:{gid}").into()]);
        }
        self.start(arguments)?.report(Some(archive)).await
    }

    /// Copies what is in the directory `path` of `from` into the root of `to`, if that is empty,
    /// and gives `to` the directory's owner, mode and attributes.
    ///
    /// # Errors
    /// [`SnapshotError::Unpack`]: `NotFound`, `Invalid` (not a directory), `ResourceExhausted`.
    pub async fn copy_tree(
        &self,
        from: &RootFd,
        path: impl AsRef<Path>,
        to: &RootFd,
    ) -> Result<CopyReport> {
        let (source, target) = (from.proc_path(), to.proc_path());
        let running = self.start([
            OsStr::new("tree"),
            "--from".as_ref(),
            source.as_ref(),
            "--path".as_ref(),
            path.as_ref().as_ref(),
            "--to".as_ref(),
            target.as_ref(),
        ])?;
        running.report(None::<tokio::io::Empty>).await
    }

    fn start(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Running> {
        let mut child = Command::new(&self.binary)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| SnapshotError::io("start", &self.binary, e))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
            return Err(SnapshotError::io("start", &self.binary, io::ErrorKind::BrokenPipe));
        };
        // A larger pipe saves wake-ups; the kernel's limit for us may be smaller.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, BUFFER);
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, BUFFER);
        Ok(Running { program: self.binary.clone(), child, stdin, stdout, stderr })
    }
}

struct Running {
    program: PathBuf,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

impl Running {
    /// Feeds `input` to the child and reads its report.
    async fn report<T: DeserializeOwned>(
        self,
        input: Option<impl AsyncRead + Unpin + Send>,
    ) -> Result<T> {
        let Self { program, mut child, stdin, mut stdout, mut stderr } = self;
        let (mut line, mut error) = (Vec::new(), Vec::new());
        let (fed, out, err) = tokio::join!(
            feed(input, stdin),
            read_bounded(&mut stdout, &mut line),
            read_bounded(&mut stderr, &mut error),
        );
        let pipe = |e| SnapshotError::io("read from", &program, e);
        out.map_err(pipe)?;
        err.map_err(pipe)?;
        let status = child.wait().await.map_err(|e| SnapshotError::io("wait for", &program, e))?;
        // A source that failed explains the truncated archive that the child saw.
        fed?;
        if !status.success() {
            return Err(failure(&program, status, &error));
        }
        serde_json::from_slice(&line).map_err(|_| failure(&program, status, b"no report"))
    }

    /// The child's output as a stream. `root` stays open as long as the child may still open it.
    fn into_reader(self, root: RootFd) -> ArchiveReader {
        let Self { program, child, stdin, stdout, stderr } = self;
        drop(stdin);
        ArchiveReader {
            stdout,
            end: End::Running(Some(Box::new(Tail { program, child, stderr, root }))),
        }
    }
}

/// Copies `input` into the child. A child that stopped reading has its reason on standard error.
async fn feed(input: Option<impl AsyncRead + Unpin + Send>, mut stdin: ChildStdin) -> Result<()> {
    let Some(input) = input else { return Ok(()) };
    let mut input = BufReader::with_capacity(BUFFER, input);
    loop {
        let chunk = input.fill_buf().await.map_err(|e| SnapshotError::io("read", "archive", e))?;
        let length = chunk.len();
        if length == 0 || stdin.write_all(chunk).await.is_err() {
            return Ok(());
        }
        input.consume(length);
    }
}

async fn read_bounded(from: &mut (impl AsyncRead + Unpin), to: &mut Vec<u8>) -> io::Result<()> {
    from.take(MAX_REPORT).read_to_end(to).await?;
    // A child that says more must not block on a full pipe.
    tokio::io::copy(from, &mut tokio::io::sink()).await.map(drop)
}

fn failure(program: &Path, status: ExitStatus, error: &[u8]) -> SnapshotError {
    let last = error.split(|byte| *byte == b'\n').rfind(|line| !line.is_empty());
    match last.and_then(|line| serde_json::from_slice::<ErrorLine>(line).ok()) {
        Some(ErrorLine { error: ErrorBody { kind, message } }) => {
            SnapshotError::Unpack { kind, message }
        }
        None => {
            let said: String =
                String::from_utf8_lossy(last.unwrap_or_default()).chars().take(200).collect();
            SnapshotError::UnpackCrashed {
                program: program.to_owned(),
                status: format!("{status}: {said}"),
            }
        }
    }
}

/// A tar that `pouch-unpack` is writing. The end of the stream is reported only after the program
/// ended well; otherwise reading fails with its reason ([`ArchiveReader::failure_kind`]).
#[derive(Debug)]
pub struct ArchiveReader {
    stdout: ChildStdout,
    end: End,
}

#[derive(Debug)]
struct Tail {
    program: PathBuf,
    child: Child,
    stderr: ChildStderr,
    root: RootFd,
}

enum End {
    Running(Option<Box<Tail>>),
    Waiting(Pin<Box<dyn Future<Output = Result<()>> + Send + Sync>>),
    Done,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Running(_) => "Running",
            Self::Waiting(_) => "Waiting",
            Self::Done => "Done",
        })
    }
}

impl Tail {
    async fn finish(mut self) -> Result<()> {
        let mut error = Vec::new();
        let pipe = |e| SnapshotError::io("read from", &self.program, e);
        read_bounded(&mut self.stderr, &mut error).await.map_err(pipe)?;
        let status = self.child.wait().await.map_err(pipe)?;
        drop(self.root);
        if status.success() { Ok(()) } else { Err(failure(&self.program, status, &error)) }
    }
}

impl ArchiveReader {
    /// The kind of a failure that reading returned.
    #[must_use]
    pub fn failure_kind(error: &io::Error) -> ErrorKind {
        error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<SnapshotError>())
            .map_or_else(|| pouch_types::error::io_kind(error), Classified::kind)
    }
}

impl AsyncRead for ArchiveReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.end {
                End::Done => return Poll::Ready(Ok(())),
                End::Waiting(finish) => {
                    let finished = ready!(finish.as_mut().poll(cx));
                    self.end = End::Done;
                    return Poll::Ready(finished.map_err(io::Error::other));
                }
                End::Running(tail) => {
                    let tail = tail.take();
                    let before = buf.filled().len();
                    let polled = Pin::new(&mut self.stdout).poll_read(cx, buf);
                    let at_end = matches!(polled, Poll::Ready(Ok(())))
                        && buf.filled().len() == before
                        && buf.remaining() > 0;
                    match (at_end, tail) {
                        (true, Some(tail)) => self.end = End::Waiting(Box::pin(tail.finish())),
                        (true, None) => self.end = End::Done,
                        (false, tail) => {
                            self.end = End::Running(tail);
                            return polled;
                        }
                    }
                }
            }
        }
    }
}
