//! Writing to the user: a reader that has gone is the end, not a crash.

use std::io::Write as _;

use crate::failure::{Failure, plain};

/// What a shell reports for a program that died of SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// Prints `text` to stdout.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| broken(&error))
}

/// Prints `text` and a line end to stdout.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    print(&format!("{text}\n"))
}

/// Prints `text` and a line end to stderr; when that fails nobody is there to be told.
pub(crate) fn note(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// The failure of a write to stdout or stderr.
pub(crate) fn broken(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Failure::silent(BROKEN_PIPE)
    } else {
        Failure::new(format!("cannot write the output: {}", plain(error)))
    }
}
