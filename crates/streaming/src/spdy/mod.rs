//! SPDY/3.1 as Kubernetes uses it: a server's side, many streams over one connection.
//!
//! The only peers are Go's `spdystream` (kubectl, crictl, kubelet's proxy passes it through) and
//! what imitates it. It has no flow control: it neither sends nor heeds windows. So ours is for
//! peers that show they have it, and what bounds memory is a cap on the bytes that wait in all
//! streams of a connection, at which its reader stops.

mod connection;
mod frame;
mod headers;
#[cfg(test)]
pub(crate) mod test_client;
mod window;

pub(crate) use connection::{Incoming, Outlet, connect};

/// What ends a connection.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum ProtocolError {
    /// A control frame of another version than 3.
    #[error("SPDY version {0} is not spoken here")]
    Version(u16),
    /// A control frame that is too long, or not of its type's length.
    #[error("control frame of type {kind} has {length} bytes")]
    Length {
        /// The frame's type.
        kind: u16,
        /// Its length.
        length: usize,
    },
    /// A block of headers that does not inflate, is malformed or too large.
    #[error("malformed header block")]
    Headers,
    /// A stream of the wrong side, or older than one that was opened already.
    #[error("stream {0} cannot be opened")]
    StreamId(u32),
    /// A window that would exceed 2^31-1.
    #[error("window of stream {0} overflows")]
    Window(u32),
    /// More answers are due than the peer takes.
    #[error("the peer asks faster than it reads")]
    Flood,
}
