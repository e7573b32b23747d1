//! Replies that do not end at once: raw and framed bytes, lines of JSON, hijacked connections.

pub(crate) mod detach;
pub(crate) mod frame;
pub(crate) mod hijack;
pub(crate) mod ndjson;

/// Media type of bytes as a terminal writes them.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
/// Media type of framed bytes, told apart since API 1.42.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// The media type of a stream, which older clients know only as raw.
pub(crate) const fn media_type(tty: Framing, version: crate::http::ApiVersion) -> &'static str {
    match tty {
        Framing::Multiplexed if !version.below(42) => MULTIPLEXED,
        Framing::Raw | Framing::Multiplexed => RAW,
    }
}

/// How the output of a process is put on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As it comes: there is a terminal.
    Raw,
    /// With a header per chunk that tells standard output from standard error.
    Multiplexed,
}

impl Framing {
    /// By whether the process has a terminal.
    pub(crate) const fn of_tty(tty: bool) -> Self {
        if tty { Self::Raw } else { Self::Multiplexed }
    }
}
