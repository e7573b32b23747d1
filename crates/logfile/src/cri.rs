//! Kubernetes' format: `<time> stdout|stderr P|F <bytes>` and a newline.
//!
//! kubelet and log shippers read these files directly. `P` marks a piece of a line that goes on in
//! the stream's next record, and, as containerd and CRI-O have it, also what stood without a
//! newline when the stream ended. The bytes are the container's own, whatever they are. Tags may
//! come to be several, with colons between them, of which the first is this one.
//! <https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md>

use crate::{Decoded, Record, RecordRef, Stream};

pub(crate) fn encode(record: RecordRef<'_>, stamp: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(stamp.as_bytes());
    out.push(b' ');
    out.extend_from_slice(record.stream.as_str().as_bytes());
    out.extend_from_slice(if record.partial { b" P " } else { b" F " });
    out.extend_from_slice(record.line);
    out.push(b'\n');
}

pub(crate) fn decode(buffer: &[u8]) -> Decoded {
    crate::decode_line(buffer, parse)
}

fn parse(line: &[u8]) -> Option<Record> {
    let mut fields = line.splitn(4, |&b| b == b' ');
    let mut text = || std::str::from_utf8(fields.next()?).ok();
    let time: jiff::Timestamp = text()?.parse().ok()?;
    let stream = match text()? {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let partial = match text()?.split(':').next()? {
        "P" => true,
        "F" => false,
        _ => return None,
    };
    Some(Record {
        stream,
        time_ns: i64::try_from(time.as_nanosecond()).ok()?,
        partial,
        line: fields.next()?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::{Driver, Encoder, MAX_ENCODED};

    fn encoded(record: RecordRef<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        Encoder::new(Driver::Cri, &BTreeMap::new()).encode(record, &mut out);
        out
    }

    #[test]
    fn writes_what_kubelet_reads() {
        let time_ns = 1_767_323_045_123_456_789;
        let whole = RecordRef { stream: Stream::Stdout, time_ns, partial: false, line: b"a b" };
        assert_eq!(encoded(whole), b"2026-01-02T03:04:05.123456789Z stdout F a b\n");
        let piece = RecordRef { stream: Stream::Stderr, time_ns, partial: true, line: b"" };
        assert_eq!(encoded(piece), b"2026-01-02T03:04:05.123456789Z stderr P \n");
    }

    #[test]
    fn reads_what_others_write() {
        let line = b"2026-01-02T04:04:05.5+01:00 stderr F:later x\n";
        let Decoded::Record(record, used) = decode(line) else { panic!("no record") };
        assert_eq!(used, line.len());
        assert_eq!((record.stream, record.partial), (Stream::Stderr, false));
        assert_eq!((record.time_ns, &*record.line), (1_767_323_045_500_000_000, &b"x"[..]));
    }

    #[test]
    fn skips_what_is_no_record() {
        for bad in [
            &b"\n"[..],
            b"2026-01-02T03:04:05Z stdout F\n",
            b"2026-01-02T03:04:05Z stdlog F x\n",
            b"2026-01-02T03:04:05Z stdout X x\n",
            b"now stdout F x\n",
            b"torn2026-01-02T03:04:05Z stdout F x\n",
        ] {
            assert_eq!(decode(bad), Decoded::Skip(bad.len()), "{}", String::from_utf8_lossy(bad));
        }
        assert_eq!(decode(b"2026-01-02T03:04:05Z stdout F x"), Decoded::Incomplete);
        assert_eq!(decode(&vec![b'x'; MAX_ENCODED + 1]), Decoded::Skip(MAX_ENCODED + 1));
    }

    proptest! {
        #[test]
        fn any_bytes_round_trip(
            line in proptest::collection::vec(any::<u8>().prop_filter("newline", |b| *b != b'\n'), 0..300),
            partial: bool, time_ns in 0..i64::MAX,
        ) {
            let record = Record { stream: Stream::Stdout, time_ns, partial, line };
            let mut out = encoded(record.as_ref());
            let used = out.len();
            out.extend_from_slice(b"next");
            prop_assert_eq!(decode(&out), Decoded::Record(record, used));
        }

        #[test]
        fn decoding_garbage_does_not_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
