//! The key sequence that detaches a client from a terminal.
//!
//! The bytes of a sequence that has begun are held back until it is complete or broken, so that a
//! process never sees a part of it. A broken one is passed on without losing a second beginning
//! inside it.

use crate::http::{ApiError, ApiResult};

/// A sequence of keys, not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

/// Longer sequences cannot be meant.
const KEYS_MAX: usize = 32;

impl Default for DetachKeys {
    /// ctrl-p, ctrl-q.
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl DetachKeys {
    /// Parses `ctrl-p,ctrl-q`, `a,ctrl-@`; nothing takes the default.
    ///
    /// # Errors
    /// 400 naming the text.
    pub(crate) fn parse(text: &str) -> ApiResult<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
        match keys {
            Some(keys) if keys.len() <= KEYS_MAX => Ok(Self(keys)),
            _ => {
                let shown: String = text.chars().take(80).collect();
                Err(ApiError::invalid(format!("Invalid detach keys ({shown}) provided")))
            }
        }
    }
}

fn key(text: &str) -> Option<u8> {
    if let &[single] = text.as_bytes() {
        return single.is_ascii().then_some(single);
    }
    if text == "DEL" {
        return Some(127);
    }
    match text.strip_prefix("ctrl-")?.as_bytes() {
        &[letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        b"@" => Some(0),
        b"[" => Some(27),
        b"\\" => Some(28),
        b"]" => Some(29),
        b"^" => Some(30),
        b"_" => Some(31),
        _ => None,
    }
}

/// Looks for the sequence in what a client types.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    /// How many keys of the sequence have been seen and held back.
    held: usize,
}

/// What a piece of input came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// Bytes for the process; may be none.
    Pass(Vec<u8>),
    /// The sequence is complete; these came before it.
    Detach(Vec<u8>),
}

impl DetachFilter {
    pub(crate) fn new(keys: DetachKeys) -> Self {
        Self { keys: keys.0, held: 0 }
    }

    /// Takes a piece of input.
    pub(crate) fn feed(&mut self, input: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(input.len() + self.held);
        for &byte in input {
            // Let go of held keys until the rest and this byte begin the sequence again.
            while self.held > 0 && self.keys[self.held] != byte {
                let keep = self.border(self.held);
                pass.extend_from_slice(&self.keys[..self.held - keep]);
                self.held = keep;
            }
            if self.keys[self.held] != byte {
                pass.push(byte);
                continue;
            }
            self.held += 1;
            if self.held == self.keys.len() {
                self.held = 0;
                return Typed::Detach(pass);
            }
        }
        Typed::Pass(pass)
    }

    /// The held keys, at end of input.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let held = self.keys[..self.held].to_vec();
        self.held = 0;
        held
    }

    /// Length of the longest proper prefix of the sequence that ends the first `len` keys.
    fn border(&self, len: usize) -> usize {
        let seen = &self.keys[..len];
        (1..len).rev().find(|&k| seen.ends_with(&self.keys[..k])).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<u8> {
        DetachKeys::parse(text).unwrap().0
    }

    #[test]
    fn parses() {
        assert_eq!(keys(""), [16, 17]);
        assert_eq!(keys("ctrl-p,ctrl-q"), [16, 17]);
        assert_eq!(keys("a"), [b'a']);
        assert_eq!(
            keys("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_,DEL"),
            [0, 27, 28, 29, 30, 31, 127]
        );
        for bad in ["ctrl-", "ctrl-A", "ctrl-1", "shift-a", "ab", "a,", ",", "é", &"a,".repeat(40)]
        {
            let error = DetachKeys::parse(bad).unwrap_err();
            assert!(error.message().starts_with("Invalid detach keys ("), "{bad}");
        }
    }

    /// Feeds the pieces; the bytes passed on and whether it detached.
    fn run(sequence: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut filter = DetachFilter::new(DetachKeys::parse(sequence).unwrap());
        let mut out = Vec::new();
        for piece in pieces {
            match filter.feed(piece) {
                Typed::Pass(bytes) => out.extend(bytes),
                Typed::Detach(bytes) => {
                    out.extend(bytes);
                    return (out, true);
                }
            }
        }
        out.extend(filter.finish());
        (out, false)
    }

    #[test]
    fn detaches_across_pieces() {
        assert_eq!(run("", &[b"ls\n\x10", b"\x11rest"]), (b"ls\n".to_vec(), true));
        assert_eq!(run("", &[b"\x10x\x11"]), (b"\x10x\x11".to_vec(), false));
        assert_eq!(run("", &[b"\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(run("", &[b"\x10"]), (b"\x10".to_vec(), false));
        assert_eq!(run("a", &[b"xya"]), (b"xy".to_vec(), true));
    }

    #[test]
    fn a_beginning_inside_a_broken_sequence_counts() {
        assert_eq!(run("a,a,b", &[b"aaab"]), (b"a".to_vec(), true));
        assert_eq!(run("a,b,a,c", &[b"ab", b"ab", b"ac"]), (b"ab".to_vec(), true));
        assert_eq!(run("a,b,a,c", &[b"abab"]), (b"abab".to_vec(), false));
    }

    #[test]
    fn held_keys_are_not_passed_early() {
        let mut filter = DetachFilter::new(DetachKeys::default());
        assert_eq!(filter.feed(b"a\x10"), Typed::Pass(b"a".to_vec()));
        assert_eq!(filter.feed(b"b"), Typed::Pass(b"\x10b".to_vec()));
        assert_eq!(filter.finish(), b"");
    }
}
