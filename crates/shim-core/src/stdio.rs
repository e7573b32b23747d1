//! Where a process's standard streams lead, as the requests name it.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::TaskError;
use crate::io::{OutputSide, StdinSide};

/// Scheme of a stream that the shim holds.
const HELD: &str = "pouch-io:";

/// One end of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// Nothing: `/dev/null`.
    Null,
    /// `pouch-io:`, perhaps with a [`Held`]; the shim holds it for its log and attach clients.
    Held(Held),
    /// A FIFO of the caller's, or a file that exists.
    Path(PathBuf),
    /// `file://PATH`, appended to and created.
    File(PathBuf),
}

/// What the URI of a held stream says of this run, as `key=value` pairs joined by commas.
///
/// containerd 2 takes no options but runc's with a task, and the container's own stay from run to
/// run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Held {
    /// `generation=N`: in place of that in the options.
    pub(crate) generation: Option<u64>,
    /// `stdin=once`: the first client's end of input is the end of the process's input.
    pub(crate) stdin_once: bool,
}

impl FromStr for Held {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        let mut held = Self::default();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("generation", number)) if number.parse::<u64>().is_ok() => {
                    held.generation = number.parse().ok();
                }
                Some(("stdin", "once")) => held.stdin_once = true,
                _ => {
                    let detail = format!("{pair:?} says nothing of a held stream");
                    return Err(TaskError::Invalid { what: "stdio", detail });
                }
            }
        }
        Ok(held)
    }
}

impl FromStr for Endpoint {
    type Err = TaskError;

    fn from_str(text: &str) -> Result<Self, TaskError> {
        let invalid = |detail| Err(TaskError::Invalid { what: "stdio", detail });
        let path = match text {
            "" => return Ok(Self::Null),
            _ if text.starts_with(HELD) => return Ok(Self::Held(text[HELD.len()..].parse()?)),
            _ => text.strip_prefix("file://").unwrap_or(text),
        };
        if text.starts_with("binary://") {
            return Err(TaskError::Unsupported("a binary:// log"));
        }
        if path.contains("://") {
            return invalid(format!("{text:?} has an unknown scheme"));
        }
        if !path.starts_with('/') || path.contains('\0') {
            return invalid(format!("{text:?} is not an absolute path"));
        }
        Ok(if text.starts_with("file://") {
            Self::File(path.into())
        } else {
            Self::Path(path.into())
        })
    }
}

/// The three endpoints of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) stdin: Endpoint,
    pub(crate) stdout: Endpoint,
    pub(crate) stderr: Endpoint,
}

/// What the runtime's process gets as 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct ChildStdio {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Both sides of a process's stdio.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) child: ChildStdio,
    pub(crate) stdin: Option<StdinSide>,
    pub(crate) stdout: Option<OutputSide>,
    pub(crate) stderr: Option<OutputSide>,
}

/// Whether the process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    Yes,
    No,
}

impl Endpoints {
    pub(crate) fn parse(stdin: &str, stdout: &str, stderr: &str) -> Result<Self, TaskError> {
        Ok(Self { stdin: stdin.parse()?, stdout: stdout.parse()?, stderr: stderr.parse()? })
    }

    /// Attach clients can reach a stream of this process.
    pub(crate) fn attachable(&self) -> bool {
        self.held().is_some()
    }

    /// What is said of this run by the first of the streams that are held.
    pub(crate) fn held(&self) -> Option<Held> {
        [&self.stdin, &self.stdout, &self.stderr].into_iter().find_map(|endpoint| match endpoint {
            Endpoint::Held(held) => Some(*held),
            Endpoint::Null | Endpoint::Path(_) | Endpoint::File(_) => None,
        })
    }

    /// Opens FIFOs and files and makes the pipes. Nothing here can block.
    pub(crate) fn open(&self, terminal: Terminal) -> Result<Opened, TaskError> {
        if terminal == Terminal::Yes {
            // The terminal itself is made by the runtime; it has one output.
            let stdin = match self.stdin {
                Endpoint::Null => None,
                _ => Some(StdinSide { sink: None, source: source(&self.stdin)? }),
            };
            let stdout = OutputSide { source: None, forward: sink(&self.stdout)? };
            let child = ChildStdio { stdin: null()?, stdout: null()?, stderr: null()? };
            return Ok(Opened { child, stdin, stdout: Some(stdout), stderr: None });
        }
        let (child_stdin, stdin) = match self.stdin {
            Endpoint::Null => (null()?, None),
            _ => {
                let (reader, writer) = pipe()?;
                nonblocking(&writer)?;
                let side = StdinSide { sink: Some(writer), source: source(&self.stdin)? };
                (reader, Some(side))
            }
        };
        let output = |endpoint: &Endpoint| match endpoint {
            Endpoint::Null => Ok((null()?, None)),
            _ => {
                let (reader, writer) = pipe()?;
                nonblocking(&reader)?;
                let side = OutputSide { source: Some(reader), forward: sink(endpoint)? };
                Ok::<_, TaskError>((writer, Some(side)))
            }
        };
        let (child_stdout, stdout) = output(&self.stdout)?;
        let (child_stderr, stderr) = output(&self.stderr)?;
        let child = ChildStdio { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr };
        Ok(Opened { child, stdin, stdout, stderr })
    }
}

fn null() -> Result<OwnedFd, TaskError> {
    open(Path::new("/dev/null"), OFlags::RDWR)
}

fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, TaskError> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::from_raw_mode(0o600))
        .map_err(TaskError::errno("open", path))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), TaskError> {
    pipe_with(PipeFlags::CLOEXEC).map_err(TaskError::errno("make", "a pipe"))
}

/// The other end of a pipe is an open file of its own and stays blocking.
fn nonblocking(fd: &OwnedFd) -> Result<(), TaskError> {
    rustix::io::ioctl_fionbio(fd, true).map_err(TaskError::errno("set up", "a pipe"))
}

/// A FIFO to read input from. Without a writer it has neither bytes nor an end.
fn source(endpoint: &Endpoint) -> Result<Option<OwnedFd>, TaskError> {
    match endpoint {
        Endpoint::Null | Endpoint::Held(_) => Ok(None),
        Endpoint::Path(path) | Endpoint::File(path) => {
            open(path, OFlags::RDONLY | OFlags::NONBLOCK).map(Some)
        }
    }
}

/// A FIFO or file to copy output to.
///
/// A FIFO is opened for reading too: so the opening does not wait for a reader, and the process
/// lives on when the reader goes away, held up like one whose reader is slow.
fn sink(endpoint: &Endpoint) -> Result<Option<OwnedFd>, TaskError> {
    match endpoint {
        Endpoint::Null | Endpoint::Held(_) => Ok(None),
        Endpoint::File(path) => {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
            open(path, flags).map(Some)
        }
        Endpoint::Path(path) => {
            let stat = rustix::fs::stat(path).map_err(TaskError::errno("inspect", path))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Fifo => open(path, OFlags::RDWR | OFlags::NONBLOCK).map(Some),
                FileType::RegularFile | FileType::CharacterDevice => {
                    open(path, OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW).map(Some)
                }
                _ => Err(TaskError::Invalid {
                    what: "stdio",
                    detail: format!("{} is neither a FIFO nor a file", path.display()),
                }),
            }
        }
    }
}

impl ChildStdio {
    /// Puts them into `command`.
    pub(crate) fn give_to(self, command: &mut std::process::Command) {
        command.stdin(File::from(self.stdin));
        command.stdout(File::from(self.stdout));
        command.stderr(File::from(self.stderr));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris() {
        let parse = |text: &str| text.parse::<Endpoint>();
        assert_eq!(parse("").unwrap(), Endpoint::Null);
        assert_eq!(parse("pouch-io:").unwrap(), Endpoint::Held(Held::default()));
        let held = Held { generation: Some(7), stdin_once: true };
        assert_eq!(parse("pouch-io:generation=7,stdin=once").unwrap(), Endpoint::Held(held));
        assert_eq!(parse("/run/f").unwrap(), Endpoint::Path("/run/f".into()));
        assert_eq!(parse("file:///l").unwrap(), Endpoint::File("/l".into()));
        assert!(matches!(parse("binary:///bin/x?a=b"), Err(TaskError::Unsupported(_))));
        for bad in [
            "relative",
            "file://relative",
            "http://x/y",
            "file://",
            "pouch-io:x",
            "pouch-io:stdin=two",
            "pouch-io:generation=-1",
        ] {
            assert!(matches!(parse(bad), Err(TaskError::Invalid { .. })), "{bad}");
        }
    }

    #[test]
    fn a_fifo_opens_without_its_other_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        let fifo = Endpoint::Path(path);
        assert!(source(&fifo).unwrap().is_some());
        assert!(sink(&fifo).unwrap().is_some());
        assert!(sink(&Endpoint::Path(dir.path().into())).is_err());
        assert!(sink(&Endpoint::Path(dir.path().join("absent"))).is_err());
    }
}
