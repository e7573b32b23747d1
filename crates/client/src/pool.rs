//! Keep-alive connections of HTTP/1.1.
//!
//! A connection carries one exchange at a time, so the pool is a stack of idle ones: the most
//! recently used first, since it is the least likely to have been closed by the peer.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

use crate::body::RequestBody;
use crate::dial::Dialer;
use crate::error::ClientError;

/// Idle connections kept; more are closed when their exchange ends.
const IDLE_LIMIT: usize = 8;

type Sender = SendRequest<RequestBody>;

/// The connections to one daemon.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Dialer,
    idle: Mutex<Vec<Sender>>,
}

/// A connection in use. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Lease {
    sender: Sender,
    pool: Arc<Pool>,
}

impl Lease {
    /// Returns the connection after its reply has been read to the end.
    pub(crate) fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT {
            idle.push(self.sender);
        }
    }
}

impl Pool {
    pub(crate) const fn new(dialer: Dialer) -> Self {
        Self { dialer, idle: Mutex::new(Vec::new()) }
    }

    pub(crate) const fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        let stream = self.dialer.dial().await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ClientError::Transport { what: "connecting".to_owned(), source })?;
        tokio::spawn(async move {
            // The exchange that the failure concerns reports it; here it is only of interest to
            // somebody who traces connections.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to the daemon ended");
            }
        });
        Ok(sender)
    }

    /// Sends `request` and waits for the head of the reply.
    ///
    /// A kept connection may have been closed by the peer meanwhile. When hyper hands the request
    /// back unsent, a new connection takes it; a request of which a byte was written is never
    /// repeated.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        what: &str,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Lease), ClientError> {
        let lost = |source| ClientError::Transport { what: what.to_owned(), source };
        let mut request = request;
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, self.lease(sender))),
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(lost(refused.into_error())),
                },
            }
        }
        let mut sender = self.connect().await?;
        let response =
            sender.send_request(request).await.map_err(|source| self.first_use(what, source))?;
        Ok((response, self.lease(sender)))
    }

    fn lease(self: &Arc<Self>, sender: Sender) -> Lease {
        Lease { sender, pool: Arc::clone(self) }
    }

    /// A fresh connection that dies before the first reply is most often not a daemon at all, or
    /// an ssh that could not log in; the innermost cause says which.
    fn first_use(&self, what: &str, source: hyper::Error) -> ClientError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            std::error::Error::source(&source);
        while let Some(inner) = cause {
            if let Some(io) = inner.downcast_ref::<std::io::Error>()
                && io.kind() == std::io::ErrorKind::ConnectionAborted
            {
                return ClientError::Connect {
                    endpoint: self.dialer.endpoint.to_string(),
                    hint: io.to_string(),
                    source: std::io::Error::other(source),
                };
            }
            cause = inner.source();
        }
        ClientError::Transport { what: what.to_owned(), source }
    }
}
