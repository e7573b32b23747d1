//! The tar formats that images and `cp` use: POSIX pax and ustar, GNU (long names, old and new
//! sparse files) and v7.
//!
//! Written here and not taken from a library because this parser is the door that every foreign
//! byte passes: each length has a cap before it is believed, and what is not understood is refused
//! by name rather than skipped.

mod pax;
mod read;
mod sparse;
mod write;

pub(crate) use read::TarReader;
pub(crate) use sparse::Segment;
pub(crate) use write::TarWriter;

use pouch_rootfd::FileTime;

use crate::limits::{EXTENSION, EXTENSIONS, XATTR_NAME, XATTR_VALUE, XATTRS};

/// Everything in a tar is a multiple of this.
pub(crate) const BLOCK: usize = 512;

/// What an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// One entry with everything that its extension headers say.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// As in the archive, not cleaned.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    /// 07777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: FileTime,
    /// Logical length of a file.
    pub(crate) size: u64,
    /// Target of a hard or symbolic link.
    pub(crate) link: Vec<u8>,
    /// Major and minor number.
    pub(crate) device: (u32, u32),
    /// Extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the stored bytes of a sparse file belong; `None` when the file is stored whole.
    pub(crate) sparse: Option<Vec<Segment>>,
}

/// Where in an archive something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the entry of that name.
    In(Vec<u8>),
    /// Behind the entry of that name: the next one's cannot be read.
    Behind(Vec<u8>),
    /// Before any entry.
    Start,
}

/// Why the next entry cannot be had, and where that is.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) place: Place,
    pub(crate) error: TarError,
}

/// An archive that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error("read archive")]
    Io(#[from] std::io::Error),
    #[error("archive ends within an entry")]
    Truncated,
    #[error("damaged archive: header checksum does not match")]
    Checksum,
    #[error("damaged archive: bad {0} field")]
    Field(&'static str),
    #[error("damaged archive: bad extended header record")]
    Pax,
    #[error("damaged archive: bad value of {0:?} in an extended header")]
    Record(String),
    #[error("extended header of {0} bytes, at most {EXTENSION} are read")]
    HeaderTooLong(u64),
    #[error("more than {EXTENSIONS} extended headers")]
    TooManyHeaders,
    #[error("more than {XATTRS} extended attributes")]
    TooManyXattrs,
    #[error("extended attribute whose name has {0} bytes, at most {XATTR_NAME} are possible")]
    XattrName(usize),
    #[error("extended attribute {name:?} of {length} bytes, at most {XATTR_VALUE} are possible")]
    XattrValue { name: String, length: usize },
    #[error("extended attribute \"security.capability\" without a value")]
    EmptyCapability,
    #[error("no device has the number {0}:{1}")]
    Device(u32, u32),
    #[error("damaged archive: sparse map does not fit the file")]
    Sparse,
    #[error("entries of type {0:?} are not supported")]
    UnknownType(char),
    #[error("a file name in the archive contains a NUL byte")]
    NulInName,
}
