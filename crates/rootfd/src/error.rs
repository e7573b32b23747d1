//! What can go wrong below a root.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use pouch_types::{Classified, ErrorKind};
use rustix::io::Errno;

/// Result of every operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation below a root. Paths in it are as the caller gave them, relative to the root.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused.
    #[error("{operation} {}", Shown(path))]
    Io {
        /// What was tried, as the manual page calls it.
        operation: &'static str,
        /// On what, relative to the root.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `openat2(2)` is missing; there is no safe way to resolve the path.
    #[error("the kernel cannot resolve paths inside a root: Linux 5.6 or newer is needed")]
    KernelTooOld,
    /// A reader of small files met something else.
    #[error("{} is not a regular file but a {found}", Shown(path))]
    NotRegular {
        /// The offending path.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file is longer than its reader accepts.
    #[error("{} is longer than the limit of {limit} bytes", Shown(path))]
    TooLarge {
        /// The offending path.
        path: PathBuf,
        /// Bytes.
        limit: u64,
    },
    /// A text file holds other bytes.
    #[error("{} is not UTF-8 text", Shown(path))]
    NotText {
        /// The offending path.
        path: PathBuf,
    },
    /// A directory entry name that is empty, `.`, `..`, too long, or holds a slash or NUL.
    #[error("invalid file name \"{}\"", Shown(name))]
    InvalidName {
        /// The name.
        name: PathBuf,
    },
    /// Removal met another file system or mount and stopped there.
    #[error("{} is a mount point", Shown(path))]
    MountPoint {
        /// The mount point.
        path: PathBuf,
    },
    /// A directory was to be made where a link stands whose target is not there.
    #[error("{} is a link that leads to nothing below the root", Shown(path))]
    Dangling {
        /// The link.
        path: PathBuf,
    },
    /// The path was renamed under the resolver again and again.
    #[error("{} keeps changing while it is resolved", Shown(path))]
    Unstable {
        /// The path.
        path: PathBuf,
    },
}

/// Characters of a path in a message.
const SHOWN: usize = 256;

/// A path as messages show it: names come from others, so a control character in one must not steer
/// the terminal that the message reaches, and a megabyte of slashes is cut.
struct Shown<'a>(&'a Path);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = self.0.display().to_string();
        for (at, part) in text.chars().enumerate() {
            if at == SHOWN {
                return f.write_char('…');
            }
            if part.is_control() {
                write!(f, "{}", part.escape_default())?;
            } else {
                f.write_char(part)?;
            }
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        Self::Io { operation, path: path.as_ref().to_owned(), source: errno.into() }
    }

    /// The kernel's error number, where the kernel said no.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the path does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.errno() == Some(Errno::NOENT.raw_os_error())
    }
}

impl Classified for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { source, .. } => source
                .raw_os_error()
                .map_or(ErrorKind::Internal, |raw| errno_kind(Errno::from_raw_os_error(raw))),
            Self::KernelTooOld => ErrorKind::Unsupported,
            Self::NotRegular { .. }
            | Self::TooLarge { .. }
            | Self::NotText { .. }
            | Self::InvalidName { .. } => ErrorKind::Invalid,
            Self::Dangling { .. } => ErrorKind::AlreadyExists,
            Self::MountPoint { .. } | Self::Unstable { .. } => ErrorKind::Conflict,
        }
    }
}

fn errno_kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::AlreadyExists,
        Errno::NOTDIR | Errno::ISDIR | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL => {
            ErrorKind::Invalid
        }
        Errno::NOTEMPTY | Errno::BUSY | Errno::XDEV | Errno::TXTBSY => ErrorKind::Conflict,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::NOSPC
        | Errno::DQUOT
        | Errno::MFILE
        | Errno::NFILE
        | Errno::NOMEM
        | Errno::FBIG
        | Errno::MLINK => ErrorKind::ResourceExhausted,
        Errno::NOTSUP | Errno::NOSYS => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_messages_are_short_and_harmless() {
        let told = |name: &str| Error::io("open", name, Errno::PERM).to_string();
        assert_eq!(told("/a b/ü\"'\\"), "open /a b/ü\"'\\");
        assert_eq!(told("/\x1b[2J\r\n"), "open /\\u{1b}[2J\\r\\n");
        assert_eq!(told(&"n".repeat(1 << 20)).chars().count(), "open ".len() + SHOWN + 1);
        let invalid = Error::InvalidName { name: "x\u{7}".into() };
        assert_eq!(invalid.to_string(), "invalid file name \"x\\u{7}\"");
    }
}
