//! The way to the client on one stream, whatever carries it.

use bytes::Bytes;

use crate::pipe::Gone;
use crate::{spdy, websocket};

/// One of the transports' outlets.
#[derive(Debug)]
pub(crate) enum Outlet {
    Spdy(spdy::Outlet),
    WebSocket(websocket::Outlet),
}

impl Outlet {
    /// Sends all of `bytes` as the client takes them.
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Self::Spdy(outlet) => outlet.send(bytes).await,
            Self::WebSocket(outlet) => outlet.send(bytes).await,
        }
    }

    /// Nothing more comes. A WebSocket's channels have no end of their own towards the client.
    pub(crate) async fn finish(self) -> Result<(), Gone> {
        match self {
            Self::Spdy(outlet) => outlet.finish().await,
            Self::WebSocket(_) => Ok(()),
        }
    }
}
