//! Streams of JSON objects, one per line: progress, events, stats.

use std::marker::PhantomData;

use bytes::{Buf as _, BytesMut};
use futures::TryStreamExt as _;
use serde::de::DeserializeOwned;

use crate::body::ReplyBody;
use crate::error::ClientError;

/// One object may not be larger: stats of a machine with hundreds of CPUs are some ten KiB.
const LINE_LIMIT: usize = 4 << 20;

/// Objects of a reply, decoded as they arrive.
#[derive(Debug)]
pub struct Ndjson<T> {
    body: ReplyBody,
    buffer: BytesMut,
    /// Bytes of `buffer` that are known to hold no line end.
    scanned: usize,
    ended: bool,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Ndjson<T> {
    pub(crate) fn new(body: ReplyBody) -> Self {
        Self { body, buffer: BytesMut::new(), scanned: 0, ended: false, kind: PhantomData }
    }

    /// The next object, `None` at the end. Cancel-safe.
    ///
    /// # Errors
    /// A broken connection, a line that is not `T`, or one beyond 4 MiB.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        while let Some(line) = self.next_line().await? {
            let text = line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            return serde_json::from_slice(text).map(Some).map_err(|source| ClientError::Decode {
                what: self.body.what().to_owned(),
                source,
            });
        }
        Ok(None)
    }

    /// The next line as received, without its end.
    ///
    /// # Errors
    /// As [`Ndjson::next`].
    pub async fn next_line(&mut self) -> Result<Option<BytesMut>, ClientError> {
        loop {
            if let Some(at) = self.buffer[self.scanned..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.scanned + at);
                self.buffer.advance(1);
                self.scanned = 0;
                return Ok(Some(line));
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > LINE_LIMIT {
                let what = self.body.what().to_owned();
                return Err(ClientError::TooLarge { what, limit: LINE_LIMIT });
            }
            if self.ended {
                self.scanned = 0;
                return Ok((!self.buffer.is_empty()).then(|| self.buffer.split()));
            }
            match self.body.try_next().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.ended = true,
            }
        }
    }
}
