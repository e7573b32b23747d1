//! Log files of containers: three formats, size rotation, reading and following.
//!
//! The shim writes ([`Writer`]), the daemon reads ([`Reader`]); they share nothing but the files.
//! The current file is `path`, older ones are `path.1` (newest) to `path.N`. A file changes name by
//! rotation but never changes content after it, so a reader that holds it open finishes it and
//! goes on with its successor: no line is lost or repeated, except those of a file that rotation
//! removed before a slow reader came to it. Kubernetes' logs are rotated by kubelet instead, which
//! renames the file and has it opened anew.
//!
//! A *record* is one line without its newline, or a piece of at most [`MAX_LINE`] bytes of a longer
//! one. Everything here is synchronous and works on regular files.

#![forbid(unsafe_code)]

mod chain;
mod cri;
mod encode;
mod error;
mod json;
mod lines;
mod local;
mod reader;
mod tail;
mod writer;

pub use encode::Encoder;
pub use error::LogError;
pub use lines::LineSplitter;
pub use reader::{Extent, ReadOptions, Reader};
pub use writer::{Rotation, Writer};

/// Bytes of a line in one record; a longer line becomes several records, all but the last of them
/// [partial](Record::partial).
pub const MAX_LINE: usize = 16 * 1024;

/// Bytes that one encoded record may take. The widest escape makes 6 bytes of 1, to which
/// attributes and punctuation are added; a longer one is not ours and is skipped.
pub(crate) const MAX_ENCODED: usize = 1024 * 1024;

/// The format of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// One JSON object per line, as Docker's `json-file`.
    JsonFile,
    /// Length-framed binary records, about a third of the size of the JSON.
    Local,
    /// One line of text per record, as kubelet reads it; never rotated by its writer.
    Cri,
}

/// Where a record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output; all output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A record as it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it came from.
    pub stream: Stream,
    /// Nanoseconds since the epoch at which it was read from the container.
    pub time_ns: i64,
    /// The line goes on in this stream's next record, or the stream ended without a newline.
    pub partial: bool,
    /// The bytes, without the newline.
    pub line: Vec<u8>,
}

impl Record {
    /// A view for encoding.
    #[must_use]
    pub fn as_ref(&self) -> RecordRef<'_> {
        RecordRef {
            stream: self.stream,
            time_ns: self.time_ns,
            partial: self.partial,
            line: &self.line,
        }
    }
}

/// A record as it is written; fields as in [`Record`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// Where it came from.
    pub stream: Stream,
    /// Nanoseconds since the epoch.
    pub time_ns: i64,
    /// The line goes on in the next record.
    pub partial: bool,
    /// The bytes, without the newline; at most [`MAX_LINE`].
    pub line: &'a [u8],
}

/// What a decoder made of the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A record, and the bytes that it took.
    Record(Record, usize),
    /// Bytes that are no record (a torn write, foreign content), to be stepped over.
    Skip(usize),
    /// The buffer ends inside a record.
    Incomplete,
    /// Nothing after this point can be trusted: the framing is lost.
    Lost,
}

/// The record in the line of text at the front of `buffer`.
pub(crate) fn decode_line(buffer: &[u8], parse: impl FnOnce(&[u8]) -> Option<Record>) -> Decoded {
    let Some(end) = buffer.iter().position(|&b| b == b'\n') else {
        // A line without end that long is not ours; its rest is skipped at the next newline.
        return if buffer.len() > MAX_ENCODED {
            Decoded::Skip(buffer.len())
        } else {
            Decoded::Incomplete
        };
    };
    let used = end + 1;
    parse(&buffer[..end]).map_or(Decoded::Skip(used), |record| Decoded::Record(record, used))
}
