//! WebSockets (RFC 6455): the handshake here, the two uses of a connection below.

mod channels;
mod tunnel;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, header};
use ring::digest;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

pub(crate) use channels::{Channel, Codec, Direction, Outlet, connect};
pub(crate) use tunnel::tunnel;

use crate::wire::{End, Wire};

/// Appended to a client's key (RFC 6455, section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The protocol's one version.
const VERSION: &str = "13";
/// Bytes of a message: kubectl sends 32 KiB, browsers what they are given at once.
const MESSAGE: usize = 4 << 20;
/// Bytes that may wait within the library; we hand it one message at a time.
const WRITE_BUFFER: usize = 256 * 1024;

/// Why a client's request is no WebSocket handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("WebSocket version 13 is required")]
    Version,
    #[error("Sec-WebSocket-Key is missing or not 16 bytes in base64")]
    Key,
}

/// The value of `Sec-WebSocket-Accept` for a request.
pub(crate) fn accept(headers: &HeaderMap) -> Result<HeaderValue, HandshakeError> {
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(HandshakeError::Version);
    }
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16))
        .ok_or(HandshakeError::Key)?;
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes());
    HeaderValue::from_str(&STANDARD.encode(hash)).map_err(|_| HandshakeError::Key)
}

async fn socket(wire: Wire) -> WebSocketStream<Wire> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
        .max_write_buffer_size(MESSAGE + WRITE_BUFFER)
        .write_buffer_size(WRITE_BUFFER);
    WebSocketStream::from_raw_socket(wire, Role::Server, Some(config)).await
}

/// Go clients take any other code, or none, for a failure.
fn goodbye(code: CloseCode) -> Message {
    Message::Close(Some(CloseFrame { code, reason: "".into() }))
}

/// What a failure of the library means.
fn end(error: Error) -> End {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => End::Client,
        Error::Io(error) => End::Io(error),
        // Closing without a handshake is how most clients leave.
        Error::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => End::Client,
        other => End::Protocol(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        let mut headers = HeaderMap::new();
        assert_eq!(accept(&headers), Err(HandshakeError::Version));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        assert_eq!(accept(&headers), Err(HandshakeError::Key));
        headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::from_static("c2hvcnQ="));
        assert_eq!(accept(&headers), Err(HandshakeError::Key));
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
        assert_eq!(accept(&headers).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
