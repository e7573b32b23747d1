//! From a byte stream to records.

use crate::{MAX_LINE, RecordRef, Stream};

/// Cuts the output of one stream into lines of at most [`MAX_LINE`] bytes.
///
/// Holds the unfinished line between two reads, so memory is bounded whatever the container
/// writes; all pieces of a long line carry the time of its first one.
#[derive(Debug)]
pub struct LineSplitter {
    stream: Stream,
    rest: Vec<u8>,
    /// Time of the line's first piece, when one was already given out.
    begun_ns: Option<i64>,
}

impl LineSplitter {
    /// A splitter for `stream`.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, rest: Vec::new(), begun_ns: None }
    }

    /// Takes `bytes` that were read at `time_ns` and gives `emit` each record that they complete.
    pub fn push(&mut self, mut bytes: &[u8], time_ns: i64, mut emit: impl FnMut(RecordRef<'_>)) {
        while !bytes.is_empty() {
            let room = MAX_LINE - self.rest.len();
            let window = &bytes[..bytes.len().min(room)];
            if let Some(end) = window.iter().position(|&b| b == b'\n') {
                self.give(&window[..end], time_ns, false, &mut emit);
                bytes = &bytes[end + 1..];
            } else if window.len() == room {
                // A newline right behind a full piece ends it: no empty record follows.
                let ends = bytes.get(room) == Some(&b'\n');
                self.give(window, time_ns, !ends, &mut emit);
                bytes = &bytes[room + usize::from(ends)..];
            } else {
                self.rest.extend_from_slice(window);
                return;
            }
        }
    }

    /// The stream is at its end: gives out what stands without a newline, as a partial record.
    pub fn finish(&mut self, time_ns: i64, mut emit: impl FnMut(RecordRef<'_>)) {
        if !self.rest.is_empty() {
            self.give(&[], time_ns, true, &mut emit);
        }
        self.rest = Vec::new();
    }

    fn give(
        &mut self,
        piece: &[u8],
        now_ns: i64,
        partial: bool,
        emit: &mut impl FnMut(RecordRef<'_>),
    ) {
        let time_ns = self.begun_ns.unwrap_or(now_ns);
        self.begun_ns = partial.then_some(time_ns);
        let record = |line| RecordRef { stream: self.stream, time_ns, partial, line };
        if self.rest.is_empty() {
            emit(record(piece));
        } else {
            self.rest.extend_from_slice(piece);
            emit(record(&self.rest));
            self.rest.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Record;

    fn split(chunks: &[&[u8]]) -> Vec<Record> {
        let mut records = Vec::new();
        let mut splitter = LineSplitter::new(Stream::Stdout);
        let mut keep = |r: RecordRef<'_>| {
            records.push(Record {
                stream: r.stream,
                time_ns: r.time_ns,
                partial: r.partial,
                line: r.line.to_vec(),
            });
        };
        for (time, chunk) in (0i64..).zip(chunks) {
            splitter.push(chunk, time, &mut keep);
        }
        splitter.finish(99, &mut keep);
        records
    }

    #[test]
    fn lines_over_reads_and_a_rest_without_newline() {
        let records = split(&[b"a\nb", b"c\n\n", b"rest"]);
        let text: Vec<_> = records.iter().map(|r| (r.line.as_slice(), r.partial)).collect();
        let want: [(&[u8], bool); 4] =
            [(b"a", false), (b"bc", false), (b"", false), (b"rest", true)];
        assert_eq!(text, want);
    }

    #[test]
    fn a_long_line_is_cut_and_keeps_its_time() {
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        let records = split(&[&long, b"\n"]);
        let shape: Vec<_> = records.iter().map(|r| (r.line.len(), r.partial, r.time_ns)).collect();
        assert_eq!(shape, [(MAX_LINE, true, 0), (MAX_LINE, true, 0), (5, false, 0)]);
    }

    #[test]
    fn a_line_of_exactly_one_piece_is_whole() {
        let mut line = vec![b'x'; MAX_LINE];
        line.push(b'\n');
        let records = split(&[&line]);
        assert_eq!(records.len(), 1);
        assert!(!records[0].partial);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(
            // Runs of one byte, so that lines of several records are cheap to make.
            runs in proptest::collection::vec(
                proptest::collection::vec(
                    (prop_oneof![Just(b'\n'), any::<u8>()], 1..20_000usize), 0..6), 0..4),
        ) {
            let chunks: Vec<Vec<u8>> = runs
                .iter()
                .map(|chunk| chunk.iter().flat_map(|&(b, n)| vec![b; if b == b'\n' { n % 3 } else { n }]).collect())
                .collect();
            let slices: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let mut joined = Vec::new();
            for record in split(&slices) {
                prop_assert!(record.line.len() <= MAX_LINE);
                joined.extend_from_slice(&record.line);
                if !record.partial {
                    joined.push(b'\n');
                }
            }
            prop_assert_eq!(joined, chunks.concat());
        }
    }
}
