//! Docker's stream frames: `[stream, 0, 0, 0, length as u32 big endian]` and the bytes; and the
//! prefixes of log lines.

use jiff::Timestamp;

/// Bytes of a frame's header.
pub(crate) const HEADER: usize = 8;

/// Appends one frame. Longer pieces than a length field can say are split.
pub(crate) fn push(out: &mut Vec<u8>, stream: u8, bytes: &[u8]) {
    for piece in bytes.chunks(u32::MAX as usize) {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        out.reserve(HEADER + piece.len());
        out.extend_from_slice(&[stream, 0, 0, 0]);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(piece);
    }
}

/// A timestamp as `docker logs -t` prints it: always nine digits, UTC.
pub(crate) fn timestamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%9fZ").to_string()
}

/// `key=value` pairs as `docker logs --details` prints them: sorted, comma between, and the
/// separators in them escaped as in a query.
pub(crate) fn details(attributes: &[(String, String)]) -> String {
    let mut pairs: Vec<String> = attributes
        .iter()
        .map(|(key, value)| format!("{}={}", escape(key), escape(value)))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// Form encoding.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let mut out = Vec::new();
        push(&mut out, 1, b"hi\n");
        push(&mut out, 2, b"");
        push(&mut out, 2, b"x");
        assert_eq!(out, b"\x01\0\0\0\0\0\0\x03hi\n\x02\0\0\0\0\0\0\x01x");
    }

    #[test]
    fn prefixes() {
        let time = Timestamp::new(1_700_000_000, 1_000).unwrap();
        assert_eq!(timestamp(time), "2023-11-14T22:13:20.000001000Z");
        let pairs = [("b".to_owned(), "x y,z".to_owned()), ("a".to_owned(), "1".to_owned())];
        assert_eq!(details(&pairs), "a=1,b=x+y%2Cz");
    }
}
