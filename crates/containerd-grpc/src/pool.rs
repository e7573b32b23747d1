//! Connections to containerd's socket.
//!
//! A fixed number of HTTP/2 connections. A call goes to the one with the fewest calls under way and
//! holds it no longer than until its answer, so nothing is used up by how long a container lives. A
//! connection that broke is replaced by the call that finds it broken. The pool never waits for a
//! server to come back: whoever can wait knows how long. Deadlines are their callers' too; the
//! pool limits only the time to connect.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pouch_types::{Classified, ErrorKind};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use crate::containers::containers_client::ContainersClient;
use crate::content::content_client::ContentClient;
use crate::diff::diff_client::DiffClient;
use crate::events::events_client::EventsClient;
use crate::images::images_client::ImagesClient;
use crate::introspection::introspection_client::IntrospectionClient;
use crate::leases::leases_client::LeasesClient;
use crate::snapshots::snapshots_client::SnapshotsClient;
use crate::tasks::tasks_client::TasksClient;
use crate::version::version_client::VersionClient;

/// The header that names the namespace of a call.
const NAMESPACE: &str = "containerd-namespace";
/// Time to connect and to begin HTTP/2: both need nothing from the server but its socket.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of one message in either direction; containerd takes as much by default.
const MESSAGE_MAX: usize = 16 << 20;
/// Bytes in flight per answer. Specifications are tens of kilobytes.
const WINDOW: u32 = 1 << 20;

/// How to reach containerd.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Its socket.
    pub socket: PathBuf,
    /// The namespace of every call.
    pub namespace: String,
    /// Connections at most.
    pub connections: NonZeroUsize,
}

/// The pool as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// Connections at most.
    pub connections: usize,
    /// Of which are open.
    pub open: usize,
    /// Calls that wait for their answer.
    pub in_flight: usize,
}

/// A namespace that cannot be a header's value, nor a namespace.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a namespace of containerd")]
pub struct InvalidNamespace(String);

impl Classified for InvalidNamespace {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// Why a call got no answer from the server.
#[derive(Debug, thiserror::Error)]
enum Unreachable {
    #[error("cannot connect to {socket}: {source}")]
    Connect { socket: PathBuf, source: io::Error },
    #[error("connecting to {socket} takes more than {} s", CONNECT.as_secs())]
    Slow { socket: PathBuf },
    #[error("{socket} does not speak HTTP/2: {}", pouch_types::error::chain(source))]
    Handshake { socket: PathBuf, source: hyper::Error },
    #[error("the connection to {socket} broke: {}", pouch_types::error::chain(source))]
    Broken { socket: PathBuf, source: hyper::Error },
}

impl From<Unreachable> for Status {
    fn from(error: Unreachable) -> Self {
        let mut status = match &error {
            Unreachable::Connect { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Self::permission_denied(error.to_string())
            }
            _ => Self::unavailable(error.to_string()),
        };
        status.set_source(Arc::new(error));
        status
    }
}

/// Whether a call failed on its way rather than at the server, which may have done it or not.
#[must_use]
pub fn is_unreachable(status: &Status) -> bool {
    // What the server itself says comes as a code and a text alone.
    status.source().is_some()
}

/// The connections. Clones share them.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    namespace: HeaderValue,
    slots: Box<[Slot]>,
}

#[derive(Debug, Default)]
struct Slot {
    connection: Mutex<Option<SendRequest<Body>>>,
    in_flight: AtomicUsize,
}

/// Counts a call as long as it lives.
struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool without a connection yet.
    ///
    /// # Errors
    /// When the namespace is none: letters, digits and single `.`, `_`, `-` between them.
    pub fn new(config: PoolConfig) -> Result<Self, InvalidNamespace> {
        let words = config.namespace.split(['.', '_', '-']);
        let mut valid = config.namespace.len() <= 76;
        words.for_each(|w| valid &= !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric()));
        let namespace = match HeaderValue::from_str(&config.namespace) {
            Ok(namespace) if valid => namespace,
            _ => return Err(InvalidNamespace(config.namespace)),
        };
        let slots = (0..config.connections.get()).map(|_| Slot::default()).collect();
        Ok(Self { shared: Arc::new(Shared { socket: config.socket, namespace, slots }) })
    }

    /// Opens the connections that are not open, so that no call has to.
    ///
    /// # Errors
    /// A status as calls give it when there is no server.
    pub async fn connect(&self) -> Result<(), Status> {
        for slot in &self.shared.slots {
            self.shared.connection(slot).await?;
        }
        Ok(())
    }

    /// How many connections are open and calls under way. Does not wait.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let slots = &self.shared.slots;
        // One that is being made is locked, and not open yet.
        let open = |slot: &Slot| {
            let connection = slot.connection.try_lock().ok();
            connection.is_some_and(|c| c.as_ref().is_some_and(|c| !c.is_closed()))
        };
        PoolStatus {
            connections: slots.len(),
            open: slots.iter().filter(|slot| open(slot)).count(),
            in_flight: slots.iter().map(|slot| slot.in_flight.load(Ordering::Relaxed)).sum(),
        }
    }

    /// The containers service.
    #[must_use]
    pub fn containers(&self) -> ContainersClient<Self> {
        ContainersClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The tasks service.
    #[must_use]
    pub fn tasks(&self) -> TasksClient<Self> {
        TasksClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The events service.
    #[must_use]
    pub fn events(&self) -> EventsClient<Self> {
        EventsClient::with_origin(self.clone(), origin()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// The content service.
    #[must_use]
    pub fn content(&self) -> ContentClient<Self> {
        ContentClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The diff service.
    #[must_use]
    pub fn diff(&self) -> DiffClient<Self> {
        DiffClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The images service.
    #[must_use]
    pub fn images(&self) -> ImagesClient<Self> {
        ImagesClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The introspection service.
    #[must_use]
    pub fn introspection(&self) -> IntrospectionClient<Self> {
        IntrospectionClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The leases service.
    #[must_use]
    pub fn leases(&self) -> LeasesClient<Self> {
        LeasesClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The snapshots service.
    #[must_use]
    pub fn snapshots(&self) -> SnapshotsClient<Self> {
        SnapshotsClient::with_origin(self.clone(), origin())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    }

    /// The version service.
    #[must_use]
    pub fn version(&self) -> VersionClient<Self> {
        VersionClient::with_origin(self.clone(), origin()).max_decoding_message_size(MESSAGE_MAX)
    }
}

/// gRPC wants a host name; a unix socket has none.
fn origin() -> Uri {
    Uri::from_static("http://localhost")
}

impl Shared {
    /// The least loaded connection, and the call counted on it.
    fn pick(&self) -> (&Slot, InFlight<'_>) {
        let mut best = &self.slots[0];
        for slot in &self.slots[1..] {
            if slot.in_flight.load(Ordering::Relaxed) < best.in_flight.load(Ordering::Relaxed) {
                best = slot;
            }
        }
        best.in_flight.fetch_add(1, Ordering::Relaxed);
        (best, InFlight(&best.in_flight))
    }

    async fn send(
        &self,
        mut request: http::Request<Body>,
    ) -> Result<http::Response<Incoming>, Status> {
        request.headers_mut().insert(NAMESPACE, self.namespace.clone());
        let (slot, _in_flight) = self.pick();
        let broken = |source| Unreachable::Broken { socket: self.socket.clone(), source };
        let mut connection = self.connection(slot).await?;
        let mut error = match connection.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        // What was not sent because the connection had just ended is sent over a new one.
        match error.take_message() {
            Some(request) => {
                tracing::debug!("replacing a connection to containerd that has ended");
                let mut connection = self.replace(slot).await?;
                Ok(connection.send_request(request).await.map_err(broken)?)
            }
            None => Err(broken(error.into_error()).into()),
        }
    }

    async fn connection(&self, slot: &Slot) -> Result<SendRequest<Body>, Unreachable> {
        let mut connection = slot.connection.lock().await;
        match &*connection {
            Some(connection) if !connection.is_closed() => Ok(connection.clone()),
            _ => Ok(connection.insert(self.connect().await?).clone()),
        }
    }

    async fn replace(&self, slot: &Slot) -> Result<SendRequest<Body>, Unreachable> {
        let mut connection = slot.connection.lock().await;
        Ok(connection.insert(self.connect().await?).clone())
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Unreachable> {
        let socket = || self.socket.clone();
        let connect = async {
            let stream = UnixStream::connect(&self.socket)
                .await
                .map_err(|source| Unreachable::Connect { socket: socket(), source })?;
            let (sender, connection) = Builder::new(TokioExecutor::new())
                .initial_stream_window_size(WINDOW)
                .initial_connection_window_size(2 * WINDOW)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|source| Unreachable::Handshake { socket: socket(), source })?;
            Ok((sender, connection))
        };
        let (sender, connection) = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| Unreachable::Slow { socket: socket() })??;
        // Ends with the connection, which ends when the pool is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to containerd ended");
            }
        });
        Ok(sender)
    }
}

impl Service<http::Request<Body>> for Pool {
    type Response = http::Response<Incoming>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.send(request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(namespace: &str) -> Result<Pool, InvalidNamespace> {
        Pool::new(PoolConfig {
            socket: "/nonexistent/c.sock".into(),
            namespace: namespace.to_owned(),
            connections: NonZeroUsize::MIN,
        })
    }

    #[test]
    fn namespaces_are_checked() {
        for good in ["pouch", "k8s.io", "a-b_c.1"] {
            assert!(pool(good).is_ok(), "{good}");
        }
        for bad in ["", ".a", "a..b", "a/b", "a b", "a\n", "ü", &"a".repeat(77)] {
            assert!(pool(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_missing_socket_is_told_at_once() {
        let status = pool("pouch").unwrap().version().version(()).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert!(is_unreachable(&status));
        assert!(status.message().contains("cannot connect to /nonexistent/c.sock"), "{status}");
    }
}
