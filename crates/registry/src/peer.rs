//! Whether a Dragonfly peer that says nothing is at work or gone.
//!
//! Its proxy sends the first byte of a blob when it has the first piece, which is 4 MiB or more
//! and comes beside seven others (dfdaemon 1.5, `proxy_via_dfdaemon`). From a registry on a slow
//! line that takes far longer than a mirror is waited for, and there a peer is worth most. So a
//! silent one is asked something that it refuses by itself, without the registry or other peers:
//! while it does, it is waited for like the registry.

use std::pin::pin;
use std::time::Duration;

use reqwest::header::{HeaderName, HeaderValue};
use tokio::time::{sleep, timeout};

use crate::error::RegistryError;
use crate::rounds::{Turn, Want};
use crate::session::Session;
use crate::source::{Kind, tell_dragonfly};
use crate::transport::Request;

/// Of Dragonfly's proxy: bytes of a piece. One is less than it takes: the answer is 400 at once.
const PIECE_LENGTH: HeaderName = HeaderName::from_static("x-dragonfly-piece-length");

/// Between an answer and the next question.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);

impl Session {
    /// Whether this is about a blob by Dragonfly, whose bytes come when they come.
    pub(crate) fn is_slow_starter(&self, turn: Turn, want: &Want) -> bool {
        self.source(turn.source).kind == Kind::Dragonfly && matches!(want, Want::Blob(_))
    }

    /// Remembers that bytes came, if they did from a Dragonfly peer.
    pub(crate) fn heard(&self, turn: Turn, want: &Want) {
        if self.is_slow_starter(turn, want) {
            self.inner().bench.hear();
        }
    }

    /// Waits until a Dragonfly peer does not live any more; it is asked from time to time. Never
    /// ends for other sources. To be awaited beside the peer's next bytes: who gets these in time
    /// drops it before it has asked anything.
    pub(crate) async fn until_gone(&self, turn: Turn, want: &Want) -> RegistryError {
        if !self.is_slow_starter(turn, want) {
            return std::future::pending().await;
        }
        // Together what a mirror that hangs may cost, and most of it for the answer: where a peer is
        // left for being busy, its share of the registry's line is taken from everybody.
        let patience = self.transport().strict().window;
        let silence = patience / 6;
        loop {
            sleep(silence).await;
            let mut knock = pin!(self.knock(turn, want));
            let mut left = patience - silence;
            while !left.is_zero() {
                match timeout(left, knock.as_mut()).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => return error,
                    // It may be too busy with another stream's bytes.
                    Err(_) => left = patience.saturating_sub(self.inner().bench.silence()),
                }
            }
            if left.is_zero() {
                let host = self.source(turn.source).key();
                return RegistryError::Idle { host, after: patience };
            }
            sleep(KNOCK_AGAIN).await;
        }
    }

    /// Any answer will do.
    async fn knock(&self, turn: Turn, want: &Want) -> Result<(), RegistryError> {
        let proxy = self.source(turn.source).endpoint(self.inner()).await?;
        let mut request = Request::get(proxy.base.clone());
        if let Some((origin, _)) = self.sources().last() {
            let registry = origin.endpoint(self.inner()).await?;
            request.url.set_path(registry.base.path());
            tell_dragonfly(&mut request.headers, &registry.base, *want);
        }
        request.headers.insert(PIECE_LENGTH, HeaderValue::from_static("1"));
        self.transport().follow(&proxy.tls, request).await.map(drop)
    }
}
