//! A body on its way, with an eye on its pace.
//!
//! Only the time in which we wait for bytes counts, so a receiver that is busy elsewhere never
//! makes a good source look slow. A source must fill each window of waiting with some minimum of
//! bytes: silence ends it as well as a drip does.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use reqwest::{Method, Response};
use tokio::time::timeout;

use crate::error::RegistryError;
use crate::transport::{broken, host};

/// For a document as a whole, however it trickles.
const DOCUMENT_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes that a registry must send in each window: enough to tell a slow line from a dead one.
const REGISTRY_BYTES: u64 = 1 << 10;

/// How long somebody is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Time of waiting in which `bytes` must come.
    pub(crate) window: Duration,
    pub(crate) bytes: u64,
}

impl Pace {
    pub(crate) const fn registry(idle: Duration) -> Self {
        Self { window: idle, bytes: REGISTRY_BYTES }
    }

    /// `rate` is in bytes per second.
    pub(crate) fn mirror(patience: Duration, rate: u64) -> Self {
        let millis = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        Self { window: patience, bytes: (rate.saturating_mul(millis) / 1000).max(1) }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Body {
    response: Response,
    pace: Pace,
    length: Option<u64>,
    /// Waited in this window.
    waited: Duration,
    /// Came in this window.
    got: u64,
    /// Read ahead by [`Body::prefetch`].
    first: Option<Option<Bytes>>,
}

impl Body {
    pub(crate) fn new(response: Response, pace: Pace) -> Self {
        let length = response.content_length();
        Self { response, pace, length, waited: Duration::ZERO, got: 0, first: None }
    }

    /// The announced length of the whole body.
    pub(crate) const fn length(&self) -> Option<u64> {
        self.length
    }

    pub(crate) const fn response(&self) -> &Response {
        &self.response
    }

    pub(crate) fn host(&self) -> String {
        host(self.response.url())
    }

    /// Waits for the first bytes.
    pub(crate) async fn prefetch(&mut self) -> Result<(), RegistryError> {
        if self.first.is_none() {
            self.first = Some(self.next().await?);
        }
        Ok(())
    }

    /// The next bytes; `None` at the end. Dropping the future loses no byte.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let begun = Instant::now();
        let left = self.pace.window.saturating_sub(self.waited);
        let outcome = timeout(left, self.response.chunk()).await;
        self.waited += begun.elapsed();
        match outcome {
            Ok(Ok(Some(bytes))) => {
                self.got += bytes.len() as u64;
                if self.got >= self.pace.bytes {
                    (self.waited, self.got) = (Duration::ZERO, 0);
                }
                Ok(Some(bytes))
            }
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(broken(&Method::GET, self.response.url(), error)),
            Err(_) => {
                let (host, after) = (self.host(), self.pace.window);
                Err(match self.got {
                    0 => RegistryError::Idle { host, after },
                    bytes => RegistryError::Slow { host, bytes, after },
                })
            }
        }
    }

    /// The whole of a body of at most `limit` bytes.
    pub(crate) async fn collect(
        mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        let too_large = || RegistryError::TooLarge { what, limit };
        if self.length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let host = self.host();
        let read = async {
            let mut body = BytesMut::new();
            while let Some(chunk) = self.next().await? {
                if (body.len() + chunk.len()) as u64 > limit {
                    return Err(too_large());
                }
                body.extend_from_slice(&chunk);
            }
            Ok(body.freeze())
        };
        timeout(DOCUMENT_DEADLINE, read)
            .await
            .map_err(|_| RegistryError::Idle { host, after: DOCUMENT_DEADLINE })?
    }
}
