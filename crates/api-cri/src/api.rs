//! What the services share.

use std::net::SocketAddr;
use std::sync::Arc;

use pouch_engine::Engine;
use pouch_streaming::{BindError, Limits, Server};
use pouch_types::{Classified, ErrorKind};
use tokio_util::sync::CancellationToken;

use crate::record::Recorder;
use crate::stats::Sampler;

/// Settings of the CRI face.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients of Exec, Attach and PortForward are sent; port 0 takes a free one.
    pub streaming: SocketAddr,
    /// Where measurements of calls go.
    pub record: Option<Recorder>,
}

/// The CRI cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    /// The streaming server does not listen.
    #[error("the streaming server of the CRI")]
    Streaming(#[from] BindError),
}

impl Classified for CriError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Streaming(error) => error.kind(),
        }
    }
}

/// Both services; clones share one.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) streams: Arc<Server>,
    pub(crate) sampler: Arc<Sampler>,
    pub(crate) closing: CancellationToken,
}

impl Api {
    pub(crate) async fn open(
        engine: Engine,
        config: Config,
        closing: CancellationToken,
    ) -> Result<Self, CriError> {
        let streams = Server::bind(config.streaming, Limits::default()).await?;
        Ok(Self { engine, streams: Arc::new(streams), sampler: Arc::default(), closing })
    }

    /// Ends the sessions of streams, when no call holds the server any more.
    pub(crate) async fn close(self) {
        if let Some(streams) = Arc::into_inner(self.streams) {
            streams.close().await;
        }
    }
}
