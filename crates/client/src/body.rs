//! Bodies of requests and replies.
//!
//! A reply owns its connection until its last byte has been read; then, and only then, the
//! connection goes back to the pool. A reply that is dropped half-read closes its connection,
//! which is how a caller cancels a stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::error::ClientError;
use crate::pool::Lease;

/// Bytes that a streamed request reads from its source at once.
const UPLOAD_CHUNK: usize = 64 * 1024;

/// What a request carries.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

pub(crate) fn empty() -> RequestBody {
    full(Bytes::new())
}

pub(crate) fn full(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn json<T: Serialize>(what: &str, value: &T) -> Result<RequestBody, ClientError> {
    let text = serde_json::to_vec(value)
        .map_err(|source| ClientError::Decode { what: what.to_owned(), source })?;
    Ok(full(text.into()))
}

/// A body read from `source` as the connection takes it, chunked.
pub(crate) fn stream<R: AsyncRead + Send + 'static>(source: R) -> RequestBody {
    let frames = ReaderStream::with_capacity(source, UPLOAD_CHUNK).map_ok(Frame::data);
    StreamBody::new(frames).boxed_unsync()
}

/// The body of a reply, as a stream of chunks.
pub struct ReplyBody {
    incoming: Incoming,
    lease: Option<Lease>,
    what: String,
}

impl ReplyBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease, what: String) -> Self {
        let mut body = Self { incoming, lease: Some(lease), what };
        if body.incoming.is_end_stream() {
            body.release();
        }
        body
    }

    /// Method and path of the request, for messages.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    /// All of the body.
    ///
    /// # Errors
    /// [`ClientError::TooLarge`] beyond `limit` bytes; [`ClientError::Transport`].
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, ClientError> {
        let mut all = bytes::BytesMut::new();
        while let Some(chunk) = self.try_next().await? {
            if all.len() + chunk.len() > limit {
                return Err(ClientError::TooLarge { what: self.what, limit });
            }
            all.extend_from_slice(&chunk);
        }
        Ok(all.freeze())
    }

    /// The body as a reader.
    #[must_use]
    pub fn into_reader(self) -> StreamReader<ReplyBytes, Bytes> {
        StreamReader::new(ReplyBytes(self))
    }
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyBody").field("what", &self.what).finish_non_exhaustive()
    }
}

impl Stream for ReplyBody {
    type Item = Result<Bytes, ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    // Trailers carry nothing in this API.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(source)) => {
                    self.lease = None;
                    let what = self.what.clone();
                    return Poll::Ready(Some(Err(ClientError::Transport { what, source })));
                }
                None => {
                    self.release();
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// [`ReplyBody`] with the errors of `std::io`.
#[derive(Debug)]
pub struct ReplyBytes(ReplyBody);

impl Stream for ReplyBytes {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx).map_err(io::Error::other)
    }
}
