//! The `local` format: a frame per record.
//!
//! ```text
//! u32be length | u8 stream | u8 flags | i64be unix nanoseconds | bytes | u32be length
//! ```
//!
//! `length` counts what stands between its two copies; the second one lets a reader walk
//! backwards. Stream is 1 or 2; bit 0 of the flags marks a partial record.

use crate::{Decoded, MAX_LINE, Record, RecordRef, Stream};

const HEADER: usize = 10;
const PARTIAL: u8 = 1;

/// Bytes around the payload.
pub(crate) const FRAMING: usize = 8;

pub(crate) fn encode(record: RecordRef<'_>, out: &mut Vec<u8>) {
    let line = &record.line[..record.line.len().min(MAX_LINE)];
    // At most MAX_LINE + HEADER, so the conversion cannot fail.
    let length = u32::try_from(HEADER + line.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length);
    out.push(match record.stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    });
    out.push(if record.partial { PARTIAL } else { 0 });
    out.extend_from_slice(&record.time_ns.to_be_bytes());
    out.extend_from_slice(line);
    out.extend_from_slice(&length);
}

/// The payload's length, if `bytes` begin (or end) with a plausible one.
pub(crate) fn length(bytes: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*bytes.first_chunk()?);
    usize::try_from(length).ok().filter(|n| (HEADER..=HEADER + MAX_LINE).contains(n))
}

pub(crate) fn decode(buffer: &[u8]) -> Decoded {
    if buffer.len() < 4 {
        return Decoded::Incomplete;
    }
    let Some(length) = length(buffer) else {
        return Decoded::Lost;
    };
    let Some(frame) = buffer.get(..length + FRAMING) else {
        return Decoded::Incomplete;
    };
    if frame[..4] != frame[4 + length..] {
        return Decoded::Lost;
    }
    let payload = &frame[4..4 + length];
    let (header, line) = payload.split_at(HEADER);
    let stream = match header[0] {
        1 => Stream::Stdout,
        2 => Stream::Stderr,
        _ => return Decoded::Skip(frame.len()),
    };
    let mut time = [0; 8];
    time.copy_from_slice(&header[2..]);
    let record = Record {
        stream,
        time_ns: i64::from_be_bytes(time),
        partial: header[1] & PARTIAL != 0,
        line: line.to_vec(),
    };
    Decoded::Record(record, frame.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_record_round_trips(
            line in proptest::collection::vec(any::<u8>(), 0..300),
            partial: bool, err: bool, time_ns: i64,
        ) {
            let stream = if err { Stream::Stderr } else { Stream::Stdout };
            let record = Record { stream, time_ns, partial, line };
            let mut out = Vec::new();
            encode(record.as_ref(), &mut out);
            for cut in 0..out.len() {
                prop_assert_eq!(decode(&out[..cut]), Decoded::Incomplete);
            }
            let used = out.len();
            out.push(0);
            prop_assert_eq!(decode(&out), Decoded::Record(record, used));
        }

        #[test]
        fn decoding_garbage_does_not_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn implausible_lengths_lose_the_framing() {
        assert_eq!(decode(&[0xff; 64]), Decoded::Lost);
        assert_eq!(decode(&[0; 64]), Decoded::Lost);
    }
}
