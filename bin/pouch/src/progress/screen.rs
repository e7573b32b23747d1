//! Painting on a terminal: lines that stay, and below them a few that are painted over.

use rustix::termios::tcgetwinsize;

use super::{Stream, write};
use crate::failure::Failure;

/// Of a terminal that does not tell its size.
const SIZE: (usize, usize) = (24, 80);

/// See the module. The cursor is always below the last line.
#[derive(Debug)]
pub(super) struct Screen {
    stream: Stream,
    /// Lines that the next picture paints over.
    painted: usize,
}

impl Screen {
    pub(super) const fn new(stream: Stream) -> Self {
        Self { stream, painted: 0 }
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = match self.stream {
            Stream::Stdout => tcgetwinsize(rustix::stdio::stdout()),
            Stream::Stderr => tcgetwinsize(rustix::stdio::stderr()),
        };
        match size {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => {
                (usize::from(size.ws_row), usize::from(size.ws_col))
            }
            _ => SIZE,
        }
    }

    /// Writes `lines`, which stay, and below them `frame`, which the next picture replaces.
    pub(super) fn paint(&mut self, lines: &[String], frame: &[String]) -> Result<(), Failure> {
        if lines.is_empty() && frame.is_empty() && self.painted == 0 {
            return Ok(());
        }
        let mut text = String::new();
        if self.painted > 0 {
            text.push_str(&format!("\x1b[{}A\r", self.painted));
        }
        for line in lines.iter().chain(frame) {
            text.push_str(line);
            // What is left of a longer line.
            text.push_str("\x1b[K\n");
        }
        text.push_str("\x1b[J");
        self.painted = frame.len();
        write(&text, self.stream)
    }
}
