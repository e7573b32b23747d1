//! Streams of JSON objects. The header goes out at once, each object in a piece of its own.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::header;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::http::JSON;

/// What stands after each object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Newline: events, stats.
    Line,
    /// CRLF: progress.
    CarriageReturn,
}

/// One object and its ending. What cannot be encoded becomes nothing: it is a defect of a type
/// here, and a broken line would break the client's decoder.
pub(crate) fn line<T: Serialize>(value: &T, ending: Ending) -> Bytes {
    let Ok(mut text) = serde_json::to_vec(value) else { return Bytes::new() };
    text.extend_from_slice(match ending {
        Ending::Line => b"\n",
        Ending::CarriageReturn => b"\r\n",
    });
    Bytes::from(text)
}

/// A `200` reply of objects as they come; ends with the stream or when the server closes.
pub(crate) fn respond<T, S>(objects: S, ending: Ending, closing: CancellationToken) -> Response
where
    T: Serialize,
    S: Stream<Item = T> + Send + 'static,
{
    let lines = objects
        .map(move |object| Ok::<_, std::convert::Infallible>(line(&object, ending)))
        .take_until(closing.cancelled_owned());
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_object_is_a_piece_and_closing_ends_it() {
        let closing = CancellationToken::new();
        let objects = futures::stream::iter([1, 2]).chain(futures::stream::pending());
        let response = respond(objects, Ending::CarriageReturn, closing.clone());
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "1\r\n");
        assert_eq!(body.next().await.unwrap().unwrap(), "2\r\n");
        closing.cancel();
        assert!(body.next().await.is_none());
    }
}
