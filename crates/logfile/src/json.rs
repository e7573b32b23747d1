//! The `json-file` format: `{"log":"line\n","stream":"stdout","time":"…"}` and a newline.
//!
//! Byte for byte what dockerd writes, because log shippers read these files directly: HTML
//! characters and U+2028/9 escaped, each invalid byte of UTF-8 as `\ufffd`, trailing zeros of the
//! time dropped, a partial record without the `\n` in its text.
//! <https://docs.docker.com/engine/logging/drivers/json-file/>

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Decoded, Record, RecordRef, Stream};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

/// RFC 3339 in UTC without trailing zeros of the fraction.
pub(crate) fn stamp(time_ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time_ns))
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// The `attrs` member with its comma; empty when there are none.
pub(crate) fn attrs(attrs: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    if attrs.is_empty() {
        return out;
    }
    out.extend_from_slice(b"\"attrs\":{");
    for (index, (key, value)) in attrs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.push(b'"');
        escape(key.as_bytes(), &mut out);
        out.extend_from_slice(b"\":\"");
        escape(value.as_bytes(), &mut out);
        out.push(b'"');
    }
    out.extend_from_slice(b"},");
    out
}

pub(crate) fn encode(record: RecordRef<'_>, attrs: &[u8], stamp: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(record.line, out);
    if !record.partial {
        out.extend_from_slice(b"\\n");
    }
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(record.stream.as_str().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(attrs);
    out.extend_from_slice(b"\"time\":\"");
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Bytes that stand for themselves inside a JSON string here.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20u8;
    while byte < 0x80 {
        plain[byte as usize] = !matches!(byte, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    plain
};

const HEX: &[u8; 16] = b"0123456789abcdef";

fn escape(mut text: &[u8], out: &mut Vec<u8>) {
    while !text.is_empty() {
        let plain = text.iter().position(|&b| !PLAIN[usize::from(b)]).unwrap_or(text.len());
        out.extend_from_slice(&text[..plain]);
        text = &text[plain..];
        match text.first() {
            None => return,
            Some(&byte) if byte < 0x80 => {
                escape_ascii(byte, out);
                text = &text[1..];
            }
            Some(_) => text = escape_wide(text, out),
        }
    }
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        _ => {
            let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
        }
    }
}

/// Writes the run of multi-byte characters, or one invalid byte, at the front of `text`; returns
/// the rest.
fn escape_wide<'a>(text: &'a [u8], out: &mut Vec<u8>) -> &'a [u8] {
    let run = text.iter().position(u8::is_ascii).unwrap_or(text.len());
    let valid = match std::str::from_utf8(&text[..run]) {
        Ok(valid) => valid,
        Err(error) => match std::str::from_utf8(&text[..error.valid_up_to()]) {
            Ok(valid) if !valid.is_empty() => valid,
            _ => {
                out.extend_from_slice(b"\\ufffd");
                return &text[1..];
            }
        },
    };
    for character in valid.chars() {
        match character {
            '\u{2028}' => out.extend_from_slice(b"\\u2028"),
            '\u{2029}' => out.extend_from_slice(b"\\u2029"),
            _ => out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    &text[valid.len()..]
}

pub(crate) fn decode(buffer: &[u8]) -> Decoded {
    crate::decode_line(buffer, parse)
}

fn parse(line: &[u8]) -> Option<Record> {
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let time: jiff::Timestamp = line.time.parse().ok()?;
    let text = line.log.strip_suffix('\n');
    Some(Record {
        stream: if line.stream == "stderr" { Stream::Stderr } else { Stream::Stdout },
        time_ns: i64::try_from(time.as_nanosecond()).ok()?,
        partial: text.is_none(),
        line: text.unwrap_or(&line.log).as_bytes().to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Driver, Encoder, MAX_ENCODED};

    fn encoded(line: &[u8], partial: bool) -> String {
        let mut out = Vec::new();
        let time_ns = 1_767_323_045_123_456_789;
        let record = RecordRef { stream: Stream::Stdout, time_ns, partial, line };
        Encoder::new(Driver::JsonFile, &BTreeMap::new()).encode(record, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_what_docker_writes() {
        assert_eq!(
            encoded(b"hello", false),
            "{\"log\":\"hello\\n\",\"stream\":\"stdout\",\
             \"time\":\"2026-01-02T03:04:05.123456789Z\"}\n"
        );
        let log = |line: &[u8]| {
            let text = encoded(line, true);
            let end = text.find("\",\"stream\"").unwrap();
            text["{\"log\":\"".len()..end].to_owned()
        };
        assert_eq!(
            log(b"<a>&\"\\\t\r\x00\x7f"),
            "\\u003ca\\u003e\\u0026\\\"\\\\\\u0009\\r\\u0000\x7f"
        );
        assert_eq!(log("\u{2028}\u{2029}ü€😀".as_bytes()), "\\u2028\\u2029ü€😀");
        assert_eq!(log(b"a\xff\xfeb\xc3"), "a\\ufffd\\ufffdb\\ufffd");
        assert_eq!(log("é\u{2028}".as_bytes()), "é\\u2028");
    }

    #[test]
    fn trims_zeros_of_the_fraction() {
        assert_eq!(stamp(1_767_323_045_120_000_000), "2026-01-02T03:04:05.12Z");
        assert_eq!(stamp(1_767_323_045_000_000_000), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn attributes_stand_between_stream_and_time() {
        let attrs = BTreeMap::from([("a".to_owned(), "<1>".to_owned())]);
        let mut out = Vec::new();
        let record = RecordRef { stream: Stream::Stderr, time_ns: 0, partial: false, line: b"x" };
        Encoder::new(Driver::JsonFile, &attrs).encode(record, &mut out);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "{\"log\":\"x\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"\\u003c1\\u003e\"},\
             \"time\":\"1970-01-01T00:00:00Z\"}\n"
        );
        assert!(matches!(decode(&out), Decoded::Record(..)));
    }

    #[test]
    fn skips_what_is_no_record() {
        assert_eq!(decode(b"{\"log\":\"torn\n{}"), Decoded::Skip(13));
        assert_eq!(decode(b"{\"log\":"), Decoded::Incomplete);
        assert_eq!(decode(&vec![b'x'; MAX_ENCODED + 1]), Decoded::Skip(MAX_ENCODED + 1));
    }

    proptest! {
        #[test]
        fn text_round_trips(line in "[^\n]{0,200}", partial: bool, time_ns in 0..i64::MAX) {
            let record = Record {
                stream: Stream::Stderr, time_ns, partial, line: line.into_bytes(),
            };
            let mut out = Vec::new();
            Encoder::new(Driver::JsonFile, &BTreeMap::new()).encode(record.as_ref(), &mut out);
            let used = out.len();
            out.extend_from_slice(b"next");
            prop_assert_eq!(decode(&out), Decoded::Record(record, used));
        }

        #[test]
        fn any_bytes_make_one_line_of_json(line: Vec<u8>) {
            let text = encoded(&line, false);
            prop_assert_eq!(text.matches('\n').count(), 1);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            // Our own invalid-byte rule is one mark per byte, the library's one per run.
            if let Ok(valid) = std::str::from_utf8(&line) {
                prop_assert_eq!(value["log"].as_str().unwrap(), format!("{valid}\n"));
            }
        }

        #[test]
        fn decoding_garbage_does_not_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
