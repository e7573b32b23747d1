//! A blob on its way: one stream of bytes for its receiver, whatever happens to the sources.
//!
//! A source that breaks off, falls silent or is too slow is left, and the next goes on at the same
//! offset. The receiver hashes; when the digest is wrong in the end, [`crate::Repository::distrust`]
//! takes those that gave bytes out of the game.
//!
//! A big blob comes in several ranges at once, each with its own sources, and is put together in
//! order: a range waits in a bounded queue until its turn.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use pouch_types::Digest;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, StatusCode};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::body::Body;
use crate::document::Descriptor;
use crate::error::RegistryError;
use crate::rounds::{Fault, Haste, Turn, Want};
use crate::session::{Ask, Session, passed_over};
use crate::source::Kind;

/// Bytes after which a source that broke off has made good: the count of attempts begins anew.
const PROGRESS: u64 = 16 << 10;
/// Chunks of a range that wait for their turn. A chunk is what one read of a socket gives, and all
/// of them together are no more than the range.
const QUEUE: usize = 1024;

/// What the reader's first request found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ranges {
    /// The source serves ranges.
    Served,
    /// It sends everything, or its ranges are better not used at once.
    Whole,
}

/// A part of a blob from whoever has it.
#[derive(Debug)]
struct Reader {
    session: Arc<Session>,
    digest: Digest,
    /// Of the whole blob.
    size: u64,
    /// Offset of the next byte.
    position: u64,
    /// Offset after the last byte of this part.
    end: u64,
    open: Option<Open>,
    /// Breaks without progress since.
    failures: u32,
    /// Where the last break was.
    mark: u64,
}

#[derive(Debug)]
struct Open {
    body: Body,
    turn: Turn,
    /// Bytes before the position, of a source that serves no ranges.
    skip: u64,
    ranges: Ranges,
    /// Some of its bytes have gone to the receiver.
    gave: bool,
}

impl Reader {
    fn new(session: Arc<Session>, digest: Digest, size: u64, position: u64, end: u64) -> Self {
        Self { session, digest, size, position, end, open: None, failures: 0, mark: position }
    }

    /// Finds a source that answers.
    async fn open(&mut self) -> Result<(), RegistryError> {
        if self.open.is_some() || self.position >= self.end {
            return Ok(());
        }
        let mut headers = HeaderMap::new();
        let range = if self.end < self.size {
            Some(format!("bytes={}-{}", self.position, self.end - 1))
        } else if self.position > 0 {
            Some(format!("bytes={}-", self.position))
        } else {
            None
        };
        if let Some(range) = range.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(RANGE, range);
        }
        let path = format!("blobs/{}", self.digest);
        let want = Want::Blob(self.digest);
        let ask = Ask { method: Method::GET, path: &path, headers, want };
        let session = Arc::clone(&self.session);
        let mut rounds = session.rounds(want);
        loop {
            let turn = rounds.next().await?;
            let outcome = session.exchange(turn, &ask).await;
            match outcome.and_then(|body| self.accept(turn, body).map_err(Fault::from)) {
                Ok(open) => {
                    self.open = Some(open);
                    return Ok(());
                }
                Err(fault) => rounds.failed(turn, fault)?,
            }
        }
    }

    /// Whether an answer is about the bytes that were asked for.
    fn accept(&self, turn: Turn, body: Body) -> Result<Open, RegistryError> {
        let response = body.response();
        let length = body.length();
        let confused =
            |why: &str| RegistryError::Protocol { host: body.host(), why: why.to_owned() };
        let too_large = RegistryError::TooLarge { what: "blob", limit: self.size };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE).and_then(parse_range);
            let fits = |(first, total): (u64, Option<u64>)| {
                first == self.position && total.is_none_or(|total| total == self.size)
            };
            if !range.is_some_and(fits) {
                return Err(confused("answers another range than was asked for"));
            }
            if length.is_some_and(|length| length > self.end - self.position) {
                return Err(too_large);
            }
            let dragonfly = self.session.source(turn.source).kind == Kind::Dragonfly;
            // For its peers each range is a download of its own.
            let ranges = if dragonfly { Ranges::Whole } else { Ranges::Served };
            return Ok(Open { body, turn, skip: 0, ranges, gave: false });
        }
        if response.status() != StatusCode::OK {
            return Err(confused("answers a download with a status that makes no sense"));
        }
        match length {
            Some(length) if length > self.size => Err(too_large),
            Some(length) if length < self.size => {
                let (host, size) = (body.host(), self.size);
                Err(RegistryError::Short { host, got: length, size })
            }
            _ => Ok(Open { body, turn, skip: self.position, ranges: Ranges::Whole, gave: false }),
        }
    }

    /// The next bytes; `None` when the part is complete. Dropping the future loses no byte: all
    /// state changes without a wait after the bytes have come.
    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if self.position >= self.end {
                self.check_end().await?;
                return Ok(None);
            }
            self.open().await?;
            let Some(open) = self.open.as_mut() else { continue };
            let (turn, want) = (open.turn, Want::Blob(self.digest));
            let (source, strict) = (turn.source, turn.haste == Haste::Strict);
            let outcome = tokio::select! {
                // Cancel-safe: a body gives its bytes or keeps them.
                biased;
                outcome = open.body.next() => outcome,
                () = self.session.until_benched(source), if strict => {
                    Err(passed_over(self.session.source(source).key()))
                }
                error = self.session.until_gone(turn, &want), if strict => Err(error),
            };
            let error = match outcome {
                Ok(Some(mut bytes)) => {
                    self.session.heard(turn, &want);
                    let skipped = open.skip.min(bytes.len() as u64);
                    open.skip -= skipped;
                    bytes.advance(usize::try_from(skipped).unwrap_or(bytes.len()));
                    if bytes.is_empty() {
                        continue;
                    }
                    let left = self.end - self.position;
                    if bytes.len() as u64 > left {
                        if self.end == self.size {
                            let error = RegistryError::TooLarge { what: "blob", limit: self.size };
                            self.broke(error).await?;
                            continue;
                        }
                        // It was asked for a range and sends all.
                        bytes.truncate(usize::try_from(left).unwrap_or(bytes.len()));
                    }
                    let news = !std::mem::replace(&mut open.gave, true);
                    self.position += bytes.len() as u64;
                    if self.position >= self.end && self.end < self.size {
                        self.open = None;
                    }
                    if news {
                        self.session.gave(source, &self.digest);
                    }
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    let (host, got) = (open.body.host(), self.position);
                    RegistryError::Short { host, got, size: self.size }
                }
                Err(error) => error,
            };
            self.broke(error).await?;
        }
    }

    /// Nothing may come after the last byte.
    async fn check_end(&mut self) -> Result<(), RegistryError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        if open.body.length().is_some() {
            return Ok(());
        }
        match open.body.next().await {
            Ok(Some(bytes)) if !bytes.is_empty() && self.session.is_origin(open.turn.source) => {
                Err(RegistryError::TooLarge { what: "blob", limit: self.size })
            }
            // All bytes are there, and their digest will tell the rest.
            _ => Ok(()),
        }
    }

    /// Leaves the source, and waits when nothing came of it.
    async fn broke(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let source = open.turn.source;
        drop(open);
        let shown = pouch_types::error::chain(&error);
        let (digest, offset) = (&self.digest, self.position);
        tracing::debug!(%digest, offset, error = %shown, "blob broke off");
        let strict = !self.session.is_origin(source) && !self.session.is_benched(source);
        if !self.session.is_origin(source) {
            self.session.blame(source, &Want::Blob(self.digest), &error);
        }
        if strict {
            // It is benched now, so this ends.
            return Ok(());
        }
        if self.session.is_origin(source) && !error.is_transient() {
            return Err(error);
        }
        if self.position - self.mark >= PROGRESS {
            (self.failures, self.mark) = (0, self.position);
            return Ok(());
        }
        self.failures += 1;
        let transport = self.session.transport();
        if self.failures >= transport.config.attempts {
            return Err(error);
        }
        tokio::time::sleep(transport.back_off(self.failures)).await;
        Ok(())
    }
}

/// First byte and size of the whole in `bytes 5-9/10`.
fn parse_range(value: &HeaderValue) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-')?.0.trim().parse().ok()?;
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    Some((first, total))
}

/// A range that is fetched ahead.
#[derive(Debug)]
struct Ahead {
    chunks: mpsc::Receiver<Result<Bytes, RegistryError>>,
    /// Offset after the range.
    end: u64,
    _task: AbortOnDropHandle<()>,
}

/// A blob on its way; see [`crate::Repository::blob`]. Dropping it stops everything.
#[derive(Debug)]
pub struct BlobStream {
    /// The range at the position, or all of the rest.
    reader: Reader,
    /// The ranges after it, in order.
    ahead: VecDeque<Ahead>,
    /// Whose bytes come now, when it is not the reader's turn any more.
    current: Option<Ahead>,
    start: u64,
    position: u64,
    /// Offset from which nobody fetches yet.
    planned: u64,
    size: u64,
}

impl BlobStream {
    pub(crate) async fn open(
        session: Arc<Session>,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<Self, RegistryError> {
        let size = descriptor.size;
        let start = offset.min(size);
        let config = &session.transport().config;
        // A peer that has had a range of a blob is taken for one that has the blob.
        let by_peers = session.is_first_asked(Kind::Dragonfly, &Want::Blob(descriptor.digest));
        let in_parts =
            config.parallel_ranges > 1 && size - start > config.parallel_above && !by_peers;
        let end = if in_parts { (start + config.part(size)).min(size) } else { size };
        let mut reader = Reader::new(session, descriptor.digest, size, start, end);
        reader.open().await?;
        let ranges = reader.open.as_ref().map_or(Ranges::Whole, |open| open.ranges);
        if ranges == Ranges::Whole && end < size {
            // What comes is all of it, or may as well be asked for as a whole.
            reader.end = size;
            let partial = reader
                .open
                .as_ref()
                .is_some_and(|open| open.body.response().status() == StatusCode::PARTIAL_CONTENT);
            if partial {
                reader.open = None;
                reader.open().await?;
            }
        }
        let planned = reader.end;
        let (ahead, current) = (VecDeque::new(), None);
        Ok(Self { reader, ahead, current, start, position: start, planned, size })
    }

    /// Offset of the first byte that comes: the one that was asked for.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The next bytes; `None` after the last, so after exactly `size - start` bytes. Dropping the
    /// future loses no byte.
    ///
    /// # Errors
    /// [`RegistryError`], after all sources and all attempts; the rest may be asked for again by
    /// another [`crate::Repository::blob`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.plan();
        if self.position < self.reader.end {
            if let Some(bytes) = self.reader.next().await? {
                self.position += bytes.len() as u64;
                return Ok(Some(bytes));
            }
            // Only the end of its part ends a reader.
            self.position = self.reader.end;
        }
        if self.position >= self.size {
            if self.planned == self.reader.end {
                self.reader.check_end().await?;
            }
            return Ok(None);
        }
        if self.current.as_ref().is_none_or(|range| self.position >= range.end) {
            self.current = self.ahead.pop_front();
            self.plan();
        }
        let received = match &mut self.current {
            Some(range) => range.chunks.recv().await,
            None => None,
        };
        // A task that ends early has said why; one that was killed with its runtime has not.
        let bytes = received.unwrap_or_else(|| {
            Err(RegistryError::Protocol {
                host: self.reader.session.reference.domain().to_owned(),
                why: "was left in the middle of a download".to_owned(),
            })
        })?;
        self.position += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// Sets ranges going, up to the allowed number with the one that is read.
    fn plan(&mut self) {
        let config = &self.reader.session.transport().config;
        let (part, at_once) = (config.part(self.size), config.parallel_ranges);
        while self.planned < self.size && self.ahead.len() + 1 < at_once {
            let end = (self.planned + part).min(self.size);
            let reader = Reader::new(
                Arc::clone(&self.reader.session),
                self.reader.digest,
                self.size,
                self.planned,
                end,
            );
            let (sender, chunks) = mpsc::channel(QUEUE);
            let task = AbortOnDropHandle::new(tokio::spawn(fetch(reader, sender)));
            self.ahead.push_back(Ahead { chunks, end, _task: task });
            self.planned = end;
        }
    }
}

/// Reads a range into its queue, until it is complete, fails, or nobody listens.
async fn fetch(mut reader: Reader, queue: mpsc::Sender<Result<Bytes, RegistryError>>) {
    loop {
        let chunk = match reader.next().await {
            Ok(Some(bytes)) => Ok(bytes),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let last = chunk.is_err();
        if queue.send(chunk).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        let range = |text: &'static str| parse_range(&HeaderValue::from_static(text));
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for bad in ["bytes */10", "5-9/10", "bytes -9/10", "bytes 5-9", "bytes 5-9/x", ""] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
