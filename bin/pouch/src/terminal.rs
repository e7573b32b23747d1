//! The user's terminal: raw mode, silence and their undoing, size, detach keys.
//!
//! Both must end on every way out of the process. [`RawMode`] and [`NoEcho`] undo them when they
//! are dropped; for a panic, which in a release build runs no destructors, the hook that
//! [`install_panic_hook`] sets does it.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use pouch_client::TerminalSize;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::Failure;

static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person types.
pub(crate) fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Whether a person reads.
pub(crate) fn stdout_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Rows and columns, if stdout or stdin is a terminal that knows them.
pub(crate) fn size() -> Option<TerminalSize> {
    let size =
        tcgetwinsize(rustix::stdio::stdout()).or_else(|_| tcgetwinsize(rustix::stdio::stdin()));
    size.ok()
        .map(|size| TerminalSize { rows: size.ws_row, columns: size.ws_col })
        .filter(|size| size.rows > 0 && size.columns > 0)
}

/// Raw mode of stdin until dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal pass every key on; `None` when stdin is none.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let fail = |error: rustix::io::Errno| {
            Failure::new(format!("cannot set the terminal to raw mode: {error}"))
        };
        let original = tcgetattr(rustix::stdio::stdin()).map_err(fail)?;
        let mut raw = original.clone();
        raw.make_raw();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        let guard = Self(());
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).map_err(fail)?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// What is typed is not shown, until dropped.
#[derive(Debug)]
pub(crate) struct NoEcho(());

impl NoEcho {
    /// Stops the echo of stdin, which is a terminal.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let fail = |error: rustix::io::Errno| {
            Failure::new(format!("cannot keep the terminal from showing a password: {error}"))
        };
        let original = tcgetattr(rustix::stdio::stdin()).map_err(fail)?;
        let mut silent = original.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(original);
        let guard = Self(());
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Flush, &silent).map_err(fail)?;
        Ok(guard)
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if let Some(original) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing is left to do when the terminal has gone.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &original);
    }
}

/// Leaves raw mode before a panic is reported.
pub(crate) fn install_panic_hook() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}

/// The key sequence that detaches; `ctrl-p,ctrl-q` when nothing else is set.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>, Failure> {
    let text = if text.is_empty() { "ctrl-p,ctrl-q" } else { text };
    text.split(',')
        .map(|key| {
            let lower = key.to_lowercase();
            match (lower.strip_prefix("ctrl-").map(str::as_bytes), key.as_bytes()) {
                (Some([letter @ b'a'..=b'z']), _) => Some(letter - b'a' + 1),
                (Some(b"@"), _) => Some(0),
                (Some(b"["), _) => Some(27),
                (Some(b"\\"), _) => Some(28),
                (Some(b"]"), _) => Some(29),
                (Some(b"^"), _) => Some(30),
                (Some(b"_"), _) => Some(31),
                (None, [key]) => Some(*key),
                _ => None,
            }
        })
        .collect::<Option<Vec<u8>>>()
        .ok_or_else(|| {
            Failure::new(format!(
                "invalid detach keys {text:?}: want a list as ctrl-p,ctrl-q of letters and ctrl-<a-z@[\\]^_>"
            ))
        })
}

/// Finds the detach sequence in what is typed.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    pub(crate) const fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What of `typed` goes on, and whether the sequence is complete. A beginning of the sequence
    /// is held back until the next key tells.
    pub(crate) fn pass(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(typed.len() + self.matched);
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(byte) && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                out.push(*byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_sequences() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(detach_keys("a,ctrl-@,CTRL-C,ctrl-]").unwrap(), [b'a', 0, 3, 29]);
        for bad in ["ctrl-", "ctrl-1", "ab", "a,,b", "é"] {
            assert!(detach_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_otherwise_passed_on() {
        let mut filter = DetachFilter::new(vec![16, 17]);
        assert_eq!(filter.pass(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(filter.pass(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(filter.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(filter.pass(b"\x11rest"), (Vec::new(), true));
        let mut single = DetachFilter::new(vec![b'q']);
        assert_eq!(single.pass(b"xq"), (b"x".to_vec(), true));
    }
}
